//! A writer over all slots through the cluster client of the `redis` crate, as an application would use it: with its
//! own redirections and retries. Each key is used once, for a repeated SET of a unique value changes nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;

use super::book::{Attempt, Book, Outcome};
use super::lane::{Shared, code, enter};
use super::route::Access;

/// A connection to the whole cluster, with the library's defaults but for time limits.
///
/// # Errors
/// If no seed can be asked for the slots.
pub async fn connect(access: &Access) -> redis::RedisResult<ClusterConnection> {
    let urls: Vec<String> = access.seeds.iter().map(|seed| format!("redis://{seed}")).collect();
    let mut builder = ClusterClient::builder(urls)
        .connection_timeout(Duration::from_secs(1))
        .response_timeout(Duration::from_secs(2));
    if let Some(password) = &access.password {
        builder = builder.password(password);
    }
    builder.build()?.get_async_connection().await
}

/// Writes until told to stop.
pub async fn run(book: Arc<Mutex<Book>>, mut connection: ClusterConnection, shared: Shared) {
    let mut ticks = shared.ticks();
    let mut seq = 0;
    while !*shared.stop.borrow() {
        ticks.tick().await;
        let (key, value) = {
            let book = book.lock().unwrap_or_else(PoisonError::into_inner);
            (book.key(seq), book.value(seq))
        };
        let began_us = shared.clock.now_us();
        let reply = redis::cmd("SET").arg(&key).arg(&value).query_async::<()>(&mut connection).await;
        let (outcome, error) = match reply {
            Ok(()) => (Outcome::Acked, None),
            // An earlier try of the same write may have been carried out without an answer: the library does not tell.
            Err(error) => (Outcome::Unknown, Some(code(&error))),
        };
        enter(&book, Attempt { began_us, ended_us: shared.clock.now_us(), outcome }, error);
        seq += 1;
    }
}
