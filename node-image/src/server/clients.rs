//! All connected clients.

use std::time::Instant;

use slab::Slab;

use super::client::{Client, ClientKey, IDLE_BUFFER, Kind};
use super::memory::{Peaks, Totals};
use crate::replication::{Feed, FeedState};

/// All connected clients, and which of them have something to be written.
#[derive(Debug, Default)]
pub struct Clients {
    slab: Slab<Client>,
    queue: Vec<ClientKey>,
    /// Those that are replicas.
    replicas: Vec<ClientKey>,
    /// Clients whose socket or buffer may hold more requests.
    pub ready: Vec<ClientKey>,
    /// The largest buffers of late.
    pub peaks: Peaks,
    totals: Totals,
    /// Buffers for output, which go from client to client.
    spares: Vec<Vec<u8>>,
    next_id: u64,
    /// Where the next sweep goes on.
    swept: usize,
}

impl Clients {
    /// Number of clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The id for a client that connects now.
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The key that the next inserted client gets.
    #[must_use]
    pub fn vacant_key(&self) -> ClientKey {
        ClientKey(self.slab.vacant_key())
    }

    /// Adds a client.
    pub fn insert(&mut self, client: Client) -> ClientKey {
        let key = ClientKey(self.slab.insert(client));
        self.account(key);
        key
    }

    /// Counts anew what a client takes.
    pub fn account(&mut self, key: ClientKey) {
        if let Some(client) = self.slab.get_mut(key.0) {
            let counted = (client.account(), client.memory());
            self.totals.change(client.counted, counted);
            client.counted = counted;
        }
    }

    /// Lends a buffer for output to a client that has none.
    pub(super) fn lend_output(&mut self, key: ClientKey) {
        if let Some(client) = self.slab.get_mut(key.0)
            && client.output.capacity() == 0
        {
            client.output = self.spares.pop().unwrap_or_default();
        }
    }

    /// Takes the buffer for output of a client that has nothing in it: one that is idle takes little memory.
    pub(super) fn reclaim_output(&mut self, key: ClientKey) {
        const MOST: usize = 64;
        const LARGEST: usize = 64 * 1024;
        let Some(client) = self.slab.get_mut(key.0) else { return };
        if client.output.is_empty() && client.output.capacity() > IDLE_BUFFER {
            let buffer = std::mem::take(&mut client.output);
            if buffer.capacity() <= LARGEST && self.spares.len() < MOST {
                self.spares.push(buffer);
            }
        }
    }

    /// Bytes that clients take, as they were counted last.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Removes a client.
    pub fn remove(&mut self, key: ClientKey) -> Option<Client> {
        self.replicas.retain(|replica| *replica != key);
        let removed = self.slab.try_remove(key.0)?;
        self.totals.change(removed.counted, (removed.counted.0, 0));
        Some(removed)
    }

    /// The client of this key.
    #[must_use]
    pub fn get(&self, key: ClientKey) -> Option<&Client> {
        self.slab.get(key.0)
    }

    /// The client of this key.
    pub fn get_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        self.slab.get_mut(key.0)
    }

    /// All clients.
    pub fn iter(&self) -> impl Iterator<Item = (ClientKey, &Client)> {
        self.slab.iter().map(|(key, client)| (ClientKey(key), client))
    }

    /// All clients.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ClientKey, &mut Client)> {
        self.slab.iter_mut().map(|(key, client)| (ClientKey(key), client))
    }

    /// Those that are replicas.
    #[must_use]
    pub fn replicas(&self) -> &[ClientKey] {
        &self.replicas
    }

    /// The feeds of those that are replicas, and have asked for the stream.
    pub fn feeds(&self) -> impl Iterator<Item = (&Client, &Feed)> {
        self.replicas.iter().filter_map(|key| {
            let client = self.get(*key)?;
            Some((client, client.feed().filter(|feed| feed.state != FeedState::Handshake)?))
        })
    }

    /// The client's feed; it becomes a replica if it is none yet. `None` if it is gone.
    pub fn make_replica(&mut self, key: ClientKey, now: Instant) -> Option<&mut Feed> {
        let client = self.slab.get_mut(key.0)?;
        if !matches!(client.kind, Kind::Replica(_)) {
            client.kind = Kind::Replica(Box::new(Feed::new(now)));
            self.replicas.push(key);
        }
        client.feed_mut()
    }

    /// The keys of all clients that `wanted` holds for.
    pub fn keys_where(&self, wanted: impl Fn(&Client) -> bool) -> Vec<ClientKey> {
        self.iter().filter(|(_, client)| wanted(client)).map(|(key, _)| key).collect()
    }

    /// The next places of clients to look at, which may be empty. So many calls, or fewer, come around to all of them.
    pub(super) fn sweep(&mut self, calls: u64) -> impl Iterator<Item = ClientKey> + use<> {
        const LEAST: usize = 64;
        let places = self.slab.capacity();
        let calls = usize::try_from(calls).unwrap_or(usize::MAX).max(1);
        let from = if self.swept < places { self.swept } else { 0 };
        self.swept = from + places.div_ceil(calls).max(LEAST);
        (from..self.swept.min(places)).map(ClientKey)
    }

    /// How many clients ask and are answered: neither replicas nor the parent.
    #[must_use]
    pub fn normal(&self, parents: usize) -> usize {
        self.len().saturating_sub(self.replicas.len() + parents)
    }

    /// Has the client written to at the end of this tick.
    pub fn queue_write(&mut self, key: ClientKey) {
        if let Some(client) = self.slab.get_mut(key.0)
            && !client.queued
        {
            client.queued = true;
            self.queue.push(key);
        }
    }

    /// Holds the replies of this tick that tell of what is not `durable`, and adds their clients to `waiting`. With `dirty`,
    /// only of clients that wrote something.
    pub fn hold_queued(&mut self, durable: u64, dirty: bool, now: Instant, waiting: &mut Vec<ClientKey>) {
        for key in &self.queue {
            let Some(client) = self.slab.get_mut(key.0) else { continue };
            let told = if dirty { 0 } else { client.read_offset };
            let offset = client.write_offset.max(told);
            let waits = client.held.as_ref().is_some_and(|held| held.waits());
            if matches!(client.kind, Kind::Normal) && !client.user.is_peer() && (waits || offset > durable) {
                client.hold(offset, now);
                if !waits && client.held.as_ref().is_some_and(|held| held.waits()) {
                    waiting.push(*key);
                }
            }
        }
    }

    /// Whether any is to be written to.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Those to be written to.
    pub fn take_queue(&mut self) -> Vec<ClientKey> {
        std::mem::take(&mut self.queue)
    }

    /// Gives the list back, so that its memory is used again.
    pub fn restore_queue(&mut self, mut list: Vec<ClientKey>) {
        if self.queue.is_empty() {
            list.clear();
            self.queue = list;
        }
    }

    /// Has the client's requests read on in this tick or the next.
    pub fn wake(&mut self, key: ClientKey) {
        if let Some(client) = self.slab.get_mut(key.0)
            && !client.woken
        {
            client.woken = true;
            self.ready.push(key);
        }
    }

    /// Marks the client to be closed at the end of this tick.
    pub fn doom(&mut self, key: ClientKey) {
        if let Some(client) = self.get_mut(key) {
            client.doomed = true;
        }
        self.queue_write(key);
    }
}
