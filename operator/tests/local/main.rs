//! `kv-operator local` with real nodes: what a user of it sees.

mod faults;
mod harness;
mod lifecycle;
