//! `kv-operator local up --detach`.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::super::print;
use super::output::{all_processes, how_to_connect};
use super::{Failure, UpArgs, admit_file};
use crate::crd::{KvCluster, KvClusterStatus, State};
use crate::provider::local::admit;
use crate::provider::local::layout::{Layout, LayoutError, create_dir};
use crate::provider::local::ports::DEFAULT_BASE;

/// How long to wait for the cluster to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often to look whether it is.
const PERIOD: Duration = Duration::from_millis(100);

/// Starts `up` in the background, and waits until the cluster is ready.
///
/// # Errors
/// If it does not become ready, with the reason.
pub async fn detach(layout: &Layout, args: &UpArgs) -> Result<ExitCode, Failure> {
    if let Some(pid) = layout.lock_holder() {
        return Err(locked(layout, pid));
    }
    create_dir(layout.dir())?;
    if let Some(file) = &args.file {
        // Said here and not in a log: what is wrong with the file.
        admit_file(layout, file)?;
    }
    layout.forget_status();
    let mut child = spawn(layout, args)?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            if let Some(pid) = layout.lock_holder() {
                // Another one was faster, and what the log ends with is that one's.
                return Err(locked(layout, pid));
            }
            let log = std::fs::read_to_string(layout.up_log()).unwrap_or_default();
            return Err(
                format!("`up` ended ({status}): {}", log.lines().last().unwrap_or("no output")).into()
            );
        }
        // Of this `up`, and not of one that was started at the same time.
        let own = |pid: i32| u32::try_from(pid).ok() == child.id();
        let status = layout.load_status()?.filter(|file| own(file.pid)).map(|file| file.status);
        let cluster = admit::load(layout)?.map(|(cluster, _)| cluster);
        let ready =
            cluster.as_ref().zip(status.as_ref()).filter(|(cluster, status)| is_ready(cluster, status));
        if let Some((cluster, _)) = ready {
            let base = layout.load_settings()?.map_or(DEFAULT_BASE, |settings| settings.base_port);
            print(&how_to_connect(cluster, &all_processes(layout, cluster, base)))?;
            print(&format!("Stop it with: kv-operator local down --dir {}", layout.dir().display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            let why = status.map_or_else(|| "there is no status yet".into(), |status| why_not_ready(&status));
            let log = layout.up_log().display().to_string();
            return Err(format!("not ready after {READY_WITHIN:?}: {why}; `up` goes on, see {log}").into());
        }
        sleep(PERIOD).await;
    }
}

fn locked(layout: &Layout, pid: i32) -> Failure {
    LayoutError::Locked { dir: layout.dir().to_owned(), pid: pid.to_string() }.into()
}

/// Starts `up` in a process group of its own, so that the terminal's Ctrl-C does not reach it.
fn spawn(layout: &Layout, args: &UpArgs) -> Result<Child, Failure> {
    // Not emptied: an `up` that was started at the same time may have written to it.
    let log = std::fs::File::options().create(true).append(true).open(layout.up_log())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["local", "up", "--dir"]).arg(layout.dir());
    if let Some(port) = args.base_port {
        command.arg("--base-port").arg(port.to_string());
    }
    if let Some(binary) = &args.node_binary {
        command.arg("--node-binary").arg(std::path::absolute(binary)?);
    }
    if let Some(url) = &args.notify_url {
        // Not as an argument: it may hold a secret.
        command.env("KV_NOTIFY_URL", url);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    Ok(command.spawn()?)
}

fn is_ready(cluster: &KvCluster, status: &KvClusterStatus) -> bool {
    status.state == Some(State::Ready) && status.observed_generation == cluster.metadata.generation
}

fn why_not_ready(status: &KvClusterStatus) -> String {
    let conditions =
        status.conditions.iter().filter(|condition| matches!(condition.type_.as_str(), "Ready" | "Degraded"));
    let texts: Vec<_> =
        conditions.map(|condition| format!("{}: {}", condition.type_, condition.message)).collect();
    texts.join("; ")
}
