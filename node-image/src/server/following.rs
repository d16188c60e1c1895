//! Following a parent: making the link, taking what it brings, losing it.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use kv_core::control::{DataState, Discarded};
use kv_core::id::{Epoch, NodeId};

use super::{Event, Kind, Server, User};
use crate::keyspace::Keyspace;
use crate::replication::{Attach, Feed, Outcome, ParentLink, Peer, Stage, Target};
use crate::{notice, verbose, warning};

/// How long to wait after a failed attempt.
const RETRY: Duration = Duration::from_millis(200);
const ACK_EVERY: Duration = Duration::from_secs(1);

impl Server {
    /// Follows a parent from now on.
    pub(crate) fn follow(&mut self, address: (String, u16), parent: Option<NodeId>) {
        if let Some(link) = &self.link
            && link.parent == parent
            && link.address == address
        {
            return;
        }
        notice!("Following {}:{}", address.0, address.1);
        self.drop_link();
        self.release_waits();
        self.link_generation += 1;
        self.link = Some(ParentLink::new(address, parent, self.link_generation, self.clock.instant));
        crate::log::set_role(b'S');
        self.attach_if_due();
    }

    /// Follows nobody from now on: the node goes on with a history of its own.
    pub(crate) fn follow_nobody(&mut self) {
        if self.link.is_none() {
            return;
        }
        self.drop_link();
        self.link = None;
        self.history.fork(&mut self.random);
        self.drop_replicas();
        crate::log::set_role(b'M');
        notice!("Following nobody; replication id is now {}", self.history.replid);
    }

    /// Ends the link's connection or attempt. The link stays, and is made again when it is due.
    pub(crate) fn drop_link(&mut self) {
        let (now, retry_at) = (self.clock.instant, self.clock.instant + RETRY);
        let Some(link) = &mut self.link else { return };
        link.down_since.get_or_insert(now);
        self.link_generation += 1;
        link.generation = self.link_generation;
        if let Stage::Streaming(key) = std::mem::replace(&mut link.stage, Stage::Idle { retry_at })
            && let Some(client) = self.clients.get_mut(key)
        {
            // It is the parent no more: closing it is no loss of the link.
            client.kind = Kind::Normal;
            self.clients.doom(key);
        }
    }

    /// The parent has, or sends, what this node has no place for, or cannot complete a snapshot: it is tried again later. For
    /// `chance` see [`ParentLink::hold_back`].
    pub(super) fn refuse_parent(&mut self, text: String, chance: bool) {
        let now = self.clock.instant;
        if let Some(link) = &mut self.link {
            let wait = link.hold_back(now, chance).as_secs();
            warning!("{text}. A full synchronisation is tried in {wait} s.");
        }
        self.stats.last_link_error = text;
    }

    pub(super) fn on_link_lost(&mut self, why: &str) {
        warning!("Link to the parent lost: {why}");
        let retry_at = self.clock.instant + Duration::from_millis(20);
        let now = self.clock.instant;
        if let Some(link) = &mut self.link {
            link.stage = Stage::Idle { retry_at };
            link.down_since.get_or_insert(now);
        }
    }

    /// Reads and applies what has arrived from the parent so far.
    pub(crate) fn drain_link(&mut self) {
        /// A parent that goes on to send is not waited for.
        const MOST_READS: usize = 1024;
        let Some(key) = self.link.as_ref().and_then(ParentLink::client) else { return };
        for _ in 0..MOST_READS {
            if !self.fill_input(key) {
                return;
            }
            self.execute_input(key);
        }
    }

    /// Begins an attempt now if none is under way: there are news of the parent.
    pub(crate) fn attach_now(&mut self) {
        let now = self.clock.instant;
        if let Some(Stage::Idle { retry_at }) = self.link.as_mut().map(|link| &mut link.stage) {
            *retry_at = now;
        }
        self.attach_if_due();
    }

    /// Begins an attempt if one is due. A fenced node follows nobody until it is told whom.
    pub(super) fn attach_if_due(&mut self) {
        let Some(link) = &self.link else { return };
        let Stage::Idle { retry_at } = link.stage else { return };
        if self.clock.instant < retry_at.max(link.held_back) || self.routing.is_fenced() {
            return;
        }
        let (generation, target) = (link.generation, self.attach_target(link));
        let mailbox = self.mailbox();
        let started =
            Attach::start(target, move |outcome| mailbox.send(Event::Attached(generation, outcome)));
        let Some(link) = &mut self.link else { return };
        link.stage = match started {
            Ok(attach) => Stage::Attaching(attach),
            Err(error) => {
                warning!("Cannot start a thread to attach to the parent: {error}");
                Stage::Idle { retry_at: self.clock.instant + RETRY }
            }
        };
    }

    fn attach_target(&self, link: &ParentLink) -> Target {
        let settings = &self.config.settings;
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (user, password, peer, addresses) = match (self.routing.peer(), link.parent) {
            (Some((uid, shard, id, epoch)), Some(parent)) => (
                Some(kv_core::control::REPLICATION_USER.to_owned()),
                self.config.control_password.clone(),
                Some(Peer { uid, shard, id, epoch, parent }),
                self.routing.addresses(parent),
            ),
            _ => (
                some(settings.text("masteruser")),
                some(settings.text("masterauth")),
                None,
                vec![link.address.clone()],
            ),
        };
        Target {
            addresses,
            user,
            password,
            peer,
            run_id: self.run_id.clone(),
            feeds: self
                .clients
                .replicas()
                .iter()
                .any(|key| self.clients.get(*key).is_some_and(|one| one.feed().is_some_and(Feed::online))),
            port: u16::try_from(settings.number("replica-announce-port"))
                .ok()
                .filter(|port| *port > 0)
                .unwrap_or(self.port),
            announce_ip: settings.text("replica-announce-ip").to_owned(),
            // Nobody shares a history that was not counted from its beginning on.
            history: match &self.history {
                history if history.is_recorded() => (history.replid.clone(), history.offset()),
                _ => (String::new(), 0),
            },
            databases: self.stream_databases(),
            tracking: self.tunables.tracking,
            timeout: self.tunables.repl_timeout.max(Duration::from_secs(1)),
            failover: self.failover.as_ref().is_some_and(|failover| failover.in_progress()),
        }
    }

    /// How many databases a parent's data may be in. Clients of a cluster reach the first one only, so that what is in others
    /// would be lost to them.
    pub(super) fn stream_databases(&self) -> usize {
        if self.adoption.is_some() { 1 } else { self.keyspace.databases() }
    }

    /// What came of an attempt. What comes of one that was given up is dropped, and its socket with it.
    pub(super) fn on_attached(&mut self, generation: u64, outcome: Outcome) {
        let Some(link) = self.link.as_mut().filter(|link| link.generation == generation) else { return };
        link.heard = self.clock.instant;
        match outcome {
            Outcome::Lineage(lineage) => link.lineage = lineage,
            Outcome::SyncStarted => {
                if let Stage::Attaching(attach) =
                    std::mem::replace(&mut link.stage, Stage::Idle { retry_at: self.clock.instant })
                {
                    link.stage = Stage::Syncing(attach);
                }
                self.routing.set_data(DataState::Syncing);
                notice!("Full synchronisation with the parent begins");
            }
            Outcome::Unfit(text) => {
                link.stage = Stage::Idle { retry_at: self.clock.instant + RETRY };
                self.refuse_parent(text, false);
            }
            Outcome::Failed(text) => {
                let syncing = matches!(link.stage, Stage::Syncing(_));
                link.stage = Stage::Idle { retry_at: self.clock.instant + RETRY };
                if syncing {
                    let text = format!("The full synchronisation with the parent failed: {text}");
                    return self.refuse_parent(text, true);
                }
                self.failover_refused(&text);
                verbose!("Attaching to the parent failed: {text}");
                if self.stats.last_link_error != text {
                    warning!("Attaching to the parent failed: {text}");
                    self.stats.last_link_error = text;
                }
            }
            Outcome::Continue { stream, leftover, replid, previous } => {
                let switch = previous
                    .filter(|(id, _)| *id == self.history.replid)
                    .map_or(self.history.offset(), |(_, switch)| switch);
                if replid != self.history.replid {
                    self.history.rename(replid, switch);
                    self.drop_replicas();
                }
                self.stats.partial_syncs += 1;
                self.note_discarded(Some(0));
                notice!("Partial resynchronisation with the parent at offset {}", self.history.offset());
                self.stream_from(stream, leftover);
            }
            Outcome::Loaded {
                stream,
                leftover,
                keyspace,
                replid,
                offset,
                stream_db,
                write_epoch,
                previous,
            } => {
                // What a source says of epochs is of another cluster.
                let write_epoch = if self.adoption.is_some() { Epoch(0) } else { write_epoch };
                self.note_discarded(self.history.beyond(&replid, offset, previous.as_ref()));
                self.load_snapshot(*keyspace, replid, offset, stream_db, write_epoch);
                self.routing.set_data(DataState::Live);
                self.stream_from(stream, leftover);
            }
        }
    }

    /// This node has come to follow its master, and gave up so many bytes for it; `None`: nobody knows how many. What it gave
    /// up at first is reported until it follows another master, or gives up more.
    fn note_discarded(&mut self, bytes: Option<u64>) {
        if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
            self.stats.discarded_bytes += bytes;
            warning!("Discarded {bytes} bytes of the stream that the master had never got");
        }
        let Some(config) = self.routing.config() else { return };
        let present = Discarded { master: config.master, epoch: config.epoch, bytes };
        if bytes != Some(0) || self.discarded.is_none_or(|before| before.master != present.master) {
            self.discarded = Some(present);
        }
    }

    fn load_snapshot(
        &mut self,
        keyspace: Keyspace,
        replid: String,
        offset: u64,
        stream_db: Option<usize>,
        write_epoch: Epoch,
    ) {
        notice!("Full synchronisation with the parent done: {} keys at offset {offset}", keyspace.total());
        self.drop_replicas();
        self.keyspace.replace_all(keyspace);
        self.history.adopt(replid, offset);
        // Offsets of another history say nothing of this one, which may be shorter.
        self.clients.iter_mut().for_each(|(_, client)| (client.write_offset, client.read_offset) = (0, 0));
        self.history.stream_db = stream_db;
        self.stats.full_syncs += 1;
        self.freshness = super::staleness::Freshness::default();
        self.routing.restore_write_epoch(write_epoch);
        self.restart_aof();
    }

    /// Makes the link's socket a client of the loop, on which the stream flows.
    fn stream_from(&mut self, stream: TcpStream, leftover: Vec<u8>) {
        let peer = stream.peer_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let ready = stream.set_nonblocking(true).is_ok();
        let key =
            self.add_client(mio::net::TcpStream::from_std(stream), peer, User::Replica).filter(|_| ready);
        let Some(client) = key.and_then(|key| self.clients.get_mut(key)) else {
            return self.on_link_lost("its socket cannot be used");
        };
        client.kind = Kind::Parent;
        client.input = leftover;
        client.db = self.history.stream_db.unwrap_or(0);
        self.stats.last_link_error.clear();
        if let (Some(link), Some(key)) = (&mut self.link, key) {
            link.stage = Stage::Streaming(key);
            link.down_since = None;
            link.heard = self.clock.instant;
        }
        self.begin_catching_up();
        self.send_ack();
        self.complete_failover();
    }

    /// Tells the parent how far this node is.
    pub(super) fn send_ack(&mut self) {
        let Some(key) = self.link.as_ref().and_then(ParentLink::client) else { return };
        let offset = self.history.offset();
        let synced = self.persistence.synced().map(|synced| synced.to_string());
        let managed = self.link.as_ref().is_some_and(|link| link.parent.is_some());
        let epoch = self.routing.config().filter(|_| managed).map(|config| config.epoch.to_string());
        if let Some(client) = self.clients.get_mut(key) {
            let text = offset.to_string();
            let mut words: Vec<&[u8]> = vec![b"REPLCONF", b"ACK", text.as_bytes()];
            for (name, value) in [(&b"FACK"[..], &synced), (b"KV-EPOCH", &epoch)] {
                if let Some(value) = value {
                    words.extend([name, value.as_bytes()]);
                }
            }
            super::propagate::encode(&mut client.output, &words);
        }
        self.stats.acked_offset = offset;
        self.stats.last_ack = self.clock.instant;
        self.clients.queue_write(key);
    }

    /// Periodic work of a replica: attach, acknowledge, notice a silent parent.
    pub(super) fn tend_link(&mut self) {
        self.attach_if_due();
        let Some(link) = &self.link else { return };
        let Some(key) = link.client() else { return };
        if self.clock.instant.saturating_duration_since(link.heard) > self.tunables.repl_timeout {
            warning!("MASTER timeout: no data nor PING received...");
            return self.clients.doom(key);
        }
        if self.clock.instant.saturating_duration_since(self.stats.last_ack) >= ACK_EVERY {
            self.send_ack();
        }
    }
}
