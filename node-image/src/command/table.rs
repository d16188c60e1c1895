//! The table of all commands, made of the parts of each module; and how a table is looked into.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::CommandSpec;

/// The parts of the table.
const PARTS: &[&[CommandSpec]] = &[
    super::strings::COMMANDS,
    super::counters::COMMANDS,
    super::keys::COMMANDS,
    super::expire::COMMANDS,
    super::scan::COMMANDS,
    super::hashes::COMMANDS,
    super::lists::COMMANDS,
    super::sets::COMMANDS,
    super::zsets::COMMANDS,
    super::zranges::COMMANDS,
    super::zcombine::COMMANDS,
    super::connection::COMMANDS,
    super::admin::COMMANDS,
    super::replication::COMMANDS,
    super::cluster::COMMANDS,
    super::control::COMMANDS,
    super::transactions::COMMANDS,
    super::pubsub::COMMANDS,
];

/// The longest name that is looked up.
const NAME_MAX: usize = 32;

/// Commands that one port of the node takes, in their order and by name.
#[derive(Debug)]
pub struct Table {
    all: Vec<&'static CommandSpec>,
    by_name: HashMap<&'static [u8], &'static CommandSpec, hashbrown::DefaultHashBuilder>,
}

/// The commands of the data port.
pub static NODE: LazyLock<Table> = LazyLock::new(|| Table::new(PARTS.iter().copied().flatten()));

impl Table {
    /// A table of these commands.
    #[must_use]
    pub fn new(specs: impl Iterator<Item = &'static CommandSpec>) -> Self {
        let all: Vec<_> = specs.collect();
        let by_name = all.iter().map(|spec| (spec.name.as_bytes(), *spec)).collect();
        Self { all, by_name }
    }

    /// Every command.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &'static CommandSpec> {
        self.all.iter().copied()
    }

    /// The command of this name, whatever the case.
    #[must_use]
    pub fn lookup(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        let mut buffer = [0; NAME_MAX];
        let lower = buffer.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.by_name.get(&*lower).copied()
    }
}

/// The command of the data port of this name, whatever the case.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    NODE.lookup(name)
}

/// Defines `COMMANDS`, a module's part of the table: name, arity, flags, keys, version, handler, summary a row.
macro_rules! data_commands {
    ($group:ident; $($name:literal $arity:literal [$($flag:ident)*] $keys:expr, $since:literal, $handler:path, $summary:literal;)*) => {
        /// This module's part of the command table.
        pub const COMMANDS: &[$crate::command::CommandSpec] = &[$($crate::command::CommandSpec {
            name: $name,
            arity: $arity,
            flags: $crate::command::Flags::from_bits_truncate(0 $(| $crate::command::Flags::$flag.bits())*),
            keys: $keys,
            group: $crate::command::Group::$group,
            since: $since,
            summary: $summary,
            handler: $crate::command::Handler::Data($handler),
        }),*];
    };
}
pub(super) use data_commands;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_lower_case_and_found_in_any_case() {
        let mut names: Vec<_> = NODE.all().map(|spec| spec.name).collect();
        for name in &names {
            assert_eq!(*name, name.to_ascii_lowercase());
            assert_eq!(lookup(name.to_ascii_uppercase().as_bytes()).map(|spec| spec.name), Some(*name));
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(lookup(b"nonesuch").is_none());
        assert!(lookup(&[b'x'; 1000]).is_none());
    }
}
