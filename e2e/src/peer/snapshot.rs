//! A snapshot while clients write as fast as they can: its memory, how long it takes, how long it holds others up; and
//! how long it takes to load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::servers::{Program, Server};
use super::table::{Goal, Row, Unit};
use super::throughput::Load;
use super::{Bench, Scale, Scenario, client, process};
use crate::cluster::{Error, Result, info_number};

/// Bytes of a value.
const VALUE: usize = 64;
/// Bytes that a key takes at the most in either server: for the name of the row.
const KEY: usize = 113;
/// How long a snapshot may take.
const WITHIN: Duration = Duration::from_secs(300);
/// Between two looks at the server's memory and state.
const LOOK: Duration = Duration::from_millis(20);
/// Between two requests of the prober.
const PROBE: Duration = Duration::from_micros(500);
/// Memory is looked at less often while there are children: counting shared pages costs processor time.
const COUNT: Duration = Duration::from_millis(200);

/// So many keys, all written again and again at random while the snapshot is made.
pub(super) struct Snapshot {
    keys: usize,
}

impl Snapshot {
    pub(super) fn of(scale: Scale) -> Self {
        Self { keys: scale.snapshot_keys }
    }
}

impl Scenario for Snapshot {
    fn rows(&self) -> Vec<Row> {
        let size = format!("{:.1} GB", (self.keys * KEY) as f64 / 1e9);
        let row =
            |what: &str, unit, goal| Row::new(format!("snapshot of {size} under SETs: {what}"), unit, goal);
        vec![
            row("extra memory", Unit::Megabytes, Goal::Value(150.0)),
            row("duration", Unit::Seconds, Goal::Ratio(1.0)),
            row("SETs meanwhile", Unit::PerSecond, Goal::None),
            row("longest pause", Unit::Millis, Goal::Value(5.0)),
            row("longest pause just before it", Unit::Millis, Goal::None),
            Row::new(format!("load of a snapshot of {size}"), Unit::Seconds, Goal::Ratio(1.0 / 1.2)),
        ]
    }

    fn rounds(&self, asked: usize) -> usize {
        asked.div_ceil(2)
    }

    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>> {
        let server = Server::start(program)?;
        client::set(&mut server.connect()?, self.keys, VALUE)?;
        server.settled_rss()?;
        // More requests than can be done: the generator is ended.
        let load =
            Load { command: "SET", requests: 2_000_000_000, pipeline: 16, bytes: VALUE, keys: self.keys };
        let mut generator = bench.generator.start(&server, &load)?;
        let prober = Prober::start(server.address)?;
        std::thread::sleep(bench.scale.before_snapshot);
        let saved = save(&server)?;
        generator.runs()?; // else this was no load
        drop(generator);
        let probes = prober.stop()?;
        // The generator's start is no pause of the server.
        let (before, _) =
            longest(&probes, saved.began - bench.scale.before_snapshot / 2, saved.began - PROBE);
        let (pause, probed) = longest(&probes, saved.began, saved.ended);
        let (_, load_s) = server.restart(program)?;
        let duration_s = (saved.ended - saved.began).as_secs_f64();
        let sets = (saved.commands - probed as f64) / duration_s;
        Ok(vec![saved.extra_mb, duration_s, sets, pause, before, load_s])
    }
}

/// What making a snapshot came to.
struct Saved {
    began: Instant,
    ended: Instant,
    extra_mb: f64,
    /// Commands that were done meanwhile.
    commands: f64,
}

fn save(server: &Server) -> Result<Saved> {
    let mut connection = server.connect()?;
    let commands = |connection: &mut redis::Connection| -> Result<f64> {
        let stats = client::info(connection, "stats")?;
        Ok(info_number(&stats, "total_commands_processed").unwrap_or(0) as f64)
    };
    let memory_before = process::family_memory(server.pid())?;
    let commands_before = commands(&mut connection)?;
    let began = Instant::now();
    redis::cmd("BGSAVE").query::<String>(&mut connection)?;
    let (mut most, mut counted) = (memory_before, began);
    let state = loop {
        std::thread::sleep(LOOK);
        let now = Instant::now();
        if now - counted >= COUNT {
            most = most.max(process::family_memory(server.pid())?);
            counted = Instant::now();
        }
        let state = client::info(&mut connection, "persistence")?;
        if info_number(&state, "rdb_bgsave_in_progress") == Some(0) {
            break state;
        }
        if now - began > WITHIN {
            return Err(Error::TooLate {
                what: "a snapshot".into(),
                waited_s: WITHIN.as_secs(),
                last: state,
            });
        }
    };
    let ended = Instant::now();
    let commands = commands(&mut connection)? - commands_before;
    if !state.lines().any(|line| line.trim_end() == "rdb_last_bgsave_status:ok") {
        return Err(Error::Unexpected(format!("the snapshot failed: {state}")));
    }
    most = most.max(process::family_memory(server.pid())?);
    Ok(Saved { began, ended, extra_mb: (most - memory_before) / 1e6, commands })
}

/// A request that was answered.
struct Probe {
    sent: Instant,
    took: Duration,
}

/// The longest one, in milliseconds, of those that were under way between two times, and their number.
fn longest(probes: &[Probe], from: Instant, to: Instant) -> (f64, usize) {
    let during = probes.iter().filter(|probe| probe.sent + probe.took >= from && probe.sent <= to);
    let took: Vec<f64> = during.map(|probe| probe.took.as_secs_f64() * 1e3).collect();
    (took.iter().copied().fold(0.0, f64::max), took.len())
}

/// A client that asks for a key, again and again.
struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Vec<Probe>>>,
}

impl Prober {
    fn start(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WITHIN))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut probes = Vec::new();
            let request = format!("EXISTS {}\r\n", client::key(0));
            let mut reply = [0; 4]; // ":1\r\n"
            while !stopped.load(Ordering::Relaxed) {
                let sent = Instant::now();
                stream.write_all(request.as_bytes())?;
                stream.read_exact(&mut reply)?;
                probes.push(Probe { sent, took: sent.elapsed() });
                std::thread::sleep(PROBE);
            }
            Ok(probes)
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<Vec<Probe>> {
        self.stop.store(true, Ordering::Relaxed);
        let probes = self.thread.join().map_err(|_| Error::Unexpected("the prober panicked".into()))??;
        Ok(probes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_where_it_reaches_into_the_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let probe = |ms, took| Probe { sent: at(ms), took: Duration::from_millis(took) };
        let probes = [probe(0, 40), probe(50, 10), probe(70, 20), probe(100, 90)];
        assert_eq!(longest(&probes, at(45), at(95)), (20.0, 2));
        assert_eq!(longest(&probes, at(30), at(95)), (40.0, 3));
        assert_eq!(longest(&probes, at(45), at(100)), (90.0, 3));
        assert_eq!(longest(&probes, at(200), at(300)), (0.0, 0));
    }
}
