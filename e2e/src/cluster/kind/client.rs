//! The pod that clients run in. They are started by way of docker, and so go on whatever becomes of the API server.

use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::json;

use super::faults::Container;
use super::{Kind, decode, eventually};
use crate::cluster::local::output;
use crate::cluster::{Error, Result};
use crate::ledger::wire::Remote;

const NAME: &str = "kv-e2e-client";
const IMAGE: &str = concat!("kvcluster/e2e:", env!("CARGO_PKG_VERSION"));
const PASSWORD_FILE: &str = "/auth/password";
const START_WITHIN: Duration = Duration::from_secs(60);

/// Starts a ledger in the client pod.
pub async fn ledger(kind: &Kind, cluster: &str) -> Result<Remote> {
    let client = ensure(kind, cluster).await?;
    let seed = format!("{cluster}:6379");
    let mut command =
        client.command(&["/kv-e2e", "ledger", "--seed", &seed, "--password-file", PASSWORD_FILE]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut process = command.spawn()?;
    let pipes = process.stdin.take().zip(process.stdout.take());
    let (input, output) = pipes.ok_or_else(|| Error::Unexpected("docker exec gave no pipes".into()))?;
    Ok(Remote::start(input, output, process).await?)
}

/// Sends one command to one node and returns the reply's text.
pub async fn ask(kind: &Kind, cluster: &str, address: &str, command: &[&str]) -> Result<String> {
    let client = ensure(kind, cluster).await?;
    let mut line = vec!["/kv-e2e", "ask", "--address", address, "--password-file", PASSWORD_FILE, "--"];
    line.extend(command);
    output(client.command(&line)).await
}

/// Makes the pod if it is not there, on the Kubernetes node of the active operator: that one is never cut off.
async fn ensure(kind: &Kind, cluster: &str) -> Result<Container> {
    let pods = kind.api::<Pod>();
    if pods.get_opt(NAME).await?.is_none() {
        let (_, node) = kind.active_operator().await?;
        let pod: Pod = decode(json!({
            "metadata": {"name": NAME},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "client",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["idle"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "auth", "mountPath": "/auth", "readOnly": true}],
                }],
                "volumes": [{"name": "auth", "secret": {"secretName": format!("{cluster}-auth")}}],
            },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
    }
    let pod = eventually("the client pod runs", START_WITHIN, async || {
        let pod = pods.get(NAME).await?;
        let status = pod.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        Ok(if ready { Ok(pod) } else { Err(format!("{:?} {:?}", status.phase, status.container_statuses)) })
    })
    .await?;
    Container::of(&pod)
}
