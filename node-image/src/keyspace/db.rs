//! One database: a table of entries per slot.

use arrayvec::ArrayVec;
use foldhash::quality::RandomState;
use kv_core::slot::{SLOT_COUNT, Slot};

use super::entry::{EntryRef, Meta};
use super::page::NewValue;
use super::slots::SlotBitmap;
use super::table::{Gone, KeyHash, Place, SlotTable, Watch};
use super::value::Value;
use super::{MOST_WARMED, WriteObserver};

/// Where a key is or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) slot: Slot,
    hash: KeyHash,
}

/// Who has to see what is about to change.
pub(super) struct Seen<'a> {
    /// Number of this database.
    pub(super) db: usize,
    /// Number of the current snapshot.
    pub(super) version: u32,
    pub(super) observer: Option<&'a mut Box<dyn WriteObserver>>,
}

/// Tables of neighbouring slots, made when the first key of one of them comes.
type Group = [SlotTable; GROUP];
const GROUP: usize = 64;

/// One database.
#[derive(Debug)]
pub(super) struct Db {
    groups: Box<[Option<Box<Group>>]>,
    hasher: RandomState,
    occupied: SlotBitmap,
    /// Slots in which something can expire.
    pub(super) expiring: SlotBitmap,
    len: usize,
    expiring_len: usize,
    memory: usize,
}

impl Default for Db {
    fn default() -> Self {
        Self {
            groups: (0..usize::from(SLOT_COUNT) / GROUP).map(|_| None).collect(),
            hasher: RandomState::default(),
            occupied: SlotBitmap::default(),
            expiring: SlotBitmap::default(),
            len: 0,
            expiring_len: 0,
            memory: 0,
        }
    }
}

impl Db {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn expiring_len(&self) -> usize {
        self.expiring_len
    }

    /// Bytes that keys and values take.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    pub(super) fn slot(&self, slot: Slot) -> Option<&SlotTable> {
        self.groups.get(usize::from(slot) / GROUP)?.as_ref()?.get(usize::from(slot) % GROUP)
    }

    pub(super) fn slot_mut(&mut self, slot: Slot) -> Option<&mut SlotTable> {
        self.groups.get_mut(usize::from(slot) / GROUP)?.as_mut()?.get_mut(usize::from(slot) % GROUP)
    }

    pub(super) fn next_occupied(&self, from: Slot) -> Option<Slot> {
        self.occupied.next(from)
    }

    pub(super) fn occupied(&self) -> impl Iterator<Item = Slot> + '_ {
        self.occupied.iter()
    }

    #[inline]
    pub(super) fn address(&self, slot: Slot, key: &[u8]) -> Address {
        Address { slot, hash: KeyHash::of(&self.hasher, key) }
    }

    /// See [`super::Keyspace::warm`]. Each pass needs what the one before it brought in; within a pass the loads are
    /// independent, so that the processor has many of them under way.
    pub(super) fn warm(&self, addresses: impl Iterator<Item = Address>) {
        let mut tables: ArrayVec<(&SlotTable, KeyHash), MOST_WARMED> = ArrayVec::new();
        let wanted = addresses.filter_map(|address| Some((self.slot(address.slot)?, address.hash)));
        tables.extend(wanted.take(MOST_WARMED));
        let mut seen = 0;
        for (table, _) in &tables {
            seen ^= table.len();
        }
        for (table, hash) in &tables {
            seen ^= table.warm_page(*hash);
        }
        for (table, hash) in &tables {
            seen ^= table.warm_directory(*hash);
        }
        for (table, hash) in &tables {
            seen ^= table.warm_entry(*hash);
        }
        std::hint::black_box(seen);
    }

    #[inline]
    pub(super) fn find(&self, address: Address, key: &[u8]) -> Option<(Place, EntryRef<'_>)> {
        let table = self.slot(address.slot)?;
        let place = table.find(address.hash, key)?;
        Some((place, table.entry(place)?))
    }

    /// Where a key stands, and when it expires (0: never).
    #[inline]
    pub(super) fn place(&self, address: Address, key: &[u8]) -> Option<(Place, u64)> {
        let table = self.slot(address.slot)?;
        let place = table.find(address.hash, key)?;
        Some((place, table.expire_at(place)))
    }

    /// Changes a slot's table, and keeps the accounts.
    fn change<R>(
        &mut self,
        seen: Seen<'_>,
        slot: Slot,
        change: impl FnOnce(&mut SlotTable, &mut Watch<'_>) -> R,
    ) -> Option<R> {
        let Seen { db, version, observer } = seen;
        let group = self.groups.get_mut(usize::from(slot) / GROUP)?;
        let group = group.get_or_insert_with(|| Box::new(std::array::from_fn(|_| SlotTable::default())));
        let table = group.get_mut(usize::from(slot) % GROUP)?;
        let mut watch = Watch { db, slot, version, observer, hasher: &self.hasher };
        let (len, expiring, memory) = (table.len(), table.expiring, table.memory());
        let result = change(table, &mut watch);
        self.memory = (self.memory + table.memory()).saturating_sub(memory);
        self.expiring_len = (self.expiring_len + table.expiring).saturating_sub(expiring);
        if table.expiring != expiring {
            self.expiring.put(slot, table.expiring > 0);
        }
        if table.len() != len {
            self.len = (self.len + table.len()).saturating_sub(len);
            self.occupied.put(slot, !table.is_empty());
        }
        Some(result)
    }

    /// Changes the object at a place.
    pub(super) fn change_object<R>(
        &mut self,
        seen: Seen<'_>,
        address: Address,
        place: Place,
        change: impl FnOnce(&mut Value) -> R,
    ) -> Option<R> {
        self.change(seen, address.slot, |table, watch| table.change_object(watch, place, change))?
    }

    /// Sets what a key holds. `found` is its place, if it has one. Returns what went for it.
    pub(super) fn insert(
        &mut self,
        seen: Seen<'_>,
        address: Address,
        found: Option<Place>,
        key: &[u8],
        value: NewValue<'_>,
        meta: Meta,
    ) -> Option<Gone> {
        self.change(seen, address.slot, |table, watch| {
            table.insert(watch, address.hash, found, key, value, meta)
        })?
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, seen: Seen<'_>, address: Address, place: Place) -> Option<Gone> {
        self.change(seen, address.slot, |table, watch| table.remove(watch, place))?
    }

    /// Sets when `key` expires; returns when it did until now.
    pub(super) fn set_expire(
        &mut self,
        seen: Seen<'_>,
        address: Address,
        key: &[u8],
        expire_at: u64,
    ) -> Option<u64> {
        self.change(seen, address.slot, |table, watch| table.set_expire(watch, address.hash, key, expire_at))?
    }

    /// Notes how an entry was used.
    pub(super) fn set_access(&mut self, address: Address, place: Place, access: u32) {
        let Some(table) = self.slot_mut(address.slot) else { return };
        let before = table.memory();
        table.set_access(place, access);
        let after = table.memory();
        self.memory = (self.memory + after).saturating_sub(before);
    }

    /// Any entry; `volatile`: any that expires. Slots are chosen by chance, however many entries they have.
    pub(super) fn sample(&self, random: &mut fastrand::Rng, volatile: bool) -> Option<EntryRef<'_>> {
        const ATTEMPTS: usize = 64;
        let slots = if volatile { &self.expiring } else { &self.occupied };
        let mut drawn = (0..ATTEMPTS).map(|_| random.u16(..SLOT_COUNT));
        let slot = drawn.find(|slot| slots.contains(*slot)).or_else(|| slots.next(0))?;
        self.slot(slot)?.sample(random, |entry| !volatile || entry.expire_at != 0)
    }

    /// The entry at a place of its own among all, or none if `index` is not below the number of entries.
    pub(super) fn nth(&self, mut index: usize) -> Option<EntryRef<'_>> {
        for slot in self.occupied() {
            let table = self.slot(slot)?;
            if index < table.len() {
                return table.nth(index);
            }
            index -= table.len();
        }
        None
    }
}
