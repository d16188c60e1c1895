//! The table of all directives.

use super::{Change, Directive, Effect, Kind, SetBy};

/// The least that some sizes may be, as in Redis: with less, no client could be served.
const MB: u64 = 1 << 20;

const fn directive(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Directive {
    Directive {
        name,
        aliases: &[],
        kind,
        default,
        change: Change::Live,
        set_by: SetBy::User,
        effect: Effect::Full,
        help,
    }
}

impl Directive {
    const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn restart(mut self) -> Self {
        self.change = Change::Restart;
        self
    }

    const fn operator(mut self) -> Self {
        self.set_by = SetBy::Operator;
        self
    }

    const fn no_effect(mut self) -> Self {
        self.effect = Effect::None;
        self
    }
}

/// Every directive, in groups. `alias`, `restart`, `operator` and `no_effect` depart from the common case: a live change,
/// by a user, with an effect.
#[rustfmt::skip] // One row a directive, so that the table can be read and sorted as one.
pub static DIRECTIVES: &[Directive] = &[
    // Network
    directive("port", Kind::Integer { min: 0, max: 65535 }, "6379", "Port for clients; 0 for none.").restart().operator(),
    directive("bind", Kind::Words, "* -::*", "Addresses to listen on; * is every one, and - before an address ignores that it is missing.").restart().operator(),
    directive("protected-mode", Kind::Bool, "yes", "Refuse clients from other machines as long as no password is set and no address is bound."),
    directive("tcp-backlog", Kind::Integer { min: 1, max: i64::MAX }, "511", "Connections that may wait to be accepted.").restart(),
    directive("timeout", Kind::Integer { min: 0, max: i64::MAX }, "0", "Close a client that is idle for this many seconds, but not the operator or a node; 0 for never."),
    directive("tcp-keepalive", Kind::Integer { min: 0, max: i64::MAX }, "300", "Seconds between the kernel's probes of silent clients; 0 for none."),
    directive("maxclients", Kind::Integer { min: 1, max: 1_000_000 }, "10000", "Most clients at one time."),
    directive("unixsocket", Kind::Text, "", "Path of a Unix socket.").restart().operator().no_effect(),
    directive("cluster-announce-ip", Kind::Text, "", "Address that clients and peers are told.").alias(&["announce-ip"]).operator().no_effect(),
    directive("socket-mark-id", Kind::Integer { min: 0, max: u32::MAX as i64 }, "0", "Mark of the sockets, for routing.").restart().operator().no_effect(),
    // Process
    directive("daemonize", Kind::Enum(&["no"]), "no", "Going to the background is left to the service manager; only no is accepted.").restart().operator(),
    directive("supervised", Kind::Enum(&["no", "auto", "systemd", "upstart"]), "no", "Tell a service manager when the node is ready.").restart().operator().no_effect(),
    directive("pidfile", Kind::Text, "", "File that the process id is written to.").restart().operator().no_effect(),
    directive("loglevel", Kind::Enum(&["debug", "verbose", "notice", "warning", "nothing"]), "notice", "How much is logged."),
    directive("logfile", Kind::Text, "", "File for the log; empty for standard output.").restart().operator(),
    directive("syslog-enabled", Kind::Bool, "no", "Log to the system log.").restart().no_effect(),
    directive("syslog-ident", Kind::Text, "redis", "Name in the system log.").restart().no_effect(),
    directive("syslog-facility", Kind::Enum(&["user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"]), "local0", "Facility of the system log.").restart().no_effect(),
    directive("crash-log-enabled", Kind::Bool, "yes", "Log the state at a crash.").no_effect(),
    directive("crash-memcheck-enabled", Kind::Bool, "yes", "Check the memory at a crash.").no_effect(),
    directive("always-show-logo", Kind::Bool, "no", "Log a logo at the start.").restart().no_effect(),
    directive("set-proc-title", Kind::Bool, "yes", "Show port and mode in the process title.").restart().no_effect(),
    directive("proc-title-template", Kind::Text, "'{title} {listen-addr} {server-mode}'", "Form of the process title.").no_effect(),
    directive("locale-collate", Kind::Text, "", "Locale that strings are compared by.").no_effect(),
    directive("databases", Kind::Integer { min: 1, max: 1_000_000 }, "16", "Number of databases; a cluster has one.").restart(),
    directive("dir", Kind::Text, ".", "Folder of all files of the node.").restart().operator(),
    directive("include", Kind::Text, "", "Another file to read at this point.").restart().operator(),
    directive("io-threads", Kind::Integer { min: 1, max: 128 }, "1", "Threads for clients; one thread serves them all here.").restart().no_effect(),
    directive("io-threads-do-reads", Kind::Bool, "no", "Whether these threads read too.").restart().no_effect(),
    directive("hz", Kind::Integer { min: 1, max: 500 }, "10", "Background runs in a second."),
    directive("dynamic-hz", Kind::Bool, "yes", "More background runs with more clients.").no_effect(),
    directive("jemalloc-bg-thread", Kind::Bool, "yes", "Give memory back in the background.").no_effect(),
    directive("disable-thp", Kind::Bool, "yes", "Turn transparent huge pages off.").restart().no_effect(),
    directive("oom-score-adj", Kind::Enum(&["no", "yes", "relative", "absolute"]), "no", "Adjust how soon the kernel ends the process when memory is short.").no_effect(),
    directive("oom-score-adj-values", Kind::Words, "0 200 800", "Adjustments for master, replica and child.").no_effect(),
    directive("enable-debug-command", Kind::Enum(&["no", "yes", "local"]), "no", "Who may run DEBUG.").restart().no_effect(),
    directive("enable-protected-configs", Kind::Enum(&["no", "yes", "local"]), "no", "Who may set protected directives by CONFIG SET.").restart().no_effect(),
    directive("enable-module-command", Kind::Enum(&["no", "yes", "local"]), "no", "Who may run MODULE.").restart().no_effect(),
    directive("shutdown-timeout", Kind::Integer { min: 0, max: i64::MAX }, "10", "Seconds that a stopping master that is not managed waits until its replicas have everything."),
    directive("shutdown-on-sigint", Kind::Words, "default", "How SIGINT stops the node.").no_effect(),
    directive("shutdown-on-sigterm", Kind::Words, "default", "How SIGTERM stops the node.").no_effect(),
    // Snapshots
    directive("save", Kind::SavePoints, "3600 1 300 100 60 10000", "Write a snapshot after so many seconds if so many keys changed; an empty text for never."),
    directive("dbfilename", Kind::FileName, "dump.rdb", "Name of the snapshot file.").restart().operator(),
    directive("rdbcompression", Kind::Bool, "yes", "Compress strings of more than 20 bytes in snapshot files; not in those sent to replicas; those of 1 MB and more stand as they are."),
    directive("rdbchecksum", Kind::Bool, "yes", "End snapshot files with a checksum. One that is there is always checked.").restart(),
    directive("stop-writes-on-bgsave-error", Kind::Bool, "yes", "Refuse writes when a snapshot in the background failed, until one is saved; only with save points."),
    directive("rdb-save-incremental-fsync", Kind::Bool, "yes", "Sync snapshots to the disk as they are written, every 4 MB."),
    directive("rdb-del-sync-files", Kind::Bool, "no", "Delete snapshot files that were only made for replicas.").no_effect(),
    directive("sanitize-dump-payload", Kind::Enum(&["no", "yes", "clients"]), "no", "Check snapshots deeply when they are loaded.").no_effect(),
    // Append-only file
    directive("appendonly", Kind::Bool, "no", "Log every write to disk.").restart(),
    directive("appendfilename", Kind::FileName, "appendonly.aof", "Base name of the append-only files.").restart().operator(),
    directive("appenddirname", Kind::FileName, "appendonlydir", "Folder of the append-only files.").restart().operator(),
    directive("appendfsync", Kind::Enum(&["always", "everysec", "no"]), "everysec", "When writes are synced to the disk."),
    directive("no-appendfsync-on-rewrite", Kind::Bool, "no", "Do not sync while the file is rewritten.").no_effect(),
    directive("auto-aof-rewrite-percentage", Kind::Integer { min: 0, max: i64::MAX }, "100", "Rewrite the file when it grew by so many percent; 0 for never."),
    directive("auto-aof-rewrite-min-size", Kind::Memory, "64mb", "Do not rewrite a file that is smaller."),
    directive("aof-load-truncated", Kind::Bool, "yes", "Start when the end of the file is cut off."),
    directive("aof-use-rdb-preamble", Kind::Enum(&["yes"]), "yes", "The base of a rewritten file is a snapshot; only yes is accepted. A base of commands is read."),
    directive("aof-rewrite-incremental-fsync", Kind::Bool, "yes", "Sync the base of a rewritten file as it is written, every 4 MB."),
    directive("aof-timestamp-enabled", Kind::Bool, "no", "Write time stamps into the file.").no_effect(),
    // Replication
    directive("replicaof", Kind::HostPort, "", "The parent that feeds this node; no one for a master.").alias(&["slaveof"]).restart().operator(),
    directive("masterauth", Kind::Secret, "", "Password that a replica presents to its parent.").operator(),
    directive("masteruser", Kind::Text, "", "User that a replica presents to its parent.").operator(),
    directive("replica-serve-stale-data", Kind::Bool, "yes", "Answer reads while the link to the parent is down.").alias(&["slave-serve-stale-data"]),
    directive("replica-read-only", Kind::Bool, "yes", "Refuse writes on a replica.").alias(&["slave-read-only"]),
    directive("replica-max-staleness", Kind::Integer { min: 0, max: i64::MAX }, "0", "Milliseconds by which a replica's data may be older than its master's for it to answer reads: clients of a cluster are sent to the master (MOVED), others are told MASTERDOWN; 0 for no bound. In a cluster the age is measured four times a second; elsewhere by the master's pings (repl-ping-replica-period)."),
    directive("repl-diskless-sync", Kind::Bool, "yes", "Send snapshots to replicas without a file; one that cannot take that gets a file in any case."),
    directive("repl-diskless-sync-delay", Kind::Integer { min: 0, max: i64::MAX }, "5", "Seconds to wait for more replicas before a snapshot is sent; for no longer than sending it takes unless repl-diskless-sync-max-replicas is set."),
    directive("repl-diskless-sync-max-replicas", Kind::Integer { min: 0, max: i64::MAX }, "0", "Do not wait when so many replicas are there; 0 for no such number."),
    directive("repl-diskless-load", Kind::Enum(&["disabled", "on-empty-db", "swapdb"]), "disabled", "A snapshot is loaded as it comes, beside the old data, which stays readable until then, as with swapdb.").no_effect(),
    directive("repl-ping-replica-period", Kind::Integer { min: 1, max: i64::MAX }, "10", "Seconds between the pings that a master sends to its replicas.").alias(&["repl-ping-slave-period"]),
    directive("repl-timeout", Kind::Integer { min: 1, max: i64::MAX }, "60", "Seconds of silence after which a replication link is closed."),
    directive("repl-disable-tcp-nodelay", Kind::Bool, "no", "Gather the stream to replicas into fewer packets.").no_effect(),
    directive("repl-backlog-size", Kind::Memory, "1mb", "Bytes of the stream that are kept for replicas that come back."),
    directive("repl-backlog-ttl", Kind::Integer { min: 0, max: i64::MAX }, "3600", "Seconds after which a master without replicas frees its backlog; 0 for never."),
    directive("replica-priority", Kind::Integer { min: 0, max: i64::MAX }, "100", "Preference in an election of Sentinel; 0 for never.").alias(&["slave-priority"]),
    directive("replica-announced", Kind::Bool, "yes", "Show this replica to Sentinel.").no_effect(),
    directive("replica-ignore-maxmemory", Kind::Bool, "yes", "Leave eviction to the master.").alias(&["slave-ignore-maxmemory"]).no_effect(),
    directive("replica-lazy-flush", Kind::Bool, "yes", "Free the old data on a thread of its own after a full resync.").alias(&["slave-lazy-flush"]),
    directive("replica-ignore-disk-write-errors", Kind::Bool, "no", "Go on when the disk fails on a replica.").no_effect(),
    directive("min-replicas-to-write", Kind::Integer { min: 0, max: i64::MAX }, "0", "Refuse writes (NOREPLICAS) with fewer replicas that have acknowledged of late; 0 for never.").alias(&["min-slaves-to-write"]),
    directive("min-replicas-max-lag", Kind::Integer { min: 0, max: i64::MAX }, "10", "Seconds since its last acknowledgement up to which a replica counts for min-replicas-to-write; 0 for never.").alias(&["min-slaves-max-lag"]),
    directive("replica-announce-ip", Kind::Text, "", "Address that a replica tells its parent.").alias(&["slave-announce-ip"]).operator(),
    directive("replica-announce-port", Kind::Integer { min: 0, max: 65535 }, "0", "Port that a replica tells its parent; 0 for its own.").alias(&["slave-announce-port"]).operator(),
    // Security
    directive("requirepass", Kind::Secret, "", "Password of the default user.").operator(),
    directive("aclfile", Kind::Text, "", "File of users.").restart().operator().no_effect(),
    directive("acllog-max-len", Kind::Integer { min: 0, max: i64::MAX }, "128", "Entries of the log of refused commands.").no_effect(),
    directive("acl-pubsub-default", Kind::Enum(&["allchannels", "resetchannels"]), "resetchannels", "Channels that a new user may use.").no_effect(),
    // Memory
    directive("maxmemory", Kind::Memory, "0", "Bytes at which eviction starts: of data, clients and the replication backlog, without what slow replicas and the disk have waiting; 0 for no limit."),
    directive("maxmemory-policy", Kind::Enum(&["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction"]), "noeviction", "What is evicted."),
    directive("maxmemory-samples", Kind::Integer { min: 1, max: 64 }, "5", "Keys that are looked at to find one to evict."),
    directive("maxmemory-eviction-tenacity", Kind::Integer { min: 0, max: 100 }, "10", "How hard eviction tries.").no_effect(),
    directive("maxmemory-clients", Kind::MemoryOrPercent, "0", "Bytes that all clients' buffers together may take, or a percentage of maxmemory: beyond it the clients with the largest ones are closed; 0 for no limit."),
    directive("lfu-log-factor", Kind::Integer { min: 0, max: i64::MAX }, "10", "How slowly the counter of uses grows."),
    directive("lfu-decay-time", Kind::Integer { min: 0, max: i64::MAX }, "1", "Minutes in which the counter of uses falls by one."),
    directive("active-expire-effort", Kind::Integer { min: 1, max: 10 }, "1", "How hard expired keys are looked for: from a quarter of the processor's time and a tenth of the keys left, to 43 percent and a hundredth."),
    directive("lazyfree-lazy-eviction", Kind::Bool, "yes", "Free evicted keys on a thread of its own, if that can take long."),
    directive("lazyfree-lazy-expire", Kind::Bool, "yes", "Free expired keys on a thread of its own, if that can take long."),
    directive("lazyfree-lazy-server-del", Kind::Bool, "yes", "Free overwritten keys on a thread of its own, if that can take long."),
    directive("lazyfree-lazy-user-del", Kind::Bool, "yes", "Free keys deleted by DEL on a thread of its own, if that can take long."),
    directive("lazyfree-lazy-user-flush", Kind::Bool, "yes", "Free flushed databases on a thread of its own, if that can take long."),
    directive("activedefrag", Kind::Bool, "no", "Move data together in memory.").no_effect(),
    directive("active-defrag-ignore-bytes", Kind::Memory, "100mb", "Waste up to which nothing is moved.").no_effect(),
    directive("active-defrag-threshold-lower", Kind::Integer { min: 0, max: 1000 }, "10", "Percent of waste at which moving starts.").no_effect(),
    directive("active-defrag-threshold-upper", Kind::Integer { min: 0, max: 1000 }, "100", "Percent of waste at which moving is at its hardest.").no_effect(),
    directive("active-defrag-cycle-min", Kind::Integer { min: 1, max: 99 }, "1", "Least percent of the processor for moving.").no_effect(),
    directive("active-defrag-cycle-max", Kind::Integer { min: 1, max: 99 }, "25", "Most percent of the processor for moving.").no_effect(),
    directive("active-defrag-max-scan-fields", Kind::Integer { min: 1, max: i64::MAX }, "1000", "Fields looked at in one go.").no_effect(),
    directive("activerehashing", Kind::Bool, "yes", "Grow tables in the background.").no_effect(),
    // Encodings
    directive("hash-max-listpack-entries", Kind::Integer { min: 0, max: i64::MAX }, "512", "Most fields of a hash in the compact form.").alias(&["hash-max-ziplist-entries"]),
    directive("hash-max-listpack-value", Kind::Memory, "64", "Longest value of a hash in the compact form.").alias(&["hash-max-ziplist-value"]),
    directive("list-max-listpack-size", Kind::Integer { min: i32::MIN as i64, max: i32::MAX as i64 }, "-2", "Largest list in the compact form: so many elements, or, if negative, -1 to -5 for 4, 8, 16, 32, 64 kB.").alias(&["list-max-ziplist-size"]),
    directive("list-compress-depth", Kind::Integer { min: 0, max: i64::MAX }, "0", "Pieces at a list's ends that are not compressed.").no_effect(),
    directive("set-max-intset-entries", Kind::Integer { min: 0, max: i64::MAX }, "512", "Most numbers of a set in the compact form."),
    directive("set-max-listpack-entries", Kind::Integer { min: 0, max: i64::MAX }, "128", "Most members of a set in the compact form."),
    directive("set-max-listpack-value", Kind::Memory, "64", "Longest member of a set in the compact form."),
    directive("zset-max-listpack-entries", Kind::Integer { min: 0, max: i64::MAX }, "128", "Most members of a sorted set in the compact form.").alias(&["zset-max-ziplist-entries"]),
    directive("zset-max-listpack-value", Kind::Memory, "64", "Longest member of a sorted set in the compact form.").alias(&["zset-max-ziplist-value"]),
    directive("hll-sparse-max-bytes", Kind::Memory, "3000", "Largest HyperLogLog in the compact form.").no_effect(),
    directive("stream-node-max-bytes", Kind::Memory, "4096", "Largest piece of a stream.").no_effect(),
    directive("stream-node-max-entries", Kind::Integer { min: 0, max: i64::MAX }, "100", "Most entries of a piece of a stream.").no_effect(),
    // Clients
    directive("client-output-buffer-limit", Kind::OutputLimits, "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "Output at which a client that does not read is closed, for each class; not the operator, nor a node that asks."),
    directive("client-query-buffer-limit", Kind::MemoryFrom(MB), "1gb", "Largest input of a client that is buffered; not of the operator and of nodes."),
    directive("proto-max-bulk-len", Kind::MemoryFrom(MB), "512mb", "Largest single string in a request."),
    directive("notify-keyspace-events", Kind::EventFlags, "", "Events that are published.").no_effect(),
    directive("slowlog-log-slower-than", Kind::Integer { min: -1, max: i64::MAX }, "10000", "Microseconds from which a command is logged as slow; -1 for never.").no_effect(),
    directive("slowlog-max-len", Kind::Integer { min: 0, max: i64::MAX }, "128", "Entries of the slow log.").no_effect(),
    directive("latency-monitor-threshold", Kind::Integer { min: 0, max: i64::MAX }, "0", "Milliseconds from which an event is recorded; 0 for never.").no_effect(),
    directive("latency-tracking", Kind::Bool, "yes", "Record how long commands take.").no_effect(),
    directive("latency-tracking-info-percentiles", Kind::Words, "50 99 99.9", "Percentiles that INFO shows.").no_effect(),
    directive("tracking-table-max-keys", Kind::Integer { min: 0, max: i64::MAX }, "1000000", "Most keys that are tracked for client-side caching.").no_effect(),
    directive("busy-reply-threshold", Kind::Integer { min: 0, max: i64::MAX }, "5000", "Milliseconds after which a script counts as slow.").alias(&["lua-time-limit"]).no_effect(),
    // Cluster
    directive("cluster-enabled", Kind::Bool, "no", "Run as a node of a cluster.").restart().operator(),
    directive("cluster-config-file", Kind::Text, "nodes.conf", "The node keeps its state in a file of its own, node.json.").restart().operator().no_effect(),
    directive("cluster-node-timeout", Kind::Integer { min: 1, max: i64::MAX }, "15000", "Milliseconds of silence after which a node counts as down; failover.downAfter decides.").operator().no_effect(),
    directive("cluster-announce-port", Kind::Integer { min: 0, max: 65535 }, "0", "Port that clients are told.").operator().no_effect(),
    directive("cluster-announce-bus-port", Kind::Integer { min: 0, max: 65535 }, "0", "Bus port that peers are told.").operator().no_effect(),
    directive("cluster-announce-hostname", Kind::Text, "", "Host name that clients are told.").operator().no_effect(),
    directive("cluster-preferred-endpoint-type", Kind::Enum(&["ip", "hostname", "unknown-endpoint"]), "ip", "What clients are told first.").no_effect(),
    directive("cluster-require-full-coverage", Kind::Bool, "yes", "Serve nothing while slots are missing.").no_effect(),
    directive("cluster-allow-reads-when-down", Kind::Bool, "no", "Answer reads while slots are missing.").no_effect(),
    directive("cluster-allow-pubsubshard-when-down", Kind::Bool, "yes", "Serve sharded publish and subscribe while slots are missing.").no_effect(),
    directive("cluster-allow-replica-migration", Kind::Bool, "yes", "Replicas stay in their shard.").operator().no_effect(),
    directive("cluster-migration-barrier", Kind::Integer { min: 0, max: i64::MAX }, "1", "Replicas stay in their shard.").operator().no_effect(),
    directive("cluster-replica-validity-factor", Kind::Integer { min: 0, max: i64::MAX }, "10", "Elections go by epochs and offsets.").alias(&["cluster-slave-validity-factor"]).operator().no_effect(),
    directive("cluster-replica-no-failover", Kind::Bool, "no", "Elections are the operator's.").alias(&["cluster-slave-no-failover"]).operator().no_effect(),
    directive("cluster-link-sendbuf-limit", Kind::Memory, "0", "There is no cluster bus.").operator().no_effect(),
    // Managed nodes
    directive("kv-cluster-uid", Kind::Text, "", "UID of the cluster; a node that has one is managed by an operator.").restart().operator(),
    directive("kv-shard", Kind::Integer { min: 0, max: 1023 }, "0", "Index of the shard.").restart().operator(),
    directive("kv-node-name", Kind::Text, "", "Name of the node.").restart().operator(),
    directive("kv-control-password-file", Kind::Text, "", "File with the password of the users kv-operator and kv-replica.").restart().operator(),
    directive("kv-password-file", Kind::Text, "", "File with the password of the default user.").restart().operator(),
    directive("sentinel-port", Kind::Integer { min: 0, max: 65535 }, "0", "Port on which a node of a cluster speaks the Sentinel protocol; 0 for none.").restart().operator(),
    directive("kv-health-port", Kind::Integer { min: 0, max: 65535 }, "0", "Port of /livez, /readyz and /metrics over HTTP; 0 for none.").restart().operator(),
    directive("kv-handover-timeout", Kind::Integer { min: 0, max: i64::MAX }, "10000", "Milliseconds that a stopping master waits for another one to take over.").operator(),
    directive("kv-dirty-reads", Kind::Bool, "no", "Where replies wait for replicas (spec.replication.acknowledge): whether reads may show writes that are not with enough of them yet."),
    directive("kv-replica-reads", Kind::Bool, "no", "In a cluster of one shard: whether replicas, which may be behind, answer reads of clients that did not send READONLY, as clients of Sentinel expect it."),
    directive("kv-resync-wait-timeout", Kind::Integer { min: 0, max: i64::MAX }, "2000", "Milliseconds that a node whose parent is gone waits for a new one before it starts over.").operator(),
];
