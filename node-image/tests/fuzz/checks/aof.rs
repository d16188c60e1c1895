//! Append-only files: any manifest, base and incr files are refused or loaded. What was loaded after a torn tail was cut
//! off is loaded again.

use std::path::Path;

use kv_node::command::{Flags, Handler, table};
use kv_node::keyspace::{ExpiryMode, Tracking};
use kv_node::persist::aof::{AofLocation, LoadError, LoadOptions, LoadedAof, Manifest, Step, load};
use kv_node::persist::rdb::Aux;
use kv_node::resp::Protocol;

use super::{Bytes, part};
use crate::commands::content::{self, Contents, contents, snapshot};
use crate::commands::node::{DATABASES, Node};

const BASE: &str = "a.1.base.rdb";
const INCR: [&str; 2] = ["a.1.incr.aof", "a.2.incr.aof"];

/// Bits of an input's first byte. The first one: the manifest is that of the input; the others: what an own one names.
const ANY_MANIFEST: u8 = 1;
const WITH_BASE: u8 = 2;
const WITH_SECOND: u8 = 4;

/// Unix time in milliseconds of all commands.
const NOW: u64 = 1_900_000_000_000;

pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let flags = bytes.byte();
    let (manifest, base, incr) = (bytes.part(), bytes.part(), bytes.part());
    let manifest =
        if flags & ANY_MANIFEST == 0 { own_manifest(flags).into_bytes() } else { manifest.to_vec() };
    check_manifest(&manifest);

    let dir = tempfile::tempdir().expect("a directory");
    let location = AofLocation::new(dir.path(), "d", "a");
    std::fs::create_dir(location.dir()).expect("a directory");
    let files = [(BASE, base), (INCR[0], incr), (INCR[1], bytes.0), ("a.manifest", &manifest)];
    files.iter().for_each(|(name, bytes)| std::fs::write(location.dir().join(name), bytes).expect("a file"));
    check_files(&location);
}

fn own_manifest(flags: u8) -> String {
    let base = format!("file {BASE} seq 1 type b\n");
    let second = format!("file {} seq 2 type i\n", INCR[1]);
    [
        if flags & WITH_BASE == 0 { "" } else { &base },
        &format!("file {} seq 1 type i\n", INCR[0]),
        if flags & WITH_SECOND == 0 { "" } else { &second },
    ]
    .concat()
}

fn check_manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
        assert_eq!(
            Manifest::parse(manifest.text().as_bytes()).as_ref(),
            Ok(&manifest),
            "{:?}",
            manifest.text()
        );
    }
}

fn check_files(location: &AofLocation) {
    let strict = load_as(location, false);
    let is_torn = matches!(&strict, Err(LoadError::Commands { source, .. }) if source.to_string().starts_with("the file ends"));
    let truncated = load_as(location, true);
    match (&strict, &truncated) {
        (Ok(None), Ok(None)) => {}
        (Ok(Some((strict, data))), Ok(Some((truncated, same)))) => {
            assert_eq!((&strict.cut, &truncated.cut), (&None, &None), "nothing is torn");
            assert_eq!((data, strict.offset), (same, truncated.offset));
        }
        (Err(error), Ok(Some((loaded, data)))) => {
            assert!(is_torn, "only torn files are mended, not: {error}");
            let cut = loaded.cut.as_ref().expect("what was torn was cut");
            assert_eq!(len(&cut.path), Some(cut.offset));
            let (again, same) =
                load_as(location, false).expect("a mended file is whole").expect("it is there");
            assert_eq!((data, loaded.offset, loaded.commands), (&same, again.offset, again.commands));
        }
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string());
            if let LoadError::Commands { path, offset, .. } = one {
                assert!(Some(*offset) <= len(path), "{one}");
            }
        }
        (strict, truncated) => panic!("{:?}, but {:?}", strict.as_ref().err(), truncated.as_ref().err()),
    }
}

fn len(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.len())
}

type Outcome = Result<Option<(LoadedAof, Contents)>, LoadError>;

fn load_as(location: &AofLocation, truncate: bool) -> Outcome {
    let mut node = Node::new(ExpiryMode::Ignore, Protocol::Resp2, 1);
    node.settings.max_bulk = 1 << 16;
    let options = LoadOptions { databases: DATABASES, tracking: Tracking::Off, truncate };
    let loaded = load(location, options, |step| {
        match step {
            Step::Base(keyspace) => node.keyspace.replace_all(*keyspace),
            Step::Read(_) => {}
            Step::Command(args) => apply(&mut node, args)?,
        }
        Ok(())
    })?;
    content::check(&node.keyspace);
    Ok(loaded.map(|loaded| (loaded, contents(&node.keyspace))))
}

fn apply(node: &mut Node, args: &[&[u8]]) -> Result<(), String> {
    let argv: Vec<_> = args.iter().map(|arg| arg.to_vec()).collect();
    if args[0].eq_ignore_ascii_case(b"select") {
        let db = argv.get(1).and_then(|db| std::str::from_utf8(db).ok()?.parse().ok());
        node.db = db.filter(|db| *db < DATABASES).ok_or("no such database")?;
        return Ok(());
    }
    // Only what changes data is in such a file, and nothing that is left to chance.
    let spec = table::lookup(args[0]).filter(|spec| spec.name != "spop" && spec.flags.contains(Flags::WRITE));
    match spec.map(|spec| spec.handler) {
        Some(Handler::Data(_)) => node.apply(&(node.db, argv), NOW),
        _ => Err("not a command on data".into()),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut node = Node::new(ExpiryMode::Delete, Protocol::Resp2, 1);
    let mut stream = |lines: &str| {
        let mut bytes = Vec::new();
        for line in lines.lines().map(str::trim) {
            let words: Vec<_> = line.split(' ').collect();
            if line.starts_with('#') {
                bytes.extend(format!("{line}\r\n").bytes());
                continue;
            }
            bytes.extend(format!("*{}\r\n", words.len()).bytes());
            words.iter().for_each(|word| bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
            if !["SELECT", "MULTI", "EXEC"].contains(&words[0]) {
                let argv = words.iter().map(|word| word.as_bytes().to_vec()).collect();
                node.apply(&(0, argv), NOW).expect("commands of seeds work");
            }
        }
        bytes
    };
    let first = stream(
        "SELECT 0\nSET a 1\nHSET h f v g 2\n#TS:1700000000\nRPUSH l 1 two 3\nMULTI\nINCR a\nSADD s 1 2\nEXEC",
    );
    let second = stream(
        "#kv-write-epoch 7\nZADD z 1 a 2.5 b\nPEXPIREAT a 1900000001000\nMULTI\nDEL h\nEXEC\nSELECT 3\nSET b x",
    );
    let base = snapshot(&node.keyspace, &Aux { repl_offset: Some(1000), aof_base: true, ..Aux::default() });
    let manifest =
        b"# a comment\nfile \"a.1.base.rdb\" seq 1 type b new key\nfile a.9.incr.aof seq 9 type h\n\
                     file a.1.incr.aof seq 1 type i\n";
    let file = |flags, base: &[u8], first: &[u8], second: &[u8]| {
        [&[flags], &part(manifest)[..], &part(base), &part(first), second].concat()
    };
    vec![
        file(0, b"", &first, b""),
        file(WITH_BASE, &base, &first, b""),
        file(WITH_SECOND, b"", &first, &second),
        file(WITH_BASE | WITH_SECOND, &base, &first, &second),
        file(ANY_MANIFEST, &base, &first, b""),
        file(WITH_SECOND, b"", &first, &second[..second.len() - 3]),
        file(WITH_SECOND, b"", &first[..first.len() - 3], &second),
        file(0, b"", &first[..first.len() - 20], b""),
    ]
}
