//! From a request to the command that runs it: everything that is checked before.

use kv_core::slot::{Slot, key_slot};

use super::managed::Route;
use super::{Blocked, ClientKey, Server, User};
use crate::command::{Args, CommandError, CommandResult, CommandSpec, Ctx, Flags, Handler};
use crate::keyspace::ExpiryMode;
use crate::resp::Reply;

/// What is to happen with a request.
enum Verdict {
    Run,
    /// Writes are held: the request stays where it is.
    Hold,
    Refuse(CommandError),
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
            self.refuse(key, &unknown_command(args));
            return true;
        };
        match self.check(key, spec, args) {
            Verdict::Hold => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.blocked = Some(Blocked::Pause);
                }
                return false;
            }
            Verdict::Refuse(error) => {
                self.stats.rejected_commands += 1;
                self.refuse(key, &error);
            }
            Verdict::Run => self.run_command(key, spec, args),
        }
        true
    }

    fn refuse(&mut self, key: ClientKey, error: &CommandError) {
        self.reply(key).error(&error.to_string());
    }

    fn run_command(&mut self, key: ClientKey, spec: &'static CommandSpec, args: Args<'_>) {
        self.stats.commands += 1;
        if let Some(client) = self.clients.get_mut(key) {
            client.last_command = spec.name;
            client.commands += 1;
        }
        let result = match spec.handler {
            Handler::Data(handler) => {
                self.set_expiry_mode();
                self.run_data(key, args, handler)
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
        let result = handler(
            &mut Ctx {
                keyspace: &mut self.keyspace,
                db,
                now: self.clock.unix_ms,
                reply: Reply::new(&mut client.output, client.protocol),
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
        self.link.is_none() && self.pause.is_none() && self.routing.may_write()
    }

    fn check(&self, key: ClientKey, spec: &CommandSpec, args: Args<'_>) -> Verdict {
        let refuse = |text: &'static str| Verdict::Refuse(CommandError::text(text));
        let Some(client) = self.clients.get(key) else { return Verdict::Hold };
        let count = i32::try_from(args.len()).unwrap_or(i32::MAX);
        if count != spec.arity && (spec.arity > 0 || count < -spec.arity) {
            return Verdict::Refuse(CommandError::Arity(spec.name.to_owned()));
        }
        if client.reserved && !client.user.is_peer() && !spec.flags.contains(Flags::NO_AUTH) {
            return refuse("ERR max number of clients reached");
        }
        if client.user == User::Nobody && !spec.flags.contains(Flags::NO_AUTH) {
            return refuse("NOAUTH Authentication required.");
        }
        if !permitted(client.user, spec) {
            return Verdict::Refuse(CommandError::text(format!(
                "NOPERM User {} has no permissions to run the '{}' command",
                client.user.name(),
                spec.name
            )));
        }
        let writes = spec.flags.contains(Flags::WRITE);
        if self.tunables.cluster_enabled && spec.keys != crate::command::KeySpec::None {
            match keys_slot(spec, args) {
                Err(error) => return Verdict::Refuse(error),
                Ok(Some(slot)) => match self.routing.route(slot, writes, client.readonly) {
                    Route::Here => {}
                    Route::Hold if self.pause.is_some() => return Verdict::Hold,
                    Route::Hold => return refuse("CLUSTERDOWN The cluster is down"),
                    Route::Elsewhere(text) => return Verdict::Refuse(CommandError::text(text)),
                },
                Ok(None) => {}
            }
        }
        if !writes {
            return match self.link.as_ref() {
                Some(link)
                    if !self.tunables.serve_stale
                        && link.client().is_none()
                        && !spec.flags.contains(Flags::STALE) =>
                {
                    refuse("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.")
                }
                _ => Verdict::Run,
            };
        }
        self.check_write(spec)
    }

    fn check_write(&self, spec: &CommandSpec) -> Verdict {
        let refuse = |text: &'static str| Verdict::Refuse(CommandError::text(text));
        if self.link.is_some() && (self.tunables.replica_read_only || self.routing.is_managed()) {
            return refuse("READONLY You can't write against a read only replica.");
        }
        if self.pause.is_some() {
            return Verdict::Hold;
        }
        if !self.routing.may_write() {
            return refuse("CLUSTERDOWN The cluster is down");
        }
        if let Some(error) = self.persistence.write_error() {
            return Verdict::Refuse(CommandError::text(format!(
                "MISCONF Errors writing to the AOF file: {error}. Writes are refused until the disk can be written again."
            )));
        }
        let max = self.tunables.maxmemory;
        if max > 0 && spec.flags.contains(Flags::DENYOOM) && self.keyspace.used_memory() as u64 > max {
            return refuse("OOM command not allowed when used memory > 'maxmemory'.");
        }
        Verdict::Run
    }
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

/// The one slot of a command's keys; `None` if it names none.
fn keys_slot(spec: &CommandSpec, args: Args<'_>) -> Result<Option<Slot>, CommandError> {
    let mut slot = None;
    for index in spec.keys.positions(args) {
        let this = key_slot(args.at(index));
        if *slot.get_or_insert(this) != this {
            return Err(CommandError::text("CROSSSLOT Keys in request don't hash to the same slot"));
        }
    }
    Ok(slot)
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
