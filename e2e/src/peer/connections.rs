//! Many connections that do nothing: their memory, and what they cost those that do something.

use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::servers::{Program, Server};
use super::table::{Goal, Row, Unit};
use super::throughput::Load;
use super::{Bench, Scale, Scenario, client};
use crate::cluster::{Error, Result};

/// Files that a process needs beside the connections.
const OTHERS: u64 = 1000;

/// So many connections that each sent one PING.
pub(super) struct Connections {
    count: usize,
}

impl Connections {
    pub(super) fn of(scale: Scale) -> Self {
        Self { count: scale.idle }
    }
}

impl Scenario for Connections {
    fn rows(&self) -> Vec<Row> {
        let idle = format!("{} idle connections", self.count);
        vec![
            Row::new(format!("memory of each of {idle}"), Unit::Bytes, Goal::Value(4096.0)),
            Row::new(format!("SETs per second that are left with {idle}"), Unit::Percent, Goal::Value(90.0)),
        ]
    }

    fn rounds(&self, asked: usize) -> usize {
        asked.div_ceil(2)
    }

    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>> {
        let count = self.count;
        allow_files(count as u64 + OTHERS)?;
        let server = Server::start(program)?;
        let load = Load::strings("SET", 1, bench.scale);
        client::set(&mut server.connect()?, load.keys, load.bytes)?;
        let alone = bench.generator.run(&server, &load)?.per_s;
        let before = server.settled_rss()?;
        let idle: Vec<TcpStream> = (0..count).map(|_| idle(&server)).collect::<Result<_>>()?;
        let each = (server.settled_rss()? - before) / count as f64;
        let among = bench.generator.run(&server, &load)?.per_s;
        drop(idle);
        Ok(vec![each, among / alone * 100.0])
    }
}

fn idle(server: &Server) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server.address)?;
    let mut reply = [0; 7];
    stream.write_all(b"PING\r\n")?;
    stream.read_exact(&mut reply)?;
    match &reply {
        b"+PONG\r\n" => Ok(stream),
        _ => Err(Error::Unexpected(format!("instead of a PONG: {}", String::from_utf8_lossy(&reply)))),
    }
}

/// Lets this process, and what it starts, have so many files.
fn allow_files(count: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(std::io::Error::from)?;
    if soft >= count {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count)).map_err(|error| {
        Error::Unexpected(format!("cannot have {count} files open ({hard} allowed): {error}"))
    })
}
