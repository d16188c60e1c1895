//! Health over HTTP: `/livez`, `/readyz`, `/metrics`, on a thread of its own that tells the truth about the data thread.

mod http;

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A data thread that did not turn for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A data thread that did not turn for so long is not ready for clients.
const LATE_AFTER: Duration = Duration::from_secs(3);

/// What the data thread shows to other threads.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    /// Milliseconds after `started` at which the data thread last turned.
    beat: AtomicU64,
    status: Mutex<Status>,
}

/// What the data thread last said of itself.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Why the node is not ready; `None` if it is.
    pub not_ready: Option<String>,
    /// Data are being loaded: the data thread does not turn meanwhile.
    pub loading: bool,
    /// The metrics.
    pub metrics: Vec<Metric>,
}

/// A value for Prometheus.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name, with the unit at its end.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Its labels, as they stand between braces; may be empty.
    pub labels: String,
    /// The value.
    pub value: f64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            beat: AtomicU64::new(0),
            status: Mutex::new(Status {
                not_ready: Some("starting".into()),
                loading: true,
                metrics: Vec::new(),
            }),
        }
    }
}

impl Shared {
    /// The data thread turns.
    pub fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    /// Shows a new status.
    pub fn publish(&self, status: Status) {
        if let Ok(mut slot) = self.status.lock() {
            *slot = status;
        }
    }

    fn status(&self) -> Status {
        self.status.lock().map(|status| status.clone()).unwrap_or_default()
    }

    fn silent_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }

    fn silent_over(&self, status: &Status, limit: Duration) -> Option<String> {
        let silent = self.silent_for();
        (!status.loading && silent > limit)
            .then(|| format!("the data thread has not turned for {} s", silent.as_secs()))
    }

    fn answer(&self, path: &str) -> (u16, String) {
        let status = self.status();
        let verdict = |problem: Option<String>| match problem {
            None => (200, "ok\n".to_owned()),
            Some(problem) => (503, format!("{problem}\n")),
        };
        match path {
            "/livez" => verdict(self.silent_over(&status, STUCK_AFTER)),
            "/readyz" => verdict(self.silent_over(&status, LATE_AFTER).or(status.not_ready)),
            "/metrics" => (200, self.metrics(&status)),
            _ => (404, "try /livez, /readyz or /metrics\n".to_owned()),
        }
    }

    fn metrics(&self, status: &Status) -> String {
        let mut text = String::new();
        let silent = Metric {
            name: "kv_data_thread_silent_seconds",
            kind: "gauge",
            help: "Time since the data thread last turned.",
            labels: String::new(),
            value: self.silent_for().as_secs_f64(),
        };
        let mut last = "";
        for Metric { name, kind, help, labels, value } in status.metrics.iter().chain([&silent]) {
            if *name != last {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
                last = name;
            }
            let _ = if labels.is_empty() {
                writeln!(text, "{name} {value}")
            } else {
                writeln!(text, "{name}{{{labels}}} {value}")
            };
        }
        text
    }
}

/// Serves HTTP on `address` from now on.
///
/// # Errors
/// If the address cannot be listened on.
pub fn serve(address: SocketAddr, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::bind(address).map_err(|error| {
        io::Error::other(format!("cannot serve health on {address} (kv-health-port): {error}"))
    })?;
    http::serve(listener, move |path| shared.answer(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Status {
        Status { not_ready: None, loading: false, metrics: Vec::new() }
    }

    #[test]
    fn readiness_and_life_are_told_apart() {
        let shared = Shared::default();
        shared.beat();
        assert_eq!(shared.answer("/livez").0, 200);
        assert_eq!(shared.answer("/readyz"), (503, "starting\n".into()));
        shared.publish(ready());
        assert_eq!(shared.answer("/readyz").0, 200);
        assert_eq!(shared.answer("/nothing").0, 404);
    }

    #[test]
    fn a_stuck_data_thread_is_neither_alive_nor_ready() {
        let mut shared = Shared::default();
        let Some(earlier) = Instant::now().checked_sub(STUCK_AFTER * 2) else { return };
        shared.started = earlier;
        assert_eq!(shared.answer("/livez").0, 200, "loading may take long");
        shared.publish(ready());
        assert_eq!(shared.answer("/livez").0, 503);
        assert_eq!(shared.answer("/readyz").0, 503);
        shared.beat();
        assert_eq!(shared.answer("/livez").0, 200);
    }

    #[test]
    fn metrics_have_the_form_of_prometheus() {
        let shared = Shared::default();
        let metric = |labels: &str, value| Metric {
            name: "kv_keys",
            kind: "gauge",
            help: "Keys.",
            labels: labels.to_owned(),
            value,
        };
        shared.publish(Status { metrics: vec![metric("db=\"0\"", 2.0), metric("db=\"1\"", 3.0)], ..ready() });
        let text = shared.answer("/metrics").1;
        let head = "# HELP kv_keys Keys.\n# TYPE kv_keys gauge\nkv_keys{db=\"0\"} 2\nkv_keys{db=\"1\"} 3\n";
        assert!(text.starts_with(head), "{text}");
    }
}
