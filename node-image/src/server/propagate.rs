//! From what a command did to the replication stream and the append-only file.

use super::transactions::Group;
use super::{ClientKey, Scope, Server};
use crate::command::{Args, Ctx, DataHandler, Handler, table};
use crate::keyspace::ExpiryMode;
use crate::resp::{Protocol, Reply};

impl Server {
    /// Replicates what the last command did: expired keys that it removed, then its effects.
    #[inline]
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
        if !self.keyspace.has_expired() {
            return;
        }
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
        self.note_effect(args);
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
        match self.apply_command(key, args) {
            Ok(()) => self.pass_on(bytes),
            Err(text) => self.refuse_stream(key, &text),
        }
        if args.is(0, "replconf") && args.is(1, "getack") && args.len() > 2 {
            self.note_barrier(args.at(2));
        }
        // The answer counts the question: who waits for a replica to have everything need not wait for the next one.
        if args.is(0, "replconf") && args.is(1, "getack") {
            self.send_ack();
        }
        true
    }

    /// Applies what stood between MULTI and EXEC, if all of it can be applied.
    pub(super) fn apply_all(&mut self, key: ClientKey, commands: &[Vec<Box<[u8]>>], bytes: &[u8]) {
        fn words(command: &[Box<[u8]>]) -> Vec<&[u8]> {
            command.iter().map(AsRef::as_ref).collect()
        }
        let known = commands.iter().try_for_each(|command| is_known(Args::new(&words(command))));
        let mut all = commands.iter();
        match known.and_then(|()| all.try_for_each(|one| self.apply_command(key, Args::new(&words(one))))) {
            Ok(()) => self.pass_on(bytes),
            Err(text) => self.refuse_stream(key, &text),
        }
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        self.history.backlog.append(bytes);
        self.persistence.append(bytes);
    }

    fn apply_command(&mut self, key: ClientKey, args: Args<'_>) -> Result<(), String> {
        let databases = self.stream_databases();
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let Some(beside) = beside_data(args) else {
            let db = client.db;
            return self.execute_silently(db, args);
        };
        match beside {
            Beside::Nothing => {}
            Beside::Select => {
                let db = select(args, databases)?;
                client.db = db;
                self.history.stream_db = Some(db);
            }
            Beside::Message(scope) => _ = self.deliver(scope, args.at(1), args.at(2), None),
            Beside::LeftOut => self.note_left_out(args),
        }
        Ok(())
    }

    /// Something of the stream that is no data was left out.
    fn note_left_out(&mut self, args: Args<'_>) {
        self.stats.stream_left_out += 1;
        crate::warning!(
            "'{}' in the parent's stream is left out: functions and scripts are not supported",
            name_of(args)
        );
    }

    /// The copy would differ from here on: it is better to stop and start over than to diverge.
    fn refuse_stream(&mut self, key: ClientKey, text: &str) {
        self.stats.stream_refused += 1;
        let text = format!("The parent's stream holds a command that cannot be applied: {text}");
        self.refuse_parent(text, false);
        self.history.replid.clear();
        self.clients.doom(key);
    }

    /// Runs a data command without a client: from the parent's stream, or from the append-only file.
    pub(super) fn execute_silently(&mut self, db: usize, args: Args<'_>) -> Result<(), String> {
        if args.is(0, "function") {
            // As in a snapshot: it is no data of a key.
            self.note_left_out(args);
            return Ok(());
        }
        let plain = plain_hset(args);
        let args = plain.as_deref().map_or(args, Args::new);
        let handler = data_command(args)?;
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
        result.map_err(|error| format!("'{}' of key {}: {error}", name_of(args), shown(args.at(1))))
    }
}

fn name_of(args: Args<'_>) -> String {
    String::from_utf8_lossy(args.at(0)).into_owned()
}

/// A word of a command as it is shown in an error.
fn shown(word: &[u8]) -> String {
    format!("\"{}\"", word.get(..128).unwrap_or(word).escape_ascii())
}

/// What runs a command of a stream, if it is a command on data that this node knows.
fn data_command(args: Args<'_>) -> Result<DataHandler, String> {
    let first = || if args.len() > 1 { format!(" with {} first", shown(args.at(1))) } else { String::new() };
    let spec =
        table::lookup(args.at(0)).ok_or_else(|| format!("unknown command '{}'{}", name_of(args), first()))?;
    let Handler::Data(handler) = spec.handler else {
        return Err(format!("'{}' is no command on data", name_of(args)));
    };
    spec.check_arity(args.len()).map_err(|error| error.to_string())?;
    Ok(handler)
}

/// What a replication stream holds besides commands on data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing to be done with data: PING, REPLCONF, an empty line.
    Nothing,
    /// SELECT.
    Select,
    /// PUBLISH, SPUBLISH.
    Message(Scope),
    /// Functions and scripts: they are no data of a key, and are left out as in snapshots.
    LeftOut,
}

/// What a command of a stream is, if it is none on data.
pub(super) fn beside_data(args: Args<'_>) -> Option<Beside> {
    const NAMES: [(&str, Beside); 7] = [
        ("select", Beside::Select),
        ("ping", Beside::Nothing),
        ("publish", Beside::Message(Scope::Channel)),
        ("spublish", Beside::Message(Scope::Shard)),
        ("replconf", Beside::Nothing),
        ("function", Beside::LeftOut),
        ("script", Beside::LeftOut),
    ];
    if args.len() == 0 {
        return Some(Beside::Nothing);
    }
    NAMES.into_iter().find(|(name, _)| args.is(0, name)).map(|(_, beside)| beside)
}

/// HSETEX that lets no field expire, as HSET: so Redis 8 replicates HINCRBYFLOAT.
fn plain_hset<'a>(args: Args<'a>) -> Option<Vec<&'a [u8]>> {
    if !args.is(0, "hsetex") {
        return None;
    }
    let fields = if args.is(2, "keepttl") { 3 } else { 2 };
    let count = args.integer(fields + 1).ok().and_then(|count| usize::try_from(count).ok())?;
    let pairs = args.from(fields + 2);
    let whole = args.is(fields, "fields") && pairs.len() == count.checked_mul(2)?;
    whole.then(|| [&[&b"HSET"[..], args.at(1)], pairs].concat())
}

/// Says what is wrong with a command of a stream, if it can be told before it runs.
fn is_known(args: Args<'_>) -> Result<(), String> {
    let known = beside_data(args).is_some() || plain_hset(args).is_some();
    if known { Ok(()) } else { data_command(args).map(drop) }
}

/// The database that a SELECT of a stream is for. What follows would be lost if it does not exist.
pub(super) fn select(args: Args<'_>, databases: usize) -> Result<usize, String> {
    let db = args.integer(1).map_err(|_| "SELECT of no database".to_owned())?;
    usize::try_from(db)
        .ok()
        .filter(|chosen| *chosen < databases)
        .ok_or_else(|| format!("database {db} does not exist here: a cluster has database 0 only, another node as many as its directive databases says"))
}

/// Appends a command as an array of bulk strings.
pub(crate) fn encode(out: &mut Vec<u8>, args: &[&[u8]]) {
    let mut reply = Reply::new(out, Protocol::Resp2);
    reply.array(args.len());
    for arg in args {
        reply.bulk(arg);
    }
}
