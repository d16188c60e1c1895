//! The source of a move: sends keys, and what is done to them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kv_core::control::{ExportReport, NodeState};
use kv_core::shard::Transfer;
use kv_core::slot::{SLOT_COUNT, Slot, SlotSet, key_slot};

use super::SLICE;
use super::entries::{push_entry, push_removal};
use crate::command::{Args, CommandError, CommandResult, table};
use crate::keyspace::{At, Keyspace};
use crate::replication::random_hex;
use crate::server::propagate::encode;
use crate::server::{ClientKey, Kind, Refusal, Server};
use crate::{notice, warning};

/// Bytes that wait to be sent before keys are copied on.
const AHEAD: usize = 1024 * 1024;

/// Bytes that wait to be sent at the most: a target that takes no more for long has to begin anew.
const MOST: usize = 256 * 1024 * 1024;

/// So little waits to be sent that writes can be held for it.
const LITTLE: usize = 256 * 1024;

/// Keys of one slot that may change while it is copied; with more it is copied again.
const MOST_CHANGED: usize = 100_000;

/// A master never holds writes to slots for longer, whatever it is told.
const LONGEST: Duration = Duration::from_secs(10);

/// How often the target is told that the source is there.
const BEAT: Duration = Duration::from_secs(1);

/// Slots that are sent to another master.
#[derive(Debug)]
pub(super) struct Export {
    client: ClientKey,
    to: u16,
    slots: SlotSet,
    /// The certificate's id, if the slots were given away already: nothing changes any more.
    given: Option<String>,
    /// Slots of which every key was sent: what is done to them is passed on.
    done: SlotSet,
    /// The next slot to send, and what is known of it if it was begun.
    next: Slot,
    begun: Option<Begun>,
    copied: bool,
    hold: Option<Hold>,
    keys: u64,
    beat: Instant,
}

/// A slot that is being sent.
#[derive(Debug, Default)]
struct Begun {
    cursor: u64,
    scanned: bool,
    /// Keys that changed meanwhile, and are to be sent once more.
    changed: BTreeSet<Box<[u8]>>,
}

/// Writes are held.
#[derive(Debug)]
struct Hold {
    id: String,
    until: Instant,
}

impl Export {
    pub(super) fn slots(&self) -> &SlotSet {
        &self.slots
    }

    /// Whether it sends what this certificate is about.
    pub(super) fn is_of(&self, transfer: &Transfer) -> bool {
        self.to == transfer.to && self.slots == transfer.slots
    }

    /// Whether writes to a slot are held.
    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.hold.is_some() && self.slots.contains(slot)
    }

    /// Whether everything was sent that was written until the hold of the certificate, which lasts.
    pub(super) fn has_sent(&self, transfer: &Transfer) -> bool {
        self.is_of(transfer) && self.hold.as_ref().is_some_and(|hold| hold.id == transfer.id)
    }

    /// Sends a bit more.
    fn step(&mut self, keyspace: &Keyspace, now: u64, out: &mut Vec<u8>) {
        let Some(begun) = &mut self.begun else { return self.begin_slot(keyspace, out) };
        if !begun.scanned {
            let mut sent = 0;
            begun.cursor = keyspace.scan_slot(0, self.next, begun.cursor, |entry| {
                if !entry.is_expired(now) {
                    push_entry(out, &entry);
                    sent += 1;
                }
            });
            begun.scanned = begun.cursor == 0;
            self.keys += sent;
        } else if let Some(key) = begun.changed.pop_first() {
            match keyspace.peek(At { db: 0, now }, &key) {
                Some(entry) => push_entry(out, &entry),
                None => push_removal(out, &key),
            }
        } else {
            self.done.insert(self.next);
            self.begun = None;
            self.next += 1;
        }
    }

    /// Goes on to the next slot that has keys; empty ones are done as they are met.
    fn begin_slot(&mut self, keyspace: &Keyspace, out: &mut Vec<u8>) {
        while self.next < SLOT_COUNT {
            if self.slots.contains(self.next) {
                if keyspace.slot_len(0, self.next) > 0 {
                    self.begun = Some(Begun::default());
                    return;
                }
                self.done.insert(self.next);
            }
            self.next += 1;
        }
        self.copied = true;
        if let Some(id) = &self.given {
            encode(out, &[b"KV", b"MARK", id.as_bytes()]);
        }
    }

    /// What was done to keys of a slot: passed on, remembered, or left out as they are still to be sent.
    fn pass(&mut self, slot: Slot, keys: &[&[u8]], args: &[&[u8]], out: &mut Vec<u8>) {
        if self.done.contains(slot) {
            encode(out, args);
        } else if let Some(begun) = self.begun.as_mut().filter(|_| self.next == slot) {
            begun.changed.extend(keys.iter().map(|key| Box::from(*key)));
            if begun.changed.len() > MOST_CHANGED {
                *begun = Begun::default();
            }
        }
    }
}

impl Server {
    /// `KV EXPORT`: another master asks for slots. From now on its connection gets commands.
    ///
    /// # Errors
    /// If this node is not the serving master, or the slots are not its to give.
    pub(crate) fn begin_export(&mut self, key: ClientKey, to: u16, slots: SlotSet) -> CommandResult {
        let config = self.routing.config().filter(|_| self.routing.state() == NodeState::Master);
        let config = config.ok_or(Refusal::NotMaster)?;
        let given = config.given.iter().find(|given| given.to == to && given.slots == slots);
        let given = given.map(|given| given.id.clone());
        if slots.is_empty() || (given.is_none() && !config.slots.is_superset(&slots)) {
            return Err(CommandError::text("ERR these slots are not this shard's to give"));
        }
        self.drop_export("another one was asked for");
        self.reply(key).simple("OK");
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        client.kind = Kind::Export;
        notice!("Slots {slots} are sent to the master of shard {to} at {}", client.peer);
        self.moves.export = Some(Export {
            client: key,
            to,
            slots,
            given,
            done: SlotSet::default(),
            next: 0,
            begun: None,
            copied: false,
            hold: None,
            keys: 0,
            beat: self.clock.instant,
        });
        Ok(())
    }

    /// `KV HOLD`: holds writes to slots that are exported. All that was written before is followed by a mark.
    ///
    /// # Errors
    /// If they are not, or much of them is still on its way.
    pub(crate) fn hold_slots(&mut self, to: u16, slots: &SlotSet, time: Duration) -> CommandResult {
        let until = self.clock.instant + time.min(LONGEST);
        let id = random_hex(&mut self.random);
        let export = self.moves.export.as_mut().filter(|export| export.to == to && export.slots == *slots);
        let Some(export) = export.filter(|export| export.copied && export.given.is_none()) else {
            return Err(CommandError::text("ERR these slots were not sent yet"));
        };
        if export.hold.is_none()
            && let Some(client) = self.clients.get_mut(export.client)
        {
            encode(&mut client.output, &[b"KV", b"MARK", id.as_bytes()]);
            export.hold = Some(Hold { id, until });
            self.clients.queue_write(export.client);
        }
        Ok(())
    }

    /// What is exported, for reports.
    pub(in crate::server) fn export_report(&self) -> Option<ExportReport> {
        let export = self.moves.export.as_ref()?;
        let pending = self.clients.get(export.client).map_or(0, |client| client.pending());
        Some(ExportReport {
            to: export.to,
            slots: export.slots.clone(),
            following: export.copied && (pending <= LITTLE || export.hold.is_some()),
            held: export.hold.as_ref().map(|hold| hold.id.clone()),
            keys: export.keys,
            pending_bytes: pending as u64,
        })
    }

    pub(super) fn can_export(&self) -> bool {
        self.moves.export.as_ref().is_some_and(|export| {
            let pending = self.clients.get(export.client).map_or(0, |client| client.pending());
            !export.copied && pending < AHEAD
        })
    }

    pub(super) fn step_export(&mut self) {
        if !self.can_export() {
            return;
        }
        let began = Instant::now();
        let now = self.clock.unix_ms;
        let Some(export) = &mut self.moves.export else { return };
        let Some(client) = self.clients.get_mut(export.client) else { return };
        while !export.copied && client.pending() < AHEAD && began.elapsed() < SLICE {
            export.step(&self.keyspace, now, &mut client.output);
        }
        self.clients.queue_write(export.client);
    }

    /// Passes on what is done to keys that were sent.
    pub(super) fn pass_effect(&mut self, args: &[&[u8]]) {
        let Some(export) = &mut self.moves.export else { return };
        let Some(spec) = table::lookup(args.first().copied().unwrap_or_default()) else { return };
        let args = Args::new(args);
        let keys: Vec<&[u8]> = spec.keys.positions(args).into_iter().map(|at| args.at(at)).collect();
        // All keys of a command are of one slot.
        let Some(slot) = keys.first().map(|key| key_slot(key)) else { return };
        if !export.slots.contains(slot) || export.given.is_some() {
            return;
        }
        let Some(client) = self.clients.get_mut(export.client) else { return };
        export.pass(slot, &keys, args.all(), &mut client.output);
        if client.pending() > MOST {
            return self.drop_export("the target does not take it");
        }
        self.clients.queue_write(export.client);
    }

    /// Gives an export up; the target asks again, if the slots are still to move.
    pub(super) fn drop_export(&mut self, why: &str) {
        if let Some(export) = self.moves.export.take() {
            warning!("The export of the slots {} to shard {} ends: {why}", export.slots, export.to);
            self.clients.doom(export.client);
            self.retry_held();
        }
    }

    /// The connection of the target was closed.
    pub(in crate::server) fn on_export_closed(&mut self, key: ClientKey) {
        if self.moves.export.as_ref().is_some_and(|export| export.client == key) {
            self.drop_export("the connection was closed");
        }
    }

    pub(super) fn tend_export(&mut self) {
        let now = self.clock.instant;
        let Some(export) = &mut self.moves.export else { return };
        if now.duration_since(export.beat) >= BEAT
            && let Some(client) = self.clients.get_mut(export.client)
        {
            export.beat = now;
            encode(&mut client.output, &[b"PING"]);
            self.clients.queue_write(export.client);
        }
        if export.hold.as_ref().is_some_and(|hold| now >= hold.until) {
            export.hold = None;
            let own = self.routing.config().is_some_and(|config| config.slots.is_superset(&export.slots));
            if own {
                warning!("The slots {} were not given away in time: writes go on here.", export.slots);
            }
            self.retry_held();
        }
    }
}
