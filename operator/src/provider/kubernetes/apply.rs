//! Makes the objects of a cluster what they should be, and writes nothing where nothing differs.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use kv_core::plan::Workload;
use serde_json::{Value, json};

use super::build::{Built, Cluster};
use super::differ::{difference, stamped};
use super::hidden::lost_labels;
use super::retries::Object;
use super::stores::{Key, Stores};
use super::{explain, names};
use crate::crd::quantity;

/// Why the objects of a cluster could not be made what they should be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused a request, or did not answer.
    #[error("cannot {verb} {kind} {name}: {why}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// What the API server said.
        why: String,
    },
    /// An object of the name exists and belongs to somebody else.
    #[error(
        "{kind} {name} exists and does not belong to this cluster; delete or rename it, or rename the cluster"
    )]
    NotOwned {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
    },
    /// What is written comes back changed.
    #[error("{kind} {name} does not keep its {field}: something else writes it; make that stop")]
    Contested {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// The field.
        field: String,
    },
    /// Volumes cannot grow to the wanted size.
    #[error("PersistentVolumeClaim {name} cannot grow to {size}: {why}")]
    Growth {
        /// Name of the claim.
        name: String,
        /// The wanted size.
        size: String,
        /// What the API server said.
        why: String,
    },
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Make an object, or change it.
    Apply {
        /// The object.
        built: Built,
        /// The first field that differs; `None` if there is no such object.
        field: Option<String>,
    },
    /// Delete the StatefulSet of a shard that is no longer wanted.
    DeleteSet {
        /// Its name.
        name: String,
        /// Its UID, so that no other one of that name is deleted.
        uid: String,
    },
    /// Let a volume grow.
    Grow {
        /// Name of the claim.
        name: String,
        /// The wanted size.
        size: String,
    },
    /// Give a pod back the labels by which it is selected.
    Label {
        /// Its name.
        name: String,
        /// Its UID, so that the labels never land on the next pod of that name.
        uid: String,
        /// The labels.
        labels: Value,
    },
}

impl Change {
    /// Kind and name of the object that is written.
    #[must_use]
    pub fn object(&self) -> Object {
        match self {
            Self::Apply { built, .. } => (built.kind.name(), built.name.clone()),
            Self::DeleteSet { name, .. } => ("StatefulSet", name.clone()),
            Self::Grow { name, .. } => ("PersistentVolumeClaim", name.clone()),
            Self::Label { name, .. } => ("Pod", name.clone()),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Apply { built, field: None } => write!(f, "create {} {}", built.kind.name(), built.name),
            Self::Apply { built, field: Some(field) } => {
                write!(f, "update {} {} ({})", built.kind.name(), built.name, field.trim_start_matches('.'))
            }
            Self::DeleteSet { name, .. } => write!(f, "delete StatefulSet {name}"),
            Self::Grow { name, size } => write!(f, "grow PersistentVolumeClaim {name} to {size}"),
            Self::Label { name, .. } => write!(f, "give Pod {name} back its labels"),
        }
    }
}

/// What differs between the cluster as wanted and as it is, and the objects that belong to somebody else. `hidden` are
/// its pods that the watches do not show.
#[must_use]
pub fn changes(
    cluster: &Cluster,
    workloads: &[Workload],
    stores: &Stores,
    hidden: &[Arc<Pod>],
) -> (Vec<Change>, Vec<ApplyError>) {
    let key: Key = (cluster.namespace.clone(), cluster.name.clone());
    let sets = stores.sets_of(&key);
    let size_of = |shard| {
        let set = sets.iter().find(|set| set.name_any() == names::shard(&cluster.name, shard))?;
        template_size(set)
    };
    let (mut changes, mut refused) = (Vec::new(), Vec::new());
    for built in cluster.objects(workloads, size_of) {
        let wanted = stamped(built.object.clone());
        let field = match stores.get(built.kind, &cluster.namespace, &built.name) {
            None => None,
            Some(live) => {
                if let Err(error) = owned(cluster, built.kind.name(), &built.name, &live) {
                    refused.push(error);
                    continue;
                }
                // The stamp tells only that something differs: better a field that says what.
                match difference(&built.object, &live).or_else(|| difference(&wanted, &live)) {
                    None => continue,
                    different => different,
                }
            }
        };
        changes.push(Change::Apply { built: Built { object: wanted, ..built }, field });
    }
    for set in &sets {
        let wanted = |shard| workloads.iter().any(|workload| workload.shard == shard);
        let is_ours = set.owner_references().iter().any(|owner| owner.uid == cluster.uid);
        if let Some(uid) = set.uid()
            && is_ours
            && set.metadata.deletion_timestamp.is_none()
            && !names::shard_of(set.labels()).is_some_and(wanted)
        {
            changes.push(Change::DeleteSet { name: set.name_any(), uid });
        }
    }
    changes.extend(growth(cluster, workloads, &stores.claims_of(&key)));
    changes.extend(unlabelled(cluster, &stores.pods_of(&key)));
    changes.extend(unlabelled(cluster, hidden));
    (changes, refused)
}

fn unlabelled<'a>(cluster: &'a Cluster, pods: &'a [Arc<Pod>]) -> impl Iterator<Item = Change> + 'a {
    pods.iter().filter_map(|pod| {
        let labels = lost_labels(cluster, pod)?;
        Some(Change::Label { name: pod.name_any(), uid: pod.uid()?, labels })
    })
}

fn template_size(set: &StatefulSet) -> Option<String> {
    let template = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
    requested(template).map(str::to_owned)
}

fn requested(claim: &PersistentVolumeClaim) -> Option<&str> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage").map(|quantity| quantity.0.as_str())
}

/// Volumes of wanted nodes that are smaller than wanted. Others that carry the cluster's label stay as they are: those
/// that nodes left behind, and what users made themselves.
fn growth<'a>(
    cluster: &'a Cluster,
    workloads: &'a [Workload],
    claims: &'a [Arc<PersistentVolumeClaim>],
) -> impl Iterator<Item = Change> + 'a {
    let size = cluster.volume().map(|volume| volume.size.as_str());
    claims.iter().filter_map(move |claim| {
        let size = size?;
        let (shard, ordinal) = names::node_of_claim(&cluster.name, claim.metadata.name.as_deref()?)?;
        let is_wanted = workloads.iter().any(|workload| workload.shard == shard && ordinal < workload.nodes);
        let smaller = quantity(requested(claim)?)? < quantity(size)?;
        let alive = claim.metadata.deletion_timestamp.is_none();
        (is_wanted && smaller && alive)
            .then(|| Change::Grow { name: claim.name_any(), size: size.to_owned() })
    })
}

fn owned(cluster: &Cluster, kind: &'static str, name: &str, live: &Value) -> Result<(), ApplyError> {
    let owners = live.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let ours = |owner: &Value| owner.get("uid").and_then(Value::as_str) == Some(&cluster.uid);
    if owners.is_some_and(|owners| owners.iter().any(ours)) {
        Ok(())
    } else {
        Err(ApplyError::NotOwned { kind, name: name.to_owned() })
    }
}

/// Writes one change. Returns whether anything had to be written: what is kept in memory may be behind.
///
/// # Errors
/// If the API server refuses it, or the object belongs to somebody else.
pub async fn write(client: &Client, cluster: &Cluster, change: &Change) -> Result<bool, ApplyError> {
    match change {
        Change::Apply { built, field } => write_object(client, cluster, built, field.is_none()).await,
        Change::DeleteSet { name, uid } => {
            let api: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
            let only = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
            match api.delete(name, &params).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
                Err(source) => Err(failed("delete", "StatefulSet", name, source)),
            }
        }
        Change::Grow { name, size } => {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
            let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
            let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
            api.patch(name, &params, &Patch::Merge(patch)).await.map(|_| true).map_err(|source| {
                ApplyError::Growth { name: name.clone(), size: size.clone(), why: explain(&source) }
            })
        }
        Change::Label { name, uid, labels } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), &cluster.namespace);
            let metadata = json!({ "name": name, "uid": uid, "labels": labels });
            let patch = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata });
            let params = PatchParams::apply(names::MANAGER).force();
            match api.patch_metadata(name, &params, &Patch::Apply(patch)).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
                Err(source) => Err(failed("label", "Pod", name, source)),
            }
        }
    }
}

async fn write_object(
    client: &Client,
    cluster: &Cluster,
    built: &Built,
    new: bool,
) -> Result<bool, ApplyError> {
    let (group, version) = built.kind.api_version().split_once('/').unwrap_or(("", built.kind.api_version()));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, built.kind.name()));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &cluster.namespace, &resource);
    let fail = |verb| move |source| failed(verb, built.kind.name(), &built.name, source);
    if new {
        // A forced apply would take over what is somebody else's.
        let found = api.get_opt(&built.name).await.map_err(fail("get"))?;
        if let Some(found) = found {
            let live = serde_json::to_value(found).unwrap_or_default();
            owned(cluster, built.kind.name(), &built.name, &live)?;
            if difference(&built.object, &live).is_none() {
                return Ok(false);
            }
        }
    }
    let params = PatchParams::apply(names::MANAGER).force();
    match api.patch(&built.name, &params, &Patch::Apply(&built.object)).await {
        Ok(applied) if differs(built, &applied).is_none() => return Ok(true),
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 422 && !new => {}
        Err(error) => return Err(fail("apply")(error)),
    }
    // An apply leaves entries in lists that others made, such as another port; a merge replaces the lists.
    let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
    let mended = api.patch(&built.name, &params, &Patch::Merge(&built.object)).await.map_err(fail("mend"))?;
    match differs(built, &mended) {
        None => Ok(true),
        Some(field) => {
            Err(ApplyError::Contested { kind: built.kind.name(), name: built.name.clone(), field })
        }
    }
}

fn differs(built: &Built, live: &DynamicObject) -> Option<String> {
    difference(&built.object, &serde_json::to_value(live).unwrap_or_default())
}

/// An API server's refusal, with what was tried.
pub(super) fn failed(verb: &'static str, kind: &'static str, name: &str, source: kube::Error) -> ApplyError {
    ApplyError::Api { verb, kind, name: name.to_owned(), why: explain(&source) }
}
