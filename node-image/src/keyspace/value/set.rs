//! Sets.

use either::Either;

use super::element::Encoded;
use super::fields::Fields;
use super::intset::IntSet;
use super::limits::Limits;
use super::packed::Packed;
use super::part::{Element, Tap};
use super::{Text, WALK_FROM};
use crate::resp::parse_i64;

/// A set of strings.
#[derive(Clone, Debug)]
pub struct Set(Form);

/// A set never goes back to an earlier form.
#[derive(Clone, Debug)]
enum Form {
    Integers(IntSet),
    Packed(Packed),
    Table(Box<Fields>),
}

impl Default for Set {
    fn default() -> Self {
        Self(Form::Integers(IntSet::default()))
    }
}

impl Set {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Integers(integers) => integers.len(),
            Form::Packed(packed) => packed.len(),
            Form::Table(members) => members.len(),
        }
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `member` is in it.
    #[must_use]
    pub fn contains(&self, member: &[u8]) -> bool {
        match &self.0 {
            Form::Integers(integers) => parse_i64(member).is_some_and(|number| integers.contains(number)),
            Form::Packed(packed) => packed.find(&Encoded::text(member)).is_some(),
            Form::Table(members) => members.contains(member),
        }
    }

    /// Adds a member. Returns whether it is a new one.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        self.insert_within(Limits::current(), member)
    }

    pub(super) fn insert_within(&mut self, limits: Limits, member: &[u8]) -> bool {
        match &mut self.0 {
            Form::Integers(integers) => {
                let number = parse_i64(member);
                if number.is_some_and(|number| integers.contains(number)) {
                    return false;
                }
                let fits = integers.len() < limits.set_integers;
                if let Some(number) = number.filter(|_| fits) {
                    return integers.insert(number);
                }
                // Where there are too many numbers for the first form there are for the second.
                self.grow(limits, member, number.is_none());
            }
            Form::Packed(packed) => {
                let element = Encoded::text(member);
                if packed.find(&element).is_some() {
                    return false;
                }
                if packed.len() < limits.set_entries && member.len() <= limits.set_value {
                    packed.push_back(&element);
                    return true;
                }
                self.grow(limits, member, false);
            }
            Form::Table(_) => {}
        }
        match &mut self.0 {
            Form::Integers(_) => false,
            Form::Packed(packed) => {
                packed.push_back(&Encoded::text(member));
                true
            }
            Form::Table(members) => members.set(member, &[]),
        }
    }

    /// Leaves a compact form, because `member` is to be added.
    fn grow(&mut self, limits: Limits, member: &[u8], may_pack: bool) {
        let longest = self.iter().map(|member| member.len()).fold(member.len(), usize::max);
        if may_pack && self.len() < limits.set_entries && longest <= limits.set_value {
            let mut packed = Packed::default();
            self.iter().for_each(|member| packed.push_back(&Encoded::text(&member)));
            self.0 = Form::Packed(packed);
        } else {
            let mut members = Box::<Fields>::default();
            self.iter().for_each(|member| _ = members.set(&member, &[]));
            self.0 = Form::Table(members);
        }
    }

    /// Removes a member. Returns whether there was one.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match &mut self.0 {
            Form::Integers(integers) => parse_i64(member).is_some_and(|number| integers.remove(number)),
            Form::Packed(packed) => {
                let place = packed.find(&Encoded::text(member));
                place.map(|place| packed.remove(place)).is_some()
            }
            Form::Table(members) => members.remove(member),
        }
    }

    /// Takes out the member at a position below the length.
    pub fn take_nth(&mut self, index: usize) -> Option<Box<[u8]>> {
        let taken: Box<[u8]> = match &mut self.0 {
            Form::Integers(integers) => {
                let number = integers.nth(index)?;
                integers.remove(number);
                Text::from(number).into()
            }
            Form::Packed(packed) => {
                let (place, member) =
                    packed.places().nth(index).map(|(place, item)| (place, item.text().into()))?;
                packed.remove(place);
                member
            }
            Form::Table(members) => members.take_nth(index)?,
        };
        Some(taken)
    }

    /// The members in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Text<'_>> {
        match &self.0 {
            Form::Integers(integers) => Either::Left(Either::Left(integers.iter().map(Text::from))),
            Form::Packed(packed) => Either::Left(Either::Right(packed.items().map(|item| item.text()))),
            Form::Table(members) => Either::Right(members.iter().map(text)),
        }
    }

    /// The member at a position below the length; positions change with every change.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<Text<'_>> {
        match &self.0 {
            Form::Integers(integers) => integers.nth(index).map(Text::from),
            Form::Packed(_) => self.iter().nth(index),
            Form::Table(members) => members.nth(index).map(text),
        }
    }

    /// The members at positions below the length, which may come more than once.
    #[must_use]
    pub fn pick(&self, positions: &[usize]) -> Vec<Text<'_>> {
        let is_small = matches!(self.0, Form::Integers(_) | Form::Packed(_));
        if is_small || positions.len() > self.len() / WALK_FROM {
            let all: Vec<_> = self.iter().collect();
            return positions.iter().filter_map(|index| all.get(*index).copied()).collect();
        }
        positions.iter().filter_map(|index| self.nth(*index)).collect()
    }

    /// Shows about `count` members; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(&[u8])) -> u64 {
        match &self.0 {
            Form::Integers(_) | Form::Packed(_) => {
                self.iter().for_each(|member| show(&member));
                0
            }
            Form::Table(members) => members.scan(cursor, count, |member, _| show(member)),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self.0 {
            Form::Integers(_) => "intset",
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
        if let Form::Table(members) = &mut self.0 {
            members.set_tap(tap, version, |member, _| Element::One(member));
        }
    }

    pub(super) fn tap(&self) -> Option<&Tap> {
        if let Form::Table(members) = &self.0 { members.tap() } else { None }
    }

    /// Shows a bit more of it. Returns whether there was something left to look at.
    pub(super) fn show_more(&mut self) -> bool {
        if let Form::Table(members) = &mut self.0 { members.show_more() } else { false }
    }

    /// About how many blocks of memory it has.
    pub(super) fn blocks(&self) -> usize {
        match &self.0 {
            Form::Integers(_) | Form::Packed(_) => 1,
            Form::Table(_) => self.len(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let form = match &self.0 {
            Form::Integers(integers) => integers.size(),
            Form::Packed(packed) => packed.size(),
            Form::Table(members) => members.memory(),
        };
        size_of::<Self>() + form
    }

    /// [`Set::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let Form::Table(members) = &self.0 else { return self.memory() };
        size_of::<Self>() + members.recounted()
    }
}

fn text<'a>((member, _): (&'a [u8], &'a [u8])) -> Text<'a> {
    Text::Bytes(member)
}
