//! Keeps the process of one node running, as a kubelet does: takes over the one that runs, starts one where none does,
//! and starts it again when it dies.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_core::plan::Presence;
use rustix::process::Signal;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, interval, sleep};

use super::backoff::Backoff;
use super::launch::Launch;
use super::layout::{Layout, LayoutError, create_dir, write_json};
use super::ports::{PortError, Ports};
use super::process::{Process, Record};
use super::running;

/// How often a node that was told to stop is told again: the second time it stops without waiting for a successor.
const INSIST: Duration = Duration::from_millis(100);

/// A node that does not stop within this time is killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a node ends again and again is told until one runs for this long.
const STEADY: Duration = Duration::from_secs(3);

/// What a supervisor is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Keep the process running.
    Run,
    /// Stop it: the node leaves the cluster, and may first wait for a successor.
    Remove,
    /// Stop it at once: the whole cluster stops.
    Stop,
}

/// What is known of a node's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it runs.
    pub presence: Presence,
    /// Its process, or the last one.
    pub record: Option<Record>,
    /// Why it does not run.
    pub problem: Option<String>,
}

/// Something that happened to a process, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The shard.
    pub shard: u16,
    /// Whether something went wrong.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot start {program}: {source}")]
    Spawn { program: String, source: std::io::Error },
}

/// What a supervisor works on and reports to.
pub struct Supervisor {
    /// The node's name.
    pub name: String,
    /// Its shard.
    pub shard: u16,
    /// Its ports.
    pub ports: Ports,
    /// The cluster's folder.
    pub layout: Layout,
    /// What nodes are started with.
    pub launch: watch::Receiver<Launch>,
    /// What to do.
    pub order: watch::Receiver<Order>,
    /// Where the state is kept for others to see.
    pub state: Arc<Mutex<State>>,
    /// Notified when the state changed.
    pub wake: Arc<Notify>,
    /// Where incidents go.
    pub incidents: tokio::sync::mpsc::UnboundedSender<Incident>,
}

impl Supervisor {
    /// Works until it is ordered to stop and the process has ended.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut trouble = None;
        let mut adopted = self.adopt();
        loop {
            if *self.order.borrow() != Order::Run && adopted.is_none() {
                return;
            }
            let began = Instant::now();
            // A killed `up` may have left a process that shows itself only now.
            let how = match adopted.take().or_else(|| self.adopt()).map_or_else(|| self.start(), Ok) {
                Ok(process) => self.attend(process, trouble.take()).await,
                Err(error) => {
                    self.set(Presence::Exited, None, Some(error.to_string()));
                    error.to_string()
                }
            };
            if *self.order.borrow() != Order::Run {
                return;
            }
            let wait = backoff.after(began.elapsed());
            if began.elapsed() < STEADY && backoff.is_growing() {
                let text = format!("{} ends again and again: {how}", self.name);
                self.set(Presence::Exited, None, Some(text.clone()));
                trouble = Some(text);
            }
            self.tell(
                true,
                "NodeExited",
                format!("{} {how}; starting it again in {} s", self.name, wait.as_secs()),
            );
            tokio::select! {
                () = sleep(wait) => {}
                () = ordered_off(&mut self.order) => {}
            }
        }
    }

    fn adopt(&self) -> Option<Process> {
        let uid = self.launch.borrow().uid.clone();
        let process = Process::adopt(running(&self.layout, &uid, &self.name)?)?;
        self.tell(
            false,
            "NodeTakenOver",
            format!("{} runs already, as process {}", self.name, process.record.pid),
        );
        Some(process)
    }

    fn start(&self) -> Result<Process, StartError> {
        self.ports.check_free()?;
        let launch = self.launch.borrow().clone();
        create_dir(&self.layout.data(&self.name))?;
        let args = launch.arguments(&self.layout, &self.name, self.shard, self.ports);
        let process = Process::start(&launch.program, &args, &self.layout.log(&self.name), &launch.uid)
            .map_err(|source| StartError::Spawn { program: launch.program.display().to_string(), source })?;
        if let Err(error) = write_json(&self.layout.process(&self.name), &process.record) {
            // A process that no later `up` could find must not stay.
            process.signal(Signal::KILL);
            return Err(error.into());
        }
        self.tell(false, "NodeStarted", format!("{} started as process {}", self.name, process.record.pid));
        Ok(process)
    }

    /// Stays with a process until its end; stops it when that is ordered.
    async fn attend(&mut self, mut process: Process, mut trouble: Option<String>) -> String {
        let log = self.layout.log(&self.name);
        let how = loop {
            let record = Some(process.record.clone());
            self.set(Presence::Running, record.clone(), trouble.clone());
            tokio::select! {
                how = process.wait() => break last_words(&how, &log),
                () = ordered_off(&mut self.order) => {
                    self.set(Presence::Leaving, record, None);
                    break stop(&mut process, &mut self.order).await;
                }
                () = sleep(STEADY), if trouble.is_some() => trouble = None,
            }
        };
        self.set(Presence::Exited, Some(process.record.clone()), None);
        how
    }

    fn set(&self, presence: Presence, record: Option<Record>, problem: Option<String>) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.presence = presence;
            state.problem = problem;
            if record.is_some() {
                state.record = record;
            }
        }
        self.wake.notify_one();
    }

    fn tell(&self, warning: bool, reason: &'static str, message: String) {
        // Nobody listens any more when `up` ends.
        let _ = self.incidents.send(Incident { shard: self.shard, warning, reason, message });
    }
}

/// How a process ended, with the reason that it gave: the last line of its log.
fn last_words(how: &str, log: &Path) -> String {
    const TAIL: i64 = 4096;
    const SHOWN: usize = 300;
    let tail = || {
        let mut file = File::open(log)?;
        if file.metadata()?.len() > TAIL.unsigned_abs() {
            file.seek(SeekFrom::End(-TAIL))?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    // One that was killed had no time to say why.
    let tail = if how.starts_with("exited") { tail().unwrap_or_default() } else { String::new() };
    match tail.lines().last().filter(|line| !line.is_empty()) {
        Some(line) => {
            let line: String = line.chars().take(SHOWN).collect();
            format!("{how}: {line} (see {})", log.display())
        }
        None => how.to_owned(),
    }
}

async fn ordered_off(order: &mut watch::Receiver<Order>) {
    // Without a sender nobody wants the node any more either.
    let _ = order.wait_for(|order| *order != Order::Run).await;
}

/// Stops a process without waiting for a successor.
pub async fn stop_at_once(mut process: Process) {
    let order = watch::Sender::new(Order::Stop);
    stop(&mut process, &mut order.subscribe()).await;
}

/// Stops a process; insists if the whole cluster stops, and kills it when it takes too long.
async fn stop(process: &mut Process, order: &mut watch::Receiver<Order>) -> String {
    let deadline = sleep(PATIENCE);
    tokio::pin!(deadline);
    process.signal(Signal::TERM);
    let mut insist = interval(INSIST);
    insist.reset();
    loop {
        tokio::select! {
            how = process.wait() => return how,
            _ = insist.tick() => if *order.borrow_and_update() == Order::Stop {
                process.signal(Signal::TERM);
            },
            () = &mut deadline => process.signal(Signal::KILL),
        }
        if deadline.is_elapsed() {
            return process.wait().await;
        }
    }
}
