//! Takes a KvCluster into a local cluster's folder, by the rules by which an API server would: what is wrong is
//! refused as a whole, and the cluster that runs is left alone.

use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kv_core::spec::ClusterSpec;

use super::layout::{Layout, LayoutError, random_hex, read, write};
use crate::crd::{self, InvalidField, KvCluster, ReadError};
use crate::wish::annotation;

/// What the names of annotations begin with that the operator, or its commands, make.
const OURS: &str = "kvcluster.io/";

/// Why a KvCluster was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// It cannot be read.
    #[error("{place}: {source}")]
    Unreadable {
        /// The file.
        place: String,
        /// Why.
        source: Box<ReadError>,
    },
    /// It breaks rules.
    #[error("{place}: {}", crd::describe(.fields))]
    Invalid {
        /// The file.
        place: String,
        /// The rules that it breaks.
        fields: Vec<InvalidField>,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What there was of the cluster is gone.
    #[error(
        "{path} is gone, though {dir} holds nodes of that cluster: put it back, or stop them and remove their data with \
         `kv-operator local down --purge --dir {dir}`"
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// The folder.
        dir: PathBuf,
    },
    /// It could not be written as YAML.
    #[error("the KvCluster cannot be written: {0}")]
    Unwritable(String),
}

/// The KvCluster of a folder, with its spec for the planner; `None` if the folder is new.
///
/// # Errors
/// If there is one that cannot be read, or breaks rules.
pub fn load(layout: &Layout) -> Result<Option<(KvCluster, ClusterSpec)>, AdmitError> {
    let path = layout.cluster();
    let Some(text) = read(&path)? else { return Ok(None) };
    parse(&text, &path.display().to_string()).map(Some)
}

/// Reads and checks a KvCluster.
///
/// # Errors
/// If it cannot be read, or breaks rules.
pub fn parse(text: &str, place: &str) -> Result<(KvCluster, ClusterSpec), AdmitError> {
    let cluster = crd::read(text)
        .map_err(|error| AdmitError::Unreadable { place: place.to_owned(), source: Box::new(error) })?;
    let spec = cluster.to_core().map_err(|fields| AdmitError::Invalid { place: place.to_owned(), fields })?;
    Ok((cluster, spec))
}

/// Takes a KvCluster in place of the one that the folder holds, and gives it what an API server would: a uid, the time
/// of its creation, and a generation that grows with each change of its spec.
///
/// # Errors
/// If it breaks rules, or the folder cannot be written.
pub fn admit(layout: &Layout, text: &str, place: &str) -> Result<(KvCluster, ClusterSpec), AdmitError> {
    let (mut cluster, spec) = parse(text, place)?;
    super::layout::create_dir(layout.dir())?;
    let _alone = layout.edit()?;
    let old = load(layout)?.map(|(old, _)| old);
    let invalid = |fields| AdmitError::Invalid { place: place.to_owned(), fields };
    let fields = old.as_ref().map(|old| forbidden_changes(old, &cluster)).unwrap_or_default();
    if !fields.is_empty() {
        return Err(invalid(fields));
    }
    cluster.status = None;
    let meta = &mut cluster.metadata;
    match &old {
        Some(old) => {
            let changed = i64::from(old.spec != cluster.spec);
            meta.uid.clone_from(&old.metadata.uid);
            meta.creation_timestamp.clone_from(&old.metadata.creation_timestamp);
            meta.generation = Some(old.metadata.generation.unwrap_or(1) + changed);
            keep_ours(old, meta);
        }
        None if !layout.node_names()?.is_empty() => {
            // With a new uid it would be another cluster, beside nodes that may still run.
            return Err(AdmitError::Gone { path: layout.cluster(), dir: layout.dir().to_owned() });
        }
        None => {
            let uid = random_hex().map_err(|source| LayoutError::Write { path: layout.cluster(), source })?;
            meta.uid = Some(uid);
            meta.creation_timestamp = Some(Time(now()));
            meta.generation = Some(1);
        }
    }
    save(layout, &cluster)?;
    Ok((cluster, spec))
}

/// As with `kubectl apply`, a file takes away no annotations that others made: wishes, and what a permission was used for.
fn keep_ours(old: &KvCluster, meta: &mut ObjectMeta) {
    let ours = old.metadata.annotations.iter().flatten().filter(|(name, _)| name.starts_with(OURS));
    let ours: Vec<_> = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
    if !ours.is_empty() {
        let annotations = meta.annotations.get_or_insert_default();
        ours.into_iter().for_each(|(name, value)| _ = annotations.entry(name).or_insert(value));
    }
}

/// Writes the folder's KvCluster again if it is gone; false if it is there.
///
/// # Errors
/// If it cannot be written.
pub fn restore(layout: &Layout, cluster: &KvCluster) -> Result<bool, AdmitError> {
    let _alone = layout.edit()?;
    let gone = !layout.cluster().exists();
    if gone {
        save(layout, cluster)?;
    }
    Ok(gone)
}

fn save(layout: &Layout, cluster: &KvCluster) -> Result<(), AdmitError> {
    let text = serde_saphyr::to_string(cluster).map_err(|error| AdmitError::Unwritable(error.to_string()))?;
    Ok(write(&layout.cluster(), text.as_bytes())?)
}

/// Wishes for `node` as the master of a shard or, without a node, takes the wish back.
///
/// # Errors
/// If the folder cannot be read or written.
pub fn wish(layout: &Layout, shard: u16, node: Option<&str>) -> Result<(), AdmitError> {
    annotate(layout, &annotation(shard), |_| Some(node.map(str::to_owned)))
}

/// Sets an annotation of the folder's KvCluster, or takes it away, as `change` says of what there is; `None`: as it is.
///
/// # Errors
/// If the folder cannot be read or written.
pub fn annotate(
    layout: &Layout,
    name: &str,
    change: impl FnOnce(&ObjectMeta) -> Option<Option<String>>,
) -> Result<(), AdmitError> {
    let _alone = layout.edit()?;
    let Some((mut cluster, _)) = load(layout)? else { return Ok(()) };
    let Some(value) = change(&cluster.metadata) else { return Ok(()) };
    let mut annotations = cluster.metadata.annotations.take().unwrap_or_default();
    match value {
        Some(value) => _ = annotations.insert(name.to_owned(), value),
        None => _ = annotations.remove(name),
    }
    cluster.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    save(layout, &cluster)
}

/// The present time, in whole seconds as Kubernetes writes it.
#[must_use]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The rules for changes of an existing cluster, as far as they concern local processes.
fn forbidden_changes(old: &KvCluster, new: &KvCluster) -> Vec<InvalidField> {
    let mut fields = Vec::new();
    let mut require = |holds: bool, field: &str, reason: String| {
        if !holds {
            fields.push(InvalidField { field: field.into(), reason });
        }
    };
    let name = |cluster: &KvCluster| cluster.metadata.name.clone().unwrap_or_default();
    require(
        name(old) == name(new),
        "metadata.name",
        format!("the folder holds the cluster {:?}; choose another --dir for {:?}", name(old), name(new)),
    );
    require(
        old.volume().is_some() == new.volume().is_some(),
        "spec.storage.volume",
        "cannot be added or removed after creation".into(),
    );
    let size = |cluster: &KvCluster| cluster.volume().and_then(|volume| crd::quantity(&volume.size));
    require(size(new) >= size(old), "spec.storage.volume.size", "may only grow".into());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, spec: &str) -> String {
        format!(
            "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: {name}}}, spec: {spec}}}"
        )
    }

    #[test]
    fn a_changed_spec_is_a_new_generation_of_the_same_object() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(load(&layout).unwrap().is_none());
        let (first, _) = admit(&layout, &text("a", "{shards: 2}"), "f").unwrap();
        assert_eq!(first.metadata.generation, Some(1));
        let (same, _) = admit(&layout, &text("a", "{shards: 2}"), "f").unwrap();
        assert_eq!(same, first);
        let (second, _) = admit(&layout, &text("a", "{shards: 2, replicasPerShard: 2}"), "f").unwrap();
        assert_eq!(second.metadata.generation, Some(2));
        assert_eq!(second.metadata.uid, first.metadata.uid);
        assert_eq!(load(&layout).unwrap().unwrap().0, second);
    }

    #[test]
    fn what_is_refused_leaves_the_cluster_alone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let (first, _) = admit(&layout, &text("a", "{shards: 2}"), "f").unwrap();
        for (name, spec, field) in [
            ("b", "{shards: 2}", "metadata.name"),
            ("a", "{shards: 0}", "spec.shards"),
            ("a", "{shards: 2, storage: {volume: {size: 1Gi}}}", "spec.storage.volume"),
            ("a", "{shards: 2, config: {nonsense: 1}}", "spec.config.nonsense"),
            ("a", "{shards: 2, replica: 1}", "spec.replica"),
        ] {
            let error = admit(&layout, &text(name, spec), "f").unwrap_err().to_string();
            assert!(error.starts_with("f: ") && error.contains(field), "{error}");
        }
        assert_eq!(load(&layout).unwrap().unwrap().0, first);
    }

    #[test]
    fn edits_at_the_same_time_are_all_kept() {
        const ROUNDS: u16 = 50;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        admit(&layout, &text("a", "{shards: 2}"), "f").unwrap();
        std::thread::scope(|scope| {
            for shard in 0..2 {
                let layout = &layout;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        wish(layout, shard, Some(&round.to_string())).unwrap();
                    }
                });
            }
            for round in 0..ROUNDS {
                let spec = format!("{{shards: 2, replicasPerShard: {}}}", round % 3);
                admit(&layout, &text("a", &spec), "f").unwrap();
            }
        });
        let (cluster, spec) = load(&layout).unwrap().unwrap();
        let last = (ROUNDS - 1).to_string();
        assert_eq!(crate::wish::wishes(&cluster.metadata), [(0, last.clone()), (1, last)].into());
        assert_eq!(spec.replicas_per_shard, (ROUNDS - 1) % 3);
        assert_eq!(cluster.metadata.generation, Some(i64::from(ROUNDS) + 1));
    }

    #[test]
    fn a_volume_may_grow_and_not_shrink() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let admit = |size: &str| {
            admit(&layout, &text("a", &format!("{{shards: 2, storage: {{volume: {{size: {size}}}}}}}")), "f")
        };
        assert!(admit("1Gi").is_ok());
        assert!(admit("1500Mi").is_ok());
        let error = admit("1Gi").unwrap_err().to_string();
        assert!(error.contains("spec.storage.volume.size: may only grow"), "{error}");
    }
}
