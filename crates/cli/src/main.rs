//! The command `xip`.
fn main() {}
