//! From a request to the command that runs it: everything that is checked before.

use kv_core::slot::key_slot;

use super::durability::Prospect;
use super::managed::Route;
use super::{Blocked, Client, ClientKey, Ending, Server, User};
use crate::command::{Args, CommandError, CommandResult, CommandSpec, Ctx, Flags, Handler, KeySpec};
use crate::keyspace::ExpiryMode;
use crate::resp::Reply;

/// What is to happen with a request.
pub(super) enum Verdict {
    Run,
    /// It waits for EXEC.
    Queue,
    /// Writes are held: the request stays where it is.
    Hold,
    Refuse(CommandError),
    /// Its slot is not served here.
    Redirect(CommandError),
}

impl Server {
    /// Runs a client's request; `spec` is that of its name. Returns false if it is held, and is to be run again later.
    pub(super) fn dispatch(
        &mut self,
        key: ClientKey,
        spec: Option<&'static CommandSpec>,
        args: &[&[u8]],
    ) -> bool {
        let args = Args::new(args);
        let Some(spec) = spec else {
            let start = self.begin_reply(key);
            self.abort_transaction(key);
            self.refuse(key, &unknown_command(args));
            self.end_reply(key, start);
            return true;
        };
        if self.tunables.maxmemory > 0 {
            self.make_room();
        }
        let verdict = self.check(key, spec, args);
        if matches!(verdict, Verdict::Hold) {
            if let Some(client) = self.clients.get_mut(key) {
                client.blocked = Some(Blocked::Pause);
            }
            return false;
        }
        let start = self.begin_reply(key);
        match verdict {
            Verdict::Run => self.run_command(key, spec, args),
            Verdict::Queue => self.queue(key, spec, args),
            refused => self.reject(key, spec, refused),
        }
        self.end_reply(key, start);
        true
    }

    /// A command is about to be answered. Returns where in the output that begins.
    fn begin_reply(&mut self, key: ClientKey) -> usize {
        let Some(client) = self.clients.get_mut(key) else { return 0 };
        client.replies = client.replies.of_next_command();
        client.tells = false;
        client.output.len()
    }

    /// A command was answered; its reply begins there.
    fn end_reply(&mut self, key: ClientKey, start: usize) {
        if let Some(client) = self.clients.get_mut(key).filter(|client| !client.tells) {
            client.note_plain(start);
        }
    }

    /// Says that a command was not accepted. A transaction that it belongs to cannot be executed any more.
    fn reject(&mut self, key: ClientKey, spec: &CommandSpec, verdict: Verdict) {
        let exec = spec.name == "exec";
        let error = match verdict {
            Verdict::Refuse(error) if exec => self.abort_exec(key, &error),
            Verdict::Redirect(error) if exec => {
                self.discard(key);
                error
            }
            Verdict::Refuse(error) | Verdict::Redirect(error) => {
                self.abort_transaction(key);
                error
            }
            Verdict::Run | Verdict::Queue | Verdict::Hold => return,
        };
        self.stats.rejected_commands += 1;
        self.note_refusal(key, &error);
        self.refuse(key, &error);
    }

    fn refuse(&mut self, key: ClientKey, error: &CommandError) {
        self.reply(key).error(&error.to_string());
    }

    pub(super) fn run_command(&mut self, key: ClientKey, spec: &'static CommandSpec, args: Args<'_>) {
        self.stats.commands += 1;
        if let Some(client) = self.clients.get_mut(key) {
            client.last_command = spec.name;
            client.commands += 1;
        }
        let result = match spec.handler {
            Handler::Data(handler) => {
                self.set_expiry_mode();
                let untouched =
                    spec.name != "touch" && self.clients.get(key).is_some_and(|client| client.no_touch);
                self.keyspace.set_untouched(untouched);
                let result = self.run_data(key, args, handler);
                self.keyspace.set_untouched(false);
                result
            }
            Handler::Server(handler) => handler(self, key, args),
        };
        if let Err(error) = result {
            self.refuse(key, &error);
        }
    }

    /// Runs a data command for a client, and replicates what it did.
    fn run_data(
        &mut self,
        key: ClientKey,
        args: Args<'_>,
        handler: crate::command::DataHandler,
    ) -> CommandResult {
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let (start, db) = (client.output.len(), client.db);
        client.read_offset = self.durability.data_offset;
        client.tells = true;
        let reply = if client.replies.are_muted() {
            self.void.clear();
            Reply::new(&mut self.void, client.protocol).limited(0)
        } else {
            client.reply(&self.tunables)
        };
        let result = handler(
            &mut Ctx {
                keyspace: &mut self.keyspace,
                db,
                now: self.clock.unix_ms,
                reply,
                effects: &mut self.effects,
                random: &mut self.random,
                settings: &self.settings,
            },
            args,
        );
        if result.is_err() {
            client.output.truncate(start);
        }
        self.clients.queue_write(key);
        let before = self.history.offset();
        self.replicate_effects(db, args.all());
        let after = self.history.offset();
        if after != before
            && let Some(client) = self.clients.get_mut(key)
        {
            client.write_offset = after;
        }
        result
    }

    /// Who removes expired keys: the master does, and says so to its replicas; a replica, or a master whose writes are
    /// held, only hides them.
    pub(super) fn set_expiry_mode(&mut self) {
        let mode = if self.may_originate() { ExpiryMode::Delete } else { ExpiryMode::Hide };
        self.keyspace.set_expiry_mode(mode);
    }

    /// Whether this node may add to the replication stream now.
    pub(super) fn may_originate(&self) -> bool {
        self.link.is_none() && !self.holds_writes() && self.loading.is_none() && self.routing.may_write()
    }

    /// Whether writes are held: for a hand-over, since a user asked for it, or since the process ends. What is written
    /// after the last save would be lost.
    pub(super) fn holds_writes(&self) -> bool {
        let ends = matches!(self.ending, Ending::Draining(_) | Ending::Now { .. });
        self.pause.is_some() || self.client_pause.is_some() || self.failover.is_some() || ends
    }

    fn check(&self, key: ClientKey, spec: &CommandSpec, args: Args<'_>) -> Verdict {
        let Some(client) = self.clients.get(key) else { return Verdict::Hold };
        // Whoever may not be held must first be able to say who it is.
        let says_who = spec.flags.contains(Flags::NO_AUTH) && self.routing.is_managed();
        if self.client_pause.is_some_and(|pause| pause.all) && client.is_pausable() && !says_who {
            return Verdict::Hold;
        }
        let verdict = match check_client(client, spec, args) {
            Ok(()) => self.check_route(client, spec.flags, std::iter::once((spec, args))),
            Err(error) => Verdict::Refuse(error),
        };
        let verdict = match verdict {
            Verdict::Run => self.check_state(spec.flags, spec.flags),
            other => other,
        };
        match verdict {
            Verdict::Run if client.session.is_some() => self.check_session(client, spec),
            other => other,
        }
    }

    /// Whether this node serves the slot of these commands, which run together. `any`: the flags that one of them has.
    pub(super) fn check_route<'a>(
        &self,
        client: &Client,
        any: Flags,
        commands: impl Iterator<Item = (&'a CommandSpec, Args<'a>)>,
    ) -> Verdict {
        if !self.tunables.cluster_enabled {
            return Verdict::Run;
        }
        let (mut slot, mut writes, mut readonly) = (None, any.contains(Flags::WRITE), client.readonly);
        for (spec, args) in commands {
            if spec.keys == KeySpec::None {
                continue;
            }
            // A message to a shard channel goes by the master, so that all of the shard's nodes get it.
            writes |= spec.flags.contains(Flags::MAY_REPLICATE);
            readonly |= spec.flags.contains(Flags::PUBSUB);
            for index in spec.keys.positions(args) {
                let this = key_slot(args.at(index));
                if *slot.get_or_insert(this) != this {
                    let text = "CROSSSLOT Keys in request don't hash to the same slot";
                    return Verdict::Redirect(CommandError::text(text));
                }
            }
        }
        let Some(slot) = slot else { return Verdict::Run };
        readonly |= self.tunables.replica_reads && self.is_single_shard();
        let route = match self.routing.route(slot, writes, readonly) {
            Route::Here if !any.contains(Flags::PUBSUB) && self.is_stale() => self.routing.to_master(slot),
            route => route,
        };
        match route {
            Route::Here if self.awaits_source() => {
                let text = "LOADING This node has no data of the server that it adopts (spec.source) yet";
                Verdict::Redirect(CommandError::text(text))
            }
            Route::Here if writes && self.holds_slot(slot) => Verdict::Hold,
            Route::Here => Verdict::Run,
            Route::Between if self.awaits_owner() => Verdict::Hold,
            Route::Between => Verdict::Redirect(CommandError::text(
                "CLUSTERDOWN The slot is on its way from one shard to another",
            )),
            Route::Hold if self.pause.is_some() => Verdict::Hold,
            Route::Hold => Verdict::Redirect(CommandError::text("CLUSTERDOWN The cluster is down")),
            Route::Elsewhere(text) => Verdict::Redirect(CommandError::text(text)),
        }
    }

    /// Whether the node is in a state for commands of which any has the flags `any`, and all have the flags `all`.
    pub(super) fn check_state(&self, any: Flags, all: Flags) -> Verdict {
        if self.loading.is_some() && !all.contains(Flags::LOADING) {
            return Verdict::Refuse(CommandError::text("LOADING Redis is loading the dataset in memory"));
        }
        if any.contains(Flags::WRITE) {
            return self.check_write(any);
        }
        if any.contains(Flags::MAY_REPLICATE) && self.holds_writes() && self.link.is_none() {
            return Verdict::Hold;
        }
        if any.contains(Flags::READONLY) && self.is_stale() {
            let text = "MASTERDOWN The data of this replica are older than replica-max-staleness allows";
            return Verdict::Refuse(CommandError::text(text));
        }
        match self.link.as_ref() {
            Some(link)
                if !self.tunables.serve_stale && link.client().is_none() && !all.contains(Flags::STALE) =>
            {
                let text = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
                Verdict::Refuse(CommandError::text(text))
            }
            _ => Verdict::Run,
        }
    }

    fn check_write(&self, flags: Flags) -> Verdict {
        let refuse = |text: &'static str| Verdict::Refuse(CommandError::text(text));
        if self.failover.is_some() {
            return Verdict::Hold;
        }
        if let Some(source) = self.source() {
            return Verdict::Refuse(CommandError::text(format!(
                "READONLY This cluster follows {source}, and takes writes once spec.source is removed"
            )));
        }
        if self.link.is_some() && (self.tunables.replica_read_only || self.routing.is_managed()) {
            return refuse("READONLY You can't write against a read only replica.");
        }
        if self.holds_writes() {
            return Verdict::Hold;
        }
        if !self.routing.may_write() {
            return refuse("CLUSTERDOWN The cluster is down");
        }
        match self.prospect() {
            Prospect::Good => {}
            Prospect::Soon => return Verdict::Hold,
            Prospect::Isolated => {
                return refuse(
                    "CLUSTERDOWN This master reaches too few nodes of its shard, and another one may be elected",
                );
            }
            Prospect::Bad => return refuse("NOREPLICAS Not enough good replicas to write."),
        }
        if let Some(error) = self.disk_error() {
            return Verdict::Refuse(CommandError::text(format!("MISCONF {error}")));
        }
        if self.good_replicas().is_some_and(|(good, wanted)| good < wanted) {
            return refuse("NOREPLICAS Not enough good replicas to write.");
        }
        if flags.contains(Flags::DENYOOM) && self.out_of_memory() {
            return Verdict::Refuse(out_of_memory());
        }
        Verdict::Run
    }
}

pub(super) fn out_of_memory() -> CommandError {
    CommandError::text("OOM command not allowed when used memory > 'maxmemory'.")
}

/// Whether this client may run the command, in this form.
fn check_client(client: &Client, spec: &CommandSpec, args: Args<'_>) -> CommandResult {
    spec.check_arity(args.len())?;
    if client.reserved && !client.user.is_peer() && !spec.flags.contains(Flags::NO_AUTH) {
        return Err(CommandError::text("ERR max number of clients reached"));
    }
    if client.user == User::Nobody && !spec.flags.contains(Flags::NO_AUTH) {
        return Err(CommandError::text("NOAUTH Authentication required."));
    }
    if !permitted(client.user, spec) {
        return Err(CommandError::text(format!(
            "NOPERM User {} has no permissions to run the '{}' command",
            client.user.name(),
            spec.name
        )));
    }
    Ok(())
}

/// What the users that are not people may run.
fn permitted(user: User, spec: &CommandSpec) -> bool {
    const CONNECTION: [&str; 6] = ["auth", "hello", "ping", "client", "quit", "reset"];
    match user {
        User::Default | User::Nobody => spec.name != "kv",
        User::Operator => spec.name == "kv" || CONNECTION.contains(&spec.name),
        User::Replica => {
            ["replconf", "psync", "sync"].contains(&spec.name) || CONNECTION.contains(&spec.name)
        }
    }
}

fn unknown_command(args: Args<'_>) -> CommandError {
    let show = |arg: &[u8]| String::from_utf8_lossy(arg.get(..128).unwrap_or(arg)).into_owned();
    let mut rest = String::new();
    for arg in args.from(1) {
        if rest.len() >= 128 {
            break;
        }
        rest.push_str(&format!("'{}' ", show(arg)));
    }
    CommandError::text(format!(
        "ERR unknown command '{}', with args beginning with: {rest}",
        show(args.at(0))
    ))
}
