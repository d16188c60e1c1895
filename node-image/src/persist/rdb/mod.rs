//! RDB, the snapshot format of Redis and Valkey: primitives, a reader, and a writer.
//!
//! Source: `rdb.h` and `rdb.c` of Redis. Nothing here opens a file or a socket.

mod finish;
mod load;
mod lzf;
mod packed;
mod reader;
mod source;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::RangeInclusive;

use crc::{CRC_64_REDIS, Crc, Table};
use kv_core::id::Epoch;

pub use finish::{Finisher, Format};
pub use load::{Loaded, load};
pub use reader::{Content, Item, read};
pub use writer::{Piece, RdbWriter};

/// The version that is written: the oldest that knows every type and field that we use, so that every Redis from 5 on
/// and every Valkey reads it. (Redis 7.0 refuses version 11.)
pub const WRITTEN_VERSION: u16 = 9;

/// Who wrote a snapshot. The two count versions apart since Redis 7.2, and their newest types differ.
struct Dialect {
    /// What it begins with; the version follows, up to the ninth byte.
    magic: &'static [u8],
    /// The versions that are read.
    versions: RangeInclusive<u16>,
}

impl Dialect {
    /// Redis up to 8, Valkey up to 8, and this program.
    const REDIS: Self = Self { magic: b"REDIS", versions: 1..=12 };
    /// Valkey from 9 on.
    const VALKEY: Self = Self { magic: b"VALKEY", versions: 80..=80 };
}

/// Checksums that end a file; CRC-64 as Redis computes it.
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// First version whose files end with a checksum.
const FIRST_WITH_CRC: u16 = 5;

/// Operation codes, which stand where a value's type would.
mod opcode {
    pub const SLOT_IMPORT: u8 = 243;
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION2: u8 = 245;
    pub const FUNCTION_PRE_GA: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQ: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZE_DB: u8 = 251;
    pub const EXPIRE_TIME_MS: u8 = 252;
    pub const EXPIRE_TIME: u8 = 253;
    pub const SELECT_DB: u8 = 254;
    pub const EOF: u8 = 255;
}

/// Types of values.
mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const SET_LISTPACK: u8 = 20;

    /// What a type that we do not read is, for the error's text.
    pub fn describe(kind: u8) -> &'static str {
        match kind {
            6 | 7 => "a value of a module",
            15 | 19 | 21 => "a stream",
            22..=25 => "a hash whose fields expire",
            _ => "unknown",
        }
    }
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aux {
    /// Version of the writer (`redis-ver`).
    pub redis_ver: Option<String>,
    /// When it was made, in seconds since 1970 (`ctime`).
    pub ctime: Option<i64>,
    /// Bytes that the data took in memory (`used-mem`).
    pub used_mem: Option<u64>,
    /// The replication history that the data belongs to (`repl-id`).
    pub repl_id: Option<String>,
    /// Where in that history the data stands (`repl-offset`).
    pub repl_offset: Option<u64>,
    /// The database that the replication stream has selected there (`repl-stream-db`).
    pub repl_stream_db: Option<u32>,
    /// Epoch of the last config under which the data changed (`kv-write-epoch`).
    pub write_epoch: Option<Epoch>,
    /// Whether it is the base of an append-only file (`aof-base`).
    pub aof_base: bool,
    /// Libraries of functions and data of modules that were in it and left out.
    pub left_out: u32,
}

/// What is wrong with a snapshot, and where.
#[derive(Debug, thiserror::Error)]
#[error("RDB, at byte {offset}: {kind}")]
pub struct RdbError {
    /// Bytes from the beginning.
    pub offset: u64,
    /// What is wrong.
    pub kind: RdbErrorKind,
}

impl RdbError {
    /// Whether the bytes could not be had, rather than be understood.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self.kind, RdbErrorKind::Io(_) | RdbErrorKind::Truncated)
    }
}

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum RdbErrorKind {
    /// The bytes could not be had.
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
    /// The bytes end too early.
    #[error("it ends too early: the file is cut off")]
    Truncated,
    /// It is no snapshot at all.
    #[error("it does not begin with REDIS or VALKEY and a version: this is no RDB file")]
    NotRdb,
    /// A version that nobody had heard of when this was written.
    #[error(
        "version {0} is not supported (Redis' 1 to 12 and Valkey's 80 are): it was made by a newer server"
    )]
    Version(u16),
    /// The checksum at the end does not match what was read.
    #[error("the checksum is {found:016x} but must be {expected:016x}: the file is corrupt")]
    Checksum {
        /// As computed from the content.
        expected: u64,
        /// As written at the end.
        found: u64,
    },
    /// A value of a type that is not supported.
    #[error("key {key:?} has type {kind} ({}), which is not supported", kind::describe(*kind))]
    UnsupportedType {
        /// The key, shortened if it is long.
        key: String,
        /// The type's number in the format.
        kind: u8,
    },
    /// Something else that is not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The key's value makes no sense.
    #[error("the value of key {key:?} is corrupt: {what}")]
    CorruptValue {
        /// The key, shortened if it is long.
        key: String,
        /// What makes no sense.
        what: &'static str,
    },
    /// Something outside of a value makes no sense.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// A database number that this node does not have.
    #[error(
        "database {0} does not exist here: a cluster has database 0 only, another node as many as its directive databases says"
    )]
    Database(u64),
}
