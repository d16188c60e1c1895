//! A full synchronisation while clients write and read: how long it takes, and how long it holds them up. What is
//! synchronised does nothing but to read, so that the clients' core is theirs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::latency::Schedule;
use super::servers::{Program, Server};
use super::stats::percentile;
use super::table::{Goal, Row, Unit};
use super::{Bench, Scale, Scenario, client};
use crate::cluster::{Error, Result};

/// Bytes of a value.
const VALUE: usize = 64;
/// Bytes that a key takes at the most in either server: for the name of the row.
const KEY: usize = 113;
/// Requests per second: a fraction of what either server can do.
const RATE: f64 = 20_000.0;
/// How long a synchronisation may take.
const WITHIN: Duration = Duration::from_secs(300);

/// So many keys that are sent to a replica under a steady load.
pub(super) struct FullSync {
    keys: usize,
}

impl FullSync {
    pub(super) fn of(scale: Scale) -> Self {
        Self { keys: scale.snapshot_keys }
    }
}

impl Scenario for FullSync {
    fn rows(&self) -> Vec<Row> {
        let size = format!("{:.1} GB", (self.keys * KEY) as f64 / 1e9);
        let row = |what: &str, unit, goal| Row::new(format!("full sync of {size}: {what}"), unit, goal);
        vec![
            row("duration", Unit::Seconds, Goal::Ratio(1.0)),
            row("p99 of clients before it", Unit::Millis, Goal::None),
            row("p99 of clients meanwhile", Unit::Millis, Goal::None),
            row("p99 meanwhile, in parts of before", Unit::Percent, Goal::None),
            row("longest request meanwhile", Unit::Millis, Goal::Ratio(1.0)),
        ]
    }

    fn rounds(&self, asked: usize) -> usize {
        asked.div_ceil(2)
    }

    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>> {
        let server = Server::start(program)?;
        client::set(&mut server.connect()?, self.keys, VALUE)?;
        redis::cmd("CONFIG")
            .arg("SET")
            .arg("repl-diskless-sync-delay")
            .arg(0)
            .query::<()>(&mut server.connect()?)?;
        server.settled_rss()?;
        let before = self.load(&server, bench.scale.before_snapshot, &AtomicBool::new(false))?;
        let reader = Reader::start(&server)?;
        let meanwhile = self.load(&server, WITHIN, &reader.ended)?;
        let took_s = reader.join()?;
        let [p99_before, p99] = [&before, &meanwhile].map(|times| percentile(times, 99.0));
        let longest = meanwhile.last().copied().unwrap_or(0.0);
        Ok(vec![took_s, p99_before, p99, 100.0 * p99 / p99_before, longest])
    }
}

impl FullSync {
    /// What requests took, sorted, in milliseconds; for so long, or until `ended`.
    fn load(&self, server: &Server, time: Duration, ended: &AtomicBool) -> Result<Vec<f64>> {
        let count = (RATE * time.as_secs_f64()) as usize;
        let schedule =
            Schedule::of(server.address, (self.keys, VALUE), Duration::from_secs_f64(1.0 / RATE), count)?;
        let mut times = schedule.run_until(ended)?;
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}

/// A replica that reads its snapshot and does nothing with it.
struct Reader {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Reader {
    fn start(server: &Server) -> Result<Self> {
        let stream = TcpStream::connect(server.address)?;
        stream.set_read_timeout(Some(WITHIN))?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let read = read_snapshot(stream);
            end.store(true, Ordering::Relaxed);
            read.map(|()| began.elapsed().as_secs_f64())
        });
        Ok(Self { ended, thread })
    }

    fn join(self) -> Result<f64> {
        self.thread.join().map_err(|_| Error::Unexpected("the reader panicked".into()))?
    }
}

fn read_snapshot(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::with_capacity(256 * 1024, stream);
    for request in ["REPLCONF capa eof capa psync2\r\n", "PSYNC ? -1\r\n"] {
        stream.get_mut().write_all(request.as_bytes())?;
        line(&mut stream)?;
    }
    let head = line(&mut stream)?;
    let Some(mark) = head.strip_prefix("$EOF:") else {
        let len = head.strip_prefix('$').and_then(|len| len.parse().ok());
        let len = len.ok_or_else(|| Error::Unexpected(format!("no snapshot begins with {head:?}")))?;
        let read = std::io::copy(&mut (&mut stream).take(len), &mut std::io::sink())?;
        return if read == len { Ok(()) } else { Err(Error::Unexpected("the snapshot was cut off".into())) };
    };
    // The mark is the last that comes until it is acknowledged.
    let mut end = Vec::new();
    loop {
        let some = stream.fill_buf()?;
        if some.is_empty() {
            return Err(Error::Unexpected("the snapshot was cut off".into()));
        }
        let (count, keep) = (some.len(), mark.len().min(some.len()));
        end.extend_from_slice(some.get(count - keep..).unwrap_or_default());
        stream.consume(count);
        end.drain(..end.len().saturating_sub(mark.len()));
        if end == mark.as_bytes() {
            return Ok(());
        }
    }
}

/// The next line that is not empty.
fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(Error::Unexpected("the server closed the connection".into()));
        }
        if !line.trim_end().is_empty() {
            return Ok(line.trim_end().to_owned());
        }
    }
}
