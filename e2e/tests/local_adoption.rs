//! A local cluster takes over from a running Redis under writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::view::View;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, Size};
use serde_json::{Value, json};
use tempfile::TempDir;

const SIZE: Size = Size { shards: 1, nodes: 2 };
const KEYS: usize = 100_000;
const WITHIN: Duration = Duration::from_secs(60);

/// A Redis of Debian's, with its folder.
struct Redis {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut process = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--save", "", "--requirepass", "closed", "--dir"])
                .arg(folder.path())
                .args(["--repl-diskless-sync-delay", "0"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server");
            let begin = Instant::now();
            while begin.elapsed() < WITHIN && process.try_wait().unwrap().is_none() {
                if connect(port, Some("closed")).is_ok() {
                    return Self { process, port, _folder: folder };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            // Somebody else took the port.
            assert!(begin.elapsed() < WITHIN, "redis-server does not answer");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connect(port: u16, password: Option<&str>) -> redis::RedisResult<redis::Connection> {
    let password = password.map(|password| format!(":{password}@")).unwrap_or_default();
    let client = redis::Client::open(format!("redis://{password}127.0.0.1:{port}"))?;
    client.get_connection_with_timeout(Duration::from_secs(2))
}

/// A client that writes numbers to the Redis and, when that holds its writes, to the cluster.
struct Writer {
    source: u16,
    nodes: Vec<u16>,
    /// How many the cluster has taken.
    taken: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    /// What was acknowledged, and when the last one was by the source and the first one by the cluster.
    kept: BTreeMap<String, u64>,
    left: Option<Instant>,
    arrived: Option<Instant>,
}

impl Writer {
    fn run(mut self) -> Self {
        let (mut at_source, mut turn) = (true, 0);
        let mut connection = self.connect(at_source, turn);
        for n in 0.. {
            if self.ended.load(Ordering::SeqCst) {
                return self;
            }
            // A write whose fate is not known is followed by one of another key.
            let key = format!("key:{}", n % 1_000_003);
            let mut set = redis::cmd("SET");
            set.arg(&key).arg(n);
            if connection.as_mut().is_some_and(|connection| set.query::<()>(connection).is_ok()) {
                match at_source {
                    true => self.left = Some(Instant::now()),
                    false => {
                        self.arrived.get_or_insert_with(Instant::now);
                        self.taken.fetch_add(1, Ordering::SeqCst);
                    }
                }
                self.kept.insert(key, n);
            } else {
                self.kept.remove(&key);
                at_source = !at_source && self.arrived.is_none();
                // One of the nodes is a replica, which takes nothing.
                turn += usize::from(!at_source);
                connection = self.connect(at_source, turn);
            }
        }
        self
    }

    fn connect(&self, at_source: bool, turn: usize) -> Option<redis::Connection> {
        let connection = match at_source {
            true => connect(self.source, Some("closed")).ok()?,
            false => connect(self.nodes[turn % self.nodes.len()], None).ok()?,
        };
        // So long does it wait for an answer before it tries the other one.
        connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Some(connection)
    }
}

fn spec(source: Option<&Redis>) -> Value {
    let source =
        source.map(|source| json!({"host": "127.0.0.1", "port": source.port, "secretRef": {"name": "old"}}));
    manifest(
        "adopted",
        SIZE.shards,
        SIZE.nodes - 1,
        &source.map_or(json!({}), |source| json!({"source": source})),
    )
}

fn lag(view: &View) -> Option<u64> {
    view.status.shards.first()?.source.as_ref()?.lag_bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_is_taken_over_under_writes_and_nothing_is_lost() -> Result<()> {
    let redis = Redis::start();
    let mut connection = connect(redis.port, Some("closed"))?;
    for start in (0..KEYS).step_by(1000) {
        let mut pipe = redis::pipe();
        (start..start + 1000).for_each(|n| _ = pipe.set(format!("old:{n}"), n).ignore());
        let () = pipe.query(&mut connection)?;
    }
    let mut local = Local::up(&spec(Some(&redis))).await?;
    // The secret is missing at first, and that is told.
    let told = |view: &View| view.condition("Degraded").is_some_and(|it| it.message.contains("secretRef"));
    local.wait("the missing secret is named", WITHIN, told).await?;
    let folder = local.dir().join("secrets/old");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("password"), "closed\n")?;

    let (taken, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let nodes = local.processes().await?.into_iter().map(|process| process.port).collect();
    let writer = Writer {
        source: redis.port,
        nodes,
        taken: Arc::clone(&taken),
        ended: Arc::clone(&ended),
        kept: BTreeMap::new(),
        left: None,
        arrived: None,
    };
    let writer = std::thread::spawn(move || writer.run());
    let follows = |view: &View| {
        let reason = view.condition("Adopting").map(|it| it.reason.as_str());
        reason == Some("FollowingSource") && lag(view).is_some_and(|bytes| bytes < 1 << 20)
    };
    let view = local.wait("it follows", WITHIN, follows).await?;
    assert!(!view.ready() && !view.holds("Degraded"), "{}", view.summary());

    // A master that dies takes nothing along: another node follows in its place.
    let master = view.master(0).expect("a master").to_owned();
    local.kill(&master).await?;
    let moved = |view: &View| view.master(0).is_some_and(|now| now != master) && follows(view);
    local.wait("another node follows", WITHIN, moved).await?;
    local.wait("both are in step", WITHIN, |view| view.status.ready == "2/2").await?;

    local.apply(&spec(None)).await?;
    scenario::settled(&local, SIZE).await?;
    let begin = Instant::now();
    while taken.load(Ordering::SeqCst) < 2000 && begin.elapsed() < WITHIN {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ended.store(true, Ordering::SeqCst);
    let writer = writer.join().expect("the writer");
    let arrived = writer.arrived.expect("a write that the cluster took");
    let gap = arrived.duration_since(writer.left.expect("a write that the source took"));

    let cut_over =
        |view: &View| view.condition("Adopting").is_none() && view.settled(SIZE.shards, SIZE.nodes);
    let view = local.wait("the cluster is one of its own", WITHIN, cut_over).await?;
    let port = local.process(view.master(0).expect("a master")).await?.port;
    let mut master = connect(port, None)?;
    let mut wrong = Vec::new();
    let old = (0..KEYS as u64).map(|n| (format!("old:{n}"), n));
    let expected: Vec<(String, u64)> = old.chain(writer.kept.clone()).collect();
    for some in expected.chunks(1000) {
        let mut pipe = redis::pipe();
        some.iter().for_each(|(key, _)| _ = pipe.get(key));
        let values: Vec<Option<u64>> = pipe.query(&mut master)?;
        let differ = some.iter().zip(values).filter(|((_, expected), found)| *found != Some(*expected));
        wrong.extend(differ.map(|(expected, found)| format!("{expected:?} is {found:?}")));
    }
    println!(
        "adopted {} keys; no write was taken for {} ms at the cut-over",
        expected.len(),
        gap.as_millis()
    );
    assert!(wrong.is_empty(), "{} are lost: {:?}", wrong.len(), wrong.iter().take(5).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_refused_by_a_cluster_that_has_data() -> Result<()> {
    let redis = Redis::start();
    let mut local = Local::up(&spec(None)).await?;
    let view = scenario::settled(&local, SIZE).await?;
    let port = local.process(view.master(0).expect("a master")).await?.port;
    let () = redis::cmd("SET").arg("ours").arg(1).query(&mut connect(port, None)?)?;
    local.apply(&spec(Some(&redis))).await?;
    let told = |view: &View| view.condition("Degraded").is_some_and(|it| it.reason == "SourceRefused");
    let view = local.wait("the source is refused", WITHIN, told).await?;
    assert!(view.ready(), "{}", view.summary());
    let kept: Option<u64> = redis::cmd("GET").arg("ours").query(&mut connect(port, None)?)?;
    assert_eq!(kept, Some(1));
    local.apply(&spec(None)).await?;
    scenario::settled(&local, SIZE).await?;
    Ok(())
}
