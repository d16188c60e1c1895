//! One run of the ledger: starts the writers, answers while they write, stops them and judges.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::book::{Book, Clock, Kind, Outcome};
use super::check::judge;
use super::lane::{self, Shared};
use super::outage::{Outage, outages};
use super::readback::read_back;
use super::report::{LaneReport, Report, Tally};
use super::route::{Access, hash_tags};
use super::{Error, cluster_lane};

const REFRESH: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(10);
/// Keys, each in a slot of its own, that a writer to one shard uses in turn.
const KEYS_PER_LANE: usize = 16;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to reach the cluster.
    pub access: Access,
    /// Pause between the beginnings of two writes of a writer.
    pub pace: Duration,
    /// Writers for each shard.
    pub lanes_per_shard: usize,
    /// Writers over all slots through the cluster client.
    pub cluster_lanes: usize,
    /// How long the cluster may take to acknowledge the first writes.
    pub start_within: Duration,
}

impl Options {
    /// One writer a shard and one over all slots, each with a write every 2 ms.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self {
            access,
            pace: Duration::from_millis(2),
            lanes_per_shard: 1,
            cluster_lanes: 1,
            start_within: Duration::from_secs(30),
        }
    }
}

/// A run that goes on.
pub struct Session {
    books: Vec<Arc<Mutex<Book>>>,
    shared: Shared,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    prefix: String,
    shards: usize,
    stopped_us: Option<u64>,
}

impl Session {
    /// Starts the writers and returns when each had a write acknowledged.
    ///
    /// # Errors
    /// If there is no slot map, or some writer has no write acknowledged in time.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let routes = options.access.routes(&[], options.start_within).await?;
        let (stop, stopped) = watch::channel(false);
        let prefix = format!("ledger-{:08x}:", fastrand::u32(..));
        let tags = hash_tags(&routes, KEYS_PER_LANE * options.lanes_per_shard);
        let mut session = Self {
            books: Vec::new(),
            shards: routes.shards.len(),
            shared: Shared {
                access: options.access.clone(),
                clock: Clock::start(),
                routes: Arc::new(RwLock::new(routes)),
                stop: stopped,
                pace: options.pace,
            },
            stop,
            tasks: Vec::new(),
            prefix,
            stopped_us: None,
        };
        session.tasks.push(tokio::spawn(refresh(session.shared.clone())));
        for (shard, tags) in tags.iter().enumerate() {
            for (n, tags) in tags.chunks(KEYS_PER_LANE).enumerate() {
                let name = format!("s{shard}.{n}");
                let keys = tags.iter().map(|tag| format!("{}{{{tag}}}:{name}", session.prefix)).collect();
                let book = session.open(Book::new(name, Some(shard), Kind::Append(keys)));
                session.tasks.push(tokio::spawn(lane::run(book, session.shared.clone())));
            }
        }
        for n in 0..options.cluster_lanes {
            let name = format!("c{n}");
            let keys = Kind::Fresh(format!("{}{name}:", session.prefix));
            let connection = cluster_lane::connect(&options.access).await?;
            let book = session.open(Book::new(name, None, keys));
            session.tasks.push(tokio::spawn(cluster_lane::run(book, connection, session.shared.clone())));
        }
        session.acknowledged_since(0, options.start_within).await?;
        Ok(session)
    }

    fn open(&mut self, book: Book) -> Arc<Mutex<Book>> {
        let book = Arc::new(Mutex::new(book));
        self.books.push(book.clone());
        book
    }

    /// Now, on the run's clock, in microseconds of Unix time.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.shared.clock.now_us()
    }

    /// When the writers were stopped, or now.
    fn end_us(&self) -> u64 {
        self.stopped_us.unwrap_or_else(|| self.now_us())
    }

    /// Returns when each writer had a write acknowledged that was begun after `since_us`.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn acknowledged_since(&self, since_us: u64, within: Duration) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let waiting: Vec<String> =
                self.books.iter().filter_map(|book| waits(&lock(book), since_us)).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if started.elapsed() > within {
                let (waited_s, lanes) = (within.as_secs(), waiting.join(", "));
                return Err(Error::NoAcknowledgement { waited_s, lanes, tally: self.tally().to_string() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.books.iter().fold(Tally::default(), |mut sum, book| {
            let one = Tally::of([&*lock(book)]);
            sum.acked += one.acked;
            sum.refused += one.refused;
            sum.unknown += one.unknown;
            for (code, count) in one.errors {
                *sum.errors.entry(code).or_default() += count;
            }
            sum
        })
    }

    /// The longest outage of each shard, and of the writers over all slots, that ended after `since_us`.
    #[must_use]
    pub fn longest_outages(&self, since_us: u64) -> Vec<Outage> {
        self.outages(since_us, 0, 1)
    }

    /// The outages that ended after `since_us` and took at least `min_us`; of each shard the `most` longest.
    #[must_use]
    pub fn outages(&self, since_us: u64, min_us: u64, most: usize) -> Vec<Outage> {
        let books: Vec<Book> = self.books.iter().map(|book| lock(book).clone()).collect();
        outages_of(&books, self.shards, Span { since_us, min_us, most, now_us: self.end_us() })
    }

    /// Stops the writers, and returns when the outcome of each write is known.
    pub async fn stop(&mut self) {
        self.stopped_us.get_or_insert(self.shared.clock.now_us());
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            // A writer that ended by itself has nothing more to write down.
            let _ended = task.await;
        }
    }

    /// Stops the writers if they still run, reads everything back and judges.
    ///
    /// # Errors
    /// If what was written cannot be read back in time.
    pub async fn finish(mut self, within: Duration) -> Result<Report, Error> {
        self.stop().await;
        let now_us = self.end_us();
        let books: Vec<Book> = self.books.iter().map(|book| lock(book).clone()).collect();
        let longest = outages_of(&books, self.shards, Span { since_us: 0, min_us: 0, most: 1, now_us });
        let known: Vec<String> = self.shared.routes().nodes().cloned().collect();
        let read = read_back(&self.shared.access, &known, &books, &self.prefix, within).await?;
        let lanes = books
            .iter()
            .map(|book| LaneReport { lane: book.lane.clone(), shard: book.shard, tally: Tally::of([book]) })
            .collect();
        Ok(Report { lanes, longest, verdict: judge(&books, &read.found, &read.strays) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Which outages are wanted.
struct Span {
    since_us: u64,
    min_us: u64,
    most: usize,
    now_us: u64,
}

fn outages_of(books: &[Book], shards: usize, span: Span) -> Vec<Outage> {
    let books: Vec<&Book> = books.iter().collect();
    let lanes = |shard| books.iter().any(|book| book.shard == shard);
    let shards = (0..shards).map(Some).chain([None]).filter(|&shard| lanes(shard));
    shards
        .flat_map(|shard| {
            let mut found = outages(&books, shard, span.since_us, span.min_us, span.now_us);
            found.truncate(span.most);
            found
        })
        .collect()
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn waits(book: &Book, since_us: u64) -> Option<String> {
    let fresh = |attempt: &&super::Attempt| attempt.began_us >= since_us;
    let mut newest = book.attempts.iter().rev().take_while(fresh);
    let acked = newest.any(|attempt| attempt.outcome == Outcome::Acked);
    (!acked).then(|| book.lane.clone())
}

/// Keeps the routes fresh, asking a known node or a seed in turn.
async fn refresh(shared: Shared) {
    let mut turn = 0_usize;
    while !*shared.stop.borrow() {
        let routes = shared.routes();
        let known: Vec<&String> = routes.nodes().chain(&shared.access.seeds).collect();
        let address = known.get(turn.checked_rem(known.len()).unwrap_or(0)).map(|address| (*address).clone());
        turn = turn.wrapping_add(1);
        if let Some(address) = address
            && let Ok(fresh) = shared.access.routes_from(&address).await
            && fresh.complete()
            && fresh.shards.len() == routes.shards.len()
        {
            *shared.routes.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        tokio::time::sleep(REFRESH).await;
    }
}
