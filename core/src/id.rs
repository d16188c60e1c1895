//! Names that are proofs of identity: a node's random id, a cluster's UID, and the epoch that orders decisions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's random id: 160 bits, written as 40 hex digits, kept on its volume for life (`CLUSTER MYID`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId([u8; 20]);

impl NodeId {
    /// An id from 20 random bytes; the caller brings the entropy.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Reports and maps are full of ids: two formatted digits a byte were a tenth of the time to make one.
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        let text: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        f.write_str(&text)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not 40 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 40 hex digits, not {0:?}")]
pub struct InvalidNodeId(pub String);

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNodeId(text.chars().take(64).collect());
        if text.len() != 40 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

/// How many ordinals epochs are dealt out to: a power of two above the 9 nodes that a shard may have.
const ORDINALS: u64 = 16;

/// A number that only grows and that orders every decision about a shard. 0: nothing was decided yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The first epoch after this one under which the node with this ordinal may lead.
    ///
    /// Every epoch belongs to one ordinal, so that under one epoch one node at most can ever become the master: whatever
    /// proposers know of each other, that node accepts a single config for an epoch. So a change that a master accepted and
    /// took with it when it went silent never collides with the election of its successor.
    #[must_use]
    pub const fn next_for(self, ordinal: u16) -> Self {
        let ordinal = ordinal as u64 % ORDINALS;
        let ahead = (ordinal + ORDINALS - self.0 % ORDINALS) % ORDINALS;
        Self(self.0.saturating_add(ahead + 1))
    }

    /// Whether the node with this ordinal may lead under this epoch.
    #[must_use]
    pub const fn is_for(self, ordinal: u16) -> bool {
        self.0 > 0 && (self.0 - 1) % ORDINALS == ordinal as u64 % ORDINALS
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which cluster a node belongs to: the KvCluster's UID, or a random one in local mode. Every handshake carries it, so
/// that nodes of different clusters never join, whatever the addresses say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterUid(pub String);

impl fmt::Display for ClusterUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_reads_back_what_it_writes() {
        let id = NodeId::from_bytes(std::array::from_fn(|i| (i * 13) as u8));
        assert_eq!(id.to_string().len(), 40);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_epoch_belongs_to_one_ordinal() {
        assert_eq!(Epoch(0).next_for(0), Epoch(1));
        assert_eq!(Epoch(1).next_for(1), Epoch(2));
        assert_eq!(Epoch(2).next_for(0), Epoch(17));
        assert_eq!(Epoch(17).next_for(0), Epoch(33));
        for known in 0..40 {
            for ordinal in 0..9 {
                let next = Epoch(known).next_for(ordinal);
                assert!(next > Epoch(known) && next.0 <= known + 16, "{known} {ordinal}");
                assert!((0..9).all(|other| next.is_for(other) == (other == ordinal)), "{known} {ordinal}");
            }
        }
    }

    #[test]
    fn bad_node_ids_are_refused() {
        for text in ["", "abc", &"g".repeat(40), &"é".repeat(20), &"+1".repeat(20)] {
            assert!(text.parse::<NodeId>().is_err(), "{text:?}");
        }
    }
}
