//! `kv-operator local` with real nodes: what a user of it sees.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may say what it expects"
)]

mod faults;
mod harness;
mod lifecycle;
mod policy;
