//! `kv-operator local switchover`.

use std::process::ExitCode;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cli::Failure;
use crate::cli::switchover::{Place, Switchover};
use crate::crd::KvClusterStatus;
use crate::provider::local::admit;
use crate::provider::local::layout::Layout;

/// Has another node lead a shard, by way of the `up` that runs.
///
/// # Errors
/// If nobody can lead, no `up` runs, or it is not done in time.
pub async fn switchover(layout: &Layout, change: &Switchover) -> Result<ExitCode, Failure> {
    if layout.lock_holder().is_none() {
        let text = format!("no `kv-operator local up` runs on {}; start it first", layout.dir().display());
        return Err(text.into());
    }
    change.run(layout).await
}

impl Place for Layout {
    async fn look(&self) -> Result<(ObjectMeta, KvClusterStatus), Failure> {
        let metadata = admit::load(self)?.map(|(cluster, _)| cluster.metadata).unwrap_or_default();
        Ok((metadata, self.load_status()?.map(|file| file.status).unwrap_or_default()))
    }

    async fn wish(&self, shard: u16, node: Option<&str>) -> Result<(), Failure> {
        Ok(admit::wish(self, shard, node)?)
    }
}
