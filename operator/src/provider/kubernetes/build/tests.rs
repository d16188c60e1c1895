use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::crd;

fn cluster(spec: &str) -> Cluster {
    let text = format!(
        "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: shop}}, spec: {spec}}}"
    );
    let read = crd::read(&text).unwrap();
    assert_eq!(read.to_core().err(), None);
    Cluster {
        name: "shop".into(),
        namespace: "market".into(),
        uid: "8c5c3ef0-0000-4000-8000-000000000001".into(),
        spec: read.spec,
        image: "kvcluster/node:1".into(),
    }
}

fn objects(spec: &str) -> Vec<Built> {
    let cluster = cluster(spec);
    let workloads: Vec<_> = (0..cluster.spec.shards)
        .map(|shard| Workload { shard, nodes: cluster.spec.replicas_per_shard + 1 })
        .collect();
    cluster.objects(&workloads, |_| None)
}

const SPECS: [(&str, &str); 2] = [
    ("memory", "{shards: 1, replicasPerShard: 2, config: {maxmemory: 512mb, databases: 4}}"),
    (
        "volume",
        "{shards: 1, image: 'kv:2', storage: {volume: {size: 1Gi, storageClassName: fast, retention: Delete}}, \
         resources: {limits: {memory: 1Gi}, requests: {cpu: 500m}}, auth: {secretRef: {name: mine}}}",
    ),
];

/// What is built, as it lies in `testdata/`; `KV_UPDATE_GOLDEN=1` writes it anew.
#[test]
fn objects_are_as_reviewed() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/provider/kubernetes/build/testdata");
    for (name, spec) in SPECS {
        let text: String = objects(spec)
            .iter()
            .map(|built| format!("---\n{}", serde_saphyr::to_string(&built.object).unwrap()))
            .collect();
        let file = folder.join(format!("{name}.yaml"));
        if std::env::var_os("KV_UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "{name}");
    }
}

#[test]
fn every_field_is_one_that_the_api_knows() {
    fn same<K: DeserializeOwned + Serialize>(object: &Value) {
        let typed: K = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), *object);
    }
    for built in SPECS.iter().flat_map(|(_, spec)| objects(spec)) {
        match built.kind {
            Kind::ConfigMap => same::<ConfigMap>(&built.object),
            Kind::Service => same::<Service>(&built.object),
            Kind::StatefulSet => same::<StatefulSet>(&built.object),
            Kind::PodDisruptionBudget => same::<PodDisruptionBudget>(&built.object),
        }
    }
}

/// The rules of the Pod Security level *restricted*.
#[test]
fn pods_are_restricted() {
    for built in
        SPECS.iter().flat_map(|(_, spec)| objects(spec)).filter(|built| built.kind == Kind::StatefulSet)
    {
        let pod = built.object.pointer("/spec/template/spec").unwrap();
        let pod: PodSpec = serde_json::from_value(pod.clone()).unwrap();
        assert_eq!((pod.host_network, pod.host_pid, pod.host_ipc), (None, None, None));
        let allowed = |volume: &k8s_openapi::api::core::v1::Volume| {
            volume.projected.is_some() || volume.empty_dir.is_some()
        };
        assert!(pod.volumes.unwrap().iter().all(allowed));
        let context = pod.security_context.unwrap();
        assert_eq!(context.run_as_non_root, Some(true));
        assert_ne!(context.run_as_user, Some(0));
        for container in pod.containers {
            let context = container.security_context.unwrap();
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(context.read_only_root_filesystem, Some(true));
            assert_eq!(context.privileged, None);
            assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
            let capabilities = context.capabilities.unwrap();
            assert_eq!(capabilities.drop, Some(vec!["ALL".into()]));
            assert_eq!(capabilities.add, None);
            assert!(container.ports.unwrap().iter().all(|port| port.host_port.is_none()));
        }
    }
}

#[test]
fn a_value_cannot_smuggle_in_a_directive() {
    let mut cluster = cluster("{shards: 1}");
    cluster.spec.config = [("databases".to_owned(), crd::Scalar::Text("4\nport 1".into()))].into();
    assert!(cluster.node_conf().ends_with("\ndatabases 4 port 1\n"), "{}", cluster.node_conf());
}

#[test]
fn the_template_of_an_existing_set_keeps_its_size() {
    let cluster = cluster("{shards: 1, storage: {volume: {size: 2Gi}}}");
    let objects = cluster.objects(&[Workload { shard: 0, nodes: 2 }], |_| Some("1Gi".into()));
    let set = objects.iter().find(|built| built.kind == Kind::StatefulSet).unwrap();
    let size = set.object.pointer("/spec/volumeClaimTemplates/0/spec/resources/requests/storage");
    assert_eq!(size.and_then(Value::as_str), Some("1Gi"));
}
