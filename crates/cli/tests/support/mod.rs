//! What the tests on real input share: trees as something that can be compared, and the kernel's own mount.

pub mod mount;
pub mod tree;
