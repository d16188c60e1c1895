//! What `up` shows: a line for each event, and on a terminal a live table below them.

use std::io::{IsTerminal, Write, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::show::{ProcessRow, processes, table};
use crate::crd::{KvCluster, State};
use crate::engine::{Event, Hook, Publisher, StatusUpdate, resource_status};
use crate::provider::local::admit::now;
use crate::provider::local::layout::{Layout, LayoutError, Settings};
use crate::provider::local::node_name;

/// Writes to standard output; the table is always the last thing there.
pub struct Screen {
    terminal: bool,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    table: Vec<String>,
    /// How many lines of the table are on the screen.
    lines: usize,
}

impl Screen {
    /// A screen that draws tables only on a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: stdout().is_terminal(), shown: Mutex::default() }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        self.draw(Some(text), None);
    }

    /// Replaces the table.
    pub fn table(&self, table: Vec<String>) {
        if self.terminal {
            self.draw(None, Some(table));
        }
    }

    fn draw(&self, line: Option<&str>, table: Option<Vec<String>>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = table {
            if table == shown.table {
                return;
            }
            shown.table = table;
        }
        let mut text = String::new();
        if shown.lines > 0 {
            text.push_str(&format!("\x1b[{}A\x1b[J", shown.lines));
        }
        if let Some(line) = line {
            text.push_str(line);
            text.push('\n');
        }
        let (rows, columns) = self.size();
        let visible: Vec<_> = shown.table.iter().take(rows.saturating_sub(2)).collect();
        for row in &visible {
            // A line that wraps would not be taken back as one.
            text.extend(row.chars().take(columns.saturating_sub(1)));
            text.push('\n');
        }
        shown.lines = visible.len();
        // Who closed the output does not want to read it.
        let _ = stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush());
    }

    fn size(&self) -> (usize, usize) {
        rustix::termios::tcgetwinsize(stdout())
            .ok()
            .filter(|size| size.ws_row > 0 && size.ws_col > 0)
            .map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)))
    }
}

/// Where the engine's status and events go in local mode.
pub struct LocalPublisher {
    layout: Layout,
    base_port: u16,
    cluster: watch::Receiver<KvCluster>,
    screen: Arc<Screen>,
    said_ready: AtomicBool,
    hook: Option<Hook>,
}

impl LocalPublisher {
    /// Publishes to a folder and a screen.
    #[must_use]
    pub fn new(
        layout: &Layout,
        settings: &Settings,
        cluster: watch::Receiver<KvCluster>,
        screen: &Arc<Screen>,
        hook: Option<Hook>,
    ) -> Self {
        Self {
            layout: layout.clone(),
            base_port: settings.base_port,
            cluster,
            screen: Arc::clone(screen),
            said_ready: AtomicBool::new(false),
            hook,
        }
    }
}

impl Publisher for LocalPublisher {
    type Error = LayoutError;

    async fn status(&self, update: &StatusUpdate) -> Result<(), LayoutError> {
        let mut cluster = self.cluster.borrow().clone();
        let before = self.layout.load_status().ok().flatten();
        let status = resource_status(&cluster, before.as_ref().map(|file| &file.status), update, now());
        self.layout.save_failovers(&status.failovers)?;
        if before.is_none_or(|before| before.status != status) {
            self.layout.save_status(&status)?;
        }
        let ready = status.state == Some(State::Ready);
        cluster.status = Some(status);
        let rows = all_processes(&self.layout, &cluster, self.base_port);
        self.screen.table(table(&cluster, &rows, now()));
        if ready && !self.said_ready.swap(true, Ordering::Relaxed) {
            self.screen.line(&how_to_connect(&cluster, &rows));
        }
        Ok(())
    }

    async fn event(&self, event: Event) {
        let name = self.cluster.borrow().metadata.name.clone().unwrap_or_default();
        self.hook.iter().for_each(|hook| hook.tell("", &name, &event));
        let kind = if event.warning { "Warning" } else { "Normal" };
        let about = event.shard.map_or_else(String::new, |shard| format!("shard {shard}: "));
        self.screen.line(&format!("{} {kind:7} {}: {about}{}", now(), event.reason, event.message));
    }
}

/// The processes of all nodes that the spec asks for.
#[must_use]
pub fn all_processes(layout: &Layout, cluster: &KvCluster, base_port: u16) -> Vec<ProcessRow> {
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    let nodes = (0..cluster.spec.shards)
        .flat_map(|shard| (0..=cluster.spec.replicas_per_shard).map(move |ordinal| (shard, ordinal)));
    processes(layout, uid, base_port, nodes.map(|(shard, ordinal)| node_name(&name, shard, ordinal)))
}

/// How a client connects.
#[must_use]
pub fn how_to_connect(cluster: &KvCluster, rows: &[ProcessRow]) -> String {
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let port = rows.first().map_or(0, |row| row.port);
    let nodes: Vec<_> = rows.iter().map(|row| format!("127.0.0.1:{}", row.port)).collect();
    format!("{name} is ready. Connect with: redis-cli -c -p {port}\nNodes: {}", nodes.join(" "))
}
