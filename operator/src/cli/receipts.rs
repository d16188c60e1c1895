//! Receipts of changes of master, for `kubectl kv receipts` and `kv-operator local receipts`.

use std::process::ExitCode;

use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::Failure;
use super::local::columns;
use crate::crd::{Proposer, Receipt, ReceiptKind};

/// Form of an output.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints receipts, the latest first.
///
/// # Errors
/// If they cannot be written.
pub fn print(receipts: &[Receipt], form: Form) -> Result<ExitCode, Failure> {
    let told = match form {
        Form::Json => serde_json::to_string_pretty(receipts)?,
        Form::Text if receipts.is_empty() => "no master has changed, as far as is known".to_owned(),
        Form::Text => {
            let texts: Vec<_> = receipts.iter().map(|receipt| text(receipt).join("\n")).collect();
            texts.join("\n\n")
        }
    };
    super::print(&told)?;
    Ok(ExitCode::SUCCESS)
}

/// A receipt in lines: what happened, when each step was, whom there was to choose from.
fn text(receipt: &Receipt) -> Vec<String> {
    let Receipt { shard, from, to, epoch_before, epoch, reason, message, .. } = receipt;
    let kind = match receipt.kind {
        ReceiptKind::Planned => "planned",
        ReceiptKind::Unplanned => "unplanned",
        ReceiptKind::Unknown => "not known whether planned",
    };
    let by = match receipt.by {
        Proposer::Operator => "the operator",
        Proposer::Others => "the nodes, or an operator before this one",
    };
    let mut lines = vec![
        format!("shard {shard}: {from} -> {to}, epoch {epoch_before} -> {epoch}"),
        format!("  {reason}: {message} ({kind}; proposed by {by})"),
    ];
    let steps = [
        ("old master last seen to take writes", receipt.last_served.as_ref()),
        ("detected", Some(&receipt.detected)),
        ("promised", receipt.promised.as_ref()),
        ("accepted", receipt.accepted.as_ref()),
        ("new master takes writes", receipt.served.as_ref()),
    ];
    let known: Vec<_> = steps.into_iter().filter_map(|(what, time)| Some((what, time?))).collect();
    let first = known.iter().map(|(_, time)| (*time).clone()).min();
    for (what, time) in known {
        lines.push(format!("  {:.3}  {:>9}  {what}", time.0, since(first.as_ref(), time)));
    }
    if let Some(interruption) = &receipt.interruption {
        lines.push(format!("  writes were refused or held for {interruption} at most"));
    }
    lines.push(format!("  {}", receipt.told_loss()));
    if !receipt.candidates.is_empty() {
        let head = ["CANDIDATE", "OFFSET", "WRITTEN UNDER", "DATA", "PROMISED"].map(str::to_owned);
        let rows = receipt.candidates.iter().map(|one| {
            let promised = if one.promised { "yes" } else { "no" };
            vec![
                one.name.clone(),
                one.offset.to_string(),
                format!("epoch {}", one.write_epoch),
                format!("{:?}", one.data),
                promised.to_owned(),
            ]
        });
        let table: Vec<_> = std::iter::once(head.to_vec()).chain(rows).collect();
        lines.extend(columns(&table).into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn since(first: Option<&MicroTime>, time: &MicroTime) -> String {
    let ms = first.map_or(0, |first| time.0.as_millisecond() - first.0.as_millisecond());
    format!("+{ms} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_tells_each_step_and_the_candidates() {
        let receipt: Receipt = serde_json::from_value(serde_json::json!({
            "shard": 0, "from": "a-0-0", "to": "a-0-1", "kind": "Unplanned", "reason": "MasterExited",
            "message": "the master a-0-0 has exited", "by": "Operator", "epochBefore": 1, "epoch": 18,
            "lastServed": "2026-01-01T00:00:00.000000Z", "detected": "2026-01-01T00:00:00.210000Z",
            "promised": "2026-01-01T00:00:00.230000Z", "accepted": "2026-01-01T00:00:00.250000Z",
            "served": "2026-01-01T00:00:00.412000Z", "interruption": "412ms", "lost": "AtLeast", "discardedBytes": 37,
            "candidates": [{"name": "a-0-1", "offset": 90, "writeEpoch": 1, "data": "Live", "promised": true}],
        }))
        .unwrap();
        let expected = "\
shard 0: a-0-0 -> a-0-1, epoch 1 -> 18
  MasterExited: the master a-0-0 has exited (unplanned; proposed by the operator)
  2026-01-01T00:00:00.000Z      +0 ms  old master last seen to take writes
  2026-01-01T00:00:00.210Z    +210 ms  detected
  2026-01-01T00:00:00.230Z    +230 ms  promised
  2026-01-01T00:00:00.250Z    +250 ms  accepted
  2026-01-01T00:00:00.412Z    +412 ms  new master takes writes
  writes were refused or held for 412ms at most
  at least 37 bytes of the stream lost, as far as is known
  CANDIDATE   OFFSET   WRITTEN UNDER   DATA   PROMISED
  a-0-1       90       epoch 1         Live   yes";
        assert_eq!(text(&receipt).join("\n"), expected);
    }
}
