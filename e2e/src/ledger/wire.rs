//! Drives a run from another process: one request a line on standard input, one reply a line on standard output, JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::outage::Outage;
use super::{Error, Options, Report, Session, Tally};

/// Longer than any answer takes.
const SILENT: Duration = Duration::from_secs(180);

/// What can be asked of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// The time on the run's clock.
    Now,
    /// The counts so far.
    Tally,
    /// The outages that ended after `since_us` and took at least `min_us`; of each shard the `most` longest.
    Outages {
        /// In microseconds of Unix time.
        since_us: u64,
        /// In microseconds.
        min_us: u64,
        /// At most so many of a shard.
        most: usize,
    },
    /// Answered when each writer had a write acknowledged that was begun after `since_us`.
    Acknowledged {
        /// In microseconds of Unix time.
        since_us: u64,
        /// For how long to wait, in milliseconds.
        within_ms: u64,
    },
    /// Stop the writers.
    Stop,
    /// Stop the writers if they still run, read back within so many milliseconds, and judge.
    Finish {
        /// For how long to read back, in milliseconds.
        within_ms: u64,
    },
}

/// What a run answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// The run has started: each writer had a write acknowledged. Or what was waited for has come.
    Ready,
    /// The time on the run's clock, in microseconds of Unix time.
    Now(u64),
    /// The counts so far.
    Tally(Tally),
    /// Outages.
    Outages(Vec<Outage>),
    /// The end.
    Report(Box<Report>),
    /// It could not be done.
    Failed(String),
}

/// Starts a run and serves requests until the finish, or until the input ends.
///
/// # Errors
/// If a reply cannot be written.
pub async fn serve(
    options: Options,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut session = match Session::start(options).await {
        Ok(session) => session,
        Err(error) => return send(&mut output, &Reply::Failed(error.to_string())).await,
    };
    send(&mut output, &Reply::Ready).await?;
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await? {
        let reply = match serde_json::from_str(&line) {
            Err(error) => Reply::Failed(format!("{line:?}: {error}")),
            Ok(Request::Finish { within_ms }) => {
                let reply = match session.finish(Duration::from_millis(within_ms)).await {
                    Ok(report) => Reply::Report(Box::new(report)),
                    Err(error) => Reply::Failed(error.to_string()),
                };
                return send(&mut output, &reply).await;
            }
            Ok(Request::Stop) => {
                session.stop().await;
                Reply::Ready
            }
            Ok(request) => answer(&session, request).await,
        };
        send(&mut output, &reply).await?;
    }
    Ok(())
}

async fn answer(session: &Session, request: Request) -> Reply {
    match request {
        Request::Now => Reply::Now(session.now_us()),
        Request::Tally => Reply::Tally(session.tally()),
        Request::Outages { since_us, min_us, most } => {
            Reply::Outages(session.outages(since_us, min_us, most))
        }
        Request::Acknowledged { since_us, within_ms } => {
            match session.acknowledged_since(since_us, Duration::from_millis(within_ms)).await {
                Ok(()) => Reply::Ready,
                Err(error) => Reply::Failed(error.to_string()),
            }
        }
        Request::Stop | Request::Finish { .. } => Reply::Failed("a run ends but once".into()),
    }
}

async fn send(output: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    output.write_all(&line).await?;
    output.flush().await
}

/// A run in another process, seen from this one.
pub struct Remote {
    input: Box<dyn AsyncWrite + Send + Unpin>,
    output: Box<dyn AsyncBufRead + Send + Unpin>,
    _process: Box<dyn Send>,
}

impl Remote {
    /// Takes a process's standard input and output, and what keeps it alive; returns when its run has started.
    ///
    /// # Errors
    /// If it could not start.
    pub async fn start(
        input: impl AsyncWrite + Send + Unpin + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
        process: impl Send + 'static,
    ) -> Result<Self, Error> {
        let mut remote = Self {
            input: Box::new(input),
            output: Box::new(BufReader::new(output)),
            _process: Box::new(process),
        };
        match remote.reply().await? {
            Reply::Ready => Ok(remote),
            other => Err(Error::Wire(format!("{other:?}"))),
        }
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// If the process is gone, or says that it could not be done.
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        let wire = |error: std::io::Error| Error::Wire(error.to_string());
        let mut line = serde_json::to_vec(request).map_err(|error| Error::Wire(error.to_string()))?;
        line.push(b'\n');
        self.input.write_all(&line).await.map_err(wire)?;
        self.input.flush().await.map_err(wire)?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply, Error> {
        let mut line = String::new();
        let read = tokio::time::timeout(SILENT, self.output.read_line(&mut line)).await;
        let read = read.map_err(|_| Error::Wire(format!("it was silent for {} s", SILENT.as_secs())))?;
        let read = read.map_err(|error| Error::Wire(error.to_string()))?;
        if read == 0 {
            return Err(Error::Wire("it ended without an answer".into()));
        }
        match serde_json::from_str(&line) {
            Ok(Reply::Failed(why)) => Err(Error::Wire(why)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Error::Wire(format!("{line:?}: {error}"))),
        }
    }
}
