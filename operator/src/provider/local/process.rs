//! One process of a node: started here, or taken over from an earlier `up`; told apart from a stranger that has the
//! same process id by the time at which it started.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

/// What is kept of a process in a file, so that a later `up` finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Process id.
    pub pid: i32,
    /// When it started, in ticks since the machine did.
    pub started: u64,
    /// A text that its command line contains.
    pub mark: String,
}

impl Record {
    /// Looks among all processes for those whose command line has `mark`: also those that were started by an `up` that was
    /// killed before it could write a record.
    pub fn all(mark: &str) -> impl Iterator<Item = Self> {
        let pids = std::fs::read_dir("/proc").into_iter().flatten();
        pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(move |&pid| command_line_has(pid, mark))
            .filter_map(move |pid| Some(Self { pid, started: started(pid)?, mark: mark.to_owned() }))
    }

    /// The folder that its command line names by `--dir`.
    #[must_use]
    pub fn dir(&self) -> Option<PathBuf> {
        let mut args = arguments(self.pid)?.into_iter().skip_while(|arg| arg != "--dir");
        args.nth(1).map(PathBuf::from)
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        started(self.pid) == Some(self.started) && command_line_has(self.pid, &self.mark)
    }
}

/// A process that runs, or ran until a moment ago.
#[derive(Debug)]
pub struct Process {
    /// What is kept of it.
    pub record: Record,
    pidfd: AsyncFd<OwnedFd>,
    child: Option<Child>,
}

impl Process {
    /// Starts a program in a process group of its own, so that no Ctrl-C reaches it, with its output appended to a log.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path, args: &[String], log: &Path, mark: &str) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or(io::ErrorKind::NotFound)?;
        // The child is not reaped before `wait`, so that its id is its own until then.
        let record = Record { pid, started: started(pid).unwrap_or_default(), mark: mark.to_owned() };
        Ok(Self { record, pidfd: open(pid)?, child: Some(child) })
    }

    /// Takes over a process that another `up` started; `None` if it has ended.
    #[must_use]
    pub fn adopt(record: Record) -> Option<Self> {
        let pidfd = open(record.pid).ok()?;
        // Checked after opening: what the descriptor stands for cannot change any more.
        record.runs().then_some(Self { record, pidfd, child: None })
    }

    /// Waits for its end, and says how it ended.
    pub async fn wait(&mut self) -> String {
        match self.child.as_mut() {
            Some(child) => child.wait().await.map_or_else(|error| error.to_string(), describe),
            None => {
                let _ = self.pidfd.readable().await;
                "ended".into()
            }
        }
    }

    /// Sends a signal; to a process that has ended it does nothing.
    pub fn signal(&self, signal: Signal) {
        // The only failure is that the process has ended.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, for types that could lose their descriptor; an OwnedFd cannot"
)]
fn open(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::NONBLOCK)?, tokio::io::Interest::READABLE)
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// When a process started; `None` if there is none, or only its exit status is left.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; state is the first field after it, the start time the 20th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn command_line_has(pid: i32, mark: &str) -> bool {
    arguments(pid).is_some_and(|args| args.iter().any(|arg| arg == mark))
}

fn arguments(pid: i32) -> Option<Vec<OsString>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(line.split(|byte| *byte == 0).map(|arg| OsStr::from_bytes(arg).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        Process::start(Path::new("sleep"), &["1000".into()], &dir.join("log"), "1000").unwrap()
    }

    #[tokio::test]
    async fn a_running_process_is_taken_over_and_its_end_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(dir.path());
        // Between fork and exec the command line is still the parent's.
        while !child.record.runs() {
            tokio::task::yield_now().await;
        }
        let mut adopted = Process::adopt(child.record.clone()).unwrap();
        adopted.signal(Signal::KILL);
        assert_eq!(adopted.wait().await, "ended");
        assert_eq!(child.wait().await, "killed by signal 9");
        assert!(Process::adopt(child.record).is_none());
    }

    #[tokio::test]
    async fn a_process_without_a_record_is_found_by_its_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let unique = format!("1{:06}", std::process::id() % 1_000_000);
        // A shell shows its arguments as they are, whatever they mean to it.
        let args = ["-c", "kill -STOP $$", &unique, "--dir", "/a/b"].map(str::to_owned);
        let mut child = Process::start(Path::new("sh"), &args, &dir.path().join("log"), &unique).unwrap();
        while !child.record.runs() {
            tokio::task::yield_now().await;
        }
        assert_eq!(Record::all(&unique).collect::<Vec<_>>(), [child.record.clone()]);
        assert_eq!(child.record.dir(), Some("/a/b".into()));
        child.signal(Signal::KILL);
        child.wait().await;
        assert_eq!(Record::all(&unique).next(), None);
    }

    #[tokio::test]
    async fn a_stranger_with_the_same_process_id_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(dir.path());
        while !child.record.runs() {
            tokio::task::yield_now().await;
        }
        let earlier = Record { started: child.record.started - 1, ..child.record.clone() };
        assert!(Process::adopt(earlier).is_none());
        let other = Record { mark: "999".into(), ..child.record.clone() };
        assert!(Process::adopt(other).is_none());
        child.signal(Signal::KILL);
        child.wait().await;
    }
}
