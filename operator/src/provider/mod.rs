//! Where a cluster runs. The engine decides and talks to nodes; a provider makes nodes exist and says what it sees.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Instant;

use kv_core::plan::{Presence, Problem, Template, Vote, Workload};
use kv_core::shard::NodeAddress;

pub mod kubernetes;
pub mod local;

/// A place where nodes can run, bound to one cluster.
pub trait Provider: Send + Sync {
    /// What went wrong, naming the object that failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What is there now, without asking any node.
    ///
    /// # Errors
    /// If the provider cannot be asked.
    fn sight(&self) -> impl Future<Output = Result<Sighting, Self::Error>> + Send;

    /// Makes the workloads what is wanted, and deletes those of other shards. Writes nothing where nothing differs. What
    /// cannot be written holds up nothing else, and a later call goes on with it.
    fn apply(&self, wanted: &[Workload]) -> impl Future<Output = Applied<Self::Error>> + Send;

    /// Keeps the operator's vote in a shard, before anybody acts on it. Later sightings have it.
    ///
    /// # Errors
    /// If it cannot be kept, or another operator has voted under this epoch or a newer one.
    fn vote(&self, shard: u16, vote: Vote) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes away the user's wish that `node` leads the shard: it has come true, or cannot. One that came after it stays.
    ///
    /// # Errors
    /// If it cannot be taken away.
    fn end_wish(&self, shard: u16, node: &str) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// User and password of a server that a shard follows (`spec.source.secretRef`).
    ///
    /// # Errors
    /// If they are not there.
    fn login(&self, secret: &str) -> impl Future<Output = Result<Login, Self::Error>> + Send;

    /// Keeps what the permission to go on without a quorum was used for ([`crate::force`]), unless something is kept already;
    /// without a text forgets it.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn keep_force(&self, text: Option<&str>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Starts a node anew, from what is wanted now. It keeps its volume. Does nothing if the node is of another template
    /// than `seen` by now (one that was stuck has become ready), or is another one.
    ///
    /// # Errors
    /// If the provider refuses.
    fn replace(&self, node: &str, seen: Template) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user; `None` for the default user.
    pub username: Option<String>,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What applying came to.
#[derive(Debug)]
pub struct Applied<E> {
    /// One line for each change that was made.
    pub changes: Vec<String>,
    /// Why objects are not as they should be; each names its object.
    pub failures: Vec<E>,
    /// When something that failed is to be tried again.
    pub retry: Option<Instant>,
}

impl<E> Default for Applied<E> {
    fn default() -> Self {
        Self { changes: Vec::new(), failures: Vec::new(), retry: None }
    }
}

/// What a provider sees of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The workloads that exist.
    pub workloads: Vec<Workload>,
    /// The nodes that exist.
    pub nodes: Vec<SightedNode>,
    /// What the operator has voted for last in each shard.
    pub votes: BTreeMap<u16, Vote>,
    /// What users should know besides.
    pub problems: Vec<Problem>,
}

/// What a provider sees of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SightedNode {
    /// Its name, `NAME-SHARD-ORDINAL`.
    pub name: String,
    /// Index of its shard.
    pub shard: u16,
    /// Its number within the shard.
    pub ordinal: u16,
    /// Whether its process runs.
    pub presence: Presence,
    /// Tells one life of the node from the next (pod UID and restart count, or process id).
    pub incarnation: String,
    /// Where it can be reached, if known.
    pub address: Option<NodeAddress>,
    /// Whether it was started from what is wanted now.
    pub template: Template,
    /// The zone of its machine, if known.
    pub zone: Option<String>,
    /// Whether its machine is to be emptied.
    pub draining: bool,
}
