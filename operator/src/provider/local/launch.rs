//! The command line of a node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kv_core::directive::{Change, lookup};

use super::layout::Layout;
use super::ports::Ports;

/// Everything that all nodes of a cluster are started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// The cluster's uid.
    pub uid: String,
    /// Whether nodes keep their data on disk.
    pub durable: bool,
    /// Directives of the spec.
    pub config: BTreeMap<String, String>,
    /// File with the password of the default user, if it has one.
    pub password_file: Option<PathBuf>,
}

/// The program `kv-node` could not be found.
#[derive(Debug, thiserror::Error)]
#[error("no kv-node program at {}; build it, or name it with --node-binary or $KV_NODE", .0.display())]
pub struct NoNodeBinary(pub PathBuf);

/// The node program: the one that is given, or `kv-node` beside this program.
///
/// # Errors
/// If there is none.
pub fn find_program(given: Option<&Path>) -> Result<PathBuf, NoNodeBinary> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().unwrap_or_default().with_file_name("kv-node"),
    };
    if path.is_file() { Ok(std::path::absolute(&path).unwrap_or(path)) } else { Err(NoNodeBinary(path)) }
}

impl Launch {
    /// The arguments of one node.
    #[must_use]
    pub fn arguments(&self, layout: &Layout, name: &str, shard: u16, ports: Ports) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut set =
            |directive: &str, value: &str| args.extend([format!("--{directive}"), value.to_owned()]);
        set("port", &ports.data.to_string());
        set("bind", "127.0.0.1");
        set("dir", &layout.data(name).to_string_lossy());
        set("cluster-enabled", "yes");
        set("cluster-announce-ip", "127.0.0.1");
        set("cluster-announce-bus-port", &ports.bus.to_string());
        set("kv-health-port", &ports.health.to_string());
        set("sentinel-port", &ports.sentinel.to_string());
        set("kv-cluster-uid", &self.uid);
        set("kv-shard", &shard.to_string());
        set("kv-node-name", name);
        set("kv-control-password-file", &layout.control_password().to_string_lossy());
        set("appendonly", if self.durable { "yes" } else { "no" });
        set("save", "");
        if let Some(path) = &self.password_file {
            set("kv-password-file", &path.to_string_lossy());
        }
        // Those that a running node can change are sent to it: taking one away again then leaves the default.
        for (directive, value) in self.fixed() {
            set(&directive, &value);
        }
        args
    }

    /// The directives of the spec that only a restart can change, in order.
    #[must_use]
    pub fn fixed(&self) -> Vec<(String, String)> {
        self.config
            .iter()
            .filter(|(name, _)| lookup(name).is_some_and(|directive| directive.change == Change::Restart))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}
