//! The operator: everything that turns a wanted cluster into a running one.

pub mod provider;
