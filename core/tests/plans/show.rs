//! Plans and status as a case writes them.

use std::fmt::Write as _;

use kv_core::control::Consent;
use kv_core::id::NodeId;
use kv_core::plan::{Action, ClusterStatus, Plan, ShardPlan, Step};
use kv_core::quorum::Acknowledge;
use kv_core::shard::ShardConfig;
use kv_core::slot::SlotSet;

/// What a case calls the node.
fn token(id: NodeId) -> String {
    let hex = id.to_string();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    let letter = if byte(2) == 0 { String::new() } else { char::from(b'a' + byte(2)).to_string() };
    format!("{}{letter}", byte(0))
}

fn tokens(ids: &[NodeId]) -> String {
    if ids.is_empty() {
        return "nobody".into();
    }
    ids.iter().map(|&id| token(id)).collect::<Vec<_>>().join(" ")
}

fn config(config: &ShardConfig) -> String {
    let mut text = format!("{}: {}", config.epoch, token(config.master));
    for member in config.members.iter().filter(|member| member.id != config.master) {
        let parent = member.parent.map(token).unwrap_or_default();
        write!(text, " {}<{parent}", token(member.id)).expect("a text");
    }
    if config.acknowledge != Acknowledge::Async {
        write!(text, " by {}", config.acknowledge).expect("a text");
    }
    for overlap in &config.overlap {
        write!(text, " with {} of {}", overlap.copies, tokens(&overlap.voters)).expect("a text");
    }
    if let Some(source) = &config.source {
        write!(text, " of {source}").expect("a text");
    }
    if config.slots != SlotSet::all() {
        write!(text, " slots {}", config.slots).expect("a text");
    }
    for given in &config.given {
        write!(text, " gives {} to {} by {}", given.slots, given.to, given.id).expect("a text");
    }
    for taken in &config.taken {
        write!(text, " takes {} of {} by {}", taken.slots, taken.from, taken.id).expect("a text");
    }
    if !config.left.is_empty() {
        write!(text, " left {}", config.left).expect("a text");
    }
    text
}

pub fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    for shard in &plan.shards {
        let workload = plan.workloads.iter().find(|workload| workload.shard == shard.index);
        let nodes = workload.map_or("no".to_owned(), |workload| workload.nodes.to_string());
        let serves = if shard.serving { "serves" } else { "does not serve" };
        writeln!(text, "shard {}: {serves}, {} ready, {nodes} nodes wanted", shard.index, shard.ready_nodes)
            .expect("a text");
        if let Some(end) = shard.wish {
            writeln!(text, "  the wish ends: {end:?}").expect("a text");
        }
        match &shard.step {
            Step::Nothing => text.push_str("  nothing to do\n"),
            Step::Wait(reason) => writeln!(text, "  wait {}: {reason}", reason.code()).expect("a text"),
            Step::Do(step, reason) => {
                writeln!(text, "  do {}: {reason}\n  {}", reason.code(), action(step)).expect("a text");
            }
        }
    }
    if !plan.map.down.is_empty() {
        writeln!(text, "down: {}", tokens(&plan.map.down)).expect("a text");
    }
    text
}

/// The config that a shard's step brings, if it does.
pub fn accept(shard: &ShardPlan) -> Option<String> {
    match &shard.step {
        Step::Do(step @ Action::Accept { .. }, _) => Some(action(step)),
        _ => None,
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Prepare { epoch, nodes, consent } => {
            let asked = match consent {
                Consent::IfSilent => ", unless they hear the master",
                Consent::Ended => "",
                Consent::Renewal(_) => ", and to go on",
            };
            format!("prepare {epoch} at {}{asked}", tokens(nodes))
        }
        Action::Accept { config: new, first, then } => {
            format!("accept {} at {}, then {}", config(new), token(*first), tokens(then))
        }
        Action::CutOver { master, epoch } => format!("cut over at {} under {epoch}", token(*master)),
        Action::Replace { node, .. } => format!("replace {node}"),
        Action::Import { master, epoch, slots, .. } if slots.is_empty() => {
            format!("give up the import at {} under {epoch}", token(*master))
        }
        Action::Import { master, epoch, from, slots } => {
            format!("import {slots} from shard {from} at {} under {epoch}", token(*master))
        }
        Action::Hold { master, epoch, to, slots, milliseconds } => {
            format!("hold {slots} for shard {to} at {} under {epoch} for {milliseconds} ms", token(*master))
        }
        Action::Pause { master, target, epoch, milliseconds } => {
            format!(
                "pause {} under {epoch} for {milliseconds} ms until {} is there",
                token(*master),
                token(*target)
            )
        }
    }
}

pub fn status(status: &ClusterStatus) -> String {
    let mut text =
        format!("{}/{} nodes, {} masters\n", status.ready_nodes, status.total_nodes, status.masters);
    for condition in &status.conditions {
        let (kind, holds) = (condition.kind, condition.status);
        writeln!(text, "{kind:?} {holds} {}: {}", condition.reason, condition.message).expect("a text");
    }
    for shard in &status.shards {
        let master = shard.master.as_deref().unwrap_or("nobody");
        writeln!(text, "shard {} under {} by {master}, slots {}", shard.index, shard.epoch, shard.slots)
            .expect("a text");
        if let Some(source) = &shard.source {
            let lag = source.lag_bytes.map(|bytes| format!(", lag {bytes} bytes")).unwrap_or_default();
            let does = if source.following { "follows" } else { "does not follow" };
            writeln!(text, "  {does} {}{lag}", source.address).expect("a text");
        }
        for node in &shard.nodes {
            let role = node.role.map_or("no member".to_owned(), |role| format!("{role:?}"));
            let parent = node.parent.as_deref().map(|parent| format!(" of {parent}")).unwrap_or_default();
            let offset = node.offset.map(|offset| format!(" at {offset}")).unwrap_or_default();
            let lag = node.lag_bytes.map(|bytes| format!(", lag {bytes} bytes")).unwrap_or_default();
            writeln!(text, "  {} {:?} {role}{parent}{offset}{lag}", node.name, node.state).expect("a text");
        }
    }
    text
}
