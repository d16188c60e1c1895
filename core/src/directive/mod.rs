//! The directives of a node: one table that says of each its name, its kind, its default, and who may set it.
//!
//! The node parses its files, flags and `CONFIG SET` by it, and the operator validates `spec.config` by it. Reading
//! files is the caller's; this module knows texts only.

mod error;
mod settings;
mod syntax;
mod table;
mod value;

use std::collections::BTreeMap;

pub use error::{DirectiveError, Place, Problem};
pub use settings::Settings;
pub use syntax::{Setting, UnbalancedQuotes, parse_file, parse_flags, split_args};
pub use table::DIRECTIVES;
pub use value::{OutputLimit, SavePoint, Value, parse_memory, parse_value};

/// One directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Older names that mean the same.
    pub aliases: &'static [&'static str],
    /// What values it takes.
    pub kind: Kind,
    /// Its default, written as in a file.
    pub default: &'static str,
    /// Whether a running node can change it.
    pub change: Change,
    /// Who may set it in a cluster.
    pub set_by: SetBy,
    /// Whether it does anything.
    pub effect: Effect,
    /// What it does, in one sentence.
    pub help: &'static str,
}

/// What values a directive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A whole number within bounds.
    Integer {
        /// The lowest.
        min: i64,
        /// The highest.
        max: i64,
    },
    /// A number of bytes: `100`, `1k` (1000), `1kb` (1024), `m`, `mb`, `g`, `gb`.
    Memory,
    /// The same, of at least so many bytes.
    MemoryFrom(u64),
    /// A number of bytes, or a percentage of `maxmemory` such as `5%`.
    MemoryOrPercent,
    /// One of a list, in any case.
    Enum(&'static [&'static str]),
    /// Any one text.
    Text,
    /// The name of a file or folder: no path, so that it stays in its folder.
    FileName,
    /// Any one text that must not be shown.
    Secret,
    /// Any number of words.
    Words,
    /// `HOST PORT`, or `no one`.
    HostPort,
    /// Pairs of seconds and changes; an empty text for none.
    SavePoints,
    /// Groups of class, hard limit, soft limit and soft seconds.
    OutputLimits,
    /// The letters of `notify-keyspace-events`.
    EventFlags,
}

/// Whether a running node can change a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// By `CONFIG SET`, at once.
    Live,
    /// Only by starting it anew.
    Restart,
}

/// Who may set a directive in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// Anybody: it is allowed in a KvCluster's `spec.config`.
    User,
    /// The operator alone; on a node without an operator, its user.
    Operator,
}

/// Whether a directive does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what its help says.
    Full,
    /// It is accepted and shown, so that existing files load, and does nothing.
    None,
}

/// The directive of this name or alias, in any case.
#[must_use]
pub fn lookup(name: &str) -> Option<&'static Directive> {
    let is = |other: &&str| other.eq_ignore_ascii_case(name);
    DIRECTIVES.iter().find(|directive| is(&directive.name) || directive.aliases.iter().any(is))
}

/// The directive of this name, or an error with the nearest name if one is near.
pub(crate) fn find(name: &str) -> Result<&'static Directive, Problem> {
    lookup(name).ok_or_else(|| Problem::Unknown { suggestion: nearest(&name.to_ascii_lowercase()) })
}

fn nearest(name: &str) -> Option<&'static str> {
    DIRECTIVES
        .iter()
        .map(|directive| (strsim::levenshtein(directive.name, name), directive.name))
        .min()
        .and_then(|(distance, near)| (distance <= 2).then_some(near))
}

/// Checks the directives of a KvCluster's `spec.config`: known, settable by a user, and with a good value.
///
/// # Errors
/// All that is wrong, in order of the names.
pub fn validate_spec_config(config: &BTreeMap<String, String>) -> Result<(), Vec<DirectiveError>> {
    let errors: Vec<_> = config
        .iter()
        .filter_map(|(name, text)| {
            let problem = check_spec_directive(name, text).err()?;
            Some(DirectiveError { place: Place::Spec, name: name.clone(), problem })
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_spec_directive(name: &str, text: &str) -> Result<(), Problem> {
    let directive = find(name)?;
    if directive.set_by == SetBy::Operator {
        return Err(Problem::SetByOperator);
    }
    syntax::parse_text(directive, text).map(drop)
}

/// The names in a KvCluster's `spec.config` that are accepted but do nothing, for a warning.
#[must_use]
pub fn without_effect(config: &BTreeMap<String, String>) -> Vec<&'static str> {
    config
        .keys()
        .filter_map(|name| lookup(name))
        .filter(|directive| directive.effect == Effect::None)
        .map(|directive| directive.name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_good_value_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for directive in DIRECTIVES {
            let value = syntax::parse_text(directive, directive.default);
            assert!(value.is_ok(), "{}: {value:?}", directive.name);
            for name in std::iter::once(&directive.name).chain(directive.aliases) {
                assert!(names.insert(*name), "{name} is there twice");
                assert_eq!(*name, name.to_ascii_lowercase());
            }
            assert!(directive.help.ends_with('.'), "{}", directive.name);
        }
    }

    #[test]
    fn lookups_know_aliases_and_ignore_case() {
        assert_eq!(lookup("SLAVEOF").unwrap().name, "replicaof");
        assert_eq!(lookup("Hash-Max-Ziplist-Entries").unwrap().name, "hash-max-listpack-entries");
        assert_eq!(lookup("nonsense"), None);
    }

    #[test]
    fn a_spec_is_told_everything_that_is_wrong_with_it() {
        let config = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let good = [("maxmemory", "512mb"), ("save", ""), ("client-output-buffer-limit", "normal 0 0 0")];
        assert_eq!(validate_spec_config(&config(&good)), Ok(()));
        let errors = validate_spec_config(&config(&[
            ("maxmemry", "1"),
            ("port", "1"),
            ("maxmemory-policy", "lru"),
            ("kv-shard", "3"),
        ]))
        .unwrap_err();
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.config.kv-shard: is set by the operator; remove it",
                "spec.config.maxmemory-policy: must be one of volatile-lru, volatile-lfu, volatile-random, volatile-ttl, \
                 allkeys-lru, allkeys-lfu, allkeys-random, noeviction; got \"lru\"",
                "spec.config.maxmemry: is no directive; did you mean 'maxmemory'?",
                "spec.config.port: is set by the operator; remove it",
            ]
        );
    }
}
