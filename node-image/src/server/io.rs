//! What sockets have become ready for, and writing to them.

use std::io::{self, Write};

use mio::event::Event as Readiness;
use mio::{Interest, Token};

use super::accept::WAKER;
use super::{ClientKey, Kind, Server};

/// The most that is written to a client in one go, so that one that reads as fast as the node writes does not keep the
/// others waiting.
const WRITE_BUDGET: usize = 1024 * 1024;

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
        client.forget_plain();
        let pending = client.pending();
        self.clients.peaks.note_output(pending);
        let Some(client) = self.clients.get_mut(key) else { return };
        let was_full = client.is_full();
        let mut budget = WRITE_BUDGET;
        // Before anything is written: of a reply that is too large for it, a part was left out.
        let most = client.most_output(&self.tunables);
        if most > 0 && client.pending() as u64 > most && !client.doomed {
            return self.close_unread(key);
        }
        let (mut broken, mut blocked) = (client.doomed, false);
        while !broken && client.sendable() > 0 && budget > 0 {
            let rest = client.output.get(client.written..).unwrap_or_default();
            let rest = rest.get(..budget.min(client.sendable())).unwrap_or(rest);
            match client.stream.write(rest) {
                Ok(0) => broken = true,
                Ok(count) => {
                    client.wrote(count);
                    budget = budget.saturating_sub(count);
                    client.active = self.clock.instant;
                    if let Kind::Replica(feed) = &mut client.kind
                        && !feed.online()
                    {
                        feed.acked_at = self.clock.instant; // a snapshot makes progress
                    }
                    self.stats.output_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(_) => broken = true,
            }
        }
        let over = client.exceeds_output(&self.tunables, self.clock.instant);
        if broken || (client.closing && client.pending() == 0) {
            return self.close(key);
        }
        if over {
            return self.close_unread(key);
        }
        // A replica whose snapshot went out is to get the stream at once.
        let replica = client.output.is_empty() && matches!(client.kind, Kind::Replica(_));
        let resumed = was_full && !client.is_full();
        if client.sendable() > 0 && !blocked {
            self.clients.queue_write(key); // in the next tick
        }
        self.clients.reclaim_output(key);
        self.clients.account(key);
        self.watch_write(key, blocked);
        if resumed || replica {
            self.clients.wake(key);
        }
    }

    /// Closes a client that does not read what it asked for.
    pub(super) fn close_unread(&mut self, key: ClientKey) {
        if let Some(client) = self.clients.get(key) {
            let (peer, bytes) = (client.peer, client.pending());
            crate::warning!(
                "Client {peer} closed for overcoming of output buffer limits: {bytes} bytes wait for it"
            );
        }
        self.stats.output_limit_disconnections += 1;
        self.close(key);
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
        match client.kind {
            Kind::Parent => self.on_link_lost("the connection was closed"),
            Kind::Export => self.on_export_closed(key),
            Kind::Import => self.on_import_closed(key),
            Kind::Normal | Kind::Replica(_) => {}
        }
    }
}
