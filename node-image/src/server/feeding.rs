//! Feeding replicas: answering PSYNC, sending snapshots, sending the stream.

use std::io::{ErrorKind, Write};

use kv_core::directive::OutputLimit;

use super::{ClientKey, Kind, Server};
use crate::replication::{FeedState, ResyncVerdict, SyncJob};
use crate::{notice, warning};

/// Bytes of a snapshot that may wait in a replica's buffer before its making pauses.
const SNAPSHOT_AHEAD: usize = 4 * 1024 * 1024;

impl Server {
    /// Answers PSYNC: goes on from where the replica stands if that is possible, else begins a full synchronisation.
    pub(crate) fn resync(&mut self, key: ClientKey, replid: &str, offset: u64) {
        self.history.record();
        let deadline = self.clock.instant + self.tunables.resync_wait;
        let verdict = self.history.resync(replid, offset);
        let now = self.clock.instant;
        let Some(peer) = self.clients.get(key).map(|client| client.peer) else { return };
        let Some(feed) = self.clients.make_replica(key, now) else { return };
        match verdict {
            ResyncVerdict::Continue(position) => {
                feed.state = FeedState::Online;
                feed.position = position;
                feed.acked = position;
                feed.acked_at = self.clock.instant;
                self.stats.sync_partial_ok += 1;
                let reply = format!("CONTINUE {}", self.history.replid);
                self.reply(key).simple(&reply);
                notice!("Partial resynchronization request from {peer} accepted, offset {position}.");
            }
            // A relay may be behind a replica that moves below it; it has the rest in a moment.
            ResyncVerdict::Ahead(offset) if self.link.is_some() => {
                if !matches!(feed.state, FeedState::Ahead { .. }) {
                    feed.state = FeedState::Ahead { replid: replid.to_owned(), offset, deadline };
                }
            }
            _ if self.link.is_some() && self.link.as_ref().is_some_and(|link| link.client().is_none()) => {
                // What this node holds may be about to be replaced or continued: the replica asks again.
                self.reply(key).error("NOMASTERLINK Can't SYNC while not connected with my master");
            }
            _ => {
                feed.state = FeedState::WaitingForSnapshot;
                self.stats.sync_full += 1;
                if replid != "?" {
                    self.stats.sync_partial_err += 1;
                }
                notice!("Full resync requested by replica {peer}");
            }
        }
    }

    /// Answers those that were ahead of this node, as soon as it has caught up, or their time is over.
    fn answer_ahead(&mut self) {
        let now = self.clock.instant;
        let mut answers = Vec::new();
        for key in self.clients.replicas().to_vec() {
            let Some(feed) = self.clients.get_mut(key).and_then(super::Client::feed_mut) else { continue };
            if let FeedState::Ahead { replid, offset, deadline } = &feed.state {
                let verdict = self.history.resync(replid, *offset);
                if now >= *deadline || !matches!(verdict, ResyncVerdict::Ahead(_)) {
                    let over = matches!(verdict, ResyncVerdict::Ahead(_));
                    answers.push((key, if over { "?".to_owned() } else { replid.clone() }, *offset));
                    feed.state = FeedState::Handshake;
                }
            }
        }
        for (key, replid, offset) in answers {
            self.resync(key, &replid, offset);
        }
    }

    /// Sends every replica what it can take, and drops those that are too far behind.
    pub(super) fn feed_replicas(&mut self) {
        let keys = self.clients.replicas().to_vec();
        if keys.is_empty() {
            return self.history.backlog.trim(u64::MAX);
        }
        self.answer_ahead();
        self.begin_snapshot(&keys);
        let mut needed = u64::MAX;
        for key in keys {
            self.feed_replica(key);
            if let Some(feed) = self.clients.get(key).and_then(|client| client.feed())
                && feed.needs_backlog()
            {
                needed = needed.min(feed.position);
            }
        }
        self.history.backlog.trim(needed);
    }

    fn feed_replica(&mut self, key: ClientKey) {
        let backlog = self.tunables.backlog as u64;
        let at_least = |limit: u64| if limit > 0 { limit.max(backlog) } else { 0 };
        let limit = self.tunables.replica_output;
        let limit = OutputLimit { hard: at_least(limit.hard), soft: at_least(limit.soft), ..limit };
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.doomed {
            return; // the history may be another one than it was fed
        }
        let Kind::Replica(feed) = &mut client.kind else { return };
        let behind = self.history.backlog.end().saturating_sub(feed.position);
        if feed.needs_backlog() && client.slowness.exceeds(&limit, behind, self.clock.instant) {
            warning!(
                "Replica {} is {behind} bytes behind, more than its output limit: closing it.",
                client.peer
            );
            self.stats.output_limit_disconnections += 1;
            return self.clients.doom(key);
        }
        if feed.state != FeedState::Online || client.output.len() > client.written {
            return; // replies and the snapshot go out first
        }
        let mut blocked = false;
        while feed.position < self.history.backlog.end() {
            let Some(bytes) = self.history.backlog.read(feed.position) else {
                warning!("Replica {} needs bytes that are gone from the backlog: closing it.", client.peer);
                return self.clients.doom(key);
            };
            match client.stream.write(bytes) {
                Ok(count) => {
                    feed.position += count as u64;
                    self.stats.replication_bytes += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(_) => return self.clients.doom(key),
            }
        }
        self.watch_write(key, blocked);
    }

    /// Begins a snapshot for all replicas that wait for one, unless one is being sent.
    fn begin_snapshot(&mut self, keys: &[ClientKey]) {
        if self.sync_job.is_some() || self.persistence.walking() {
            return;
        }
        let (offset, replid) = (self.history.offset(), self.history.replid.clone());
        let mark = crate::replication::random_hex(&mut self.random);
        let mut sinks = Vec::new();
        for &key in keys {
            let Some(client) = self.clients.get_mut(key) else { continue };
            let Kind::Replica(feed) = &mut client.kind else { continue };
            if feed.state == FeedState::WaitingForSnapshot {
                feed.state = FeedState::Snapshot;
                feed.position = offset;
                feed.acked_at = self.clock.instant;
                let head = format!("+FULLRESYNC {replid} {offset}\r\n$EOF:{mark}\r\n");
                client.output.extend_from_slice(head.as_bytes());
                self.clients.queue_write(key);
                sinks.push(key);
            }
        }
        if !sinks.is_empty() {
            notice!("Starting a snapshot for {} replica(s) at offset {offset}", sinks.len());
            // A replica that gets the stream from here on must be told the database first. A relay adds nothing to the
            // stream: there the snapshot says it.
            if self.link.is_none() {
                self.history.stream_db = None;
            }
            let aux = self.snapshot_aux();
            self.sync_job = Some(SyncJob::start(&mut self.keyspace, &aux, sinks, mark));
        }
    }

    /// Goes on with the snapshot that is being sent, as far as its receivers keep up.
    pub(super) fn step_sync_job(&mut self) {
        let Some(mut job) = self.sync_job.take() else { return };
        job.sinks.retain(|&key| {
            self.clients
                .get(key)
                .is_some_and(|c| c.feed().is_some_and(|feed| feed.state == FeedState::Snapshot))
        });
        if job.sinks.is_empty() {
            return job.abort(&mut self.keyspace);
        }
        let waiting = job
            .sinks
            .iter()
            .filter_map(|&key| self.clients.get(key))
            .map(super::Client::pending)
            .max()
            .unwrap_or(0);
        let progress = if waiting < SNAPSHOT_AHEAD { job.step(&mut self.keyspace) } else { job.idle() };
        let chunk = match progress {
            Ok(progress) => progress,
            Err(error) => {
                warning!("The snapshot for replicas was given up: {error}. They ask again.");
                let sinks = std::mem::take(&mut job.sinks);
                job.abort(&mut self.keyspace);
                return sinks.into_iter().for_each(|key| self.clients.doom(key));
            }
        };
        for &key in &job.sinks {
            let Some(client) = self.clients.get_mut(key) else { continue };
            if chunk.bytes.is_empty() && !chunk.finished {
                continue;
            }
            client.output.extend_from_slice(&chunk.bytes);
            if chunk.finished {
                client.output.extend_from_slice(job.mark.as_bytes());
                if let Some(feed) = client.feed_mut() {
                    feed.state = FeedState::Loading;
                    feed.acked_at = self.clock.instant;
                }
            }
            self.clients.queue_write(key);
        }
        if chunk.finished {
            notice!("Snapshot for {} replica(s) made", job.sinks.len());
        } else {
            self.sync_job = Some(job);
        }
    }

    /// Whether the snapshot can go on at once, or waits for its receivers.
    pub(super) fn sync_job_can_step(&self) -> bool {
        self.sync_job.as_ref().is_some_and(|job| {
            job.sinks.iter().all(|&key| self.clients.get(key).is_none_or(|c| c.pending() < SNAPSHOT_AHEAD))
        })
    }

    /// Cuts off all replicas: the history was replaced or renamed, and they ask again.
    pub(crate) fn drop_replicas(&mut self) {
        if let Some(job) = self.sync_job.take() {
            job.abort(&mut self.keyspace);
        }
        for key in self.clients.replicas().to_vec() {
            self.clients.doom(key);
        }
    }
}
