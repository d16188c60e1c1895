//! A client of Sentinel, the same for both sides: it asks any sentinel for the master and writes numbers there, one after
//! the other. After an error it asks again, and leaves the number: nobody knows what became of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

use crate::cluster::{Error, Result};
use crate::ledger::route::Access;

/// The name that sentinels know the master by.
pub const MASTER: &str = "shop";
/// How long a write may take until the client asks for the master again.
const ANSWER: Duration = Duration::from_millis(500);
/// From the beginning of a write to that of the next.
const PACE: Duration = Duration::from_millis(2);
/// Between two questions for a master that nobody can name.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long a writer may take to write again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Keys that are read in one go.
const CHUNK: usize = 500;

type Acknowledged = Arc<Mutex<Vec<(u64, Instant)>>>;

/// A writer; it ends with this value.
pub struct Writer {
    sentinels: Vec<String>,
    acknowledged: Acknowledged,
    task: JoinHandle<()>,
}

impl Writer {
    /// Starts to write.
    #[must_use]
    pub fn start(sentinels: Vec<String>) -> Self {
        let acknowledged = Acknowledged::default();
        let task = tokio::spawn(write(sentinels.clone(), acknowledged.clone()));
        Self { sentinels, acknowledged, task }
    }

    /// Waits until so many more writes were acknowledged.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_for_more(&self, more: usize) -> Result<()> {
        let (wanted, began) = (lock(&self.acknowledged).len() + more, Instant::now());
        while lock(&self.acknowledged).len() < wanted {
            if began.elapsed() > PATIENCE {
                let last = format!("{} writes", lock(&self.acknowledged).len());
                return Err(Error::TooLate {
                    what: format!("{more} more writes"),
                    waited_s: PATIENCE.as_secs(),
                    last,
                });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    /// The longest time from one acknowledged write to the next, of which the second came after `since`, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self, since: Instant) -> f64 {
        let acknowledged = lock(&self.acknowledged);
        let pairs = acknowledged.iter().zip(acknowledged.iter().skip(1));
        let gaps = pairs.filter(|(_, (_, at))| *at > since).map(|((_, from), (_, to))| *to - *from);
        gaps.max().unwrap_or_default().as_secs_f64() * 1000.0
    }

    /// Ends the writing; how many writes were acknowledged, and how many of these the master does not have.
    ///
    /// # Errors
    /// If the master cannot be read.
    pub async fn finish(self) -> Result<(usize, usize)> {
        self.task.abort();
        let numbers: Vec<u64> = lock(&self.acknowledged).iter().map(|(number, _)| *number).collect();
        let mut master = master(&self.sentinels).await.map_err(Error::Unexpected)?;
        let mut missing = BTreeSet::new();
        for chunk in numbers.chunks(CHUNK) {
            let mut gets = redis::pipe();
            chunk.iter().for_each(|number| _ = gets.get(format!("n:{number}")));
            let values: Vec<Option<u64>> = gets.query_async(&mut master).await?;
            let pairs = chunk.iter().zip(values);
            missing
                .extend(pairs.filter(|(number, value)| *value != Some(**number)).map(|(number, _)| *number));
        }
        Ok((numbers.len(), missing.len()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(acknowledged: &Acknowledged) -> MutexGuard<'_, Vec<(u64, Instant)>> {
    acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(sentinels: Vec<String>, acknowledged: Acknowledged) {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut connection, mut number) = (None, 0_u64);
    loop {
        ticks.tick().await;
        if connection.is_none() {
            connection = master(&sentinels).await.ok();
        }
        let Some(open) = connection.as_mut() else {
            tokio::time::sleep(ASK_AGAIN).await;
            continue;
        };
        number += 1;
        let mut set = redis::cmd("SET");
        set.arg(format!("n:{number}")).arg(number);
        match set.query_async::<()>(open).await {
            Ok(()) => lock(&acknowledged).push((number, Instant::now())),
            Err(_) => connection = None,
        }
    }
}

/// A connection to the master that the first sentinel names whose word holds.
async fn master(sentinels: &[String]) -> std::result::Result<MultiplexedConnection, String> {
    let mut last = "there is no sentinel".to_owned();
    for sentinel in sentinels {
        match named_by(sentinel).await {
            Ok(Some(connection)) => return Ok(connection),
            Ok(None) => last = format!("{sentinel} names nobody who says that it is the master"),
            Err(error) => last = format!("{sentinel}: {error}"),
        }
    }
    Err(last)
}

async fn named_by(sentinel: &str) -> redis::RedisResult<Option<MultiplexedConnection>> {
    let access = Access::default();
    let mut asked = access.connect(sentinel, ANSWER).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER);
    let Some((host, port)) = ask.query_async::<Option<(String, u16)>>(&mut asked).await? else {
        return Ok(None);
    };
    let mut named = access.connect(&format!("{host}:{port}"), ANSWER).await?;
    let role: redis::Value = redis::cmd("ROLE").query_async(&mut named).await?;
    let is_master = matches!(&role, redis::Value::Array(parts)
        if matches!(parts.first(), Some(redis::Value::BulkString(role)) if role == b"master"));
    Ok(is_master.then_some(named))
}
