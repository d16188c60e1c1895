//! Starting and ending: what is done before the first and after the last tick.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use kv_core::control::{DataState, NodeState};
use kv_core::directive::Value;
use kv_core::id::ClusterUid;
use kv_core::shard::Role;
use mio::{Poll, Waker};

use super::accept::{ListenError, WAKER, allow_clients, listen};
use super::managed::Identity;
use super::persistence::Persistence;
use super::{Clients, Clock, Ending, Event, LoadError, Mailbox, Refusal, Routing, Server, Stats};
use crate::command::{Effects, Settings};
use crate::config::{Config, Tunables};
use crate::health::{self, Shared};
use crate::keyspace::Keyspace;
use crate::log::{self, Level};
use crate::persist::save::SaveError;
use crate::persist::{NodeStateFile, StateError};
use crate::replication::{History, random_hex};
use crate::sentinel::Sentinel;
use crate::{notice, warning};

/// For how long a master that was relieved goes on to redirect its clients.
const LINGER: Duration = Duration::from_millis(100);

/// How long a master without replicas waits for one to come back that could take over.
const ALONE: Duration = Duration::from_secs(1);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system's event queue, threads or signals cannot be had.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The log file cannot be opened.
    #[error("cannot open the log file {file}: {error}")]
    Log {
        /// The file.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The state file is in the way.
    #[error(transparent)]
    State(#[from] StateError),
    /// The directory is that of another node.
    #[error("the directory (dir) is not this node's: {0}")]
    Foreign(#[from] Refusal),
    /// Data cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Server {
    /// Brings a node up to its first tick: data loaded, sockets open.
    ///
    /// # Errors
    /// If anything that the node needs cannot be had; nothing was changed then but the state file's identity.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let clock = Clock::now();
        let mut tunables = Tunables::new(&config.settings);
        tunables.compact.make_current();
        let file = config.settings.text("logfile").to_owned();
        log::open(file.as_ref()).map_err(|error| StartError::Log { file, error })?;
        tunables.maxclients = allow_clients(tunables.maxclients);
        let port = u16::try_from(config.settings.number("port")).unwrap_or_default();
        greet(&config, port);
        let poll = Poll::new()?;
        let (sender, events) = mpsc::channel();
        let mailbox = Mailbox { sender, waker: Arc::new(Waker::new(poll.registry(), WAKER)?) };
        watch_signals(mailbox.clone())?;
        let shared = Arc::new(Shared::default());
        serve_health(&config, &shared)?;
        let routing =
            Routing::new(NodeStateFile::open(&config.dir())?, identity(&config), tunables.cluster_enabled)?;
        let backlog = i32::try_from(config.settings.number("tcp-backlog")).unwrap_or(511);
        let sentinel_port = u16::try_from(config.settings.number("sentinel-port")).unwrap_or_default();
        let bind = bind_addresses(&config);
        let mut listeners = listen(&bind, (port, false), backlog, poll.registry())?;
        if sentinel_port > 0 {
            listeners.extend(listen(&bind, (sentinel_port, true), backlog, poll.registry())?);
        }
        let mut random = fastrand::Rng::new();
        let databases = usize::try_from(config.settings.number("databases")).unwrap_or(16);
        let mut server = Self {
            settings: data_settings(&tunables, databases),
            keyspace: Keyspace::new(databases),
            pubsub: super::PubSub::default(),
            clients: Clients::default(),
            clock,
            started: clock,
            stats: Stats::new(clock.instant),
            run_id: random_hex(&mut random),
            history: History::new(&mut random, tunables.backlog),
            routing,
            link: None,
            discarded: None,
            adoption: None,
            failover: None,
            sync_job: None,
            loading: None,
            persistence: Persistence::new(&config, clock.unix_ms),
            lease: super::lease::Lease::new(),
            freshness: super::staleness::Freshness::default(),
            sentinel: Sentinel::new(sentinel_port),
            misdirected: Vec::new(),
            isolated: false,
            durability: super::durability::Durability::default(),
            waiting: Vec::new(),
            pause: None,
            client_pause: None,
            ending: Ending::No,
            shared,
            port,
            config_digest: String::new(),
            given: BTreeMap::new(),
            moves: super::moves::Moves::default(),
            effects: Effects::default(),
            group: super::transactions::Group::No,
            scratch: Vec::new(),
            void: Vec::new(),
            read_buffer: Vec::new(),
            eviction: super::eviction::Eviction::default(),
            expiry: super::expiry::Pace::default(),
            gathered: Vec::new(),
            batch: super::input::Batch::default(),
            link_generation: 0,
            restored_db: 0,
            next_cron: clock.instant,
            last_ping: clock.instant,
            last_line: clock.instant,
            unread_since: None,
            random,
            tunables,
            config,
            listeners,
            accepting: false,
            poll,
            mailbox,
            events,
        };
        notice!("Server initialized");
        server.load()?;
        server.retune_eviction();
        server.take_first_role();
        server.cron();
        notice!("Ready to accept connections tcp");
        Ok(server)
    }

    /// What the node is after a start: what its config makes it, or what the directive `replicaof` does.
    fn take_first_role(&mut self) {
        let restored = !self.keyspace.is_empty();
        let data = if restored { DataState::Restored } else { DataState::Empty };
        self.routing.set_data(data);
        if self.routing.is_managed() {
            notice!(
                "Node {} of shard {:?}: {:?}",
                self.routing.id(),
                self.routing.identity(),
                self.routing.state()
            );
            let follows = self.routing.config().is_some_and(|config| config.source.is_some());
            if self.routing.role() == Some(Role::Replica) || follows {
                self.history.resume(self.restored_db);
                self.follow_configured_parent();
            }
            self.ask_peers();
        } else if let Some(Value::HostPort(Some(address))) = self.config.settings.get("replicaof") {
            let address = address.clone();
            self.history.resume(self.restored_db);
            self.follow(address, None);
        }
    }

    /// Directives were changed: makes them count.
    pub(crate) fn apply_settings(&mut self) {
        self.tunables = Tunables::new(&self.config.settings);
        self.tunables.maxclients = allow_clients(self.tunables.maxclients);
        self.tunables.compact.make_current();
        self.retune_eviction();
        self.settings = data_settings(&self.tunables, self.settings.databases);
        self.history.backlog.resize(self.tunables.backlog);
        self.apply_persistence_settings();
        log::set_level(Level::named(self.config.settings.text("loglevel")));
    }

    /// A signal asks the process to stop. A master that others can take over from, or are about to, waits to be relieved;
    /// a second signal ends the wait.
    pub(super) fn terminate(&mut self) {
        self.ending = match self.ending {
            Ending::No if self.is_relievable() => {
                notice!("Received SIGTERM: waiting for a replica to take over...");
                Ending::Leaving(self.clock.instant + self.tunables.handover_timeout)
            }
            Ending::No if self.may_drain() => {
                notice!("Received SIGTERM scheduling shutdown...");
                if let Err(error) = self.drain(None) {
                    warning!("{error}");
                }
                return;
            }
            _ => {
                notice!("Received SIGTERM scheduling shutdown...");
                Ending::Now { save: None }
            }
        };
    }

    /// Whether there are replicas that may lack something of what this node, a master on its own, has written.
    pub(crate) fn may_drain(&self) -> bool {
        let waits = self.config.settings.number("shutdown-timeout") > 0;
        waits && self.link.is_none() && !self.routing.is_managed() && self.is_fed_from()
    }

    /// Begins to end: nothing is written any more, what there is is saved, and the replicas get what they lack. So they
    /// go on where they were when this node is back, or when another one leads.
    ///
    /// # Errors
    /// If the data cannot be saved; it goes on to end all the same.
    pub(crate) fn drain(&mut self, save: Option<bool>) -> Result<(), SaveError> {
        self.replicate_beat(&[b"REPLCONF", b"GETACK", b"*"]);
        let seconds = self.config.settings.number("shutdown-timeout").min(24 * 3600);
        self.ending = Ending::Draining(self.clock.instant + Duration::from_secs(seconds));
        self.save_at_the_end(save)
    }

    /// Ends the wait of [`Server::drain`] when all replicas have everything, or its time is over.
    pub(crate) fn end_if_drained(&mut self) {
        let Ending::Draining(until) = self.ending else { return };
        let offset = self.history.offset();
        let lagging = self.clients.feeds().filter(|(_, feed)| feed.online() && feed.acked < offset).count();
        if lagging > 0 && self.clock.instant >= until {
            warning!(
                "{lagging} of the replicas lack a part of the stream, and are not waited for any longer"
            );
        } else if lagging > 0 {
            return;
        }
        self.ending = Ending::Now { save: Some(false) };
    }

    /// `SHUTDOWN ABORT`. Returns whether there was anything to be aborted.
    pub(crate) fn abort_ending(&mut self) -> bool {
        let waits = matches!(self.ending, Ending::Draining(_));
        if waits {
            notice!("Shutdown manually aborted.");
            self.ending = Ending::No;
            self.retry_held();
        }
        waits
    }

    /// Whether somebody is there to take over. In the middle of a hand-over the stream is cut, and held clients are to be
    /// redirected when it ends.
    fn is_relievable(&self) -> bool {
        let others = self.routing.config().is_some_and(|config| config.members.len() > 1);
        match self.routing.state() {
            NodeState::Master => self.routing.is_managed() && others && self.is_fed_from(),
            NodeState::Fenced => self.routing.role() == Some(Role::Master) && others,
            NodeState::Blank | NodeState::Joining | NodeState::Replica => false,
        }
    }

    /// Whether a replica gets the stream from here.
    fn is_fed_from(&self) -> bool {
        self.clients.feeds().any(|(_, feed)| feed.online())
    }

    /// Ends the wait of [`Server::terminate`] when this node is master no more, nor about to be none, or its time is over.
    pub(super) fn leave_if_relieved(&mut self, until: std::time::Instant) {
        let now = self.clock.instant;
        if self.routing.state() == NodeState::Master && until > now + ALONE && !self.is_fed_from() {
            // The whole shard may be on its way out: nobody is there to take over, unless one comes back soon.
            self.ending = Ending::Leaving(now + ALONE);
            return;
        }
        let master = matches!(self.routing.state(), NodeState::Master | NodeState::Fenced);
        self.ending = if now >= until {
            Ending::Now { save: None }
        } else if !master && until > now + LINGER {
            notice!("Relieved of the master role");
            Ending::Leaving(now + LINGER)
        } else {
            Ending::Leaving(until)
        };
    }

    /// Saves a snapshot before the process ends, as asked for, or if there are save points; but not of data that were
    /// only loaded in part.
    pub(crate) fn save_at_the_end(&mut self, asked: Option<bool>) -> Result<(), SaveError> {
        // One that is under way must not replace a newer one.
        if let Some(job) = self.take_bgsave() {
            job.end(&mut self.keyspace);
        }
        let wanted = asked.unwrap_or(!self.tunables.save_points.is_empty());
        if wanted && self.loading.is_none() { self.save_now() } else { Ok(()) }
    }

    /// After the last tick: saves what is to be saved.
    pub(super) fn finish(&mut self, save: Option<bool>) {
        if let Err(error) = self.save_at_the_end(save) {
            warning!("{error}");
        }
        if let Some(job) = self.sync_job.take() {
            job.abort(&mut self.keyspace);
        }
        self.close_aof();
        notice!("kv-node is now ready to exit, bye bye...");
    }
}

fn greet(config: &Config, port: u16) {
    log::set_level(Level::named(config.settings.text("loglevel")));
    notice!("kv-node is starting");
    notice!(
        "Redis version={}, kv-node version={}, bits={}, pid={}, just started",
        kv_core::REDIS_VERSION,
        kv_core::VERSION,
        usize::BITS,
        std::process::id()
    );
    let mode = if config.settings.bool("cluster-enabled") { "cluster" } else { "standalone" };
    notice!("Running mode={mode}, port={port}.");
    notice!("Port: {port} PID: {}", std::process::id());
    for name in config.settings.without_effect() {
        warning!("The directive {name} is accepted, and has no effect");
    }
}

fn identity(config: &Config) -> Option<Identity> {
    config.is_managed().then(|| Identity {
        uid: ClusterUid(config.settings.text("kv-cluster-uid").to_owned()),
        shard: u16::try_from(config.settings.number("kv-shard")).unwrap_or_default(),
        name: config.settings.text("kv-node-name").to_owned(),
    })
}

fn bind_addresses(config: &Config) -> Vec<String> {
    match config.settings.get("bind") {
        Some(Value::Words(words)) => words.clone(),
        _ => Vec::new(),
    }
}

fn data_settings(tunables: &Tunables, databases: usize) -> Settings {
    Settings { max_bulk: tunables.limits.bulk, cluster_enabled: tunables.cluster_enabled, databases }
}

fn serve_health(config: &Config, shared: &Arc<Shared>) -> io::Result<()> {
    let port = u16::try_from(config.settings.number("kv-health-port")).unwrap_or_default();
    if port == 0 {
        return Ok(());
    }
    let local = bind_addresses(config).iter().all(|name| name.contains("127.0.0.1") || name.contains("::1"));
    let ip = if local { [127, 0, 0, 1] } else { [0, 0, 0, 0] };
    health::serve(SocketAddr::from((ip, port)), Arc::clone(shared))
}

fn watch_signals(mailbox: Mailbox) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGXFSZ])?;
    std::thread::Builder::new().name("kv-signals".into()).spawn(move || {
        for signal in signals.forever() {
            // A file that may not grow any more is an error of the write that would let it grow.
            if signal != SIGXFSZ {
                mailbox.send(Event::Terminate);
            }
        }
    })?;
    Ok(())
}
