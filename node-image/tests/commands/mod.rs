//! Random commands, the command table on a keyspace of its own, and what both leave behind: for the comparison with
//! Redis and for fuzzing.
#![allow(dead_code, missing_docs, reason = "each user takes a part of it")]

pub mod content;
pub mod generate;
pub mod node;
pub mod reply;
