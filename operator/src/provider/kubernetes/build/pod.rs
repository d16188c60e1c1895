//! The pods of a shard. They pass the *restricted* Pod Security level, and nothing in them depends on the operator's own
//! release: an upgrade of the operator must not make pods outdated.

use kv_core::control::digest;
use serde_json::{Value, json};

use super::Cluster;
use crate::provider::kubernetes::names;

/// User and group that nodes run as.
const USER: i64 = 65532;

/// How long a deleted pod may take: a hand-over, and writing what is not on disk yet.
const GRACE_SECONDS: i64 = 30;

impl Cluster {
    pub(super) fn pod_template(&self, shard: u16) -> Value {
        let labels = names::selector(&self.name, Some(shard));
        let mut annotations = json!({ "kubectl.kubernetes.io/default-container": "node" });
        let fixed: Vec<String> = self.fixed_directives().collect();
        if !fixed.is_empty() {
            // They stand in the ConfigMap, whose changes do not make pods outdated by themselves.
            names::merge(&mut annotations, json!({ names::FIXED: digest(fixed.join("\n").as_bytes()) }));
        }
        json!({
            "metadata": { "labels": names::labels(&self.name, Some(shard)), "annotations": annotations },
            "spec": {
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "affinity": { "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": { "matchLabels": labels },
                        },
                    }],
                } },
                "topologySpreadConstraints": [
                    spread("kubernetes.io/hostname", &labels),
                    spread("topology.kubernetes.io/zone", &labels),
                ],
                "containers": [self.container(shard)],
                "volumes": self.volumes(),
            },
        })
    }

    fn container(&self, shard: u16) -> Value {
        let mut container = json!({
            "name": "node",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/kv-node"],
            "args": self.arguments(shard),
            // The last lines of the log are what a condition can show.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "env": [field("POD_NAME", "metadata.name"), field("POD_IP", "status.podIP")],
            "ports": [
                { "name": "client", "containerPort": names::CLIENT_PORT, "protocol": "TCP" },
                { "name": "sentinel", "containerPort": names::SENTINEL_PORT, "protocol": "TCP" },
                { "name": "metrics", "containerPort": names::HEALTH_PORT, "protocol": "TCP" },
            ],
            "readinessProbe": {
                "httpGet": { "path": "/readyz", "port": "metrics" },
                "periodSeconds": 1,
                "timeoutSeconds": 1,
                "failureThreshold": 2,
            },
            // Lenient: a restart loses what is in memory, and failing over does not wait for it.
            "livenessProbe": {
                "httpGet": { "path": "/livez", "port": "metrics" },
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 4,
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "volumeMounts": [
                { "name": "data", "mountPath": "/data" },
                { "name": "config", "mountPath": "/etc/kv", "readOnly": true },
            ],
        });
        if let Some(resources) = self.spec.resources.as_ref() {
            names::merge(&mut container, json!({ "resources": resources }));
        }
        container
    }

    fn arguments(&self, shard: u16) -> Vec<String> {
        let hostname = names::hostname(&self.name, &self.namespace, "$(POD_NAME)");
        let flags = [
            ("port", names::CLIENT_PORT.to_string()),
            ("bind", "* -::*".to_owned()),
            ("dir", "/data".to_owned()),
            ("cluster-enabled", "yes".to_owned()),
            ("cluster-announce-ip", "$(POD_IP)".to_owned()),
            ("cluster-announce-hostname", hostname),
            ("cluster-announce-bus-port", names::BUS_PORT.to_string()),
            ("kv-cluster-uid", self.uid.clone()),
            ("kv-shard", shard.to_string()),
            ("kv-node-name", "$(POD_NAME)".to_owned()),
            ("kv-control-password-file", "/etc/kv/control/control-password".to_owned()),
            ("kv-password-file", "/etc/kv/auth/password".to_owned()),
            ("kv-health-port", names::HEALTH_PORT.to_string()),
            ("sentinel-port", names::SENTINEL_PORT.to_string()),
        ];
        let flags = flags.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        std::iter::once("/etc/kv/node.conf".to_owned()).chain(flags).collect()
    }

    /// One volume for all that is read, so that folders may lie within each other; and the data, which a
    /// StatefulSet's claim takes the place of if there is one.
    fn volumes(&self) -> Value {
        let secret = match &self.spec.auth {
            Some(auth) => auth.secret_ref.name.clone(),
            None => names::auth(&self.name),
        };
        let config = json!({
            "name": "config",
            "projected": {
                "defaultMode": 0o440,
                "sources": [
                    { "configMap": {
                        "name": names::config(&self.name),
                        "items": [{ "key": "node.conf", "path": "node.conf" }],
                    } },
                    { "secret": {
                        "name": names::control(&self.name),
                        "items": [{ "key": "control-password", "path": "control/control-password" }],
                    } },
                    { "secret": { "name": secret, "items": [{ "key": "password", "path": "auth/password" }] } },
                ],
            },
        });
        if self.volume().is_some() {
            json!([config])
        } else {
            json!([config, { "name": "data", "emptyDir": {} }])
        }
    }
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } })
}

fn spread(key: &str, labels: &Value) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": labels },
    })
}
