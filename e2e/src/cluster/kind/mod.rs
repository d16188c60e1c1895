//! A cluster on Kubernetes, in a namespace of its own that admits only pods of the *restricted* Pod Security level.
//!
//! The pod network cannot be reached from outside, so that clients run in a pod too ([`client`]). Faults are injected
//! from outside, by the API server or by docker ([`faults`], [`absent`]); [`owned`] knows which objects there may be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::local::output;
use super::truth::Said;
use super::view::View;
use super::{Cluster, Error, Ledger, POLL, Programs, Result};
use crate::ledger::Clock;

pub mod absent;
mod client;
pub mod faults;
pub mod owned;

/// The namespace that the operator is installed into.
pub const OPERATOR_NAMESPACE: &str = "kvcluster-system";
/// How long it may take until another operator is active.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(60);
const FIELD_MANAGER: &str = "kv-e2e";

/// A KvCluster on Kubernetes; its namespace goes with its value.
pub struct Kind {
    client: Client,
    namespace: String,
    name: String,
    clock: Clock,
    said: Arc<Mutex<Vec<Said>>>,
    watcher: Option<JoinHandle<()>>,
}

impl Kind {
    /// Makes a namespace, whose name starts with `purpose`.
    ///
    /// # Errors
    /// If there is no Kubernetes in reach.
    pub async fn new(purpose: &str) -> Result<Self> {
        let client = Client::try_default().await.map_err(|error| Error::Kubeconfig(error.to_string()))?;
        let namespace = format!("{purpose}-{:06x}", fastrand::u32(..0x0100_0000));
        let object: Namespace = decode(json!({"metadata": {
            "name": namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        let said = Arc::default();
        Ok(Self { client, namespace, name: String::new(), clock: Clock::start(), said, watcher: None })
    }

    /// A client of the API server.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Now, in microseconds of Unix time.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    /// The KvClusters of the namespace.
    #[must_use]
    pub fn kvclusters(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), &self.namespace, &resource())
    }

    /// The objects of a built-in kind in the namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// A pod.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn pod(&self, name: &str) -> Result<Pod> {
        Ok(self.api::<Pod>().get(name).await?)
    }

    /// The Kubernetes node that a pod runs on.
    ///
    /// # Errors
    /// If there is no such pod, or it has no place yet.
    pub async fn worker_of(&self, pod: &str) -> Result<String> {
        let node = self.pod(pod).await?.spec.and_then(|spec| spec.node_name);
        node.ok_or_else(|| Error::Unexpected(format!("pod {pod} has no node yet")))
    }

    /// The pods of the cluster's nodes.
    ///
    /// # Errors
    /// If the API server cannot be asked.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let selector = format!("kvcluster.io/cluster={}", self.name);
        Ok(self.api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items)
    }

    /// Deletes a pod; `grace` in seconds, or what the pod itself asks for. 0 is a forced deletion.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn delete_pod(&self, name: &str, grace: Option<u32>) -> Result<()> {
        let parameters = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        self.api::<Pod>().delete(name, &parameters).await?;
        Ok(())
    }

    /// Deletes the KvCluster and waits until it is gone.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn delete(&self, within: Duration) -> Result<()> {
        self.kvclusters().delete(&self.name, &DeleteParams::default()).await?;
        eventually("the KvCluster is gone", within, async || {
            match self.kvclusters().get_opt(&self.name).await? {
                None => Ok(Ok(())),
                Some(object) => Ok(Err(format!("{:?}", object.metadata))),
            }
        })
        .await
    }

    /// Name of the pod of the operator that is active now, and the Kubernetes node that it runs on.
    ///
    /// # Errors
    /// If no operator holds the lease.
    pub async fn active_operator(&self) -> Result<(String, String)> {
        let leases: Api<Lease> = Api::namespaced(self.client(), OPERATOR_NAMESPACE);
        let leases = leases.list(&ListParams::default()).await?;
        let holders = leases.items.into_iter().filter_map(|lease| lease.spec?.holder_identity);
        let pods: Api<Pod> = Api::namespaced(self.client(), OPERATOR_NAMESPACE);
        let pods = pods.list(&ListParams::default()).await?.items;
        for holder in holders {
            let pod = pods
                .iter()
                .find(|pod| pod.metadata.name.as_ref().is_some_and(|name| holder.starts_with(name.as_str())));
            let place = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
            if let Some((pod, node)) = pod.and_then(|pod| pod.metadata.name.clone()).zip(place) {
                return Ok((pod, node));
            }
        }
        Err(Error::Unexpected(format!("no operator pod of {OPERATOR_NAMESPACE} holds a lease")))
    }

    /// Kills the operator that is active now, without grace.
    ///
    /// # Errors
    /// If there is none for longer than it takes to get one.
    pub async fn kill_operator(&self) -> Result<()> {
        let active = async || Ok(self.active_operator().await.map_err(|error| error.to_string()));
        let (pod, _) = eventually("an operator is active", TAKE_OVER_WITHIN, active).await?;
        let pods: Api<Pod> = Api::namespaced(self.client(), OPERATOR_NAMESPACE);
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        pods.delete(&pod, &parameters).await?;
        Ok(())
    }

    /// The process of the operator that is active now.
    ///
    /// # Errors
    /// If no operator holds the lease.
    pub async fn operator_process(&self) -> Result<faults::Process> {
        let pods: Api<Pod> = Api::namespaced(self.client(), OPERATOR_NAMESPACE);
        let (pod, _) = self.active_operator().await?;
        faults::Process::of(&pods.get(&pod).await?).await
    }

    /// Has a node lead its shard, or the best replica if none is named, by `kubectl kv`; returns what that printed.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub async fn switchover(&self, shard: usize, to: Option<&str>) -> Result<String> {
        let mut command = tokio::process::Command::new(Programs::find()?.path("kubectl-kv"));
        command.args(["switchover", &self.name, "--namespace", &self.namespace]);
        command.args(["--shard", &shard.to_string()]);
        if let Some(node) = to {
            command.args(["--to", node]);
        }
        output(command).await
    }

    fn watch(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        let (clock, said) = (self.clock, self.said.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let stream = watcher(self.kvclusters(), only).default_backoff().applied_objects();
        self.watcher = Some(tokio::spawn(stream.for_each(move |object| {
            if let Ok(view) = object.map_err(|_| ()).and_then(|object| view_of(&object).map_err(|_| ())) {
                let word = Said { at_us: clock.now_us(), ready: view.ready() };
                said.lock().unwrap_or_else(PoisonError::into_inner).push(word);
            }
            futures::future::ready(())
        })));
    }
}

impl Cluster for Kind {
    async fn view(&self) -> Result<View> {
        view_of(&self.kvclusters().get(&self.name).await?)
    }

    async fn apply(&mut self, manifest: &Value) -> Result<()> {
        let object: DynamicObject = decode(manifest.clone())?;
        self.name = object.metadata.name.clone().unwrap_or_default();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.kvclusters().patch(&self.name, &parameters, &Patch::Apply(&object)).await?;
        self.watch();
        Ok(())
    }

    async fn kill(&self, node: &str) -> Result<()> {
        faults::Process::of(&self.pod(node).await?).await?.signal("KILL").await
    }

    async fn freeze(&self, node: &str) -> Result<()> {
        faults::Process::of(&self.pod(node).await?).await?.signal("STOP").await
    }

    async fn thaw(&self, node: &str) -> Result<()> {
        faults::Process::of(&self.pod(node).await?).await?.signal("CONT").await
    }

    async fn ledger(&self) -> Result<Ledger> {
        Ok(Ledger::There(client::ledger(self, &self.name).await?))
    }

    async fn info(&self, node: &str) -> Result<String> {
        let status = self.pod(node).await?.status.unwrap_or_default();
        let ip = status.pod_ip.ok_or_else(|| Error::Unexpected(format!("{node} has no address yet")))?;
        client::ask(self, &self.name, &format!("{ip}:6379"), &["INFO"]).await
    }

    fn history(&self) -> String {
        history(&self.namespace)
    }

    fn said(&self) -> Vec<Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if std::thread::panicking() {
            eprintln!("{}", history(&self.namespace));
            if std::env::var_os("KV_E2E_KEEP").is_some() {
                eprintln!("KV_E2E_KEEP is set: the namespace {} stays", self.namespace);
                return;
            }
        }
        // The operator first, while it can: it finishes what it owns.
        for arguments in [&["delete", "kvclusters", "--all", "--timeout=30s"][..], &["delete", "namespace"]] {
            let mut command = std::process::Command::new("kubectl");
            match arguments {
                ["delete", "namespace"] => command.args(arguments).arg(&self.namespace).arg("--wait=false"),
                _ => command.args(arguments).args(["-n", &self.namespace]),
            };
            // What cannot be deleted here goes with the Kubernetes cluster.
            let _tried = command.stdout(std::process::Stdio::null()).status();
        }
    }
}

/// What helps to understand a failure.
fn history(namespace: &str) -> String {
    let operator_log =
        ["logs", "-n", OPERATOR_NAMESPACE, "--selector=app.kubernetes.io/component=operator", "--tail=60"];
    let objects = ["get", "kvclusters,statefulsets,pods", "-o", "wide", "-n", namespace];
    let events = ["get", "events", "--sort-by=.lastTimestamp", "-n", namespace];
    let status = ["get", "kvclusters", "-o", "yaml", "-n", namespace];
    let mut text = String::new();
    for arguments in [&objects[..], &events, &status, &operator_log] {
        let output = std::process::Command::new("kubectl").args(arguments).output();
        let output = output.map(|output| output.stdout).unwrap_or_default();
        text += &format!("kubectl {}\n{}\n", arguments.join(" "), String::from_utf8_lossy(&output));
    }
    text
}

/// Waits until `done` says Ok; on the way it says what is seen.
///
/// # Errors
/// If that takes longer than `within`, or something fails that will not mend.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    done: impl AsyncFn() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let last = match done().await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(last)) => last,
            Err(error) => error.to_string(),
        };
        if started.elapsed() > within {
            return Err(Error::TooLate { what: what.to_owned(), waited_s: within.as_secs(), last });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("kvcluster.io", "v1alpha1", "KvCluster"),
        "kvclusters",
    )
}

fn view_of(object: &DynamicObject) -> Result<View> {
    serde_json::to_value(object)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::Unexpected(error.to_string()))
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Unexpected(error.to_string()))
}
