//! Reading from and writing to sockets.

use std::io::{self, Read, Write};

use mio::event::Event as Readiness;
use mio::{Interest, Token};

use super::accept::WAKER;
use super::{ClientKey, Kind, Server};
use crate::resp::{Limits, Parsed, Reply, Request};

/// Bytes that are read from a client at a time, so that none starves the others.
const READ_CHUNK: usize = 64 * 1024;
/// A client with more unwritten output than this has its further requests wait.
const OUTPUT_PAUSE: usize = 1024 * 1024;
/// Buffers that grew beyond this are given back when they are empty.
const KEPT_BUFFER: usize = 64 * 1024;

enum ReadResult {
    Data,
    Nothing,
    Closed,
}

impl Server {
    pub(super) fn on_ready(&mut self, event: &Readiness) {
        let token = event.token();
        if token == WAKER {
            return;
        }
        if Self::is_listener(token) {
            return self.accept();
        }
        let key = ClientKey(token.0);
        let Some(client) = self.clients.get_mut(key) else { return };
        if event.is_writable() && client.wants_write {
            self.clients.queue_write(key);
            self.clients.wake(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            if let Some(client) = self.clients.get_mut(key) {
                client.readable = true;
            }
            self.clients.wake(key);
        }
    }

    /// Reads on and executes for every client that may have something.
    pub(super) fn read_clients(&mut self) {
        for key in std::mem::take(&mut self.clients.ready) {
            self.read_client(key);
        }
    }

    fn read_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.woken = false;
        if client.doomed || client.closing {
            return;
        }
        if client.blocked.is_some() {
            // Its requests wait, but that it went away must be noticed.
            if client.readable && client.input.len() < READ_CHUNK {
                self.fill_input(key);
            }
            return;
        }
        if client.pending() > OUTPUT_PAUSE {
            return; // woken when its output was written
        }
        let more = client.readable && self.fill_input(key);
        self.execute_input(key);
        if more && self.clients.get(key).is_some_and(|client| client.readable && client.blocked.is_none()) {
            self.clients.wake(key);
        }
    }

    /// Reads once from the socket. Returns whether there may be more.
    pub(super) fn fill_input(&mut self, key: ClientKey) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let wanted = client.parser.wanted(&client.input).saturating_sub(client.input.len());
        let chunk = wanted.clamp(READ_CHUNK / 4, 1024 * 1024).max(READ_CHUNK / 4);
        match read_some(client, chunk) {
            ReadResult::Data => {
                client.active = self.clock.instant;
                if client.is_parent()
                    && let Some(link) = &mut self.link
                {
                    link.heard = self.clock.instant;
                }
                if client.input.len() > self.tunables.query_buffer && !client.is_parent() {
                    crate::warning!("Closing client that reached max query buffer length: {}", client.peer);
                    self.clients.doom(key);
                }
                true
            }
            ReadResult::Nothing => {
                client.readable = false;
                false
            }
            ReadResult::Closed => {
                client.readable = false;
                // What it sent before it closed still counts.
                if client.blocked.is_none() {
                    self.execute_input(key);
                }
                self.clients.doom(key);
                false
            }
        }
    }

    /// Executes all whole requests in the client's input.
    pub(super) fn execute_input(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let input = std::mem::take(&mut client.input);
        let mut request = std::mem::take(&mut client.request);
        let used = self.execute_requests(key, &input, &mut request);
        let Some(client) = self.clients.get_mut(key) else { return };
        client.request = request;
        client.input = input;
        client.parser.dropped(used, &mut client.request);
        if used == client.input.len() {
            client.input.clear();
            if client.input.capacity() > KEPT_BUFFER {
                client.input = Vec::new();
            }
        } else {
            client.input.drain(..used);
        }
    }

    /// Returns how many bytes of `input` were used.
    fn execute_requests(&mut self, key: ClientKey, input: &[u8], request: &mut Request) -> usize {
        let mut used = 0;
        let mut spare: Vec<&[u8]> = Vec::with_capacity(8);
        loop {
            let Some(client) = self.clients.get_mut(key) else { return used };
            if client.doomed || client.closing || client.blocked.is_some() || client.pending() > OUTPUT_PAUSE
            {
                return used;
            }
            let limits = match client.user {
                super::User::Nobody => Limits::UNAUTHENTICATED,
                _ if client.is_parent() => Limits::trusted(usize::MAX / 4),
                _ => self.tunables.limits,
            };
            match client.parser.parse(input, used, &limits, request) {
                Ok(Parsed::Incomplete) => return used,
                Ok(Parsed::Complete) => {}
                Err(error) => {
                    self.protocol_error(key, &error.to_string());
                    return input.len();
                }
            }
            let inline = std::mem::take(&mut request.inline);
            let mut args = recycle(std::mem::take(&mut spare));
            args.extend(request.args.iter().map(|range| input.get(range.clone()).unwrap_or_default()));
            args.extend(inline.iter().map(Vec::as_slice));
            let bytes = input.get(used..request.end).unwrap_or_default();
            let done = match self.clients.get(key) {
                Some(client) if client.is_parent() => self.apply(key, &args, bytes),
                _ => args.is_empty() || self.dispatch(key, &args),
            };
            spare = recycle(args);
            if !done {
                return used; // held: the request is run again later
            }
            used = request.end;
        }
    }

    fn protocol_error(&mut self, key: ClientKey, text: &str) {
        if let Some(client) = self.clients.get_mut(key) {
            crate::verbose!("{text} from {}", client.peer);
            if client.is_parent() {
                client.doomed = true;
            } else {
                Reply::new(&mut client.output, client.protocol).error(text);
                client.closing = true;
            }
        }
        self.clients.queue_write(key);
    }

    /// Writes once to each client that has something to be written, and closes those that are to be closed.
    pub(super) fn write_clients(&mut self) {
        let list = self.clients.take_queue();
        for &key in &list {
            if let Some(client) = self.clients.get_mut(key) {
                client.queued = false;
            }
            self.write_client(key);
        }
        self.clients.restore_queue(list);
    }

    fn write_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let was_full = client.pending() > OUTPUT_PAUSE;
        let mut broken = client.doomed;
        while !broken && client.pending() > 0 {
            let rest = client.output.get(client.written..).unwrap_or_default();
            match client.stream.write(rest) {
                Ok(0) => broken = true,
                Ok(count) => {
                    client.written += count;
                    if let Kind::Replica(feed) = &mut client.kind
                        && !feed.online()
                    {
                        feed.acked_at = self.clock.instant; // a snapshot makes progress
                    }
                    self.stats.output_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => broken = true,
            }
        }
        if client.pending() == 0 {
            client.output.clear();
            client.written = 0;
            if client.output.capacity() > KEPT_BUFFER {
                client.output = Vec::new();
            }
        }
        let limit = if matches!(client.kind, Kind::Normal) { self.tunables.normal_output } else { 0 };
        let over = limit > 0 && client.pending() as u64 > limit;
        if broken || over || (client.closing && client.pending() == 0) {
            return self.close(key);
        }
        // A replica whose snapshot went out is to get the stream at once.
        let replica = client.output.is_empty() && matches!(client.kind, Kind::Replica(_));
        let (resumed, pending) = (was_full && client.pending() <= OUTPUT_PAUSE, client.pending() > 0);
        self.watch_write(key, pending);
        if resumed || replica {
            self.clients.wake(key);
        }
    }

    /// Watches, or no longer watches, the socket for room to write.
    pub(super) fn watch_write(&mut self, key: ClientKey, wanted: bool) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.wants_write == wanted {
            return;
        }
        let interest = if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        if self.poll.registry().reregister(&mut client.stream, Token(key.0), interest).is_ok() {
            client.wants_write = wanted;
        }
    }

    /// Closes a connection at once.
    pub(super) fn close(&mut self, key: ClientKey) {
        self.end_session(key);
        let Some(mut client) = self.clients.remove(key) else { return };
        let _ = self.poll.registry().deregister(&mut client.stream);
        if client.is_parent() {
            self.on_link_lost("the connection was closed");
        }
    }
}

/// An empty list with the memory of another one.
fn recycle<'a>(mut list: Vec<&[u8]>) -> Vec<&'a [u8]> {
    list.clear();
    list.into_iter().map(|_| &[][..]).collect()
}

fn read_some(client: &mut super::Client, chunk: usize) -> ReadResult {
    let before = client.input.len();
    client.input.resize(before + chunk, 0);
    let room = client.input.get_mut(before..).unwrap_or_default();
    let result = loop {
        match client.stream.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    client.input.truncate(before + *result.as_ref().unwrap_or(&0));
    match result {
        Ok(0) => ReadResult::Closed,
        Ok(_) => ReadResult::Data,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadResult::Nothing,
        Err(_) => ReadResult::Closed,
    }
}
