//! What is done from time to time.

use std::time::Duration;

use super::{Client, ClientKey, Ending, Kind, Server};
use crate::notice;

impl Server {
    /// Whether there is work that should not wait for the next event.
    pub(super) fn has_background_work(&self) -> bool {
        self.sync_job_can_step()
            || self.persistence.can_step()
            || self.is_evicting()
            || self.is_expiring()
            || self.is_moving()
            || self.accepting
            || self.clients.has_queued()
    }

    /// Goes on with what is done in pieces.
    pub(super) fn background_work(&mut self) {
        self.step_sync_job();
        self.step_persistence();
        if self.is_evicting() {
            self.make_room();
        }
        self.expire_slice();
        self.step_moves();
        if self.accepting {
            self.accept();
        }
    }

    /// Runs `hz` times a second.
    pub(super) fn cron(&mut self) {
        self.next_cron = self.clock.instant + Duration::from_millis(1000 / self.tunables.hz.max(1));
        if self.pause.is_some_and(|pause| self.clock.instant >= pause.until) {
            notice!("The hand-over was not completed in time: writes go on here.");
            self.release_writes();
        }
        if self.client_pause.is_some_and(|pause| self.clock.instant >= pause.until) {
            self.unpause_clients();
        }
        self.begin_expiry();
        if self.may_originate() {
            self.beat();
        }
        self.keep_waiting_replicas();
        self.clients.peaks.turn(self.clock.unix_ms / 1000);
        self.trim_buffers();
        self.accept(); // what a lack of descriptors left waiting
        self.tend_link();
        self.tend_adoption();
        self.drop_silent_replicas();
        self.tend_clients();
        self.close_misdirected();
        self.answer_waits();
        self.tend_lease();
        self.tend_sentinel();
        self.tend_held();
        self.tend_failover();
        self.tend_moves();
        self.tend_persistence();
        self.routing.tend(self.clock.instant);
        match self.ending {
            Ending::Leaving(until) => self.leave_if_relieved(until),
            Ending::Draining(_) => self.end_if_drained(),
            Ending::No | Ending::Now { .. } => {}
        }
        self.publish();
    }

    /// Sends the stream's heartbeat.
    fn beat(&mut self) {
        let due = self.clock.instant.saturating_duration_since(self.last_ping) >= self.tunables.ping_period;
        if due && !self.clients.replicas().is_empty() {
            self.last_ping = self.clock.instant;
            self.replicate_beat(&[b"PING"]);
        }
    }

    /// Tells replicas that wait for a snapshot that they are not forgotten.
    fn keep_waiting_replicas(&mut self) {
        const EVERY: Duration = Duration::from_secs(1);
        if self.clock.instant.saturating_duration_since(self.last_line) < EVERY {
            return;
        }
        self.last_line = self.clock.instant;
        for key in self.clients.replicas().to_vec() {
            let Some(client) = self.clients.get_mut(key) else { continue };
            let waits = client.feed_mut().filter(|feed| feed.is_waiting());
            if let Some(feed) = waits {
                feed.acked_at = self.clock.instant; // it cannot say anything either
                client.output.push(b'\n');
                self.clients.queue_write(key);
            }
        }
    }

    fn drop_silent_replicas(&mut self) {
        let (now, timeout) = (self.clock.instant, self.tunables.repl_timeout);
        let feed = |key: &ClientKey| self.clients.get(*key).and_then(Client::feed);
        let is_silent = |key: &&ClientKey| {
            feed(key)
                .is_some_and(|feed| !feed.silent && now.saturating_duration_since(feed.acked_at) > timeout)
        };
        let silent: Vec<_> = self.clients.replicas().iter().filter(is_silent).copied().collect();
        for key in silent {
            crate::warning!("Disconnecting timedout replica");
            self.clients.doom(key);
        }
    }

    /// Looks at some of the clients, at each of them at least once a second: there may be many.
    fn tend_clients(&mut self) {
        for key in self.clients.sweep(self.tunables.hz) {
            self.tend_client(key);
        }
    }

    /// Closes a client that takes a place beyond `maxclients` and did not show at once that it is for it, that was idle for
    /// longer than `timeout`, or whose output was above the soft limit for too long.
    fn tend_client(&mut self, key: ClientKey) {
        let now = self.clock.instant;
        let Some(client) = self.clients.get_mut(key) else { return };
        let since = |past| now.saturating_duration_since(past);
        let is_normal = matches!(client.kind, Kind::Normal);
        let waits = client.blocked.is_some() || client.is_subscriber() || client.user.is_peer();
        let is_idle = || self.tunables.timeout.is_some_and(|timeout| since(client.active) > timeout);
        let is_stranger = client.reserved && !client.user.is_peer() && since(client.since) > super::HANDSHAKE;
        if is_stranger || (is_normal && !waits && is_idle()) {
            self.clients.doom(key);
        } else if is_normal && client.slowness.is_slow() && client.exceeds_output(&self.tunables, now) {
            self.close_unread(key);
        }
    }
}
