//! The directives of `spec.config` that a running node takes at once.

use std::collections::BTreeMap;

use kv_core::control::digest;
use kv_core::directive::{Change, lookup};

/// The live directives of a spec as the JSON text that `KV CONFIG` sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// A JSON object: name → value.
    pub text: String,
    /// What a node reports that was given this text.
    pub digest: String,
}

/// Picks the directives that a running node can change.
#[must_use]
pub fn live(config: &BTreeMap<String, String>) -> LiveConfig {
    let object: serde_json::Map<_, _> = config
        .iter()
        .filter(|(name, _)| lookup(name).is_some_and(|directive| directive.change == Change::Live))
        .map(|(name, value)| (name.clone(), serde_json::Value::String(value.clone())))
        .collect();
    let text = serde_json::Value::Object(object).to_string();
    let digest = digest(text.as_bytes());
    LiveConfig { text, digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_live_directives_are_sent_in_order_of_their_name() {
        let config = [("maxmemory", "1mb"), ("databases", "4"), ("loglevel", "debug")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(live(&config).text, r#"{"loglevel":"debug","maxmemory":"1mb"}"#);
    }
}
