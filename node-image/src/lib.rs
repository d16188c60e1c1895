//! The KV node.
//!
//! One data thread owns the keyspace and runs an epoll loop: it reads all ready sockets, parses requests to slices,
//! executes them, and writes each connection once per tick. Slow work (fsync, loading, handshakes with a parent, HTTP)
//! happens on other threads, which talk to the loop by channels.

pub mod command;
pub mod config;
pub mod health;
pub mod keyspace;
pub mod log;
pub mod peers;
pub mod persist;
pub mod propose;
pub mod replication;
pub mod resp;
pub mod sentinel;
pub mod server;
pub mod source;
