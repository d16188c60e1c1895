//! Faults that only docker can inject: it reaches a Kubernetes node whatever else is cut. See e2e/kind/README.md.

use k8s_openapi::api::core::v1::Pod;
use tokio::process::Command;

use crate::cluster::local::output;
use crate::cluster::{Error, Result};

pub(super) async fn docker(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("docker");
    command.args(arguments);
    output(command).await
}

/// A pod's container, as its Kubernetes node sees it.
pub struct Container {
    node: String,
    id: String,
}

impl Container {
    /// The pod's first container.
    ///
    /// # Errors
    /// If it has none yet.
    pub fn of(pod: &Pod) -> Result<Self> {
        let no = |what: &str| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            Error::Unexpected(format!("pod {name} has no {what}"))
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).ok_or_else(|| no("node"))?;
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let id = statuses
            .and_then(|statuses| statuses.first()?.container_id.clone())
            .ok_or_else(|| no("container"))?;
        Ok(Self { node, id: id.rsplit('/').next().unwrap_or_default().to_owned() })
    }

    /// Runs a program in it, with this command's standard input and output. The API server has no part in that.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.args(["exec", "-i", &self.node, "crictl", "exec", "-i", &self.id]).args(line);
        docker
    }
}

/// The process of a pod's container, as its Kubernetes node sees it.
pub struct Process {
    node: String,
    pid: String,
}

impl Process {
    /// The process of the pod's first container.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn of(pod: &Pod) -> Result<Self> {
        let Container { node, id } = Container::of(pod)?;
        let inspect =
            ["exec", &node, "crictl", "inspect", "-o", "go-template", "--template", "{{.info.pid}}", &id];
        let pid = docker(&inspect).await?.trim().to_owned();
        match pid.parse::<u32>() {
            Ok(2..) => Ok(Self { node, pid }),
            _ => Err(Error::Unexpected(format!("container {id} has no process, but {pid:?}"))),
        }
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// If docker fails.
    pub async fn runs(&self) -> Result<bool> {
        let look = format!("if [ -e /proc/{} ]; then echo yes; else echo no; fi", self.pid);
        Ok(docker(&["exec", &self.node, "sh", "-c", &look]).await?.trim() == "yes")
    }

    /// Sends it a signal, by name, as `kill` does.
    ///
    /// # Errors
    /// If it is gone.
    pub async fn signal(&self, name: &str) -> Result<()> {
        docker(&["exec", &self.node, "kill", &format!("-{name}"), &self.pid]).await.map(drop)
    }
}

/// A Kubernetes node that is cut off from all others, with its pods, until this is healed or dropped.
pub struct CutOff {
    node: Option<String>,
}

fn rules(action: &str) -> String {
    format!(
        "iptables -t mangle {action} PREROUTING -i eth0 -j DROP; iptables -t mangle {action} POSTROUTING -o eth0 -j DROP"
    )
}

impl CutOff {
    /// Cuts a node off.
    ///
    /// # Errors
    /// If docker or iptables fails.
    pub async fn begin(node: &str) -> Result<Self> {
        docker(&["exec", node, "sh", "-ec", &rules("-I")]).await?;
        Ok(Self { node: Some(node.to_owned()) })
    }

    /// Connects it again.
    ///
    /// # Errors
    /// If docker or iptables fails.
    pub async fn heal(mut self) -> Result<()> {
        let Some(node) = self.node.take() else { return Ok(()) };
        docker(&["exec", &node, "sh", "-ec", &rules("-D")]).await.map(drop)
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            // A test failed: the next one needs the node, and nothing better can be done about an error here.
            let _tried =
                std::process::Command::new("docker").args(["exec", &node, "sh", "-c", &rules("-D")]).status();
        }
    }
}

/// A Kubernetes node that takes no new pods, until it is drained of some, and this is ended or dropped.
pub struct Cordoned {
    node: Option<String>,
}

impl Cordoned {
    /// Has a node take no new pods.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn begin(node: &str) -> Result<Self> {
        kubectl(&["cordon", node]).await?;
        Ok(Self { node: Some(node.to_owned()) })
    }

    /// Evicts the pods of a KvCluster from it, as `kubectl drain` does, and waits until they are gone.
    ///
    /// # Errors
    /// If they are not within two minutes.
    pub async fn drain(&self, cluster: &str) -> Result<()> {
        let pods = format!("--pod-selector=kvcluster.io/cluster={cluster}");
        let node = self.node.as_deref().unwrap_or_default();
        kubectl(&["drain", node, &pods, "--delete-emptydir-data", "--timeout=120s"]).await.map(drop)
    }

    /// Has it take pods again.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn end(mut self) -> Result<()> {
        let Some(node) = self.node.take() else { return Ok(()) };
        kubectl(&["uncordon", &node]).await.map(drop)
    }
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            // A test failed: the next one needs the node, and nothing better can be done about an error here.
            let _tried = std::process::Command::new("kubectl").args(["uncordon", &node]).status();
        }
    }
}

async fn kubectl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("kubectl");
    command.args(arguments);
    output(command).await
}
