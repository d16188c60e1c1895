//! The pod that clients run in.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, PostParams};
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{Kind, decode, eventually};
use crate::cluster::{Error, Result};
use crate::ledger::wire::Remote;

const NAME: &str = "kv-e2e-client";
const IMAGE: &str = concat!("kvcluster/e2e:", env!("CARGO_PKG_VERSION"));
const PASSWORD_FILE: &str = "/auth/password";
const START_WITHIN: Duration = Duration::from_secs(60);

/// Starts a ledger in the client pod.
pub async fn ledger(kind: &Kind, cluster: &str) -> Result<Remote> {
    ensure(kind, cluster).await?;
    let seed = format!("{cluster}:6379");
    let command = ["/kv-e2e", "ledger", "--seed", &seed, "--password-file", PASSWORD_FILE];
    let parameters = AttachParams::default().stdin(true).stdout(true).stderr(false);
    let mut process = kind.api::<Pod>().exec(NAME, command, &parameters).await?;
    let pipes = process.stdin().zip(process.stdout());
    let (input, output) = pipes.ok_or_else(|| Error::Unexpected("exec gave no pipes".into()))?;
    Ok(Remote::start(input, output, process).await?)
}

/// Sends one command to one node and returns the reply's text.
pub async fn ask(kind: &Kind, cluster: &str, address: &str, command: &[&str]) -> Result<String> {
    ensure(kind, cluster).await?;
    let mut line = vec!["/kv-e2e", "ask", "--address", address, "--password-file", PASSWORD_FILE, "--"];
    line.extend(command);
    run(kind, &line).await
}

async fn run(kind: &Kind, command: &[&str]) -> Result<String> {
    let parameters = AttachParams::default().stdin(false).stdout(true).stderr(false);
    let mut process = kind.api::<Pod>().exec(NAME, command.to_vec(), &parameters).await?;
    let mut text = String::new();
    let status = process.take_status();
    if let Some(mut output) = process.stdout() {
        output.read_to_string(&mut text).await?;
    }
    let failed = match status {
        Some(status) => status.await.is_some_and(|status| status.status.as_deref() != Some("Success")),
        None => false,
    };
    if failed { Err(Error::Command { command: command.join(" "), output: text }) } else { Ok(text) }
}

/// Makes the pod if it is not there, on the Kubernetes node of the active operator: that one is never cut off.
async fn ensure(kind: &Kind, cluster: &str) -> Result<()> {
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
    eventually("the client pod runs", START_WITHIN, async || {
        let status = pods.get(NAME).await?.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        Ok(if ready { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.container_statuses)) })
    })
    .await
}
