//! A connection: its buffers and what is known of who is at the other end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use kv_core::directive::OutputLimit;
use mio::net::TcpStream;

use super::pubsub::Scope;
use super::transactions::{Session, Transaction};
use crate::command::table::{self, Table};
use crate::config::Tunables;
use crate::replication::{Feed, FeedState};
use crate::resp::{Limits, Protocol, Reply, Request, RequestParser, fail_replies};

/// What a buffer may take when there is nothing in it.
pub(super) const IDLE_BUFFER: usize = 512;
/// Bytes below which it is not worth the effort to make a buffer smaller.
const SPARE: usize = 64 * 1024;

/// Names a client as long as it is connected: its place in [`super::Clients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub usize);

/// Who a client has shown to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Nobody yet: a password is asked for.
    Nobody,
    /// The default user: everything but control commands.
    Default,
    /// The operator: control commands.
    Operator,
    /// Another node of the shard: replication.
    Replica,
}

impl User {
    /// Whether it is the operator or a node.
    #[must_use]
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Operator | Self::Replica)
    }

    /// Its name in ACL terms.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody | Self::Default => "default",
            Self::Operator => kv_core::control::USER,
            Self::Replica => kv_core::control::REPLICATION_USER,
        }
    }
}

/// The longest argument of a request of the operator or a node, in bytes.
const PEER_BULK: usize = 64 * 1024 * 1024;

/// The limits of what the operator or a node has not read yet.
static PEER_OUTPUT: OutputLimit =
    OutputLimit { class: "normal", hard: 256 * 1024 * 1024, soft: 0, seconds: 0 };

/// What a connection is for.
#[derive(Debug)]
pub enum Kind {
    /// Requests and replies.
    Normal,
    /// A replica that this node feeds.
    Replica(Box<Feed>),
    /// The parent that this node follows: its requests are applied, and nothing is replied.
    Parent,
    /// The master of another shard, which gets slots from here.
    Export,
    /// The master of another shard, which slots come from: its requests are applied, and nothing is replied.
    Import,
}

/// Whose memory is counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Account {
    /// Clients that `maxmemory-clients` may close.
    #[default]
    Evictable,
    /// Clients that it spares: the operator, nodes of the shard, the parent, and who asked by `CLIENT NO-EVICT`.
    Spared,
    /// Replicas that are fed: they have limits of their own, and do not count towards `maxmemory`.
    Replica,
}

/// Since when a client's output is above its soft limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slowness(Option<Instant>);

impl Slowness {
    /// Whether so many bytes of output are more than the limit allows, or were so for too long.
    pub fn exceeds(&mut self, limit: &OutputLimit, pending: u64, now: Instant) -> bool {
        let above = |limit: u64| limit > 0 && pending > limit;
        if !above(limit.soft) {
            self.0 = None;
            return above(limit.hard);
        }
        let since = *self.0.get_or_insert(now);
        above(limit.hard) || now.saturating_duration_since(since).as_secs() >= limit.seconds
    }

    /// Whether it is above its soft limit.
    #[must_use]
    pub fn is_slow(self) -> bool {
        self.0.is_some()
    }
}

/// Replies that wait until other nodes hold what they tell, in the order of the output.
#[derive(Debug, Default)]
pub struct Held {
    /// Bytes at the head of the unwritten output that may leave.
    free: usize,
    parts: VecDeque<Part>,
}

/// Replies of one tick that follow on each other.
#[derive(Debug)]
struct Part {
    bytes: usize,
    /// They tell what was written, or found, in data that may yet vanish. The others hold in any case.
    tells: bool,
    /// The offset of the stream at which they were computed.
    offset: u64,
    since: Instant,
}

impl Held {
    fn bytes(&self) -> usize {
        self.free + self.parts.iter().map(|part| part.bytes).sum::<usize>()
    }

    fn push(&mut self, part: Part) {
        if part.bytes > 0 {
            self.parts.push_back(part);
        }
    }

    /// Lets those go that were computed up to `durable`. Returns whether there were any.
    pub fn release(&mut self, durable: u64) -> bool {
        let before = self.free;
        while let Some(part) = self.parts.front()
            && part.offset <= durable
        {
            self.free += part.bytes;
            self.parts.pop_front();
        }
        self.free > before
    }

    /// Whether any wait.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Since when the first one waits.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.parts.front().map(|part| part.since)
    }
}

/// Why a client's requests are not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Writes are held for a hand-over; the request at the head of its buffer is run again afterwards.
    Pause,
    /// `WAIT`: until `replicas` have acknowledged `offset`, or the deadline.
    Wait {
        /// Offset to reach.
        offset: u64,
        /// Number of replicas.
        replicas: usize,
        /// `WAITAOF`: until they have it on the disk; and whether this node is to, too.
        on_disk: Option<bool>,
        /// When to give up; `None` for never.
        deadline: Option<Instant>,
    },
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    /// `CLIENT ID`: grows, and is never used twice.
    pub id: u64,
    /// The socket.
    pub stream: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
    /// Bytes that were read and not used yet.
    pub input: Vec<u8>,
    /// Where the parser stands in `input`.
    pub parser: RequestParser,
    /// The request that is being read.
    pub request: Request,
    /// Replies to be written.
    pub output: Vec<u8>,
    /// How much of `output` was written.
    pub written: usize,
    /// Protocol of replies.
    pub protocol: Protocol,
    /// Selected database.
    pub db: usize,
    /// Who it has shown to be.
    pub user: User,
    /// What it is for.
    pub kind: Kind,
    /// It came by `sentinel-port`: it has commands and channels of its own.
    pub sentinel: bool,
    /// `CLIENT SETNAME`.
    pub name: String,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: String,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_version: String,
    /// `READONLY` was given: reads may be served by a replica.
    pub readonly: bool,
    /// It sent CLUSTER, READONLY or READWRITE: it knows what MOVED means.
    pub knows_cluster: bool,
    /// When it was first told that its requests are for another node.
    pub misdirected: Option<Instant>,
    /// Why its requests are not read on.
    pub blocked: Option<Blocked>,
    /// Closed as soon as its output is written.
    pub closing: bool,
    /// To be closed at once.
    pub doomed: bool,
    /// The socket may have more to read.
    pub readable: bool,
    /// The other end sends no more, or the connection is broken: reading comes to its end.
    pub hung_up: bool,
    /// Its input may hold whole requests, which could not run yet.
    pub stopped: bool,
    /// The socket is watched for room to write.
    pub wants_write: bool,
    /// It has a place beyond `maxclients`, which is for the operator and for replicas.
    pub reserved: bool,
    /// Replies that wait for other nodes; `None` if all of the output may leave.
    pub held: Option<Box<Held>>,
    /// The command that runs has written, or looked at data.
    pub tells: bool,
    /// Where in the output replies of this tick stand that tell nothing of data, and messages.
    plain: Vec<Range<usize>>,
    /// `CLIENT NO-EVICT`: `maxmemory-clients` spares it.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`: what it reads counts as not used.
    pub no_touch: bool,
    /// `CLIENT REPLY`: which replies it gets.
    pub replies: Replies,
    /// Since when its output is above the soft limit.
    pub slowness: Slowness,
    /// What is counted for it.
    pub(super) counted: (Account, usize),
    /// It is in the list of those to be read from.
    pub woken: bool,
    /// It is in the list of those to be written to.
    pub queued: bool,
    /// When it connected.
    pub since: Instant,
    /// When it last sent something.
    pub active: Instant,
    /// Its last command.
    pub last_command: &'static str,
    /// Number of its commands.
    pub commands: u64,
    /// Where the replication stream stood after its last write.
    pub write_offset: u64,
    /// Where it stood when the client was last told something of the data.
    pub read_offset: u64,
    /// What only some clients have: a transaction, watched keys.
    pub session: Option<Box<Session>>,
}

/// Which replies a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// All.
    Sent,
    /// None to the next command, and all after that.
    SkipNext,
    /// None to this command, and all after it.
    Skipped,
    /// None, until it asks for them.
    Off,
}

impl Replies {
    /// Whether what is replied now is not sent.
    #[must_use]
    pub fn are_muted(self) -> bool {
        matches!(self, Self::Skipped | Self::Off)
    }

    /// A command of the client is about to be answered.
    #[must_use]
    pub fn of_next_command(self) -> Self {
        match self {
            Self::SkipNext => Self::Skipped,
            Self::Skipped => Self::Sent,
            Self::Sent | Self::Off => self,
        }
    }
}

impl Client {
    /// A client that just connected.
    #[must_use]
    pub fn new(
        id: u64,
        stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        user: User,
        now: Instant,
    ) -> Self {
        Self {
            id,
            stream,
            peer,
            local,
            input: Vec::new(),
            parser: RequestParser::default(),
            request: Request::default(),
            output: Vec::new(),
            written: 0,
            protocol: Protocol::Resp2,
            db: 0,
            user,
            kind: Kind::Normal,
            sentinel: false,
            name: String::new(),
            lib_name: String::new(),
            lib_version: String::new(),
            readonly: false,
            knows_cluster: false,
            misdirected: None,
            blocked: None,
            closing: false,
            doomed: false,
            readable: true,
            hung_up: false,
            stopped: false,
            wants_write: false,
            reserved: false,
            held: None,
            tells: false,
            plain: Vec::new(),
            no_evict: false,
            no_touch: false,
            replies: Replies::Sent,
            slowness: Slowness::default(),
            counted: (Account::Evictable, 0),
            woken: false,
            queued: false,
            since: now,
            active: now,
            last_command: "NULL",
            commands: 0,
            write_offset: 0,
            read_offset: 0,
            session: None,
        }
    }

    /// The commands that it may send.
    #[must_use]
    pub fn table(&self) -> &'static Table {
        if self.sentinel { &crate::sentinel::TABLE } else { &table::NODE }
    }

    /// Whether it is the parent that this node follows.
    #[must_use]
    pub fn is_parent(&self) -> bool {
        matches!(self.kind, Kind::Parent)
    }

    /// Whether what it sends was checked by another node, and is applied.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self.kind, Kind::Parent | Kind::Import)
    }

    /// The feed, if it is a replica.
    #[must_use]
    pub fn feed(&self) -> Option<&Feed> {
        match &self.kind {
            Kind::Replica(feed) => Some(feed),
            _ => None,
        }
    }

    /// The feed, if it is a replica.
    pub fn feed_mut(&mut self) -> Option<&mut Feed> {
        match &mut self.kind {
            Kind::Replica(feed) => Some(feed),
            _ => None,
        }
    }

    /// Whether it has subscribed to anything.
    #[must_use]
    pub fn is_subscriber(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.subscriptions.is_empty())
    }

    /// The limits of its output; none for a replica and the parent, which have limits of their own. Directives do not limit
    /// the operator and nodes: they could not be set right again.
    #[must_use]
    pub fn output_limit<'a>(&self, tunables: &'a Tunables) -> Option<&'a OutputLimit> {
        match self.kind {
            Kind::Normal if self.user.is_peer() => Some(&PEER_OUTPUT),
            Kind::Normal if self.is_subscriber() => Some(&tunables.pubsub_output),
            Kind::Normal => Some(&tunables.normal_output),
            Kind::Replica(_) | Kind::Parent | Kind::Export | Kind::Import => None,
        }
    }

    /// Bytes of its input that are buffered.
    #[must_use]
    pub fn most_input(&self, tunables: &Tunables) -> usize {
        match self.user {
            _ if self.is_applied() => usize::MAX,
            user if user.is_peer() => 2 * PEER_BULK,
            _ => tunables.query_buffer,
        }
    }

    /// Bounds on its requests.
    #[must_use]
    pub fn request_limits(&self, tunables: &Tunables) -> Limits {
        match self.user {
            // Its limits change when it authenticates.
            User::Nobody => Limits::UNAUTHENTICATED,
            _ if self.is_applied() => Limits::trusted(usize::MAX / 4),
            user if user.is_peer() => Limits::trusted(PEER_BULK),
            _ => tunables.limits,
        }
    }

    /// Whether more output waits for it than its class allows, or has for too long.
    pub fn exceeds_output(&mut self, tunables: &Tunables, now: Instant) -> bool {
        let pending = self.pending() as u64;
        self.output_limit(tunables).is_some_and(|limit| self.slowness.exceeds(limit, pending, now))
    }

    /// Bytes of output beyond which it is closed in any case, so that there is no use in more; 0 for none.
    #[must_use]
    pub fn most_output(&self, tunables: &Tunables) -> u64 {
        let hard = self.output_limit(tunables).map_or(0, |limit| limit.hard);
        match tunables.maxmemory_clients {
            0 => hard,
            _ if self.account() != Account::Evictable => hard,
            most if hard == 0 => most,
            most => most.min(hard),
        }
    }

    /// A writer to its output.
    pub fn reply(&mut self, tunables: &Tunables) -> Reply<'_> {
        let limit = match self.most_output(tunables) {
            0 => usize::MAX,
            most => usize::try_from(most).unwrap_or(usize::MAX).saturating_add(self.written),
        };
        Reply::new(&mut self.output, self.protocol).limited(limit)
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let texts = self.name.capacity() + self.lib_name.capacity() + self.lib_version.capacity();
        let session = self.session.as_ref().map_or(0, |session| size_of::<Session>() + session.bytes());
        let buffers = self.input.capacity() + self.request.memory() + self.output.capacity();
        size_of::<Self>() + buffers + texts + session
    }

    /// Whose memory it is counted with.
    #[must_use]
    pub fn account(&self) -> Account {
        match &self.kind {
            Kind::Replica(feed) if feed.state != FeedState::Handshake => Account::Replica,
            Kind::Parent | Kind::Export | Kind::Import => Account::Spared,
            _ if self.no_evict || self.user.is_peer() => Account::Spared,
            _ => Account::Evictable,
        }
    }

    /// Whether `CLIENT PAUSE ALL` holds its commands: not those of the operator, of nodes, and on `sentinel-port`.
    #[must_use]
    pub fn is_pausable(&self) -> bool {
        matches!(self.kind, Kind::Normal) && !self.user.is_peer() && !self.sentinel
    }

    /// Bytes of replies that may be written now.
    #[must_use]
    pub fn sendable(&self) -> usize {
        self.held.as_ref().map_or(self.pending(), |held| held.free)
    }

    /// Holds what was added to the output since the last time, until other nodes hold the stream up to `offset`.
    pub fn hold(&mut self, offset: u64, now: Instant) {
        let held = self.held.get_or_insert_default();
        let mut at = self.written + held.bytes();
        let part = |bytes, tells| Part { bytes, tells, offset, since: now };
        for plain in self.plain.drain(..) {
            let (start, end) = (plain.start.max(at), plain.end.max(at));
            held.push(part(start - at, true));
            held.push(part(end - start, false));
            at = end;
        }
        held.push(part(self.output.len().saturating_sub(at), true));
    }

    /// What was added to the output since it had this length tells nothing of data.
    pub fn note_plain(&mut self, start: usize) {
        let end = self.output.len();
        match self.plain.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ if start < end => self.plain.push(start..end),
            _ => {}
        }
    }

    /// What was added to the output in this tick is held, or needs not be.
    pub fn forget_plain(&mut self) {
        self.plain.clear();
    }

    /// Turns held replies that tell of data into `error`: those from before `until`, or all. Returns how many there were;
    /// `None` if one cannot be told from the next.
    pub fn fail_held(&mut self, error: &str, until: Option<Instant>) -> Option<u64> {
        let Some(held) = &mut self.held else { return Some(0) };
        let late = |part: &Part| until.is_none_or(|until| part.since <= until);
        let start = self.written + held.free;
        let (mut end, mut count, mut instead) = (start, 0, Vec::new());
        while let Some(part) = held.parts.front().filter(|part| late(part)) {
            let replies = self.output.get(end..end + part.bytes)?;
            match part.tells {
                true => count += fail_replies(replies, error, &mut instead)?,
                false => instead.extend_from_slice(replies),
            }
            end += part.bytes;
            held.parts.pop_front();
        }
        held.free += instead.len();
        // What follows moves.
        let moved = |at: usize| (at + start + instead.len()).saturating_sub(end);
        self.plain.iter_mut().for_each(|plain| *plain = moved(plain.start)..moved(plain.end));
        self.output.splice(start..end, instead);
        Some(count)
    }

    /// Takes `count` bytes of the output as written. Memory that is not needed is given back.
    pub fn wrote(&mut self, count: usize) {
        self.written += count;
        if let Some(held) = &mut self.held {
            held.free = held.free.saturating_sub(count);
            if held.bytes() == 0 {
                self.held = None;
            }
        }
        if self.pending() == 0 {
            self.output.clear();
            self.written = 0;
        } else if self.written > SPARE && self.written > self.output.len() / 2 {
            // One that never reads all of it would have it grow for ever.
            self.output.drain(..self.written);
            self.written = 0;
            self.output.shrink_to(self.output.len() * 2);
        }
    }

    /// Drops the first bytes of the input, which were used. Memory that is not needed is given back.
    pub fn used(&mut self, count: usize) {
        self.input.drain(..count.min(self.input.len()));
        if self.input.is_empty() && self.input.capacity() > IDLE_BUFFER {
            self.input = Vec::new();
        } else if self.input.capacity() > SPARE && self.input.capacity() / 4 > self.input.len() {
            self.input.shrink_to(self.input.len() * 2);
        }
    }

    /// Bytes of replies that wait to be written.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.output.len() - self.written
    }

    /// Its line in `CLIENT LIST`; `dirty`: a key changed that it watches.
    #[must_use]
    pub fn describe(&self, now: Instant, dirty: bool) -> String {
        let session = self.session.as_deref();
        let open = session.and_then(|session| session.transaction.as_ref());
        let subscribed = |scope| session.map_or(0, |session| session.subscriptions.of(scope).len());
        let flags = [
            ("S", matches!(self.kind, Kind::Replica(_))),
            ("M", self.is_parent()),
            ("P", self.is_subscriber()),
            ("x", open.is_some()),
            ("b", self.blocked.is_some()),
            ("d", dirty),
            ("c", self.closing),
            ("r", self.readonly),
            ("e", self.no_evict),
            ("T", self.no_touch),
        ];
        let flags: String = flags.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag).collect();
        let flags = if flags.is_empty() { "N" } else { &flags };
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} multi={} \
             watch={} qbuf={} qbuf-free={} argv-mem={} multi-mem={} rbs=0 rbp=0 obl={} oll=0 omem={} tot-mem={} \
             events={} cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer,
            self.local,
            std::os::fd::AsRawFd::as_raw_fd(&self.stream),
            self.name,
            now.saturating_duration_since(self.since).as_secs(),
            now.saturating_duration_since(self.active).as_secs(),
            self.db,
            subscribed(Scope::Channel),
            subscribed(Scope::Pattern),
            subscribed(Scope::Shard),
            open.map_or(-1, |open| i64::try_from(open.len()).unwrap_or(i64::MAX)),
            session.map_or(0, Session::watched),
            self.input.len(),
            self.input.capacity() - self.input.len(),
            self.request.memory(),
            open.map_or(0, Transaction::bytes),
            self.pending(),
            self.output.capacity(),
            self.memory(),
            if self.wants_write { "rw" } else { "r" },
            self.last_command,
            self.user.name(),
            if self.protocol == Protocol::Resp3 { 3 } else { 2 },
            self.lib_name,
            self.lib_version,
        )
    }
}
