//! `KV`: the control protocol by which the operator sets topology. See [`kv_core::control`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kv_core::control::{Consent, NodeReport, NodeState, digest};
use kv_core::directive;
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::shard::{ClusterMap, ShardConfig};
use kv_core::slot::SlotSet;

use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group};
use crate::server::{ClientKey, Refusal, Server};

/// The part of the command table that is for the operator.
pub const COMMANDS: &[CommandSpec] = &[row(
    Group::Cluster,
    "kv",
    -2,
    Flags::ADMIN.union(Flags::STALE).union(Flags::NO_MULTI),
    "7.2.0",
    "Reports and sets the node's place in its shard; for the operator.",
    kv,
)];

fn kv(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let done = match args.at(1).to_ascii_lowercase().as_slice() {
        b"report" if args.len() == 2 => Ok(()),
        b"report" if args.len() == 5 => grant(server, args),
        b"ping" if args.len() == 6 => ping(server, args),
        b"prepare" if (5..=7).contains(&args.len()) => prepare(server, args),
        b"accept" if args.len() == 3 => accept(server, args),
        b"pause" if args.len() == 6 => pause(server, args),
        b"cutover" if args.len() == 5 => cut_over(server, args),
        b"import" if args.len() == 7 => import(server, args),
        b"hold" if args.len() == 8 => hold(server, args),
        b"export" if args.len() == 6 => return export(server, key, args),
        b"map" if args.len() == 3 => map(server, args),
        b"config" if args.len() == 3 => config(server, args),
        _ => {
            return Err(CommandError::text(
                "ERR unknown subcommand or wrong number of arguments; try KV REPORT | PING uid shard id epoch | PREPARE uid shard epoch [ENDED | RENEWAL epoch] | ACCEPT \
                 config | PAUSE uid shard epoch milliseconds | CUTOVER uid shard epoch | IMPORT uid shard epoch from slots | HOLD uid shard epoch to slots \
                 milliseconds | EXPORT uid shard to slots | MAP map | CONFIG directives",
            ));
        }
    };
    done?;
    report(server, key)
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        Self::text(refusal.to_string())
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &[u8], what: &str) -> Result<T, CommandError> {
    serde_json::from_slice(text).map_err(|error| CommandError::text(format!("ERR invalid {what}: {error}")))
}

fn target(server: &Server, args: Args<'_>) -> Result<Epoch, CommandError> {
    let uid = ClusterUid(args.text(2)?.to_owned());
    let shard = u16::try_from(args.integer(3)?).map_err(|_| CommandError::NotInteger)?;
    let epoch = u64::try_from(args.integer(4)?).map_err(|_| CommandError::NotInteger)?;
    server.routing.check_target(&uid, shard)?;
    Ok(Epoch(epoch))
}

fn prepare(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let epoch = target(server, args)?;
    let words = (5..args.len()).map(|index| args.text(index)).collect::<Result<Vec<_>, _>>()?;
    let consent = Consent::of_arguments(&words).ok_or(CommandError::Syntax)?;
    if consent == Consent::IfSilent
        && epoch > server.routing.promised()
        && let Some(silent_ms) = server.bound_to_master()
    {
        return Err(Refusal::Sticky { silent_ms }.into());
    }
    let present = server.routing.config().map(|config| config.epoch);
    // What was answered in this tick is this reign's, and is to be told with the rest that waits.
    server.hold_replies();
    server.routing.promise(epoch, present.is_some_and(|present| consent.renews(present)))?;
    crate::notice!("Promised epoch {epoch}");
    server.after_promise();
    Ok(())
}

fn accept(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let config: ShardConfig = json(args.at(2), "config")?;
    let (epoch, master) = (config.epoch, config.master);
    let before = server.routing.config().map(|config| config.master);
    let reigned = server.routing.state() == NodeState::Master;
    let failover = server.routing.config().map(|config| config.failover);
    server.check_cut_over(&config)?;
    server.hold_replies();
    server.check_transfers(&config)?;
    if server.routing.accept(config)? {
        crate::notice!("Accepted config of epoch {epoch}");
        if before != Some(master) {
            // The stream that flows may be that of the old master still, through a parent that is the same.
            server.drop_link();
            if before.is_some() {
                server.note_new_master();
            }
        }
        server.take_role(reigned, failover);
        server.tend_sentinel();
    }
    Ok(())
}

fn unsigned(args: Args<'_>, index: usize) -> Result<u64, CommandError> {
    u64::try_from(args.integer(index)?).map_err(|_| CommandError::NotInteger)
}

fn grant(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let run_id = args.text(2)?.to_owned();
    let (epoch, clock) = (unsigned(args, 3)?, unsigned(args, 4)?);
    server.hear_witness(&run_id, Epoch(epoch), clock);
    Ok(())
}

fn ping(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let uid = ClusterUid(args.text(2)?.to_owned());
    let shard = u16::try_from(args.integer(3)?).map_err(|_| CommandError::NotInteger)?;
    server.routing.check_target(&uid, shard)?;
    let from: NodeId = args.text(4)?.parse().map_err(|error| CommandError::text(format!("ERR {error}")))?;
    server.hear_peer(from, Epoch(unsigned(args, 5)?));
    Ok(())
}

fn pause(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    /// A master never holds writes for longer, whatever it is told.
    const LONGEST: u64 = 10_000;
    present_target(server, args)?;
    let milliseconds = unsigned(args, 5)?;
    server.hold_writes(server.clock.instant + Duration::from_millis(milliseconds.min(LONGEST)));
    Ok(())
}

/// The serving master is asked, under its present epoch.
fn present_target(server: &Server, args: Args<'_>) -> Result<(), CommandError> {
    let epoch = target(server, args)?;
    let present = server.routing.config().map_or(Epoch(0), |config| config.epoch);
    if epoch != present {
        let promised = server.routing.promised();
        return Err(Refusal::StaleEpoch { asked: epoch, promised }.into());
    }
    if !server.routing.may_write() {
        return Err(Refusal::NotMaster.into());
    }
    Ok(())
}

fn cut_over(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let epoch = target(server, args)?;
    let present = server.routing.config().map_or(Epoch(0), |config| config.epoch);
    if epoch != present {
        let promised = server.routing.promised();
        return Err(Refusal::StaleEpoch { asked: epoch, promised }.into());
    }
    Ok(server.begin_cut_over()?)
}

fn shard_index(args: Args<'_>, index: usize) -> Result<u16, CommandError> {
    u16::try_from(args.integer(index)?).map_err(|_| CommandError::NotInteger)
}

fn import(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    present_target(server, args)?;
    let slots: SlotSet = json(args.at(6), "slots")?;
    server.begin_import(shard_index(args, 5)?, slots)
}

fn hold(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    present_target(server, args)?;
    let slots: SlotSet = json(args.at(6), "slots")?;
    let time = Duration::from_millis(unsigned(args, 7)?);
    server.hold_slots(shard_index(args, 5)?, &slots, time)
}

fn export(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let uid = ClusterUid(args.text(2)?.to_owned());
    server.routing.check_target(&uid, shard_index(args, 3)?)?;
    let slots: SlotSet = json(args.at(5), "slots")?;
    server.begin_export(key, shard_index(args, 4)?, slots)
}

fn map(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let map: ClusterMap = json(args.at(2), "map")?;
    server.routing.set_map(map, digest(args.at(2)))?;
    server.after_map();
    Ok(())
}

/// Takes all of the directives or none. Those that were given before and are no more get back the value from before.
fn config(server: &mut Server, args: Args<'_>) -> Result<(), CommandError> {
    let directives: BTreeMap<String, String> = json(args.at(2), "directives")?;
    let named: BTreeSet<_> =
        directives.keys().filter_map(|name| directive::lookup(name)).map(|d| d.name).collect();
    let mut before = server.given.clone();
    let dropped: Vec<_> = before
        .extract_if(.., |name, _| !named.contains(name))
        .map(|(name, value)| (name, value.to_string()))
        .collect();
    for name in named {
        if let Some(value) = server.config.settings.get(name) {
            before.entry(name).or_insert_with(|| value.clone());
        }
    }
    let dropped = dropped.iter().map(|(name, value)| (*name, value.as_str()));
    let named = directives.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    super::admin::set_directives(server, dropped.chain(named))?;
    server.given = before;
    server.config_digest = digest(args.at(2));
    Ok(())
}

fn report(server: &mut Server, key: ClientKey) -> CommandResult {
    let report: NodeReport = server.report().ok_or(Refusal::Unmanaged)?;
    let text = serde_json::to_vec(&report).map_err(|error| CommandError::text(format!("ERR {error}")))?;
    server.reply(key).bulk(&text);
    Ok(())
}
