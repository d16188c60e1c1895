//! The command table on a keyspace of its own.

use kv_node::command::{Args, Ctx, Effects, Handler, Settings, table};
use kv_node::keyspace::{ExpiryMode, Keyspace};
use kv_node::resp::{Protocol, Reply as Writer};

use super::reply::Reply;

pub const DATABASES: usize = 4;

/// What is to be replicated: a database, and a command for it.
pub type Effect = (usize, Vec<Vec<u8>>);

/// A command as it can be read and typed.
pub fn words(argv: &[Vec<u8>]) -> String {
    let words: Vec<_> = argv.iter().map(|arg| format!("\"{}\"", arg.escape_ascii())).collect();
    words.join(" ")
}

/// The command table on a keyspace.
pub struct Node {
    pub keyspace: Keyspace,
    /// The selected database.
    pub db: usize,
    pub settings: Settings,
    protocol: Protocol,
    effects: Effects,
    random: fastrand::Rng,
}

impl Node {
    pub fn new(mode: ExpiryMode, protocol: Protocol, seed: u64) -> Self {
        let mut keyspace = Keyspace::new(DATABASES);
        keyspace.set_expiry_mode(mode);
        let settings = Settings { max_bulk: 512 << 20, cluster_enabled: false, databases: DATABASES };
        let random = fastrand::Rng::with_seed(seed);
        Self { keyspace, db: 0, settings, protocol, effects: Effects::default(), random }
    }

    /// Runs a command; returns its reply and what is to be replicated.
    pub fn execute(&mut self, argv: &[Vec<u8>], now: u64) -> (Reply, Vec<Effect>) {
        let mut out = Vec::new();
        let slices: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        self.effects.clear();
        let result = self.run(&slices, now, &mut out);
        if let Err(text) = result {
            assert!(out.is_empty(), "an error after a part of a reply: {text}");
            Writer::new(&mut out, self.protocol).error(&text);
        }
        let mut input = out.as_slice();
        let reply = Reply::read(&mut input);
        assert!(
            input.is_empty(),
            "one command has one reply, not {reply:?} and {:?}",
            input.escape_ascii().to_string()
        );
        let mut replicated = self.take_expired();
        let instead = self.effects.take_instead();
        let changed = self.effects.dirty() > 0;
        self.keyspace.settle_touched(changed);
        if changed {
            let commands = instead.unwrap_or_else(|| vec![argv.to_vec()]);
            replicated.extend(commands.into_iter().map(|argv| (self.db, argv)));
        } else {
            assert!(instead.is_none(), "nothing changed, but something is replicated");
        }
        (reply, replicated)
    }

    /// What is to be replicated of keys that were removed because their time was over.
    pub fn take_expired(&mut self) -> Vec<Effect> {
        let expired = self.keyspace.take_expired();
        expired.into_iter().map(|(db, key)| (db, vec![b"DEL".to_vec(), key.into()])).collect()
    }

    /// Repeats what another node says it did; says why if that does not work.
    pub fn apply(&mut self, (db, argv): &Effect, now: u64) -> Result<(), String> {
        self.db = *db;
        match self.execute(argv, now).0 {
            Reply::Line(line) if line.starts_with('-') => Err(format!("{} fails: {line}", words(argv))),
            _ => Ok(()),
        }
    }

    fn run(&mut self, argv: &[&[u8]], now: u64, out: &mut Vec<u8>) -> Result<(), String> {
        let spec = table::lookup(argv[0]).ok_or("ERR unknown command")?;
        spec.check_arity(argv.len()).map_err(|error| error.to_string())?;
        let Handler::Data(handler) = spec.handler else { panic!("{} is no data command", spec.name) };
        let mut ctx = Ctx {
            keyspace: &mut self.keyspace,
            db: self.db,
            now,
            reply: Writer::new(out, self.protocol),
            effects: &mut self.effects,
            random: &mut self.random,
            settings: &self.settings,
        };
        handler(&mut ctx, Args::new(argv)).map_err(|error| error.to_string())
    }
}
