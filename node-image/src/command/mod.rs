//! Commands. One table describes every command (name, arity, flags, key positions, handler); dispatch, ACL, routing,
//! COMMAND and the docs all read it. Each module holds a group of commands and its part of the table.

mod args;
mod effects;
mod error;
mod spec;

pub use args::Args;
pub use effects::Effects;
pub use error::CommandError;
pub use spec::{CommandSpec, Ctx, DataHandler, Flags, Group, Handler, KeySpec, Settings};

/// What a command comes to: its reply was written, or this error is the reply.
pub type CommandResult = Result<(), CommandError>;
