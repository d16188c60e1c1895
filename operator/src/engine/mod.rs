//! The engine: observe, plan, apply, execute, publish; the same for every provider.
//!
//! Level-triggered and crash-only: each pass starts from what is seen now, and nothing here needs to survive. A pass
//! never waits for a node: what it starts runs beside it, at most one job for each shard, so that a node that hangs
//! holds up nothing but its own shard's next step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kv_core::control::Consent;
use kv_core::id::{ClusterUid, NodeId};
use kv_core::plan::{
    Action, ConditionKind, Observed, Plan, Problem, Reason, ShardObserved, ShardPlan, Step, Vote, WishEnd,
    plan, status,
};
use kv_core::spec::ClusterSpec;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::crd::{KvClusterStatus, ReceiptKind};
use crate::force::{self, Force};
use crate::provider::{Login, Provider, Sighting};

pub mod client;
mod config;
mod execute;
mod health;
mod hook;
mod jobs;
mod lost;
mod prober;
mod publish;
mod receipts;
mod resource;

use client::{ClientError, Request};
use health::Health;
pub use hook::{BadHook, Hook};
use jobs::{Done, Finished, Job, JobError, Jobs};
use lost::Lost;
use prober::NodeHandle;
pub use prober::Prober;
use publish::Reporter;
pub use publish::{Event, Publisher, StatusUpdate};
use receipts::{News, Receipts};
pub use resource::resource_status;

/// A pass is made at least this often, whatever happens.
const TICK: Duration = Duration::from_secs(5);

/// How long to wait after the provider could not be asked.
const BLIND: Duration = Duration::from_secs(1);

/// A node that has been silent for this long is waited for until it counts as down.
const SILENT_MS: u64 = 400;

/// A step that was taken so often in a row, and changed nothing, is slowed down.
const REPEATS: u32 = 3;

/// How much it is slowed down.
const SLOW_DOWN: Duration = Duration::from_millis(100);

/// How long one round of hasty probes may take.
const HASTY: Duration = Duration::from_millis(100);

/// The reason of the event that an old master has returned, and told what it discarded.
pub const MASTER_RETURNED: &str = "MasterReturned";

/// Whose engine it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub uid: ClusterUid,
    /// The cluster's name.
    pub name: String,
    /// Password of the user that may run control commands.
    pub control_password: String,
}

/// What is wanted of the cluster at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The spec: the last valid one.
    pub spec: ClusterSpec,
    /// Its generation.
    pub generation: i64,
    /// What is wrong with the object, if its newest spec is not valid.
    pub problems: Vec<Problem>,
    /// Names of the nodes that a user wants to lead, by shard.
    pub wishes: BTreeMap<u16, String>,
    /// Whether shards may go on without a quorum.
    pub force: Force,
}

/// Keeps one cluster as it is wanted. Dropping it (or the future of [`Engine::run`]) stops it at once; nothing is lost.
pub struct Engine<P: Provider + 'static> {
    identity: Identity,
    provider: Arc<P>,
    wake: Arc<Notify>,
    prober: Prober,
    jobs: Jobs<P::Error>,
    reporter: Reporter,
    /// What failed last, until the same thing succeeds.
    failures: BTreeMap<Job, String>,
    /// The last step of each shard, and how often it was taken in a row.
    steps: BTreeMap<u16, (Action, u32)>,
    /// What the conditions remember of the shards.
    health: Health,
    /// Since when each shard has been without a quorum, and since when it may go on without one.
    lost: Lost,
    /// Receipts of changes of master.
    receipts: Receipts,
    /// What the last pass said of each condition, to tell changes.
    conditions: BTreeMap<ConditionKind, bool>,
    /// What was told of directives without effect.
    idle: config::Idle,
    /// How to log in at the source that is followed, and the name of its Secret.
    login: Option<(String, Login)>,
    /// Whether the workloads that are being applied may be outdated.
    apply_again: bool,
    /// When what could not be applied is to be tried again.
    retry_apply: Option<Instant>,
    /// Whether no node was asked yet.
    knows_nothing: bool,
    /// When the engine was made.
    started: Instant,
}

impl<P: Provider + 'static> Engine<P> {
    /// An engine that has not seen anything yet. `wake` makes it look again at once: the provider notifies it when
    /// something changed. `before` is the status that the last one left, if it did.
    pub fn new(
        identity: Identity,
        provider: Arc<P>,
        publisher: impl Publisher,
        wake: Arc<Notify>,
        before: Option<&KvClusterStatus>,
    ) -> Self {
        let prober = Prober::new(identity.uid.clone(), identity.control_password.clone(), Arc::clone(&wake));
        Self {
            identity,
            provider,
            wake,
            prober,
            jobs: Jobs::new(),
            reporter: Reporter::start(publisher),
            failures: BTreeMap::new(),
            steps: BTreeMap::new(),
            health: Health::default(),
            lost: Lost::default(),
            receipts: Receipts::of(before),
            conditions: BTreeMap::new(),
            idle: config::Idle::default(),
            login: None,
            apply_again: false,
            retry_apply: None,
            knows_nothing: true,
            started: Instant::now(),
        }
    }

    /// Works until `wanted` has no sender any more, or the future is dropped.
    pub async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let now = wanted.borrow_and_update().clone();
            let next = self.pass(&now).await;
            let mut look = false;
            while !look {
                look = tokio::select! {
                    () = self.wake.notified() => true,
                    Some(finished) = self.jobs.next() => self.take(finished),
                    changed = wanted.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        true
                    }
                    () = sleep_until(next) => true,
                };
            }
            while let Some(finished) = self.jobs.try_next() {
                self.take(finished);
            }
        }
    }

    /// One pass. Returns when to make the next one if nothing happens before.
    async fn pass(&mut self, wanted: &Wanted) -> Instant {
        let sighting = match self.provider.sight().await {
            Ok(sighting) => sighting,
            Err(error) => {
                tracing::warn!(cluster = %self.identity.name, %error, "the provider cannot be asked");
                return Instant::now() + BLIND;
            }
        };
        self.prober.follow(&sighting.nodes);
        if std::mem::take(&mut self.knows_nothing) {
            // Else the first status of an operator that takes over would be that nobody answers.
            execute::probe_all(self.prober.handles(), client::REPORT_TIMEOUT).await;
        }
        let mut observed = observe(&self.identity, &sighting, &self.prober);
        self.note_bounds(&wanted.spec, &sighting.votes, &mut observed);
        for shard in &mut observed.shards {
            shard.wish = wanted.wishes.get(&shard.index).cloned();
            shard.forced = wanted.force.epoch(shard.index);
        }
        let plan = plan(&wanted.spec, &observed);
        self.grant(&plan);
        for shard in &plan.shards {
            tracing::debug!(shard = shard.index, step = ?shard.step, "planned");
        }
        self.start_apply(&plan);
        self.start_steps(&plan, &observed);
        self.start_maps(&plan);
        self.start_configs(&wanted.spec, &plan, &observed);
        if let Some(text) = self.idle.news(&wanted.spec.config) {
            self.tell(None, true, "DirectivesWithoutEffect", text);
        }
        self.end_wishes(wanted, &plan);
        self.use_force(wanted, &plan);
        self.keep_receipts(&observed, &plan);
        self.report(wanted, &observed, &plan, sighting.problems);
        self.next_look(&wanted.spec, &observed, &plan)
    }

    /// For how long the word of this operator, and of one that may have been before it, binds it.
    fn note_bounds(&self, spec: &ClusterSpec, votes: &BTreeMap<u16, Vote>, observed: &mut Observed) {
        let lease = Duration::from_millis(spec.failover.lease_ms);
        let of_predecessor = lease.saturating_sub(self.started.elapsed());
        for shard in &mut observed.shards {
            shard.witness = votes.get(&shard.index).copied();
            let granted = self.prober.bound(shard.index, lease);
            let bound = granted.values().copied().fold(of_predecessor, Duration::max);
            shard.bound_ms = Some(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
            let only = granted.len() == 1 && of_predecessor == Duration::ZERO;
            shard.bound_to = granted.into_keys().next().filter(|_| only);
        }
    }

    /// Grants the masters that serve, and that nothing is planned against, their leases.
    fn grant(&self, plan: &Plan) {
        let stays = |step: &Step| match step {
            Step::Do(Action::Prepare { consent, .. }, _) => matches!(consent, Consent::Renewal(_)),
            _ => true,
        };
        let serves = |shard: &&ShardPlan| shard.serving || shard.follows;
        let serving = plan.shards.iter().filter(serves).filter(|shard| stays(&shard.step));
        let configs = serving.filter_map(|shard| shard.config.as_ref());
        self.prober.grant(&configs.map(|config| (config.master, config.epoch)).collect());
    }

    fn start_apply(&mut self, plan: &Plan) {
        self.apply_again = self.jobs.is_running(Job::Apply);
        let (provider, workloads) = (Arc::clone(&self.provider), plan.workloads.clone());
        self.jobs.start(Job::Apply, async move {
            let applied = provider.apply(&workloads).await;
            let failures = applied.failures.iter().map(ToString::to_string).collect();
            Ok(Done::Applied { changes: applied.changes, failures, retry: applied.retry.map(Instant::from) })
        });
    }

    /// Takes the next step of every shard that has none under way. While a master holds its clients' writes, its shard
    /// is probed as fast as it answers: the hand-over goes on as soon as the successor has caught up.
    fn start_steps(&mut self, plan: &Plan, observed: &Observed) {
        for shard in &plan.shards {
            let job = Job::Shard(shard.index);
            if let Step::Do(action, reason) = &shard.step {
                let (action, reason, index) = (action.clone(), reason.clone(), shard.index);
                let handles = execute::handles(&action, &self.prober);
                let provider = Arc::clone(&self.provider);
                let vote = vote(shard, &action);
                self.jobs.start(job, async move {
                    match execute::execute(&action, index, vote, &handles, &*provider).await {
                        Ok(()) => Ok(Done::Stepped(Box::new(action), reason)),
                        Err(error) => Err(JobError::Step { reason, error }),
                    }
                });
            } else if matches!(&shard.step, Step::Wait(reason) if reason.is_pressing()) {
                let nodes = self.answering(shard.index, observed);
                self.jobs.start(job, async move {
                    execute::probe_all(nodes, HASTY).await;
                    Ok(Done::Told)
                });
            }
        }
    }

    /// The nodes of a shard that answered a moment ago.
    fn answering(&self, index: u16, observed: &Observed) -> Vec<NodeHandle> {
        let shard = observed.shards.iter().filter(|shard| shard.index == index);
        let nodes = shard.flat_map(|shard| &shard.nodes).filter(|node| node.silent_ms < SILENT_MS);
        nodes.filter_map(|node| self.prober.node(node.report.as_ref()?.id)).collect()
    }

    /// Uses up the permission to go on without a quorum, for the shards that have been without one for a while; forgets what
    /// it was used for when it is withdrawn.
    fn use_force(&mut self, wanted: &Wanted, plan: &Plan) {
        let decision = match (self.lost.look(&wanted.force, plan, Instant::now()), &wanted.force) {
            (Some(shards), _) => Some(shards),
            (None, Force::Withdrawn) => None,
            _ => return,
        };
        let provider = Arc::clone(&self.provider);
        let text = decision.as_ref().map(force::write);
        let work = async move {
            provider.keep_force(text.as_deref()).await.map_err(JobError::Provider)?;
            Ok(Done::Granted)
        };
        if !self.jobs.start(Job::Force, work) {
            return;
        }
        if let Some(shards) = decision {
            let named: Vec<_> = shards.keys().map(ToString::to_string).collect();
            let what = match named.is_empty() {
                true => "no shard has been without a quorum for long enough to need it".to_owned(),
                false => format!("shards {} go on without the nodes that do not answer", named.join(", ")),
            };
            let text = format!(
                "spec.failover.onQuorumLoss ForceWithPossibleDataLoss is used up: {what}; set it to Abort"
            );
            self.tell(None, true, "ForceUsed", text);
        }
    }

    /// Keeps receipts of changes of master, and tells of each when it is over, and when its old master has returned.
    fn keep_receipts(&mut self, observed: &Observed, plan: &Plan) {
        let now = Timestamp::now();
        let served = |name: &str| {
            let ago = self.prober.served(name)?.elapsed();
            now.checked_sub(ago).ok()
        };
        for news in self.receipts.look(observed, plan, served, now) {
            let (receipt, warning, reason, message) = match news {
                News::Changed(receipt) => {
                    let warning = receipt.kind != ReceiptKind::Planned;
                    let reason = if warning { "FailedOver" } else { "HandedOver" };
                    let message = receipt.to_string();
                    (receipt, warning, reason, message)
                }
                News::Returned(receipt) => {
                    let bytes = receipt.discarded_bytes.unwrap_or_default();
                    let message = format!(
                        "{} has returned, and discarded {bytes} bytes that {} had never got",
                        receipt.from, receipt.to
                    );
                    (receipt, bytes > 0, MASTER_RETURNED, message)
                }
            };
            let shard = Some(receipt.shard);
            tracing::info!(cluster = %self.identity.name, shard, warning, reason, "{message}");
            let receipt = Some(Box::new(receipt));
            self.reporter.event(Event { shard, warning, reason: reason.to_owned(), message, receipt });
        }
    }

    /// Takes away the wishes that have ended, and tells how.
    fn end_wishes(&mut self, wanted: &Wanted, plan: &Plan) {
        // One that is not there any more was taken away, even if the answer was lost.
        let ends = |index: u16| plan.shards.iter().any(|shard| shard.index == index && shard.wish.is_some());
        self.failures.retain(|job, _| !matches!(job, Job::Wish(index) if !ends(*index)));
        for shard in &plan.shards {
            let index = shard.index;
            let Some((end, node)) = shard.wish.zip(wanted.wishes.get(&index).cloned()) else { continue };
            let provider = Arc::clone(&self.provider);
            let name = node.clone();
            let work = async move {
                provider.end_wish(index, &node).await.map_err(JobError::Provider)?;
                Ok(Done::Granted)
            };
            if !self.jobs.start(Job::Wish(index), work) {
                continue;
            }
            match end {
                WishEnd::Fulfilled => {
                    self.tell(
                        Some(index),
                        false,
                        "SwitchedOver",
                        format!("{name} leads, as it was asked to"),
                    );
                }
                WishEnd::NoMember => {
                    let text = format!("{name} was asked to lead, and the shard has no such node");
                    self.tell(Some(index), true, "SwitchoverRefused", text);
                }
            }
        }
    }

    fn start_maps(&mut self, plan: &Plan) {
        // A node that knows the map was told, even if its answer was lost.
        self.failures.retain(|job, _| !matches!(job, Job::Map(id) if !plan.map_targets.contains(id)));
        for id in &plan.map_targets {
            if let Some(node) = self.prober.node(*id) {
                let request = Request::Map(plan.map.clone());
                self.jobs.start(Job::Map(*id), tell(node, request));
            }
        }
    }

    /// Looks up from time to time how to log in at the source, as long as one is followed. False if that is not known yet.
    fn start_login(&mut self, spec: &ClusterSpec, plan: &Plan) -> bool {
        let followed = plan.shards.iter().filter_map(|shard| shard.config.as_ref()?.source.as_ref());
        let to_be = spec.source.iter().filter(|_| plan.shards.iter().any(|shard| shard.config.is_none()));
        let Some(secret) = followed.chain(to_be).find_map(|source| source.secret.clone()) else {
            self.login = None;
            self.failures.remove(&Job::Login);
            return true;
        };
        let known = self.login.as_ref().is_some_and(|(of, _)| *of == secret);
        let provider = Arc::clone(&self.provider);
        self.jobs.start(Job::Login, async move {
            let login = provider.login(&secret).await.map_err(JobError::Provider)?;
            Ok(Done::Login(secret, login))
        });
        known
    }

    fn start_configs(&mut self, spec: &ClusterSpec, plan: &Plan, observed: &Observed) {
        if !self.start_login(spec, plan) {
            return;
        }
        let wanted = config::live(&spec.config, self.login.as_ref().map(|(_, login)| login));
        let nodes =
            observed.shards.iter().flat_map(|shard| &shard.nodes).filter(|node| node.silent_ms < SILENT_MS);
        let targets: Vec<NodeId> = nodes
            .filter_map(|node| node.report.as_ref())
            .filter(|report| report.config_digest != wanted.digest)
            .map(|report| report.id)
            .collect();
        // As with the map.
        self.failures.retain(|job, _| !matches!(job, Job::Config(id) if !targets.contains(id)));
        for id in targets {
            if let Some(node) = self.prober.node(id) {
                self.jobs.start(Job::Config(id), tell(node, Request::Config(wanted.text.clone())));
            }
        }
    }

    /// Takes in the end of a job; true if the engine should look again.
    fn take(&mut self, (job, outcome): Finished<P::Error>) -> bool {
        match outcome {
            Ok(done) => {
                if !matches!(done, Done::Applied { .. }) {
                    self.failures.remove(&job);
                }
                match done {
                    Done::Applied { changes, failures, retry } => {
                        let changed = !changes.is_empty();
                        self.retry_apply = retry;
                        self.note_failures(job, &failures);
                        for change in changes {
                            self.tell(None, false, "Applied", change);
                        }
                        changed || self.apply_again
                    }
                    Done::Stepped(action, reason) => {
                        self.stepped(job, &action, &reason);
                        true
                    }
                    Done::Granted => false,
                    Done::Login(secret, login) => {
                        let login = Some((secret, login));
                        std::mem::replace(&mut self.login, login.clone()) != login
                    }
                    Done::Told => matches!(job, Job::Shard(_)),
                }
            }
            // A node that is gone is told as such.
            Err(JobError::Node(ClientError::Unreachable { .. } | ClientError::Refused { .. })) => true,
            Err(error) => {
                self.note_failures(job, &[error.to_string()]);
                true
            }
        }
    }

    /// Keeps for the conditions what a job could not do, and tells it if it is news.
    fn note_failures(&mut self, job: Job, failures: &[String]) {
        const SHOWN: usize = 3;
        let mut shown: Vec<_> = failures.iter().take(SHOWN).cloned().collect();
        if failures.len() > SHOWN {
            shown.push(format!("and {} more", failures.len() - SHOWN));
        }
        let text = shown.join("; ");
        if text.is_empty() {
            self.failures.remove(&job);
        } else if self.failures.insert(job, text.clone()).as_ref() != Some(&text) {
            self.tell(job.shard(), true, job.failure_reason(), text);
        }
    }

    /// An event for a step that was taken. The same step again and again is slowed down, and told once.
    fn stepped(&mut self, job: Job, action: &Action, reason: &Reason) {
        let Job::Shard(shard) = job else { return };
        let (last, times) = self.steps.entry(shard).or_insert_with(|| (action.clone(), 0));
        if last == action {
            *times += 1;
        } else {
            (*last, *times) = (action.clone(), 1);
        }
        let times = *times;
        if times > REPEATS {
            self.jobs.pause(job, SLOW_DOWN);
        }
        if times == 1 && !reason.is_detail() {
            self.tell(Some(shard), reason.is_warning(), reason.code(), reason.to_string());
        }
    }

    fn tell(&self, shard: Option<u16>, warning: bool, reason: &str, message: String) {
        tracing::info!(cluster = %self.identity.name, shard, warning, reason, "{message}");
        self.reporter.event(Event { shard, warning, reason: reason.to_owned(), message, receipt: None });
    }

    /// Tells the status, and an event for each condition that changed since the last pass.
    fn report(&mut self, wanted: &Wanted, observed: &Observed, plan: &Plan, problems: Vec<Problem>) {
        let mut all = wanted.problems.clone();
        all.extend(problems);
        let failed = self.failures.iter().filter(|(job, _)| !matches!(job, Job::Shard(_)));
        all.extend(
            failed.map(|(job, text)| Problem { reason: job.failure_reason().into(), message: text.clone() }),
        );
        let memory = self.health.note(&wanted.spec, plan, Instant::now());
        let status = status(&wanted.spec, observed, plan, memory, &all);
        for condition in
            status.conditions.iter().filter(|condition| condition.kind != ConditionKind::Progressing)
        {
            let before = self.conditions.insert(condition.kind, condition.status);
            if before.is_some_and(|before| before != condition.status) {
                let (warning, reason) = match (condition.kind, condition.status) {
                    (ConditionKind::Degraded, true) => (true, "Degraded"),
                    (ConditionKind::Degraded, false) => (false, "Recovered"),
                    (ConditionKind::UpToDate, true) => (false, "UpToDate"),
                    (ConditionKind::UpToDate, false) => (false, "OutdatedNodes"),
                    (ConditionKind::Adopting, _) => continue,
                    (ConditionKind::Durable, true) => (false, "Durable"),
                    (ConditionKind::Durable, false) => (true, "NotDurable"),
                    (ConditionKind::Rebalancing, true) => (false, "Rebalancing"),
                    (ConditionKind::Rebalancing, false) => (false, "Rebalanced"),
                    (_, true) => (false, "Ready"),
                    (_, false) => (false, "NotReady"),
                };
                self.tell(None, warning, reason, condition.message.clone());
            }
        }
        let failovers = self.receipts.list().to_vec();
        self.reporter.status(StatusUpdate { generation: wanted.generation, status, failovers });
    }

    /// When to look again if nothing happens: at the latest when a silent node begins to count as down, a shard as degraded,
    /// or the operator is free to vote for another master.
    fn next_look(&self, spec: &ClusterSpec, observed: &Observed, plan: &Plan) -> Instant {
        let now = Instant::now();
        let silent = observed.shards.iter().flat_map(|shard| &shard.nodes).map(|node| node.silent_ms);
        let until_down = silent
            .filter(|silent| (SILENT_MS..spec.failover.down_after_ms).contains(silent))
            .map(|silent| now + Duration::from_millis(spec.failover.down_after_ms - silent + 1));
        let down: Vec<_> =
            plan.shards.iter().filter(|shard| !shard.serving).map(|shard| shard.index).collect();
        let bound = observed.shards.iter().filter(|shard| down.contains(&shard.index));
        let bound = bound.filter_map(|shard| shard.bound_ms).filter(|&bound| bound > 0);
        let until_free = bound.map(|bound| now + Duration::from_millis(bound + 1));
        let retry = self.retry_apply.filter(|at| *at > now);
        let retries = retry.into_iter().chain(self.jobs.next_retry());
        let changes = until_down.chain(until_free).chain(self.health.next_change());
        changes.chain(retries).fold(now + TICK, Instant::min)
    }
}

/// The vote that a step needs, which is to be kept first.
fn vote(shard: &ShardPlan, action: &Action) -> Option<Vote> {
    let Action::Accept { config, .. } = action else { return None };
    shard.needs_vote.then_some(Vote { epoch: config.epoch, master: config.master })
}

/// What was seen, in the form that plans are made from.
#[must_use]
pub fn observe(identity: &Identity, sighting: &Sighting, prober: &Prober) -> Observed {
    let nodes = sighting.nodes.iter().map(|node| node.shard);
    let indexes: BTreeSet<u16> =
        sighting.workloads.iter().map(|workload| workload.shard).chain(nodes).collect();
    let shards = indexes
        .into_iter()
        .map(|index| {
            let mut nodes: Vec<_> = sighting
                .nodes
                .iter()
                .filter(|node| node.shard == index)
                .map(|node| prober.observe(node))
                .collect();
            nodes.sort_by_key(|node| node.ordinal);
            let workload = sighting.workloads.iter().find(|workload| workload.shard == index);
            let workload_nodes = workload.map(|workload| workload.nodes);
            ShardObserved {
                index,
                workload_nodes,
                nodes,
                bound_ms: Some(0),
                bound_to: None,
                witness: None,
                wish: None,
                forced: None,
            }
        })
        .collect();
    Observed { uid: identity.uid.clone(), name: identity.name.clone(), shards }
}

/// Looks once, without an engine: every node is asked for its report and gets half a second to answer.
pub async fn look(identity: &Identity, sighting: &Sighting) -> Observed {
    let mut prober =
        Prober::new(identity.uid.clone(), identity.control_password.clone(), Arc::new(Notify::new()));
    prober.follow(&sighting.nodes);
    execute::probe_all(prober.handles(), client::REPORT_TIMEOUT).await;
    observe(identity, sighting, &prober)
}

async fn tell<E: std::error::Error>(node: NodeHandle, request: Request) -> Result<Done, JobError<E>> {
    node.call(&request).await?;
    Ok(Done::Told)
}
