//! From what a command did to the replication stream and the append-only file.

use super::transactions::Group;
use super::{ClientKey, Ending, Scope, Server};
use crate::command::{Args, Ctx, Handler, table};
use crate::keyspace::ExpiryMode;
use crate::resp::{Protocol, Reply};

impl Server {
    /// Replicates what the last command did: expired keys that it removed, then its effects.
    pub(super) fn replicate_effects(&mut self, db: usize, args: &[&[u8]]) {
        self.replicate_expired();
        let dirty = self.effects.dirty();
        self.keyspace.settle_touched(dirty > 0);
        if dirty > 0 {
            self.stats.dirty += dirty;
            match self.effects.take_instead() {
                Some(commands) if commands.len() > 1 => {
                    self.atomically(|server| server.replicate_all(db, &commands));
                }
                Some(commands) => self.replicate_all(db, &commands),
                None => self.replicate(db, args),
            }
        }
        self.effects.clear();
    }

    fn replicate_all(&mut self, db: usize, commands: &[Vec<Vec<u8>>]) {
        for command in commands {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            self.replicate(db, &args);
        }
    }

    /// Replicates the removal of expired keys.
    pub(super) fn replicate_expired(&mut self) {
        for (db, key) in self.keyspace.take_expired() {
            self.stats.expired += 1;
            self.stats.dirty += 1;
            self.replicate(db, &[b"DEL", &key]);
        }
    }

    /// Adds a command to the stream. Only the origin of the stream does: a replica passes on what it gets.
    pub(super) fn replicate(&mut self, db: usize, args: &[&[u8]]) {
        if self.link.is_some() || !self.is_recorded() {
            return;
        }
        self.begin_append();
        if self.history.stream_db != Some(db) {
            self.history.stream_db = Some(db);
            encode(&mut self.scratch, &[b"SELECT", itoa::Buffer::new().format(db).as_bytes()]);
        }
        encode(&mut self.scratch, args);
        self.history.backlog.append(&self.scratch);
        self.durability.data_offset = self.history.offset();
        self.persistence.append(&self.scratch);
    }

    /// Whether anybody may want the stream. If nobody does, nothing is added to it.
    fn is_recorded(&mut self) -> bool {
        if !self.history.is_recorded() && (self.persistence.is_logging() || self.routing.is_managed()) {
            self.history.record();
        }
        self.history.is_recorded()
    }

    /// Empties the scratch buffer for what is to be added to the stream; the first of what belongs together begins with
    /// MULTI.
    fn begin_append(&mut self) {
        self.scratch.clear();
        if self.group == Group::Expected {
            self.group = Group::Begun;
            encode(&mut self.scratch, &[b"MULTI"]);
        }
    }

    /// Adds a command to the stream that is no change of data: PING, REPLCONF GETACK, PUBLISH.
    pub(super) fn replicate_beat(&mut self, args: &[&[u8]]) {
        if self.may_originate() {
            self.append_beat(args);
        }
    }

    /// Adds such a command whatever is held.
    pub(super) fn append_beat(&mut self, args: &[&[u8]]) {
        if !self.is_recorded() {
            return;
        }
        self.begin_append();
        encode(&mut self.scratch, args);
        self.history.backlog.append(&self.scratch);
        self.persistence.append(&self.scratch);
    }

    /// Applies a command of the parent's stream, and passes its exact bytes on.
    pub(super) fn apply(&mut self, key: ClientKey, args: &[&[u8]], bytes: &[u8]) -> bool {
        let args = Args::new(args);
        if self.apply_transaction(key, args, bytes) {
            return true;
        }
        if args.len() > 0 && !args.is(0, "ping") {
            self.apply_command(key, args);
        }
        self.history.backlog.append(bytes);
        self.persistence.append(bytes);
        true
    }

    pub(super) fn apply_command(&mut self, key: ClientKey, args: Args<'_>) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if args.is(0, "select") {
            match select(args, self.keyspace.databases()) {
                Ok(db) => {
                    client.db = db;
                    self.history.stream_db = Some(db);
                }
                Err(text) => self.refuse_stream(key, &text),
            }
            return;
        }
        if args.is(0, "replconf") {
            if args.is(1, "getack") && args.len() > 2 {
                self.note_barrier(args.at(2));
                self.send_ack();
            }
            return;
        }
        for (name, scope) in [("publish", Scope::Channel), ("spublish", Scope::Shard)] {
            if args.is(0, name) {
                self.deliver(scope, args.at(1), args.at(2), None);
                return;
            }
        }
        let db = client.db;
        if let Err(text) = self.execute_silently(db, args) {
            self.refuse_stream(key, &text);
        }
    }

    /// The copy would differ from here on: it is better to stop and start over than to diverge.
    fn refuse_stream(&mut self, key: ClientKey, text: &str) {
        crate::warning!(
            "The parent's stream holds a command that cannot be applied: {text}. Resynchronising."
        );
        self.history.replid.clear();
        self.clients.doom(key);
    }

    /// Runs a data command without a client: from the parent's stream, or from the append-only file.
    pub(super) fn execute_silently(&mut self, db: usize, args: Args<'_>) -> Result<(), String> {
        if args.is(0, "function") {
            // As in a snapshot: it is no data of a key.
            crate::warning!(
                "FUNCTION in a stream or file of another server is left out: it is not supported"
            );
            return Ok(());
        }
        let name = || String::from_utf8_lossy(args.at(0)).into_owned();
        let spec = table::lookup(args.at(0)).ok_or_else(|| format!("unknown command '{}'", name()))?;
        let Handler::Data(handler) = spec.handler else {
            return Err(format!("'{}' is no command on data", name()));
        };
        spec.check_arity(args.len()).map_err(|error| error.to_string())?;
        self.keyspace.set_expiry_mode(ExpiryMode::Ignore);
        self.scratch.clear();
        let result = handler(
            &mut Ctx {
                keyspace: &mut self.keyspace,
                db,
                now: self.clock.unix_ms,
                reply: Reply::new(&mut self.scratch, Protocol::Resp2),
                effects: &mut self.effects,
                random: &mut self.random,
                settings: &self.settings,
            },
            args,
        );
        let dirty = self.effects.dirty();
        self.keyspace.settle_touched(dirty > 0);
        self.stats.dirty += dirty;
        self.effects.clear();
        result.map_err(|error| format!("'{}': {error}", name()))
    }

    /// Whether the stream may grow by beats now: not while a hand-over waits for equal offsets.
    pub(super) fn may_beat(&self) -> bool {
        self.may_originate() && !matches!(self.ending, Ending::Now { .. })
    }
}

/// The database that a SELECT of a stream is for. What follows would be lost if it does not exist.
pub(super) fn select(args: Args<'_>, databases: usize) -> Result<usize, String> {
    let db = args.integer(1).map_err(|_| "SELECT of no database".to_owned())?;
    usize::try_from(db)
        .ok()
        .filter(|chosen| *chosen < databases)
        .ok_or_else(|| format!("database {db} does not exist here: raise the directive databases"))
}

/// Appends a command as an array of bulk strings.
pub(crate) fn encode(out: &mut Vec<u8>, args: &[&[u8]]) {
    let mut reply = Reply::new(out, Protocol::Resp2);
    reply.array(args.len());
    for arg in args {
        reply.bulk(arg);
    }
}
