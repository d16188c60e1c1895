//! The Sentinel protocol: its forms beside a real Sentinel, its events, and what it does for clients that know no cluster.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use kv_core::control::NodeState;
use kv_core::lease::{Failover, OnIsolation};
use kv_core::shard::{ClusterMap, ShardConfig};
use kv_core::slot::SlotSet;
use rustix::process::Signal;
use support::shard::{Shard, accept, address, config, tell_map};
use support::wire::Wire;
use support::{FREE, Process, SECRET, eventually, free_port, until};

fn shard(replicas: usize) -> Shard {
    shard_with(&[], replicas, |_| {})
}

fn shard_with(args: &[&str], replicas: usize, adapt: impl FnOnce(&mut ShardConfig)) -> Shard {
    let shard = Shard::with(&[&["--sentinel-port", FREE], args].concat(), replicas, adapt);
    if args.is_empty() {
        let known = |node: &Process| sentinel(node).run("SENTINEL SENTINELS s").matches("\"runid\"").count();
        until("they know each other", || shard.nodes.iter().all(|node| known(node) == replicas));
    }
    shard
}

fn short(config: &mut ShardConfig) {
    config.failover = Failover { down_after_ms: 800, lease_ms: 600, on_isolation: OnIsolation::RefuseWrites };
}

fn sentinel(node: &Process) -> Wire {
    Wire::to(node.report().sentinel_port)
}

/// A subscriber to all events of a node.
fn listener(node: &Process) -> Wire {
    let mut wire = sentinel(node);
    assert_eq!(wire.run("PSUBSCRIBE *"), "*[\"psubscribe\" \"*\" :1]");
    wire
}

/// The next event: channel and message.
fn event(wire: &mut Wire) -> String {
    let text = wire.read();
    let text = text.strip_prefix("*[\"pmessage\" \"*\" \"").and_then(|text| text.strip_suffix("\"]"));
    text.unwrap().replacen("\" \"", " ", 1)
}

/// Reads events until one begins so.
fn await_event(wire: &mut Wire, start: &str) -> String {
    loop {
        let event = event(wire);
        if event.starts_with(start) {
            return event;
        }
    }
}

/// Where a Sentinel says that the master is.
fn master_port(node: &Process) -> Option<u16> {
    let reply = sentinel(node).run("SENTINEL GET-MASTER-ADDR-BY-NAME s");
    reply.strip_prefix("*[\"127.0.0.1\" \"")?.strip_suffix("\"]")?.parse().ok()
}

fn is_master_at(node: &Process, master: &Process) {
    assert_eq!(master_port(node), Some(master.port));
}

/// Makes `to` the master in place of `from`, in an orderly way.
fn hand_over(shard: &Shard, epoch: u64, to: usize) {
    let nodes: Vec<_> = shard.nodes.iter().collect();
    let others: Vec<_> = nodes.iter().enumerate().filter(|(n, _)| *n != to).map(|(_, node)| *node).collect();
    let next = ShardConfig { failover: shard.config.failover, ..config(epoch, nodes[to], &others) };
    for node in &nodes {
        node.control(&["PREPARE", "uid", "0", &epoch.to_string(), "ENDED"]).unwrap();
    }
    accept(nodes[to], &next).unwrap();
    others.iter().for_each(|node| drop(accept(node, &next).unwrap()));
    tell_map(&nodes, &next);
}

/// A Redis with a replica and two Sentinels; the first is the one that is asked.
struct Real {
    _servers: [Process; 2],
    sentinels: Vec<(Child, u16)>,
    _dir: tempfile::TempDir,
}

impl Real {
    fn start() -> Self {
        let master = Process::redis(&[]);
        let replica = Process::redis(&["--replicaof", "127.0.0.1", &master.port_text()]);
        until("the replica is in sync", || replica.info("master_link_status") == "up");
        let dir = tempfile::tempdir().unwrap();
        let start = |name: &str| {
            let (port, file) = (free_port(), dir.path().join(name));
            let text = format!(
                "port {port}\ndir {}\nsentinel monitor s 127.0.0.1 {} 2\n",
                dir.path().display(),
                master.port
            );
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
            (command.spawn().unwrap(), port)
        };
        let sentinels = vec![start("a.conf"), start("b.conf")];
        let real = Self { _servers: [master, replica], sentinels, _dir: dir };
        until("they listen", || real.sentinels.iter().all(|(_, port)| redis_at(*port)));
        until("they know all", || {
            let mut wire = real.connect();
            let all = wire.run("SENTINEL REPLICAS s") + &wire.run("SENTINEL SENTINELS s");
            all.matches("\"flags\" \"slave\"").count() + all.matches("\"flags\" \"sentinel\"").count() == 2
        });
        real
    }

    fn connect(&self) -> Wire {
        Wire::to(self.sentinels[0].1)
    }
}

fn redis_at(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

impl Drop for Real {
    fn drop(&mut self) {
        for (child, _) in &mut self.sentinels {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A reply with what differs from server to server taken out: numbers, ids, and what stands for a state.
fn form(reply: &str) -> String {
    let words = reply.split(' ').map(|word| {
        let start = word.len() - word.trim_start_matches(['*', '%', '[', '"', '$', ':']).len();
        let core = word[start..].trim_end_matches(['"', ']']);
        let (plain, id) = (core.parse::<i64>().is_ok(), core.len() == 40);
        let state = ["ok", "err", "?"].contains(&core) || core.contains("127.0.0.1:");
        if plain || id || state { word.replacen(core, "_", 1) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn replies_have_the_form_of_a_real_sentinels() {
    let (real, shard) = (Real::start(), shard(1));
    let (mut theirs, mut ours) = (real.connect(), sentinel(shard.master()));
    for hello in ["HELLO 2", "HELLO 3"] {
        let fields = |reply: String| form(&reply).split("\"version\"").next().unwrap().to_owned();
        assert_eq!(fields(ours.run(hello)), fields(theirs.run(hello)));
        for line in [
            "SENTINEL MASTERS",
            "SENTINEL MASTER s",
            "SENTINEL REPLICAS s",
            "SENTINEL SLAVES s",
            "SENTINEL SENTINELS s",
            "SENTINEL GET-MASTER-ADDR-BY-NAME s",
            "SENTINEL CKQUORUM s",
            "SENTINEL IS-MASTER-DOWN-BY-ADDR 127.0.0.1 1 0 *",
            "SENTINEL MYID",
            "ROLE",
            "PING",
            "CLIENT SETNAME me",
            "CLIENT GETNAME",
            "SUBSCRIBE +sdown",
            "UNSUBSCRIBE +sdown",
        ] {
            let (ours, theirs) = (ours.run(line), theirs.run(line));
            assert_eq!(form(&ours), form(&theirs), "{line}");
        }
        // What is wrong is refused in the same words.
        for line in [
            "SENTINEL MASTER none",
            "SENTINEL REPLICAS none",
            "SENTINEL SENTINELS none",
            "SENTINEL CKQUORUM none",
            "SENTINEL FAILOVER none",
            "SENTINEL GET-MASTER-ADDR-BY-NAME none",
            "SENTINEL IS-MASTER-DOWN-BY-ADDR a b c d",
            "SENTINEL RESET none",
            "SENTINEL",
            "SENTINEL MASTER",
            "SENTINEL NONSENSE",
            "GET a",
            "QUIT",
        ] {
            assert_eq!(ours.run(line), theirs.run(line), "{line}");
        }
    }
    let (ours, theirs) = (ours.run("INFO sentinel"), theirs.run("INFO sentinel"));
    let lines = |text: &str| text.matches("\\r\\n").map(str::len).count();
    assert_eq!(lines(&ours), lines(&theirs), "{ours} {theirs}");
    let master =
        format!("master0:name=s,status=ok,address=127.0.0.1:{},slaves=1,sentinels=2", shard.master().port);
    assert!(ours.contains(&master), "{ours}");
}

#[test]
fn a_new_master_is_told_to_subscribers_of_every_node() {
    let shard = shard(2);
    let [a, b, c] = &shard.nodes[..] else { panic!() };
    shard.nodes.iter().for_each(|node| is_master_at(node, a));
    let mut listeners: Vec<_> = shard.nodes.iter().map(listener).collect();
    let mut exact = sentinel(c);
    exact.run("HELLO 3");
    assert_eq!(exact.run("SUBSCRIBE +switch-master"), ">[\"subscribe\" \"+switch-master\" :1]");
    // Its channels are not those of the data port.
    let mut data = Wire::connect(a);
    data.run("PSUBSCRIBE *");
    assert_eq!(Wire::connect(a).run("PUBLISH +switch-master x"), ":1");
    assert_eq!(data.read(), "*[\"pmessage\" \"*\" \"+switch-master\" \"x\"]");

    hand_over(&shard, 2, 1);
    let switch = format!("+switch-master s 127.0.0.1 {} 127.0.0.1 {}", a.port, b.port);
    let replica =
        |node: &Process| format!("slave 127.0.0.1:{0} 127.0.0.1 {0} @ s 127.0.0.1 {1}", node.port, b.port);
    let told = [
        vec![switch.clone(), format!("+slave {}", replica(a)), format!("+convert-to-slave {}", replica(a))],
        vec![
            format!("+promoted-slave slave 127.0.0.1:{0} 127.0.0.1 {0} @ s 127.0.0.1 {1}", b.port, a.port),
            format!("+failover-end master s 127.0.0.1 {}", a.port),
            switch.clone(),
            format!("+slave {}", replica(a)),
        ],
        vec![switch.clone(), format!("+slave {}", replica(a))],
    ];
    for (listener, told) in listeners.iter_mut().zip(told) {
        assert_eq!(event(listener), "+new-epoch 2");
        told.iter().for_each(|expected| assert_eq!(&event(listener), expected));
        assert_eq!(event(listener), format!("+slave {}", replica(c)));
    }
    let (channel, message) = switch.split_once(' ').unwrap();
    assert_eq!(exact.read(), format!(">[\"message\" \"{channel}\" \"{message}\"]"));
    shard.nodes.iter().for_each(|node| is_master_at(node, b));
    assert!(data.is_silent());
}

#[test]
fn a_master_that_moves_is_another_one_to_clients_and_a_shard_among_several_has_a_name_of_its_own() {
    let shard = shard(1);
    let [a, b] = &shard.nodes[..] else { panic!() };
    let mut listener = listener(b);
    let mut addresses = BTreeMap::from([(a.report().id, address(a)), (b.report().id, address(b))]);
    addresses.get_mut(&a.report().id).unwrap().ip = "127.0.0.2".into();
    let mut map = ClusterMap {
        uid: shard.config.uid.clone(),
        shards: vec![shard.config.clone()],
        addresses,
        down: vec![],
    };
    let tell = |map: &ClusterMap| b.control(&["MAP", &serde_json::to_string(map).unwrap()]).unwrap();
    tell(&map);
    let moved = format!("+switch-master s 127.0.0.1 {0} 127.0.0.2 {0}", a.port);
    assert_eq!(event(&mut listener), moved);
    // One that cannot be reached any more stays known where it was.
    map.addresses.remove(&a.report().id);
    tell(&map);
    let known = format!("*[\"127.0.0.2\" \"{}\"]", a.port);
    assert_eq!(sentinel(b).run("SENTINEL GET-MASTER-ADDR-BY-NAME s"), known);

    map.shards.push(ShardConfig { shard: 1, slots: SlotSet::default(), ..shard.config.clone() });
    tell(&map);
    assert_eq!(sentinel(b).run("ROLE"), "*[\"sentinel\" *[\"s-0\"]]");
    assert_eq!(sentinel(b).run("SENTINEL GET-MASTER-ADDR-BY-NAME s"), "*-1");
}

#[test]
fn who_is_silent_is_down_and_who_answers_is_not() {
    let shard = shard_with(&[], 2, short);
    let [a, b, c] = &shard.nodes[..] else { panic!() };
    let mut listener = listener(a);
    shard.signal(&[2], Signal::STOP);
    let replica = format!("slave 127.0.0.1:{0} 127.0.0.1 {0} @ s 127.0.0.1 {1}", c.port, a.port);
    let down: Vec<_> = (0..2).map(|_| event(&mut listener)).collect();
    assert_eq!(down[0], format!("+sdown {replica}"));
    assert!(down[1].starts_with("+sdown sentinel "), "{down:?}");
    let mut wire = sentinel(a);
    assert!(wire.run("SENTINEL REPLICAS s").contains("\"s_down,slave,disconnected\""));
    assert!(wire.run("SENTINEL SENTINELS s").contains("\"s_down,sentinel,disconnected\""));
    assert!(wire.run("SENTINEL CKQUORUM s").starts_with("+OK 2 usable Sentinels. "));
    shard.signal(&[1], Signal::STOP);
    await_event(&mut listener, &format!("+sdown slave 127.0.0.1:{}", b.port));
    let refused = wire.run("SENTINEL CKQUORUM s");
    assert!(refused.starts_with("-NOQUORUM 1 usable Sentinels. "), "{refused}");
    shard.signal(&[1, 2], Signal::CONT);
    await_event(&mut listener, &format!("-sdown {replica}"));
    until("all are there again", || !sentinel(a).run("SENTINEL REPLICAS s").contains("s_down"));
    assert_eq!(sentinel(a).run("SENTINEL RESET s*"), ":1");
    await_event(&mut listener, "+reset-master master s ");
}

#[test]
fn a_lost_master_is_down_to_one_then_to_all_and_is_replaced() {
    let shard = shard_with(&[], 2, short);
    let a = shard.master();
    let mut listeners = [listener(&shard.nodes[1]), listener(&shard.nodes[2])];
    let mut old = listener(a);
    shard.signal(&[0], Signal::STOP);
    let master = format!("master s 127.0.0.1 {}", a.port);
    for listener in &mut listeners {
        assert_eq!(await_event(listener, "+sdown master"), format!("+sdown {master}"));
        await_event(listener, &format!("+odown {master} #quorum "));
        await_event(listener, &format!("+switch-master s 127.0.0.1 {} 127.0.0.1 ", a.port));
    }
    let leader = eventually("a new master", || shard.leader(&[1, 2]));
    shard.signal(&[0], Signal::CONT);
    // It may say that it does not know, but not for long, and never that it is itself.
    until("the old one knows, too", || master_port(a).inspect(|port| assert_ne!(*port, a.port)).is_some());
    is_master_at(a, &shard.nodes[leader]);
    await_event(&mut old, "+convert-to-slave ");
}

#[test]
fn a_master_without_a_lease_sends_clients_to_the_next_sentinel() {
    let shard = shard_with(&[], 2, short);
    let a = shard.master();
    let mut plain = Wire::connect(a);
    assert_eq!(plain.run("SET a 1"), "+OK");
    shard.signal(&[1, 2], Signal::STOP);
    until("it does not know", || sentinel(a).run("SENTINEL GET-MASTER-ADDR-BY-NAME s") == "*-1");
    until("it counts as down", || sentinel(a).run("SENTINEL MASTER s").contains("\"s_down,master\""));
    assert!(plain.run("SET a 2").starts_with("-CLUSTERDOWN "));
    until("who knows no cluster is to look elsewhere", || plain.is_closed());
    shard.signal(&[1, 2], Signal::CONT);
    until("it knows again, or another one leads", || {
        [0, 1, 2].into_iter().all(|node| master_port(&shard.nodes[node]).is_some())
    });
}

#[test]
fn clients_that_know_no_cluster_are_closed_where_they_are_wrong() {
    let shard = shard(1);
    let [a, b] = &shard.nodes[..] else { panic!() };
    let (mut plain, mut cluster, mut idle) = (Wire::connect(a), Wire::connect(a), Wire::connect(a));
    for wire in [&mut plain, &mut cluster, &mut idle] {
        assert_eq!(wire.run("SET a 1"), "+OK");
    }
    cluster.run("CLUSTER SLOTS");
    hand_over(&shard, 2, 1);
    let moved = format!("-MOVED 15495 127.0.0.1:{}", b.port);
    // All that was sent is answered.
    (0..10).for_each(|_| plain.send(&["SET", "a", "2"]));
    (0..10).for_each(|_| assert_eq!(plain.read(), moved));
    assert_eq!(cluster.run("SET a 3"), moved);
    assert!(plain.is_closed());
    for wire in [&mut cluster, &mut idle] {
        assert_eq!(
            wire.run("PING"),
            "+PONG",
            "it sent no request that is for another node, or knows what MOVED means"
        );
    }
    assert_eq!(cluster.run("SET a 3"), moved);
    assert_eq!(Wire::connect(b).run("SET a 4"), "+OK");
}

#[test]
fn replicas_answer_reads_of_clients_that_know_no_cluster_if_they_may() {
    let shard = shard(1);
    let [a, b] = &shard.nodes[..] else { panic!() };
    assert_eq!(Wire::connect(a).run("SET a 1"), "+OK");
    until("the replica has it", || b.report().offset == a.report().offset);
    assert!(
        Wire::connect(b).run("GET a").starts_with("-MOVED "),
        "who may be behind does not answer unasked"
    );
    let () = b.run(&["CONFIG", "SET", "kv-replica-reads", "yes"]).unwrap();
    let mut wire = Wire::connect(b);
    assert_eq!(wire.run("GET a"), "\"1\"");
    assert!(wire.run("SET a 2").starts_with("-MOVED "));
}

#[test]
fn the_port_asks_for_the_password_and_takes_no_other_commands() {
    let shard = shard_with(&["--kv-password-file", SECRET], 0, |_| {});
    let node = shard.master();
    let mut wire = sentinel(node);
    assert!(wire.run("SENTINEL MASTERS").starts_with("-NOAUTH "));
    assert!(wire.run("HELLO 3").starts_with("-NOAUTH "));
    assert!(wire.run("AUTH wrong").starts_with("-WRONGPASS "));
    assert_eq!(wire.run("AUTH secret"), "+OK");
    assert!(wire.run("SENTINEL MASTERS").starts_with("*[*[\"name\" \"s\" "));
    for command in ["GET a", "KV REPORT", "CONFIG GET *", "SHUTDOWN", "PUBLISH a b", "MULTI", "CLUSTER SLOTS"]
    {
        let refused = wire.run(command);
        assert!(refused.starts_with("-ERR unknown command "), "{command}: {refused}");
    }
    for command in
        ["SENTINEL MONITOR a 127.0.0.1 1 1", "SENTINEL REMOVE s", "SENTINEL SET s quorum 1", "CLIENT PAUSE 1"]
    {
        assert!(wire.run(command).starts_with("-ERR "), "{command}");
    }
    assert!(wire.run("SENTINEL FAILOVER s").starts_with("-NOGOODSLAVE "));
    // Each port has its own clients, and pausing those of the data port does not concern the others.
    let mut data = Wire::connect(node);
    assert_eq!(data.run("AUTH secret"), "+OK");
    assert_eq!(wire.run("CLIENT LIST").matches("id=").count(), 1);
    let others = data.run("CLIENT LIST");
    let of_port = format!(" laddr=127.0.0.1:{} ", node.port);
    assert_eq!(others.matches(" laddr=").count(), others.matches(&of_port).count(), "{others}");
    assert_eq!(data.run("CLIENT PAUSE 60000 ALL"), "+OK");
    assert_eq!(wire.run("PING"), "+PONG");
    assert_eq!(wire.run("CLIENT KILL TYPE normal SKIPME no"), ":1");
}

#[test]
fn a_node_of_no_cluster_does_not_speak_for_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_kv-node")).args(["--sentinel-port", "1"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("sentinel-port needs kv-cluster-uid"));
}

#[test]
fn a_master_that_was_restarted_does_not_say_that_it_is_one() {
    let mut shard = shard_with(&[], 1, |_| {});
    shard.nodes[0].kill();
    shard.nodes[0].restart();
    until("it waits to be told", || shard.nodes[0].report().state == NodeState::Joining);
    assert_eq!(sentinel(&shard.nodes[0]).run("SENTINEL GET-MASTER-ADDR-BY-NAME s"), "*-1");
}

#[test]
fn a_failover_can_be_asked_for_at_any_node_and_loses_nothing() {
    let shard = shard_with(&[], 2, short);
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    assert_eq!(sentinel(shard.master()).run("SENTINEL FAILOVER other"), "-ERR No such master with that name");
    // The master is asked to make way, and nobody but the nodes sees to it.
    assert_eq!(sentinel(shard.master()).run("SENTINEL FAILOVER s"), "+OK");
    assert_eq!(sentinel(shard.master()).run("SENTINEL FAILOVER s"), "-INPROG Failover already in progress");
    let leader = eventually("another master", || shard.leader(&[0, 1, 2]).filter(|leader| *leader != 0));
    assert_eq!(shard.nodes[leader].run::<String>(&["GET", "a"]).unwrap(), "1");
    until("they know", || shard.nodes.iter().all(|node| master_port(node) == Some(shard.nodes[leader].port)));
    // A replica is asked, and leads itself.
    let replica = 3 - leader;
    until("it follows", || support::shard::streaming(&shard.nodes[replica]));
    // Not at once: clients are to keep up.
    until("it takes the wish", || sentinel(&shard.nodes[replica]).run("SENTINEL FAILOVER s") == "+OK");
    until("it leads", || shard.leader(&[0, 1, 2]) == Some(replica));
}
