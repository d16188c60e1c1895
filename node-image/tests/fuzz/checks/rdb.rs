//! Snapshots: any bytes are an error with its place or data, and data that was read is written and read again.

use kv_node::keyspace::Keyspace;
use kv_node::persist::rdb::{Aux, RdbErrorKind, load};

use crate::commands::content::{self, contents, snapshot};

/// Ends a file: end mark, and no checksum.
const END: [u8; 9] = [0xff, 0, 0, 0, 0, 0, 0, 0, 0];

const DATABASES: usize = 16;

pub fn check(data: &[u8]) {
    // Half of a file is one, too: nobody guesses its end.
    if let Some(RdbErrorKind::Truncated) = outcome(data) {
        outcome(&[data, &END].concat());
    }
}

fn outcome(bytes: &[u8]) -> Option<RdbErrorKind> {
    let loaded = match load(bytes, Keyspace::new(DATABASES)) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(error.offset <= bytes.len() as u64, "{error}");
            assert!(error.to_string().len() < 1024, "an error is no dump: {error}");
            return Some(error.kind);
        }
    };
    content::check(&loaded.keyspace);
    let written = snapshot(&loaded.keyspace, &loaded.aux);
    let again = load(written.as_slice(), Keyspace::new(DATABASES)).expect("what was written is read");
    assert_eq!(contents(&again.keyspace), contents(&loaded.keyspace));
    let redis_ver = loaded.aux.redis_ver.or(again.aux.redis_ver.clone());
    assert_eq!(again.aux, Aux { redis_ver, left_out: 0, ..loaded.aux });
    None
}

/// Pieces of a file of a real Redis, which has a value of every encoding, and the encodings of older ones.
pub fn seeds() -> Vec<Vec<u8>> {
    const BY_REDIS: &[u8] = include_bytes!("../../../src/persist/rdb/testdata/redis-7.0.rdb");
    let old: [&[u8]; 9] = [
        b"\x09\x01k\x07\x01\x01f\x01\x02v..\xff",
        b"\x14\x01k\x0c\x0c\0\0\0\x02\0\x81x\x02\x05\x01\xff",
        b"\x03\x01k\x03\x01a\x031.5\x01b\xfe\x01c\xff",
        b"\x12\x01k\x01\x01\x05plain",
        b"\x0a\x01k\x0e\x0e\0\0\0\0\0\0\0\x01\0\0\x01a\xff",
        b"\xfe\x0f\xfb\x01\x00\xfc\0\x10\0\0\0\0\0\0\x00\x01k\xc3\x04\x05\x00a\x80\x00",
        b"\xf7\x01\x02\x03\x00",
        b"\xf8\x05\xf9\x07\xfa\x05ctime\xc1\x10\x27",
        b"\x00\x01k\x81\x80\0\0\0\0\0\0\0",
    ];
    let old = old.iter().map(|body| [b"REDIS0009", *body, &END].concat());
    old.chain([BY_REDIS.to_vec(), BY_REDIS[..BY_REDIS.len() - 9].to_vec()]).collect()
}
