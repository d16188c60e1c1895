//! The target of a move: takes keys, and what is done to them, as if it were its own.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kv_core::control::{Completion, ImportReport};
use kv_core::id::NodeId;
use kv_core::shard::Transfer;
use kv_core::slot::SlotSet;

use crate::command::{Args, CommandError, CommandResult};
use crate::peers::{self, Place};
use crate::server::{Blocked, ClientKey, Event, Kind, Refusal, Server, User};
use crate::{notice, warning};

/// How long a connection, or an answer, may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// For how long the source may say nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// A failed import is begun anew after this.
const RETRY: Duration = Duration::from_millis(500);

/// Bytes of the stream that an online replica may lack before the import waits for it.
const MOST_LAG: u64 = 32 * 1024 * 1024;

/// Slots that come from another master.
#[derive(Debug)]
pub(super) struct Import {
    generation: u64,
    from: u16,
    source: NodeId,
    slots: SlotSet,
    stage: Stage,
    complete: Option<Completion>,
    error: Option<(String, Instant)>,
}

#[derive(Debug)]
enum Stage {
    /// What there is of the slots from before is deleted first.
    Clearing,
    Connecting,
    Streaming(ClientKey),
    Over,
}

/// What came of asking the source: its connection, and what it has sent already.
pub(crate) type Arrival = io::Result<(TcpStream, Vec<u8>)>;

impl Import {
    pub(super) fn slots(&self) -> &SlotSet {
        &self.slots
    }

    /// Whether everything has arrived that the certificate is about.
    pub(super) fn has_all(&self, transfer: &Transfer) -> bool {
        let complete = self.complete.as_ref().is_some_and(|complete| complete.id == transfer.id);
        complete && self.from == transfer.from && self.slots == transfer.slots
    }
}

impl Server {
    /// `KV IMPORT`: asks the master of the shard `from` for slots. Without slots, what is imported is given up. To be asked for
    /// the same again changes nothing.
    ///
    /// # Errors
    /// If this node is not the serving master, has these slots, or does not know who to ask.
    pub(crate) fn begin_import(&mut self, from: u16, slots: SlotSet) -> CommandResult {
        if !self.routing.may_write() {
            return Err(Refusal::NotMaster.into());
        }
        if slots.is_empty() {
            self.drop_import();
            return Ok(());
        }
        let own = self.routing.config().is_some_and(|config| {
            !config.slots.is_disjoint(&slots)
                || config.given.iter().any(|given| !given.slots.is_disjoint(&slots))
        });
        if own {
            return Err(CommandError::text("ERR slots that this shard has cannot be imported"));
        }
        let source = self.routing.shards().find(|config| config.shard == from).map(|config| config.master);
        let source = source.ok_or(CommandError::text("ERR the shard to import from is not known here"))?;
        if let Some(import) = &self.moves.import
            && (import.from, &import.slots) == (from, &slots)
        {
            let failed = import.error.as_ref().map(|(_, at)| self.clock.instant.duration_since(*at));
            let goes_on = failed.is_none() && import.source == source;
            if goes_on || failed.is_some_and(|since| since < RETRY) {
                return Ok(());
            }
        }
        self.drop_import();
        notice!("Slots {slots} are imported from shard {from}");
        self.moves.leftovers = std::mem::take(&mut self.moves.leftovers).without(&slots);
        self.moves.generation += 1;
        self.keyspace.stage(Some(slots.clone()));
        self.moves.import = Some(Import {
            generation: self.moves.generation,
            from,
            source,
            slots,
            stage: Stage::Clearing,
            complete: None,
            error: None,
        });
        Ok(())
    }

    /// What is imported, for reports.
    pub(in crate::server) fn import_report(&self) -> Option<ImportReport> {
        self.moves.import.as_ref().map(|import| ImportReport {
            from: import.from,
            source: import.source,
            slots: import.slots.clone(),
            complete: import.complete.clone(),
            error: import.error.as_ref().map(|(error, _)| error.clone()),
        })
    }

    pub(super) fn can_clear(&self) -> bool {
        let clears = |import: &Import| matches!(import.stage, Stage::Clearing);
        self.moves.import.as_ref().is_some_and(clears) && self.may_originate()
    }

    pub(super) fn step_import(&mut self) {
        if !self.can_clear() {
            return;
        }
        let Some(slots) = self.moves.import.as_ref().map(|import| import.slots.clone()) else { return };
        if self.delete_keys_of(&slots, 0).is_none() {
            self.ask_source();
        }
    }

    /// Asks the source, on a thread of its own.
    fn ask_source(&mut self) {
        let Some(identity) = self.routing.identity() else { return };
        let (uid, shard) = (identity.uid.0.clone(), identity.shard.to_string());
        let Some(source) = self.moves.import.as_ref().map(|import| import.source) else { return };
        let place = self.place(source);
        let Some(import) = &mut self.moves.import else { return };
        import.stage = Stage::Connecting;
        let (generation, from) = (import.generation, import.from.to_string());
        let Ok(slots) = serde_json::to_string(&import.slots) else { return };
        let mailbox = self.mailbox();
        let ask = move || {
            let args = ["KV", "EXPORT", &uid, &from, &shard, &slots];
            mailbox.send(Event::Import(generation, connect(&place, &args)));
        };
        let started = std::thread::Builder::new().name("kv-import".into()).stack_size(256 * 1024).spawn(ask);
        if let Err(error) = started {
            self.fail_import(&format!("no thread for it can be started: {error}"));
        }
    }

    /// The source has answered.
    pub(in crate::server) fn on_import(&mut self, generation: u64, arrival: Arrival) {
        if self.moves.import.as_ref().is_none_or(|import| import.generation != generation) {
            return;
        }
        let (stream, leftover) = match arrival {
            Ok(arrival) => arrival,
            Err(error) => return self.fail_import(&error.to_string()),
        };
        let peer = stream.peer_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let ready = stream.set_nonblocking(true).is_ok();
        let key = self.add_client(mio::net::TcpStream::from_std(stream), peer, User::Replica);
        let Some(key) = key.filter(|_| ready) else { return self.fail_import("its socket cannot be used") };
        if let Some(client) = self.clients.get_mut(key) {
            client.kind = Kind::Import;
            client.input = leftover;
        }
        if let Some(import) = &mut self.moves.import {
            import.stage = Stage::Streaming(key);
        }
    }

    /// Takes a command of the source. Returns false if it has to wait: it is run again later.
    pub(in crate::server) fn apply_import(&mut self, key: ClientKey, args: &[&[u8]]) -> bool {
        let streaming = |import: &Import| matches!(import.stage, Stage::Streaming(of) if of == key);
        if !self.moves.import.as_ref().is_some_and(streaming) {
            self.clients.doom(key);
            return true;
        }
        if !self.takes_import() {
            if let Some(client) = self.clients.get_mut(key) {
                client.blocked = Some(Blocked::Pause);
            }
            return false;
        }
        let words = Args::new(args);
        if words.len() == 0 || words.is(0, "ping") {
            return true;
        }
        if words.is(0, "kv") && words.is(1, "mark") {
            let id = String::from_utf8_lossy(words.at(2)).into_owned();
            let offset = self.history.offset();
            if let Some(import) = &mut self.moves.import {
                import.complete = Some(Completion { id, offset });
            }
            return true;
        }
        if self.tunables.maxmemory > 0 {
            self.make_room();
            if self.out_of_memory() {
                self.fail_import("there is no memory for it (maxmemory)");
                return true;
            }
        }
        match self.execute_silently(0, words) {
            Ok(()) => self.replicate(0, args),
            Err(error) => self.fail_import(&error),
        }
        true
    }

    /// Whether this node can take more now: it may write, and its replicas keep up.
    fn takes_import(&self) -> bool {
        let offset = self.history.offset();
        let lags = |acked: u64| offset.saturating_sub(acked) > MOST_LAG;
        self.may_originate() && !self.clients.feeds().any(|(_, feed)| feed.online() && lags(feed.acked))
    }

    /// Ends the import; what has arrived of it stays, if it is complete, until it is begun anew or given up.
    pub(super) fn fail_import(&mut self, why: &str) {
        let now = self.clock.instant;
        let Some(import) = &mut self.moves.import else { return };
        if import.error.is_none() {
            warning!("The import of the slots {} from shard {} failed: {why}", import.slots, import.from);
            import.error = Some((why.to_owned(), now));
        }
        if why.contains("flushed") {
            import.complete = None;
        }
        if let Stage::Streaming(key) = std::mem::replace(&mut import.stage, Stage::Over) {
            self.clients.doom(key);
        }
    }

    /// The connection of the source was closed.
    pub(in crate::server) fn on_import_closed(&mut self, key: ClientKey) {
        let streaming = |import: &Import| matches!(import.stage, Stage::Streaming(of) if of == key);
        if self.moves.import.as_ref().is_some_and(streaming) {
            self.fail_import("the connection was closed");
        }
    }

    /// Gives the import up: what has arrived of it is deleted.
    pub(super) fn drop_import(&mut self) {
        self.fail_import("it is given up");
        if let Some(import) = self.moves.import.take() {
            self.moves.leftovers = std::mem::take(&mut self.moves.leftovers).union(&import.slots);
        }
        self.keyspace.stage(None);
    }

    /// The slots are this shard's now.
    pub(super) fn finish_import(&mut self) {
        let Some(import) = self.moves.import.take() else { return };
        notice!("The slots {} are this shard's now", import.slots);
        if let Stage::Streaming(key) = import.stage {
            self.clients.doom(key);
        }
        self.keyspace.stage(None);
    }

    pub(super) fn tend_import(&mut self) {
        let Some(Import { stage: Stage::Streaming(key), .. }) = &self.moves.import else { return };
        let key = *key;
        let Some(client) = self.clients.get(key) else { return };
        if client.blocked.is_some() {
            if self.takes_import() {
                self.unblock(key);
            }
        } else if self.clock.instant.saturating_duration_since(client.active) > SILENCE {
            self.fail_import("the source is silent");
        }
    }
}

fn connect(place: &Place, args: &[&str]) -> Arrival {
    let mut connection = peers::connect(place, TIMEOUT)?;
    peers::call(&mut connection, args)?;
    let leftover = connection.buffer().to_vec();
    Ok((connection.into_inner(), leftover))
}
