//! A writer to one shard over one plain connection. It follows MOVED by itself and never repeats a write, so that each
//! outcome is known exactly and the time without an acknowledgement is the server's and not a client library's.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::book::{Attempt, Book, Clock, Outcome};
use super::route::{Access, Routes};

/// After this long without an answer a write counts as unanswered. Longer than a hand-over may hold writes.
const ANSWER: Duration = Duration::from_secs(1);

/// How long a node may take to answer a PING before it gets a write: this bounds how exactly an outage is measured.
const GREETING: Duration = Duration::from_millis(100);

/// What the writers of a run share.
#[derive(Clone)]
pub struct Shared {
    /// How to reach the cluster.
    pub access: Access,
    /// The run's clock.
    pub clock: Clock,
    /// Where nodes are, refreshed in the background.
    pub routes: Arc<RwLock<Routes>>,
    /// Becomes true when writers are to stop.
    pub stop: watch::Receiver<bool>,
    /// Pause between the beginnings of two writes of a writer.
    pub pace: Duration,
}

impl Shared {
    /// A metronome; late ticks are not caught up with.
    pub fn ticks(&self) -> Interval {
        let mut ticks = interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// A copy of the routes.
    pub fn routes(&self) -> Routes {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Enters an outcome into a book.
pub fn enter(book: &Mutex<Book>, attempt: Attempt, error: Option<String>) {
    book.lock().unwrap_or_else(PoisonError::into_inner).enter(attempt, error);
}

/// Writes until told to stop.
pub async fn run(book: Arc<Mutex<Book>>, shared: Shared) {
    let mut ticks = shared.ticks();
    let mut target = Target::default();
    let shard = book.lock().unwrap_or_else(PoisonError::into_inner).shard.unwrap_or_default();
    let mut seq = 0;
    while !*shared.stop.borrow() {
        ticks.tick().await;
        let (key, value) = {
            let book = book.lock().unwrap_or_else(PoisonError::into_inner);
            (book.key(seq), book.value(seq))
        };
        let began_us = shared.clock.now_us();
        let (outcome, error) = target.write(&shared, shard, &key, &value).await;
        let attempt = Attempt { began_us, ended_us: shared.clock.now_us(), outcome };
        enter(&book, attempt, error);
        seq += 1;
    }
}

/// The node that a writer talks to at present.
#[derive(Default)]
struct Target {
    address: Option<String>,
    connection: Option<MultiplexedConnection>,
    next: usize,
}

impl Target {
    async fn write(
        &mut self,
        shared: &Shared,
        shard: usize,
        key: &str,
        value: &str,
    ) -> (Outcome, Option<String>) {
        let address = match &self.address {
            Some(address) => address.clone(),
            None => self.turn(shared, shard),
        };
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => match greet(shared, &address).await {
                Ok(connection) => empty.insert(connection),
                Err(error) => {
                    self.turn(shared, shard);
                    return (Outcome::Refused, Some(format!("connect: {}", code(&error))));
                }
            },
        };
        let reply = redis::cmd("RPUSH").arg(key).arg(value).query_async::<redis::Value>(connection).await;
        match reply {
            Ok(_) => (Outcome::Acked, None),
            // Whether the write is kept is what the error says that nobody knows.
            Err(error) if error.code() == Some(UNCERTAIN) => (Outcome::Unknown, Some(UNCERTAIN.to_owned())),
            Err(error) if error.code().is_some() => {
                match error.redirect_node() {
                    Some((node, _)) if node != address => self.go(node.to_owned()),
                    _ => {
                        self.turn(shared, shard);
                    }
                }
                (Outcome::Refused, Some(code(&error)))
            }
            Err(error) => {
                self.turn(shared, shard);
                (Outcome::Unknown, Some(code(&error)))
            }
        }
    }

    fn go(&mut self, address: String) {
        self.address = Some(address);
        self.connection = None;
    }

    /// Goes to another node of the shard: the master first, then the replicas, then any node, which will redirect.
    fn turn(&mut self, shared: &Shared, shard: usize) -> String {
        let routes = shared.routes();
        let of_shard = routes.shards.get(shard).into_iter();
        let own = of_shard.flat_map(|shard| std::iter::once(&shard.master).chain(&shard.replicas));
        let candidates: Vec<&String> = own.chain(&shared.access.seeds).collect();
        let at = self.next.checked_rem(candidates.len()).unwrap_or(0);
        self.next = self.next.wrapping_add(1);
        let address = candidates.get(at).map_or_else(String::new, |address| (*address).clone());
        self.go(address.clone());
        address
    }
}

/// A node's error for a write that too few copies of are known.
const UNCERTAIN: &str = "UNCERTAIN";

/// A connection to a node that answers: a frozen process accepts connections, and would hold a write for long.
async fn greet(shared: &Shared, address: &str) -> Result<MultiplexedConnection, RedisError> {
    let mut connection = shared.access.connect(address, ANSWER).await?;
    let ping = redis::cmd("PING");
    let pong = tokio::time::timeout(GREETING, ping.query_async::<redis::Value>(&mut connection)).await;
    match pong {
        Ok(pong) => pong.map(|_| connection),
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// The first word of a server's error, or what sort of failure it was.
pub fn code(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None if error.is_timeout() => "timeout".to_owned(),
        None if error.is_connection_refusal() => "connection refused".to_owned(),
        None if error.is_connection_dropped() => "disconnected".to_owned(),
        None => error.category().to_owned(),
    }
}
