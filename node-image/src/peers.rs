//! Asking the other nodes of the shard how they are: a thread for each, so that one that hangs holds up nobody.
//!
//! What a thread sends the data thread is what it was answered, and when it had asked: an answer grants a master its
//! lease from then on ([`kv_core::lease`]).

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use kv_core::control::{self, NodeReport};
use kv_core::id::{ClusterUid, Epoch, NodeId};

/// The longest report that is taken.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Milliseconds of a clock that counts the time during which the machine is suspended, too.
#[must_use]
pub fn clock_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1000).saturating_add(nanos.unwrap_or(0) / 1_000_000)
}

/// Where a node is, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it may be: host and port.
    pub addresses: Vec<(String, u16)>,
    /// The password of [`control::USER`].
    pub password: String,
}

/// Whom to ask, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where the node is.
    pub place: Place,
    /// The asking node's cluster.
    pub uid: ClusterUid,
    /// Its shard.
    pub shard: u16,
    /// Its id.
    pub me: NodeId,
    /// The epoch of its config.
    pub epoch: Epoch,
    /// How often to ask.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What came of a question.
#[derive(Debug)]
pub struct Answer {
    /// Who was asked.
    pub id: NodeId,
    /// When, by [`clock_ms`].
    pub asked_ms: u64,
    /// As what epoch's node: who is of another one is not bound by the question.
    pub epoch: Epoch,
    /// What it answered.
    pub report: io::Result<Box<NodeReport>>,
}

/// The threads that ask. They end when this is dropped, each after the question that it is at.
#[derive(Debug, Default)]
pub struct Peers {
    asking: BTreeMap<NodeId, (Target, Sender<Target>)>,
}

impl Peers {
    /// Asks exactly these nodes from now on, and those at once of which anything is new. `tell` is called from the threads
    /// with what comes of it.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn ask(
        &mut self,
        targets: BTreeMap<NodeId, Target>,
        tell: impl Fn(Answer) + Clone + Send + 'static,
    ) -> io::Result<()> {
        self.asking.retain(|id, _| targets.contains_key(id));
        for (id, target) in targets {
            if self.asking.get(&id).is_some_and(|(present, _)| *present == target) {
                continue;
            }
            let told = self.asking.get(&id).is_some_and(|(_, thread)| thread.send(target.clone()).is_ok());
            if told {
                self.asking.entry(id).and_modify(|(present, _)| *present = target);
                continue;
            }
            let (sender, receiver) = mpsc::channel();
            let (first, tell) = (target.clone(), tell.clone());
            thread::Builder::new().name("kv-peer".into()).stack_size(256 * 1024).spawn(move || {
                ask_on(id, first, &receiver, &tell);
            })?;
            self.asking.insert(id, (target, sender));
        }
        Ok(())
    }
}

fn ask_on(id: NodeId, mut target: Target, news: &mpsc::Receiver<Target>, tell: &dyn Fn(Answer)) {
    let mut connection = None;
    loop {
        let asked_ms = clock_ms();
        let report = ask(&mut connection, &target);
        if report.is_err() {
            connection = None;
        }
        tell(Answer { id, asked_ms, epoch: target.epoch, report });
        match news.recv_timeout(target.interval) {
            Ok(new) => {
                if new.place != target.place {
                    connection = None;
                }
                target = new;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// A connection to a node.
pub(crate) type Connection = BufReader<TcpStream>;

fn ask(connection: &mut Option<Connection>, target: &Target) -> io::Result<Box<NodeReport>> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(connect(&target.place, target.timeout)?),
    };
    let (shard, me, epoch) = (target.shard.to_string(), target.me.to_string(), target.epoch.to_string());
    let text = call(connection, &["KV", "PING", &target.uid.0, &shard, &me, &epoch])?;
    serde_json::from_slice(&text).map(Box::new).map_err(io::Error::other)
}

/// Connects, and logs in.
pub(crate) fn connect(place: &Place, timeout: Duration) -> io::Result<Connection> {
    let mut connection = dial(&place.addresses, timeout)?;
    call(&mut connection, &["AUTH", control::USER, &place.password])?;
    Ok(connection)
}

/// Connects to the first of these that can be reached.
pub(crate) fn dial(addresses: &[(String, u16)], timeout: Duration) -> io::Result<Connection> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the node's address is not known");
    for address in
        addresses.iter().flat_map(|(host, port)| (host.as_str(), *port).to_socket_addrs()).flatten()
    {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(BufReader::new(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends a command and reads a simple or a bulk string. An error that the node answers with is `PermissionDenied`.
pub(crate) fn call(connection: &mut Connection, args: &[&str]) -> io::Result<Vec<u8>> {
    let mut request = format!("*{}\r\n", args.len());
    for arg in args {
        request.push_str(&format!("${}\r\n{arg}\r\n", arg.len()));
    }
    connection.get_mut().write_all(request.as_bytes())?;
    let mut line = Vec::new();
    connection.take(64 * 1024).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line);
    let line = line.trim_end();
    if let Some(len) = line.strip_prefix('$') {
        let len: Option<usize> = len.parse().ok().filter(|len| *len <= MOST_BYTES);
        let mut text = vec![0; len.ok_or_else(|| io::Error::other("a report of no length"))? + 2];
        connection.read_exact(&mut text)?;
        text.truncate(text.len() - 2);
        return Ok(text);
    }
    match line.strip_prefix('+') {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::Error::new(io::ErrorKind::PermissionDenied, line.to_owned())),
    }
}
