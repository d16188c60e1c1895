//! The provider against an API server that is made up: what it asks of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::runtime::reflector;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use kv_core::id::{Epoch, NodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::crd;

const UID: &str = "8c5c3ef0-0000-4000-8000-000000000001";

/// One request: method, path without the namespace, body.
type Request = (Method, String, Value);

/// An API server that answers as it is told, and remembers what it was asked.
struct Server {
    client: Client,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    async fn start(
        answer: impl Fn(&Method, &str) -> Option<(u16, Value)> + Clone + Send + Sync + 'static,
    ) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let router = Router::new().fallback(async move |method: Method, uri: Uri, body: Bytes| -> Response {
            let path = uri.path().split("/namespaces/market/").last().unwrap_or_default().to_owned();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let said = answer(&method, &path);
            lock(&log).push((method.clone(), path.clone(), body.clone()));
            let (code, answer) = said.unwrap_or_else(|| match method {
                Method::GET if path == "statefulsets" => {
                    (200, json!({ "kind": "StatefulSetList", "apiVersion": "apps/v1", "metadata": {}, "items": [] }))
                }
                Method::GET => refusal(404, "not found"),
                _ => (200, body),
            });
            (StatusCode::from_u16(code).unwrap(), axum::response::Html(answer.to_string())).into_response()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        Self { client: Client::try_from(config).unwrap(), requests }
    }

    fn count(&self, method: &Method, path: &str) -> usize {
        lock(&self.requests).iter().filter(|(had, at, _)| had == method && at == path).count()
    }

    fn body(&self, method: &Method, path: &str) -> Value {
        let requests = lock(&self.requests);
        requests.iter().find(|(had, at, _)| had == method && at == path).unwrap().2.clone()
    }
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": if code == 404 { "NotFound" } else { "Forbidden" }, "code": code,
    });
    (code, status)
}

fn store<K>(objects: &[Value]) -> kube::runtime::reflector::Store<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize + 'static,
{
    let (reader, mut writer): (_, Writer<K>) = reflector::store();
    for object in objects {
        writer.apply_watcher_event(&Event::Apply(serde_json::from_value(object.clone()).unwrap()));
    }
    reader
}

fn provider(server: &Server, sets: &[Value], pods: &[Value]) -> KubernetesProvider {
    let text = "{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {name: shop}, \
                spec: {shards: 1, replicasPerShard: 1}}";
    let cluster = Cluster {
        name: "shop".into(),
        namespace: "market".into(),
        uid: UID.into(),
        spec: crd::read(text).unwrap().spec,
        image: "kvcluster/node:1".into(),
    };
    let stores = Stores {
        pods: store::<Pod>(pods),
        sets: store::<StatefulSet>(sets),
        services: store(&[]),
        configs: store(&[]),
        budgets: store(&[]),
        claims: store(&[]),
        machines: machines::Machines::default(),
    };
    let passwords = Passwords { control: "c".into(), auth: Some("a".into()) };
    KubernetesProvider::new(server.client.clone(), stores, Arc::default(), cluster, passwords)
}

const WORKLOADS: [Workload; 1] = [Workload { shard: 0, nodes: 2 }];

fn set() -> Value {
    json!({
        "metadata": { "name": "shop-0", "namespace": "market", "uid": "s", "generation": 2,
            "labels": { "kvcluster.io/cluster": "shop", "kvcluster.io/shard": "0" } },
        "spec": { "replicas": 2, "selector": {}, "template": {} },
        "status": { "replicas": 2, "observedGeneration": 2, "updateRevision": "new" },
    })
}

fn pod(ordinal: u16, labels: &Value, ready: &str) -> Value {
    json!({
        "metadata": { "name": format!("shop-0-{ordinal}"), "namespace": "market", "uid": format!("p{ordinal}"),
            "resourceVersion": "7", "labels": labels },
        "spec": { "containers": [{ "name": "node", "args": ["--kv-cluster-uid", UID] }] },
        "status": { "phase": "Running", "podIP": "10.0.0.7", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            "containerStatuses": [{ "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "running": {} } }] },
    })
}

fn labels(revision: &str) -> Value {
    json!({
        "kvcluster.io/cluster": "shop", "kvcluster.io/shard": "0", "controller-revision-hash": revision,
    })
}

#[tokio::test]
async fn an_object_that_is_refused_holds_up_no_other_and_is_left_alone_for_a_while() {
    let refuses = Arc::new(AtomicUsize::new(1));
    let broken = Arc::clone(&refuses);
    let server = Server::start(move |method, path| {
        let refused =
            path == "services/shop" && *method == Method::PATCH && broken.load(Ordering::Relaxed) == 1;
        refused.then(|| refusal(403, "services \"shop\" is forbidden: quota exceeded"))
    })
    .await;
    let provider = provider(&server, &[], &[]);
    let first = provider.apply(&WORKLOADS).await;
    let told: Vec<_> = first.failures.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["cannot apply Service shop: services \"shop\" is forbidden: quota exceeded"]);
    assert_eq!(server.count(&Method::PATCH, "statefulsets/shop-0"), 1, "what comes later is made");
    assert_eq!(server.count(&Method::PATCH, "poddisruptionbudgets/shop-0"), 1);
    assert!(first.retry.is_some_and(|at| at > Instant::now()));

    let next = first.retry.unwrap();
    let again = provider.apply(&WORKLOADS).await;
    assert_eq!(again.failures.len(), 1, "it is still told");
    let tried = server.count(&Method::PATCH, "services/shop");
    // On a busy machine its time may have come.
    assert!(tried == 1 || Instant::now() >= next, "it is not tried again at once");

    // Another spec is another try.
    refuses.store(0, Ordering::Relaxed);
    let mut mended = (*provider.cluster()).clone();
    mended.uid = "another".into();
    provider.set_cluster(mended);
    let mended = provider.apply(&WORKLOADS).await;
    assert!(mended.failures.is_empty() && mended.retry.is_none(), "{:?}", mended.failures);
    assert_eq!(server.count(&Method::PATCH, "services/shop"), tried + 1);
}

#[tokio::test]
async fn a_pod_without_its_labels_is_seen_and_gets_them_back() {
    let server = Server::start(|method, path| match path {
        "pods/shop-0-0" if *method == Method::GET => Some((200, pod(0, &json!({}), "True"))),
        _ => None,
    })
    .await;
    let cut = json!({ "kvcluster.io/cluster": "shop", "controller-revision-hash": "new" });
    let provider = provider(&server, &[set()], &[pod(1, &cut, "True")]);
    for _ in 0..3 {
        let sighting = provider.sight().await.unwrap();
        let names: Vec<_> = sighting.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["shop-0-1", "shop-0-0"]);
    }
    assert_eq!(server.count(&Method::GET, "pods/shop-0-0"), 1);
    provider.apply(&WORKLOADS).await;
    for name in ["shop-0-0", "shop-0-1"] {
        let patch = server.body(&Method::PATCH, &format!("pods/{name}"));
        assert_eq!(
            patch["metadata"]["labels"],
            json!({ "kvcluster.io/cluster": "shop", "kvcluster.io/shard": "0" })
        );
        assert_eq!(patch["metadata"]["uid"], format!("p{}", &name[7..]));
    }
}

#[tokio::test]
async fn a_pod_that_is_gone_or_somebody_elses_is_looked_for_once() {
    let server = Server::start(|method, path| match path {
        "pods/shop-0-0" if *method == Method::GET => {
            let mut foreign = pod(0, &json!({}), "True");
            foreign["spec"]["containers"][0]["args"][1] = json!("other");
            Some((200, foreign))
        }
        _ => None,
    })
    .await;
    let provider = provider(&server, &[set()], &[]);
    for _ in 0..3 {
        assert!(provider.sight().await.unwrap().nodes.is_empty());
    }
    for name in ["shop-0-0", "shop-0-1"] {
        assert_eq!(server.count(&Method::GET, &format!("pods/{name}")), 1);
    }
    provider.apply(&WORKLOADS).await;
    assert_eq!(server.count(&Method::PATCH, "pods/shop-0-0"), 0);
}

#[tokio::test]
async fn only_an_outdated_pod_is_replaced_and_only_as_it_was_seen() {
    let server = Server::start(|_, _| None).await;
    let pods =
        [pod(0, &labels("old"), "True"), pod(1, &labels("old"), "False"), pod(2, &labels("new"), "True")];
    let provider = provider(&server, &[set()], &pods);
    let deletions = |node: &str| server.count(&Method::DELETE, &format!("pods/{node}"));
    for node in ["shop-0-0", "shop-0-1", "shop-0-2", "shop-0-3"] {
        provider.replace(node, Template::Stuck).await.unwrap();
        provider.replace(node, Template::Current).await.unwrap();
    }
    assert_eq!(deletions("shop-0-0"), 0, "one that has become ready is not stuck any more");
    let delete = server.body(&Method::DELETE, "pods/shop-0-1");
    assert_eq!(delete["preconditions"], json!({ "uid": "p1", "resourceVersion": "7" }));
    for node in ["shop-0-0", "shop-0-1", "shop-0-2", "shop-0-3"] {
        provider.replace(node, Template::Outdated).await.unwrap();
    }
    let deleted = ["shop-0-0", "shop-0-1", "shop-0-2", "shop-0-3"].map(deletions);
    assert_eq!(deleted, [1, 1, 0, 0], "one that is up to date is never deleted");
}

#[tokio::test]
async fn a_vote_is_kept_once_and_an_older_one_is_refused() {
    let kept = Arc::new(Mutex::new(None::<String>));
    let (tries, shown) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&kept));
    let server = Server::start(move |method, path| {
        if path != "statefulsets/shop-0" {
            return None;
        }
        let mut live = set();
        live["metadata"]["resourceVersion"] = json!("7");
        if let Some(vote) = lock(&shown).clone() {
            live["metadata"]["annotations"] = json!({ "kvcluster.io/witness-vote": vote });
        }
        match *method {
            // Somebody else's write comes first, once.
            Method::PATCH if tries.fetch_add(1, Ordering::SeqCst) == 0 => Some(refusal(409, "changed")),
            _ => Some((200, live)),
        }
    })
    .await;
    let provider = provider(&server, &[set()], &[]);
    let vote = |epoch: u64| Vote { epoch: Epoch(epoch), master: NodeId::from_bytes([1; 20]) };
    provider.vote(0, vote(18)).await.unwrap();
    assert_eq!(server.count(&Method::PATCH, "statefulsets/shop-0"), 2);
    let body = server.body(&Method::PATCH, "statefulsets/shop-0");
    assert_eq!(body["metadata"]["resourceVersion"], "7");
    let text = body["metadata"]["annotations"]["kvcluster.io/witness-vote"].as_str().unwrap().to_owned();
    assert_eq!(provider.sight().await.unwrap().votes.get(&0), Some(&vote(18)));
    // Another operator, which knows nothing of it, reads it there.
    *lock(&kept) = Some(text);
    assert!(provider.vote(0, vote(17)).await.is_err());
    assert!(provider.vote(0, vote(18)).await.is_ok(), "the same one again");
    assert_eq!(server.count(&Method::PATCH, "statefulsets/shop-0"), 2);
}
