//! The memory of clients: counted as it changes, and bounded by `maxmemory-clients`.

use super::client::Account;
use super::{ClientKey, HANDSHAKE, Server};

/// Bytes that a client which has just come to a managed node may take in any case.
const NEW: usize = 64 * 1024;

/// For how many seconds peaks are remembered.
const SECONDS: usize = 8;

/// Bytes that clients take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    evictable: usize,
    spared: usize,
    /// Replicas that are fed.
    pub replicas: usize,
}

impl Totals {
    /// All but replicas.
    #[must_use]
    pub fn normal(&self) -> usize {
        self.evictable + self.spared
    }

    /// Counts something else for a client than before.
    pub(super) fn change(&mut self, before: (Account, usize), after: (Account, usize)) {
        *self.of(before.0) = self.of(before.0).saturating_sub(before.1);
        *self.of(after.0) += after.1;
    }

    fn of(&mut self, account: Account) -> &mut usize {
        match account {
            Account::Evictable => &mut self.evictable,
            Account::Spared => &mut self.spared,
            Account::Replica => &mut self.replicas,
        }
    }
}

/// The largest buffers of the last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    input: [usize; SECONDS],
    output: [usize; SECONDS],
    at: usize,
}

impl Peaks {
    pub(super) fn note_input(&mut self, bytes: usize) {
        note(&mut self.input, self.at, bytes);
    }

    pub(super) fn note_output(&mut self, bytes: usize) {
        note(&mut self.output, self.at, bytes);
    }

    /// Forgets what is older than a few seconds.
    pub(super) fn turn(&mut self, seconds: u64) {
        let at = (seconds % SECONDS as u64) as usize;
        if at != self.at {
            self.at = at;
            for peaks in [&mut self.input, &mut self.output] {
                peaks.iter_mut().skip(at).take(1).for_each(|peak| *peak = 0);
            }
        }
    }

    /// The largest input, in bytes.
    #[must_use]
    pub fn input(&self) -> usize {
        self.input.into_iter().max().unwrap_or(0)
    }

    /// The largest output, in bytes.
    #[must_use]
    pub fn output(&self) -> usize {
        self.output.into_iter().max().unwrap_or(0)
    }
}

fn note(peaks: &mut [usize; SECONDS], at: usize, bytes: usize) {
    if let Some(peak) = peaks.get_mut(at) {
        *peak = bytes.max(*peak);
    }
}

impl Server {
    /// Counts a client's memory anew, and closes clients if all of them take too much.
    pub(super) fn settle_memory(&mut self, key: ClientKey) {
        self.clients.account(key);
        if self.tunables.maxmemory_clients > 0 {
            self.evict_clients();
        }
    }

    /// Closes the clients that take most memory, until all together take no more than `maxmemory-clients`.
    pub(super) fn evict_clients(&mut self) {
        let limit = usize::try_from(self.tunables.maxmemory_clients).unwrap_or(usize::MAX);
        let totals = self.clients.totals();
        if limit == 0 || totals.normal() <= limit || totals.evictable == 0 {
            return;
        }
        let (now, managed) = (self.clock.instant, self.routing.is_managed());
        let evictable = self.clients.iter().filter(|(_, client)| {
            // It may be the operator, or a node, and is about to say so.
            let is_new = managed && now.saturating_duration_since(client.since) < HANDSHAKE;
            client.counted.0 == Account::Evictable && (!is_new || client.counted.1 > NEW)
        });
        let mut largest: Vec<_> = evictable.map(|(key, client)| (client.counted.1, key)).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, key) in largest {
            if self.clients.totals().normal() <= limit {
                break;
            }
            if let Some(client) = self.clients.get(key) {
                crate::notice!("Evicting client: {} takes {bytes} bytes", client.peer);
            }
            self.stats.evicted_clients += 1;
            self.close(key);
        }
    }

    /// Gives back what buffers took that all clients share, and one of them made large.
    pub(super) fn trim_buffers(&mut self) {
        const KEPT: usize = 1024 * 1024;
        for buffer in [&mut self.scratch, &mut self.void] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_forgotten_after_some_seconds() {
        let mut peaks = Peaks::default();
        peaks.note_input(1000);
        peaks.note_input(10);
        for second in 1..=7 {
            peaks.turn(second);
            peaks.note_input(second as usize);
            assert_eq!(peaks.input(), 1000);
        }
        peaks.turn(8);
        assert_eq!((peaks.input(), peaks.output()), (7, 0));
    }
}
