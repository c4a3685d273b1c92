//! The `cluster-init` program.
fn main() {}
