//! From a cluster to the Kubernetes objects that make it: pure, and it cannot fail.
//!
//! Objects are built as JSON, which is what is applied and compared; a test reads each back through the API's own types,
//! so that a misspelt field does not pass.

use kv_core::plan::Workload;
use serde_json::{Value, json};

use super::names;
use crate::crd::{KvClusterSpec, Volume};

mod pod;
#[cfg(test)]
mod tests;

/// A cluster as the builder needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name of the KvCluster.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Its last valid spec.
    pub spec: KvClusterSpec,
    /// The image of the nodes, resolved.
    pub image: String,
}

/// The kinds of objects that a cluster owns, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Configuration of the nodes.
    ConfigMap,
    /// Names to reach nodes by.
    Service,
    /// The nodes of a shard.
    StatefulSet,
    /// How many nodes of a shard an eviction may take.
    PodDisruptionBudget,
}

impl Kind {
    /// Its group and version.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::Service => "v1",
            Self::StatefulSet => "apps/v1",
            Self::PodDisruptionBudget => "policy/v1",
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::StatefulSet => "StatefulSet",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it.
    pub object: Value,
}

impl Cluster {
    /// The volume that each node is to have; `None` for memory only.
    #[must_use]
    pub fn volume(&self) -> Option<&Volume> {
        self.spec.storage.as_ref().and_then(|storage| storage.volume.as_ref())
    }

    /// The reference by which an object says whose it is.
    #[must_use]
    pub fn owner_reference(&self) -> Value {
        json!({
            "apiVersion": "kvcluster.io/v1alpha1",
            "kind": "KvCluster",
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }

    /// All objects but the Secrets, in the order in which they are made. `template_size` tells the volume size in the
    /// template of a shard's StatefulSet if that exists, since a template cannot be changed.
    #[must_use]
    pub fn objects(
        &self,
        workloads: &[Workload],
        template_size: impl Fn(u16) -> Option<String>,
    ) -> Vec<Built> {
        let mut objects = vec![self.config_map()];
        objects.extend([
            self.service(self.name.clone(), json!({ "selector": names::selector(&self.name, None) })),
            self.readonly_service(),
            self.nodes_service(),
        ]);
        for workload in workloads {
            objects.push(self.stateful_set(*workload, template_size(workload.shard)));
            objects.push(self.disruption_budget(workload.shard));
        }
        objects
    }

    fn finish(&self, kind: Kind, name: String, shard: Option<u16>, body: Value) -> Built {
        let mut object = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": names::labels(&self.name, shard),
                "ownerReferences": [self.owner_reference()],
            },
        });
        names::merge(&mut object, body);
        Built { kind, name, object }
    }

    fn config_map(&self) -> Built {
        let valid_spec = serde_json::to_string(&self.spec).unwrap_or_default();
        let mut built = self.finish(
            Kind::ConfigMap,
            names::config(&self.name),
            None,
            json!({ "data": { "node.conf": self.node_conf() } }),
        );
        if let Some(metadata) = built.object.get_mut("metadata") {
            names::merge(metadata, json!({ "annotations": { names::VALID_SPEC: valid_spec } }));
        }
        built
    }

    /// The configuration file of every node. What a running node can change is sent to it instead, so that removing
    /// it from the spec brings back the default.
    fn node_conf(&self) -> String {
        let appendonly = if self.volume().is_some() { "yes" } else { "no" };
        let mut lines = vec![
            format!("# Written by {}; changes belong into spec.config of the KvCluster.", names::MANAGER),
            format!("appendonly {appendonly}"),
            "save \"\"".to_owned(),
        ];
        lines.extend(self.fixed_directives());
        lines.push(String::new());
        lines.join("\n")
    }

    /// The directives of the spec that a node takes only when it starts, a line each.
    fn fixed_directives(&self) -> impl Iterator<Item = String> {
        use kv_core::directive::{Change, lookup};
        let is_fixed = |name: &str| lookup(name).is_some_and(|directive| directive.change == Change::Restart);
        let fixed = self.spec.config.iter().filter(move |(name, _)| is_fixed(name));
        // A line break in a value would start another directive.
        fixed.map(|(name, value)| format!("{name} {value}").replace(['\n', '\r'], " "))
    }

    fn service(&self, name: String, extra: Value) -> Built {
        let port = |name: &str, port: u16| json!({ "name": name, "port": port, "protocol": "TCP", "targetPort": name });
        let ports = [port("client", names::CLIENT_PORT), port("sentinel", names::SENTINEL_PORT)];
        let mut spec = json!({ "ports": ports });
        names::merge(&mut spec, extra);
        self.finish(Kind::Service, name, None, json!({ "spec": spec }))
    }

    fn readonly_service(&self) -> Built {
        let mut selector = names::selector(&self.name, None);
        names::merge(&mut selector, json!({ names::ROLE: "replica" }));
        self.service(names::readonly(&self.name), json!({ "selector": selector }))
    }

    fn nodes_service(&self) -> Built {
        let extra = json!({
            "clusterIP": "None",
            // Nodes must find each other before they are ready, or they never become so.
            "publishNotReadyAddresses": true,
            "selector": names::selector(&self.name, None),
        });
        self.service(names::nodes(&self.name), extra)
    }

    fn disruption_budget(&self, shard: u16) -> Built {
        let selector = names::selector(&self.name, Some(shard));
        self.finish(
            Kind::PodDisruptionBudget,
            names::shard(&self.name, shard),
            Some(shard),
            json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector } } }),
        )
    }

    fn stateful_set(&self, workload: Workload, template_size: Option<String>) -> Built {
        let Workload { shard, nodes } = workload;
        let mut spec = json!({
            "replicas": nodes,
            "serviceName": names::nodes(&self.name),
            "podManagementPolicy": "Parallel",
            // Pods are replaced one at a time with a hand-over by whoever deletes them, never by the StatefulSet.
            "updateStrategy": { "type": "OnDelete" },
            "revisionHistoryLimit": 2,
            "selector": { "matchLabels": names::selector(&self.name, Some(shard)) },
            "template": self.pod_template(shard),
        });
        if let Some(volume) = self.volume() {
            names::merge(&mut spec, self.claims(volume, shard, template_size));
        }
        self.finish(Kind::StatefulSet, names::shard(&self.name, shard), Some(shard), json!({ "spec": spec }))
    }

    fn claims(&self, volume: &Volume, shard: u16, template_size: Option<String>) -> Value {
        let mut claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": template_size.unwrap_or_else(|| volume.size.clone()) } },
        });
        if let Some(class) = &volume.storage_class_name {
            names::merge(&mut claim, json!({ "storageClassName": class }));
        }
        let retention = format!("{:?}", volume.retention);
        json!({
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": retention, "whenScaled": retention },
            "volumeClaimTemplates": [{
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": { "name": "data", "labels": names::labels(&self.name, Some(shard)) },
                "spec": claim,
            }],
        })
    }
}
