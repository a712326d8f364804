//! Execute in place: a volume in memory, with the feel of std::fs.
