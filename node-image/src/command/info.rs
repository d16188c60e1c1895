//! INFO: everything a monitoring tool asks for, as text.

use std::fmt::Write as _;

use kv_core::control::LinkState;

use super::{Args, CommandResult};
use crate::replication::Stage;
use crate::server::failover::Failover;
use crate::server::{ClientKey, Kind, Scope, Server};

type Section = fn(&Server, &mut String);

const SECTIONS: [(&str, Section); 9] = [
    ("Server", server_section),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

/// What is shown on `sentinel-port`.
const SENTINEL_SECTIONS: [(&str, Section); 5] = [
    ("Server", sentinel_server),
    ("Clients", clients),
    ("CPU", cpu),
    ("Stats", stats),
    ("Sentinel", crate::sentinel::info),
];

/// `INFO [section ...]`
pub(super) fn info(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let wanted = |name: &str| {
        args.len() == 1
            || args.from(1).iter().any(|arg| {
                arg.eq_ignore_ascii_case(name.as_bytes())
                    || [&b"all"[..], b"default", b"everything"]
                        .iter()
                        .any(|all| arg.eq_ignore_ascii_case(all))
            })
    };
    let mut text = String::new();
    let sentinel = server.clients.get(key).is_some_and(|client| client.sentinel);
    let sections = if sentinel { &SENTINEL_SECTIONS[..] } else { &SECTIONS };
    for (name, section) in sections {
        if wanted(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {name}\r\n");
            section(server, &mut text);
        }
    }
    server.reply(key).verbatim(&text);
    Ok(())
}

macro_rules! line {
    ($text:expr, $($arg:tt)*) => {{ let _ = write!($text, $($arg)*); $text.push_str("\r\n"); }};
}

fn server_section(server: &Server, text: &mut String) {
    let mode = if server.tunables.cluster_enabled { "cluster" } else { "standalone" };
    describe_server(server, mode, server.port, text);
}

fn sentinel_server(server: &Server, text: &mut String) {
    describe_server(server, "sentinel", server.sentinel.port, text);
}

fn describe_server(server: &Server, mode: &str, port: u16, text: &mut String) {
    let uptime = server.millis_since(server.started.instant) / 1000;
    line!(text, "redis_version:{}", kv_core::REDIS_VERSION);
    line!(text, "server_name:kv-node");
    line!(text, "kv_version:{}", kv_core::VERSION);
    line!(text, "redis_mode:{mode}");
    line!(text, "os:{} {}", std::env::consts::OS, std::env::consts::ARCH);
    line!(text, "arch_bits:{}", usize::BITS);
    line!(text, "multiplexing_api:epoll");
    line!(text, "process_id:{}", std::process::id());
    line!(text, "run_id:{}", server.run_id);
    line!(text, "tcp_port:{port}");
    line!(text, "server_time_usec:{}", server.clock.unix_ms.saturating_mul(1000));
    line!(text, "uptime_in_seconds:{uptime}");
    line!(text, "uptime_in_days:{}", uptime / 86_400);
    line!(text, "hz:{}", server.tunables.hz);
    line!(
        text,
        "config_file:{}",
        server.config.file.as_ref().map(|f| f.display().to_string()).unwrap_or_default()
    );
}

fn clients(server: &Server, text: &mut String) {
    let normal = server.clients.iter().filter(|(_, client)| matches!(client.kind, Kind::Normal)).count();
    let blocked = server.clients.iter().filter(|(_, client)| client.blocked.is_some()).count();
    line!(text, "connected_clients:{normal}");
    line!(text, "maxclients:{}", server.tunables.maxclients);
    line!(text, "client_recent_max_input_buffer:{}", server.clients.peaks.input());
    line!(text, "client_recent_max_output_buffer:{}", server.clients.peaks.output());
    line!(text, "blocked_clients:{blocked}");
    let subscribers = server.clients.iter().filter(|(_, client)| client.is_subscriber()).count();
    line!(text, "pubsub_clients:{subscribers}");
    let watching = server.clients.iter().filter_map(|(_, client)| client.session.as_ref());
    line!(text, "watching_clients:{}", watching.filter(|session| session.watched() > 0).count());
    line!(text, "total_watched_keys:{}", server.keyspace.watched_keys());
}

/// Resident memory of the process in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.as_deref().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

fn memory(server: &Server, text: &mut String) {
    let backlog = &server.history.backlog;
    let (data, used) = (server.keyspace.used_memory(), server.used_memory());
    line!(text, "used_memory:{used}");
    line!(text, "used_memory_human:{:.2}M", used as f64 / 1_048_576.0);
    line!(text, "used_memory_rss:{}", resident());
    line!(text, "used_memory_dataset:{data}");
    line!(text, "maxmemory:{}", server.tunables.maxmemory);
    line!(text, "maxmemory_policy:{}", server.config.settings.text("maxmemory-policy"));
    line!(text, "mem_clients_normal:{}", server.clients.totals().normal());
    line!(text, "mem_clients_slaves:{}", server.clients.totals().replicas + backlog.surplus());
    line!(text, "mem_not_counted_for_evict:{}", server.uncounted_memory());
    line!(text, "mem_replication_backlog:{}", backlog.memory() - backlog.surplus());
    line!(text, "mem_total_replication_buffers:{}", backlog.memory());
    line!(text, "mem_aof_buffer:{}", server.persistence.buffered());
    line!(text, "lazyfree_pending_objects:{}", server.keyspace.lazyfree_pending());
    line!(text, "lazyfreed_objects:{}", server.keyspace.lazyfreed());
}

fn persistence(server: &Server, text: &mut String) {
    line!(text, "loading:{}", u8::from(server.loading.is_some()));
    line!(text, "async_loading:0");
    line!(text, "current_cow_size:0");
    line!(text, "rdb_changes_since_last_save:{}", server.stats.dirty - server.stats.dirty_at_save);
    server.persistence.describe(server.clock.instant, text);
    if let Some(loading) = server.loading {
        let (total, loaded) = (loading.total_bytes.max(1), loading.loaded_bytes.min(loading.total_bytes));
        let elapsed = server.millis_since(loading.began.instant);
        line!(text, "loading_start_time:{}", loading.began.unix_ms / 1000);
        line!(text, "loading_total_bytes:{}", loading.total_bytes);
        line!(text, "loading_loaded_bytes:{loaded}");
        line!(text, "loading_loaded_perc:{:.2}", loaded as f64 * 100.0 / total as f64);
        line!(text, "loading_eta_seconds:{}", elapsed.saturating_mul(total - loaded) / loaded.max(1) / 1000);
    }
}

fn stats(server: &Server, text: &mut String) {
    let stats = &server.stats;
    line!(text, "total_connections_received:{}", stats.connections);
    line!(text, "total_commands_processed:{}", stats.commands);
    line!(text, "rejected_connections:{}", stats.rejected_connections);
    line!(text, "total_net_output_bytes:{}", stats.output_bytes);
    line!(text, "total_net_repl_input_bytes:{}", stats.replication_input_bytes);
    line!(text, "total_net_repl_output_bytes:{}", stats.replication_bytes);
    line!(text, "sync_full:{}", stats.sync_full);
    line!(text, "sync_partial_ok:{}", stats.sync_partial_ok);
    line!(text, "sync_partial_err:{}", stats.sync_partial_err);
    line!(text, "kv_snapshots_for_replicas:{}", stats.replica_snapshots);
    line!(text, "kv_full_syncs:{}", stats.full_syncs);
    line!(text, "kv_partial_syncs:{}", stats.partial_syncs);
    line!(text, "kv_discarded_bytes:{}", stats.discarded_bytes);
    line!(text, "expired_keys:{}", stats.expired);
    line!(text, "evicted_keys:{}", stats.evicted);
    line!(text, "evicted_clients:{}", stats.evicted_clients);
    line!(text, "pubsub_channels:{}", server.pubsub.of(Scope::Channel).len());
    line!(text, "pubsub_patterns:{}", server.pubsub.of(Scope::Pattern).len());
    line!(text, "pubsubshard_channels:{}", server.pubsub.of(Scope::Shard).len());
    line!(text, "client_query_buffer_limit_disconnections:{}", stats.query_limit_disconnections);
    line!(text, "client_output_buffer_limit_disconnections:{}", stats.output_limit_disconnections);
    line!(text, "total_error_replies:{}", stats.rejected_commands);
}

fn replication(server: &Server, text: &mut String) {
    match &server.link {
        None => line!(text, "role:master"),
        Some(link) => {
            let up = link.client().is_some();
            line!(text, "role:slave");
            line!(text, "master_host:{}", link.address.0);
            line!(text, "master_port:{}", link.address.1);
            line!(text, "master_link_status:{}", if up { "up" } else { "down" });
            line!(
                text,
                "master_last_io_seconds_ago:{}",
                if up { (server.millis_since(link.heard) / 1000) as i64 } else { -1 }
            );
            line!(text, "master_sync_in_progress:{}", u8::from(link.state() == LinkState::Syncing));
            if let Stage::Syncing(attach) = &link.stage {
                let (read, total) = attach.progress();
                let left = i64::try_from(total).unwrap_or(i64::MAX).saturating_sub_unsigned(read);
                line!(text, "master_sync_total_bytes:{total}");
                line!(text, "master_sync_read_bytes:{read}");
                line!(text, "master_sync_left_bytes:{left}");
                line!(text, "master_sync_perc:{:.2}", read as f64 * 100.0 / total.max(1) as f64);
                line!(text, "master_sync_last_io_seconds_ago:{}", server.millis_since(link.heard) / 1000);
            }
            line!(text, "slave_read_repl_offset:{}", server.history.offset());
            line!(text, "slave_repl_offset:{}", server.history.offset());
            if let Some(age) = server.data_age_ms().filter(|age| *age < u64::MAX) {
                line!(text, "kv_data_age_ms:{age}");
            }
            if let Some(since) = link.down_since {
                line!(text, "master_link_down_since_seconds:{}", server.millis_since(since) / 1000);
            }
            // What comes while a snapshot is loaded stays with the parent.
            line!(text, "replicas_repl_buffer_size:0");
            line!(text, "replicas_repl_buffer_peak:0");
            line!(text, "kv_link_error:{}", server.stats.last_link_error.replace(['\r', '\n'], " "));
            line!(text, "kv_stream_refused:{}", server.stats.stream_refused);
            line!(text, "kv_stream_left_out:{}", server.stats.stream_left_out);
            line!(text, "slave_priority:{}", server.config.settings.number("replica-priority"));
            line!(text, "slave_read_only:{}", u8::from(server.tunables.replica_read_only));
            line!(text, "replica_announced:1");
        }
    }
    let replicas: Vec<_> = server.clients.feeds().collect();
    line!(text, "connected_slaves:{}", replicas.len());
    if let Some((good, _)) = server.good_replicas() {
        line!(text, "min_slaves_good_slaves:{good}");
    }
    for (index, (client, feed)) in replicas.into_iter().enumerate() {
        let ip = if feed.address.is_empty() { client.peer.ip().to_string() } else { feed.address.clone() };
        line!(
            text,
            "slave{index}:ip={ip},port={},state={},offset={},lag={}",
            feed.port,
            feed.state_name(),
            feed.acked,
            server.millis_since(feed.acked_at) / 1000
        );
    }
    let waiting = server.clients.feeds().filter(|(_, feed)| feed.is_waiting()).count();
    line!(text, "replicas_waiting_psync:{waiting}");
    let history = &server.history;
    let (previous, switch) = match &history.previous {
        Some((id, switch)) => (id.clone(), i64::try_from(switch + 1).unwrap_or(i64::MAX)),
        None => ("0".repeat(40), -1),
    };
    line!(text, "master_failover_state:{}", Failover::state_name(server.failover.as_ref()));
    line!(text, "master_replid:{}", history.replid);
    line!(text, "master_replid2:{previous}");
    line!(text, "master_repl_offset:{}", history.offset());
    line!(text, "second_repl_offset:{switch}");
    let durability = server.durability_report();
    let acknowledge = server.routing.config().map(|config| config.acknowledge).unwrap_or_default();
    line!(text, "kv_acknowledge:{acknowledge}");
    line!(text, "kv_durable_offset:{}", durability.map_or(history.offset(), |known| known.durable));
    line!(text, "kv_degraded:{}", u8::from(durability.is_some_and(|known| known.degraded)));
    line!(text, "kv_held_clients:{}", server.durability.held_clients());
    line!(text, "kv_degradations:{}", server.durability.degradations);
    line!(text, "kv_uncertain_replies:{}", server.durability.uncertain);
    line!(text, "repl_backlog_active:{}", u8::from(history.is_recorded()));
    line!(text, "repl_backlog_size:{}", server.tunables.backlog);
    let first = if history.is_recorded() { history.backlog.start() + 1 } else { 0 };
    line!(text, "repl_backlog_first_byte_offset:{first}");
    line!(text, "repl_backlog_histlen:{}", history.backlog.len());
}

fn cpu(_: &Server, text: &mut String) {
    // Fields 14 and 15 of /proc/self/stat, in ticks of 1/100 s; the name before them may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(11);
    let mut seconds = || fields.next().and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    let (user, system) = (seconds(), seconds());
    line!(text, "used_cpu_sys:{system:.6}");
    line!(text, "used_cpu_user:{user:.6}");
}

fn cluster(server: &Server, text: &mut String) {
    line!(text, "cluster_enabled:{}", u8::from(server.tunables.cluster_enabled));
    if let Some(identity) = server.routing.identity() {
        line!(text, "kv_cluster_uid:{}", identity.uid);
        line!(text, "kv_shard:{}", identity.shard);
        line!(text, "kv_node_name:{}", identity.name);
        line!(text, "kv_promised_epoch:{}", server.routing.promised());
        line!(text, "kv_state:{:?}", server.routing.state());
    }
}

fn keyspace(server: &Server, text: &mut String) {
    for db in 0..server.keyspace.databases() {
        let keys = server.keyspace.len(db);
        if keys > 0 {
            line!(text, "db{db}:keys={keys},expires={},avg_ttl=0", server.keyspace.expiring_len(db));
        }
    }
}
