//! The control protocol: what the operator asks of a node, and what a node reports.
//!
//! The commands travel over the data port as ordinary RESP commands of the container command `KV`, under the user
//! [`USER`], so that a probe reaches the data thread. Arguments that are structures are JSON.
//!
//! | command | reply |
//! |---|---|
//! | `KV REPORT` | bulk string: [`NodeReport`] as JSON |
//! | `KV REPORT run-id epoch clock` | the same. The operator, a witness, grants the master of this run and epoch its lease, counted from that clock of its |
//! | `KV PING uid shard id epoch` | the same. The node of this id asks; where it is the master of this epoch, the answer grants it its lease |
//! | `KV PREPARE uid shard epoch [ENDED\|RENEWAL epoch]` | the report, after the promise is on disk; without an argument a node refuses that heard the master within its lease (`STICKY`) |
//! | `KV ACCEPT config` ([`ShardConfig`]) | the report, after the config is on disk and the role is taken |
//! | `KV PAUSE uid shard epoch milliseconds` | the report, with writes held and `paused` true |
//! | `KV CUTOVER uid shard epoch` | the report. The master that follows a source finds out whether it has all of it, see [`Following`] |
//! | `KV IMPORT uid shard epoch from slots` | the report, with `import` under way: the master asks the master of the shard `from` for these slots. Without slots the one under way is given up |
//! | `KV EXPORT uid shard to slots` | `OK`, and then commands without end: the keys of these slots, and what is done to them. The master of the shard `to` asks |
//! | `KV HOLD uid shard epoch to slots milliseconds` | the report, with writes to these slots held, which are being exported, and `export.held` |
//! | `KV MAP map` ([`ClusterMap`](crate::shard::ClusterMap)) | the report |
//! | `KV CONFIG directives` (object of name → value; what is no longer named goes back to its start value) | the report, with `config_digest` of the text as sent |
//!
//! A node accepts one config for an epoch: the same one again is fine, another one under that epoch is refused like an older
//! one. The planner relies on it, see [`Epoch::next_for`].
//!
//! Refusals are errors whose first word is a code: `STALEEPOCH` (names the newer epoch), `WRONGCLUSTER` (names the
//! node's own uid and shard), `NOPERM`, `ERR`.

use serde::{Deserialize, Serialize};

use crate::id::{ClusterUid, Epoch, NodeId};
use crate::shard::ShardConfig;
use crate::slot::SlotSet;
use crate::source::Following;

/// The user that may run `KV` commands. It is not the default user, and may run nothing else but PING and AUTH.
pub const USER: &str = "kv-operator";

/// The user that a replica authenticates as towards its parent, with the control password too.
pub const REPLICATION_USER: &str = "kv-replica";

/// First word of the error by which a node refuses an epoch older than one that it promised.
pub const STALE_EPOCH: &str = "STALEEPOCH";

/// First word of the error by which a node refuses to vote against a master that it hears.
pub const STICKY: &str = "STICKY";

/// Who may be asked for a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consent {
    /// Nodes that do not hear the master; the others refuse.
    IfSilent,
    /// All: the master is known to have ended, or agrees to go.
    Ended,
    /// All: the master of the config of that epoch stays. Who has that config and promises goes on as before until the next
    /// one arrives; for others it is a promise like any other.
    Renewal(Epoch),
}

impl Consent {
    /// The arguments of PREPARE that say so.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        match self {
            Self::IfSilent => Vec::new(),
            Self::Ended => vec![ENDED.into()],
            Self::Renewal(epoch) => vec![RENEWAL.into(), epoch.to_string()],
        }
    }

    /// What arguments of PREPARE say; `None` if nothing.
    #[must_use]
    pub fn of_arguments(arguments: &[&str]) -> Option<Self> {
        match arguments {
            [] => Some(Self::IfSilent),
            [ended] if ended.eq_ignore_ascii_case(ENDED) => Some(Self::Ended),
            [renewal, epoch] if renewal.eq_ignore_ascii_case(RENEWAL) => {
                epoch.parse().ok().map(|epoch| Self::Renewal(Epoch(epoch)))
            }
            _ => None,
        }
    }

    /// Whether a node with a config of this epoch goes on when it has promised.
    #[must_use]
    pub fn renews(self, epoch: Epoch) -> bool {
        self == Self::Renewal(epoch)
    }
}

const ENDED: &str = "ENDED";
const RENEWAL: &str = "RENEWAL";

/// First word of the error by which a node refuses a message for another cluster or shard.
pub const WRONG_CLUSTER: &str = "WRONGCLUSTER";

/// What a node says of itself; one consistent view, made by the data thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its random id.
    pub id: NodeId,
    /// Its name, from its start flags (`kv-node-name`).
    pub name: String,
    /// A random text that is new at every start of the process.
    pub run_id: String,
    /// The release that it runs.
    pub version: String,
    /// The cluster that it was started for (`kv-cluster-uid`).
    pub uid: ClusterUid,
    /// The shard that it was started for (`kv-shard`).
    pub shard: u16,
    /// The highest epoch that it promised or accepted.
    pub promised: Epoch,
    /// Whether what it promised last leaves its master where it is, so that it goes on until the config arrives.
    #[serde(default)]
    pub renewing: bool,
    /// The config that it accepted last; `None` if it never accepted one.
    pub config: Option<ShardConfig>,
    /// What it does at present.
    pub state: NodeState,
    /// Its link to its parent; `None` unless it is a replica.
    pub link: Option<Link>,
    /// Id of the replication history that it holds, 40 hex digits.
    pub replid: String,
    /// Bytes of the replication stream that it has written (master) or applied (replica).
    pub offset: u64,
    /// How much its data is worth in an election.
    pub data: DataState,
    /// Epoch of the last config under which its data changed; with `offset` it orders copies by age.
    pub write_epoch: Epoch,
    /// Number of keys in all databases.
    pub keys: u64,
    /// Replicas that it feeds directly.
    pub replicas: Vec<FedReplica>,
    /// Whether client writes are held for a hand-over.
    pub paused: bool,
    /// Whether a user has it hold its clients' writes (`CLIENT PAUSE`), for more than 5 seconds by now.
    #[serde(default)]
    pub clients_paused: bool,
    /// Whether it was told to stop (SIGTERM) and waits to be relieved of its master role.
    pub leaving: bool,
    /// Whether it is a replica that was asked a moment ago to take over from its master (`CLUSTER FAILOVER`).
    #[serde(default)]
    pub asked_to_lead: bool,
    /// Whether it is a master that was asked a moment ago to make way for a replica (`SENTINEL FAILOVER`).
    #[serde(default)]
    pub asked_to_yield: bool,
    /// Digest of the cluster map that it holds, see [`digest`].
    pub map_digest: String,
    /// Digest of the directives that it was given as config, see [`digest`].
    pub config_digest: String,
    /// Full resynchronisations that it went through as a replica since it started.
    pub full_syncs: u64,
    /// Partial resynchronisations that it went through as a replica since it started.
    pub partial_syncs: u64,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// Why it cannot keep writes or promises on its disk, such as that it is full; `None` if it can. It refuses writes
    /// meanwhile (MISCONF).
    #[serde(default)]
    pub disk_error: Option<String>,
    /// Its port of the Sentinel protocol; 0 for none.
    #[serde(default)]
    pub sentinel_port: u16,
    /// Its clock when it made this report, in milliseconds; it counts the time that the machine was suspended. Who sends it
    /// back (`KV REPORT`) says that it will not vote against this master for the time of the lease from then on.
    #[serde(default)]
    pub clock_ms: u64,
    /// Whether it hears the master of its config, or is that master and has its lease: it votes against it for nobody who
    /// cannot say that it has ended.
    #[serde(default)]
    pub bound: bool,
    /// Whether it is a master whose lease is over, so that it refuses writes.
    #[serde(default)]
    pub isolated: bool,
    /// How safe the writes are that a master acknowledges; `None` unless replies wait for other nodes.
    #[serde(default)]
    pub durability: Option<Durability>,
    /// How far a master is that follows a source; `None` for any other node.
    #[serde(default)]
    pub source: Option<Following>,
    /// What this node gave up when it came to follow its present master; `None` until it has.
    #[serde(default)]
    pub discarded: Option<Discarded>,
    /// The slots that it sends to the master of another shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportReport>,
    /// The slots that it gets from the master of another shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportReport>,
}

/// What a node gave up of its data when it came to follow a master: what it held and the master had never got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Discarded {
    /// The master.
    pub master: NodeId,
    /// Epoch of the config under which it came to follow it.
    pub epoch: Epoch,
    /// Bytes of the replication stream; `None` if nobody knows, as the node was restarted before.
    pub bytes: Option<u64>,
}

/// Slots that a master sends to the master of another shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportReport {
    /// Index of the shard that gets them.
    pub to: u16,
    /// Which slots.
    pub slots: SlotSet,
    /// Whether all keys were sent, so that only what changes follows.
    pub following: bool,
    /// While writes to the slots are held: the id of this hold. All that was written before is on its way.
    pub held: Option<String>,
    /// Keys that were sent.
    pub keys: u64,
    /// Bytes that were not taken by the network yet.
    pub pending_bytes: u64,
}

/// Slots that a master gets from the master of another shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// Index of the shard that has them.
    pub from: u16,
    /// Its master, which is asked for them.
    pub source: NodeId,
    /// Which slots.
    pub slots: SlotSet,
    /// The last hold of which all that was written before has arrived, and where the stream of this shard stood then.
    pub complete: Option<Completion>,
    /// Why no more comes.
    pub error: Option<String>,
}

/// That all has arrived which was written until a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// The hold.
    pub id: String,
    /// Who holds the stream of the shard up to here has it.
    pub offset: u64,
}

/// How safe the writes are that a master acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Durability {
    /// The offset up to which as many nodes hold the stream as its config asks for.
    pub durable: u64,
    /// Whether they hold all that was written before the present config was accepted.
    pub settled: bool,
    /// SemiSync only: whether replies leave without waiting, as the replicas are too far behind.
    pub degraded: bool,
}

/// What a node does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Has no config yet: it serves nothing and waits for its first one.
    Blank,
    /// Was the master when it stopped: serves nothing until a newer config says what it is now.
    Joining,
    /// Serves reads and writes.
    Master,
    /// Promised a newer epoch than its config's: refuses writes until the config of that epoch arrives.
    Fenced,
    /// Follows its parent.
    Replica,
}

/// How much a node's data is worth in an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DataState {
    /// It holds nothing and never did since its volume was made.
    Empty,
    /// A full synchronisation is under way; what it holds is older or partial.
    Syncing,
    /// Loaded from disk after a restart; acknowledged writes may be missing at the end.
    Restored,
    /// Held since it was written or synchronised in this life of the process.
    Live,
}

/// A replica's link to its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Who feeds it; `None` if it was told an address only.
    pub parent: Option<NodeId>,
    /// State of the link.
    pub state: LinkState,
    /// Milliseconds since the parent was last heard.
    pub silent_ms: u64,
}

/// State of a replica's link to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// No connection yet, or the handshake is under way.
    Connecting,
    /// A full synchronisation is under way.
    Syncing,
    /// The stream flows.
    Streaming,
}

/// A replica as the node that feeds it sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FedReplica {
    /// Its id; `None` for a foreign replica, such as a Redis.
    pub id: Option<NodeId>,
    /// The last offset that it acknowledged.
    pub offset: u64,
    /// Milliseconds since that acknowledgement.
    pub ack_age_ms: u64,
    /// Whether the stream flows (and no full synchronisation is under way).
    pub online: bool,
}

/// Digest of a text by FNV-1a, 64 bits, 16 hex digits. It tells versions of a text apart; it is no protection.
#[must_use]
pub fn digest(text: &[u8]) -> String {
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_fnv_1a() {
        assert_eq!(digest(b""), "cbf29ce484222325");
        assert_eq!(digest(b"a"), "af63dc4c8601ec8c");
    }
}
