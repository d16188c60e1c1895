//! Tells the world: the status, and an event for every step. It runs beside the engine, so that a slow API server never
//! delays a hand-over; of several statuses that wait, only the newest is told.

use std::future::Future;
use std::time::Duration;

use kv_core::plan::ClusterStatus;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::crd::Receipt;

/// How long to wait before a status is told again that could not be told.
const RETRY: Duration = Duration::from_secs(1);

/// Events that may wait; when a publisher is stuck for longer, the oldest state of things is no longer interesting.
const WAITING_EVENTS: usize = 256;

/// Something that happened, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The shard that it is about; `None` for the whole cluster.
    pub shard: Option<u16>,
    /// Whether something went wrong.
    pub warning: bool,
    /// One CamelCase word for programs.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// The receipt of the change of master that it is about.
    pub receipt: Option<Box<Receipt>>,
}

/// A status together with the generation of the spec that it speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusUpdate {
    /// Generation of the spec that was planned for.
    pub generation: i64,
    /// The status.
    pub status: ClusterStatus,
    /// Receipts of the last changes of master, the latest first.
    pub failovers: Vec<Receipt>,
}

/// Where status and events go. It is called for every pass: what is unchanged must cost nothing.
pub trait Publisher: Send + Sync + 'static {
    /// Why a status could not be told.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Tells the status.
    ///
    /// # Errors
    /// If it could not be told; it is called again with the newest status.
    fn status(&self, update: &StatusUpdate) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Tells an event. Events are a courtesy: one that cannot be told is lost.
    fn event(&self, event: Event) -> impl Future<Output = ()> + Send;
}

/// The engine's end of the publishing task; the task ends with it.
pub struct Reporter {
    statuses: watch::Sender<Option<StatusUpdate>>,
    events: mpsc::Sender<Event>,
    task: JoinHandle<()>,
}

impl Reporter {
    /// Starts the publishing task.
    pub fn start(publisher: impl Publisher) -> Self {
        let (statuses, status_rx) = watch::channel(None);
        let (events, event_rx) = mpsc::channel(WAITING_EVENTS);
        let task = tokio::spawn(publish(publisher, status_rx, event_rx));
        Self { statuses, events, task }
    }

    /// Tells the status, if it is another one.
    pub fn status(&self, update: StatusUpdate) {
        self.statuses.send_if_modified(|last| {
            let news = last.as_ref() != Some(&update);
            if news {
                *last = Some(update);
            }
            news
        });
    }

    /// Tells an event.
    pub fn event(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            tracing::warn!("an event was dropped: the publisher is stuck");
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn publish(
    publisher: impl Publisher,
    mut statuses: watch::Receiver<Option<StatusUpdate>>,
    mut events: mpsc::Receiver<Event>,
) {
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Some(event) => publisher.event(event).await,
                None => return,
            },
            changed = statuses.changed() => {
                if changed.is_err() {
                    return;
                }
                let update = statuses.borrow_and_update().clone();
                let Some(update) = update else { continue };
                if let Err(error) = publisher.status(&update).await {
                    tracing::warn!(%error, "the status could not be published, trying again");
                    statuses.mark_changed();
                    sleep(RETRY).await;
                }
            }
        }
    }
}
