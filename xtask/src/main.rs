//! Set-up, test, lint, bench.
fn main() {}
