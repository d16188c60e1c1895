//! The one-shot permission to go on without a quorum (`spec.failover.onQuorumLoss`). What it was used for is kept in an
//! annotation of the KvCluster before anybody acts on it: it is used up then, and no other change of the spec renews it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kv_core::id::Epoch;

use crate::crd::{KvCluster, OnQuorumLoss};

/// The annotation that keeps what a permission was used for.
pub const ANNOTATION: &str = "kvcluster.io/forced";

/// What became of the permission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Force {
    /// There is none.
    #[default]
    Denied,
    /// There is none any more, and what the last one was used for is still kept.
    Withdrawn,
    /// There is one, and it was not used yet.
    Granted,
    /// There is one, and it was used for these shards: for each the epoch of the config that was given up.
    Used(BTreeMap<u16, Epoch>),
}

impl Force {
    /// What an object says.
    #[must_use]
    pub fn of(object: &KvCluster) -> Self {
        let kept = kept(&object.metadata);
        match (object.spec.failover.on_quorum_loss, kept) {
            (OnQuorumLoss::Abort, None) => Self::Denied,
            (OnQuorumLoss::Abort, Some(_)) => Self::Withdrawn,
            (OnQuorumLoss::ForceWithPossibleDataLoss, None) => Self::Granted,
            (OnQuorumLoss::ForceWithPossibleDataLoss, Some(text)) => Self::Used(read(text)),
        }
    }

    /// The epoch of a shard's config that was given up.
    #[must_use]
    pub fn epoch(&self, shard: u16) -> Option<Epoch> {
        match self {
            Self::Used(shards) => shards.get(&shard).copied(),
            _ => None,
        }
    }
}

/// The annotation's value, if an object has it.
#[must_use]
pub fn kept(meta: &ObjectMeta) -> Option<&str> {
    meta.annotations.as_ref()?.get(ANNOTATION).map(String::as_str)
}

/// What the annotation says of these shards: `0@17,3@40`, or `none`.
#[must_use]
pub fn write(shards: &BTreeMap<u16, Epoch>) -> String {
    let words: Vec<_> = shards.iter().map(|(shard, epoch)| format!("{shard}@{epoch}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(",") }
}

/// What cannot be read permits nothing.
fn read(text: &str) -> BTreeMap<u16, Epoch> {
    let word = |word: &str| {
        let (shard, epoch) = word.split_once('@')?;
        Some((shard.parse().ok()?, Epoch(epoch.parse().ok()?)))
    };
    text.split(',').filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd;

    fn force(policy: &str, annotation: Option<&str>) -> Force {
        let annotations = annotation.map(|text| format!(", annotations: {{{ANNOTATION}: \"{text}\"}}"));
        let text = format!(
            "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: a{}}}, \
             spec: {{shards: 1, failover: {{onQuorumLoss: {policy}}}}}}}",
            annotations.unwrap_or_default()
        );
        Force::of(&crd::read(&text).unwrap())
    }

    #[test]
    fn a_permission_that_was_used_permits_nothing_else() {
        let shards = BTreeMap::from([(0, Epoch(17)), (3, Epoch(40))]);
        assert_eq!(force("Abort", None), Force::Denied);
        assert_eq!(force("Abort", Some("0@17")), Force::Withdrawn);
        assert_eq!(force("ForceWithPossibleDataLoss", None), Force::Granted);
        let used = force("ForceWithPossibleDataLoss", Some(&write(&shards)));
        assert_eq!(used, Force::Used(shards));
        assert_eq!((used.epoch(3), used.epoch(1)), (Some(Epoch(40)), None));
        for text in [write(&BTreeMap::new()).as_str(), "", "0", "x@1"] {
            let used = force("ForceWithPossibleDataLoss", Some(text));
            assert_eq!(used, Force::Used(BTreeMap::new()), "{text}");
        }
    }
}
