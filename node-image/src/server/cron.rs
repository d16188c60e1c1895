//! What is done from time to time.

use std::time::Duration;

use super::{Ending, Server};
use crate::notice;

impl Server {
    /// Whether there is work that should not wait for the next event.
    pub(super) fn has_background_work(&self) -> bool {
        self.sync_job_can_step()
            || self.persistence.can_step()
            || self.is_evicting()
            || self.is_expiring()
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
        self.drop_silent_replicas();
        self.close_idle();
        self.close_misdirected();
        self.drop_slow();
        self.answer_waits();
        self.tend_lease();
        self.tend_sentinel();
        self.tend_held();
        self.tend_failover();
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

    /// Frees the places beyond `maxclients` of those who did not show at once that these are for them.
    fn close_reserved(&mut self) {
        const HANDSHAKE: Duration = Duration::from_secs(1);
        let now = self.clock.instant;
        let strangers = self.clients.keys_where(|client| {
            client.reserved
                && !client.user.is_peer()
                && now.saturating_duration_since(client.since) > HANDSHAKE
        });
        strangers.into_iter().for_each(|key| self.clients.doom(key));
    }

    fn drop_silent_replicas(&mut self) {
        let (now, timeout) = (self.clock.instant, self.tunables.repl_timeout);
        let silent = self.clients.keys_where(|client| {
            client
                .feed()
                .is_some_and(|feed| !feed.silent && now.saturating_duration_since(feed.acked_at) > timeout)
        });
        for key in silent {
            crate::warning!("Disconnecting timedout replica");
            self.clients.doom(key);
        }
    }

    fn close_idle(&mut self) {
        self.close_reserved();
        let Some(timeout) = self.tunables.timeout else { return };
        let now = self.clock.instant;
        let idle = self.clients.keys_where(|client| {
            matches!(client.kind, super::Kind::Normal)
                && client.blocked.is_none()
                && !client.is_subscriber()
                && now.saturating_duration_since(client.active) > timeout
        });
        idle.into_iter().for_each(|key| self.clients.doom(key));
    }
}
