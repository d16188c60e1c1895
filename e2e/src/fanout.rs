//! What replicas cost their master: processor time and what it sends, as a Star, and as a Tree of fanout 2.
//!
//! A master on one core; its replicas, and what writes to it, on the other. The load is the same for all shapes, at a fixed
//! rate, and what is told is the cost of one write: so it says the same on a machine that has something else to do.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::cluster::{Error, Programs, Result, info_number};
use crate::peer::process::cpu_s;
use crate::peer::servers::Process;
use crate::peer::{CLIENT_CORE, SERVER_CORE};

/// Numbers of replicas.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// Replicas that a node of the Tree feeds.
const FANOUT: usize = 2;
/// SETs per second.
const RATE: usize = 20_000;
/// Bytes of a value.
const VALUE: usize = 256;
/// Different keys.
const KEYS: usize = 10_000;
/// SETs that are sent in one go.
const BATCH: usize = 50;
/// How long something may take to come about.
const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// How replicas hang below their master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Star,
    Tree,
}

impl Shape {
    /// The parent of the node with this number; the master is 0.
    fn parent(self, node: usize) -> usize {
        match self {
            Self::Star => 0,
            Self::Tree => (node - 1) / FANOUT,
        }
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Processor time of the master for a write, in microseconds.
    cpu_us: f64,
    /// Bytes that the master sent to replicas for it.
    sent: f64,
}

struct Node {
    _process: Process,
    folder: tempfile::TempDir,
    port: u16,
    pid: u32,
}

impl Node {
    fn start(programs: &Programs, core: usize, parent: Option<u16>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kv-fanout-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = std::fs::File::create(folder.path().join("log"))?;
        let process = Process::on_core(core, &programs.path("kv-node"), |command| {
            command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"]);
            command.arg(folder.path()).args(["--repl-diskless-sync-delay", "0"]);
            if let Some(parent) = parent {
                command.args(["--replicaof", "127.0.0.1", &parent.to_string()]);
            }
            command.stdout(log);
        })?;
        let pid = process.id();
        Ok(Self { _process: process, folder, port, pid })
    }

    fn connect(&self) -> Result<redis::Connection> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        Ok(client.get_connection_with_timeout(Duration::from_secs(5))?)
    }

    fn info(&self) -> Result<String> {
        Ok(redis::cmd("INFO").query(&mut self.connect()?)?)
    }

    fn number(&self, field: &str) -> Result<u64> {
        let missing = || Error::Unexpected(format!("no {field} in INFO"));
        info_number(&self.info()?, field).ok_or_else(missing)
    }

    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.info() {
                Ok(info) if wanted(&info) => return Ok(()),
                _ if began.elapsed() > WITHIN => {
                    let last = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                    return Err(Error::TooLate { what: what.into(), waited_s: WITHIN.as_secs(), last });
                }
                _ => std::thread::sleep(POLL),
            }
        }
    }
}

/// Measures all shapes in turns, so many times each, and returns a table as Markdown.
///
/// # Errors
/// If a program is missing, or a replica does not get in step.
pub fn measure(rounds: usize, seconds: u64) -> Result<String> {
    crate::peer::pin_to(CLIENT_CORE)?;
    let programs = Programs::find()?;
    let mut rows: Vec<(usize, Shape, Vec<Cost>)> = COUNTS
        .iter()
        .flat_map(|&count| [(count, Shape::Star, Vec::new()), (count, Shape::Tree, Vec::new())])
        .collect();
    for _ in 0..rounds.max(1) {
        for (count, shape, costs) in &mut rows {
            let cost = run(&programs, *count, *shape, Duration::from_secs(seconds))?;
            eprintln!("{count} replicas, {shape:?}: {cost:?}");
            costs.push(cost);
        }
    }
    Ok(table(&rows))
}

fn run(programs: &Programs, count: usize, shape: Shape, time: Duration) -> Result<Cost> {
    let mut nodes = vec![Node::start(programs, SERVER_CORE, None)?];
    for number in 1..=count {
        let parent = nodes.get(shape.parent(number)).map(|node| node.port);
        nodes.push(Node::start(programs, CLIENT_CORE, parent)?);
    }
    let Some((master, replicas)) = nodes.split_first() else {
        return Err(Error::Unexpected("no node".into()));
    };
    let is_up = |info: &str| info.lines().any(|line| line.trim_end() == "master_link_status:up");
    replicas.iter().try_for_each(|replica| replica.wait("a replica in step", is_up))?;
    write(master, Duration::from_secs(1))?;
    let before = (cpu_s(master.pid)?, master.number("total_net_repl_output_bytes")?);
    let writes = write(master, time)? as f64;
    let after = (cpu_s(master.pid)?, master.number("total_net_repl_output_bytes")?);
    let end = master.number("master_repl_offset")?;
    let has_all = |info: &str| info_number(info, "slave_repl_offset") >= Some(end);
    replicas.iter().try_for_each(|replica| replica.wait("a replica that has everything", has_all))?;
    Ok(Cost { cpu_us: (after.0 - before.0) * 1e6 / writes, sent: after.1.abs_diff(before.1) as f64 / writes })
}

/// Writes for a while, at the fixed rate or, if the machine has no time for that, a lower one; returns how often.
fn write(master: &Node, time: Duration) -> Result<usize> {
    let mut connection = master.connect()?;
    let value = "x".repeat(VALUE);
    let batches = (RATE as f64 * time.as_secs_f64()) as usize / BATCH;
    let began = Instant::now();
    for batch in 0..batches {
        let due = began + Duration::from_secs_f64((batch * BATCH) as f64 / RATE as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut pipe = redis::pipe();
        for number in 0..BATCH {
            pipe.set(format!("key:{:012}", (batch * BATCH + number) % KEYS), &value).ignore();
        }
        pipe.query::<()>(&mut connection)?;
    }
    Ok(batches * BATCH)
}

fn table(rows: &[(usize, Shape, Vec<Cost>)]) -> String {
    let median = |costs: &[Cost], of: fn(&Cost) -> f64| {
        crate::scenario::median(&costs.iter().map(of).collect::<Vec<_>>())
    };
    let cells = |count: usize, shape: Shape| {
        let found = rows.iter().find(|(other, of, _)| (*other, *of) == (count, shape));
        let costs = found.map(|(.., costs)| costs.as_slice()).unwrap_or_default();
        let (cpu, sent) = (median(costs, |cost| cost.cpu_us), median(costs, |cost| cost.sent));
        format!("{cpu:.1} µs | {sent:.0} B")
    };
    let mut text = format!(
        "| replicas | Star: CPU of the master | sends | Tree (fanout {FANOUT}): CPU of the master | sends |\n\
         |---|---|---|---|---|\n"
    );
    for count in COUNTS {
        let _ = writeln!(text, "| {count} | {} | {} |", cells(count, Shape::Star), cells(count, Shape::Tree));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_as_flat_as_its_fanout_allows() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(|node| Shape::Tree.parent(node)), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!([1, 8].map(|node| Shape::Star.parent(node)), [0, 0]);
    }

    #[test]
    fn the_table_has_a_line_for_each_number_of_replicas() {
        let cost = |cpu_us| Cost { cpu_us, sent: 310.0 };
        let rows =
            [(1, Shape::Star, vec![cost(1.0), cost(3.0), cost(2.0)]), (1, Shape::Tree, vec![cost(1.0)])];
        let text = table(&rows);
        assert!(text.contains("| 1 | 2.0 µs | 310 B | 1.0 µs | 310 B |"), "{text}");
        assert_eq!(text.lines().count(), 2 + COUNTS.len());
    }
}
