//! Servers that follow one another, through links that can be cut.

use redis::Connection;

use crate::load::{Load, bulk};
use crate::servers::Peer;
use crate::support::content::{content, difference, fill};
use crate::support::proxy::Proxy;
use crate::support::{Process, eventually, until};

/// Who stands at a place of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Ours,
    Theirs,
}

/// What the first one holds when the others come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Nothing,
    Much,
}

const ARGS: [&str; 10] = [
    "--repl-backlog-size",
    "64mb",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
    "--save",
    "3600 1",
    "--repl-timeout",
    "10",
];

/// The first is master; each of the others follows the one before it.
pub struct Chain {
    pub what: String,
    pub nodes: Vec<Process>,
    /// The link from `nodes[n + 1]` to `nodes[n]`.
    links: Vec<Proxy>,
    load: Option<Load>,
}

fn start(who: Who, peer: &Peer, more: &[&str]) -> Process {
    let args = [&ARGS, more].concat();
    if who == Who::Ours { Process::node(&args) } else { peer.start(&args) }
}

impl Chain {
    pub fn start(order: &[Who], peer: &Peer, data: Data, keys: usize) -> Self {
        let what = format!("{order:?} with {}, {data:?} at first", peer.name);
        let mut nodes = vec![start(order[0], peer, &[])];
        let mut links = Vec::new();
        if data == Data::Much {
            fill_all(&mut nodes[0].connect(), keys);
        }
        for who in &order[1..] {
            let link = Proxy::new(nodes.last().unwrap().port);
            nodes.push(start(*who, peer, &["--replicaof", "127.0.0.1", &link.port_text()]));
            links.push(link);
        }
        let chain = Self { what, nodes, links, load: None };
        chain.until_level();
        if data == Data::Nothing {
            // Here it matters which data come, not how much.
            fill_all(&mut chain.nodes[0].connect(), keys / 10);
        }
        chain.assert_equal("after the first synchronisation");
        chain
    }

    pub fn write(&mut self, seed: u64) {
        self.load = Some(Load::start(self.nodes[0].port, seed));
        self.until_written("the load begins");
    }

    /// Waits until some more was written.
    pub fn until_written(&self, what: &str) {
        let load = self.load.as_ref().unwrap();
        let before = load.written();
        until(&format!("{}: writes go on: {what}", self.what), || load.written() > before + 300);
    }

    /// Ends the writes, and lets everybody catch up.
    pub fn rest(&mut self) {
        self.load.take().unwrap().stop();
        self.until_level();
    }

    /// Waits until all links are up and everybody stands at the same offset.
    pub fn until_level(&self) {
        until(&format!("{}: all stand at one offset", self.what), || {
            let up = self.nodes[1..].iter().all(|node| node.info("master_link_status") == "up");
            let offsets: Vec<_> = self.nodes.iter().map(|node| node.info("master_repl_offset")).collect();
            up && offsets.iter().all(|offset| *offset == offsets[0])
        });
    }

    pub fn assert_equal(&self, when: &str) {
        self.until_level();
        // What expires meanwhile goes from one earlier than from the other.
        eventually(&format!("{}, {when}: the copies are equal", self.what), || {
            let expected = content(&self.nodes[0]);
            let found = self.nodes[1..].iter().find_map(|node| difference(&content(node), &expected));
            if let Some(found) = &found {
                eprintln!("{}, {when}: {found:.500}", self.what);
            }
            found.is_none().then_some(())
        });
    }

    fn counts(&self, index: usize) -> [u64; 2] {
        ["sync_full", "sync_partial_ok"].map(|field| self.nodes[index].info(field).parse().unwrap())
    }

    /// Does something that costs whoever follows `nodes[index]` its link; then it goes on where it was, without a full
    /// synchronisation. `new_life`: its counters begin anew.
    fn is_partial(&mut self, index: usize, new_life: bool, event: impl FnOnce(&mut Self), what: &str) {
        let before = if new_life { [0, 0] } else { self.counts(index) };
        event(self);
        until(&format!("{}: after {what} the link is up", self.what), || {
            self.nodes[index + 1].info("master_link_status") == "up" && self.counts(index) != before
        });
        let after = self.counts(index);
        assert_eq!(after[0], before[0], "{}: {what} costs no full synchronisation", self.what);
        assert!(after[1] > before[1], "{}: {what}: {after:?}", self.what);
        self.until_written(what);
    }

    /// The link below `nodes[index]` is cut for a while.
    pub fn cut(&mut self, index: usize) {
        let event = |chain: &mut Self| {
            chain.links[index].cut();
            chain.until_written("while the link is cut");
            chain.links[index].mend();
        };
        self.is_partial(index, false, event, "a cut link");
    }

    /// `nodes[index]`, a replica, is restarted.
    pub fn restart_replica(&mut self, index: usize) {
        let event = |chain: &mut Self| {
            chain.nodes[index].stop();
            chain.until_written("while a replica is gone");
            chain.nodes[index].restart();
        };
        self.is_partial(index - 1, false, event, "a replica's restart");
    }

    /// The master is restarted.
    pub fn restart_master(&mut self) {
        let event = |chain: &mut Self| {
            chain.nodes[0].stop();
            chain.nodes[0].restart();
        };
        self.is_partial(0, true, event, "the master's restart");
    }

    /// The second becomes master, and the first one follows it. Both stand at the same offset before.
    pub fn switch(&mut self) {
        let [first, second] = [0, 1].map(|index| self.nodes[index].port_text());
        let before = self.counts(1);
        let () = self.nodes[1].run(&["REPLICAOF", "NO", "ONE"]).unwrap();
        let () = self.nodes[1].run(&["SET", "switched", "1"]).unwrap();
        let () = self.nodes[0].run(&["REPLICAOF", "127.0.0.1", &second]).unwrap();
        until(&format!("{}: {first} follows", self.what), || {
            self.nodes[0].info("master_link_status") == "up"
                && self.nodes[0].run::<Option<String>>(&["GET", "switched"]).unwrap().is_some()
        });
        let after = self.counts(1);
        assert_eq!(after[0], before[0], "{}: a switch costs no full synchronisation", self.what);
        self.nodes.swap(0, 1);
    }
}

fn fill_all(connection: &mut Connection, keys: usize) {
    fill(connection, "first");
    bulk(connection, keys);
}
