//! The manifest: which files make up the append-only file, in order. Its text is that of Redis 7, with a checksum of
//! all that follows in a comment, and the lengths of the incr files that are complete under a key that Redis skips.
//!
//! ```text
//! #kv-crc 8f2e4c6a
//! file appendonly.aof.2.base.rdb seq 2 type b
//! file appendonly.aof.4.incr.aof seq 4 type i len 5390
//! file appendonly.aof.5.incr.aof seq 5 type i
//! ```

use std::fmt::Write;

use kv_core::directive::split_args;

use crate::persist::checksum;

/// A file that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Its name in the directory of the manifest.
    pub name: String,
    /// Its number; it grows with every file of its type.
    pub seq: u64,
    /// Its length in bytes, if it is known that nothing is added any more.
    pub len: Option<u64>,
}

/// The files of an append-only file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The snapshot that everything begins with.
    pub base: Option<ListedFile>,
    /// Files of earlier times, which are only to be deleted.
    pub history: Vec<ListedFile>,
    /// What happened since the snapshot, in order.
    pub incr: Vec<ListedFile>,
}

/// A manifest that does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ManifestError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// If it is not as it was written, and at the first line that makes no sense.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let body = checksum::open(text).and_then(|body| std::str::from_utf8(body).ok());
        let what = "the checksum is not that of the lines below, or they are no text";
        let body = body.ok_or(ManifestError { line: 1, what })?;
        let first = if body.len() < text.len() { 2 } else { 1 };
        let mut manifest = Self::default();
        for (index, line) in body.lines().enumerate() {
            if !line.starts_with('#') {
                manifest.add(line).map_err(|what| ManifestError { line: first + index, what })?;
            }
        }
        match manifest {
            Self { base: None, ref incr, .. } if incr.is_empty() => {
                Err(ManifestError { line: body.lines().count(), what: "it names no base and no incr file" })
            }
            manifest => Ok(manifest),
        }
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let args = split_args(line.as_bytes()).map_err(|_| "quotes do not match")?;
        let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        let (mut name, mut seq, mut kind, mut len) = (None, None, None, None);
        for pair in words.chunks(2) {
            match pair {
                [key, value] if key == "file" => name = Some(value.clone().into_owned()),
                [key, value] if key == "seq" => seq = value.parse::<u64>().ok().filter(|&seq| seq > 0),
                [key, value] if key == "type" => kind = Some(value.clone()),
                [key, value] if key == "len" => len = Some(value.parse().map_err(|_| "len is no number")?),
                [_, _] => {} // keys of newer servers
                _ => return Err("it is not made of pairs of key and value"),
            }
        }
        let (Some(name), Some(seq), Some(kind)) = (name, seq, kind) else {
            return Err("file, seq (a number above 0) or type is missing");
        };
        if name.is_empty() {
            return Err("the file has no name");
        }
        if name.contains('/') || name == "." || name == ".." {
            return Err("the file's name is a path");
        }
        let file = ListedFile { name, seq, len };
        match &*kind {
            "b" if self.base.is_some() => return Err("a second base file"),
            "b" => self.base = Some(file),
            "h" => self.history.push(file),
            "i" if self.incr.last().is_some_and(|last| last.seq >= seq) => {
                return Err("the numbers of incr files do not ascend");
            }
            "i" => self.incr.push(file),
            _ => return Err("a type that is none of b, h and i"),
        }
        Ok(())
    }

    /// The text of the manifest.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let base = self.base.iter().map(|file| (file, 'b'));
        let history = self.history.iter().map(|file| (file, 'h'));
        let incr = self.incr.iter().map(|file| (file, 'i'));
        for (file, kind) in base.chain(history).chain(incr) {
            // Writing to a String does not fail.
            let len = file.len.map(|len| format!(" len {len}")).unwrap_or_default();
            let _ = writeln!(text, "file {} seq {} type {kind}{len}", quoted(&file.name), file.seq);
        }
        checksum::seal(&text)
    }

    /// The number for a new base file.
    #[must_use]
    pub fn next_base_seq(&self) -> u64 {
        self.base.iter().chain(&self.history).map(|file| file.seq).max().unwrap_or(0) + 1
    }

    /// The number for a new incr file.
    #[must_use]
    pub fn next_incr_seq(&self) -> u64 {
        self.incr.iter().chain(&self.history).map(|file| file.seq).max().unwrap_or(0) + 1
    }

    /// Whether a file of this name belongs to the data.
    #[must_use]
    pub fn needs(&self, name: &str) -> bool {
        self.base.iter().chain(&self.incr).any(|file| file.name == name)
    }
}

fn quoted(name: &str) -> String {
    if !name.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\')) {
        return name.to_owned();
    }
    let mut quoted = String::from('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // A line break would end the entry.
            _ if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_redis() {
        let text = "file appendonly.aof.2.base.rdb seq 2 type b\n\
                    file appendonly.aof.3.incr.aof seq 3 type h\n\
                    file appendonly.aof.4.incr.aof seq 4 type i\n\
                    file appendonly.aof.5.incr.aof seq 5 type i\n";
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.text(), format!("#kv-crc f1613645\n{text}"));
        assert_eq!((manifest.next_base_seq(), manifest.next_incr_seq()), (4, 6));
        let odd = "file \"my \\\"log.1.incr.aof\" seq 1 type i len 7\n";
        let manifest = Manifest::parse(odd.as_bytes()).unwrap();
        assert_eq!(manifest.incr[0].len, Some(7));
        assert!(manifest.text().ends_with(odd));
        assert_eq!(Manifest::parse(manifest.text().as_bytes()).unwrap(), manifest);
        for odd in ["\"my \\\"log\"", "\"two\\x0alines\\x0d\"", "\"\\x00\"", "\"a\u{85}b\"", "log#1"] {
            let odd = format!("file {odd} seq 1 type i\n");
            let read = Manifest::parse(odd.as_bytes()).unwrap();
            assert!(read.text().ends_with(&odd));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, error) in [
            ("", "line 0: it names no base and no incr file"),
            ("file a seq 1\n", "line 1: file, seq (a number above 0) or type is missing"),
            ("file a seq 0 type b\n", "line 1: file, seq (a number above 0) or type is missing"),
            ("file a seq 1 type b\nfile b seq 2 type b\n", "line 2: a second base file"),
            ("file a seq 2 type i\nfile b seq 2 type i\n", "line 2: the numbers of incr files do not ascend"),
            ("file ../a seq 2 type i\n", "line 1: the file's name is a path"),
            ("file . seq 2 type i\n", "line 1: the file's name is a path"),
            ("file \"\" seq 2 type i\n", "line 1: the file has no name"),
            ("file a seq 2 type x\n", "line 1: a type that is none of b, h and i"),
            ("file a seq\n", "line 1: it is not made of pairs of key and value"),
            ("file a seq 1 type i len x\n", "line 1: len is no number"),
            (
                "#kv-crc 00000000\nfile a seq 1 type i\n",
                "line 1: the checksum is not that of the lines below, or they are no text",
            ),
            (
                "#kv-crc 0000\nfile a seq 1 type i\n",
                "line 1: the checksum is not that of the lines below, or they are no text",
            ),
        ] {
            assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err().to_string(), error);
        }
    }
}
