//! Requests per second, and what each costs the server: by Valkey's or Redis' own load generator.

use std::path::{Path, PathBuf};

use super::servers::{Process, Program, Server, on_core};
use super::table::{Goal, Row, Unit};
use super::{Bench, CLIENT_CORE, Scale, Scenario, client, process};
use crate::cluster::{Error, Result};

/// Connections of a run.
pub const CONNECTIONS: usize = 50;
/// Bytes of a string.
const STRING: usize = 64;
/// Bytes of an element.
const ELEMENT: usize = 8;

/// A load generator.
#[derive(Clone, Debug)]
pub struct Generator(PathBuf);

/// What a generator is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// One of the generator's tests.
    pub command: &'static str,
    /// Requests in all.
    pub requests: usize,
    /// Requests that a connection sends at once.
    pub pipeline: usize,
    /// Bytes of a value.
    pub bytes: usize,
    /// Different keys or elements, chosen at random.
    pub keys: usize,
}

impl Load {
    /// SETs or GETs as in the table.
    #[must_use]
    pub fn strings(command: &'static str, pipeline: usize, scale: Scale) -> Self {
        let requests = scale.requests * if pipeline == 1 { 1 } else { Scale::PIPELINED };
        Self { command, requests, pipeline, bytes: STRING, keys: scale.served_keys }
    }

    fn arguments(&self, server: &Server) -> Vec<String> {
        let address = server.address;
        let numbers = [
            ("-p", usize::from(address.port())),
            ("-c", CONNECTIONS),
            ("-n", self.requests),
            ("-P", self.pipeline),
            ("-d", self.bytes),
            ("-r", self.keys),
        ];
        let mut all = vec!["-h".into(), address.ip().to_string(), "-t".into(), self.command.to_lowercase()];
        all.extend(numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]));
        all.push("--csv".into());
        all
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Requests per second.
    pub per_s: f64,
    /// Microseconds of the server's processor time for each.
    pub cpu_us: f64,
}

impl Generator {
    /// The one beside the server program, else redis-benchmark on the PATH.
    #[must_use]
    pub fn beside(server: &Path) -> Self {
        let beside = ["valkey-benchmark", "redis-benchmark"].map(|name| server.with_file_name(name));
        Self(beside.into_iter().find(|path| path.is_file()).unwrap_or_else(|| "redis-benchmark".into()))
    }

    /// Loads a server until all requests are answered.
    ///
    /// # Errors
    /// If the generator fails, or says nothing that we understand.
    pub fn run(&self, server: &Server, load: &Load) -> Result<Ran> {
        let before = process::cpu_s(server.pid())?;
        let output = on_core(CLIENT_CORE, &self.0).args(load.arguments(server)).output()?;
        let cpu_s = process::cpu_s(server.pid())? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let per_s = per_second(&text).filter(|_| output.status.success()).ok_or_else(|| Error::Command {
            command: self.0.display().to_string(),
            output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
        })?;
        Ok(Ran { per_s, cpu_us: cpu_s * 1e6 / load.requests as f64 })
    }

    /// Loads a server until the value returned is dropped. It gives way to others on its core.
    ///
    /// # Errors
    /// If the generator cannot be started.
    pub fn start(&self, server: &Server, load: &Load) -> Result<Process> {
        Process::on_core(CLIENT_CORE, Path::new("nice"), |command| {
            command.args(["-n", "19"]).arg(&self.0).args(load.arguments(server));
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        })
    }
}

/// The column `rps` of the last line of the generator's CSV.
fn per_second(csv: &str) -> Option<f64> {
    let cells =
        |line: &str| -> Vec<String> { line.split(',').map(|cell| cell.trim_matches('"').into()).collect() };
    let lines: Vec<&str> = csv.lines().filter(|line| line.starts_with('"')).collect();
    let column = cells(lines.first()?).iter().position(|name| name == "rps")?;
    cells(lines.last()?).get(column)?.parse().ok()
}

/// A command, without or with pipelining.
pub(super) struct Throughput {
    command: &'static str,
    pipeline: usize,
    /// How many times as fast as the peer we mean to be.
    goal: f64,
}

/// All that are measured.
pub(super) fn all() -> Vec<Throughput> {
    let strings = [(1, 1.1), (16, 1.3), (64, 1.3)]
        .into_iter()
        .flat_map(|(pipeline, goal)| ["SET", "GET"].map(|command| Throughput { command, pipeline, goal }));
    let elements =
        ["HSET", "ZADD", "LPUSH", "SADD"].map(|command| Throughput { command, pipeline: 16, goal: 1.2 });
    strings.chain(elements).collect()
}

impl Throughput {
    fn is_string(&self) -> bool {
        matches!(self.command, "SET" | "GET")
    }
}

impl Scenario for Throughput {
    fn rows(&self) -> Vec<Row> {
        let name = match self.pipeline {
            1 => format!("{}, no pipelining", self.command),
            pipeline => format!("{}, pipeline {pipeline}", self.command),
        };
        let cpu = Row::new(format!("{name}: server's CPU time"), Unit::Micros, Goal::Ratio(1.0 / self.goal));
        vec![Row::new(name, Unit::PerSecond, Goal::Ratio(self.goal)), cpu]
    }

    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>> {
        let server = Server::start(program)?;
        let mut load = Load::strings(self.command, self.pipeline, bench.scale);
        if self.is_string() {
            client::set(&mut server.connect()?, load.keys, load.bytes)?;
        } else {
            load.bytes = ELEMENT;
        }
        let ran = bench.generator.run(&server, &load)?;
        Ok(vec![ran.per_s, ran.cpu_us])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_taken_from_its_column() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"63011.97\",\"0.412\"\n";
        assert_eq!(per_second(csv), Some(63011.97));
        let warned = format!("WARNING: no CONFIG\n{csv}");
        assert_eq!(per_second(&warned), Some(63011.97));
        assert_eq!(per_second("\"test\",\"rps\"\n"), None);
        assert_eq!(per_second("Could not connect\n"), None);
    }
}
