//! Hashes.

use either::Either;

use super::element::Encoded;
use super::limits::Limits;
use super::packed::Packed;
use super::record::Record;
use super::table::Table;
use super::{Text, WALK_FROM};

/// A map of fields to values.
#[derive(Clone, Debug)]
pub struct Hash(Form);

#[derive(Clone, Debug)]
enum Form {
    Packed(Packed),
    Table(Box<Fields>),
}

/// A hash that outgrew the packed form.
#[derive(Clone, Debug, Default)]
struct Fields {
    table: Table<Record>,
    /// Bytes of the records' blocks.
    heap: usize,
}

impl Fields {
    fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        let hash = self.table.hash(field);
        let record = Record::new(hash, field, value);
        self.heap += record.heap();
        let place = self.table.find(hash, |record| record.is(hash, field));
        match place.and_then(|place| self.table.get_mut(place)) {
            Some(slot) => {
                self.heap -= std::mem::replace(slot, record).heap();
                false
            }
            None => {
                self.table.insert_new(hash, record);
                true
            }
        }
    }

    fn get(&self, field: &[u8]) -> Option<&[u8]> {
        let hash = self.table.hash(field);
        let place = self.table.find(hash, |record| record.is(hash, field))?;
        self.table.get(place)?.get().map(|(_, value)| value)
    }

    fn remove(&mut self, field: &[u8]) -> bool {
        let hash = self.table.hash(field);
        let place = self.table.find(hash, |record| record.is(hash, field));
        let removed = place.and_then(|place| self.table.remove(place));
        self.heap -= removed.as_ref().map_or(0, Record::heap);
        removed.is_some()
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self(Form::Packed(Packed::default()))
    }
}

impl Hash {
    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Packed(packed) => packed.len(),
            Form::Table(fields) => fields.table.len(),
        }
    }

    /// Whether it has no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<Text<'_>> {
        match &self.0 {
            Form::Packed(packed) => packed.find_pair(&Encoded::text(field)).map(|pair| pair.second.text()),
            Form::Table(fields) => fields.get(field).map(Text::Bytes),
        }
    }

    /// Sets a field. Returns whether it is a new one.
    pub fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.set_within(Limits::current(), field, value)
    }

    pub(super) fn set_within(&mut self, limits: Limits, field: &[u8], value: &[u8]) -> bool {
        if let Form::Packed(packed) = &mut self.0 {
            if field.len().max(value.len()) <= limits.hash_value {
                let key = Encoded::text(field);
                if let Some(range) = packed.find_pair(&key).map(|pair| pair.range()) {
                    packed.replace_second(range, &Encoded::text(value));
                    return false;
                }
                if packed.len() < limits.hash_entries {
                    packed.push_pair(&key, &Encoded::text(value));
                    return true;
                }
            }
            self.grow();
        }
        let Form::Table(fields) = &mut self.0 else { return false };
        fields.set(field, value)
    }

    /// Leaves the packed form.
    fn grow(&mut self) {
        let mut fields = Box::<Fields>::default();
        for (field, value) in self.iter() {
            fields.set(&field, &value);
        }
        self.0 = Form::Table(fields);
    }

    /// Removes a field. Returns whether there was one.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match &mut self.0 {
            Form::Packed(packed) => {
                let range = packed.find_pair(&Encoded::text(field)).map(|pair| pair.range());
                range.map(|range| packed.remove_pair(range)).is_some()
            }
            Form::Table(fields) => fields.remove(field),
        }
    }

    /// The fields and their values in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Text<'_>, Text<'_>)> {
        match &self.0 {
            Form::Packed(packed) => {
                Either::Left(packed.pairs().map(|(field, value)| (field.text(), value.text())))
            }
            Form::Table(fields) => Either::Right(fields.table.iter().filter_map(texts)),
        }
    }

    /// The field at a position below the length; positions change with every change.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<(Text<'_>, Text<'_>)> {
        match &self.0 {
            Form::Packed(_) => self.iter().nth(index),
            Form::Table(fields) => fields.table.get(fields.table.nth(index)?).and_then(texts),
        }
    }

    /// The fields at positions below the length, which may come more than once.
    #[must_use]
    pub fn pick(&self, positions: &[usize]) -> Vec<(Text<'_>, Text<'_>)> {
        let is_small = matches!(self.0, Form::Packed(_));
        if is_small || positions.len() > self.len() / WALK_FROM {
            let all: Vec<_> = self.iter().collect();
            return positions.iter().filter_map(|index| all.get(*index).copied()).collect();
        }
        positions.iter().filter_map(|index| self.nth(*index)).collect()
    }

    /// Shows about `count` fields; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(&[u8], &[u8])) -> u64 {
        match &self.0 {
            Form::Packed(_) => {
                self.iter().for_each(|(field, value)| show(&field, &value));
                0
            }
            Form::Table(fields) => fields.table.scan(cursor, count, |record| {
                if let Some((field, value)) = record.get() {
                    show(field, value);
                }
            }),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self.0 {
            Form::Packed(_) => "listpack",
            Form::Table(_) => "hashtable",
        }
    }

    /// About how many blocks of memory it has.
    pub(super) fn blocks(&self) -> usize {
        match &self.0 {
            Form::Packed(_) => 1,
            Form::Table(_) => self.len(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let form = match &self.0 {
            Form::Packed(packed) => packed.size(),
            Form::Table(fields) => fields.table.memory() + size_of_val(&fields.heap) + fields.heap,
        };
        size_of::<Self>() + form
    }

    /// [`Hash::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let Form::Table(fields) = &self.0 else { return self.memory() };
        let heap: usize = fields.table.iter().map(Record::heap).sum();
        size_of::<Self>() + fields.table.recounted() + size_of_val(&heap) + heap
    }
}

fn texts(record: &Record) -> Option<(Text<'_>, Text<'_>)> {
    record.get().map(|(key, value)| (Text::Bytes(key), Text::Bytes(value)))
}
