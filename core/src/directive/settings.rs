//! The values of all directives at one time.

use std::collections::{BTreeMap, BTreeSet};

use super::{DIRECTIVES, Directive, Effect, OutputLimit, SetBy, Setting, Value, lookup, syntax};

/// The values of all directives: the defaults, and what was set since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, Value>);

impl Default for Settings {
    /// The defaults of the table.
    fn default() -> Self {
        let default = |directive: &'static Directive| {
            syntax::parse_text(directive, directive.default).ok().map(|value| (directive.name, value))
        };
        Self(DIRECTIVES.iter().filter_map(default).collect())
    }
}

impl Settings {
    /// Takes what a file and flags say, in order. The first `save` replaces the defaults, and the next ones add to it, until an
    /// empty one clears it.
    pub fn load<'a>(&mut self, settings: impl IntoIterator<Item = &'a Setting>) {
        let mut seen = BTreeSet::new();
        for Setting { directive, value, .. } in settings {
            let first = seen.insert(directive.name);
            match (self.0.get_mut(directive.name), value) {
                (Some(Value::SavePoints(points)), Value::SavePoints(more)) if !first && !more.is_empty() => {
                    points.extend(more);
                }
                _ => self.set(directive, value.clone()),
            }
        }
    }

    /// Sets one value, as `CONFIG SET` does. Of output limits only the named classes change.
    pub fn set(&mut self, directive: &'static Directive, value: Value) {
        match (self.0.get_mut(directive.name), value) {
            (Some(Value::OutputLimits(limits)), Value::OutputLimits(new)) => merge_limits(limits, &new),
            (_, value) => {
                self.0.insert(directive.name, value);
            }
        }
    }

    /// The value of a directive, by its name or alias.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(lookup(name)?.name)
    }

    /// A yes or no; `false` if there is no such directive of that kind.
    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// A number or a number of bytes; 0 if there is no such directive of that kind, or it is negative.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Integer(number)) => u64::try_from(*number).unwrap_or(0),
            Some(Value::Bytes(bytes)) => *bytes,
            _ => 0,
        }
    }

    /// A number of bytes that may be said as a percentage of `whole`; 0 if there is no such directive of that kind.
    #[must_use]
    pub fn share(&self, name: &str, whole: u64) -> u64 {
        match self.get(name) {
            Some(Value::Percent(percent)) => whole / 100 * u64::from(*percent),
            _ => self.number(name),
        }
    }

    /// The limits of a class of clients (`normal`, `slave` or `pubsub`); none if nothing is said of it.
    #[must_use]
    pub fn output_limit(&self, class: &'static str) -> OutputLimit {
        let limits = match self.get("client-output-buffer-limit") {
            Some(Value::OutputLimits(limits)) => limits.as_slice(),
            _ => &[],
        };
        let found = limits.iter().find(|limit| limit.class == class).copied();
        found.unwrap_or(OutputLimit { class, hard: 0, soft: 0, seconds: 0 })
    }

    /// Names of the directives that a user set to something else than the default, and that do nothing.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        let by_user = DIRECTIVES.iter().filter(|one| one.effect == Effect::None && one.set_by == SetBy::User);
        by_user
            .filter(|one| self.0.get(one.name) != syntax::parse_text(one, one.default).ok().as_ref())
            .map(|one| one.name)
    }

    /// A text or a choice; empty if there is no such directive of that kind.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            Some(Value::Choice(choice)) => choice,
            _ => "",
        }
    }
}

fn merge_limits(limits: &mut Vec<OutputLimit>, new: &[OutputLimit]) {
    for limit in new {
        match limits.iter_mut().find(|old| old.class == limit.class) {
            Some(old) => *old = *limit,
            None => limits.push(*limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse_file, parse_value};
    use super::*;

    #[test]
    fn repeated_directives_add_up_as_in_redis() {
        let mut settings = Settings::default();
        assert_eq!(settings.get("save").unwrap().to_string(), "3600 1 300 100 60 10000");
        let file = "save 900 1\nsave 300 10\nport 1\nport 2\nclient-output-buffer-limit replica 1mb 1mb 1\n";
        settings.load(&parse_file(file, "f").unwrap());
        assert_eq!(settings.get("save").unwrap().to_string(), "900 1 300 10");
        assert_eq!(settings.number("port"), 2);
        assert_eq!(
            settings.get("client-output-buffer-limit").unwrap().to_string(),
            "normal 0 0 0 slave 1048576 1048576 1 pubsub 33554432 8388608 60"
        );
        let save = lookup("save").unwrap();
        settings.set(save, parse_value(save, &["60 5"]).unwrap());
        assert_eq!(settings.get("save").unwrap().to_string(), "60 5");
        settings.load(&parse_file("save 1 1\nsave \"\"", "f").unwrap());
        assert_eq!(settings.get("save").unwrap().to_string(), "");
    }

    #[test]
    fn what_was_set_and_does_nothing_is_named() {
        let mut settings = Settings::default();
        let file = "io-threads 4\nactivedefrag no\ntimeout 7\ncluster-announce-ip 10.0.0.1\n";
        settings.load(&parse_file(file, "f").unwrap());
        assert_eq!(settings.without_effect().collect::<Vec<_>>(), ["io-threads"]);
    }

    #[test]
    fn short_reads() {
        let settings = Settings::default();
        assert!(settings.bool("protected-mode"));
        assert_eq!(settings.text("appendfsync"), "everysec");
        assert_eq!(settings.number("repl-backlog-size"), 1 << 20);
        assert_eq!(settings.text("no-such"), "");
        let mut settings = settings;
        settings.load(&parse_file("maxmemory-clients 5%", "f").unwrap());
        assert_eq!(
            (settings.share("maxmemory-clients", 2000), settings.share("maxmemory-clients", 0)),
            (100, 0)
        );
        assert_eq!(settings.share("repl-backlog-size", 0), 1 << 20);
        assert_eq!(settings.output_limit("pubsub").seconds, 60);
    }
}
