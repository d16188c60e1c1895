//! The Secrets that are generated once and never overwritten.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::apply::ApplyError;
use super::build::Cluster;
use super::{explain, names};

/// Key of the control password in its Secret.
const CONTROL_KEY: &str = "control-password";

/// Key of a client's password in its Secret.
const PASSWORD_KEY: &str = "password";

/// Why a cluster's Secrets are not there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server refused, or the Secret belongs to somebody else.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The Secret is there and lacks its key.
    #[error("Secret {name} has no key {key}; delete the Secret, and it is generated anew")]
    NoKey {
        /// Name of the Secret.
        name: String,
        /// The key.
        key: &'static str,
    },
    /// The system has no random bytes.
    #[error("no random bytes for a password: {0}")]
    Random(getrandom::Error),
}

/// Makes the Secrets that are missing, and returns the control password. `known` is the control password if it is
/// known already: then a lost Secret comes back as it was.
///
/// # Errors
/// If a Secret cannot be read or made.
pub async fn ensure(client: &Client, cluster: &Cluster, known: Option<&str>) -> Result<String, SecretError> {
    if cluster.spec.auth.is_none() {
        ensure_one(client, cluster, names::auth(&cluster.name), PASSWORD_KEY, None).await?;
    }
    ensure_one(client, cluster, names::control(&cluster.name), CONTROL_KEY, known).await
}

/// The control password, if the Secret is there.
///
/// # Errors
/// If it cannot be read, or belongs to somebody else.
pub async fn control_password(client: &Client, cluster: &Cluster) -> Result<Option<String>, SecretError> {
    find(client, cluster, &names::control(&cluster.name), CONTROL_KEY).await
}

async fn ensure_one(
    client: &Client,
    cluster: &Cluster,
    name: String,
    key: &'static str,
    known: Option<&str>,
) -> Result<String, SecretError> {
    if let Some(found) = find(client, cluster, &name, key).await? {
        return Ok(found);
    }
    let value = match known {
        Some(known) => known.to_owned(),
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
    if !secret.owner_references().iter().any(|owner| owner.uid == cluster.uid) {
        return Err(ApplyError::NotOwned { kind: "Secret", name: name.to_owned() }.into());
    }
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    match value.and_then(|value| String::from_utf8(value.0.clone()).ok()).filter(|text| !text.is_empty()) {
        Some(text) => Ok(Some(text)),
        None => Err(SecretError::NoKey { name: name.to_owned(), key }),
    }
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
