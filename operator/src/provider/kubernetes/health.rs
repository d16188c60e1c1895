//! The operator's own health and metrics, over HTTP.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::net::TcpListener;

use super::lock;
use crate::crd::ReceiptKind;

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    leads: AtomicBool,
    clusters: AtomicUsize,
    writes: Mutex<BTreeMap<&'static str, u64>>,
    changes: Mutex<BTreeMap<&'static str, Histogram>>,
}

/// Upper bounds of the buckets for how long masters were missing, in milliseconds.
const BOUNDS_MS: [u64; 10] = [50, 100, 250, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS_MS.len()],
    count: u64,
    sum_ms: u64,
}

impl Histogram {
    fn count(&mut self, ms: u64) {
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS_MS) {
            *bucket += u64::from(ms <= bound);
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }

    fn write(&self, text: &mut String, name: &str, label: &str) {
        // Writing to a String cannot fail.
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS_MS) {
            let _ = writeln!(text, "{name}_bucket{{{label},le=\"{}\"}} {bucket}", seconds(bound));
        }
        let _ = writeln!(text, "{name}_bucket{{{label},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(text, "{name}_sum{{{label}}} {}", seconds(self.sum_ms));
        let _ = writeln!(text, "{name}_count{{{label}}} {}", self.count);
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

impl Metrics {
    /// This operator acts from now on.
    pub fn lead(&self) {
        self.leads.store(true, Ordering::Relaxed);
    }

    /// How many clusters have an engine.
    pub fn clusters(&self, number: usize) {
        self.clusters.store(number, Ordering::Relaxed);
    }

    /// A write to the API server, of an object of this kind.
    pub fn wrote(&self, kind: &'static str) {
        *lock(&self.writes).entry(kind).or_default() += 1;
    }

    /// A master was changed; `ms`: for how long none was seen to take writes.
    pub fn changed_master(&self, kind: ReceiptKind, ms: u64) {
        let kind = match kind {
            ReceiptKind::Planned => "planned",
            ReceiptKind::Unplanned => "unplanned",
            ReceiptKind::Unknown => "unknown",
        };
        lock(&self.changes).entry(kind).or_default().count(ms);
    }

    fn changes(&self, text: &mut String) {
        const NAME: &str = "kv_operator_master_change_seconds";
        let help =
            "Time between the last sign that a master takes writes and the first that its successor does.";
        let _ = write!(text, "# HELP {NAME} {help}\n# TYPE {NAME} histogram\n");
        for (kind, histogram) in &*lock(&self.changes) {
            histogram.write(text, NAME, &format!("kind=\"{kind}\""));
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let leads = u64::from(self.leads.load(Ordering::Relaxed));
        let clusters = self.clusters.load(Ordering::Relaxed) as u64;
        let writes: Vec<_> =
            lock(&self.writes).iter().map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), *count)).collect();
        let version = format!("{{version=\"{}\"}}", kv_core::VERSION);
        metric("kv_operator_info", "gauge", "The release that runs.", &[(version, 1)]);
        metric("kv_operator_leader", "gauge", "Whether this operator acts.", &[(String::new(), leads)]);
        metric("kv_operator_clusters", "gauge", "Clusters that it keeps.", &[(String::new(), clusters)]);
        metric("kv_operator_api_writes_total", "counter", "Writes to the API server, by kind.", &writes);
        self.changes(&mut text);
        text
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(|State(metrics): State<Arc<Metrics>>| async move { metrics.text() }))
        .with_state(metrics);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_form_of_prometheus() {
        let metrics = Metrics::default();
        metrics.lead();
        metrics.wrote("Service");
        metrics.wrote("Service");
        let text = metrics.text();
        assert!(text.contains("# TYPE kv_operator_leader gauge\nkv_operator_leader 1\n"), "{text}");
        assert!(text.contains("\nkv_operator_api_writes_total{kind=\"Service\"} 2\n"), "{text}");
    }

    #[test]
    fn changes_of_master_are_counted_by_how_long_they_took() {
        let metrics = Metrics::default();
        for ms in [80, 100, 412, 90_000] {
            metrics.changed_master(ReceiptKind::Unplanned, ms);
        }
        metrics.changed_master(ReceiptKind::Planned, 10);
        let text = metrics.text();
        for line in [
            "# TYPE kv_operator_master_change_seconds histogram",
            "kv_operator_master_change_seconds_bucket{kind=\"unplanned\",le=\"0.05\"} 0",
            "kv_operator_master_change_seconds_bucket{kind=\"unplanned\",le=\"0.1\"} 2",
            "kv_operator_master_change_seconds_bucket{kind=\"unplanned\",le=\"60\"} 3",
            "kv_operator_master_change_seconds_bucket{kind=\"unplanned\",le=\"+Inf\"} 4",
            "kv_operator_master_change_seconds_sum{kind=\"unplanned\"} 90.592",
            "kv_operator_master_change_seconds_count{kind=\"planned\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
    }
}
