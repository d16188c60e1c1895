//! A KvCluster as its users see it: the fields that they read, by the names that they know. It is made without the
//! operator's own types, so that a renamed field breaks a test.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The object, as `kubectl get kvc -o json` and `kv-operator local status -o json` show it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct View {
    /// Name, generation, deletion.
    pub metadata: Metadata,
    /// What is known of it.
    pub status: Status,
}

/// The part of the metadata that tests look at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// Set once it is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Among them what users ask the operator for.
    pub annotations: BTreeMap<String, String>,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// The generation that the status speaks of.
    pub observed_generation: i64,
    /// Ready, Progressing, Degraded.
    pub conditions: Vec<Condition>,
    /// All conditions in one word.
    pub state: String,
    /// Such as `6/6`.
    pub ready: String,
    /// Such as `3/3`.
    pub masters: String,
    /// The shards.
    pub shards: Vec<Shard>,
}

/// A condition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// For programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A shard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Shard {
    /// From 0.
    pub index: u16,
    /// Grows with each change of the shard's config.
    pub epoch: u64,
    /// Name of the master.
    pub master: Option<String>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The server that it follows.
    pub source: Option<Source>,
}

/// A server that a shard follows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Source {
    /// Whether its data is here, and its stream flows.
    pub following: bool,
    /// Bytes that are still to come.
    pub lag_bytes: Option<u64>,
    /// What is wrong.
    pub problem: Option<String>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name, its pod's.
    pub name: String,
    /// Its random id.
    pub id: Option<String>,
    /// Master or Replica.
    pub role: Option<String>,
    /// Who feeds it.
    pub parent: Option<String>,
    /// What it does.
    pub state: String,
}

impl View {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the condition is there and True.
    #[must_use]
    pub fn holds(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == "True")
    }

    /// Whether the condition Ready holds.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.holds("Ready")
    }

    /// Whether the status speaks of the present spec, all is as specified, and `nodes` nodes of each of `shards` are
    /// ready.
    #[must_use]
    pub fn settled(&self, shards: usize, nodes: usize) -> bool {
        let whole = |shard: &Shard| {
            shard.master.is_some()
                && shard.nodes.len() == nodes
                && shard.nodes.iter().all(|node| node.state == "Ready")
                && shard.nodes.iter().filter(|node| node.role.as_deref() == Some("Master")).count() == 1
        };
        self.status.observed_generation == self.metadata.generation
            && self.ready()
            && !self.holds("Progressing")
            && !self.holds("Degraded")
            && self.status.shards.len() == shards
            && self.status.shards.iter().all(whole)
    }

    /// Name of the master of a shard.
    #[must_use]
    pub fn master(&self, shard: usize) -> Option<&str> {
        self.status.shards.get(shard)?.master.as_deref()
    }

    /// Epoch of a shard's config; 0 if there is none.
    #[must_use]
    pub fn epoch(&self, shard: usize) -> u64 {
        self.status.shards.get(shard).map_or(0, |shard| shard.epoch)
    }

    /// Role of the node of this name.
    #[must_use]
    pub fn role(&self, node: &str) -> Option<&str> {
        self.nodes().find(|one| one.name == node)?.role.as_deref()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.status.shards.iter().flat_map(|shard| &shard.nodes)
    }

    /// For each node that is fed, the ordinals' names: who feeds it.
    #[must_use]
    pub fn parents(&self) -> BTreeMap<&str, &str> {
        self.nodes().filter_map(|node| Some((node.name.as_str(), node.parent.as_deref()?))).collect()
    }

    /// How many steps a shard's node is from its master, for each node in order of the steps.
    #[must_use]
    pub fn depths(&self, shard: usize) -> Vec<usize> {
        let parents = self.parents();
        let nodes = self.status.shards.get(shard).map_or(&[][..], |shard| shard.nodes.as_slice());
        let mut depths: Vec<usize> = nodes
            .iter()
            .map(|node| {
                let up = std::iter::successors(Some(node.name.as_str()), |name| parents.get(name).copied());
                up.take(nodes.len() + 1).count() - 1
            })
            .collect();
        depths.sort_unstable();
        depths
    }

    /// What is known, in one line for a test's output.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{} (generation {}, observed {})",
            self.status.state, self.metadata.generation, self.status.observed_generation
        );
        for condition in &self.status.conditions {
            text += &format!(
                "; {}={} {}: {}",
                condition.kind, condition.status, condition.reason, condition.message
            );
        }
        for shard in &self.status.shards {
            text += &format!("; shard {} epoch {} master {:?}:", shard.index, shard.epoch, shard.master);
            for node in &shard.nodes {
                let role = node.role.as_deref().unwrap_or("-");
                text += &format!(" {} {role} {}", node.name, node.state);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(status: &str) -> View {
        let text = format!(r#"{{"metadata": {{"name": "a", "generation": 2}}, "status": {status}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    const SETTLED: &str = r#"{"observedGeneration": 2, "state": "Ready", "conditions": [{"type": "Ready", "status": "True"}],
        "shards": [{"index": 0, "epoch": 1, "master": "a-0-1", "nodes": [
            {"name": "a-0-0", "role": "Replica", "parent": "a-0-2", "state": "Ready"},
            {"name": "a-0-1", "role": "Master", "state": "Ready"},
            {"name": "a-0-2", "role": "Replica", "parent": "a-0-1", "state": "Ready"}]}]}"#;

    #[test]
    fn settled_needs_all_of_it() {
        assert!(view(SETTLED).settled(1, 3));
        assert!(!view(SETTLED).settled(1, 2), "a node too many");
        assert!(
            !view(&SETTLED.replace("\"observedGeneration\": 2", "\"observedGeneration\": 1")).settled(1, 3)
        );
        assert!(!view(&SETTLED.replace("\"True\"", "\"False\"")).settled(1, 3));
        assert!(
            !view(&SETTLED.replacen("\"state\": \"Ready\"}", "\"state\": \"Syncing\"}", 1)).settled(1, 3)
        );
        assert!(!view("{}").settled(1, 3));
    }

    #[test]
    fn depths_follow_the_parents() {
        assert_eq!(view(SETTLED).depths(0), [0, 1, 2]);
    }
}
