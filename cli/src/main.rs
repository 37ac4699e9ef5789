//! The command `compress`.
fn main() {}
