//! Has another node lead a shard, for `kubectl kv switchover` and `kv-operator local switchover`: wishes for it, and waits.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::crd::KvClusterStatus;
use crate::wish;

/// A change of master that a user wants.
#[derive(Debug, Parser)]
#[group(skip)] // clap would name the group as the subcommand that these are part of.
pub struct Switchover {
    /// Index of the shard.
    #[arg(long)]
    shard: u16,
    /// Name of the node that is to lead. Default: the ready replica that is behind the least.
    #[arg(long)]
    to: Option<String>,
    /// Seconds to wait for it. Then the wish is taken back.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

/// How often to look whether it is done.
const PERIOD: Duration = Duration::from_millis(100);

/// The KvCluster that the wish is made to.
pub(super) trait Place {
    /// It as it is now.
    async fn look(&self) -> Result<(ObjectMeta, KvClusterStatus), Failure>;

    /// Wishes for a master of a shard or, without a node, takes the wish back.
    async fn wish(&self, shard: u16, node: Option<&str>) -> Result<(), Failure>;
}

impl Switchover {
    /// Wishes for it, and waits until it is done.
    ///
    /// # Errors
    /// If nobody can lead, or it is not done in time.
    pub(super) async fn run(&self, place: &impl Place) -> Result<ExitCode, Failure> {
        let shard = self.shard;
        let (_, status) = place.look().await?;
        let node = wish::successor(&status, shard, self.to.as_deref())?;
        place.wish(shard, Some(&node)).await?;
        let deadline = Instant::now() + Duration::from_secs(self.timeout.min(24 * 3600));
        loop {
            let (metadata, status) = place.look().await?;
            let stands = wish::wishes(&metadata).get(&shard) == Some(&node);
            if !stands && wish::leads(&status, shard, &node) {
                super::print(&format!("shard {shard}: {node} leads"))?;
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() > deadline {
                place.wish(shard, None).await?;
                let (why, seconds) = (why(&status), self.timeout);
                let text = format!(
                    "{node} does not lead shard {shard} after {seconds} s: {why}; it is not asked any more"
                );
                return Err(text.into());
            }
            sleep(PERIOD).await;
        }
    }
}

/// What a status says of a change that is not done yet.
fn why(status: &KvClusterStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "there is no status".to_owned(), |ready| ready.message.clone())
}
