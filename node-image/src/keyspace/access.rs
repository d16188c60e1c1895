//! How entries were used, for the eviction policies that ask: 24 bits an entry, as Redis keeps them.
//!
//! LRU: the second of the last use. LFU: the minute of the last decay (16 bits) and a logarithmic counter of uses (8).
//! Entries have these bits only while a policy asks for them.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/eviction/>

/// The counter of a new key, so that it is not evicted at once.
const LFU_INITIAL: u32 = 5;
const LFU_MAX: u32 = 255;
const CLOCK_MASK: u32 = 0x00ff_ffff;

/// How a key was used, as a snapshot says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Seconds since the last use.
    Idle(u64),
    /// How often, on a logarithmic scale to 255.
    Frequency(u8),
}

/// What is kept account of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracking {
    /// Nothing.
    #[default]
    Off,
    /// When a key was used last.
    Recency,
    /// How often a key was used.
    Frequency {
        /// `lfu-log-factor`: how slowly the counter grows.
        log_factor: u32,
        /// `lfu-decay-time`: minutes in which the counter falls by one; 0: never.
        decay_minutes: u32,
    },
}

impl Tracking {
    /// The account of a key that was written at this Unix time in milliseconds. `before`: what was said of it until now.
    pub(super) fn written(self, before: Option<u32>, now: u64, random: &mut fastrand::Rng) -> Option<u32> {
        match (self, before) {
            (Self::Frequency { .. }, None) => Some(minutes(now) << 8 | LFU_INITIAL),
            _ => self.used(before, now, random),
        }
    }

    /// The account of a key that was used now.
    pub(super) fn used(self, before: Option<u32>, now: u64, random: &mut fastrand::Rng) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::Recency => Some(seconds(now)),
            Self::Frequency { log_factor, .. } => {
                let counter = self.frequency(before, now);
                let base = f64::from(counter.saturating_sub(LFU_INITIAL));
                let chance = 1.0 / (base * f64::from(log_factor) + 1.0);
                let grown = counter + u32::from(counter < LFU_MAX && random.f64() < chance);
                Some(minutes(now) << 8 | grown)
            }
        }
    }

    /// What a snapshot says of a key; nothing if that is not kept account of.
    pub(super) fn usage(self, access: Option<u32>, now: u64) -> Option<Usage> {
        access?;
        match self {
            Self::Off => None,
            Self::Recency => Some(Usage::Idle(idle_seconds(access, now).into())),
            Self::Frequency { .. } => Some(Usage::Frequency(self.frequency(access, now) as u8)),
        }
    }

    /// The account of a key of which a snapshot says this.
    pub(super) fn restored(self, usage: Option<Usage>, now: u64) -> Option<u32> {
        match (self, usage?) {
            (Self::Recency, Usage::Idle(idle)) => {
                let idle = u32::try_from(idle).unwrap_or(CLOCK_MASK).min(CLOCK_MASK);
                Some(seconds(now).wrapping_sub(idle) & CLOCK_MASK)
            }
            (Self::Frequency { .. }, Usage::Frequency(frequency)) => {
                Some(minutes(now) << 8 | u32::from(frequency))
            }
            _ => None,
        }
    }

    /// How often a key was used, on a logarithmic scale to 255.
    #[must_use]
    pub(super) fn frequency(self, access: Option<u32>, now: u64) -> u32 {
        let Self::Frequency { decay_minutes, .. } = self else { return 0 };
        let Some(access) = access else { return LFU_INITIAL };
        let elapsed = minutes(now).wrapping_sub(access >> 8) & 0xffff;
        (access & LFU_MAX).saturating_sub(elapsed.checked_div(decay_minutes).unwrap_or(0))
    }

    /// How much a key asks to be evicted: seconds without use, or how rarely it is used.
    pub(super) fn idleness(self, access: Option<u32>, now: u64) -> u64 {
        match self {
            Self::Off => 0,
            Self::Recency => idle_seconds(access, now).into(),
            Self::Frequency { .. } => (LFU_MAX - self.frequency(access, now)).into(),
        }
    }
}

/// Seconds since the last use of a key under [`Tracking::Recency`]; of one that was not used since then, the most.
pub(super) fn idle_seconds(access: Option<u32>, now: u64) -> u32 {
    access.map_or(CLOCK_MASK, |access| seconds(now).wrapping_sub(access) & CLOCK_MASK)
}

fn seconds(now: u64) -> u32 {
    (now / 1000) as u32 & CLOCK_MASK
}

fn minutes(now: u64) -> u32 {
    (now / 60_000) as u32 & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    const LFU: Tracking = Tracking::Frequency { log_factor: 10, decay_minutes: 1 };
    const NOW: u64 = 1_900_000_000_000;

    #[test]
    fn idle_time_is_that_since_the_last_use() {
        let random = &mut fastrand::Rng::with_seed(1);
        let used = Tracking::Recency.used(None, NOW, random);
        assert_eq!(idle_seconds(used, NOW + 90_500), 90);
        assert!(Tracking::Recency.idleness(None, NOW) > Tracking::Recency.idleness(used, NOW + 1_000_000));
        assert_eq!(Tracking::Off.used(used, NOW, random), None);
    }

    #[test]
    fn a_snapshot_keeps_the_account() {
        let random = &mut fastrand::Rng::with_seed(1);
        let used = Tracking::Recency.used(None, NOW, random);
        assert_eq!(Tracking::Recency.usage(used, NOW + 90_000), Some(Usage::Idle(90)));
        assert_eq!(Tracking::Recency.restored(Some(Usage::Idle(90)), NOW + 90_000), used);
        let often = Some(minutes(NOW) << 8 | 200);
        assert_eq!(LFU.usage(often, NOW + 3 * 60_000), Some(Usage::Frequency(197)));
        assert_eq!(LFU.restored(Some(Usage::Frequency(200)), NOW), often);
        for (tracking, usage) in [(LFU, Usage::Idle(1)), (Tracking::Recency, Usage::Frequency(1))] {
            assert_eq!(tracking.restored(Some(usage), NOW), None, "another policy asks for another account");
        }
        assert_eq!(Tracking::Off.usage(used, NOW), None);
    }

    #[test]
    fn the_counter_grows_slowly_and_decays() {
        let random = &mut fastrand::Rng::with_seed(1);
        let mut access = LFU.written(None, NOW, random);
        assert_eq!(LFU.frequency(access, NOW), 5);
        let mut after = Vec::new();
        for uses in [100, 1_000, 100_000] {
            for _ in 0..uses {
                access = LFU.used(access, NOW, random);
            }
            after.push(LFU.frequency(access, NOW));
        }
        // The table in Redis' documentation: 10 after 100 hits, 18 after 1000, 142 after 100,000, for a factor of 10.
        assert!(
            (7..=14).contains(&after[0]) && (15..=24).contains(&after[1]) && (125..=160).contains(&after[2]),
            "{after:?}"
        );
        assert_eq!(LFU.frequency(access, NOW + 10 * 60_000), after[2] - 10);
        assert_eq!(LFU.frequency(access, NOW + 1000 * 60_000), 0);
    }
}
