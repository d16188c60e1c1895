//! Transactions: what a client queued since MULTI, the keys that it watches, and the parent's transactions that have
//! not arrived as a whole yet.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::dispatch::{Verdict, out_of_memory};
use super::propagate::encode;
use super::pubsub::Subscriptions;
use super::{Client, ClientKey, Server};
use crate::command::{Args, CommandError, CommandResult, CommandSpec, Flags};
use crate::keyspace::{At, Ticket};
use crate::resp::Protocol;

/// What a queued argument takes besides its bytes.
const ARGUMENT_OVERHEAD: usize = 32;

/// What only some clients have. It is boxed, so that the others stay small.
#[derive(Debug, Default)]
pub struct Session {
    /// MULTI was given.
    pub transaction: Option<Transaction>,
    /// EXEC runs: nothing may block.
    pub executing: bool,
    /// Keys that it watches, with their databases.
    watched: BTreeMap<(usize, Box<[u8]>), Ticket>,
    watched_bytes: usize,
    /// What it has subscribed to.
    pub subscriptions: Subscriptions,
    /// Messages of its own that it gets after the reply that is being written.
    pub own_messages: Vec<u8>,
    /// The parent's transaction that is arriving.
    incoming: Option<Incoming>,
}

impl Session {
    /// Bytes that its names and arguments take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.transaction.as_ref().map_or(0, |open| open.bytes)
            + self.watched_bytes
            + self.subscriptions.bytes()
            + self.own_messages.capacity()
    }

    /// Number of keys that it watches.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watched.len()
    }

    fn is_empty(&self) -> bool {
        let quiet = self.subscriptions.is_empty() && self.own_messages.is_empty();
        let idle = self.transaction.is_none() && !self.executing && self.watched.is_empty();
        quiet && idle && self.incoming.is_none()
    }
}

/// The commands that a client queued since MULTI.
#[derive(Debug)]
pub struct Transaction {
    queued: Vec<Queued>,
    bytes: usize,
    /// A command could not be queued: EXEC refuses.
    aborted: bool,
    /// The flags that at least one of the commands has.
    any: Flags,
    /// The flags that all of the commands have.
    all: Flags,
}

#[derive(Debug)]
struct Queued {
    spec: &'static CommandSpec,
    args: Vec<Box<[u8]>>,
}

impl Queued {
    fn args(&self) -> Vec<&[u8]> {
        self.args.iter().map(AsRef::as_ref).collect()
    }
}

impl Transaction {
    fn new() -> Self {
        Self { queued: Vec::new(), bytes: 0, aborted: false, any: Flags::empty(), all: Flags::all() }
    }

    /// Number of queued commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Whether nothing is queued yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Bytes that the queued commands take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// It will not be executed: what is queued is not needed any more.
    fn abort(&mut self) {
        self.aborted = true;
        self.bytes = 0;
        self.queued = Vec::new();
    }

    /// Returns false if that would be more than `limit` bytes.
    fn push(&mut self, spec: &'static CommandSpec, args: Args<'_>, limit: usize) -> bool {
        let bytes = args.all().iter().map(|arg| arg.len() + ARGUMENT_OVERHEAD).sum::<usize>();
        if self.bytes.saturating_add(bytes) > limit {
            return false;
        }
        self.bytes += bytes;
        self.any |= spec.flags;
        self.all &= spec.flags;
        self.queued.push(Queued { spec, args: args.all().iter().map(|arg| (*arg).into()).collect() });
        true
    }
}

/// A transaction of the parent's stream, of which EXEC has not arrived yet.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    commands: Vec<Vec<Box<[u8]>>>,
}

impl Server {
    /// What is to happen with a command of a client that has a session. The command by itself could run.
    pub(super) fn check_session(&self, client: &Client, spec: &CommandSpec) -> Verdict {
        let Some(session) = &client.session else { return Verdict::Run };
        let Some(open) = &session.transaction else {
            let listens = client.protocol == Protocol::Resp2 && !session.subscriptions.is_empty();
            if listens && !spec.flags.contains(Flags::WHILE_SUBSCRIBED) {
                return Verdict::Refuse(CommandError::text(format!(
                    "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                    spec.name
                )));
            }
            return Verdict::Run;
        };
        if spec.flags.contains(Flags::NO_MULTI) {
            return Verdict::Refuse(CommandError::text("ERR Command not allowed inside a transaction"));
        }
        match spec.name {
            "exec" => self.check_exec(client, open),
            "discard" | "multi" | "watch" | "quit" | "reset" => Verdict::Run,
            _ if self.out_of_memory() => Verdict::Refuse(out_of_memory()),
            _ => Verdict::Queue,
        }
    }

    /// Whether all the queued commands may run now: the node's role may be another than when they were queued.
    fn check_exec(&self, client: &Client, open: &Transaction) -> Verdict {
        let commands: Vec<(&CommandSpec, Vec<&[u8]>)> =
            open.queued.iter().map(|queued| (queued.spec, queued.args())).collect();
        let commands = commands.iter().map(|(spec, args)| (*spec, Args::new(args)));
        match self.check_route(client, open.any, commands) {
            Verdict::Run => self.check_state(open.any, open.all),
            other => other,
        }
    }

    /// A command was not accepted: an open transaction is not going to be executed.
    pub(super) fn abort_transaction(&mut self, key: ClientKey) {
        if let Some(open) = self.open_transaction(key) {
            open.abort();
        }
    }

    /// EXEC was not accepted: ends the transaction. Returns what the client is told.
    pub(super) fn abort_exec(&mut self, key: ClientKey, error: &CommandError) -> CommandError {
        self.end_transaction(key);
        let error = error.to_string();
        let error = error.strip_prefix("ERR ").unwrap_or(&error);
        CommandError::text(format!("EXECABORT Transaction discarded because of: {error}"))
    }

    fn open_transaction(&mut self, key: ClientKey) -> Option<&mut Transaction> {
        self.clients.get_mut(key)?.session.as_mut()?.transaction.as_mut()
    }

    /// Queues a command for EXEC.
    pub(super) fn queue(&mut self, key: ClientKey, spec: &'static CommandSpec, args: Args<'_>) {
        let limit = self.tunables.query_buffer;
        let Some(open) = self.open_transaction(key) else { return };
        if open.aborted || open.push(spec, args, limit) {
            return self.reply(key).simple("QUEUED");
        }
        open.abort();
        self.reply(key).error("ERR the transaction is larger than client-query-buffer-limit");
    }

    /// `MULTI`
    pub(crate) fn multi(&mut self, key: ClientKey) -> CommandResult {
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let session = client.session.get_or_insert_default();
        if session.transaction.is_some() {
            return Err(CommandError::text("ERR MULTI calls can not be nested"));
        }
        session.transaction = Some(Transaction::new());
        self.reply(key).ok();
        Ok(())
    }

    /// `EXEC`
    pub(crate) fn exec(&mut self, key: ClientKey) -> CommandResult {
        let changed = self.watched_changed(key);
        let Some(open) = self.end_transaction(key) else {
            return Err(CommandError::text("ERR EXEC without MULTI"));
        };
        if open.aborted {
            return Err(CommandError::text("EXECABORT Transaction discarded because of previous errors."));
        }
        if changed {
            self.reply(key).nil_array();
            return Ok(());
        }
        self.reply(key).array(open.len());
        self.set_executing(key, true);
        let before = self.history.offset();
        self.atomically(|server| {
            for queued in open.queued {
                server.run_command(key, queued.spec, Args::new(&queued.args()));
            }
        });
        self.set_executing(key, false);
        let after = self.history.offset();
        if let Some(client) = self.clients.get_mut(key) {
            client.last_command = "exec";
            if after != before {
                client.tells = true;
                client.write_offset = after;
            }
        }
        Ok(())
    }

    /// Whether the client's EXEC runs: what it executes must not block.
    pub(crate) fn is_executing(&self, key: ClientKey) -> bool {
        self.clients
            .get(key)
            .and_then(|client| client.session.as_ref())
            .is_some_and(|session| session.executing)
    }

    fn set_executing(&mut self, key: ClientKey, executing: bool) {
        if let Some(client) = self.clients.get_mut(key) {
            client.session.get_or_insert_default().executing = executing;
        }
        self.send_own_messages(key);
        self.tidy_session(key);
    }

    /// `DISCARD`. Returns whether there was a transaction.
    pub(crate) fn discard(&mut self, key: ClientKey) -> bool {
        self.end_transaction(key).is_some()
    }

    /// Takes a client's transaction, and ends its watches with it.
    fn end_transaction(&mut self, key: ClientKey) -> Option<Transaction> {
        let open = self.clients.get_mut(key)?.session.as_mut()?.transaction.take()?;
        self.unwatch(key);
        Some(open)
    }

    /// `WATCH`
    pub(crate) fn watch(&mut self, key: ClientKey, names: &[&[u8]]) -> CommandResult {
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let at = At { db: client.db, now: self.clock.unix_ms };
        let session = client.session.get_or_insert_default();
        if session.transaction.is_some() {
            return Err(CommandError::text("ERR WATCH inside MULTI is not allowed"));
        }
        for name in names {
            let bytes = name.len() + ARGUMENT_OVERHEAD;
            if session.watched_bytes.saturating_add(bytes) > self.tunables.query_buffer {
                return Err(CommandError::text(
                    "ERR the watched keys are larger than client-query-buffer-limit",
                ));
            }
            if let Entry::Vacant(place) = session.watched.entry((at.db, (*name).into())) {
                place.insert(self.keyspace.watch(at, name));
                session.watched_bytes += bytes;
            }
        }
        Ok(())
    }

    /// Ends a client's watches.
    pub(crate) fn unwatch(&mut self, key: ClientKey) {
        if let Some(session) = self.clients.get_mut(key).and_then(|client| client.session.as_mut()) {
            session.watched_bytes = 0;
            for (db, name) in std::mem::take(&mut session.watched).into_keys() {
                self.keyspace.unwatch(db, &name);
            }
        }
        self.tidy_session(key);
    }

    fn watched_changed(&self, key: ClientKey) -> bool {
        let session = self.clients.get(key).and_then(|client| client.session.as_ref());
        session.is_some_and(|session| self.session_is_dirty(session))
    }

    /// Whether a key changed that is watched in this session.
    pub(crate) fn session_is_dirty(&self, session: &Session) -> bool {
        session.watched.iter().any(|((db, name), ticket)| {
            let at = At { db: *db, now: self.clock.unix_ms };
            self.keyspace.changed_since(at, name, *ticket)
        })
    }

    /// Frees a session that holds nothing any more.
    pub(super) fn tidy_session(&mut self, key: ClientKey) {
        if let Some(client) = self.clients.get_mut(key)
            && client.session.as_ref().is_some_and(|session| session.is_empty())
        {
            client.session = None;
        }
    }

    /// Ends all that a client began: its connection closes, or RESET was given.
    pub(crate) fn end_session(&mut self, key: ClientKey) {
        self.unwatch(key);
        self.forget_subscriptions(key);
        if let Some(client) = self.clients.get_mut(key) {
            client.session = None;
        }
    }

    /// Keeps what belongs to a transaction of the parent's stream until EXEC has come, and applies it as a whole then:
    /// nobody sees half of it, and of one that is cut off nothing stays. Returns false if `args` is for the caller.
    pub(super) fn apply_transaction(&mut self, key: ClientKey, args: Args<'_>, bytes: &[u8]) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return true };
        let Some(incoming) = client.session.as_mut().and_then(|session| session.incoming.as_mut()) else {
            if args.len() != 1 || !args.is(0, "multi") {
                return false;
            }
            let begun = Incoming { bytes: bytes.to_vec(), commands: Vec::new() };
            client.session.get_or_insert_default().incoming = Some(begun);
            return true;
        };
        incoming.bytes.extend_from_slice(bytes);
        if args.len() != 1 || !args.is(0, "exec") {
            incoming.commands.push(args.all().iter().map(|arg| (*arg).into()).collect());
            return true;
        }
        let whole = std::mem::take(incoming);
        client.session = None;
        self.apply_all(key, &whole.commands, &whole.bytes);
        true
    }

    /// What `work` replicates is applied elsewhere, and read from the append-only file, as a whole or not at all.
    pub(super) fn atomically(&mut self, work: impl FnOnce(&mut Self)) {
        if self.group != Group::No {
            return work(self); // it is part of a whole already
        }
        self.group = Group::Expected;
        work(self);
        if std::mem::take(&mut self.group) == Group::Begun {
            self.scratch.clear();
            encode(&mut self.scratch, &[b"EXEC"]);
            self.history.backlog.append(&self.scratch);
            self.persistence.append(&self.scratch);
        }
    }
}

/// Whether what is replicated now belongs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// It does not.
    #[default]
    No,
    /// It does, and nothing was replicated yet.
    Expected,
    /// It does, and MULTI was replicated.
    Begun,
}
