//! A local cluster of one shard, by its Sentinel port.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::World;
use super::writer::MASTER;
use crate::cluster::local::Local;
use crate::cluster::{Error, Result, manifest};
use crate::scenario::{self, Size};

const SIZE: Size = Size { shards: 1, nodes: 3 };

/// The cluster; it ends with this value.
pub struct Ours {
    local: Local,
    sentinels: Vec<String>,
}

impl Ours {
    /// Starts it; `more` is added to its spec.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(more: &Value) -> Result<Self> {
        let local = Local::up(&manifest(MASTER, SIZE.shards, SIZE.nodes - 1, more)).await?;
        scenario::settled(&local, SIZE).await?;
        let processes = local.processes().await?;
        let sentinels = processes.iter().map(|one| format!("127.0.0.1:{}", one.sentinel_port)).collect();
        Ok(Self { local, sentinels })
    }
}

impl World for Ours {
    fn sentinels(&self) -> Vec<String> {
        self.sentinels.clone()
    }

    async fn settled(&mut self) -> Result<String> {
        let view = scenario::settled(&self.local, SIZE).await?;
        let master = view.master(0).ok_or_else(|| Error::Unexpected("there is no master".into()))?;
        Ok(format!("127.0.0.1:{}", self.local.process(master).await?.port))
    }

    async fn signal(&mut self, master: &str, signal: Signal) -> Result<()> {
        let processes = self.local.processes().await?;
        let of = processes.iter().find(|one| master.ends_with(&format!(":{}", one.port)));
        let node = of.ok_or_else(|| Error::Unexpected(format!("no node listens at {master}")))?;
        self.local.signal(&node.node, signal).await
    }
}
