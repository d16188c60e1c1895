//! What the data thread shows to the health endpoint.

use kv_core::control::{DataState, LinkState, NodeState};

use super::Server;
use crate::health::{Metric, Status};

impl Server {
    /// Shows the present status to the health endpoint.
    pub(super) fn publish(&self) {
        self.shared.publish(Status { not_ready: self.not_ready(), loading: false, metrics: self.metrics() });
    }

    /// Why clients should not be sent here; `None` if they may.
    fn not_ready(&self) -> Option<String> {
        if self.link.is_none()
            && let Some(error) = self.disk_error()
        {
            return Some(error);
        }
        let streaming = self.link.as_ref().is_none_or(|link| link.state() == LinkState::Streaming);
        match self.routing.state() {
            _ if !self.routing.is_managed() => (!streaming).then(|| {
                let why = &self.stats.last_link_error;
                let colon = if why.is_empty() { "" } else { ": " };
                format!("the link to the master is down{colon}{why}")
            }),
            NodeState::Master => None,
            NodeState::Replica if streaming && self.routing.data() == DataState::Live => None,
            NodeState::Replica => Some("the link to the parent is down".to_owned()),
            NodeState::Blank => Some("no config yet".to_owned()),
            NodeState::Joining => Some("restarted as a master: waiting for a newer config".to_owned()),
            NodeState::Fenced => Some("a new epoch was promised: waiting for its config".to_owned()),
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        let stats = &self.stats;
        let parents = usize::from(self.link.as_ref().is_some_and(|link| link.client().is_some()));
        let gauge =
            |name, help, value: f64| Metric { name, kind: "gauge", help, labels: String::new(), value };
        let counter = |name, help, value: u64| Metric {
            name,
            kind: "counter",
            help,
            labels: String::new(),
            value: value as f64,
        };
        let master = self.link.is_none() && self.routing.may_write();
        let link_up = self.link.as_ref().is_none_or(|link| link.client().is_some());
        vec![
            gauge(
                "kv_up",
                "Whether the node serves its role.",
                f64::from(u8::from(self.not_ready().is_none())),
            ),
            gauge("kv_master", "Whether the node takes writes.", f64::from(u8::from(master))),
            gauge("kv_epoch", "Highest epoch that the node promised.", self.routing.promised().0 as f64),
            gauge("kv_keys", "Keys in all databases.", self.keyspace.total() as f64),
            gauge("kv_data_bytes", "Estimated bytes of keys and values.", self.keyspace.used_memory() as f64),
            gauge("kv_connected_clients", "Clients that are connected.", self.clients.normal(parents) as f64),
            gauge("kv_connected_replicas", "Replicas that are fed.", self.clients.replicas().len() as f64),
            gauge(
                "kv_replication_offset_bytes",
                "Bytes of the replication stream.",
                self.history.offset() as f64,
            ),
            gauge(
                "kv_replication_link_up",
                "Whether the parent's stream flows; 1 on a master.",
                f64::from(u8::from(link_up)),
            ),
            gauge(
                "kv_writes_paused",
                "Whether writes are held for a hand-over.",
                f64::from(u8::from(self.pause.is_some())),
            ),
            gauge(
                "kv_uptime_seconds",
                "Time since the process started.",
                self.millis_since(self.started.instant) as f64 / 1000.0,
            ),
            counter("kv_commands_total", "Commands that were run.", stats.commands),
            counter(
                "kv_commands_rejected_total",
                "Commands that were refused before they ran.",
                stats.rejected_commands,
            ),
            counter("kv_connections_total", "Connections that were taken.", stats.connections),
            counter(
                "kv_connections_rejected_total",
                "Connections that were refused.",
                stats.rejected_connections,
            ),
            counter("kv_output_bytes_total", "Bytes of replies.", stats.output_bytes),
            counter(
                "kv_replication_output_bytes_total",
                "Bytes of the stream sent to replicas.",
                stats.replication_bytes,
            ),
            counter("kv_expired_keys_total", "Keys that expired.", stats.expired),
            counter("kv_full_syncs_total", "Full synchronisations as a replica.", stats.full_syncs),
            counter("kv_partial_syncs_total", "Partial synchronisations as a replica.", stats.partial_syncs),
            counter(
                "kv_discarded_bytes_total",
                "Bytes of the stream that were given up for a master that had never got them.",
                stats.discarded_bytes,
            ),
            counter(
                "kv_stream_refused_total",
                "Commands of the parent's stream that could not be applied.",
                stats.stream_refused,
            ),
            counter(
                "kv_full_syncs_served_total",
                "Full synchronisations served to replicas.",
                stats.sync_full,
            ),
        ]
    }
}
