//! Attaching to a parent: connection, handshake, and full synchronisation, on a thread of their own.
//!
//! The data thread gets a socket on which the stream flows, and after a full synchronisation a whole new keyspace; until
//! then it goes on serving what it has.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kv_core::id::{ClusterUid, Epoch, NodeId};

use crate::keyspace::{Keyspace, Tracking};
use crate::persist::rdb;

/// Whom to attach to, and as what.
#[derive(Clone, Debug)]
pub struct Target {
    /// Addresses of the parent, the likeliest first.
    pub addresses: Vec<(String, u16)>,
    /// User to authenticate as; the default user if there is none.
    pub user: Option<String>,
    /// Password; no AUTH if there is none.
    pub password: Option<String>,
    /// For a node of a managed shard: who it is.
    pub peer: Option<Peer>,
    /// The id of this run of the process.
    pub run_id: String,
    /// Whether it feeds others.
    pub feeds: bool,
    /// The port on which this node serves clients.
    pub port: u16,
    /// The address under which it does; empty for that of the connection.
    pub announce_ip: String,
    /// The history that it holds, and up to which offset; an empty id for none.
    pub history: (String, u64),
    /// Number of databases that a snapshot may hold.
    pub databases: usize,
    /// What is kept account of in the data.
    pub tracking: Tracking,
    /// For how long the parent may be silent.
    pub timeout: Duration,
    /// The parent is a replica of this node until now, and is asked to become master (`FAILOVER`).
    pub failover: bool,
}

impl Target {
    /// Why nobody would be master if this node followed who is fed by these runs, if that is so. What a parent knows of its
    /// own may be out of date: it says nothing of a node that feeds nobody.
    fn loops(&self, lineage: &[String]) -> Option<&'static str> {
        match lineage.iter().position(|run| *run == self.run_id)? {
            0 => Some("it is this node itself"),
            _ => self.feeds.then_some(
                "it is a replica of this node, itself or through others; one of them must be a master (REPLICAOF NO ONE)",
            ),
        }
    }
}

/// Who a node of a managed shard is; a parent of another cluster or shard refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The cluster.
    pub uid: ClusterUid,
    /// The shard.
    pub shard: u16,
    /// The node.
    pub id: NodeId,
    /// The epoch of its config.
    pub epoch: Epoch,
    /// Who must answer: addresses may be out of date.
    pub parent: NodeId,
}

/// What came of an attempt.
pub enum Outcome {
    /// The parent said which runs feed it: its own, that of its parent, and so on. The attempt goes on.
    Lineage(Vec<String>),
    /// A full synchronisation has begun.
    SyncStarted,
    /// The stream goes on from where this node stands.
    Continue {
        /// The connection.
        stream: TcpStream,
        /// Bytes of the stream that were read already.
        leftover: Vec<u8>,
        /// Id under which the history goes on.
        replid: String,
        /// The history that the parent's continues, and up to where, if the parent said so.
        previous: Option<(String, u64)>,
    },
    /// A full synchronisation was loaded.
    Loaded {
        /// The connection.
        stream: TcpStream,
        /// Bytes of the stream that were read already.
        leftover: Vec<u8>,
        /// The data.
        keyspace: Box<Keyspace>,
        /// Id of the history.
        replid: String,
        /// Where it stands.
        offset: u64,
        /// The database that the stream goes on with, if the parent said so.
        stream_db: Option<usize>,
        /// Epoch of the master whose barrier the data hold; 0 if the parent did not say.
        write_epoch: Epoch,
        /// The history that the parent's continues, and up to where, if the parent said so.
        previous: Option<(String, u64)>,
    },
    /// The parent's snapshot holds what this node has no place for; the text says what.
    Unfit(String),
    /// It failed; the text says at what.
    Failed(String),
}

impl From<io::Error> for Outcome {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rdb::RdbError>()) {
            Some(unfit) if !unfit.is_io() => {
                Self::Unfit(format!("Cannot load the parent's snapshot: {unfit}"))
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// An attempt that is under way. Dropping it ends it.
#[derive(Debug)]
pub struct Attach {
    shared: Arc<Shared>,
}

/// What an attempt and the data thread both look at.
#[derive(Debug, Default)]
struct Shared {
    socket: Mutex<Socket>,
    progress: Progress,
}

/// How much of a snapshot was read.
#[derive(Debug, Default)]
struct Progress {
    /// Its length in bytes; 0 if the parent does not say.
    total: AtomicU64,
    read: AtomicU64,
}

#[derive(Debug, Default)]
struct Socket {
    stream: Option<TcpStream>,
    cancelled: bool,
}

impl Drop for Attach {
    fn drop(&mut self) {
        if let Ok(mut socket) = self.shared.socket.lock() {
            socket.cancelled = true;
            if let Some(stream) = socket.stream.take() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Attach {
    /// Starts an attempt; `report` is called with what comes of it, from the attempt's thread.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(target: Target, report: impl Fn(Outcome) + Send + 'static) -> io::Result<Self> {
        let attempt = Arc::new(Shared::default());
        let shared = Arc::clone(&attempt);
        thread::Builder::new().name("kv-attach".into()).spawn(move || {
            let outcome = attach(&target, &shared, &report).unwrap_or_else(Outcome::from);
            // A socket that was handed over is no longer this attempt's to cut.
            if let Ok(mut socket) = shared.socket.lock() {
                socket.stream = None;
                if socket.cancelled {
                    return;
                }
            }
            report(outcome);
        })?;
        Ok(Self { shared: attempt })
    }

    /// How many bytes of a snapshot were read, and how many there are; 0 if that is not known.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let Progress { total, read } = &self.shared.progress;
        (read.load(Ordering::Relaxed), total.load(Ordering::Relaxed))
    }
}

fn attach(target: &Target, shared: &Shared, report: &dyn Fn(Outcome)) -> io::Result<Outcome> {
    let stream = connect(target)?;
    if let Ok(mut socket) = shared.socket.lock() {
        if socket.cancelled {
            return Err(io::Error::other("cancelled"));
        }
        socket.stream = Some(stream.try_clone()?);
    }
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(target.timeout))?;
    stream.set_write_timeout(Some(target.timeout))?;
    let mut link = Handshake { reader: BufReader::with_capacity(64 * 1024, stream) };
    let previous = link.introduce(target)?;
    if target.peer.is_none() && !target.failover {
        let lineage = link.lineage()?;
        if let Some(loops) = target.loops(&lineage) {
            return Ok(Outcome::Unfit(format!("The parent is no parent for this node: {loops}")));
        }
        report(Outcome::Lineage(lineage));
    }
    let (history, offset) = &target.history;
    let wanted = if history.is_empty() { "-1".to_owned() } else { (offset + 1).to_string() };
    let mut request = vec!["PSYNC", if history.is_empty() { "?" } else { history }, &wanted];
    request.extend(target.failover.then_some("FAILOVER"));
    let reply = link.ask(&request)?;
    let mut words = reply.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("+CONTINUE"), replid, _) => {
            let replid = replid.unwrap_or(history).to_owned();
            let (stream, leftover) = link.into_parts();
            Ok(Outcome::Continue { stream, leftover, replid, previous })
        }
        (Some("+FULLRESYNC"), Some(replid), Some(offset)) => {
            let offset = offset.parse().map_err(|_| unexpected("PSYNC", &reply))?;
            load(link, target, shared, report, Origin { replid: replid.to_owned(), offset, previous })
        }
        // A server from before Redis 2.8, or one that speaks of no histories: it cannot be gone on with later.
        (Some("-ERR"), ..) if target.peer.is_none() && !target.failover => {
            link.send(&["SYNC"])?;
            let replid = super::random_hex(&mut fastrand::Rng::new());
            load(link, target, shared, report, Origin { replid, offset: 0, previous })
        }
        _ => Err(unexpected("PSYNC", &reply)),
    }
}

/// What a parent said of its history, of which a snapshot comes.
struct Origin {
    replid: String,
    offset: u64,
    previous: Option<(String, u64)>,
}

/// Loads the snapshot that comes now.
fn load(
    mut link: Handshake,
    target: &Target,
    shared: &Shared,
    report: &dyn Fn(Outcome),
    Origin { replid, offset, previous }: Origin,
) -> io::Result<Outcome> {
    report(Outcome::SyncStarted);
    let empty = Keyspace::new(target.databases).tracking_as(target.tracking);
    let loaded = link.snapshot(empty, &shared.progress)?;
    let stream_db = loaded.aux.repl_stream_db.and_then(|db| usize::try_from(db).ok());
    if let Some(db) = stream_db.filter(|db| *db >= target.databases) {
        let text = format!(
            "The parent's stream is in database {db}: a cluster has database 0 only, another node as many as its directive databases says"
        );
        return Ok(Outcome::Unfit(text));
    }
    let (stream, leftover) = link.into_parts();
    let write_epoch = loaded.aux.write_epoch.unwrap_or_default();
    let keyspace = Box::new(loaded.keyspace);
    Ok(Outcome::Loaded { stream, leftover, keyspace, replid, offset, stream_db, write_epoch, previous })
}

fn connect(target: &Target) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the address of the parent is not known");
    for (host, port) in &target.addresses {
        let found = match (host.as_str(), *port).to_socket_addrs() {
            Ok(found) => found,
            Err(error) => {
                last = io::Error::new(error.kind(), format!("cannot resolve {host}: {error}"));
                continue;
            }
        };
        for address in found {
            match TcpStream::connect_timeout(&address, target.timeout.min(Duration::from_secs(2))) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last = io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
                }
            }
        }
    }
    Err(last)
}

fn unexpected(request: &str, reply: &str) -> io::Error {
    io::Error::other(format!("the parent answered {request} with {reply:?}"))
}

/// The Valkey whose snapshots are read.
const VALKEY: &str = "9.0.0";

/// `REPLCONF kv-lineage ?`: a node asks whom its parent gets its data from.
pub const LINEAGE: &str = "kv-lineage";

/// How many nodes above its parent a node remembers.
const MOST_ANCESTORS: usize = 64;

/// The longest line that a parent may send in a handshake.
const MAX_LINE: u64 = 64 * 1024;

struct Handshake {
    reader: BufReader<TcpStream>,
}

impl Handshake {
    /// AUTH, PING and REPLCONF. Returns the history that the parent's continues, if it says so.
    fn introduce(&mut self, target: &Target) -> io::Result<Option<(String, u64)>> {
        if let Some(password) = &target.password {
            let reply = match &target.user {
                Some(user) => self.ask(&["AUTH", user, password])?,
                None => self.ask(&["AUTH", password])?,
            };
            if reply != "+OK" {
                return Err(unexpected("AUTH", &reply));
            }
        }
        let reply = self.ask(&["PING"])?;
        // A user of theirs that may replicate need not have the right to PING.
        if !reply.starts_with('+') && !reply.starts_with("-NOPERM") {
            return Err(unexpected("PING", &reply));
        }
        // An old master may not know these; it is none of our business.
        self.ask(&["REPLCONF", "listening-port", &target.port.to_string()])?;
        if !target.announce_ip.is_empty() {
            self.ask(&["REPLCONF", "ip-address", &target.announce_ip])?;
        }
        self.ask(&["REPLCONF", "capa", "eof", "capa", "psync2"])?;
        // Valkey gives up a snapshot that a replica of an unknown version might not read, and does not tell it why.
        self.ask(&["REPLCONF", "version", VALKEY])?;
        let Some(Peer { uid, shard, id, epoch, parent }) = &target.peer else { return Ok(None) };
        let reply = self.ask(&[
            "REPLCONF",
            "kv-peer",
            &uid.0,
            &shard.to_string(),
            &id.to_string(),
            &epoch.to_string(),
        ])?;
        let mut words =
            reply.strip_prefix("+OK").ok_or_else(|| unexpected("REPLCONF kv-peer", &reply))?.split(' ');
        words.next();
        if words.next() != Some(parent.to_string().as_str()) {
            return Err(io::Error::other(format!(
                "another node than the parent {parent} answered: {reply:?}"
            )));
        }
        Ok(words
            .next()
            .zip(words.next().and_then(|offset| offset.parse().ok()))
            .map(|(id, at)| (id.to_owned(), at)))
    }

    /// The runs that feed the parent, its own first; none if it does not know what is asked.
    fn lineage(&mut self) -> io::Result<Vec<String>> {
        let reply = self.ask(&["REPLCONF", LINEAGE, "?"])?;
        let runs = reply.strip_prefix("+OK ").unwrap_or_default().split_ascii_whitespace();
        Ok(runs.take(MOST_ANCESTORS).map(str::to_owned).collect())
    }

    fn ask(&mut self, args: &[&str]) -> io::Result<String> {
        self.send(args)?;
        self.line()
    }

    fn send(&mut self, args: &[&str]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", args.len());
        for arg in args {
            request.push_str(&format!("${}\r\n{arg}\r\n", arg.len()));
        }
        self.reader.get_mut().write_all(request.as_bytes())
    }

    /// The next line that is not empty: a parent sends empty ones to say that it lives.
    fn line(&mut self) -> io::Result<String> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
            if read == 0 || line.last() != Some(&b'\n') {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the parent closed the connection"));
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !text.is_empty() {
                return Ok(text);
            }
        }
    }

    /// Reads a snapshot, whose length is said, or which ends with a mark.
    fn snapshot(&mut self, empty: Keyspace, progress: &Progress) -> io::Result<rdb::Loaded> {
        let head = self.line()?;
        let mut input = Counted { input: &mut self.reader, read: &progress.read };
        if let Some(mark) = head.strip_prefix("$EOF:") {
            let loaded = rdb::load(&mut input, empty).map_err(io::Error::other)?;
            let mut end = vec![0; mark.len()];
            input.read_exact(&mut end)?;
            if end != mark.as_bytes() {
                return Err(io::Error::other("the parent's snapshot does not end with its mark"));
            }
            return Ok(loaded);
        }
        let len: u64 = head
            .strip_prefix('$')
            .and_then(|len| len.parse().ok())
            .ok_or_else(|| unexpected("PSYNC, snapshot", &head))?;
        progress.total.store(len, Ordering::Relaxed);
        let mut body = input.take(len);
        let loaded = rdb::load(&mut body, empty).map_err(io::Error::other)?;
        io::copy(&mut body, &mut io::sink())?;
        Ok(loaded)
    }

    /// The connection, and what was read beyond the handshake.
    fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let beyond = self.reader.buffer().to_vec();
        (self.reader.into_inner(), beyond)
    }
}

/// An input that counts what is taken from it.
struct Counted<'a, R> {
    input: R,
    read: &'a AtomicU64,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        self.input.consume(count);
    }
}
