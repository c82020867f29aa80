//! The `prune` binary.
fn main() {}
