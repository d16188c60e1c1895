//! The directives of `spec.config`: those that a running node takes at once, and those that do nothing.

use std::collections::BTreeMap;

use kv_core::control::digest;
use kv_core::directive::{Change, lookup, without_effect};

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

/// What was told of directives that do nothing.
#[derive(Debug, Default)]
pub struct Idle(Vec<&'static str>);

impl Idle {
    /// What there is to be told of those in `config`, if that is news.
    pub fn news(&mut self, config: &BTreeMap<String, String>) -> Option<String> {
        let idle = without_effect(config);
        let news = idle != self.0 && !idle.is_empty();
        self.0 = idle;
        news.then(|| format!("in spec.config, accepted without effect: {}", self.0.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_that_do_nothing_are_told_once() {
        let config = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "4".to_owned())).collect();
        let mut idle = Idle::default();
        assert_eq!(idle.news(&config(&["maxclients"])), None);
        let told = idle.news(&config(&["io-threads", "maxclients"]));
        assert!(told.is_some_and(|told| told.ends_with(": io-threads")));
        assert_eq!(idle.news(&config(&["io-threads"])), None, "it was told");
        assert_eq!(idle.news(&config(&[])), None);
        assert!(idle.news(&config(&["io-threads"])).is_some(), "once more after it was gone");
    }

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
