//! The operator's votes in the elections of shards that have an even number of nodes. Each is kept in an annotation of the
//! shard's StatefulSet, by optimistic concurrency, so that the next operator knows of it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use kv_core::plan::Vote;
use serde_json::json;
use tokio::sync::Mutex;

use super::build::Cluster;
use super::{apply, names};

/// The annotation.
const VOTE: &str = "kvcluster.io/witness-vote";

/// How often a vote is tried again that another write to the same object came before.
const TRIES: usize = 5;

/// Why a vote was not kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WitnessError {
    /// The object.
    #[error(transparent)]
    Apply(#[from] apply::ApplyError),
    /// Another operator voted meanwhile.
    #[error("another operator has voted in shard {shard}, under epoch {}", .vote.epoch)]
    Outvoted {
        /// The shard.
        shard: u16,
        /// Its vote.
        vote: Vote,
    },
    /// Others write to the object again and again.
    #[error("the vote in shard {shard} could not be kept: StatefulSet {name} changes all the time")]
    Busy {
        /// The shard.
        shard: u16,
        /// The object.
        name: String,
    },
}

/// The votes, as they were kept last.
#[derive(Default)]
pub struct Witness {
    /// `None` until they were read.
    votes: Mutex<Option<BTreeMap<u16, Vote>>>,
}

impl Witness {
    /// All votes. They are read from the API server the first time.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn votes(
        &self,
        client: &Client,
        cluster: &Cluster,
    ) -> Result<BTreeMap<u16, Vote>, WitnessError> {
        let mut votes = self.votes.lock().await;
        if let Some(votes) = votes.as_ref() {
            return Ok(votes.clone());
        }
        let api: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
        let of_cluster = ListParams::default().labels(&format!("kvcluster.io/cluster={}", cluster.name));
        let sets = api.list(&of_cluster).await;
        let sets = sets.map_err(|source| apply::failed("list", "StatefulSet", &cluster.name, source))?;
        let kept =
            |set: &StatefulSet| Some((names::shard_of_set(&cluster.name, &set.name_any())?, vote_of(set)?));
        let found: BTreeMap<u16, Vote> = sets.iter().filter_map(kept).collect();
        *votes = Some(found.clone());
        Ok(found)
    }

    /// Keeps a vote.
    ///
    /// # Errors
    /// If it cannot be kept, or another operator has voted under this epoch or a newer one.
    pub async fn vote(
        &self,
        client: &Client,
        cluster: &Cluster,
        shard: u16,
        vote: Vote,
    ) -> Result<(), WitnessError> {
        let api: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
        let name = names::shard(&cluster.name, shard);
        let fail = |verb| {
            let name = name.clone();
            move |source| apply::failed(verb, "StatefulSet", &name, source)
        };
        for _ in 0..TRIES {
            let set = api.get(&name).await.map_err(fail("get"))?;
            match vote_of(&set) {
                Some(kept) if kept == vote => return Ok(()),
                Some(kept) if kept.epoch >= vote.epoch => {
                    return Err(WitnessError::Outvoted { shard, vote: kept });
                }
                _ => {}
            }
            // Of a version that is not this one any more, the API server takes no change.
            let text = json!(vote).to_string();
            let version = set.resource_version();
            let patch = json!({ "metadata": { "resourceVersion": version, "annotations": { VOTE: text } } });
            let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
            match api.patch_metadata(&name, &params, &Patch::Merge(patch)).await {
                Ok(_) => {
                    self.votes.lock().await.get_or_insert_default().insert(shard, vote);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(source) => return Err(fail("annotate")(source).into()),
            }
        }
        Err(WitnessError::Busy { shard, name })
    }
}

fn vote_of(set: &StatefulSet) -> Option<Vote> {
    serde_json::from_str(set.annotations().get(VOTE)?).ok()
}
