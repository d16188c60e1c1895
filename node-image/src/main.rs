//! The `kv-node` program.

fn main() {}
