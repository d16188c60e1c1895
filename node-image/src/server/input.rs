//! Reading requests from sockets, and executing them in batches.
//!
//! What is read goes into one buffer that all clients share, and is executed from there; only an unfinished request is
//! kept with its client. Requests that came together are parsed together, and the memory that they will touch is looked
//! at for all of them before the first one runs: the processor waits for many cache lines at once instead of for one
//! after the other.

use std::io::{self, Read};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Client, ClientKey, Server, User};
use crate::command::table::NODE;
use crate::command::{CommandSpec, KeySpec};
use crate::resp::{ParseError, Parsed, Reply, Request};

/// Bytes that are read from a client at a time, so that none starves the others.
const READ_CHUNK: usize = 32 * 1024;
/// What several clients are read into, one after the other, before the first request is executed.
const READ_BUFFER: usize = 4 * READ_CHUNK;
/// Bytes of a cache line.
const LINE: usize = 64;
/// The most that is read at a time of one large argument.
const LARGE_CHUNK: usize = 1024 * 1024;
/// A client with more unwritten output than this has its further requests wait.
const OUTPUT_PAUSE: usize = 1024 * 1024;
/// The same for who has not authenticated yet.
const STRANGER_PAUSE: usize = 16 * 1024;
/// How long a tick executes requests while a snapshot is made. A write takes several times as long then, if its page is
/// to be shown before; those who wait for a turn, or for a reply, need not wait for a whole round of all clients.
const SLICE: Duration = Duration::from_millis(1);
/// Clients whose requests are executed meanwhile between two looks at the time.
const SLICE_CLIENTS: usize = 4;
/// Requests that are parsed before the first of them is executed.
const BATCH: usize = 64;

/// A request that waits to be executed.
#[derive(Default)]
struct Parsing {
    request: Request,
    spec: Option<&'static CommandSpec>,
}

/// Requests that came together. It is the same one for all clients, and keeps its memory.
#[derive(Default)]
pub(super) struct Batch {
    requests: Vec<Parsing>,
    recent: Recent,
}

/// What was asked for last: requests that come together are mostly of one kind.
#[derive(Default)]
struct Recent {
    /// The name as it was spelled.
    name: Vec<u8>,
    spec: Option<&'static CommandSpec>,
}

impl Recent {
    #[inline]
    fn lookup(&mut self, name: &[u8]) -> Option<&'static CommandSpec> {
        if self.spec.is_none() || self.name != name {
            let spec = NODE.lookup(name)?; // a name that is none may be long
            self.name.clear();
            self.name.extend_from_slice(name);
            self.spec = Some(spec);
        }
        self.spec
    }
}

/// Why no more requests were parsed.
enum Stop {
    /// The batch is full.
    Full,
    /// The rest is no whole request.
    Incomplete,
    /// The rest is no request.
    Error(ParseError),
}

impl Client {
    /// Whether it is to read first what it asked for, before it gets more.
    pub(super) fn is_full(&self) -> bool {
        self.pending() > if self.user == User::Nobody { STRANGER_PAUSE } else { OUTPUT_PAUSE }
    }
}

enum ReadResult {
    Data(usize),
    Nothing,
    Closed,
}

impl Server {
    /// Reads on and executes for every client that may have something.
    pub(super) fn read_clients(&mut self) {
        let mut buffer = self.take_read_buffer();
        let mut group = std::mem::take(&mut self.gathered);
        let mut end = 0;
        let began = self.is_walking().then(Instant::now);
        let most = if began.is_some() { SLICE_CLIENTS } else { usize::MAX };
        let mut ready = std::mem::take(&mut self.clients.ready).into_iter();
        while let Some(key) = ready.next() {
            if buffer.len() - end < READ_CHUNK || group.len() >= most {
                self.execute_group(&buffer, &mut group);
                end = 0;
                if began.is_some_and(|began| began.elapsed() > SLICE) {
                    // The others are the first in the next tick.
                    let woken = std::mem::take(&mut self.clients.ready);
                    self.clients.ready = std::iter::once(key).chain(ready).chain(woken).collect();
                    break;
                }
            }
            if !self.is_to_be_read(key) {
                continue;
            }
            let room = buffer.get_mut(end..end + READ_CHUNK).unwrap_or_default();
            if let Some(count) = self.read_some(key, room) {
                group.push((key, end..end + count));
                end = (end + count).next_multiple_of(LINE);
            }
        }
        self.execute_group(&buffer, &mut group);
        self.read_buffer = buffer;
        self.gathered = group;
    }

    /// Whether the client is to be read from into the shared buffer. One that has an unfinished request is served here.
    fn is_to_be_read(&mut self, key: ClientKey) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        client.woken = false;
        if client.doomed || client.closing || client.is_full() {
            return false; // woken when its output was written
        }
        if client.blocked.is_some() {
            // Its requests wait, but that it went away must be noticed.
            if client.readable && client.input.len() < READ_CHUNK {
                self.fill_input(key);
                self.settle_memory(key);
            }
            return false;
        }
        if client.readable && client.input.is_empty() {
            return true;
        }
        // What has waited runs before more is read: else its input would grow with every reply that it takes.
        if client.readable && !client.stopped {
            self.fill_input(key);
        }
        self.execute_input(key);
        self.read_on(key);
        false
    }

    /// Executes what was read from several clients.
    fn execute_group(&mut self, buffer: &[u8], group: &mut Vec<(ClientKey, Range<usize>)>) {
        let inputs = group.iter().filter_map(|(_, range)| buffer.get(range.clone()));
        if group.len() > 1 {
            self.keyspace.warm(0, inputs.filter_map(first_key));
            self.keyspace.forget();
        }
        for (key, range) in group.drain(..) {
            let input = buffer.get(range).unwrap_or_default();
            let used = self.execute_requests(key, input);
            if let Some(client) = self.clients.get_mut(key) {
                client.parser.dropped(used, &mut client.request);
                client.input.extend_from_slice(input.get(used..).unwrap_or_default());
            }
            self.read_on(key);
        }
    }

    /// Has the client read on in the next tick if there may be more.
    fn read_on(&mut self, key: ClientKey) {
        if self.clients.get(key).is_some_and(|client| client.readable && client.blocked.is_none()) {
            self.clients.wake(key);
        }
        self.settle_memory(key);
    }

    /// The buffer to read into, which is to be put back; another one if it is in use, by a request that has the link to
    /// the parent read on.
    fn take_read_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        buffer.resize(READ_BUFFER, 0);
        buffer
    }

    /// Reads once from the socket to the end of the client's input. Returns whether anything came.
    pub(super) fn fill_input(&mut self, key: ClientKey) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let before = client.input.len();
        // Room is made for what a client has shown to send, not for what it says that it will.
        let wanted = client.parser.wanted(&client.input).saturating_sub(before).min(before);
        let count = if wanted > READ_CHUNK {
            let mut input = std::mem::take(&mut client.input);
            input.resize(before + wanted.min(LARGE_CHUNK), 0);
            let count = self.read_some(key, input.get_mut(before..).unwrap_or_default());
            input.truncate(before + count.unwrap_or(0));
            if let Some(client) = self.clients.get_mut(key) {
                client.input = input;
            }
            count
        } else {
            let mut buffer = self.take_read_buffer();
            let count = self.read_some(key, buffer.get_mut(..READ_CHUNK).unwrap_or_default());
            if let Some(client) = self.clients.get_mut(key) {
                client.input.extend_from_slice(buffer.get(..count.unwrap_or(0)).unwrap_or_default());
            }
            self.read_buffer = buffer;
            count
        };
        let Some(client) = self.clients.get(key).filter(|_| count.is_some()) else { return false };
        if client.input.len() > client.most_input(&self.tunables) {
            crate::warning!("Closing client that reached max query buffer length: {}", client.peer);
            self.stats.query_limit_disconnections += 1;
            self.clients.doom(key);
        }
        true
    }

    /// Reads once from the socket. Returns how much came, if anything did.
    fn read_some(&mut self, key: ClientKey, room: &mut [u8]) -> Option<usize> {
        let client = self.clients.get_mut(key)?;
        match read_once(client, room) {
            ReadResult::Data(count) => {
                // A socket that gave less than there was room for is empty, and the next bytes are an event of their
                // own. The end of the stream is none, if it was announced already.
                client.readable = count == room.len() || client.hung_up;
                client.active = self.clock.instant;
                let bytes = client.input.len() + count;
                if client.is_parent()
                    && let Some(link) = &mut self.link
                {
                    link.heard = self.clock.instant;
                    link.streamed = Some(self.clock.instant);
                    self.stats.replication_input_bytes += count as u64;
                }
                // Besides acknowledgements there are empty lines, while it loads a snapshot.
                if let Some(feed) = client.feed_mut() {
                    feed.acked_at = self.clock.instant;
                }
                self.clients.peaks.note_input(bytes);
                Some(count)
            }
            ReadResult::Nothing => {
                client.readable = false;
                None
            }
            ReadResult::Closed => {
                client.readable = false;
                // What it sent before it closed still counts.
                if client.blocked.is_none() {
                    self.execute_input(key);
                }
                self.clients.doom(key);
                None
            }
        }
    }

    /// Executes all whole requests in the client's input.
    pub(super) fn execute_input(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let input = std::mem::take(&mut client.input);
        let used = self.execute_requests(key, &input);
        let Some(client) = self.clients.get_mut(key) else { return };
        client.input = input;
        client.parser.dropped(used, &mut client.request);
        client.used(used);
    }

    /// Returns how many bytes of `input` were used.
    fn execute_requests(&mut self, key: ClientKey, input: &[u8]) -> usize {
        let mut batch = std::mem::take(&mut self.batch);
        self.clients.lend_output(key);
        if let Some(client) = self.clients.get_mut(key) {
            client.stopped = false;
        }
        let mut spare: Vec<&[u8]> = Vec::with_capacity(8);
        let mut used = 0;
        let used = 'all: loop {
            let (count, stop) = self.parse_batch(key, input, used, &mut batch);
            let requests = batch.requests.get_mut(..count).unwrap_or_default();
            self.warm(key, input, requests);
            for Parsing { request, spec } in requests {
                if !self.goes_on(key) {
                    break 'all self.stop_at(key, used);
                }
                let mut args = recycle(std::mem::take(&mut spare));
                args.extend(request.args.iter().map(|range| input.get(range.clone()).unwrap_or_default()));
                args.extend(request.inline.iter().map(Vec::as_slice));
                let bytes = input.get(used..request.end).unwrap_or_default();
                let done = match self.clients.get(key) {
                    Some(client) if client.is_parent() => self.apply(key, &args, bytes),
                    Some(client) if client.is_applied() => self.apply_import(key, &args),
                    _ => args.is_empty() || self.dispatch(key, *spec, &args),
                };
                spare = recycle(args);
                if !done {
                    break 'all self.stop_at(key, used); // held: the request is run again later
                }
                used = request.end;
            }
            match stop {
                Stop::Full => {}
                Stop::Incomplete => break used,
                Stop::Error(_) if !self.goes_on(key) => break self.stop_at(key, used),
                Stop::Error(error) => {
                    self.protocol_error(key, &error.to_string());
                    break input.len();
                }
            }
        };
        self.keyspace.forget();
        batch.requests.iter_mut().for_each(|parsing| parsing.request.trim());
        self.batch = batch;
        self.clients.reclaim_output(key);
        used
    }

    /// Whether the client's next request may be executed now.
    fn goes_on(&self, key: ClientKey) -> bool {
        self.clients.get(key).is_some_and(|client| {
            !client.doomed && !client.closing && client.blocked.is_none() && !client.is_full()
        })
    }

    /// Has the requests from `used` on parsed again when they may be executed.
    fn stop_at(&mut self, key: ClientKey, used: usize) -> usize {
        if let Some(client) = self.clients.get_mut(key) {
            client.parser.restart();
            client.stopped = true;
        }
        used
    }

    /// Parses whole requests from `start` on. Returns how many.
    fn parse_batch(
        &mut self,
        key: ClientKey,
        input: &[u8],
        mut start: usize,
        batch: &mut Batch,
    ) -> (usize, Stop) {
        let Some(client) = self.clients.get_mut(key) else { return (0, Stop::Incomplete) };
        let limits = client.request_limits(&self.tunables);
        let most = if client.user == User::Nobody { 1 } else { BATCH };
        let (table, usual) = (client.table(), !client.sentinel);
        for count in 0..most {
            match client.parser.parse(input, start, &limits, &mut client.request) {
                Ok(Parsed::Incomplete) => return (count, Stop::Incomplete),
                Ok(Parsed::Complete) => {}
                Err(error) => return (count, Stop::Error(error)),
            }
            start = client.request.end;
            if batch.requests.len() == count {
                batch.requests.push(Parsing::default());
            }
            if let Some(place) = batch.requests.get_mut(count) {
                std::mem::swap(&mut place.request, &mut client.request);
                let name = match place.request.args.first() {
                    Some(range) => input.get(range.clone()),
                    None => place.request.inline.first().map(Vec::as_slice),
                };
                place.spec = name.and_then(|name| match usual {
                    true => batch.recent.lookup(name),
                    false => table.lookup(name),
                });
            }
        }
        (most, Stop::Full)
    }

    /// Has the processor fetch what requests that came together are going to look up.
    fn warm(&mut self, key: ClientKey, input: &[u8], requests: &[Parsing]) {
        let Some(client) = self.clients.get(key).filter(|_| requests.len() > 1) else { return };
        let keys = requests.iter().filter_map(|Parsing { request, spec }| {
            let KeySpec::Range { first, .. } = (*spec)?.keys else { return None };
            input.get(request.args.get(first)?.clone())
        });
        self.keyspace.warm(client.db, keys);
    }

    fn protocol_error(&mut self, key: ClientKey, text: &str) {
        if let Some(client) = self.clients.get_mut(key) {
            client.parser.restart(); // it stands in the middle of what is no request
            crate::verbose!("{text} from {}", client.peer);
            if client.is_applied() {
                client.doomed = true;
            } else {
                Reply::new(&mut client.output, client.protocol).error(text);
                client.closing = true;
            }
        }
        self.clients.queue_write(key);
    }
}

/// What is likely to be the key of the first request in `input`. It is only looked ahead for.
fn first_key(input: &[u8]) -> Option<&[u8]> {
    let mut at = input.iter().position(|byte| *byte == b'\n')? + 1;
    for last in [false, true] {
        let line = input.get(at..)?.split(|byte| *byte == b'\r').next()?;
        let len = std::str::from_utf8(line.strip_prefix(b"$")?).ok()?.parse::<u16>().ok()?;
        at += line.len() + 2;
        let argument = input.get(at..at + usize::from(len))?;
        if last {
            return Some(argument);
        }
        at += argument.len() + 2;
    }
    None
}

/// An empty list with the memory of another one.
fn recycle<'a>(mut list: Vec<&[u8]>) -> Vec<&'a [u8]> {
    list.clear();
    list.into_iter().map(|_| &[][..]).collect()
}

fn read_once(client: &mut Client, room: &mut [u8]) -> ReadResult {
    loop {
        match client.stream.read(room) {
            Ok(0) => return ReadResult::Closed,
            Ok(count) => return ReadResult::Data(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadResult::Nothing,
            Err(_) => return ReadResult::Closed,
        }
    }
}
