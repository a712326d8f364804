//! The second extended file system, in place: no_std, no allocator, no unsafe code.
