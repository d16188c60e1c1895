//! The operator: everything that turns a wanted cluster into a running one.
//!
//! `crd` is what users write, `engine` the loop that observes, plans and executes, `provider` the places where nodes
//! can run, `cli` the subcommands that put these together.

pub mod cli;
pub mod crd;
pub mod engine;
pub mod force;
pub mod provider;
pub mod wish;
