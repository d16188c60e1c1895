//! What sockets have become ready for, and writing to them.

use std::io::{self, Write};

use mio::event::Event as Readiness;
use mio::{Interest, Token};

use super::accept::WAKER;
use super::input::OUTPUT_PAUSE;
use super::{ClientKey, Kind, Server};

/// Buffers that grew beyond this are given back when they are empty.
const KEPT_BUFFER: usize = 64 * 1024;

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
                client.hung_up |= event.is_read_closed() || event.is_error();
            }
            self.clients.wake(key);
        }
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
        let over = client.exceeds_output(&self.tunables, self.clock.instant);
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
