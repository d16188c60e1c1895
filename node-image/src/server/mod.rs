//! The data thread: it owns all state, and runs the event loop.
//!
//! A tick reads all ready sockets, executes what they hold, flushes the append-only file, and writes each connection
//! once. Everything else that happens (signals, what comes of handshakes and saves) arrives as an [`Event`].

mod accept;
mod adoption;
mod client;
mod clients;
mod cron;
mod dispatch;
mod durability;
mod eviction;
mod expiry;
pub mod failover;
mod feeding;
mod following;
mod input;
mod io;
mod lease;
mod lifecycle;
mod loading;
mod managed;
mod memory;
mod moves;
pub mod persistence;
mod plain;
mod propagate;
mod publish;
mod pubsub;
mod role;
mod staleness;
mod stats;
mod transactions;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kv_core::source::Source;
use mio::{Events, Poll, Waker};

pub use client::{Account, Blocked, Client, ClientKey, Kind, Replies, User};
pub use clients::Clients;
pub use lifecycle::StartError;
pub use loading::{LoadError, Loading};
pub use managed::{Refusal, Routing};
pub use memory::{Peaks, Totals};
pub use pubsub::{PubSub, Scope};
pub use stats::Stats;
pub use transactions::{Session, Transaction};

use crate::command::{Effects, Settings};
use crate::config::{Config, Tunables};
use crate::health::Shared;
use crate::keyspace::Keyspace;
use crate::peers::Answer;
use crate::propose::Proposed;
use crate::replication::{History, Outcome, ParentLink, SyncJob};
use crate::resp::Reply;
use crate::sentinel::Sentinel;
use crate::source::News;

/// What other threads tell the data thread.
pub enum Event {
    /// A signal that asks the process to stop.
    Terminate,
    /// What came of the attempt of this generation to attach to a parent.
    Attached(u64, Outcome),
    /// What another node of the shard answered.
    Peer(Answer),
    /// What came of an election that this node began.
    Proposed(Proposed),
    /// What was seen of the source that is followed.
    Source(Source, News),
    /// What came of asking another shard's master for slots, for the import of this generation.
    Import(u64, moves::Arrival),
}

/// Sends events to the data thread, and wakes it.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Event>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Sends an event. If the data thread is gone, so will be the process, and the event is dropped.
    pub fn send(&self, event: Event) {
        if self.sender.send(event).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

/// Time, read once per tick.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// For durations.
    pub instant: Instant,
    /// Unix time in milliseconds.
    pub unix_ms: u64,
}

impl Clock {
    /// The time now.
    #[must_use]
    pub fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// For how long a client that has come may be the operator, or a node, and has not said so yet.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// Writes that are held for a hand-over.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// When the node goes on by itself.
    pub until: Instant,
}

/// Commands that a user asked to hold.
#[derive(Clone, Copy, Debug)]
pub struct ClientPause {
    /// Since when they have been held.
    pub since: Instant,
    /// When they run.
    pub until: Instant,
    /// All of them, not only writes.
    pub all: bool,
}

/// How the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    No,
    /// It waits to be relieved of its master role, at most until then.
    Leaving(Instant),
    /// Everything is saved; it waits until its replicas have everything, too, at most until then.
    Draining(Instant),
    /// At the end of this tick; whether data are to be saved first.
    Now {
        /// Write a snapshot if there are save points or `SHUTDOWN SAVE` asked for it.
        save: Option<bool>,
    },
}

/// The state of the data thread.
pub struct Server {
    /// All directives.
    pub config: Config,
    /// Those that the data thread looks at often.
    pub tunables: Tunables,
    /// Those that data commands look at.
    pub settings: Settings,
    /// The data.
    pub keyspace: Keyspace,
    /// Who has subscribed to what.
    pub pubsub: PubSub,
    /// All connections.
    pub clients: Clients,
    /// Time of this tick.
    pub clock: Clock,
    /// When the process started.
    pub started: Clock,
    /// Counters.
    pub stats: Stats,
    /// Randomness.
    pub random: fastrand::Rng,
    /// New at every start, 40 hex digits.
    pub run_id: String,
    /// Identity, promises, and what is known of the cluster.
    pub routing: Routing,
    /// The replication history.
    pub history: History,
    /// The link to the parent, if this node is a replica.
    pub link: Option<ParentLink>,
    /// What this node gave up when it came to follow its present master.
    pub discarded: Option<kv_core::control::Discarded>,
    /// The source that this node follows in place of a reign of its own.
    pub adoption: Option<adoption::Adoption>,
    /// `FAILOVER` that is under way.
    pub failover: Option<failover::Failover>,
    /// The snapshot that is being sent to replicas.
    pub sync_job: Option<SyncJob>,
    /// Files that are being loaded, which is before the first tick.
    pub loading: Option<Loading>,
    /// Files.
    pub persistence: persistence::Persistence,
    /// What is known of the other nodes of the shard.
    pub lease: lease::Lease,
    /// How new this replica's data is.
    freshness: staleness::Freshness,
    /// What is told on `sentinel-port`.
    pub sentinel: Sentinel,
    /// Clients that were told to go elsewhere, and may not understand that.
    misdirected: Vec<ClientKey>,
    /// This node is a master whose lease is over.
    pub isolated: bool,
    /// Replies that wait for other nodes.
    pub durability: durability::Durability,
    /// Clients that wait by WAIT or WAITAOF, and some that did.
    waiting: Vec<ClientKey>,
    /// Writes are held.
    pub pause: Option<Pause>,
    /// `CLIENT PAUSE`.
    pub client_pause: Option<ClientPause>,
    /// How the process is to end.
    pub ending: Ending,
    /// What other threads see of this one.
    pub shared: Arc<Shared>,
    /// Digest of the directives that the operator gave it last.
    pub config_digest: String,
    /// The directives that the operator gave it last, each with the value from before.
    pub given: BTreeMap<&'static str, kv_core::directive::Value>,
    /// The port that clients connect to.
    pub port: u16,
    /// Slots that come from, or go to, another shard.
    moves: moves::Moves,
    effects: Effects,
    group: transactions::Group,
    scratch: Vec<u8>,
    void: Vec<u8>,
    read_buffer: Vec<u8>,
    eviction: eviction::Eviction,
    expiry: expiry::Pace,
    gathered: Vec<(ClientKey, std::ops::Range<usize>)>,
    batch: input::Batch,
    link_generation: u64,
    /// The database that the stream had selected in the snapshot file that was loaded.
    restored_db: usize,
    next_cron: Instant,
    last_ping: Instant,
    last_line: Instant,
    /// Since when there is no replica.
    unread_since: Option<Instant>,
    listeners: Vec<accept::Listener>,
    /// More connections wait than were taken in one go.
    accepting: bool,
    poll: Poll,
    mailbox: Mailbox,
    events: Receiver<Event>,
}

impl Server {
    /// Runs until the process is to end.
    ///
    /// # Errors
    /// If the system's event queue fails.
    pub fn run(&mut self) -> std::io::Result<()> {
        let mut ready = Events::with_capacity(1024);
        loop {
            let timeout = if self.clients.ready.is_empty() && !self.has_background_work() {
                self.next_cron.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut ready, Some(timeout)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.clock = Clock::now();
            self.shared.beat();
            for event in &ready {
                self.on_ready(event);
            }
            while let Ok(event) = self.events.try_recv() {
                self.on_event(event);
            }
            self.read_clients();
            self.background_work();
            if self.clock.instant >= self.next_cron {
                self.cron();
            }
            self.flush();
            if let Ending::Now { save } = self.ending {
                self.finish(save);
                return Ok(());
            }
        }
    }

    /// Makes what was done in this tick durable and visible: the append-only file first, then replicas and replies.
    /// Replies that wait for other nodes stay.
    fn flush(&mut self) {
        self.flush_aof();
        self.acknowledge_stream();
        self.feed_replicas();
        self.hold_replies();
        self.write_clients();
        self.evict_clients();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Terminate => self.terminate(),
            Event::Attached(generation, outcome) => self.on_attached(generation, outcome),
            Event::Peer(answer) => self.on_peer(answer),
            Event::Proposed(outcome) => self.on_proposed(outcome),
            Event::Source(of, news) => self.on_source(&of, news),
            Event::Import(generation, arrival) => self.on_import(generation, arrival),
        }
    }

    /// A writer to the client's output. What is written for a client that is gone, or wants no reply, is lost.
    pub fn reply(&mut self, key: ClientKey) -> Reply<'_> {
        self.clients.queue_write(key);
        match self.clients.get_mut(key) {
            Some(client) if !client.replies.are_muted() => client.reply(&self.tunables),
            muted => {
                self.void.clear();
                let protocol = muted.map(|client| client.protocol).unwrap_or_default();
                Reply::new(&mut self.void, protocol).limited(0)
            }
        }
    }

    /// Milliseconds of this tick's time since `instant`.
    #[must_use]
    pub fn millis_since(&self, instant: Instant) -> u64 {
        u64::try_from(self.clock.instant.saturating_duration_since(instant).as_millis()).unwrap_or(u64::MAX)
    }

    /// The sender by which other threads reach this one.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }
}
