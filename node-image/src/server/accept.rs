//! Listening, and taking connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::{Client, Server, User};
use crate::{verbose, warning};

/// Token of the waker; listeners follow it.
pub(super) const WAKER: Token = Token(usize::MAX - 1);
const FIRST_LISTENER: usize = usize::MAX - 64;

/// Places beyond `maxclients` of a managed node, for the operator and for replicas: whoever floods a node with
/// connections must not make it look dead.
const RESERVED: usize = 32;

/// Connections that are taken in one go.
const ACCEPTS: usize = 64;

/// Files that the node needs besides its clients.
const FILES: usize = 64;

/// Asks the system for as many files as so many clients need. Returns how many clients there can be.
pub(super) fn allow_clients(wanted: usize) -> usize {
    let others = (RESERVED + FILES) as u64;
    let files = (wanted as u64).saturating_add(others);
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < files) else { return wanted };
    let current_after = limit.maximum.map_or(files, |most| most.min(files)).max(current);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current_after), maximum: limit.maximum });
    let allowed = if raised.is_ok() { current_after } else { current };
    if allowed >= files {
        return wanted;
    }
    let clients = usize::try_from(allowed.saturating_sub(others)).unwrap_or(usize::MAX).max(1);
    warning!(
        "The system allows {allowed} open files: there can be {clients} clients instead of {wanted}. Raise the limit \
         of files (ulimit -n) to {files}, or lower maxclients."
    );
    clients
}

/// Why a node does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address of `bind` is none.
    #[error("bind: {0:?} is no IP address")]
    Address(String),
    /// The system refused.
    #[error("cannot listen on {address}: {error}; is another process using the port?")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// No address was left to listen on.
    #[error("bind names no address that this machine has")]
    Nothing,
}

/// Where the node listens.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    /// By `sentinel-port`.
    sentinel: bool,
}

/// The most addresses that a port is listened to on.
const ADDRESSES: usize = 16;

/// Listens on all addresses of `bind`; one that begins with `-` may be missing.
pub(super) fn listen(
    bind: &[String],
    (port, sentinel): (u16, bool),
    backlog: i32,
    registry: &Registry,
) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    let first = if sentinel { FIRST_LISTENER + ADDRESSES } else { FIRST_LISTENER };
    for (index, name) in bind.iter().take(ADDRESSES).enumerate() {
        let (optional, name) = match name.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, name.as_str()),
        };
        let ip: IpAddr = match name {
            "*" => IpAddr::from([0, 0, 0, 0]),
            "::*" => IpAddr::from([0; 16]),
            _ => name.parse().map_err(|_| ListenError::Address(name.to_owned()))?,
        };
        let address = SocketAddr::new(ip, port);
        match listen_on(address, backlog) {
            Ok(mut socket) => {
                registry
                    .register(&mut socket, Token(first + index), Interest::READABLE)
                    .map_err(|error| ListenError::Refused { address, error })?;
                listeners.push(Listener { socket, sentinel });
            }
            Err(_) if optional => {}
            Err(error) => return Err(ListenError::Refused { address, error }),
        }
    }
    if listeners.is_empty() { Err(ListenError::Nothing) } else { Ok(listeners) }
}

fn listen_on(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Server {
    /// Whether a token is that of a listener.
    pub(super) fn is_listener(token: Token) -> bool {
        (FIRST_LISTENER..FIRST_LISTENER + 2 * ADDRESSES).contains(&token.0)
    }

    /// Takes connections that wait; who is there already has its turn before the rest.
    pub(super) fn accept(&mut self) {
        let mut taken = 0;
        self.accepting = false;
        for index in 0..self.listeners.len() {
            while let Some(listener) = self.listeners.get(index) {
                if taken == ACCEPTS {
                    self.accepting = true;
                    return;
                }
                let sentinel = listener.sentinel;
                match listener.socket.accept() {
                    Ok((stream, peer)) => {
                        taken += 1;
                        self.welcome(stream, peer, sentinel);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        verbose!("Error accepting a client connection: {error}");
                        break;
                    }
                }
            }
        }
    }

    fn welcome(&mut self, mut stream: TcpStream, peer: SocketAddr, sentinel: bool) {
        self.stats.connections += 1;
        let reserved = self.clients.len() >= self.tunables.maxclients;
        let full = self.clients.len() >= self.tunables.maxclients.saturating_add(RESERVED);
        if full || (reserved && !self.routing.is_managed()) {
            self.stats.rejected_connections += 1;
            let _ = io::Write::write(&mut stream, b"-ERR max number of clients reached\r\n");
            return;
        }
        if self.protected_from(peer) {
            self.stats.rejected_connections += 1;
            let _ = io::Write::write(&mut stream, PROTECTED.as_bytes());
            return;
        }
        let user = if self.tunables.requirepass.is_empty() { User::Default } else { User::Nobody };
        if let Some(client) = self.add_client(stream, peer, user).and_then(|key| self.clients.get_mut(key)) {
            client.reserved = reserved;
            client.sentinel = sentinel;
        }
    }

    /// Registers a connection and makes a client of it.
    pub(super) fn add_client(
        &mut self,
        mut stream: TcpStream,
        peer: SocketAddr,
        user: User,
    ) -> Option<super::ClientKey> {
        let _ = stream.set_nodelay(true);
        if let Some(period) = self.tunables.keepalive {
            let keepalive =
                TcpKeepalive::new().with_time(period).with_interval(period.max(Duration::from_secs(3)) / 3);
            let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        }
        let token = Token(self.clients.vacant_key().0);
        if let Err(error) = self.poll.registry().register(&mut stream, token, Interest::READABLE) {
            verbose!("Error registering the connection of {peer}: {error}");
            return None;
        }
        let local = stream.local_addr().unwrap_or(peer);
        let id = self.clients.next_id();
        let key = self.clients.insert(Client::new(id, stream, peer, local, user, self.clock.instant));
        self.clients.wake(key);
        Some(key)
    }

    /// Protected mode: without a password only this machine may connect, unless `bind` was set.
    fn protected_from(&self, peer: SocketAddr) -> bool {
        let bind = self.config.settings.get("bind").map(ToString::to_string);
        self.config.settings.bool("protected-mode")
            && self.tunables.requirepass.is_empty()
            && bind == kv_core::directive::lookup("bind").map(|directive| directive.default.to_owned())
            && !peer.ip().to_canonical().is_loopback()
    }
}

const PROTECTED: &str = "-DENIED kv-node is running in protected mode because protected mode is enabled and no password \
    is set for the default user. In this mode connections are only accepted from the loopback interface. Set a \
    password (requirepass), name the addresses to listen on (bind), or set protected-mode no.\r\n";
