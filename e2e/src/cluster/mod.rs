//! Clusters under test, over both providers: what one can do to them, and what one can see of them.
//!
//! [`view`] and [`truth`] are pure; [`local`] runs `kv-operator local`, [`kind`] a Kubernetes made by
//! `e2e/kind/cluster`; [`ledger`] is a run of the ledger beside either.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub mod kind;
mod ledger;
pub mod local;
mod programs;
pub mod truth;
pub mod view;

pub use ledger::Ledger;
pub use programs::Programs;

use view::View;

pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Why something could not be done to a cluster, or did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that must have been built is not there.
    #[error("{program} is not in {folder}: build it first (cargo build --workspace), or set KV_BIN_DIR")]
    NoProgram {
        /// Its name.
        program: String,
        /// Where we looked.
        folder: String,
    },
    /// A program failed.
    #[error("{command}: {output}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something did not come about in time.
    #[error("{what} did not come within {waited_s} s; last seen: {last}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        waited_s: u64,
        /// The last state that was seen.
        last: String,
    },
    /// The ledger could not be started, asked or judged.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
    /// A node did not answer.
    #[error("node: {0}")]
    Node(#[from] redis::RedisError),
    /// A file, process or pipe.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The API server refused, or could not be reached.
    #[error("Kubernetes: {0}")]
    Kubernetes(#[from] kube::Error),
    /// The kubeconfig is missing or wrong.
    #[error(
        "no usable kubeconfig (e2e/kind/cluster up makes a cluster, e2e/kind/cluster env prints its settings): {0}"
    )]
    Kubeconfig(String),
    /// Something is not as it must be to go on.
    #[error("{0}")]
    Unexpected(String),
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A KvCluster under test.
#[allow(async_fn_in_trait, reason = "tests run on one task each and need no bounds on the futures")]
pub trait Cluster {
    /// What a user sees of it.
    async fn view(&self) -> Result<View>;

    /// Applies a manifest as a user would; an error if it is refused.
    async fn apply(&mut self, manifest: &Value) -> Result<()>;

    /// Kills the process of a node, as `kill -9` does.
    async fn kill(&self, node: &str) -> Result<()>;

    /// Freezes the process of a node.
    async fn freeze(&self, node: &str) -> Result<()>;

    /// Lets a frozen process go on.
    async fn thaw(&self, node: &str) -> Result<()>;

    /// Starts a ledger.
    async fn ledger(&self) -> Result<Ledger>;

    /// What a node answers to INFO.
    async fn info(&self, node: &str) -> Result<String>;

    /// What was ready from when to when, since the cluster was made.
    fn said(&self) -> Vec<truth::Said>;

    /// What its operator said lately, for a failed test's output.
    fn history(&self) -> String;

    /// Waits until what a user sees is as wanted, and returns it.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    async fn wait(&self, what: &str, within: Duration, wanted: impl Fn(&View) -> bool) -> Result<View> {
        let started = Instant::now();
        loop {
            let view = self.view().await;
            match &view {
                Ok(view) if wanted(view) => return Ok(view.clone()),
                _ if started.elapsed() > within => {
                    let last = view.map_or_else(|error| error.to_string(), |view| view.summary());
                    let last = format!("{last}\n{}", self.history());
                    return Err(Error::TooLate { what: what.to_owned(), waited_s: within.as_secs(), last });
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// The number of a field of INFO.
#[must_use]
pub fn info_number(info: &str, field: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
}

/// A KvCluster to apply: so many shards and replicas, a volume for each node, and the rest of the spec.
#[must_use]
pub fn manifest(name: &str, shards: usize, replicas: usize, rest: &Value) -> Value {
    let mut spec = json!({
        "shards": shards,
        "replicasPerShard": replicas,
        "storage": {"volume": {"size": "1Gi", "retention": "Delete"}},
    });
    if let (Some(spec), Some(rest)) = (spec.as_object_mut(), rest.as_object()) {
        spec.extend(rest.clone());
    }
    json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": name}, "spec": spec})
}
