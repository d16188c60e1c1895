//! What the engine has under way: at most one job of each kind and target at a time, and a pause after a failed one.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::time::Duration;

use kv_core::id::NodeId;
use kv_core::plan::{Action, Reason};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::client::ClientError;
use super::execute::ExecuteError;
use crate::provider::Login;

/// Something that the engine does beside its passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Make the workloads what is wanted.
    Apply,
    /// The next step of a shard, or a round of hasty probes during its hand-over.
    Shard(u16),
    /// Tell a node the cluster map.
    Map(NodeId),
    /// Tell a node its live directives.
    Config(NodeId),
    /// Take away a wish that has ended.
    Wish(u16),
    /// Look up how to log in at the source.
    Login,
    /// Keep what the permission to go on without a quorum was used for.
    Force,
}

impl Job {
    /// The shard that it is about.
    pub const fn shard(self) -> Option<u16> {
        match self {
            Self::Shard(shard) | Self::Wish(shard) => Some(shard),
            Self::Apply | Self::Map(_) | Self::Config(_) | Self::Login | Self::Force => None,
        }
    }

    /// One word for its failure.
    pub const fn failure_reason(self) -> &'static str {
        match self {
            Self::Apply => "ApplyFailed",
            Self::Shard(_) => "StepFailed",
            Self::Map(_) => "MapRefused",
            Self::Config(_) => "ConfigRefused",
            Self::Wish(_) => "WishNotEnded",
            Self::Login => "NoLogin",
            Self::Force => "ForceNotKept",
        }
    }

    /// How long to leave it alone after it failed.
    const fn pause_after_failure(self) -> Duration {
        match self {
            Self::Shard(_) => Duration::from_millis(200),
            Self::Apply | Self::Map(_) | Self::Config(_) | Self::Wish(_) | Self::Login | Self::Force => {
                Duration::from_secs(1)
            }
        }
    }

    /// How long to leave it alone after it went well; so that telling a node something that it does not take for what
    /// it was cannot keep the engine busy.
    const fn pause_after_success(self) -> Option<Duration> {
        match self {
            // So long does it take at most until it is seen that the wish is gone, or the permission used.
            Self::Wish(_) | Self::Force => Some(Duration::from_secs(1)),
            Self::Map(_) | Self::Config(_) => Some(Duration::from_millis(50)),
            // A changed Secret is not told.
            Self::Login => Some(Duration::from_secs(10)),
            Self::Shard(_) | Self::Apply => None,
        }
    }
}

/// What a job that went well has done.
#[derive(Debug)]
pub enum Done {
    /// Workloads were applied.
    Applied {
        /// A line for each change.
        changes: Vec<String>,
        /// What could not be applied, in words.
        failures: Vec<String>,
        /// When that is to be tried again.
        retry: Option<Instant>,
    },
    /// A step was taken.
    Stepped(Box<Action>, Reason),
    /// A wish was taken away.
    Granted,
    /// This is how to log in at the source whose Secret is named so.
    Login(String, Login),
    /// A node or a shard was asked or told; what it answered is in the prober's cache.
    Told,
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError<E: std::error::Error> {
    /// A step could not be taken.
    #[error("{reason}: {error}")]
    Step {
        /// Why it was to be taken.
        reason: Reason,
        /// What went wrong.
        #[source]
        error: ExecuteError<E>,
    },
    /// A node could not be told.
    #[error(transparent)]
    Node(#[from] ClientError),
    /// The provider refused.
    #[error("{0}")]
    Provider(#[source] E),
    /// The job broke off by a bug.
    #[error("internal error: {0}")]
    Broken(tokio::task::JoinError),
}

/// A job that ended.
pub type Finished<E> = (Job, Result<Done, JobError<E>>);

/// The jobs under way.
pub struct Jobs<E: std::error::Error> {
    tasks: JoinSet<Result<Done, JobError<E>>>,
    running: HashMap<Id, Job>,
    not_before: BTreeMap<Job, Instant>,
}

impl<E: std::error::Error + Send + Sync + 'static> Jobs<E> {
    /// No jobs.
    pub fn new() -> Self {
        Self { tasks: JoinSet::new(), running: HashMap::new(), not_before: BTreeMap::new() }
    }

    fn may_start(&self, job: Job) -> bool {
        !self.is_running(job) && self.not_before.get(&job).is_none_or(|time| *time <= Instant::now())
    }

    /// Starts a job, unless it is under way or failed a moment ago. Returns whether it did.
    pub fn start(
        &mut self,
        job: Job,
        work: impl Future<Output = Result<Done, JobError<E>>> + Send + 'static,
    ) -> bool {
        let may = self.may_start(job);
        if may {
            self.running.insert(self.tasks.spawn(work).id(), job);
        }
        may
    }

    /// Waits until a job ends; `None` if there is none.
    pub async fn next(&mut self) -> Option<Finished<E>> {
        let ended = self.tasks.join_next_with_id().await?;
        self.finish(ended)
    }

    /// A job that has ended by now.
    pub fn try_next(&mut self) -> Option<Finished<E>> {
        let ended = self.tasks.try_join_next_with_id()?;
        self.finish(ended)
    }

    /// Leaves a job alone for a while.
    pub fn pause(&mut self, job: Job, pause: Duration) {
        self.not_before.insert(job, Instant::now() + pause);
    }

    /// Whether the job is under way.
    pub fn is_running(&self, job: Job) -> bool {
        self.running.values().any(|running| *running == job)
    }

    /// When the next of the failed jobs may be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        let now = Instant::now();
        self.not_before.values().filter(|time| **time > now).min().copied()
    }

    fn finish(
        &mut self,
        ended: Result<(Id, Result<Done, JobError<E>>), tokio::task::JoinError>,
    ) -> Option<Finished<E>> {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(JobError::Broken(error))),
        };
        let job = self.running.remove(&id)?;
        let now = Instant::now();
        self.not_before.retain(|other, time| *other != job && *time > now);
        let pause =
            if outcome.is_err() { Some(job.pause_after_failure()) } else { job.pause_after_success() };
        if let Some(pause) = pause {
            self.pause(job, pause);
        }
        Some((job, outcome))
    }
}
