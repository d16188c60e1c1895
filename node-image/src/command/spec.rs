//! The form of the command table.

use bitflags::bitflags;

use super::{Args, CommandError, CommandResult, Effects};
use crate::keyspace::Keyspace;
use crate::resp::Reply;
use crate::server::{ClientKey, Server};

bitflags! {
    /// What kind of command it is; names and meanings as in `COMMAND INFO`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// Changes data.
        const WRITE = 1;
        /// Reads data.
        const READONLY = 1 << 1;
        /// Refused when maxmemory is reached.
        const DENYOOM = 1 << 2;
        /// For administrators.
        const ADMIN = 1 << 3;
        /// Constant or logarithmic time.
        const FAST = 1 << 4;
        /// Allowed while data are being loaded.
        const LOADING = 1 << 5;
        /// Allowed on a replica that lost its master and may not serve stale data.
        const STALE = 1 << 6;
        /// Allowed before AUTH.
        const NO_AUTH = 1 << 7;
        /// The positions of its keys depend on its arguments.
        const MOVABLE_KEYS = 1 << 8;
        /// Refused inside a transaction.
        const NO_MULTI = 1 << 9;
        /// Publishes or subscribes; its keys, if any, are channels.
        const PUBSUB = 1 << 10;
        /// Adds to the replication stream though it changes no data.
        const MAY_REPLICATE = 1 << 11;
        /// Allowed to a subscriber that speaks RESP2.
        const WHILE_SUBSCRIBED = 1 << 12;
    }
}

/// Which arguments are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// None.
    None,
    /// `first`, every `step`-th after it, up to `last` (negative: counted from the end, -1 is the last argument).
    Range {
        /// Index of the first key.
        first: usize,
        /// Index of the last key.
        last: i32,
        /// Distance between keys.
        step: usize,
    },
    /// The argument at `count_at` is the number of keys that follow it; `also` names one more key (a destination).
    Numbered {
        /// Index of the count.
        count_at: usize,
        /// Index of a key before the count.
        also: Option<usize>,
    },
}

impl KeySpec {
    /// One key, the first argument.
    pub const FIRST: Self = Self::Range { first: 1, last: 1, step: 1 };
    /// All arguments are keys.
    pub const ALL: Self = Self::Range { first: 1, last: -1, step: 1 };
    /// Indices of the arguments that are keys. Arguments that make no sense name none: the command says what is wrong.
    #[must_use]
    pub fn positions(&self, args: Args<'_>) -> Vec<usize> {
        match *self {
            Self::None => Vec::new(),
            Self::Range { first, last, step } => {
                let last = match usize::try_from(last) {
                    Ok(last) => last,
                    Err(_) => args.len().saturating_sub(last.unsigned_abs() as usize),
                };
                (first..=last.min(args.len().saturating_sub(1))).step_by(step.max(1)).collect()
            }
            Self::Numbered { count_at, also } => {
                let count =
                    args.integer(count_at).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
                let numbered = (count_at + 1..args.len()).take(count);
                also.into_iter().chain(numbered).collect()
            }
        }
    }

    /// Two keys, the first two arguments.
    pub const TWO: Self = Self::Range { first: 1, last: 2, step: 1 };
}

/// Group of a command, as in `COMMAND DOCS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Keys of any type.
    Generic,
    /// Strings.
    String,
    /// Hashes.
    Hash,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets.
    SortedSet,
    /// Connections.
    Connection,
    /// The server.
    Server,
    /// The cluster.
    Cluster,
    /// Transactions.
    Transactions,
    /// Publish and subscribe.
    PubSub,
}

/// What a data command works on.
pub struct Ctx<'a> {
    /// The data.
    pub keyspace: &'a mut Keyspace,
    /// The selected database.
    pub db: usize,
    /// Unix time in milliseconds, the same for the whole command.
    pub now: u64,
    /// Where the reply goes.
    pub reply: Reply<'a>,
    /// What the command did.
    pub effects: &'a mut Effects,
    /// Randomness.
    pub random: &'a mut fastrand::Rng,
    /// Directives that commands look at.
    pub settings: &'a Settings,
}

/// Directives that data commands look at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `proto-max-bulk-len`: the longest string value, in bytes.
    pub max_bulk: usize,
    /// Whether the node is part of a cluster (`cluster-enabled`): then there is database 0 only.
    pub cluster_enabled: bool,
    /// `databases`.
    pub databases: usize,
}

/// Runs a command on data.
pub type DataHandler = fn(&mut Ctx<'_>, Args<'_>) -> CommandResult;

/// Runs a command on the server or on a connection. It writes its reply by [`Server::reply`].
pub type ServerHandler = fn(&mut Server, ClientKey, Args<'_>) -> CommandResult;

/// How a command is run.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// On data.
    Data(DataHandler),
    /// On the server.
    Server(ServerHandler),
}

/// A row of the command table.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// Its name in lower case.
    pub name: &'static str,
    /// Number of arguments, the name included; negative: at least that many.
    pub arity: i32,
    /// What kind of command it is.
    pub flags: Flags,
    /// Which arguments are keys.
    pub keys: KeySpec,
    /// Its group.
    pub group: Group,
    /// Version of Redis that had it first.
    pub since: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// What runs it.
    pub handler: Handler,
}

impl CommandSpec {
    /// The same command with these keys.
    pub(super) const fn with_keys(self, keys: KeySpec) -> Self {
        Self { keys, ..self }
    }

    /// Refuses a number of arguments, the name included, that does not fit.
    ///
    /// # Errors
    /// `ERR wrong number of arguments`
    pub fn check_arity(&self, count: usize) -> CommandResult {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        if count != self.arity && (self.arity > 0 || count < -self.arity) {
            return Err(CommandError::Arity(self.name.to_owned()));
        }
        Ok(())
    }
}

/// A command on the server that has no keys.
pub(crate) const fn row(
    group: Group,
    name: &'static str,
    arity: i32,
    flags: Flags,
    since: &'static str,
    summary: &'static str,
    handler: ServerHandler,
) -> CommandSpec {
    let handler = Handler::Server(handler);
    CommandSpec { name, arity, flags, keys: KeySpec::None, group, since, summary, handler }
}
