//! Directives in the form that the data thread looks at, made anew whenever one changes.

use std::time::Duration;

use kv_core::directive::{OutputLimit, Settings, Value};

use crate::keyspace::{LazyFree, Policy, Tracking, value};
use crate::resp::Limits;

/// Directives in the form that the data thread looks at.
#[derive(Clone, Debug)]
pub struct Tunables {
    /// `requirepass`; empty for none.
    pub requirepass: String,
    /// `maxclients`.
    pub maxclients: usize,
    /// `timeout`: idle clients are closed after it; `None` for never.
    pub timeout: Option<Duration>,
    /// `tcp-keepalive`.
    pub keepalive: Option<Duration>,
    /// `maxmemory` in bytes; 0 for no bound.
    pub maxmemory: u64,
    /// Bounds on requests.
    pub limits: Limits,
    /// `client-query-buffer-limit` in bytes.
    pub query_buffer: usize,
    /// `maxmemory-clients` in bytes; 0 for no bound.
    pub maxmemory_clients: u64,
    /// `client-output-buffer-limit` of normal clients.
    pub normal_output: OutputLimit,
    /// `client-output-buffer-limit` of subscribers.
    pub pubsub_output: OutputLimit,
    /// `client-output-buffer-limit` of replicas.
    pub replica_output: OutputLimit,
    /// `repl-backlog-size` in bytes.
    pub backlog: usize,
    /// `repl-ping-replica-period`.
    pub ping_period: Duration,
    /// `repl-timeout`.
    pub repl_timeout: Duration,
    /// `repl-backlog-ttl`; `None` for never.
    pub backlog_ttl: Option<Duration>,
    /// `min-replicas-to-write`, and `min-replicas-max-lag` in seconds; `None` if any number will do.
    pub min_replicas: Option<(usize, u64)>,
    /// `replica-read-only`.
    pub replica_read_only: bool,
    /// `replica-serve-stale-data`.
    pub serve_stale: bool,
    /// `replica-max-staleness` in milliseconds; `None` for no bound.
    pub max_staleness: Option<u64>,
    /// `kv-dirty-reads`.
    pub dirty_reads: bool,
    /// `kv-replica-reads`.
    pub replica_reads: bool,
    /// `cluster-enabled`.
    pub cluster_enabled: bool,
    /// `kv-handover-timeout`.
    pub handover_timeout: Duration,
    /// `kv-resync-wait-timeout`.
    pub resync_wait: Duration,
    /// `hz`: ticks of background work a second.
    pub hz: u64,
    /// `active-expire-effort`, from 1 to 10.
    pub expire_effort: u32,
    /// `save` points: seconds and changes.
    pub save_points: Vec<(u64, u64)>,
    /// `stop-writes-on-bgsave-error`.
    pub stop_writes_on_bgsave_error: bool,
    /// `maxmemory-policy`; none for `noeviction`.
    pub eviction_policy: Option<Policy>,
    /// `maxmemory-samples`
    pub eviction_samples: usize,
    /// What that policy keeps account of.
    pub tracking: Tracking,
    /// Which removals free on a thread of their own.
    pub lazily: LazyFree,
    /// Up to which size collections keep their compact forms.
    pub compact: value::Limits,
}

impl Tunables {
    /// Reads them from the directives.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let seconds = |name| Duration::from_secs(settings.number(name));
        let some = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
        let count = |name| usize::try_from(settings.number(name)).unwrap_or(usize::MAX);
        Self {
            requirepass: settings.text("requirepass").to_owned(),
            maxclients: count("maxclients"),
            timeout: some(seconds("timeout")),
            keepalive: some(seconds("tcp-keepalive")),
            maxmemory: settings.number("maxmemory"),
            limits: Limits::trusted(count("proto-max-bulk-len")),
            query_buffer: count("client-query-buffer-limit"),
            maxmemory_clients: settings.share("maxmemory-clients", settings.number("maxmemory")),
            normal_output: settings.output_limit("normal"),
            pubsub_output: settings.output_limit("pubsub"),
            replica_output: settings.output_limit("slave"),
            backlog: count("repl-backlog-size"),
            ping_period: seconds("repl-ping-replica-period"),
            repl_timeout: seconds("repl-timeout"),
            backlog_ttl: some(seconds("repl-backlog-ttl")),
            min_replicas: Some((count("min-replicas-to-write"), settings.number("min-replicas-max-lag")))
                .filter(|(replicas, lag)| *replicas > 0 && *lag > 0),
            replica_read_only: settings.bool("replica-read-only"),
            serve_stale: settings.bool("replica-serve-stale-data"),
            max_staleness: Some(settings.number("replica-max-staleness")).filter(|most| *most > 0),
            dirty_reads: settings.bool("kv-dirty-reads"),
            replica_reads: settings.bool("kv-replica-reads"),
            cluster_enabled: settings.bool("cluster-enabled"),
            handover_timeout: Duration::from_millis(settings.number("kv-handover-timeout")),
            resync_wait: Duration::from_millis(settings.number("kv-resync-wait-timeout")),
            expire_effort: u32::try_from(settings.number("active-expire-effort")).unwrap_or(1).clamp(1, 10),
            hz: settings.number("hz").clamp(1, 500),
            save_points: match settings.get("save") {
                Some(Value::SavePoints(points)) => points.iter().map(|p| (p.seconds, p.changes)).collect(),
                _ => Vec::new(),
            },
            stop_writes_on_bgsave_error: settings.bool("stop-writes-on-bgsave-error"),
            eviction_policy: Policy::named(settings.text("maxmemory-policy")),
            eviction_samples: usize::try_from(settings.number("maxmemory-samples")).unwrap_or(5),
            tracking: tracking(settings),
            lazily: LazyFree {
                eviction: settings.bool("lazyfree-lazy-eviction"),
                expire: settings.bool("lazyfree-lazy-expire"),
                server_del: settings.bool("lazyfree-lazy-server-del"),
                user_del: settings.bool("lazyfree-lazy-user-del"),
                user_flush: settings.bool("lazyfree-lazy-user-flush"),
                replica_flush: settings.bool("replica-lazy-flush"),
            },
            compact: compact_limits(settings),
        }
    }
}

fn tracking(settings: &Settings) -> Tracking {
    let number = |name| u32::try_from(settings.number(name)).unwrap_or(u32::MAX);
    match settings.text("maxmemory-policy").split_once('-') {
        Some((_, "lru")) => Tracking::Recency,
        Some((_, "lfu")) => Tracking::Frequency {
            log_factor: number("lfu-log-factor"),
            decay_minutes: number("lfu-decay-time"),
        },
        _ => Tracking::Off,
    }
}

fn compact_limits(settings: &Settings) -> value::Limits {
    let count = |name| usize::try_from(settings.number(name)).unwrap_or(usize::MAX);
    value::Limits {
        hash_entries: count("hash-max-listpack-entries"),
        hash_value: count("hash-max-listpack-value"),
        list_size: match settings.get("list-max-listpack-size") {
            Some(Value::Integer(size)) => *size,
            _ => value::Limits::default().list_size,
        },
        set_integers: count("set-max-intset-entries"),
        set_entries: count("set-max-listpack-entries"),
        set_value: count("set-max-listpack-value"),
        zset_entries: count("zset-max-listpack-entries"),
        zset_value: count("zset-max-listpack-value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_set_the_limits_of_compact_forms() {
        let mut settings = Settings::default();
        assert_eq!(Tunables::new(&settings).compact, value::Limits::default());
        let text = "list-max-listpack-size -1\nset-max-intset-entries 7\nhash-max-ziplist-value 1kb\n";
        settings.load(&kv_core::directive::parse_file(text, "kv.conf").unwrap());
        let compact = Tunables::new(&settings).compact;
        assert_eq!((compact.list_size, compact.set_integers, compact.hash_value), (-1, 7, 1024));
    }
}
