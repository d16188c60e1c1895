//! Clients that wait: for replicas (WAIT), and for the end of a pause.

use std::time::{Duration, Instant};

use super::{Blocked, ClientKey, ClientPause, Pause, Server};

/// The offset to reach, by how many replicas, and whether on the disk: see [`Blocked::Wait`].
type Wait = (u64, usize, Option<bool>);

impl Server {
    /// How many replicas have acknowledged `offset`.
    #[must_use]
    pub fn acknowledged(&self, offset: u64) -> usize {
        self.clients.feeds().filter(|(_, feed)| feed.online() && feed.acked >= offset).count()
    }

    /// How many replicas have acknowledged that they have `offset` on the disk.
    fn acknowledged_on_disk(&self, offset: u64) -> usize {
        self.clients.feeds().filter(|(_, feed)| feed.online() && feed.synced >= offset).count()
    }

    /// Whether this node has `offset` in its append-only file, on the disk.
    fn has_on_disk(&self, offset: u64) -> bool {
        self.persistence.synced().is_some_and(|synced| synced >= offset)
    }

    /// Answers WAIT or WAITAOF if it is over, or has no more time.
    fn answer_wait(&mut self, key: ClientKey, (offset, replicas, on_disk): Wait, over: bool) -> bool {
        let (count, local) = match on_disk {
            None => (self.acknowledged(offset), true),
            Some(_) => (self.acknowledged_on_disk(offset), self.has_on_disk(offset)),
        };
        let done = over || (count >= replicas && (local || on_disk != Some(true)));
        if done {
            self.unblock(key);
            let mut reply = self.reply(key);
            if on_disk.is_some() {
                reply.array(2);
                reply.integer(i64::from(local));
            }
            reply.count(count);
        }
        done
    }

    /// Answers a client as soon as `replicas` have acknowledged its last write; `on_disk`: see [`Blocked::Wait`].
    pub(crate) fn wait_for_replicas(
        &mut self,
        key: ClientKey,
        replicas: usize,
        on_disk: Option<bool>,
        timeout_ms: u64,
    ) {
        let offset = self.clients.get(key).map_or(0, |client| client.write_offset);
        let executing = self.is_executing(key);
        if self.answer_wait(key, (offset, replicas, on_disk), executing) {
            return;
        }
        let now = self.clock.instant;
        let deadline = (timeout_ms > 0).then(|| now.checked_add(Duration::from_millis(timeout_ms))).flatten();
        if let Some(client) = self.clients.get_mut(key) {
            client.blocked = Some(Blocked::Wait { offset, replicas, on_disk, deadline });
            self.waiting.push(key);
        }
        self.replicate_beat(&[b"REPLCONF", b"GETACK", b"*"]);
    }

    /// Answers those whose wait is over.
    pub(crate) fn answer_waits(&mut self) {
        let now = self.clock.instant;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|&key| {
            let blocked = self.clients.get(key).and_then(|client| client.blocked);
            let Some(Blocked::Wait { offset, replicas, on_disk, deadline }) = blocked else { return false };
            let over = deadline.is_some_and(|deadline| now >= deadline);
            !self.answer_wait(key, (offset, replicas, on_disk), over)
        });
        self.waiting = waiting;
    }

    /// `CLIENT UNBLOCK`: ends a client's wait, as if its time were over, or by an error. Returns whether it waited.
    pub(crate) fn end_wait(&mut self, key: ClientKey, error: bool) -> bool {
        let blocked = self.clients.get(key).and_then(|client| client.blocked);
        let Some(Blocked::Wait { offset, .. }) = blocked else { return false };
        self.unblock(key);
        if error {
            self.reply(key).error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
        } else {
            let count = self.acknowledged(offset);
            self.reply(key).count(count);
        }
        true
    }

    /// The node is, or is about to be, master no more: nobody acknowledges these writes here.
    pub(crate) fn release_waits(&mut self) {
        let waits = |client: &super::Client| matches!(client.blocked, Some(Blocked::Wait { .. }));
        for key in std::mem::take(&mut self.waiting) {
            if !self.clients.get(key).is_some_and(waits) {
                continue;
            }
            self.unblock(key);
            self.reply(key).error(
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            );
        }
    }

    pub(super) fn unblock(&mut self, key: ClientKey) {
        if let Some(client) = self.clients.get_mut(key) {
            client.blocked = None;
        }
        self.clients.wake(key);
    }

    /// Holds writes until then, or until the node's role changes.
    pub(crate) fn hold_writes(&mut self, until: Instant) {
        self.pause = Some(Pause { until });
    }

    /// Ends a pause: the held requests are run again, or redirected if the master is another now.
    pub(crate) fn release_writes(&mut self) {
        self.pause = None;
        self.retry_held();
    }

    /// `CLIENT PAUSE`: holds writes, or `all` commands of clients. A pause that lasts longer already, or holds more, goes
    /// on to do so, as in Redis.
    pub(crate) fn pause_clients(&mut self, until: Instant, all: bool) {
        let running = self.client_pause;
        self.client_pause = Some(ClientPause {
            since: running.map_or(self.clock.instant, |pause| pause.since),
            until: running.map_or(until, |pause| pause.until.max(until)),
            all: all || running.is_some_and(|pause| pause.all),
        });
    }

    /// `CLIENT UNPAUSE`, or the end of its time.
    pub(crate) fn unpause_clients(&mut self) {
        self.client_pause = None;
        self.retry_held();
    }

    /// Has held requests run again; those that are still to be held are held again.
    pub(super) fn retry_held(&mut self) {
        for key in self.clients.keys_where(|client| client.blocked == Some(Blocked::Pause)) {
            self.unblock(key);
        }
    }
}
