//! The Secrets that are generated once and never overwritten.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::apply::ApplyError;
use super::build::Cluster;
use super::{explain, names};
use crate::provider::Login;

/// Key of the control password in its Secret.
const CONTROL_KEY: &str = "control-password";

/// Key of a client's password in its Secret.
const PASSWORD_KEY: &str = "password";

/// Key of a user in the Secret of a source.
const USERNAME_KEY: &str = "username";

/// Why a cluster's Secrets are not there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server refused, or the Secret belongs to somebody else.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The Secret is there and lacks its key.
    #[error(
        "Secret {name} has no key {key}; add the key with the password that the nodes have (if nobody knows it, with a \
         new one, and then delete all pods of the cluster)"
    )]
    NoKey {
        /// Name of the Secret.
        name: String,
        /// The key.
        key: &'static str,
    },
    /// The Secret is gone while nodes use it: another password would lock everybody out of them.
    #[error(
        "Secret {name} is gone, and nodes use its password; create it again with the label {label}={cluster} and the \
         old password under the key {key} (if nobody knows it, with a new one, and then delete all pods of the \
         cluster)", label = names::CLUSTER
    )]
    Lost {
        /// Name of the Secret.
        name: String,
        /// The cluster.
        cluster: String,
        /// The key.
        key: &'static str,
    },
    /// The Secret of a source is not there, or lacks its password.
    #[error(
        "Secret {0}, which spec.source.secretRef names, has no key password; create it in the namespace of the KvCluster, \
         with the keys password and, if the user is not the default one, username"
    )]
    NoLogin(String),
    /// The system has no random bytes.
    #[error("no random bytes for a password: {0}")]
    Random(getrandom::Error),
}

/// What is in the generated Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwords {
    /// That of the control protocol.
    pub control: String,
    /// That of clients; `None` if users give it.
    pub auth: Option<String>,
}

/// Makes the Secrets that are missing, and returns their passwords. A lost Secret comes back as it was if its password
/// is `known`; if not, it is generated only if none of the cluster's StatefulSets uses it yet.
///
/// # Errors
/// If a Secret cannot be read or made.
pub async fn ensure(
    client: &Client,
    cluster: &Cluster,
    sets: &[Arc<StatefulSet>],
    known: Option<&Passwords>,
) -> Result<Passwords, SecretError> {
    let auth = if cluster.spec.auth.is_none() {
        let known = known.and_then(|known| known.auth.as_deref());
        Some(ensure_one(client, cluster, names::auth(&cluster.name), PASSWORD_KEY, sets, known).await?)
    } else {
        None
    };
    let known = known.map(|known| known.control.as_str());
    let control =
        ensure_one(client, cluster, names::control(&cluster.name), CONTROL_KEY, sets, known).await?;
    Ok(Passwords { control, auth })
}

/// The control password, if the Secret is there.
///
/// # Errors
/// If it cannot be read, or belongs to somebody else.
pub async fn control_password(client: &Client, cluster: &Cluster) -> Result<Option<String>, SecretError> {
    find(client, cluster, &names::control(&cluster.name), CONTROL_KEY).await
}

/// User and password of a Secret that a user made, as those of type kubernetes.io/basic-auth have them.
///
/// # Errors
/// If it cannot be read, or is not there, or has no password.
pub async fn login(client: &Client, cluster: &Cluster, name: &str) -> Result<Login, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let secret = api.get_opt(name).await.map_err(|source| failed("get", name, source))?;
    let text = |key: &str| {
        let value = secret.as_ref()?.data.as_ref()?.get(key)?;
        String::from_utf8(value.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let password = text(PASSWORD_KEY).ok_or_else(|| SecretError::NoLogin(name.to_owned()))?;
    Ok(Login { username: text(USERNAME_KEY), password })
}

async fn ensure_one(
    client: &Client,
    cluster: &Cluster,
    name: String,
    key: &'static str,
    sets: &[Arc<StatefulSet>],
    known: Option<&str>,
) -> Result<String, SecretError> {
    if let Some(found) = find(client, cluster, &name, key).await? {
        return Ok(found);
    }
    let value = match known {
        Some(known) => known.to_owned(),
        None if sets.iter().any(|set| uses(set, &cluster.uid, &name)) => {
            return Err(SecretError::Lost { name, cluster: cluster.name.clone(), key });
        }
        None => generate().map_err(SecretError::Random)?,
    };
    let secret: Result<Secret, _> = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": names::labels(&cluster.name, None),
            "ownerReferences": [cluster.owner_reference()],
        },
        "type": "Opaque",
        "stringData": { key: value },
    }));
    let secret = secret.map_err(|error| failed("build", &name, kube::Error::SerdeError(error)))?;
    let params = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    match api.create(&params, &secret).await {
        Ok(_) => Ok(value),
        // Another operator was first: its password counts.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            find(client, cluster, &name, key).await?.ok_or(SecretError::NoKey { name, key })
        }
        Err(source) => Err(failed("create", &name, source)),
    }
}

async fn find(
    client: &Client,
    cluster: &Cluster,
    name: &str,
    key: &'static str,
) -> Result<Option<String>, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let Some(secret) = api.get_opt(name).await.map_err(|source| failed("get", name, source))? else {
        return Ok(None);
    };
    if !is_ours(&secret, cluster) {
        return Err(ApplyError::NotOwned { kind: "Secret", name: name.to_owned() }.into());
    }
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    match value.and_then(|value| String::from_utf8(value.0.clone()).ok()).filter(|text| !text.is_empty()) {
        Some(text) => Ok(Some(text)),
        None => Err(SecretError::NoKey { name: name.to_owned(), key }),
    }
}

/// A Secret that a user made anew has no owner: then its label tells that it is meant.
fn is_ours(secret: &Secret, cluster: &Cluster) -> bool {
    let owners = secret.owner_references();
    owners.iter().any(|owner| owner.uid == cluster.uid)
        || (owners.is_empty() && secret.labels().get(names::CLUSTER) == Some(&cluster.name))
}

/// Whether the pods of the cluster's StatefulSet mount the Secret.
fn uses(set: &StatefulSet, uid: &str, secret: &str) -> bool {
    let is_ours = set.owner_references().iter().any(|owner| owner.uid == uid);
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let volumes = pod.and_then(|pod| pod.volumes.as_ref()).into_iter().flatten();
    let sources = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let mut secrets = sources.filter_map(|source| source.secret.as_ref());
    is_ours && secrets.any(|source| source.name == secret)
}

fn failed(verb: &'static str, name: &str, source: kube::Error) -> SecretError {
    ApplyError::Api { verb, kind: "Secret", name: name.to_owned(), why: explain(&source) }.into()
}

/// 160 random bits as hex digits.
fn generate() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let read = crate::crd::read(
            "{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {name: shop}, spec: {shards: 1}}",
        );
        Cluster {
            name: "shop".into(),
            namespace: "market".into(),
            uid: "u".into(),
            spec: read.unwrap().spec,
            image: "kv:1".into(),
        }
    }

    #[test]
    fn a_secret_is_in_use_once_a_stateful_set_mounts_it() {
        let cluster = cluster();
        let workload = kv_core::plan::Workload { shard: 0, nodes: 3 };
        let built = cluster.objects(&[workload], |_| None);
        let set = built.into_iter().find(|built| built.kind.name() == "StatefulSet").unwrap();
        let set: StatefulSet = serde_json::from_value(set.object).unwrap();
        assert!(uses(&set, "u", "shop-auth") && uses(&set, "u", "shop-control"));
        assert!(!uses(&set, "u", "mine") && !uses(&set, "another", "shop-auth"));
    }

    #[test]
    fn a_secret_without_owner_counts_if_it_is_labelled() {
        let secret = |metadata| serde_json::from_value::<Secret>(json!({ "metadata": metadata })).unwrap();
        let owner = |uid| json!([{ "apiVersion": "v1", "kind": "KvCluster", "name": "shop", "uid": uid }]);
        let label = json!({ names::CLUSTER: "shop" });
        let cluster = cluster();
        assert!(is_ours(&secret(json!({ "ownerReferences": owner("u") })), &cluster));
        assert!(is_ours(&secret(json!({ "labels": label })), &cluster));
        assert!(!is_ours(&secret(json!({ "labels": label, "ownerReferences": owner("w") })), &cluster));
        assert!(!is_ours(&secret(json!({})), &cluster));
    }
}
