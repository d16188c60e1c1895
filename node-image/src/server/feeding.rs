//! Feeding replicas: answering PSYNC, sending snapshots, sending the stream.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_core::directive::OutputLimit;

use super::{ClientKey, Kind, Server};
use crate::replication::{Feed, FeedState, Progress, ResyncVerdict, SentFile, SyncJob};
use crate::{notice, warning};

/// Bytes of a snapshot that may wait in a replica's buffer before its making pauses.
const SNAPSHOT_AHEAD: usize = 4 * 1024 * 1024;

impl Server {
    /// How many replicas have acknowledged of late, and how many must have (`min-replicas-to-write`), if that counts.
    pub(crate) fn good_replicas(&self) -> Option<(usize, usize)> {
        let (wanted, lag) = self.tunables.min_replicas.filter(|_| self.link.is_none())?;
        let good = |feed: &Feed| feed.online() && self.millis_since(feed.acked_at) / 1000 <= lag;
        Some((self.clients.feeds().filter(|(_, feed)| good(feed)).count(), wanted))
    }

    /// Answers PSYNC: goes on from where the replica stands if that is possible, else begins a full synchronisation.
    pub(crate) fn resync(&mut self, key: ClientKey, replid: &str, offset: u64) {
        if self
            .clients
            .get(key)
            .and_then(|client| client.feed())
            .is_some_and(|feed| feed.state != FeedState::Handshake)
        {
            return; // it has asked already
        }
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
                feed.state = FeedState::WaitingForSnapshot { since: now };
                self.stats.sync_full += 1;
                if replid != "?" {
                    self.stats.sync_partial_err += 1;
                }
                notice!("Full resync requested by replica {peer}");
            }
        }
    }

    /// Answers SYNC, as before Redis 2.8: a snapshot, and then the stream, with nothing said about them.
    pub(crate) fn sync_silently(&mut self, key: ClientKey) {
        if let Some(feed) = self.clients.make_replica(key, self.clock.instant) {
            feed.silent = true;
        }
        self.resync(key, "?", 0);
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
            return self.trim_unread_backlog();
        }
        self.unread_since = None;
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

    /// A master that had no replica for long (`repl-backlog-ttl`) keeps nothing for one; a replica does, for when it is
    /// promoted.
    fn trim_unread_backlog(&mut self) {
        let since = *self.unread_since.get_or_insert(self.clock.instant);
        let idle = self.clock.instant.saturating_duration_since(since);
        if self.link.is_none() && self.tunables.backlog_ttl.is_some_and(|ttl| idle >= ttl) {
            return self.history.backlog.reset(self.history.offset());
        }
        self.history.backlog.trim(u64::MAX);
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
        // What writes bring out of a snapshot that it does not take waits for it, too.
        let unread = (client.output.len() - client.written).saturating_sub(SNAPSHOT_AHEAD) as u64;
        let behind = self.history.backlog.end().saturating_sub(feed.position) + unread;
        if feed.needs_backlog() && client.slowness.exceeds(&limit, behind, self.clock.instant) {
            warning!(
                "Replica {} is {behind} bytes behind, more than its output limit: closing it.",
                client.peer
            );
            self.stats.output_limit_disconnections += 1;
            return self.clients.doom(key);
        }
        if feed.file.is_some() {
            return self.feed_file(key);
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

    /// Begins a snapshot for all replicas that wait for one, unless one is being sent or more of them may come.
    fn begin_snapshot(&mut self, keys: &[ClientKey]) {
        if self.sync_job.is_some() || self.persistence.walking() {
            return;
        }
        let mut sinks = Vec::new();
        let (mut since, mut by_file) = (None, !self.config.settings.bool("repl-diskless-sync"));
        for &key in keys {
            if let Some(feed) = self.clients.get(key).and_then(|client| client.feed())
                && let FeedState::WaitingForSnapshot { since: this } = feed.state
            {
                sinks.push(key);
                since = Some(since.map_or(this, |since: Instant| since.min(this)));
                by_file |= !feed.eof_capable;
            }
        }
        let Some(since) = since else { return };
        let most = self.config.settings.number("repl-diskless-sync-max-replicas");
        let enough = most > 0 && sinks.len() as u64 >= most;
        if !enough && self.clock.instant.saturating_duration_since(since) < self.gathering_time() {
            return;
        }
        notice!("Starting a snapshot for {} replica(s) at offset {}", sinks.len(), self.history.offset());
        self.stats.replica_snapshots += 1;
        // A replica that gets the stream from here on must be told the database first. A relay adds nothing to the
        // stream: there the snapshot says it.
        if self.link.is_none() {
            self.history.stream_db = None;
        }
        if by_file { self.begin_file(sinks) } else { self.begin_stream(sinks) }
    }

    /// How long more replicas are waited for. If nothing says how many come, for no longer than a snapshot of their own
    /// would take.
    fn gathering_time(&self) -> Duration {
        /// Bytes of memory that are sent in a millisecond.
        const PACE: u64 = 200_000;
        let settings = &self.config.settings;
        let most = Duration::from_secs(settings.number("repl-diskless-sync-delay"));
        if settings.number("repl-diskless-sync-max-replicas") > 0 {
            return most;
        }
        most.min(Duration::from_millis(self.keyspace.used_memory() as u64 / PACE))
    }

    /// Begins to send a snapshot as it is made.
    fn begin_stream(&mut self, sinks: Vec<ClientKey>) {
        let mark = crate::replication::random_hex(&mut self.random);
        for &key in &sinks {
            self.announce_snapshot(key, FeedState::Snapshot, &format!("$EOF:{mark}\r\n"));
        }
        let aux = self.snapshot_aux();
        self.sync_job = Some(SyncJob::stream(&mut self.keyspace, &aux, sinks, mark));
    }

    /// Begins to write a snapshot to a file that is sent then.
    fn begin_file(&mut self, sinks: Vec<ClientKey>) {
        let (aux, options) = (self.snapshot_aux(), self.save_options());
        let path = self.config.dir().join("replicas.rdb");
        match SyncJob::file(&mut self.keyspace, &aux, &path, options) {
            Ok(mut job) => {
                for &key in &sinks {
                    self.announce_snapshot(key, FeedState::Saving, "");
                }
                job.sinks = sinks;
                self.sync_job = Some(job);
            }
            Err(error) => {
                warning!("No snapshot for replicas: {error}");
                sinks.into_iter().for_each(|key| self.clients.doom(key));
            }
        }
    }

    /// Tells a replica which history its snapshot belongs to, and what comes next.
    fn announce_snapshot(&mut self, key: ClientKey, state: FeedState, head: &str) {
        let now = self.clock.instant;
        let Some(client) = self.clients.get_mut(key) else { return };
        let Kind::Replica(feed) = &mut client.kind else { return };
        feed.state = state;
        feed.position = self.history.offset();
        feed.acked_at = now;
        if !feed.silent {
            let resync = format!("+FULLRESYNC {} {}\r\n", self.history.replid, self.history.offset());
            client.output.extend_from_slice(resync.as_bytes());
        }
        client.output.extend_from_slice(head.as_bytes());
        self.clients.queue_write(key);
    }

    /// Goes on with the snapshot that is being made, as far as its receivers keep up.
    pub(super) fn step_sync_job(&mut self) {
        let Some(mut job) = self.sync_job.take() else { return };
        job.sinks.retain(|&key| {
            self.clients
                .get(key)
                .and_then(|client| client.feed().filter(|_| !client.doomed))
                .is_some_and(|feed| matches!(feed.state, FeedState::Snapshot | FeedState::Saving))
        });
        if job.sinks.is_empty() {
            return job.abort(&mut self.keyspace);
        }
        let room = job.sinks.iter().all(|&key| self.has_room(key));
        match job.step(&mut self.keyspace, room) {
            Ok(Progress::Bytes(bytes)) => {
                job.sinks.iter().for_each(|&key| self.send_snapshot(key, &bytes));
                self.sync_job = Some(job);
            }
            Ok(Progress::End(bytes)) => {
                notice!("Snapshot for {} replica(s) made", job.sinks.len());
                for &key in &job.sinks {
                    self.send_snapshot(key, &bytes);
                    self.snapshot_sent(key, FeedState::Loading);
                }
            }
            Ok(Progress::File(file, len)) => {
                notice!("Snapshot for {} replica(s) made: {len} bytes", job.sinks.len());
                let file = Arc::new(file);
                job.sinks.iter().for_each(|&key| self.send_file(key, &file, len));
            }
            Err(error) => {
                warning!("The snapshot for replicas was given up: {error}. They ask again.");
                let sinks = std::mem::take(&mut job.sinks);
                job.abort(&mut self.keyspace);
                sinks.into_iter().for_each(|key| self.clients.doom(key));
            }
        }
    }

    fn send_snapshot(&mut self, key: ClientKey, bytes: &[u8]) {
        if let Some(client) = self.clients.get_mut(key).filter(|_| !bytes.is_empty()) {
            client.output.extend_from_slice(bytes);
            self.clients.queue_write(key);
        }
    }

    /// All of the snapshot is on its way to the replica.
    fn snapshot_sent(&mut self, key: ClientKey, then: FeedState) {
        let now = self.clock.instant;
        let Some(client) = self.clients.get_mut(key) else { return };
        let Kind::Replica(feed) = &mut client.kind else { return };
        feed.acked_at = now;
        // One that asked by SYNC says nothing, not even that it has loaded.
        feed.state = if feed.silent { FeedState::Online } else { then };
        client.closing |= feed.snapshot_only;
    }

    fn send_file(&mut self, key: ClientKey, file: &Arc<SentFile>, len: u64) {
        let Some(feed) = self.clients.get_mut(key).and_then(super::Client::feed_mut) else { return };
        feed.state = FeedState::Snapshot;
        feed.file = Some((Arc::clone(file), 0..len));
        self.send_snapshot(key, format!("${len}\r\n").as_bytes());
    }

    /// Goes on to send its file to a replica.
    fn feed_file(&mut self, key: ClientKey) {
        const PIECE: usize = 256 * 1024;
        let Some(client) = self.clients.get_mut(key) else { return };
        let Kind::Replica(feed) = &mut client.kind else { return };
        let Some((file, rest)) = &mut feed.file else { return };
        if client.output.len() - client.written >= PIECE {
            return;
        }
        let size = PIECE.min(usize::try_from(rest.end - rest.start).unwrap_or(PIECE));
        let start = client.output.len();
        client.output.resize(start + size, 0);
        let piece = client.output.get_mut(start..).unwrap_or_default();
        if let Err(error) = file.read_at(piece, rest.start) {
            warning!("Cannot read the snapshot for replica {}: {error}", client.peer);
            return self.clients.doom(key);
        }
        rest.start += size as u64;
        if rest.is_empty() {
            feed.file = None;
            self.snapshot_sent(key, FeedState::Online);
        }
        self.clients.queue_write(key);
    }

    /// Whether a receiver of the snapshot keeps up with it.
    fn has_room(&self, key: ClientKey) -> bool {
        self.clients.get(key).is_none_or(|client| client.pending() < SNAPSHOT_AHEAD)
    }

    /// Whether the snapshot can go on at once, or waits for its receivers or the disk.
    pub(super) fn sync_job_can_step(&self) -> bool {
        self.sync_job
            .as_ref()
            .is_some_and(|job| job.can_step() && job.sinks.iter().all(|&key| self.has_room(key)))
    }

    /// Cuts off all replicas: the history was replaced or renamed, and they ask again.
    pub(crate) fn drop_replicas(&mut self) {
        if let Some(job) = self.sync_job.take() {
            job.abort(&mut self.keyspace);
        }
        for key in self.clients.replicas().to_vec() {
            // One that has not asked yet is told what holds then.
            let asked = self.clients.get(key).and_then(|client| client.feed());
            if asked.is_some_and(|feed| feed.state != FeedState::Handshake) {
                self.clients.doom(key);
            }
        }
    }
}
