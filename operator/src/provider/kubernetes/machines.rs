//! The machines that pods run on (Nodes, in Kubernetes' words): their zones, and whether they are to be emptied. They are a
//! help and no more: an operator that may not look at them does without.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, future};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use super::stores::Wakers;
use super::{explain, lock};

/// The label that names the zone, of machines and of pods.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Taints that say that a machine is about to go: of `kubectl cordon` and `drain`, cluster-autoscaler, Karpenter.
const LEAVING: [&str; 4] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/out-of-service",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
];

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it is to be emptied.
    pub draining: bool,
}

impl Machine {
    /// What a Node says of it.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let cordoned = spec.is_some_and(|spec| spec.unschedulable == Some(true));
        Self {
            zone: node.labels().get(ZONE).filter(|zone| !zone.is_empty()).cloned(),
            draining: cordoned || taints.iter().any(|taint| LEAVING.contains(&taint.key.as_str())),
        }
    }
}

/// All machines, by name.
#[derive(Clone, Debug, Default)]
pub struct Machines(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    machines: BTreeMap<String, Machine>,
    /// What a list that is not complete yet has shown so far.
    listed: BTreeMap<String, Machine>,
    /// Why they are not known.
    error: Option<String>,
}

impl Machines {
    /// Starts the watch. It runs until the set of tasks is dropped.
    pub fn watch(client: &Client, wakers: &Wakers, tasks: &mut JoinSet<()>) -> Self {
        let machines = Self::default();
        let (seen, wakers) = (machines.clone(), wakers.clone());
        let events = watcher::watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
        tasks.spawn(events.default_backoff().for_each(move |event| {
            if seen.take(event) {
                wakers.wake_all();
            }
            future::ready(())
        }));
        machines
    }

    /// The machine of this name, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Machine> {
        lock(&self.0).machines.get(name).cloned()
    }

    /// Why machines are not known; `None` if they are.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        lock(&self.0).error.clone()
    }

    /// Takes in what the watch says. Returns whether anything changed that matters: a Node is written often.
    fn take(&self, event: Result<Event<Node>, watcher::Error>) -> bool {
        let mut known = lock(&self.0);
        match event {
            Ok(event) => {
                known.error = None;
                match event {
                    Event::Apply(node) => {
                        let machine = Machine::of(&node);
                        known.machines.insert(node.name_any(), machine.clone()) != Some(machine)
                    }
                    Event::Delete(node) => known.machines.remove(&node.name_any()).is_some(),
                    Event::Init => {
                        known.listed.clear();
                        false
                    }
                    Event::InitApply(node) => {
                        known.listed.insert(node.name_any(), Machine::of(&node));
                        false
                    }
                    Event::InitDone => {
                        let listed = std::mem::take(&mut known.listed);
                        let changed = listed != known.machines;
                        known.machines = listed;
                        changed
                    }
                }
            }
            Err(error) => {
                let text = why(&error);
                let news = known.error.replace(text.clone()).as_ref() != Some(&text);
                if news {
                    tracing::warn!(error = %text, "the machines that pods run on cannot be watched; it is tried again");
                }
                news
            }
        }
    }
}

fn why(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => explain(error),
        error => error.to_string(),
    }
}

#[cfg(test)]
impl Machines {
    /// Machines that a test makes up.
    pub fn made_up(nodes: &[serde_json::Value]) -> Self {
        let machines = Self::default();
        for node in nodes {
            machines.take(Ok(Event::Apply(serde_json::from_value(node.clone()).unwrap())));
        }
        machines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, spec: &Value) -> Node {
        let labels = json!({ ZONE: "eu-1a" });
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))
            .unwrap()
    }

    #[test]
    fn a_machine_that_is_to_be_emptied_is_told_by_cordon_or_taint() {
        let taint = |key: &str| json!({ "taints": [{ "key": key, "effect": "NoSchedule" }] });
        for (spec, draining) in [
            (json!({}), false),
            (json!({ "unschedulable": true }), true),
            (taint("karpenter.sh/disrupted"), true),
            (taint("dedicated"), false),
        ] {
            let machine = Machine::of(&node("m", &spec));
            assert_eq!(machine, Machine { zone: Some("eu-1a".into()), draining }, "{spec}");
        }
    }

    #[test]
    fn only_what_matters_wakes_the_engines() {
        let machines = Machines::default();
        let apply = |spec: Value| machines.take(Ok(Event::Apply(node("m", &spec))));
        assert!(apply(json!({})));
        assert!(!apply(json!({ "podCIDR": "10.0.0.0/24" })));
        assert!(apply(json!({ "unschedulable": true })));
        assert!(machines.get("m").unwrap().draining);
        assert!(!machines.take(Ok(Event::Init)));
        assert!(machines.get("m").is_some(), "what was known holds until the new list is there");
        assert!(machines.take(Ok(Event::InitDone)));
        assert_eq!(machines.get("m"), None);
    }
}
