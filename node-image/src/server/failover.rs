//! `FAILOVER`: a master on its own and a replica of it change places without a write lost.
//!
//! Writes are held until a replica has everything. Then this node follows it, and asks it by `PSYNC ... FAILOVER` to be
//! the master from where both stand. Source: "FAILOVER" of Redis, whose servers can be at either end.

use std::time::{Duration, Instant};

use super::{ClientKey, Server};
use crate::command::{Args, CommandError, CommandResult};
use crate::replication::Feed;
use crate::{notice, warning};

/// A change of places that is under way.
#[derive(Debug)]
pub struct Failover {
    /// Host and port of the replica that is to be master; `None`: the first that has everything.
    target: Option<(String, u16)>,
    /// At the deadline the target is made master though it lacks something.
    force: bool,
    /// When it is given up, or forced.
    deadline: Option<Instant>,
    /// A replica was chosen and is asked.
    asked: bool,
}

/// How long a chosen replica may not answer, at least.
const PATIENCE: Duration = Duration::from_secs(10);

impl Failover {
    /// As INFO names it.
    #[must_use]
    pub fn state_name(failover: Option<&Self>) -> &'static str {
        match failover {
            None => "no-failover",
            Some(failover) if failover.asked => "failover-in-progress",
            Some(_) => "waiting-for-sync",
        }
    }

    /// Whether a replica was chosen and is asked.
    #[must_use]
    pub fn in_progress(&self) -> bool {
        self.asked
    }

    /// `[TO host port [FORCE]] [TIMEOUT milliseconds]`, in any order.
    fn parse(args: Args<'_>, now: Instant) -> Result<Self, CommandError> {
        let (mut target, mut timeout, mut force, mut index) = (None, None, false, 1);
        while index < args.len() {
            if args.is(index, "timeout") && index + 1 < args.len() && timeout.is_none() {
                let millis = u64::try_from(args.integer(index + 1)?).ok().filter(|millis| *millis > 0);
                let error = CommandError::text("ERR FAILOVER timeout must be greater than 0");
                timeout = Some(millis.ok_or(error)?);
                index += 2;
            } else if args.is(index, "to") && index + 2 < args.len() && target.is_none() {
                let port = u16::try_from(args.integer(index + 2)?).map_err(|_| CommandError::NotInteger)?;
                target = Some((args.text(index + 1)?.to_owned(), port));
                index += 3;
            } else if args.is(index, "force") && !force {
                force = true;
                index += 1;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        if force && (timeout.is_none() || target.is_none()) {
            return Err(CommandError::text(
                "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
            ));
        }
        let deadline = timeout.and_then(|millis| now.checked_add(Duration::from_millis(millis)));
        Ok(Self { target, force, deadline, asked: false })
    }
}

impl Server {
    /// `FAILOVER`
    pub(crate) fn begin_failover(&mut self, key: ClientKey, args: Args<'_>) -> CommandResult {
        let refuse = |text: &'static str| Err(CommandError::text(text));
        if args.len() == 2 && args.is(1, "abort") {
            if self.failover.is_none() {
                return refuse("ERR No failover in progress.");
            }
            self.abort_failover("Failover manually aborted");
            self.reply(key).ok();
            return Ok(());
        }
        let failover = Failover::parse(args, self.clock.instant)?;
        if self.failover.is_some() {
            return refuse("ERR FAILOVER already in progress.");
        }
        if self.link.is_some() {
            return refuse("ERR FAILOVER is not valid when server is a replica.");
        }
        if self.clients.feeds().next().is_none() {
            return refuse("ERR FAILOVER requires connected replicas.");
        }
        if let Some(target) = &failover.target {
            match self.find_replica(target) {
                None => return refuse("ERR FAILOVER target HOST and PORT is not a replica."),
                Some(feed) if !feed.online() => return refuse("ERR FAILOVER target replica is not online."),
                Some(_) => {}
            }
        }
        notice!("FAILOVER requested to {}.", shown(failover.target.as_ref()));
        self.replicate_beat(&[b"REPLCONF", b"GETACK", b"*"]);
        self.failover = Some(failover);
        self.reply(key).ok();
        Ok(())
    }

    fn find_replica(&self, (host, port): &(String, u16)) -> Option<&Feed> {
        let is = |(client, feed): &(&super::Client, &Feed)| {
            let named = feed.address == *host || client.peer.ip().to_string() == *host;
            let local = *host == "localhost" && client.peer.ip().is_loopback();
            feed.port == *port && (named || local)
        };
        self.clients.feeds().find(is).map(|(_, feed)| feed)
    }

    /// Goes on with a change of places: chooses the replica as soon as there is one that has everything.
    pub(crate) fn tend_failover(&mut self) {
        let Some(failover) = &self.failover else { return };
        let now = self.clock.instant;
        let over = failover.deadline.is_some_and(|deadline| now >= deadline);
        if failover.asked {
            if over {
                self.abort_failover("The target of the failover did not answer in time");
            }
            return;
        }
        if over && !failover.force {
            return self.abort_failover("Replica never caught up before timeout");
        }
        let offset = self.history.offset();
        let chosen = match &failover.target {
            Some(target) => {
                let level =
                    self.find_replica(target).is_some_and(|feed| feed.online() && feed.acked >= offset);
                (level || over).then(|| target.clone())
            }
            None => self.clients.feeds().find(|(_, feed)| feed.online() && feed.acked >= offset).map(
                |(client, feed)| {
                    let ip = client.peer.ip().to_string();
                    (if feed.address.is_empty() { ip } else { feed.address.clone() }, feed.port)
                },
            ),
        };
        let Some(chosen) = chosen else { return };
        notice!(
            "Failover target {} is {}, failing over.",
            shown(Some(&chosen)),
            if over { "forced" } else { "synced" }
        );
        if let Some(failover) = &mut self.failover {
            failover.asked = true;
            failover.deadline = now.checked_add(self.tunables.repl_timeout.max(PATIENCE));
        }
        self.follow(chosen, None);
    }

    /// The chosen replica is master, and this node follows it.
    pub(crate) fn complete_failover(&mut self) {
        if self.failover.take().is_some() {
            notice!("Failover completed.");
            self.retry_held();
        }
    }

    /// The chosen replica answered something else, or did not. Returns whether there was one.
    pub(crate) fn failover_refused(&mut self, why: &str) {
        // An answer that was lost: it is master already, and only has to be followed.
        if why.contains("PSYNC FAILOVER can't be sent to a master") {
            warning!("The failover's target is a master already");
            return self.complete_failover();
        }
        if self.failover.as_ref().is_some_and(Failover::in_progress) && why.contains("answered PSYNC") {
            self.abort_failover("Failover target rejected psync request");
        }
    }

    /// Gives a change of places up: this node is the master that it was.
    fn abort_failover(&mut self, why: &str) {
        warning!("Aborting failover: {why}");
        if self.failover.take().is_some_and(|failover| failover.asked) {
            self.follow_nobody();
        }
        self.retry_held();
    }

    /// `PSYNC ... FAILOVER`: the master asks this node to be master in its place.
    pub(crate) fn take_over(&mut self, replid: &str) -> CommandResult {
        let refuse = |text: &'static str| Err(CommandError::text(text));
        if self.routing.is_managed() {
            return refuse("ERR FAILOVER is not valid for a node of a KvCluster: its operator decides");
        }
        if self.link.is_none() {
            return refuse("ERR PSYNC FAILOVER can't be sent to a master.");
        }
        if replid != self.history.replid {
            return refuse("ERR PSYNC FAILOVER replid must match my replid.");
        }
        warning!("Failover request received for replid {replid}.");
        self.drain_link();
        self.follow_nobody();
        Ok(())
    }
}

fn shown(address: Option<&(String, u16)>) -> String {
    address.map_or_else(|| "any replica".to_owned(), |(host, port)| format!("{host}:{port}"))
}
