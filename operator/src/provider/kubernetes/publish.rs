//! Tells users: the status of the KvCluster, events, and the role labels of pods.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use kv_core::shard::Role;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{KubernetesProvider, lock, names};
use crate::crd::{KvCluster, KvClusterStatus};
use crate::engine::{Event, Hook, MASTER_RETURNED, Publisher, StatusUpdate, resource_status};

/// Statuses that differ in nothing but words are not told more often.
const CALM: Duration = Duration::from_millis(500);

/// Offsets grow all the time: they are told with something else, or when they grew by this much after `OFFSETS_AGE`.
const OFFSETS_GROWTH: u64 = 1 << 20;

/// See `OFFSETS_GROWTH`.
const OFFSETS_AGE: Duration = Duration::from_secs(30);

/// The most recorders that are kept, one for each text: a recorder counts repetitions of a reason as one event, and
/// shows only the first text.
const RECORDERS: usize = 64;

/// Longest note that the API server takes.
const NOTE_BYTES: usize = 1000;

/// Who reports events.
const CONTROLLER: &str = "kv-operator";

/// Publishes what one engine does.
pub struct KubernetesPublisher {
    client: Client,
    provider: Arc<KubernetesProvider>,
    object: Arc<Mutex<Arc<KvCluster>>>,
    told: Mutex<Option<(KvClusterStatus, Instant)>>,
    recorders: Mutex<BTreeMap<String, Recorder>>,
    instance: String,
    hook: Option<Hook>,
}

impl KubernetesPublisher {
    /// A publisher for a KvCluster; `object` is always its newest version.
    #[must_use]
    pub fn new(
        client: Client,
        provider: Arc<KubernetesProvider>,
        object: Arc<Mutex<Arc<KvCluster>>>,
        instance: String,
        hook: Option<Hook>,
    ) -> Self {
        let told = lock(&object).status.clone().map(|status| (status, Instant::now()));
        Self { client, provider, object, told: Mutex::new(told), recorders: Mutex::default(), instance, hook }
    }

    async fn label_roles(&self, status: &KvClusterStatus) -> Result<(), kube::Error> {
        let cluster = self.provider.cluster();
        let key = (cluster.namespace.clone(), cluster.name.clone());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &cluster.namespace);
        for pod in self.provider.stores.pods_of(&key) {
            let name = pod.name_any();
            let Some(wanted) = role_label(status, &name) else { continue };
            if pod.labels().get(names::ROLE).map(String::as_str) == wanted {
                continue;
            }
            // With the UID, so that a label never lands on the next pod of that name.
            let patch = json!({ "metadata": { "uid": pod.uid(), "labels": { names::ROLE: wanted } } });
            match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => self.provider.metrics.wrote("Pod"),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn recorder(&self, text: &str) -> Recorder {
        let mut recorders = lock(&self.recorders);
        if recorders.len() >= RECORDERS && !recorders.contains_key(text) {
            recorders.clear();
        }
        let reporter = || Reporter { controller: CONTROLLER.into(), instance: Some(self.instance.clone()) };
        recorders
            .entry(text.to_owned())
            .or_insert_with(|| Recorder::new(self.client.clone(), reporter()))
            .clone()
    }
}

impl Publisher for KubernetesPublisher {
    type Error = kube::Error;

    async fn status(&self, update: &StatusUpdate) -> Result<(), kube::Error> {
        let object = Arc::clone(&lock(&self.object));
        let told = lock(&self.told).clone();
        let before = told.as_ref().map(|(status, _)| status);
        let mut status = resource_status(&object, before, update, Timestamp::now());
        status.image.clone_from(&self.provider.cluster().image);
        let age = told.as_ref().map_or(Duration::MAX, |(_, when)| when.elapsed());
        match before.map_or(News::Facts, |before| news(before, &status)) {
            News::None => {}
            News::Offsets if age < OFFSETS_AGE => {}
            News::Words => {
                if let Some((_, when)) = told {
                    sleep_until(when + CALM).await;
                }
                self.tell(&object, status.clone()).await?;
            }
            News::Offsets | News::Facts => self.tell(&object, status.clone()).await?,
        }
        self.label_roles(&status).await
    }

    async fn event(&self, event: Event) {
        let cluster = self.provider.cluster();
        self.hook.iter().for_each(|hook| hook.tell(&cluster.namespace, &cluster.name, &event));
        let changed = event.receipt.as_ref().filter(|_| event.reason != MASTER_RETURNED);
        if let Some((receipt, ms)) = changed.and_then(|receipt| Some((receipt, receipt.interruption_ms()?))) {
            self.provider.metrics.changed_master(receipt.kind, ms);
        }
        let object = Arc::clone(&lock(&self.object));
        let text = match event.shard {
            Some(shard) => format!("shard {shard}: {}", event.message),
            None => event.message,
        };
        let note: String = text.chars().take(NOTE_BYTES / 4).collect();
        let event = KubeEvent {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            action: event.reason.clone(),
            reason: event.reason,
            note: Some(note),
            secondary: None,
        };
        if let Err(error) = self.recorder(&text).publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, "an event could not be published");
        }
    }
}

impl KubernetesPublisher {
    async fn tell(&self, object: &KvCluster, status: KvClusterStatus) -> Result<(), kube::Error> {
        write_status(&self.client, object, &status).await?;
        self.provider.metrics.wrote("KvCluster");
        *lock(&self.told) = Some((status, Instant::now()));
        Ok(())
    }
}

/// Writes the status of a KvCluster.
///
/// # Errors
/// If the API server refuses it.
pub async fn write_status(
    client: &Client,
    object: &KvCluster,
    status: &KvClusterStatus,
) -> Result<(), kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<KvCluster> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({
        "apiVersion": KvCluster::api_version(&()),
        "kind": KvCluster::kind(&()),
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::MANAGER).force();
    api.patch_status(&object.name_any(), &params, &Patch::Apply(patch)).await.map(drop)
}

/// The label that a pod should have, or that it should have none; `None` if nothing is known of its node yet.
fn role_label(status: &KvClusterStatus, pod: &str) -> Option<Option<&'static str>> {
    let mut nodes = status.shards.iter().flat_map(|shard| &shard.nodes);
    let node = nodes.find(|node| node.name == pod)?;
    match node.role {
        Some(Role::Master) => Some(Some("master")),
        Some(Role::Replica) => Some(Some("replica")),
        None => node.id.is_some().then_some(None),
    }
}

/// How much a status differs from the one before.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Not at all, or only by offsets that hardly moved.
    None,
    /// Only by offsets.
    Offsets,
    /// Only by the words of messages.
    Words,
    /// By something that matters.
    Facts,
}

fn news(before: &KvClusterStatus, after: &KvClusterStatus) -> News {
    if facts(before) != facts(after) {
        News::Facts
    } else if messages(before) != messages(after) {
        News::Words
    } else if moved(before, after) {
        News::Offsets
    } else {
        News::None
    }
}

fn messages(status: &KvClusterStatus) -> Vec<&str> {
    status.conditions.iter().map(|condition| condition.message.as_str()).collect()
}

fn facts(status: &KvClusterStatus) -> KvClusterStatus {
    let mut status = status.clone();
    for condition in &mut status.conditions {
        *condition = Condition {
            message: String::new(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
            ..condition.clone()
        };
    }
    for node in status.shards.iter_mut().flat_map(|shard| &mut shard.nodes) {
        (node.offset, node.lag_bytes, node.lag) = (None, None, None);
    }
    status
}

fn moved(before: &KvClusterStatus, after: &KvClusterStatus) -> bool {
    let offsets = |status: &KvClusterStatus| -> Vec<u64> {
        let nodes = status.shards.iter().flat_map(|shard| &shard.nodes);
        nodes.flat_map(|node| [node.offset.unwrap_or(0), node.lag_bytes.unwrap_or(0)]).collect()
    };
    offsets(before).iter().zip(offsets(after)).any(|(before, after)| before.abs_diff(after) > OFFSETS_GROWTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: &str, message: &str, offset: u64, second: i64) -> KvClusterStatus {
        serde_json::from_value(json!({
            "ready": ready,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "AllNodesReady", "message": message,
                "lastTransitionTime": Timestamp::from_second(second).unwrap().to_string(),
            }],
            "shards": [{ "index": 0, "nodes": [
                { "name": "a-0-0", "state": "Ready", "role": "Master", "offset": offset },
            ] }],
        }))
        .unwrap()
    }

    #[test]
    fn only_what_matters_is_told_at_once() {
        let before = status("6/6", "all", 100, 1);
        let cases = [
            (status("6/6", "all", 100, 2), News::None),
            (status("6/6", "all", 500, 1), News::None),
            (status("6/6", "all", 2 << 20, 1), News::Offsets),
            (status("6/6", "some", 500, 1), News::Words),
            (status("5/6", "some", 500, 1), News::Facts),
        ];
        for (after, expected) in cases {
            assert_eq!(news(&before, &after), expected, "{after:?}");
        }
    }

    #[test]
    fn pods_are_labelled_by_their_role() {
        let status = status("", "", 0, 0);
        assert_eq!(role_label(&status, "a-0-0"), Some(Some("master")));
        assert_eq!(role_label(&status, "a-0-1"), None);
        let mut status = status;
        status.shards[0].nodes[0].role = None;
        assert_eq!(role_label(&status, "a-0-0"), None);
        status.shards[0].nodes[0].id = Some("1".repeat(40));
        assert_eq!(role_label(&status, "a-0-0"), Some(None));
    }
}
