//! The directives of `spec.config` that a running node takes at once.

use std::collections::BTreeMap;

use kv_core::control::digest;
use kv_core::directive::{Change, lookup};

use crate::provider::Login;

/// The live directives of a spec as the JSON text that `KV CONFIG` sends.
#[derive(Clone, PartialEq, Eq)]
pub struct LiveConfig {
    /// A JSON object: name → value.
    pub text: String,
    /// What a node reports that was given this text.
    pub digest: String,
}

/// Picks the directives that a running node can change, and adds how to log in at a source.
#[must_use]
pub fn live(config: &BTreeMap<String, String>, login: Option<&Login>) -> LiveConfig {
    let object: serde_json::Map<_, _> = config
        .iter()
        .filter(|(name, _)| lookup(name).is_some_and(|directive| directive.change == Change::Live))
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain(login.map(|login| ("masterauth".to_owned(), login.password.clone())))
        .chain(login.and_then(|login| Some(("masteruser".to_owned(), login.username.clone()?))))
        .map(|(name, value)| (name, serde_json::Value::String(value)))
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
        assert_eq!(live(&config, None).text, r#"{"loglevel":"debug","maxmemory":"1mb"}"#);
        let login = Login { username: None, password: "secret".into() };
        assert_eq!(live(&BTreeMap::new(), Some(&login)).text, r#"{"masterauth":"secret"}"#);
    }
}
