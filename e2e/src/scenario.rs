//! What is done to a cluster of either provider, by tests and by measurements alike. Nothing is judged here: the steps
//! report what they saw, and fail only where it makes no sense to go on.

use std::time::{Duration, Instant};

use futures::stream::{StreamExt, TryStreamExt};

use crate::cluster::truth::lies;
use crate::cluster::view::View;
use crate::cluster::{Cluster, Error, Ledger, Result, info_number};
use crate::ledger::Report;
use crate::ledger::check::Suspect;
use crate::ledger::outage::Outage;
use crate::ledger::route::Access;

/// How long a cluster may take to be as specified again. Far more than it needs: what it needs is measured.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(120);

/// How old a write may be that a dead master takes along: it was not replicated yet.
const TAIL_US: u64 = 2_000_000;

/// Shards, and nodes of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Number of shards.
    pub shards: usize,
    /// The master and its replicas.
    pub nodes: usize,
}

/// Waits until the cluster is as specified.
///
/// # Errors
/// If that takes too long.
pub async fn settled<C: Cluster>(cluster: &C, size: Size) -> Result<View> {
    let what = format!("{} shards of {} nodes, all as specified,", size.shards, size.nodes);
    cluster.wait(&what, SETTLE_WITHIN, |view| view.settled(size.shards, size.nodes)).await
}

/// What the loss of a master came to.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The master that was lost.
    pub old: String,
    /// Its successor.
    pub new: String,
    /// When it was lost, in microseconds of Unix time.
    pub at_us: u64,
    /// When the fault was mended.
    pub mended_us: u64,
    /// The longest time from one acknowledged write to the shard to the next.
    pub refused_ms: f64,
    /// From the loss to the cluster as specified, the old master included.
    pub settled_ms: f64,
}

/// Loses the master of a shard by `inflict`, waits until all writers write again, then mends what `inflict` returned by
/// `mend`, and waits until the cluster is as specified again.
///
/// # Errors
/// If one of these takes too long.
pub async fn lose_master<C: Cluster, H>(
    cluster: &C,
    ledger: &mut Ledger,
    size: Size,
    shard: usize,
    inflict: impl AsyncFnOnce(&str) -> Result<H>,
    mend: impl AsyncFnOnce(H) -> Result<()>,
) -> Result<Loss> {
    let before = settled(cluster, size).await?;
    let old = before.master(shard).unwrap_or_default().to_owned();
    let epoch = before.epoch(shard);
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let at_us = ledger.now_us().await?;
    let started = Instant::now();
    let hurt = inflict(&old).await?;
    cluster.wait("a new epoch of the shard", SETTLE_WITHIN, |view| view.epoch(shard) > epoch).await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    mend(hurt).await?;
    let mended_us = ledger.now_us().await?;
    let after = settled(cluster, size).await?;
    let settled_ms = started.elapsed().as_secs_f64() * 1000.0;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let refused_ms = ledger.longest_ms(shard, at_us).await?;
    let new = after.master(shard).unwrap_or_default().to_owned();
    Ok(Loss { old, new, at_us, mended_us, refused_ms, settled_ms })
}

/// What was lost though it was neither acknowledged just before a loss, nor by an old master that woke up and was not
/// told yet that it is none any more. Under Async only such a tail may be lost.
#[must_use]
pub fn lost_beyond_tails(losses: &[Loss], report: &Report) -> Vec<Suspect> {
    let of_tail = |suspect: &Suspect| {
        let near = |time: u64| suspect.ended_us.abs_diff(time) < TAIL_US;
        losses.iter().any(|loss| near(loss.at_us) || near(loss.mended_us))
    };
    report.verdict.missing.examples.iter().filter(|suspect| !of_tail(suspect)).cloned().collect()
}

/// The outages of a run in which the cluster said that it was ready (invariant T).
///
/// # Errors
/// If the run is gone.
pub async fn lies_of<C: Cluster>(cluster: &C, ledger: &mut Ledger) -> Result<Vec<Outage>> {
    let outages = ledger.outages(0, Duration::from_secs(5), 20).await?;
    let until_us = ledger.now_us().await?;
    Ok(lies(&cluster.said(), &outages, until_us))
}

/// Full resynchronisations that the nodes gave since their processes started, all together.
///
/// # Errors
/// If a node does not answer.
pub async fn full_syncs<C: Cluster>(cluster: &C, view: &View) -> Result<u64> {
    let mut sum = 0;
    for node in view.nodes() {
        let info = cluster.info(&node.name).await?;
        let count = info_number(&info, "sync_full");
        sum += count.ok_or_else(|| Error::Unexpected(format!("INFO of {} has no sync_full", node.name)))?;
    }
    Ok(sum)
}

/// Writes `keys` keys through the cluster client of the `redis` crate, then reads them; returns how many came back with
/// the right value.
///
/// # Errors
/// If one of the writes or reads fails.
pub async fn write_and_read(access: &Access, keys: usize) -> Result<usize> {
    const AT_ONCE: usize = 128;
    let connection = crate::ledger::connect_cluster(access).await?;
    let write = |n: usize| {
        let mut connection = connection.clone();
        async move { redis::cmd("SET").arg(format!("key:{n}")).arg(n).query_async::<()>(&mut connection).await }
    };
    futures::stream::iter((0..keys).map(write)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let read = |n: usize| {
        let mut connection = connection.clone();
        async move {
            let found = redis::cmd("GET")
                .arg(format!("key:{n}"))
                .query_async::<Option<usize>>(&mut connection)
                .await?;
            Ok::<_, redis::RedisError>(usize::from(found == Some(n)))
        }
    };
    let found = futures::stream::iter((0..keys).map(read)).buffer_unordered(AT_ONCE);
    Ok(found.try_fold(0, async |sum, one| Ok(sum + one)).await?)
}

/// The middle one of some times.
#[must_use]
pub fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    match times.len() % 2 {
        0 => {
            (times.get(middle.wrapping_sub(1)).copied().unwrap_or(0.0)
                + times.get(middle).copied().unwrap_or(0.0))
                / 2.0
        }
        _ => times.get(middle).copied().unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
