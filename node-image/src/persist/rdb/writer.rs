//! Writes a snapshot piece by piece into a buffer that the caller drains.
//!
//! Values are written in their plain types, unpacked: every reader knows these, and nothing here takes longer than the
//! copy of the bytes. What takes longer, compression and the checksum, is left to a [`Finisher`](super::Finisher), which
//! may work on another thread.

use super::{Aux, WRITTEN_VERSION, kind, lzf, opcode};
use crate::keyspace::value::Element;
use crate::keyspace::{EntryRef, Tracking, Usage, ValueRef};

/// What was written of a snapshot, to be given to a [`Finisher`](super::Finisher).
#[derive(Debug, Default)]
pub struct Piece {
    pub(super) bytes: Vec<u8>,
    /// Where the lengths of strings stand that may be worth compressing.
    pub(super) strings: Vec<usize>,
}

impl Piece {
    /// Bytes in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.strings.len() * size_of::<usize>()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds what was written elsewhere.
    fn append(&mut self, other: &Self) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.strings.extend(other.strings.iter().map(|string| at + string));
    }

    fn length(&mut self, length: usize) {
        push_length(&mut self.bytes, length);
    }

    fn string(&mut self, text: &[u8]) {
        if let Some(number) = small_integer(text) {
            return self.integer(number);
        }
        if text.len() > lzf::TOO_SHORT {
            self.strings.push(self.bytes.len());
        }
        self.length(text.len());
        self.bytes.extend_from_slice(text);
    }

    /// Writes an element of a collection.
    pub fn element(&mut self, element: Element<'_>) {
        match element {
            Element::One(text) => self.string(text),
            Element::Pair(field, value) => {
                self.string(field);
                self.string(value);
            }
            Element::Scored(member, score) => {
                self.string(member);
                self.bytes.extend_from_slice(&score.to_le_bytes());
            }
        }
    }

    fn integer(&mut self, number: i32) {
        if let Ok(number) = i8::try_from(number) {
            self.bytes.push(0xc0);
            self.bytes.extend_from_slice(&number.to_le_bytes());
        } else if let Ok(number) = i16::try_from(number) {
            self.bytes.push(0xc1);
            self.bytes.extend_from_slice(&number.to_le_bytes());
        } else {
            self.bytes.push(0xc2);
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Writes a value without its type.
    fn value(&mut self, value: ValueRef<'_>) {
        if !matches!(value, ValueRef::Str { .. }) {
            self.length(value.elements());
        }
        match value {
            ValueRef::Str { bytes, .. } => self.string(bytes),
            ValueRef::List(value) => value.iter().for_each(|item| self.element(Element::One(&item))),
            ValueRef::Set(value) => value.iter().for_each(|member| self.element(Element::One(&member))),
            ValueRef::Hash(value) => {
                value.iter().for_each(|(field, value)| self.element(Element::Pair(&field, &value)));
            }
            ValueRef::ZSet(value) => {
                value.iter().for_each(|(score, member)| self.element(Element::Scored(&member, score)));
            }
        }
    }
}

/// The type of a value that is written as it is.
fn kind_of(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Str { .. } => kind::STRING,
        ValueRef::List(_) => kind::LIST,
        ValueRef::Set(_) => kind::SET,
        ValueRef::Hash(_) => kind::HASH,
        ValueRef::ZSet(_) => kind::ZSET_2,
    }
}

/// A snapshot that is being written. It may be drained by [`RdbWriter::take`] at any time.
#[derive(Debug)]
pub struct RdbWriter {
    out: Piece,
    db: Option<usize>,
    tracking: Tracking,
    /// When it was begun, in Unix milliseconds.
    now: u64,
}

impl RdbWriter {
    /// Begins a snapshot: magic, version and what it says of itself. `tracking`: the account that is kept of keys.
    #[must_use]
    pub fn begin(aux: &Aux, tracking: Tracking) -> Self {
        let now = aux.ctime.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0).saturating_mul(1000);
        let mut writer = Self { out: Piece::default(), db: None, tracking, now };
        writer.out.bytes.extend_from_slice(format!("REDIS{WRITTEN_VERSION:04}").as_bytes());
        writer.aux("redis-ver", Some(aux.redis_ver.as_deref().unwrap_or(kv_core::REDIS_VERSION)));
        writer.aux("redis-bits", Some(usize::BITS));
        writer.aux("ctime", aux.ctime);
        writer.aux("used-mem", aux.used_mem);
        writer.aux("repl-stream-db", aux.repl_stream_db);
        writer.aux("repl-id", aux.repl_id.as_deref());
        writer.aux("repl-offset", aux.repl_offset);
        writer.aux("kv-write-epoch", aux.write_epoch);
        writer.aux("aof-base", Some(u8::from(aux.aof_base)));
        writer
    }

    fn aux(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.out.bytes.push(opcode::AUX);
            self.out.string(name.as_bytes());
            self.out.string(value.to_string().as_bytes());
        }
    }

    /// Writes one key. Keys of a database should come together: each change of database takes some bytes.
    pub fn entry(&mut self, db: usize, entry: &EntryRef<'_>) {
        self.head(db, entry);
        self.out.value(entry.value);
    }

    /// Writes all of an entry but its value.
    fn head(&mut self, db: usize, entry: &EntryRef<'_>) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.out.bytes.push(opcode::SELECT_DB);
            self.out.length(db);
        }
        if entry.expire_at != 0 {
            self.out.bytes.push(opcode::EXPIRE_TIME_MS);
            self.out.bytes.extend_from_slice(&entry.expire_at.to_le_bytes());
        }
        match entry.usage(self.tracking, self.now) {
            Some(Usage::Idle(seconds)) => {
                self.out.bytes.push(opcode::IDLE);
                self.out.length(usize::try_from(seconds).unwrap_or(usize::MAX));
            }
            Some(Usage::Frequency(frequency)) => {
                self.out.bytes.extend_from_slice(&[opcode::FREQ, frequency]);
            }
            None => {}
        }
        self.out.bytes.push(kind_of(entry.value));
        self.out.string(entry.key);
    }

    /// What comes before the elements of a collection, or the bytes of a long string, to be
    /// [appended](RdbWriter::append) before them.
    #[must_use]
    pub fn head_of(&self, db: usize, entry: &EntryRef<'_>) -> Self {
        let mut head = self.aside();
        head.head(db, entry);
        head.out.length(entry.value.string().map_or_else(|| entry.value.elements(), <[u8]>::len));
        head
    }

    /// A writer of what is to be [appended](RdbWriter::append) later.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self { out: Piece::default(), db: None, ..*self }
    }

    /// Adds what was written aside.
    pub fn append(&mut self, aside: &Self) {
        self.out.append(&aside.out);
        self.db = aside.db.or(self.db);
    }

    /// Adds elements of the collection whose head was written last.
    pub fn elements(&mut self, piece: &Piece) {
        self.out.append(piece);
    }

    /// Adds bytes of the string whose head was written last. They are not compressed.
    pub fn text(&mut self, part: &[u8]) {
        self.out.bytes.extend_from_slice(part);
    }

    /// Ends the snapshot with its end mark. The checksum follows that.
    pub fn finish(&mut self) {
        self.out.bytes.push(opcode::EOF);
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.out.bytes.len()
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Piece {
        std::mem::take(&mut self.out)
    }
}

/// Appends a length.
pub(super) fn push_length(out: &mut Vec<u8>, length: usize) {
    match length {
        0..=0x3f => out.push(length as u8),
        0x40..=0x3fff => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        _ => match u32::try_from(length) {
            Ok(length) => {
                out.push(0x80);
                out.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        },
    }
}

/// The number that a string is the decimal form of, if it is one that takes less room as a number.
fn small_integer(text: &[u8]) -> Option<i32> {
    if text.len() > 11 {
        return None;
    }
    crate::resp::parse_i64(text).and_then(|number| i32::try_from(number).ok())
}
