//! Hashes.

use either::Either;

use super::element::Encoded;
use super::fields::Fields;
use super::limits::Limits;
use super::packed::Packed;
use super::part::{Element, Tap};
use super::{Text, WALK_FROM};

/// A map of fields to values.
#[derive(Clone, Debug)]
pub struct Hash(Form);

#[derive(Clone, Debug)]
enum Form {
    Packed(Packed),
    Table(Box<Fields>),
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
            Form::Table(fields) => fields.len(),
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
            Form::Table(fields) => Either::Right(fields.iter().map(texts)),
        }
    }

    /// The field at a position below the length; positions change with every change.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<(Text<'_>, Text<'_>)> {
        match &self.0 {
            Form::Packed(_) => self.iter().nth(index),
            Form::Table(fields) => fields.nth(index).map(texts),
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
            Form::Table(fields) => fields.scan(cursor, count, show),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self.0 {
            Form::Packed(_) => "listpack",
            Form::Table(_) => "hashtable",
        }
    }

    /// Whether it can be shown in parts.
    pub(super) fn can_tap(&self) -> bool {
        matches!(self.0, Form::Table(_))
    }

    /// Has it shown in parts.
    pub(super) fn set_tap(&mut self, tap: Tap, version: u32) {
        if let Form::Table(fields) = &mut self.0 {
            fields.set_tap(tap, version, |field, value| Element::Pair(field, value));
        }
    }

    pub(super) fn tap(&self) -> Option<&Tap> {
        if let Form::Table(fields) = &self.0 { fields.tap() } else { None }
    }

    /// Shows a bit more of it. Returns whether there was something left to look at.
    pub(super) fn show_more(&mut self) -> bool {
        if let Form::Table(fields) = &mut self.0 { fields.show_more() } else { false }
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
            Form::Table(fields) => fields.memory(),
        };
        size_of::<Self>() + form
    }

    /// [`Hash::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let Form::Table(fields) = &self.0 else { return self.memory() };
        size_of::<Self>() + fields.recounted()
    }
}

fn texts<'a>((field, value): (&'a [u8], &'a [u8])) -> (Text<'a>, Text<'a>) {
    (Text::Bytes(field), Text::Bytes(value))
}
