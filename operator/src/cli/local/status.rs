//! `kv-operator local status`.

use std::process::ExitCode;

use kv_core::id::ClusterUid;
use kv_core::plan::{Memory, Presence, Problem};

use super::super::{note, print};
use super::output::all_processes;
use super::show::table;
use super::{Failure, Format};
use crate::engine::{Identity, StatusUpdate, look, resource_status};
use crate::provider::Sighting;
use crate::provider::local::layout::{Layout, LayoutError};
use crate::provider::local::ports::DEFAULT_BASE;
use crate::provider::local::{admit, sight_processes};

/// Shows the cluster. While `up` runs, its status is the newest; else the nodes are asked.
///
/// # Errors
/// If the folder holds no cluster.
pub async fn status(layout: &Layout, format: Format) -> Result<ExitCode, Failure> {
    let (mut cluster, spec) =
        admit::load(layout)?.ok_or_else(|| LayoutError::NoCluster(layout.dir().to_owned()))?;
    let settings = layout.load_settings()?.unwrap_or_default();
    let base_port = if settings.base_port == 0 { DEFAULT_BASE } else { settings.base_port };
    let holder = layout.lock_holder();
    if holder.is_none() {
        note(&format!(
            "note: no `kv-operator local up` runs on {}; nothing is looked after",
            layout.dir().display()
        ));
    }
    let written = layout.load_status()?;
    let current = written.as_ref().filter(|file| Some(file.pid) == holder);
    cluster.status = if let Some(file) = current {
        Some(file.status.clone())
    } else {
        let identity = Identity {
            uid: ClusterUid(cluster.metadata.uid.clone().unwrap_or_default()),
            name: cluster.metadata.name.clone().unwrap_or_default(),
            control_password: layout.load_control_password()?.unwrap_or_default(),
        };
        let sighting = sight_processes(layout, &identity.uid.0, &identity.name, &settings);
        let observed = look(&identity, &sighting).await;
        let plan = kv_core::plan::plan(&spec, &observed);
        let problem = not_running(layout, &sighting);
        let status = kv_core::plan::status(&spec, &observed, &plan, &Memory::default(), problem.as_slice());
        let generation = cluster.metadata.generation.unwrap_or_default();
        let update = StatusUpdate { generation, status, failovers: layout.load_failovers()? };
        Some(resource_status(&cluster, written.as_ref().map(|file| &file.status), &update, admit::now()))
    };
    let rows = all_processes(layout, &cluster, base_port);
    match format {
        Format::Table => print(&table(&cluster, &rows, admit::now()).join("\n"))?,
        Format::Json => {
            let running: Vec<_> = rows.into_iter().filter(|row| row.pid.is_some()).collect();
            let value = serde_json::json!({ "cluster": cluster, "processes": running });
            print(&serde_json::to_string_pretty(&value)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is to say of a cluster that is stopped, or was never started.
fn not_running(layout: &Layout, sighting: &Sighting) -> Option<Problem> {
    let runs = sighting.nodes.iter().any(|node| node.presence != Presence::Exited);
    let message = format!(
        "none of its nodes runs; start them with `kv-operator local up --dir {}`",
        layout.dir().display()
    );
    (!runs).then(|| Problem { reason: "NotRunning".to_owned(), message })
}
