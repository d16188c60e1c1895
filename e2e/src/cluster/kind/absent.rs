//! What a cluster is made to do without for a while: the operators, or the API server. Either comes back when it is told
//! to, or when the value is dropped, since the next test needs it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::faults::docker;
use super::{Kind, OPERATOR_NAMESPACE, POLL, eventually};
use crate::cluster::{Error, Result};

const OPERATORS: &str = "app.kubernetes.io/component=operator";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// How long it may take to go, or to come back.
const WITHIN: Duration = Duration::from_secs(120);

/// The operators' Deployment, scaled to none.
pub struct NoOperator {
    deployments: Api<Deployment>,
    name: String,
    /// What it was scaled to before; `None` once that is restored.
    replicas: Option<i32>,
}

impl NoOperator {
    /// Returns when there is no operator any more.
    ///
    /// # Errors
    /// If there is no such Deployment, or its pods stay.
    pub async fn begin(kind: &Kind) -> Result<Self> {
        let deployments: Api<Deployment> = Api::namespaced(kind.client(), OPERATOR_NAMESPACE);
        let operators = ListParams::default().labels(OPERATORS);
        let found = deployments.list(&operators).await?.items.into_iter().next();
        let found =
            found.ok_or_else(|| Error::Unexpected(format!("{OPERATOR_NAMESPACE} has no operator")))?;
        let replicas = found.spec.as_ref().and_then(|spec| spec.replicas);
        let absent = Self { deployments, name: found.name_any(), replicas };
        absent.scale(0).await?;
        let pods: Api<Pod> = Api::namespaced(kind.client(), OPERATOR_NAMESPACE);
        eventually("every operator is gone", WITHIN, async || {
            let left = pods.list(&operators).await?.items;
            let names: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
            Ok(if names.is_empty() { Ok(()) } else { Err(format!("{names:?}")) })
        })
        .await?;
        Ok(absent)
    }

    /// Has as many operators started as there were.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn end(mut self) -> Result<()> {
        if let Some(replicas) = self.replicas {
            self.scale(replicas).await?;
        }
        self.replicas = None;
        Ok(())
    }

    async fn scale(&self, replicas: i32) -> Result<()> {
        let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.deployments.patch_scale(&self.name, &PatchParams::default(), &scale).await?;
        Ok(())
    }
}

impl Drop for NoOperator {
    fn drop(&mut self) {
        if let Some(replicas) = self.replicas {
            let scale = ["scale", "deployment", &self.name, "--namespace", OPERATOR_NAMESPACE];
            // A test failed, and nothing better can be done about an error here.
            let _tried = Command::new("kubectl").args(scale).arg(format!("--replicas={replicas}")).status();
        }
    }
}

/// The API server, stopped by the kubelet of the control plane.
pub struct NoApiServer {
    /// The control plane; `None` once the API server is back.
    node: Option<String>,
}

/// Takes the manifest away that the kubelet runs the API server from, or puts it back.
fn manifest(there: bool) -> &'static str {
    match there {
        false => "mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/",
        true => "mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/",
    }
}

impl NoApiServer {
    /// Returns when there is no API server any more.
    ///
    /// # Errors
    /// If there is more than one control plane, docker fails, or the API server stays.
    pub async fn begin(kind: &Kind) -> Result<Self> {
        let nodes: Api<Node> = Api::all(kind.client());
        let nodes = nodes.list(&ListParams::default().labels(CONTROL_PLANE)).await?.items;
        let [node] = nodes.as_slice() else {
            return Err(Error::Unexpected(format!("{} control planes, where one is needed", nodes.len())));
        };
        let node = node.name_any();
        docker(&["exec", &node, "sh", "-ec", manifest(false)]).await?;
        let absent = Self { node: Some(node.clone()) };
        eventually("the API server is gone", WITHIN, async || {
            let left = docker(&["exec", &node, "crictl", "ps", "-q", "--name", "kube-apiserver"]).await?;
            Ok(if left.trim().is_empty() { Ok(()) } else { Err(left) })
        })
        .await?;
        Ok(absent)
    }

    /// Returns when the API server answers again.
    ///
    /// # Errors
    /// If docker fails, or it does not come back.
    pub async fn end(mut self, kind: &Kind) -> Result<()> {
        if let Some(node) = &self.node {
            docker(&["exec", node, "sh", "-ec", manifest(true)]).await?;
        }
        self.node = None;
        eventually("the API server answers", WITHIN, async || {
            kind.kvclusters().list(&ListParams::default()).await?;
            Ok(Ok(()))
        })
        .await
    }
}

impl Drop for NoApiServer {
    fn drop(&mut self) {
        let Some(node) = self.node.take() else { return };
        // A test failed, and nothing better can be done about an error here.
        let _tried = Command::new("docker").args(["exec", &node, "sh", "-ec", manifest(true)]).status();
        // What is dropped next wants to delete what it made.
        let began = Instant::now();
        let answers = || {
            let mut kubectl = Command::new("kubectl");
            kubectl.args(["get", "--raw=/readyz", "--request-timeout=2s"]);
            let status = kubectl.stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        while !answers() && began.elapsed() < WITHIN {
            std::thread::sleep(POLL);
        }
    }
}
