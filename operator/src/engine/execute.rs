//! Carries out actions: the only place from which nodes are asked to change, or replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kv_core::id::NodeId;
use kv_core::plan::{Action, Vote};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{ClientError, Request};
use super::prober::{NodeHandle, Prober};
use crate::provider::Provider;

/// Once enough nodes have answered, the others get this long; a hung one must not hold up a failover.
const GRACE: Duration = Duration::from_millis(200);

/// Why an action was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError<E: std::error::Error> {
    /// A node refused, or did not answer.
    #[error(transparent)]
    Node(#[from] ClientError),
    /// A node of the action cannot be reached any more; the next pass plans without it.
    #[error("node {0} is gone")]
    Gone(NodeId),
    /// The provider refused.
    #[error("{0}")]
    Provider(#[source] E),
}

/// Handles of all nodes that an action speaks to.
pub type Handles = BTreeMap<NodeId, NodeHandle>;

/// Looks up the nodes of an action.
#[must_use]
pub fn handles(action: &Action, prober: &Prober) -> Handles {
    let ids: Vec<NodeId> = match action {
        Action::Prepare { nodes, .. } => nodes.clone(),
        Action::Accept { first, then, .. } => std::iter::once(*first).chain(then.iter().copied()).collect(),
        Action::Pause { master, .. }
        | Action::CutOver { master, .. }
        | Action::Import { master, .. }
        | Action::Hold { master, .. } => vec![*master],
        Action::Replace { .. } => Vec::new(),
    };
    ids.into_iter().filter_map(|id| Some((id, prober.node(id)?))).collect()
}

/// Carries out an action on the nodes of a shard, after `vote` was kept. Every answer is in the prober's cache when it returns.
///
/// # Errors
/// If the node on which the action hinges did not do it. That others did not is seen by the next pass.
pub async fn execute<P: Provider>(
    action: &Action,
    shard: u16,
    vote: Option<Vote>,
    handles: &Handles,
    provider: &P,
) -> Result<(), ExecuteError<P::Error>> {
    if let Some(vote) = vote {
        provider.vote(shard, vote).await.map_err(ExecuteError::Provider)?;
    }
    match action {
        Action::Prepare { epoch, nodes, consent } => {
            let majority = nodes.len() / 2 + 1;
            let request = Request::Prepare { shard, epoch: *epoch, consent: *consent };
            call_all(nodes, handles, &request, majority).await
        }
        Action::Accept { config, first, then } => {
            let request = Request::Accept(config.clone());
            one(*first, handles)?.call(&request).await?;
            // Who does not take it now is told again by a later pass.
            let _ = call_all::<P::Error>(then, handles, &request, 0).await;
            Ok(())
        }
        Action::Pause { master, epoch, milliseconds, .. } => {
            let request = Request::Pause { shard, epoch: *epoch, milliseconds: *milliseconds };
            one(*master, handles)?.call(&request).await?;
            Ok(())
        }
        Action::CutOver { master, epoch } => {
            one(*master, handles)?.call(&Request::CutOver { shard, epoch: *epoch }).await?;
            Ok(())
        }
        Action::Import { master, epoch, from, slots } => {
            let request = Request::Import { shard, epoch: *epoch, from: *from, slots: slots.clone() };
            one(*master, handles)?.call(&request).await?;
            Ok(())
        }
        Action::Hold { master, epoch, to, slots, milliseconds } => {
            let request = Request::Hold {
                shard,
                epoch: *epoch,
                to: *to,
                slots: slots.clone(),
                milliseconds: *milliseconds,
            };
            one(*master, handles)?.call(&request).await?;
            Ok(())
        }
        Action::Replace { node, template } => {
            provider.replace(node, *template).await.map_err(ExecuteError::Provider)
        }
    }
}

/// Asks all these nodes for a report, once and now.
pub async fn probe_all(nodes: Vec<NodeHandle>, limit: Duration) {
    let round: FuturesUnordered<_> = nodes.iter().map(|node| node.call(&Request::Report)).collect();
    // Who is slow is asked by the prober too.
    let _ = timeout(limit, round.count()).await;
}

fn one<E: std::error::Error>(id: NodeId, handles: &Handles) -> Result<&NodeHandle, ExecuteError<E>> {
    handles.get(&id).ok_or(ExecuteError::Gone(id))
}

/// Sends a request to all nodes at once. When `enough` have done it, the others get [`GRACE`].
async fn call_all<E: std::error::Error>(
    nodes: &[NodeId],
    handles: &Handles,
    request: &Request,
    enough: usize,
) -> Result<(), ExecuteError<E>> {
    let mut calls: FuturesUnordered<_> = nodes
        .iter()
        .map(|id| async move { Ok::<_, ExecuteError<E>>(one(*id, handles)?.call(request).await?) })
        .collect();
    let mut done = 0;
    let mut failure = None;
    let mut deadline = (enough == 0).then(|| Instant::now() + GRACE);
    loop {
        let next = match deadline {
            None => calls.next().await,
            Some(deadline) => match timeout_at(deadline, calls.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            },
        };
        match next {
            Some(Ok(_)) => done += 1,
            Some(Err(error)) => failure = Some(error),
            None => break,
        }
        if done >= enough && deadline.is_none() {
            deadline = Some(Instant::now() + GRACE);
        }
    }
    match failure {
        Some(error) if done < enough => Err(error),
        _ => Ok(()),
    }
}
