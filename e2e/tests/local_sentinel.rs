//! Clients of Redis Sentinel, unchanged, on a local cluster of one shard whose masters are taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::clients::{LANGUAGES, Writer};
use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::ledger::route::Access;
use kv_e2e::scenario::{SETTLE_WITHIN, Size, settled};
use serde_json::json;

const SIZE: Size = Size { shards: 1, nodes: 3 };

/// Writes of each client between two faults.
const WRITES: usize = 100;

/// What is done to a master.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Its connections end with it.
    Kill,
    /// Its connections stay, and nobody answers on them; then one that is no master.
    Freeze,
    /// It hands over and ends.
    Terminate,
    /// It hands over and stays: connections to it are as good as before.
    FillDisk,
}

async fn writers(local: &Local) -> Result<Vec<Writer>> {
    let processes = local.processes().await?;
    let sentinels: Vec<_> = processes.iter().map(|one| format!("127.0.0.1:{}", one.sentinel_port)).collect();
    let mut writers = Vec::new();
    for language in LANGUAGES {
        match Writer::start(language, &sentinels.join(","), "shop").await? {
            Some(writer) => writers.push(writer),
            None if std::env::var_os("CI").is_some() => panic!("{language} is not installed"),
            None => eprintln!(
                "*** NOT TESTED: {language} is not installed, so its Sentinel client was not run ***"
            ),
        }
    }
    assert!(!writers.is_empty(), "none of {LANGUAGES:?} is installed: no client was tested");
    Ok(writers)
}

/// Takes the master away, waits until every client writes again, and puts all right. Returns for how long each was held up.
async fn lose_master(local: &Local, writers: &[Writer], fault: Fault) -> Result<Vec<f64>> {
    let before = settled(local, SIZE).await?;
    let (old, epoch) = (before.master(0).unwrap().to_owned(), before.epoch(0));
    for writer in writers {
        writer.wait_for_more(WRITES).await?;
    }
    let counts: Vec<_> = writers.iter().map(|writer| writer.count() - 1).collect();
    match fault {
        Fault::Kill => local.kill(&old).await?,
        Fault::Freeze => local.freeze(&old).await?,
        Fault::Terminate => local.terminate(&old).await?,
        Fault::FillDisk => local.limit_files(&old, Some(4096)).await?,
    }
    local
        .wait("a new master", SETTLE_WITHIN, |view| view.epoch(0) > epoch && view.master(0) != Some(&old))
        .await?;
    if matches!(fault, Fault::Freeze) {
        local.thaw(&old).await?;
    }
    for writer in writers {
        writer.wait_for_more(WRITES).await?;
    }
    if matches!(fault, Fault::FillDisk) {
        local.limit_files(&old, None).await?;
    }
    Ok(writers.iter().zip(counts).map(|(writer, count)| writer.longest_ms(count)).collect())
}

async fn missing(local: &Local, language: &str, numbers: &[u64]) -> Result<Vec<u64>> {
    let view = settled(local, SIZE).await?;
    let port = local.process(view.master(0).unwrap()).await?.port;
    let mut master = Access::default().connect(&format!("127.0.0.1:{port}"), Duration::from_secs(5)).await?;
    let keys: Vec<_> = numbers.iter().map(|number| format!("{language}:{number}")).collect();
    let mut missing = Vec::new();
    for (numbers, keys) in numbers.chunks(500).zip(keys.chunks(500)) {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.get(key);
        }
        let values: Vec<Option<u64>> = pipeline.query_async(&mut master).await?;
        missing.extend(
            numbers
                .iter()
                .zip(values)
                .filter(|(number, value)| *value != Some(**number))
                .map(|(number, _)| *number),
        );
    }
    Ok(missing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_sentinel_follow_the_master_and_lose_nothing() -> Result<()> {
    let quorum = json!({"replication": {"acknowledge": {"mode": "Quorum", "copies": 2}}});
    let local = Local::up(&manifest("shop", SIZE.shards, SIZE.nodes - 1, &quorum)).await?;
    settled(&local, SIZE).await?;
    let writers = writers(&local).await?;
    for fault in [Fault::Kill, Fault::Freeze, Fault::Terminate, Fault::FillDisk] {
        let held_up = lose_master(&local, &writers, fault).await?;
        let each = writers.iter().zip(held_up).map(|(writer, ms)| format!("{} {ms:.0} ms", writer.language));
        println!("{fault:?}: no write of {}", each.collect::<Vec<_>>().join(", "));
    }
    for writer in writers {
        let language = writer.language;
        let (numbers, refused) = writer.finish().await?;
        println!("{language}: {} writes acknowledged, {} refused", numbers.len(), refused.len());
        assert_eq!(missing(&local, language, &numbers).await?, Vec::<u64>::new(), "of {language}");
    }
    Ok(())
}
