//! `kv-operator local down`.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::super::print;
use super::Failure;
use crate::provider::local::layout::{Layout, LayoutError};
use crate::provider::local::{admit, stop_processes};

/// How long `up` may take to stop its nodes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stops the cluster: through `up` if it runs, else its nodes one by one.
///
/// # Errors
/// If it does not stop.
pub async fn down(layout: &Layout, purge: bool) -> Result<ExitCode, Failure> {
    if !layout.cluster().exists() && layout.node_names()?.is_empty() {
        return Err(LayoutError::NoCluster(layout.dir().to_owned()).into());
    }
    let deadline = Instant::now() + PATIENCE;
    while let Some(pid) = layout.lock_holder() {
        // The holder of the lock lives, so that this process id is its own.
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if Instant::now() > deadline {
            return Err(format!("`up`, process {pid}, did not stop within {PATIENCE:?}").into());
        }
        sleep(Duration::from_millis(100)).await;
    }
    let lock = layout.lock()?;
    // Even a cluster whose file is damaged, or gone, can be stopped: its processes are on record.
    let uid =
        admit::load(layout).ok().flatten().and_then(|(cluster, _)| cluster.metadata.uid).unwrap_or_default();
    let stopped = stop_processes(layout, &uid).await?;
    if stopped > 0 {
        print(&format!("stopped {stopped} nodes that no `up` looked after"))?;
    }
    if purge {
        layout.purge()?;
        print(&format!("removed the cluster's data from {}", layout.dir().display()))?;
    }
    drop(lock);
    Ok(ExitCode::SUCCESS)
}
