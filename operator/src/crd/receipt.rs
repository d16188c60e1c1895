//! What is kept of a change of master: who, why, when, and what it cost.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kv_core::control::DataState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The record of a change of master. Times are the operator's, which asks each node five times a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Index of the shard.
    pub shard: u16,

    /// Name of the old master.
    pub from: String,

    /// Name of the new master.
    pub to: String,

    /// Whether the old master handed over, or was lost.
    pub kind: ReceiptKind,

    /// Why, in one word, such as MasterExited.
    pub reason: String,

    /// Why, in a sentence.
    pub message: String,

    /// Who proposed the new master.
    pub by: Proposer,

    /// Epoch of the shard's config before.
    pub epoch_before: u64,

    /// Epoch under which the new master leads.
    pub epoch: u64,

    /// When the old master was last seen to take writes; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_served: Option<MicroTime>,

    /// When the operator saw that the master had to change or, where others held the election, that it had.
    pub detected: MicroTime,

    /// When enough nodes had promised; absent if others held the election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<MicroTime>,

    /// When the new master had accepted the config; absent if others held the election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<MicroTime>,

    /// When the new master was first seen to take writes; absent if it was not, before the next one led.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<MicroTime>,

    /// From `lastServed` to `served`, such as `412ms`: for how long, at most, writes were refused or, in a planned change,
    /// held. Where the operator was not there, also the time until it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruption: Option<String>,

    /// Whom the operator could choose from; empty if others held the election.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,

    /// What is known of acknowledged writes that were lost.
    pub lost: Lost,

    /// Bytes of the replication stream that the old master held and the new one had never got; absent if not known, as
    /// before the old master has returned. Not all of them need be writes, and not all of these acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded_bytes: Option<u64>,
}

/// Whether a master handed over, or was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ReceiptKind {
    /// It handed over.
    Planned,
    /// It was lost.
    Unplanned,
    /// The operator was not there.
    Unknown,
}

/// Who proposed a new master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Proposer {
    /// This operator.
    Operator,
    /// The nodes themselves, or an operator before this one.
    Others,
}

/// What is known of acknowledged writes that were lost with an old master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Lost {
    /// None: the new master had everything that the old one had.
    None,
    /// None: an acknowledged write was with so many nodes that the new master had it.
    NoneByQuorum,
    /// Those among the `discardedBytes` that the old master told of when it returned.
    Discarded,
    /// Those among `discardedBytes` or more: the old master had so many when it was last heard.
    AtLeast,
    /// Nothing is known, as long as the old master has not returned with what it held.
    Unknown,
    /// All: no node held any data any more.
    All,
}

/// A node that could have led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Bytes of the replication stream that it held.
    pub offset: u64,
    /// Epoch of the last master whose barrier it held: who has a later one has newer data, whatever the offset.
    pub write_epoch: u64,
    /// How much its data was worth.
    #[schemars(schema_with = "data_schema")]
    pub data: DataState,
    /// Whether it had promised.
    pub promised: bool,
}

fn data_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["Empty", "Syncing", "Restored", "Live"] })
}

impl Receipt {
    /// Milliseconds between the old master's last sign of service and the new one's first; `None` if either is missing.
    #[must_use]
    pub fn interruption_ms(&self) -> Option<u64> {
        let (last, served) = (self.last_served.as_ref()?, self.served.as_ref()?);
        u64::try_from(served.0.as_millisecond() - last.0.as_millisecond()).ok()
    }

    /// What was lost, for people.
    #[must_use]
    pub fn told_loss(&self) -> String {
        let bytes = self.discarded_bytes.unwrap_or_default();
        match self.lost {
            Lost::None => "nothing lost".to_owned(),
            Lost::NoneByQuorum => "no acknowledged write lost, by quorum".to_owned(),
            Lost::Discarded => format!("{bytes} bytes of the stream discarded"),
            Lost::AtLeast => format!("at least {bytes} bytes of the stream lost, as far as is known"),
            Lost::Unknown => "not known what was lost, as the old master has not told".to_owned(),
            Lost::All => "all data lost".to_owned(),
        }
    }
}

/// In one line: `shop-0-1 leads in place of shop-0-0 ...`
impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, reason, epoch, .. } = self;
        write!(f, "{to} leads in place of {from} under epoch {epoch} ({reason})")?;
        if let Some(ms) = self.interruption_ms() {
            write!(f, ", {ms} ms after that was last seen to take writes")?;
        }
        write!(f, "; {}", self.told_loss())
    }
}
