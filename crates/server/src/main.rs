//! The eaves binary.
fn main() {}
