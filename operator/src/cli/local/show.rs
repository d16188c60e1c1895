//! A KvCluster with its status, as tables for people.

use k8s_openapi::jiff::Timestamp;

use crate::crd::{KvCluster, NodeStatus};
use crate::provider::local::layout::Layout;
use crate::provider::local::ports::Ports;
use crate::provider::local::running;

/// A node's process, for `status -o json` and the table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProcessRow {
    /// The node's name.
    pub node: String,
    /// Its process id; absent if it does not run.
    pub pid: Option<i32>,
    /// The port for clients.
    pub port: u16,
    /// The port of the Sentinel protocol.
    #[serde(rename = "sentinelPort")]
    pub sentinel_port: u16,
    /// The node's folder.
    pub dir: String,
}

/// The processes of the nodes that the workloads ask for, in order of their name.
pub fn processes(
    layout: &Layout,
    uid: &str,
    base_port: u16,
    names: impl IntoIterator<Item = String>,
) -> Vec<ProcessRow> {
    names
        .into_iter()
        .map(|node| {
            let port = layout.index(&node).and_then(|index| Ports::of(base_port, index).ok());
            ProcessRow {
                pid: running(layout, uid, &node).map(|record| record.pid),
                port: port.map_or(0, |ports| ports.data),
                sentinel_port: port.map_or(0, |ports| ports.sentinel),
                dir: layout.node(&node).display().to_string(),
                node,
            }
        })
        .collect()
}

/// Columns of equal width, as kubectl lays them out.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0))
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The cluster in one line, as `kubectl get kvc` shows it, and a line for each node.
#[must_use]
pub fn table(cluster: &KvCluster, processes: &[ProcessRow], now: Timestamp) -> Vec<String> {
    let words = |row: &[&str]| row.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let status = cluster.status.clone().unwrap_or_default();
    let created = cluster.metadata.creation_timestamp.as_ref();
    let mut lines = columns(&[
        words(&["NAME", "SHARDS", "REPLICAS", "READY", "MASTERS", "STATUS", "AGE"]),
        vec![
            cluster.metadata.name.clone().unwrap_or_default(),
            cluster.spec.shards.to_string(),
            cluster.spec.replicas_per_shard.to_string(),
            status.ready.clone(),
            status.masters.clone(),
            status.state.map_or_else(|| "Unknown".into(), |state| format!("{state:?}")),
            created.map_or_else(|| "<unknown>".into(), |time| age(now.as_second() - time.0.as_second())),
        ],
    ]);
    lines.push(String::new());
    let mut rows = vec![words(&["NODE", "ROLE", "PARENT", "STATE", "OFFSET", "LAG", "PORT", "PID"])];
    for node in status.shards.iter().flat_map(|shard| &shard.nodes) {
        rows.push(node_row(node, processes.iter().find(|process| process.node == node.name)));
    }
    lines.extend(columns(&rows));
    for condition in &status.conditions {
        let bad = match condition.type_.as_str() {
            "Ready" => condition.status == "False",
            "Degraded" | "Adopting" => condition.status == "True",
            _ => false,
        };
        if bad {
            lines.push(format!("{}: {} {}", condition.type_, condition.reason, condition.message));
        }
    }
    lines
}

fn node_row(node: &NodeStatus, process: Option<&ProcessRow>) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    vec![
        node.name.clone(),
        or_dash(node.role.map(|role| format!("{role:?}"))),
        or_dash(node.parent.clone()),
        format!("{:?}", node.state),
        or_dash(node.offset.map(|offset| offset.to_string())),
        or_dash(node.lag_bytes.map(|lag| lag.to_string())),
        or_dash(process.map(|process| process.port.to_string())),
        or_dash(process.and_then(|process| process.pid).map(|pid| pid.to_string())),
    ]
}

/// An age as kubectl writes it.
fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".into(), "LONG".into()], vec!["longer".into(), "x".into()]];
        assert_eq!(columns(&rows), ["A        LONG", "longer   x"]);
    }

    #[test]
    fn ages_are_short() {
        let ages: Vec<_> = [-1, 0, 119, 120, 150, 3600, 7200, 172_800].map(age).into();
        assert_eq!(ages, ["0s", "0s", "119s", "2m", "2m30s", "60m", "2h", "2d"]);
    }
}
