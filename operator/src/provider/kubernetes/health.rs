//! The operator's own health and metrics, over HTTP.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::net::TcpListener;

use super::lock;

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    leads: AtomicBool,
    clusters: AtomicUsize,
    writes: Mutex<BTreeMap<&'static str, u64>>,
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
}
