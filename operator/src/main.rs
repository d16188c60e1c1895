//! The `kv-operator` program.

fn main() {}
