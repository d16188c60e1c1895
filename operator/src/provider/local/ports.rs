//! Which port a node listens on: its cluster's base port plus its number.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// The base port if none is asked for.
pub const DEFAULT_BASE: u16 = 7000;

/// The bus port that is announced lies this far above the data port, as in a Redis cluster.
pub const BUS_OFFSET: u16 = 10_000;

/// The port for health and metrics lies this far above the data port; so many nodes can a cluster have.
pub const HEALTH_OFFSET: u16 = 1500;

/// The port for the Sentinel protocol lies this far above the data port.
pub const SENTINEL_OFFSET: u16 = 3000;

/// The ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Clients, replication and control.
    pub data: u16,
    /// Announced to peers.
    pub bus: u16,
    /// Health and metrics over HTTP.
    pub health: u16,
    /// The Sentinel protocol.
    pub sentinel: u16,
}

/// Why a node has no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The numbers end.
    #[error(
        "base port {base} leaves no port for node number {index}: a node needs its port and the ports {HEALTH_OFFSET}, \
         {SENTINEL_OFFSET} and {BUS_OFFSET} above it, and there can be {HEALTH_OFFSET} nodes; choose a lower one with --base-port"
    )]
    OutOfRange {
        /// The base port.
        base: u16,
        /// The node's number.
        index: u16,
    },
    /// Another process listens there.
    #[error(
        "port {port} is in use by another process, or was by a connection within the last minute; stop that process, or wait, \
         or choose other ports with --base-port"
    )]
    InUse {
        /// The port.
        port: u16,
    },
    /// The port cannot be used for another reason.
    #[error("port {port} cannot be used: {source}")]
    Unusable {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
}

impl Ports {
    /// The ports of the node with this number.
    ///
    /// # Errors
    /// If they do not exist.
    pub fn of(base: u16, index: u16) -> Result<Self, PortError> {
        let at = |offset: u16| base.checked_add(index)?.checked_add(offset);
        match (at(0), at(BUS_OFFSET), at(HEALTH_OFFSET), at(SENTINEL_OFFSET)) {
            (Some(data), Some(bus), Some(health), Some(sentinel)) if base > 0 && index < HEALTH_OFFSET => {
                Ok(Self { data, bus, health, sentinel })
            }
            _ => Err(PortError::OutOfRange { base, index }),
        }
    }

    /// Checks that nobody listens on the ports that the node is going to listen on.
    ///
    /// # Errors
    /// The first port that cannot be used.
    pub fn check_free(self) -> Result<(), PortError> {
        for port in [self.data, self.health, self.sentinel] {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(PortError::InUse { port });
                }
                Err(source) => return Err(PortError::Unusable { port, source }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_end_somewhere() {
        assert_eq!(
            Ports::of(7000, 5).unwrap(),
            Ports { data: 7005, bus: 17005, health: 8505, sentinel: 10005 }
        );
        assert!(Ports::of(55_535, 0).is_ok());
        let text = Ports::of(55_535, 1).unwrap_err().to_string();
        assert!(text.contains("--base-port"), "{text}");
        assert!(Ports::of(0, 1).is_err());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (taken, ports) = (1024..=u16::MAX - BUS_OFFSET)
            .rev()
            .find_map(|port| {
                Some((TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?, Ports::of(port, 0).ok()?))
            })
            .unwrap();
        let text = ports.check_free().unwrap_err().to_string();
        assert!(text.contains(&taken.local_addr().unwrap().port().to_string()), "{text}");
    }
}
