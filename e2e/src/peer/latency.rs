//! Latency at half of full load. Requests are due by a fixed schedule, whether or not earlier ones are answered, and
//! their latency counts from then: what waits behind a slow one counts as slow too.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::servers::{Program, Server};
use super::stats::percentile;
use super::table::{Goal, Row, Unit};
use super::throughput::{CONNECTIONS, Load};
use super::{Bench, Scenario, client};
use crate::cluster::{Error, Result};

/// Bytes of a value.
const VALUE: usize = 1024;
/// How long the answers may take after the last request was due.
const WITHIN: Duration = Duration::from_secs(10);
/// One in so many requests, the first ones, does not count.
const WARM_UP: usize = 10;

/// SETs and GETs by turns at half of the rate that the peer can do.
#[derive(Default)]
pub(super) struct Latency {
    per_s: OnceCell<f64>,
}

impl Latency {
    fn rate(&self, bench: &Bench) -> Result<f64> {
        if let Some(rate) = self.per_s.get() {
            return Ok(*rate);
        }
        let server = Server::start(&bench.peer)?;
        client::set(&mut server.connect()?, bench.scale.served_keys, VALUE)?;
        let mut full = 0.0;
        for command in ["SET", "GET"] {
            let load = Load { bytes: VALUE, ..Load::strings(command, 1, bench.scale) };
            full += bench.generator.run(&server, &load)?.per_s / 2.0;
        }
        Ok(*self.per_s.get_or_init(|| full / 2.0))
    }
}

impl Scenario for Latency {
    fn rows(&self) -> Vec<Row> {
        let row = |what: &str, goal| {
            Row::new(
                format!("{what} of SET and GET at half of the peer's full load, 1 kB values"),
                Unit::Millis,
                goal,
            )
        };
        vec![row("p50", Goal::None), row("p99", Goal::None), row("p99.9", Goal::Ratio(1.0))]
    }

    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>> {
        let rate = self.rate(bench)?;
        let server = Server::start(program)?;
        let keys = bench.scale.served_keys;
        client::set(&mut server.connect()?, keys, VALUE)?;
        let count = (rate * bench.scale.latency.as_secs_f64()) as usize;
        let mut times =
            Schedule::of(server.address, (keys, VALUE), Duration::from_secs_f64(1.0 / rate), count)?
                .warmed_up()
                .run_until(&AtomicBool::new(false))?;
        times.sort_by(f64::total_cmp);
        Ok([50.0, 99.0, 99.9].map(|percent| percentile(&times, percent)).to_vec())
    }
}

/// A request that is not answered yet.
struct Waiting {
    number: usize,
    due: Instant,
    /// Bytes of the reply that are still to come.
    left: usize,
    /// What the reply must begin with; none once it has.
    begins_with: Option<u8>,
}

/// A connection.
struct Client {
    stream: TcpStream,
    unsent: Vec<u8>,
    waiting: VecDeque<Waiting>,
}

/// `count` requests, one each `interval`.
pub(super) struct Schedule {
    clients: Vec<Client>,
    epoll: Epoll,
    /// Different keys.
    keys: usize,
    interval: Duration,
    count: usize,
    /// The first ones do not count.
    warm_up: usize,
    value: String,
    /// Milliseconds of the requests that were answered.
    times: Vec<f64>,
}

impl Schedule {
    /// For so many keys, with values of so many bytes.
    pub(super) fn of(
        address: SocketAddr,
        (keys, bytes): (usize, usize),
        interval: Duration,
        count: usize,
    ) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(std::io::Error::from)?;
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            epoll.add(&stream, event).map_err(std::io::Error::from)?;
            clients.push(Client { stream, unsent: Vec::new(), waiting: VecDeque::new() });
        }
        let (warm_up, value) = (0, client::value(bytes));
        Ok(Self { clients, epoll, keys, interval, count, warm_up, value, times: Vec::new() })
    }

    /// The first ones do not count.
    pub(super) fn warmed_up(self) -> Self {
        Self { warm_up: self.count / WARM_UP, ..self }
    }

    /// Sends what is due and takes what comes, without ever sleeping: this thread has a core of its own. Ends when all is
    /// answered, or something else has `ended`.
    pub(super) fn run_until(mut self, ended: &AtomicBool) -> Result<Vec<f64>> {
        let began = Instant::now();
        let interval = self.interval;
        let due = |number: usize| began + interval.mul_f64(number as f64);
        let deadline = due(self.count) + WITHIN;
        let counted = self.count - self.warm_up;
        let mut next = 0;
        while self.times.len() < counted && !ended.load(Ordering::Relaxed) {
            let now = Instant::now();
            while next < self.count && due(next) <= now {
                self.send(next, due(next))?;
                next += 1;
            }
            self.receive()?;
            if now > deadline {
                let last = format!("{} of {counted} replies", self.times.len());
                return Err(Error::TooLate { what: "all replies".into(), waited_s: WITHIN.as_secs(), last });
            }
        }
        Ok(self.times)
    }

    fn send(&mut self, number: usize, due: Instant) -> Result<()> {
        let index = number % CONNECTIONS;
        // Any order that is not the one of the keys in memory will do; odd, and no divisor of the number of keys.
        let key = client::key(number.wrapping_mul(7919) % self.keys);
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        // Each connection sends by turns, too.
        let (reply, begins_with) = if (number / CONNECTIONS).is_multiple_of(2) {
            write!(client.unsent, "*2\r\n$3\r\nGET\r\n$16\r\n{key}\r\n")?;
            (format!("${}\r\n", self.value.len()).len() + self.value.len() + 2, b'$')
        } else {
            let len = self.value.len();
            write!(client.unsent, "*3\r\n$3\r\nSET\r\n$16\r\n{key}\r\n${len}\r\n{}\r\n", self.value)?;
            ("+OK\r\n".len(), b'+')
        };
        client.waiting.push_back(Waiting { number, due, left: reply, begins_with: Some(begins_with) });
        client.flush()
    }

    fn receive(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); CONNECTIONS];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO).map_err(std::io::Error::from)?;
        for event in events.iter().take(ready) {
            let Some(client) = self.clients.get_mut(event.data() as usize) else { continue };
            client.receive(|waiting, now| {
                if waiting.number >= self.warm_up {
                    self.times.push(now.duration_since(waiting.due).as_secs_f64() * 1e3);
                }
            })?;
        }
        self.clients.iter_mut().filter(|client| !client.unsent.is_empty()).try_for_each(Client::flush)
    }
}

impl Client {
    /// Sends as much as the kernel takes.
    fn flush(&mut self) -> Result<()> {
        match self.stream.write(&self.unsent) {
            Ok(sent) => drop(self.unsent.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes what has come, and tells of each request that is answered by it.
    fn receive(&mut self, mut answered: impl FnMut(&Waiting, Instant)) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(Error::Unexpected("the server closed the connection".into())),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        take(&mut self.waiting, buffer.get(..count).unwrap_or_default(), |waiting| answered(waiting, now))
    }
}

/// Counts `bytes` as replies to those who wait for them, the first one first.
fn take(waiting: &mut VecDeque<Waiting>, mut bytes: &[u8], mut answered: impl FnMut(&Waiting)) -> Result<()> {
    while let Some(first) = bytes.first().copied() {
        let reply = waiting.front_mut().filter(|reply| reply.begins_with.is_none_or(|byte| byte == first));
        let Some(reply) = reply else {
            return Err(Error::Unexpected(format!("not the reply: {}", String::from_utf8_lossy(bytes))));
        };
        reply.begins_with = None;
        let taken = reply.left.min(bytes.len());
        reply.left -= taken;
        bytes = bytes.get(taken..).unwrap_or_default();
        if reply.left == 0 {
            answered(reply);
            waiting.pop_front();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(replies: &[&str]) -> VecDeque<Waiting> {
        let of = |(number, reply): (usize, &&str)| Waiting {
            number,
            due: Instant::now(),
            left: reply.len(),
            begins_with: reply.bytes().next(),
        };
        replies.iter().enumerate().map(of).collect()
    }

    #[test]
    fn replies_are_counted_however_they_are_cut() {
        let replies = ["+OK\r\n", "$3\r\n$+$\r\n", "+OK\r\n"];
        let all = replies.concat();
        for size in 1..=all.len() {
            let (mut left, mut answered) = (waiting(&replies), Vec::new());
            for bytes in all.as_bytes().chunks(size) {
                take(&mut left, bytes, |reply| answered.push(reply.number)).unwrap();
            }
            assert_eq!((left.len(), answered), (0, vec![0, 1, 2]), "cut every {size} bytes");
        }
    }

    #[test]
    fn an_error_or_a_reply_too_many_is_no_answer() {
        assert!(take(&mut waiting(&["+OK\r\n"]), b"-ERR", |_| ()).is_err());
        assert!(take(&mut waiting(&["+OK\r\n"]), b"+OK\r\n+OK\r\n", |_| ()).is_err());
    }
}
