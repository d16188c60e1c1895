//! A spec as the planner wants it, or every field that is wrong. The API server has checked the same rules for an
//! object that comes from it; the directives of `spec.config` are checked only here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use kv_core::quorum::Acknowledge;
use kv_core::spec::{ClusterSpec, Home, Preferred};
use kv_core::{directive, lease, source, topology};

use super::schema::{MAX_DURATION, MAX_NAME};
use super::{
    AcknowledgeMode, Failback, KvCluster, KvClusterSpec, OnIsolation, Topology, TopologyType, Writers,
};

/// A field that cannot be as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidField {
    /// Path of the field, such as `spec.shards`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// All invalid fields in one line.
#[must_use]
pub fn describe(fields: &[InvalidField]) -> String {
    fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl KvCluster {
    /// The spec in plain Rust, checked.
    ///
    /// # Errors
    /// Every field that is wrong, in the order of the spec.
    pub fn to_core(&self) -> Result<ClusterSpec, Vec<InvalidField>> {
        let mut found = Findings::default();
        let spec = &self.spec;
        found.require(valid_name(self.metadata.name.as_deref().unwrap_or_default()), "metadata.name", || {
            format!(
                "must have 1 to {MAX_NAME} characters: a lower-case letter, then lower-case letters, digits or '-', \
                 and no '-' at the end"
            )
        });
        found.require((1..=1024).contains(&spec.shards), "spec.shards", || {
            format!("must be from 1 to 1024, not {}", spec.shards)
        });
        found.require(spec.replicas_per_shard <= 8, "spec.replicasPerShard", || {
            format!("must be from 0 to 8, not {}", spec.replicas_per_shard)
        });
        let topology = found.topology(&spec.replication.topology);
        let acknowledge = found.acknowledge(spec, topology);
        let failover = found.failover(spec);
        let preferred = found.preferred(spec);
        if let Some(volume) = self.volume() {
            found.require(
                quantity(&volume.size).is_some_and(|size| size > 0.0),
                "spec.storage.volume.size",
                || format!("must be a quantity above 0, such as 10Gi, not {:?}", volume.size),
            );
        }
        let source = found.source(spec);
        let config: BTreeMap<String, String> =
            spec.config.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        found.0.extend(wrong_directives(&config));
        if found.0.is_empty() {
            Ok(ClusterSpec {
                shards: spec.shards,
                replicas_per_shard: spec.replicas_per_shard,
                topology,
                acknowledge,
                failover,
                preferred,
                source,
                durable: self.volume().is_some(),
                config,
            })
        } else {
            Err(found.0)
        }
    }
}

fn wrong_directives(config: &BTreeMap<String, String>) -> Vec<InvalidField> {
    let errors = directive::validate_spec_config(config).err().unwrap_or_default();
    errors
        .into_iter()
        .map(|error| InvalidField {
            field: format!("spec.config.{}", error.name),
            reason: error.problem.to_string(),
        })
        .collect()
}

#[derive(Default)]
struct Findings(Vec<InvalidField>);

impl Findings {
    fn add(&mut self, field: &str, reason: impl Into<String>) {
        self.0.push(InvalidField { field: field.into(), reason: reason.into() });
    }

    fn require(&mut self, holds: bool, field: &str, reason: impl FnOnce() -> String) {
        if !holds {
            self.add(field, reason());
        }
    }

    fn topology(&mut self, wanted: &Topology) -> topology::Topology {
        let field = "spec.replication.topology.fanout";
        match (wanted.kind, wanted.fanout) {
            (TopologyType::Tree, Some(fanout)) => {
                self.require((1..=8).contains(&fanout), field, || {
                    format!("must be from 1 to 8, not {fanout}")
                });
                topology::Topology::Tree { fanout }
            }
            (TopologyType::Tree, None) => {
                self.add(field, "must be given with type Tree");
                topology::Topology::Tree { fanout: 1 }
            }
            (other, fanout) => {
                self.require(fanout.is_none(), field, || {
                    format!("has no meaning with type {other:?}; remove it")
                });
                if other == TopologyType::Chain {
                    topology::Topology::Chain
                } else {
                    topology::Topology::Star
                }
            }
        }
    }

    fn failover(&mut self, spec: &KvClusterSpec) -> lease::Failover {
        let wanted = &spec.failover;
        let bounds = Duration::from_millis(500)..=Duration::from_secs(60);
        let told = "from 500ms to 60s, such as 2s";
        let down_after_ms = self.duration("spec.failover.downAfter", &wanted.down_after, bounds, told);
        let lease_ms = match &wanted.lease {
            None => down_after_ms * 3 / 4,
            Some(text) => {
                let bounds = Duration::from_millis(200)..=Duration::from_secs(60);
                let told = "from 200ms to 60s, such as 1500ms";
                let lease_ms = self.duration("spec.failover.lease", text, bounds, told);
                self.require(down_after_ms == 0 || lease_ms < down_after_ms, "spec.failover.lease", || {
                    format!("must be less than spec.failover.downAfter, {}, not {text}", wanted.down_after)
                });
                lease_ms
            }
        };
        let on_isolation = match wanted.on_isolation {
            OnIsolation::RefuseWrites => lease::OnIsolation::RefuseWrites,
            OnIsolation::KeepWriting => lease::OnIsolation::KeepWriting,
        };
        let is_async = spec.replication.acknowledge.mode == AcknowledgeMode::Async;
        self.require(
            wanted.on_isolation == OnIsolation::RefuseWrites || is_async,
            "spec.failover.onIsolation",
            || "KeepWriting needs spec.replication.acknowledge.mode Async".to_owned(),
        );
        lease::Failover { down_after_ms, lease_ms, on_isolation }
    }

    fn preferred(&mut self, spec: &KvClusterSpec) -> Option<Preferred> {
        const FIELD: &str = "spec.failover.preferred";
        let (wanted, highest) = (&spec.failover, spec.replicas_per_shard);
        let bounds = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        let told = "from 1s to 24h, such as 1m";
        let after = self.duration("spec.failover.failbackAfter", &wanted.failback_after, bounds, told);
        let fails_back = wanted.failback == Failback::WhenCaughtUp;
        self.require(!fails_back || wanted.preferred.is_some(), "spec.failover.failback", || {
            format!("WhenCaughtUp needs {FIELD}")
        });
        let home = wanted.preferred.as_ref().and_then(|preferred| {
            match (preferred.zone.clone(), preferred.ordinal) {
                (Some(zone), None) if !zone.is_empty() => Some(Home::Zone(zone)),
                (None, Some(ordinal)) => {
                    self.require(ordinal <= highest, &format!("{FIELD}.ordinal"), || {
                        format!("must be at most {highest}, spec.replicasPerShard, not {ordinal}")
                    });
                    Some(Home::Ordinal(ordinal))
                }
                _ => {
                    self.add(FIELD, "must have one of zone and ordinal");
                    None
                }
            }
        });
        home.map(|home| Preferred { home, failback_ms: fails_back.then_some(after) })
    }

    fn source(&mut self, spec: &KvClusterSpec) -> Option<source::Source> {
        let wanted = spec.source.as_ref()?;
        let readable = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        let named = !wanted.host.is_empty() && wanted.host.len() <= 253 && wanted.host.chars().all(readable);
        self.require(named, "spec.source.host", || {
            format!("must be a host name or an IP address, not {:?}", wanted.host)
        });
        self.require(wanted.port > 0, "spec.source.port", || "must be from 1 to 65535, not 0".to_owned());
        self.require(spec.shards == 1, "spec.source", || {
            format!(
                "can be adopted by a cluster of one shard only: spec.shards must be 1, not {}",
                spec.shards
            )
        });
        Some(source::Source {
            host: wanted.host.clone(),
            port: wanted.port,
            secret: wanted.secret_ref.as_ref().map(|secret| secret.name.clone()),
            writers: match wanted.writers {
                Writers::Pause => source::Writers::Pause,
                Writers::Stopped => source::Writers::Stopped,
            },
        })
    }

    fn duration(&mut self, field: &str, text: &str, bounds: RangeInclusive<Duration>, told: &str) -> u64 {
        match parse_duration(text).filter(|duration| bounds.contains(duration)) {
            Some(duration) => u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            None => {
                self.add(field, format!("must be a duration {told}, not {text:?}"));
                0
            }
        }
    }

    fn acknowledge(&mut self, spec: &KvClusterSpec, topology: topology::Topology) -> Acknowledge {
        const FIELD: &str = "spec.replication.acknowledge";
        let wanted = &spec.replication.acknowledge;
        let bounds = Duration::from_millis(10)..=Duration::from_secs(60);
        let told = "from 10ms to 60s, such as 1s";
        let timeout_ms = self.duration(&format!("{FIELD}.timeout"), &wanted.timeout, bounds, told);
        let only = |mode| format!("has a meaning with mode {mode} only; remove it");
        self.require(
            wanted.replicas.is_none() || wanted.mode == AcknowledgeMode::SemiSync,
            &format!("{FIELD}.replicas"),
            || only("SemiSync"),
        );
        self.require(
            wanted.copies.is_none() || wanted.mode == AcknowledgeMode::Quorum,
            &format!("{FIELD}.copies"),
            || only("Quorum"),
        );
        // Only replicas that the master feeds itself acknowledge.
        let direct = spec.replicas_per_shard.min(u16::try_from(topology.fanout()).unwrap_or(u16::MAX));
        match wanted.mode {
            AcknowledgeMode::Async => Acknowledge::Async,
            AcknowledgeMode::SemiSync => {
                let replicas = wanted.replicas.unwrap_or(1);
                self.require((1..=direct).contains(&replicas), &format!("{FIELD}.replicas"), || {
                    format!(
                        "must be from 1 to {direct}, the replicas that a master feeds itself, not {replicas}"
                    )
                });
                Acknowledge::SemiSync { replicas, timeout_ms }
            }
            AcknowledgeMode::Quorum => {
                let copies = wanted.copies.unwrap_or(spec.replicas_per_shard.div_ceil(2) + 1).max(1);
                self.require((2..=direct + 1).contains(&copies), &format!("{FIELD}.copies"), || {
                    format!(
                        "must be from 2 to {}, the master and the replicas that it feeds itself, not {copies}",
                        direct + 1
                    )
                });
                Acknowledge::Quorum { copies, timeout_ms }
            }
        }
    }
}

/// A duration such as `1m30s`; `None` if the text is none, or longer than the API server lets it be.
fn parse_duration(text: &str) -> Option<Duration> {
    // The parser panics on numbers beyond its type, and on signs within: the length keeps all numbers below.
    let sound = |c: char| c.is_ascii_digit() || c == '.' || c.is_ascii_lowercase();
    let bounded = text.len() <= MAX_DURATION && text.chars().all(sound);
    let parsed = bounded.then(|| text.parse::<kube::core::Duration>());
    parsed?.ok().map(Duration::from)
}

fn valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The number that a Kubernetes quantity stands for, such as 1024 for `1Ki`; `None` if the text is no quantity.
#[must_use]
pub fn quantity(text: &str) -> Option<f64> {
    let suffix_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(suffix_at);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::super::read;

    /// Each case: fields under `spec`, and the fields that are named as wrong.
    #[test]
    fn wrong_fields_are_named() {
        let cases: &[(&str, &[&str])] = &[
            ("{shards: 3}", &[]),
            ("{shards: 0}", &["spec.shards"]),
            ("{shards: 1025, replicasPerShard: 9}", &["spec.shards", "spec.replicasPerShard"]),
            ("{shards: 1, replication: {topology: {type: Chain}}}", &[]),
            ("{shards: 1, replication: {topology: {type: Tree, fanout: 2}}}", &[]),
            ("{shards: 1, replication: {topology: {type: Tree}}}", &["spec.replication.topology.fanout"]),
            ("{shards: 1, replication: {topology: {fanout: 2}}}", &["spec.replication.topology.fanout"]),
            ("{shards: 1, failover: {downAfter: 500ms}}", &[]),
            ("{shards: 1, failover: {downAfter: 1m}}", &[]),
            ("{shards: 1, failover: {downAfter: 499ms}}", &["spec.failover.downAfter"]),
            ("{shards: 1, failover: {downAfter: -2s}}", &["spec.failover.downAfter"]),
            ("{shards: 1, failover: {downAfter: soon}}", &["spec.failover.downAfter"]),
            ("{shards: 1, failover: {downAfter: 1s, lease: 999ms, onIsolation: KeepWriting}}", &[]),
            ("{shards: 1, failover: {downAfter: 1s, lease: 1s}}", &["spec.failover.lease"]),
            (
                "{shards: 1, failover: {onIsolation: KeepWriting}, replication: {acknowledge: {mode: SemiSync}}}",
                &["spec.failover.onIsolation"],
            ),
            (
                "{shards: 1, failover: {preferred: {ordinal: 1}, failback: WhenCaughtUp, failbackAfter: 1h}}",
                &[],
            ),
            ("{shards: 1, failover: {preferred: {zone: eu}}}", &[]),
            ("{shards: 1, failover: {preferred: {ordinal: 2}}}", &["spec.failover.preferred.ordinal"]),
            ("{shards: 1, failover: {preferred: {zone: eu, ordinal: 0}}}", &["spec.failover.preferred"]),
            ("{shards: 1, failover: {preferred: {}}}", &["spec.failover.preferred"]),
            (
                "{shards: 1, failover: {failback: WhenCaughtUp, failbackAfter: 999ms}}",
                &["spec.failover.failbackAfter", "spec.failover.failback"],
            ),
            ("{shards: 1, replication: {acknowledge: {mode: SemiSync}}}", &[]),
            ("{shards: 1, replication: {acknowledge: {mode: Quorum, copies: 2, timeout: 200ms}}}", &[]),
            (
                "{shards: 1, replication: {acknowledge: {mode: Quorum, copies: 3}}}",
                &["spec.replication.acknowledge.copies"],
            ),
            (
                "{shards: 1, replicasPerShard: 0, replication: {acknowledge: {mode: Quorum}}}",
                &["spec.replication.acknowledge.copies"],
            ),
            (
                "{shards: 1, replicasPerShard: 3, replication: {topology: {type: Chain}, acknowledge: {mode: SemiSync, \
                 replicas: 2}}}",
                &["spec.replication.acknowledge.replicas"],
            ),
            (
                "{shards: 1, replication: {acknowledge: {copies: 2, replicas: 1, timeout: 1h}}}",
                &[
                    "spec.replication.acknowledge.timeout",
                    "spec.replication.acknowledge.replicas",
                    "spec.replication.acknowledge.copies",
                ],
            ),
            ("{shards: 1, config: {maxmemory: 512mb, timeout: 60}}", &[]),
            ("{shards: 1, config: {port: 1}}", &["spec.config.port"]),
            (
                "{shards: 1, config: {maxmemroy: 512mb, timeout: soon}}",
                &["spec.config.maxmemroy", "spec.config.timeout"],
            ),
            ("{shards: 1, source: {host: old.example}}", &[]),
            ("{shards: 2, source: {host: old.example}}", &["spec.source"]),
            ("{shards: 1, source: {host: 'a b', port: 0}}", &["spec.source.host", "spec.source.port"]),
            ("{shards: 1, storage: {volume: {size: 1.5Gi}}}", &[]),
            ("{shards: 1, storage: {volume: {size: lots}}}", &["spec.storage.volume.size"]),
            ("{shards: 1, storage: {volume: {size: 0Gi}}}", &["spec.storage.volume.size"]),
        ];
        for (spec, wrong) in cases {
            let text = format!(
                "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: shop}}, spec: {spec}}}"
            );
            let found = read(&text).unwrap().to_core().err().unwrap_or_default();
            let fields: Vec<_> = found.iter().map(|invalid| invalid.field.as_str()).collect();
            assert_eq!(&fields, wrong, "{spec}: {found:?}");
        }
    }

    /// None of them may end the operator, which looks after other clusters too.
    #[test]
    fn durations_that_are_none_are_refused() {
        for text in [
            "99999999999999999999s",
            "9999999999999999h",
            "999999999999999h9h",
            "1s-5s",
            "-1s",
            "-0s",
            "+1s",
            "1e9s",
            "1 s",
            "1µs",
            "s",
            "1",
            "infs",
            "nans",
            "0.1s.s",
        ] {
            assert_eq!(super::parse_duration(text), None, "{text:?}");
        }
        for (text, seconds) in [("1m30s", 90.0), ("1.5s", 1.5), ("0", 0.0), ("500ms", 0.5)] {
            assert_eq!(super::parse_duration(text).map(|found| found.as_secs_f64()), Some(seconds), "{text}");
        }
        // As long as it may be, of the largest unit.
        assert!(super::parse_duration("999999999999999h").is_some());
        let cases = [
            ("failover: {downAfter: 99999999999999999999s}", "spec.failover.downAfter"),
            ("failover: {lease: 99999999999999999999s}", "spec.failover.lease"),
            ("failover: {failbackAfter: 99999999999999999999h}", "spec.failover.failbackAfter"),
            (
                "replication: {acknowledge: {timeout: 99999999999999999999s}}",
                "spec.replication.acknowledge.timeout",
            ),
        ];
        for (spec, field) in cases {
            let text = format!(
                "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: shop}}, spec: {{shards: 1, {spec}}}}}"
            );
            let found = read(&text).unwrap().to_core().unwrap_err();
            assert_eq!(found.first().map(|invalid| invalid.field.as_str()), Some(field), "{found:?}");
        }
    }

    #[test]
    fn a_name_must_fit_the_names_made_from_it() {
        for (name, valid) in
            [("shop", true), ("s-1", true), ("1shop", false), ("Shop", false), ("shop-", false)]
        {
            let text = format!(
                "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: {name}}}, spec: {{shards: 1}}}}"
            );
            assert_eq!(read(&text).unwrap().to_core().is_ok(), valid, "{name}");
        }
    }
}
