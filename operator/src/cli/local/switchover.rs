//! `kv-operator local switchover`.

use std::process::ExitCode;

use tokio::time::{Instant, sleep};

use crate::cli::Failure;
use crate::cli::kubectl::{PERIOD, Switchover, why};
use crate::provider::local::admit;
use crate::provider::local::layout::{Layout, LayoutError};
use crate::wish;

/// Has another node lead a shard, by way of the `up` that runs.
///
/// # Errors
/// If nobody can lead, no `up` runs, or it is not done in time.
pub async fn switchover(layout: &Layout, change: &Switchover) -> Result<ExitCode, Failure> {
    let shard = change.shard;
    if layout.lock_holder().is_none() {
        let text = format!("no `kv-operator local up` runs on {}; start it first", layout.dir().display());
        return Err(text.into());
    }
    let status = || Ok::<_, LayoutError>(layout.load_status()?.map(|file| file.status).unwrap_or_default());
    let node = wish::successor(&status()?, shard, change.to.as_deref())?;
    admit::wish(layout, shard, Some(&node))?;
    let deadline = change.deadline();
    loop {
        let object = admit::load(layout)?.map(|(cluster, _)| cluster.metadata).unwrap_or_default();
        let stands = wish::wishes(&object).get(&shard) == Some(&node);
        if !stands && wish::leads(&status()?, shard, &node) {
            println!("shard {shard}: {node} leads");
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            admit::wish(layout, shard, None)?;
            return Err(change.late(&node, &why(&status()?)));
        }
        sleep(PERIOD).await;
    }
}
