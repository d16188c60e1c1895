//! A running Redis or Valkey that a shard follows until it is cut over (`spec.source`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The server that a shard's master follows as a replica. As long as it does, the shard takes no writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its host name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Name of the Secret with user and password; `None` if it asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// What is done with its writers at the cut-over.
    #[serde(default)]
    pub writers: Writers,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What is done with a source's writers at the cut-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Writers {
    /// Their writes are held (`CLIENT PAUSE WRITE`).
    #[default]
    Pause,
    /// Nothing: the user has stopped them. A source that takes writes is not cut over from.
    Stopped,
}

/// A master's link to the source that it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Following {
    /// Bytes of the source's stream that are still to come, as of half a second ago; `None` while that is not known.
    pub lag_bytes: Option<u64>,
    /// Whether a cut-over was asked for and is under way.
    pub cutting_over: bool,
    /// Whether all of the source's data is here, and the source takes no writes for the moment.
    pub complete: bool,
    /// What is wrong with the link, or kept a cut-over from happening.
    pub problem: Option<String>,
}
