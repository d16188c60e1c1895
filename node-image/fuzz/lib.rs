//! What the fuzzers check. The ordinary tests of the node check the same, on other inputs.

#[path = "../tests/fuzz/checks/mod.rs"]
pub mod checks;
#[path = "../tests/commands/mod.rs"]
pub mod commands;
