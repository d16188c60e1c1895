//! Programs of other languages that write to a cluster as its users' would; see `e2e/clients`.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cluster::{Error, Result};

/// The languages that there is a program in.
pub const LANGUAGES: [&str; 3] = ["python", "go", "node"];

/// What `install` ends with where the language is not installed.
const NO_LANGUAGE: i32 = 3;

/// How long a client may take to write again, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

/// What a program said.
#[derive(Debug, Default)]
struct Said {
    /// Numbers that were acknowledged, each with when.
    acknowledged: Vec<(u64, Instant)>,
    /// What else it said: what was refused.
    refused: Vec<String>,
}

/// A program that writes until it is told to end.
#[derive(Debug)]
pub struct Writer {
    /// Its language, which its keys begin with.
    pub language: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
}

impl Writer {
    /// Installs the library if need be, and starts the program; `None` where the language is not installed.
    ///
    /// # Errors
    /// If it cannot be installed or started.
    pub async fn start(language: &'static str, sentinels: &str, master: &str) -> Result<Option<Self>> {
        let install = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/install");
        let output = Command::new(install).arg(language).stderr(Stdio::inherit()).output().await?;
        if output.status.code() == Some(NO_LANGUAGE) {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.lines();
        let Some(program) = words.next().filter(|_| output.status.success()) else {
            return Err(Error::Command { command: format!("{install} {language}"), output: text });
        };
        let mut child = Command::new(program)
            .args(words)
            .args([sentinels, master, ""])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(listen(stdout, said.clone()));
        }
        let input = child.stdin.take();
        Ok(Some(Self { language, child, input, said }))
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn count(&self) -> usize {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).acknowledged.len()
    }

    /// The longest time from one acknowledged write to the next since there were so many.
    #[must_use]
    pub fn longest_ms(&self, since: usize) -> f64 {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let times: Vec<Instant> = said.acknowledged.iter().skip(since).map(|(_, at)| *at).collect();
        let gaps = times.windows(2).filter_map(|pair| Some(pair.get(1)?.duration_since(*pair.first()?)));
        gaps.max().unwrap_or_default().as_secs_f64() * 1000.0
    }

    /// Waits until it has written so many more.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_for_more(&self, more: usize) -> Result<()> {
        let (wanted, started) = (self.count() + more, Instant::now());
        while self.count() < wanted {
            if started.elapsed() > PATIENCE {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                return Err(Error::TooLate {
                    what: format!("{more} more writes of the {} client", self.language),
                    waited_s: PATIENCE.as_secs(),
                    last: said.refused.last().cloned().unwrap_or_default(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Has it end, and returns the numbers that were acknowledged, and what was said of the others.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub async fn finish(mut self) -> Result<(Vec<u64>, Vec<String>)> {
        drop(self.input.take());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status =
            ended.map_err(|_| Error::Unexpected(format!("the {} client hangs", self.language)))??;
        if !status.success() {
            return Err(Error::Unexpected(format!("the {} client ended with {status}", self.language)));
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = std::mem::take(&mut said.refused);
        Ok((said.acknowledged.iter().map(|(number, _)| *number).collect(), refused))
    }
}

async fn listen(stdout: ChildStdout, said: Arc<Mutex<Said>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        match line.strip_prefix("ok ").and_then(|number| number.parse().ok()) {
            Some(number) => said.acknowledged.push((number, Instant::now())),
            None => said.refused.push(line),
        }
    }
}
