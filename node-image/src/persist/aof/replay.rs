//! Takes the bytes of an incr file and gives out its commands: whole transactions only, and none of a torn tail.

use kv_core::id::Epoch;

use crate::persist::checksum::{self, Checksum, Parsed as Line};
use crate::resp::{Limits, ParseError, Parsed, Request, RequestParser};

/// Begins the line that records under which epoch the following commands were accepted. Lines that begin with `#` are
/// annotations: Redis skips them, and they are no part of the replication stream.
pub(super) const EPOCH_MARK: &str = "#kv-write-epoch ";

/// The longest annotation.
const MAX_ANNOTATION: usize = 1024;

/// More than any limit on what clients send, so that only a corrupt length exceeds it.
const LIMITS: Limits = Limits::trusted(1 << 40);

/// What is wrong with the commands of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The bytes are no command.
    #[error("not a command ({0}); {CORRUPT}")]
    Parse(ParseError),
    /// What stands there is neither a command nor an annotation.
    #[error("neither a command nor an annotation; {CORRUPT}")]
    Alien,
    /// The bytes are not those that were written.
    #[error("the {bytes} bytes from there on do not match their checksum; {CORRUPT}")]
    Checksum {
        /// How many bytes the checksum is of.
        bytes: u64,
    },
    /// What stands at the end is no beginning of a command, or it takes a checksum in, which is only written behind
    /// whole commands.
    #[error("a command that does not end, and it is not because a write was cut off; {CORRUPT}")]
    Endless,
    /// EXEC or MULTI where it must not be.
    #[error("{0} is out of place")]
    OutOfPlace(&'static str),
    /// The command was not accepted.
    #[error("the command was refused: {0}")]
    Refused(String),
    /// The file ends in the middle of a command or transaction, and may not be cut.
    #[error(
        "the file ends inside of a command or transaction (aof-load-truncated is off, or it is not the last file)"
    )]
    Torn,
}

/// What to do about it.
const CORRUPT: &str = "the file is corrupt: restore it, or let the node begin empty and copy from a replica, or, if the \
                       loss of all that follows is acceptable, cut it off there (truncate -s)";

/// What a command is to the reader.
enum Word {
    Multi,
    Exec,
    Other,
}

/// What came since MULTI; it counts only when EXEC comes, too.
#[derive(Debug)]
struct Transaction {
    commands: Vec<Vec<Vec<u8>>>,
    file_bytes: u64,
    stream_bytes: u64,
    /// The checksum before MULTI.
    checksum: Checksum,
}

/// The reader of one incr file after the other.
#[derive(Debug, Default)]
pub(super) struct Replay {
    parser: RequestParser,
    request: Request,
    buffer: Vec<u8>,
    /// Offset in the file up to which everything was given out.
    given: u64,
    /// What came since MULTI.
    transaction: Option<Transaction>,
    /// Of what came since the last checksum in the file, up to `summed` in the buffer.
    checksum: Checksum,
    summed: usize,
    stream_bytes: u64,
    commands: u64,
    write_epoch: Option<Epoch>,
}

impl Replay {
    pub fn begin_file(&mut self) {
        let Self { stream_bytes, commands, write_epoch, .. } = *self;
        *self = Self { stream_bytes, commands, write_epoch, ..Self::default() };
    }

    /// Where the first thing begins that was not given out.
    pub fn offset(&self) -> u64 {
        self.given
    }

    /// Bytes of the replication stream that were given out, of all files.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    pub fn commands(&self) -> u64 {
        self.commands
    }

    pub fn write_epoch(&self) -> Option<Epoch> {
        self.write_epoch
    }

    /// Bytes behind the last whole command or transaction.
    pub fn torn(&self) -> u64 {
        let open = self.transaction.as_ref().map_or(0, |open| open.file_bytes);
        open + self.buffer.len() as u64
    }

    /// Whether the bytes behind the last whole command were not left by a write that was cut off.
    pub fn is_endless(&self) -> bool {
        checksum::is_in(&self.buffer) || !may_go_on(&self.buffer)
    }

    /// The checksum of what was given out and is not covered by one in the file.
    pub fn checksum(&self) -> Checksum {
        self.transaction.as_ref().map_or(&self.checksum, |open| &open.checksum).clone()
    }

    /// Takes more bytes of the file, and gives out what is complete.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        apply: &mut impl FnMut(&[&[u8]]) -> Result<(), String>,
    ) -> Result<(), ReplayError> {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut start = 0;
        let result = loop {
            match self.next(&buffer, start, apply) {
                Ok(Some(end)) => start = end,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.sum(&buffer, start);
        self.summed = 0;
        self.buffer = buffer;
        self.buffer.drain(..start);
        self.parser.dropped(start, &mut self.request);
        result
    }

    /// Handles what begins at `start`; returns where it ends, or nothing if it is incomplete.
    fn next(
        &mut self,
        buffer: &[u8],
        start: usize,
        apply: &mut impl FnMut(&[&[u8]]) -> Result<(), String>,
    ) -> Result<Option<usize>, ReplayError> {
        match buffer.get(start) {
            None => return Ok(None),
            Some(b'#') => return self.annotation(buffer, start),
            Some(b'*') => {}
            Some(_) => return Err(ReplayError::Alien),
        }
        match self.parser.parse(buffer, start, &LIMITS, &mut self.request) {
            Err(error) => return Err(ReplayError::Parse(error)),
            Ok(Parsed::Incomplete) => return Ok(None),
            Ok(Parsed::Complete) => {}
        }
        let request = std::mem::take(&mut self.request);
        let args: Vec<&[u8]> = request.args.iter().filter_map(|range| buffer.get(range.clone())).collect();
        let end = request.end;
        // The parser takes the lengths' word for it.
        if !request.args.iter().all(|range| buffer.get(range.end..range.end + 2) == Some(b"\r\n")) {
            return Err(ReplayError::Alien);
        }
        if matches!(word(&args), Word::Multi) {
            self.sum(buffer, start);
        }
        self.command(&args, (end - start) as u64, apply)?;
        self.request = request;
        Ok(Some(end))
    }

    fn annotation(&mut self, buffer: &[u8], start: usize) -> Result<Option<usize>, ReplayError> {
        let rest = buffer.get(start..).unwrap_or_default();
        let Some(newline) = memchr::memchr(b'\n', rest) else {
            return if rest.len() > MAX_ANNOTATION { Err(ReplayError::Alien) } else { Ok(None) };
        };
        let line = rest.get(..newline).unwrap_or_default();
        match checksum::parse(line.strip_suffix(b"\r").unwrap_or(line)) {
            Line::Other => self.note_epoch(&String::from_utf8_lossy(line)),
            found => {
                self.sum(buffer, start);
                self.check(if let Line::Checksum(found) = found { Some(found) } else { None })?;
                self.summed = start + newline + 1;
            }
        }
        match &mut self.transaction {
            Some(open) => open.file_bytes += newline as u64 + 1,
            None => self.given += newline as u64 + 1,
        }
        Ok(Some(start + newline + 1))
    }

    /// Adds what stands before `end` to the checksum.
    fn sum(&mut self, buffer: &[u8], end: usize) {
        self.checksum.add(buffer.get(self.summed..end).unwrap_or_default());
        self.summed = end;
    }

    /// Compares the checksum with what the file says it is. Where that fails, nothing since the last one is to be
    /// trusted.
    fn check(&mut self, found: Option<u32>) -> Result<(), ReplayError> {
        let covered = std::mem::take(&mut self.checksum);
        if found == Some(covered.value()) {
            return Ok(());
        }
        let bytes = covered.bytes();
        let here = self.given + self.transaction.take().map_or(0, |open| open.file_bytes);
        self.given = here.saturating_sub(bytes);
        Err(ReplayError::Checksum { bytes })
    }

    fn note_epoch(&mut self, line: &str) {
        if let Some(epoch) = line.strip_prefix(EPOCH_MARK).and_then(|epoch| epoch.trim_end().parse().ok()) {
            self.write_epoch = Some(Epoch(epoch));
        }
    }

    fn command(
        &mut self,
        args: &[&[u8]],
        len: u64,
        apply: &mut impl FnMut(&[&[u8]]) -> Result<(), String>,
    ) -> Result<(), ReplayError> {
        match (word(args), &mut self.transaction) {
            (Word::Multi, None) => {
                let (file_bytes, stream_bytes) = (len, len);
                let checksum = self.checksum.clone();
                self.transaction =
                    Some(Transaction { commands: Vec::new(), file_bytes, stream_bytes, checksum });
                return Ok(());
            }
            (Word::Multi, Some(_)) => return Err(ReplayError::OutOfPlace("MULTI")),
            (Word::Exec, None) => return Err(ReplayError::OutOfPlace("EXEC")),
            (Word::Exec, Some(_)) => return self.exec(len, apply),
            (Word::Other, Some(open)) => {
                open.commands.push(args.iter().map(|arg| arg.to_vec()).collect());
                open.file_bytes += len;
                open.stream_bytes += len;
                return Ok(());
            }
            (Word::Other, None) => {}
        }
        if !args.is_empty() {
            apply(args).map_err(ReplayError::Refused)?;
            self.commands += 1;
        }
        self.given += len;
        self.stream_bytes += len;
        Ok(())
    }

    fn exec(
        &mut self,
        len: u64,
        apply: &mut impl FnMut(&[&[u8]]) -> Result<(), String>,
    ) -> Result<(), ReplayError> {
        let Some(closed) = self.transaction.take() else { return Ok(()) };
        for command in &closed.commands {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            apply(&args).map_err(ReplayError::Refused)?;
            self.commands += 1;
        }
        self.given += closed.file_bytes + len;
        self.stream_bytes += closed.stream_bytes + len;
        Ok(())
    }
}

/// Whether bytes could follow these that make a command or an annotation of them.
fn may_go_on(mut rest: &[u8]) -> bool {
    if rest.first() == Some(&b'#') {
        return rest.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\r');
    }
    let mut mark = b'*';
    while let Some((first, line)) = rest.split_first() {
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, end) = line.split_at_checked(digits).unwrap_or_default();
        match end {
            _ if *first != mark => return false,
            [] | [b'\r'] => return true,
            [b'\r', b'\n', content @ ..] => rest = content,
            _ => return false,
        }
        if mark == b'$' {
            let len = crate::resp::parse_i64(number).and_then(|len| usize::try_from(len).ok());
            let Some(next) = len.and_then(|len| rest.get(len.saturating_add(2)..)) else { return true };
            rest = next;
        }
        mark = b'$';
    }
    true
}

fn word(args: &[&[u8]]) -> Word {
    match args {
        [name] if name.eq_ignore_ascii_case(b"multi") => Word::Multi,
        [name] if name.eq_ignore_ascii_case(b"exec") => Word::Exec,
        _ => Word::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(replay: &mut Replay, bytes: &[u8]) -> (Vec<String>, Result<(), ReplayError>) {
        let mut seen = Vec::new();
        let result = replay.feed(bytes, &mut |args| {
            let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
            seen.push(words.join(" "));
            if words[0] == "BAD" { Err("unknown command".into()) } else { Ok(()) }
        });
        (seen, result)
    }

    fn resp(commands: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for command in commands {
            let words: Vec<_> = command.split(' ').collect();
            bytes.extend(format!("*{}\r\n", words.len()).bytes());
            words.iter().for_each(|word| bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
        }
        bytes
    }

    #[test]
    fn every_cut_ends_at_a_whole_command_or_transaction() {
        let first = resp(&["SELECT 0", "SET a 1"]);
        let transaction = resp(&["MULTI", "SET b 2", "SET c 3", "EXEC"]);
        let last = resp(&["DEL a"]);
        let all = [first.as_slice(), &transaction, &last].concat();
        for len in 0..=all.len() {
            let mut replay = Replay::default();
            // In two pieces, so that pieces do not matter.
            let (one, two) = all[..len].split_at(len / 2);
            let (mut seen, result) = run(&mut replay, one);
            assert_eq!(result, Ok(()));
            seen.extend(run(&mut replay, two).0);
            let whole = match len {
                _ if len == all.len() => 5,
                _ if len >= first.len() + transaction.len() => 4,
                _ if len >= first.len() => 2,
                _ => seen.len().min(1),
            };
            assert_eq!(seen.len(), whole, "cut at {len}");
            assert_eq!(replay.torn(), len as u64 - replay.offset());
            assert_eq!(replay.stream_bytes(), replay.offset());
        }
    }

    #[test]
    fn annotations_are_no_part_of_the_stream() {
        let command = resp(&["SET a 1"]);
        let text = [b"#TS:1700000000\r\n", command.as_slice(), b"#kv-write-epoch 7\r\n", &command].concat();
        let mut replay = Replay::default();
        assert_eq!(run(&mut replay, &text).0.len(), 2);
        assert_eq!(replay.write_epoch(), Some(Epoch(7)));
        assert_eq!(replay.stream_bytes(), 2 * command.len() as u64);
        assert_eq!(replay.offset(), text.len() as u64);
        assert_eq!(replay.torn(), 0);
    }

    #[test]
    fn a_checksum_covers_what_was_read_since_the_last() {
        let [one, two] = [resp(&["SET a 1"]), resp(&["MULTI", "SET b 2", "EXEC"])];
        let line = |bytes: &[u8]| format!("{}\r\n", checksum::line(checksum::of(bytes))).into_bytes();
        let text =
            [&one, line(&one).as_slice(), &one, &two, &line(&[one.as_slice(), &two].concat())].concat();
        for split in 0..text.len() {
            let mut replay = Replay::default();
            run(&mut replay, &text[..split]).1.unwrap();
            run(&mut replay, &text[split..]).1.unwrap();
            assert_eq!((replay.checksum().bytes(), replay.offset()), (0, text.len() as u64));
        }
        let mut replay = Replay::default();
        let torn = [&text, one.as_slice(), b"#x\r\n", &resp(&["MULTI", "SET a 2"])].concat();
        run(&mut replay, &torn).1.unwrap();
        assert_eq!(replay.checksum().value(), checksum::of(&[one.as_slice(), b"#x\r\n"].concat()));
        // In the middle of the second part, which begins behind the first checksum.
        let mut bad = text.clone();
        bad[one.len() + 18 + one.len() - 3] ^= 1;
        let mut replay = Replay::default();
        let bytes = (one.len() + two.len()) as u64;
        assert_eq!(run(&mut replay, &bad).1, Err(ReplayError::Checksum { bytes }));
        assert_eq!(replay.offset(), one.len() as u64 + 18);
    }

    #[test]
    fn a_cut_off_write_is_told_from_damage() {
        let text = resp(&["SET key value"]);
        for len in 0..text.len() {
            assert!(may_go_on(&text[..len]), "{len}");
        }
        for damaged in ["*3\r\n$3\0", "*\0", "*3\r\r", "*3\r\n*", "#kv\0", "*3\r\n$3\r\nSET\r\n\0\0"] {
            assert!(!may_go_on(damaged.as_bytes()), "{damaged:?}");
        }
        let long = b"*1\r\n$99\r\nvalue\r\n#kv-crc 00000000\r\n";
        let mut replay = Replay::default();
        run(&mut replay, long).1.unwrap();
        assert!(replay.torn() > 0 && replay.is_endless());
    }

    #[test]
    fn what_is_wrong_is_found_where_it_begins() {
        let good = resp(&["SET a 1"]);
        for (bad, error) in [
            (b"SET a 1\r\n".to_vec(), ReplayError::Alien),
            (b"*x\r\n".to_vec(), ReplayError::Parse(ParseError::ArrayLength)),
            (resp(&["EXEC"]), ReplayError::OutOfPlace("EXEC")),
            (resp(&["BAD"]), ReplayError::Refused("unknown command".into())),
        ] {
            let mut replay = Replay::default();
            assert_eq!(run(&mut replay, &[good.as_slice(), &bad].concat()).1, Err(error));
            assert_eq!(replay.offset(), good.len() as u64);
        }
    }
}
