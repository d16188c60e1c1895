//! Commands. One table describes every command (name, arity, flags, key positions, handler); dispatch, ACL, routing,
//! COMMAND and the docs all read it. Each module holds a group of commands and its part of the table.

pub(crate) mod admin;
mod args;
mod clients;
mod cluster;
mod connection;
mod control;
mod counters;
mod data;
mod decimal;
mod effects;
mod error;
mod expire;
pub(crate) mod glob;
mod hashes;
pub(crate) mod help;
mod info;
mod introspect;
mod keys;
mod lists;
mod pubsub;
mod replication;
mod sample;
mod scan;
mod sets;
mod spec;
mod strings;
pub mod table;
mod transactions;
mod zcombine;
mod zranges;
mod zsets;

pub use args::Args;
pub use effects::Effects;
pub use error::CommandError;
pub(crate) use spec::row;
pub use spec::{CommandSpec, Ctx, DataHandler, Flags, Group, Handler, KeySpec, Settings};

/// What a command comes to: its reply was written, or this error is the reply.
pub type CommandResult = Result<(), CommandError>;
