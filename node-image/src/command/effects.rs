//! What a command did to the data: the source of replication and of the append-only file.

/// A command as a list of arguments.
pub type Argv = Vec<Vec<u8>>;

/// What one command did. Effects are replicated, not choices: a command whose outcome depends on time, chance or
/// position says by [`Effects::replicate`] what is to be repeated elsewhere instead of itself.
#[derive(Debug, Default)]
pub struct Effects {
    dirty: u64,
    instead: Option<Vec<Argv>>,
}

impl Effects {
    /// Records `count` changes.
    pub fn changed(&mut self, count: usize) {
        self.dirty += count as u64;
    }

    /// Records that this command is to be replicated in place of the one that runs. Several add up, in order.
    pub fn replicate(&mut self, argv: &[&[u8]]) {
        let argv = argv.iter().map(|arg| arg.to_vec()).collect();
        self.instead.get_or_insert_default().push(argv);
    }

    /// Number of changes.
    #[inline]
    #[must_use]
    pub fn dirty(&self) -> u64 {
        self.dirty
    }

    /// What to replicate instead of the command itself; `None`: the command itself, if anything changed.
    pub fn take_instead(&mut self) -> Option<Vec<Argv>> {
        self.instead.take()
    }

    /// Forgets everything, for the next command.
    #[inline]
    pub fn clear(&mut self) {
        self.dirty = 0;
        if self.instead.is_some() {
            self.instead = None;
        }
    }
}
