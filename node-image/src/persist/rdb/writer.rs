//! Writes a snapshot piece by piece into a buffer that the caller drains.
//!
//! Values are written in their plain types, unpacked and uncompressed: every reader knows these, and nothing here takes
//! longer than the copy of the bytes.

use super::{Aux, CRC, WRITTEN_VERSION, kind, opcode};
use crate::keyspace::{EntryRef, ValueRef};

/// A snapshot that is being written. It may be drained by [`RdbWriter::take`] at any time.
pub struct RdbWriter {
    out: Vec<u8>,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
    /// How much of `out` is in the checksum.
    summed: usize,
    db: Option<usize>,
}

impl std::fmt::Debug for RdbWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RdbWriter")
            .field("pending", &self.out.len())
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

impl RdbWriter {
    /// Begins a snapshot: magic, version and what it says of itself.
    #[must_use]
    pub fn begin(aux: &Aux) -> Self {
        let mut writer = Self { out: Vec::new(), crc: CRC.digest(), summed: 0, db: None };
        writer.out.extend_from_slice(format!("REDIS{WRITTEN_VERSION:04}").as_bytes());
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
            self.out.push(opcode::AUX);
            self.string(name.as_bytes());
            self.string(value.to_string().as_bytes());
        }
    }

    /// Writes one key. Keys of a database should come together: each change of database takes some bytes.
    pub fn entry(&mut self, db: usize, entry: &EntryRef<'_>) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.out.push(opcode::SELECT_DB);
            self.length(db);
        }
        if entry.expire_at != 0 {
            self.out.push(opcode::EXPIRE_TIME_MS);
            self.out.extend_from_slice(&entry.expire_at.to_le_bytes());
        }
        let kind_at = self.out.len();
        self.out.push(kind::STRING);
        self.string(entry.key);
        let kind = self.value(entry.value);
        if let Some(byte) = self.out.get_mut(kind_at) {
            *byte = kind;
        }
    }

    /// Ends the snapshot: end mark and checksum.
    pub fn finish(&mut self) {
        self.out.push(opcode::EOF);
        self.sum();
        let checksum = self.crc.clone().finalize();
        self.out.extend_from_slice(&checksum.to_le_bytes());
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.sum();
        self.summed = 0;
        std::mem::take(&mut self.out)
    }

    fn sum(&mut self) {
        self.crc.update(self.out.get(self.summed..).unwrap_or_default());
        self.summed = self.out.len();
    }

    fn length(&mut self, length: usize) {
        match length {
            0..=0x3f => self.out.push(length as u8),
            0x40..=0x3fff => self.out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
            _ => match u32::try_from(length) {
                Ok(length) => {
                    self.out.push(0x80);
                    self.out.extend_from_slice(&length.to_be_bytes());
                }
                Err(_) => {
                    self.out.push(0x81);
                    self.out.extend_from_slice(&(length as u64).to_be_bytes());
                }
            },
        }
    }

    fn string(&mut self, text: &[u8]) {
        if let Some(number) = small_integer(text) {
            return self.integer(number);
        }
        self.length(text.len());
        self.out.extend_from_slice(text);
    }

    /// Writes a value without its type, which it returns.
    fn value(&mut self, value: ValueRef<'_>) -> u8 {
        match value {
            ValueRef::Str { bytes, .. } => {
                self.string(bytes);
                kind::STRING
            }
            ValueRef::List(value) => {
                self.length(value.len());
                value.iter().for_each(|item| self.string(&item));
                kind::LIST
            }
            ValueRef::Set(value) => {
                self.length(value.len());
                value.iter().for_each(|member| self.string(&member));
                kind::SET
            }
            ValueRef::Hash(value) => {
                self.length(value.len());
                for (field, content) in value.iter() {
                    self.string(&field);
                    self.string(&content);
                }
                kind::HASH
            }
            ValueRef::ZSet(value) => {
                self.length(value.len());
                for (score, member) in value.iter() {
                    self.string(&member);
                    self.out.extend_from_slice(&score.to_le_bytes());
                }
                kind::ZSET_2
            }
        }
    }

    fn integer(&mut self, number: i32) {
        if let Ok(number) = i8::try_from(number) {
            self.out.push(0xc0);
            self.out.extend_from_slice(&number.to_le_bytes());
        } else if let Ok(number) = i16::try_from(number) {
            self.out.push(0xc1);
            self.out.extend_from_slice(&number.to_le_bytes());
        } else {
            self.out.push(0xc2);
            self.out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// The number that a string is the decimal form of, if it is one that takes less room as a number.
fn small_integer(text: &[u8]) -> Option<i32> {
    if text.len() > 11 {
        return None;
    }
    crate::resp::parse_i64(text).and_then(|number| i32::try_from(number).ok())
}
