//! Watching the Redis or Valkey that this node follows in place of a master of its own (`spec.source`): how far its stream
//! is and, at the cut-over, holding its writers. On a thread of its own, by a connection beside the replication link.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use kv_core::source::Writers;

use crate::peers::{Connection, call, dial};

/// How often the source is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// For how long writers are held while the last of the stream arrives.
pub const HELD: Duration = Duration::from_secs(10);

/// For how long they go on to be held once this node takes writes, so that clients that are not turned over yet write
/// nothing to the source that nobody would have.
const KEPT: Duration = Duration::from_secs(60);

/// For how long a source must have taken no writes whose writers are said to be stopped.
const QUIET: Duration = Duration::from_secs(1);

/// Where the source is, and how to get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Host and port.
    pub address: (String, u16),
    /// User; the default user if there is none.
    pub user: Option<String>,
    /// Password; no AUTH if there is none.
    pub password: Option<String>,
}

/// What the source said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Id of its history.
    pub replid: String,
    /// Bytes of its stream.
    pub offset: u64,
}

/// What came of a look.
#[derive(Debug)]
pub struct News {
    /// The answer to [`Watch::cut_over`]: writers do not write, and the stream will not go beyond what is `seen`.
    pub final_look: bool,
    /// What the source said, or what is wrong.
    pub seen: Result<Seen, String>,
}

enum Ask {
    Move(Place),
    CutOver(Writers),
    GoOn,
    End,
}

/// A thread that watches. It ends when this is dropped, and lets the source's writers go on.
#[derive(Debug)]
pub struct Watch {
    sender: Sender<Ask>,
}

impl Watch {
    /// Watches from now on; `tell` is called from the thread with what it sees.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(place: Place, tell: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        let (sender, asks) = mpsc::channel();
        let thread = Thread { place, connection: None, held: false };
        thread::Builder::new().name("kv-source".into()).stack_size(256 * 1024).spawn(move || {
            thread.run(&asks, &tell);
        })?;
        Ok(Self { sender })
    }

    /// The source is somewhere else, or has another password.
    pub fn go(&self, place: Place) {
        let _ = self.sender.send(Ask::Move(place));
    }

    /// Finds out where the source's stream ends, its writers being dealt with like this.
    pub fn cut_over(&self, writers: Writers) {
        let _ = self.sender.send(Ask::CutOver(writers));
    }

    /// The cut-over did not come about: lets the writers go on.
    pub fn go_on(&self) {
        let _ = self.sender.send(Ask::GoOn);
    }

    /// The cut-over came about.
    pub fn end(self) {
        let _ = self.sender.send(Ask::End);
    }
}

struct Thread {
    place: Place,
    connection: Option<Connection>,
    /// Whether writers are held.
    held: bool,
}

impl Thread {
    fn run(mut self, asks: &Receiver<Ask>, tell: &dyn Fn(News)) {
        loop {
            tell(News { final_look: false, seen: self.look() });
            match asks.recv_timeout(INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ask::Move(place)) => {
                    self.let_go();
                    (self.place, self.connection) = (place, None);
                }
                Ok(Ask::CutOver(writers)) => tell(News { final_look: true, seen: self.cut_over(writers) }),
                Ok(Ask::GoOn) => self.let_go(),
                Ok(Ask::End) => {
                    if self.held {
                        let _ = self.hold(KEPT);
                    }
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return self.let_go(),
            }
        }
    }

    fn cut_over(&mut self, writers: Writers) -> Result<Seen, String> {
        match writers {
            Writers::Pause => {
                self.hold(HELD).map_err(|error| {
                    format!(
                        "it does not hold its writers (CLIENT PAUSE ... WRITE, Redis 6.2 and later): {error}; let the user \
                         run CLIENT, or stop the writers and put spec.source back with writers: Stopped"
                    )
                })?;
                self.held = true;
                self.look()
            }
            Writers::Stopped => {
                let before = self.look()?;
                thread::sleep(QUIET);
                let seen = self.look()?;
                match seen.offset.abs_diff(before.offset) {
                    0 => Ok(seen),
                    bytes => {
                        Err(format!("it still takes writes ({bytes} bytes in a second): stop its writers"))
                    }
                }
            }
        }
    }

    fn let_go(&mut self) {
        if std::mem::take(&mut self.held) {
            let _ = self.ask(&["CLIENT", "UNPAUSE"]);
        }
    }

    fn hold(&mut self, time: Duration) -> io::Result<()> {
        self.ask(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "WRITE"]).map(drop)
    }

    fn look(&mut self) -> Result<Seen, String> {
        let answer = self.ask(&["INFO", "replication"]).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => format!("it does not say how far it is (INFO): {error}"),
            _ => error.to_string(),
        })?;
        seen(&String::from_utf8_lossy(&answer))
    }

    fn ask(&mut self, args: &[&str]) -> io::Result<Vec<u8>> {
        let answer = self.connected().and_then(|connection| call(connection, args));
        if answer.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::PermissionDenied) {
            self.connection = None;
        }
        answer
    }

    fn connected(&mut self) -> io::Result<&mut Connection> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => {
                let mut connection = dial(std::slice::from_ref(&self.place.address), TIMEOUT)?;
                match (&self.place.user, &self.place.password) {
                    (Some(user), Some(password)) => _ = call(&mut connection, &["AUTH", user, password])?,
                    (None, Some(password)) => _ = call(&mut connection, &["AUTH", password])?,
                    (_, None) => {}
                }
                Ok(none.insert(connection))
            }
        }
    }
}

/// What `INFO replication` says.
fn seen(info: &str) -> Result<Seen, String> {
    let field =
        |name: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
    if field("role") == Some("slave") {
        let master =
            format!("{}:{}", field("master_host").unwrap_or("?"), field("master_port").unwrap_or("?"));
        return Err(format!(
            "it is a replica of {master}, and takes that one's writes: name its master in spec.source"
        ));
    }
    let offset = field("master_repl_offset").and_then(|offset| offset.parse().ok());
    match (field("master_replid"), offset) {
        (Some(replid), Some(offset)) => Ok(Seen { replid: replid.to_owned(), offset }),
        _ => Err("its INFO replication has no master_replid and master_repl_offset".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_says_how_far_it_is_and_a_replica_whom_to_ask() {
        let info = "# Replication\r\nrole:master\r\nmaster_replid:abc\r\nmaster_replid2:000\r\nmaster_repl_offset:14\r\n";
        assert_eq!(seen(info), Ok(Seen { replid: "abc".into(), offset: 14 }));
        let error = seen("role:slave\r\nmaster_host:old\r\nmaster_port:6379\r\n").unwrap_err();
        assert!(error.contains("replica of old:6379"), "{error}");
        assert!(seen("").is_err());
    }
}
