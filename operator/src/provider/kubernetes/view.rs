//! What pods and StatefulSets say of the nodes, without asking any node: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kv_core::plan::{Presence, Problem, Template, Workload};
use kv_core::shard::NodeAddress;

use super::machines::{Machines, ZONE};
use super::names;
use super::stores::Stores;
use crate::provider::{SightedNode, Sighting};

/// The label by which a StatefulSet says what a pod was made from.
const REVISION: &str = "controller-revision-hash";

/// Within so many seconds from its start a pod is told to be unready for the first time; times are in whole seconds.
const START_SECONDS: i64 = 1;

/// The workload that a StatefulSet stands for.
#[must_use]
pub fn workload(set: &StatefulSet) -> Option<Workload> {
    if set.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let replicas = set.spec.as_ref()?.replicas.unwrap_or(1);
    Some(Workload { shard: names::shard_of(set.labels())?, nodes: u16::try_from(replicas).ok()? })
}

/// The node that a pod stands for, if it is one of the cluster's. Told by its name: labels can be lost.
#[must_use]
pub fn node(cluster: &str, namespace: &str, pod: &Pod, sets: &[Arc<StatefulSet>]) -> Option<SightedNode> {
    let name = pod.name_any();
    let (shard, ordinal) = names::node_of(cluster, &name)?;
    let status = pod.status.as_ref();
    let container = status
        .and_then(|status| status.container_statuses.as_ref())
        .and_then(|containers| containers.iter().find(|container| container.name == "node"));
    let ip = status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty());
    Some(SightedNode {
        shard,
        ordinal,
        presence: presence(pod, container),
        incarnation: format!(
            "{}/{}",
            pod.uid().unwrap_or_default(),
            container.map_or(0, |container| container.restart_count)
        ),
        address: ip.map(|ip| NodeAddress {
            ip,
            hostname: names::hostname(cluster, namespace, &name),
            port: names::CLIENT_PORT,
            bus_port: names::BUS_PORT,
        }),
        template: template(pod, sets.iter().find(|set| set.name_any() == names::shard(cluster, shard))),
        // Newer releases of Kubernetes label pods with it.
        zone: pod.labels().get(ZONE).cloned(),
        draining: false,
        name,
    })
}

/// Whether a pod was made from what its StatefulSet asks for now.
#[must_use]
pub fn template(pod: &Pod, set: Option<&Arc<StatefulSet>>) -> Template {
    let wanted = set.and_then(|set| {
        let status = set.status.as_ref()?;
        let is_current = status.observed_generation >= set.metadata.generation;
        status.update_revision.as_ref().filter(|_| is_current)
    });
    match (wanted, pod.labels().get(REVISION)) {
        (Some(wanted), Some(own)) if wanted != own => {
            if is_stuck(pod) {
                Template::Stuck
            } else {
                Template::Outdated
            }
        }
        _ => Template::Current,
    }
}

/// Whether a pod never became ready, or ends again and again.
fn is_stuck(pod: &Pod) -> bool {
    let Some(status) = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
        return false;
    };
    let containers = status.container_statuses.iter().flatten();
    let waiting =
        containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    let loops = waiting.into_iter().any(|reason| reason == "CrashLoopBackOff");
    match status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => false,
        // It turned once more, after it was set at the start: it has been ready.
        Some(ready) => {
            let since = ready.last_transition_time.as_ref().map(|time| time.0.as_second());
            let started = status.start_time.as_ref().map(|time| time.0.as_second());
            let never = since.zip(started).is_none_or(|(since, started)| since - started <= START_SECONDS);
            loops || never
        }
        None => true,
    }
}

fn presence(pod: &Pod, container: Option<&ContainerStatus>) -> Presence {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let state = container.and_then(|container| container.state.as_ref());
    let ended = state.is_some_and(|state| state.terminated.is_some());
    let ended_before = container
        .and_then(|container| container.last_state.as_ref())
        .is_some_and(|last| last.terminated.is_some());
    let waiting = state.is_some_and(|state| state.waiting.is_some());
    if ended || (waiting && ended_before) || phase == "Failed" || phase == "Succeeded" {
        Presence::Exited
    } else if pod.metadata.deletion_timestamp.is_some() {
        Presence::Leaving
    } else if state.is_some_and(|state| state.running.is_some()) {
        Presence::Running
    } else {
        Presence::Starting
    }
}

/// Why a pod does not start, if it is for a reason that time alone does not mend. The texts do not change while the
/// reason stays: the kubelet's own come and go with every attempt.
fn trouble(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let (container, waiting) = containers
        .iter()
        .find_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref()?)))?;
    let why = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
            format!("its image {} cannot be had; set spec.image, or make that one available", container.image)
        }
        "CrashLoopBackOff" => format!("it ends again and again: {}", last_words(pod, container)),
        reason @ ("CreateContainerConfigError" | "CreateContainerError") => {
            format!("{reason}: {}", waiting.message.as_deref().unwrap_or("see kubectl describe pod"))
        }
        _ => return None,
    };
    Some(format!("pod {} does not start: {why}", pod.name_any()))
}

/// The last line that a container wrote before it ended.
fn last_words(pod: &Pod, container: &ContainerStatus) -> String {
    let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let lines = ended.and_then(|ended| ended.message.as_deref()).and_then(|text| text.trim().lines().last());
    match lines {
        Some(line) => line.chars().take(300).collect(),
        None => format!("see kubectl logs -p {}", pod.name_any()),
    }
}

/// The troubles of pods, of many only the first few.
fn problems(pods: &[Arc<Pod>]) -> Vec<Problem> {
    const SHOWN: usize = 3;
    let mut messages: Vec<String> = pods.iter().filter_map(|pod| trouble(pod)).collect();
    let more = messages.len().saturating_sub(SHOWN);
    messages.truncate(SHOWN);
    if more > 0 {
        messages.push(format!("{more} more pods do not start"));
    }
    messages.into_iter().map(|message| Problem { reason: "PodNotStarting".into(), message }).collect()
}

/// What the watches know of a cluster, and pods that these do not show.
#[must_use]
pub fn sighting(stores: &Stores, namespace: &str, cluster: &str, hidden: &[Arc<Pod>]) -> Sighting {
    let key = (namespace.to_owned(), cluster.to_owned());
    let mut pods = stores.pods_of(&key);
    pods.extend(hidden.iter().cloned());
    let sets = stores.sets_of(&key);
    Sighting {
        workloads: sets.iter().filter_map(|set| workload(set)).collect(),
        nodes: pods
            .iter()
            .filter_map(|pod| Some(on_machine(node(cluster, namespace, pod, &sets)?, pod, &stores.machines)))
            .collect(),
        problems: problems(&pods),
        votes: BTreeMap::new(),
    }
}

fn on_machine(node: SightedNode, pod: &Pod, machines: &Machines) -> SightedNode {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let machine = name.and_then(|name| machines.get(name)).unwrap_or_default();
    SightedNode { zone: machine.zone.or(node.zone), draining: machine.draining, ..node }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(deleted: bool, phase: &str, state: Value, last: Value) -> SightedNode {
        let mut metadata = json!({
            "name": "shop-1-2",
            "uid": "u",
            "labels": { "kvcluster.io/cluster": "shop", "kvcluster.io/shard": "1" },
        });
        if deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod = json!({
            "metadata": metadata,
            "status": { "phase": phase, "podIP": "10.0.0.7", "containerStatuses": [{
                "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": state, "lastState": last,
            }] },
        });
        node("shop", "market", &serde_json::from_value(pod).unwrap(), &[]).unwrap()
    }

    #[test]
    fn presence_follows_the_container() {
        let running = json!({ "running": {} });
        let waiting = json!({ "waiting": { "reason": "x" } });
        let ended = json!({ "terminated": { "exitCode": 137 } });
        let none = json!({});
        let cases = [
            (false, "Running", &running, &none, Presence::Running),
            (false, "Running", &running, &ended, Presence::Running),
            (true, "Running", &running, &none, Presence::Leaving),
            (true, "Running", &ended, &none, Presence::Exited),
            (false, "Pending", &waiting, &none, Presence::Starting),
            (false, "Pending", &none, &none, Presence::Starting),
            (false, "Running", &ended, &none, Presence::Exited),
            (false, "Running", &waiting, &ended, Presence::Exited),
            (false, "Failed", &none, &none, Presence::Exited),
        ];
        for (deleted, phase, state, last, expected) in cases {
            let node = seen(deleted, phase, state.clone(), last.clone());
            assert_eq!(node.presence, expected, "{deleted} {phase} {state} {last}");
        }
    }

    #[test]
    fn pods_of_an_older_template_are_told_and_stuck_ones_apart() {
        let set = |observed: i64| {
            let set = json!({
                "metadata": { "name": "shop-1", "generation": 4 }, "spec": { "selector": {}, "template": {} },
                "status": { "replicas": 1, "observedGeneration": observed, "updateRevision": "new" },
            });
            Arc::new(serde_json::from_value::<StatefulSet>(set).unwrap())
        };
        let pod = |revision: &str, conditions: Value, reason: &str, deleted: bool| {
            let mut pod = json!({
                "metadata": { "name": "shop-1-0", "labels": { "controller-revision-hash": revision } },
                "status": {
                    "startTime": "2026-01-01T00:00:00Z", "conditions": conditions,
                    "containerStatuses": [{
                        "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                        "state": { "waiting": { "reason": reason } },
                    }],
                },
            });
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let ready = |status: &str, time: &str| json!([{ "type": "Ready", "status": status, "lastTransitionTime": format!("2026-01-01T00:{time}Z") }]);
        let unscheduled = json!([{ "type": "PodScheduled", "status": "False" }]);
        let cases = [
            ("new", unscheduled.clone(), "", false, Template::Current),
            ("old", unscheduled, "", false, Template::Stuck),
            ("old", ready("False", "00:01"), "ImagePullBackOff", false, Template::Stuck),
            ("old", ready("False", "00:01"), "ImagePullBackOff", true, Template::Outdated),
            ("old", ready("True", "00:05"), "", false, Template::Outdated),
            ("old", ready("False", "10:00"), "", false, Template::Outdated),
            ("old", ready("False", "10:00"), "CrashLoopBackOff", false, Template::Stuck),
        ];
        for (revision, conditions, reason, deleted, expected) in cases {
            let pod = pod(revision, conditions, reason, deleted);
            assert_eq!(template(&pod, Some(&set(4))), expected, "{pod:?}");
            assert_eq!(template(&pod, Some(&set(3))), Template::Current, "the status is of an older spec");
            assert_eq!(template(&pod, None), Template::Current);
        }
    }

    #[test]
    fn a_pod_that_keeps_ending_tells_why() {
        let pod = |number: u16| {
            let pod = json!({
                "metadata": { "name": format!("shop-0-{number}") },
                "status": { "containerStatuses": [{
                    "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                    "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                    "lastState": { "terminated": { "exitCode": 1, "message": "starting\nno space left\n" } },
                }] },
            });
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let found: Vec<_> =
            problems(&[pod(0), pod(1), pod(2), pod(3), pod(4)]).into_iter().map(|p| p.message).collect();
        assert_eq!(found[0], "pod shop-0-0 does not start: it ends again and again: no space left");
        assert_eq!(found[3..], ["2 more pods do not start".to_owned()]);
    }

    #[test]
    fn a_node_is_where_its_pods_machine_is() {
        let machines = Machines::made_up(&[
            json!({ "metadata": { "name": "m", "labels": { ZONE: "eu" } }, "spec": { "unschedulable": true } }),
            json!({ "metadata": { "name": "n" } }),
        ]);
        for (machine, zone, draining) in
            [("m", "eu", true), ("n", "of-pod", false), ("unknown", "of-pod", false)]
        {
            let pod = json!({
                "metadata": { "name": "shop-1-2", "labels": { ZONE: "of-pod" } },
                "spec": { "nodeName": machine, "containers": [] },
            });
            let pod = serde_json::from_value(pod).unwrap();
            let node = on_machine(node("shop", "market", &pod, &[]).unwrap(), &pod, &machines);
            assert_eq!((node.zone.as_deref(), node.draining), (Some(zone), draining), "{machine}");
        }
    }

    #[test]
    fn a_pod_tells_who_and_where_its_node_is() {
        let node = seen(false, "Running", json!({ "running": {} }), json!({}));
        assert_eq!((node.name.as_str(), node.shard, node.ordinal), ("shop-1-2", 1, 2));
        assert_eq!(node.incarnation, "u/3");
        let address = node.address.unwrap();
        assert_eq!(address.ip, "10.0.0.7");
        assert_eq!(address.hostname, "shop-1-2.shop-nodes.market.svc");
    }
}
