//! A connection to one node's control protocol ([`kv_core::control`]): sends a `KV` command, reads the report.

use std::time::Duration;

use kv_core::control::{Consent, NodeReport, STALE_EPOCH, STICKY, USER, WRONG_CLUSTER};
use kv_core::id::{ClusterUid, Epoch};
use kv_core::shard::{ClusterMap, NodeAddress, ShardConfig};
use kv_core::slot::SlotSet;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a connection may take, its AUTH included.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a node may take to report.
pub const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a node may take to change: it writes to its disk before it answers.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Why a node did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers at the address.
    #[error("{node} does not answer at {address}: {why}")]
    Unreachable {
        /// The node's name.
        node: String,
        /// Where it was looked for.
        address: String,
        /// What the network said.
        why: String,
    },
    /// The machine answers, and no process listens.
    #[error("{node} does not listen at {address}: connection refused")]
    Refused {
        /// The node's name.
        node: String,
        /// Where it was looked for.
        address: String,
    },
    /// The node promised a newer epoch: another operator, or an earlier pass, is ahead.
    #[error("{node} refuses an old epoch, it knows epoch {newer}")]
    StaleEpoch {
        /// The node's name.
        node: String,
        /// The epoch that it knows.
        newer: Epoch,
    },
    /// The node heard its master a moment ago, and does not vote against it.
    #[error("{node} hears the master, and does not vote against it")]
    Sticky {
        /// The node's name.
        node: String,
    },
    /// Another node, or a node of another cluster or shard, listens at the address.
    #[error("{node} is not what listens at {address}: {why}")]
    WrongCluster {
        /// The node's name.
        node: String,
        /// Where it was looked for.
        address: String,
        /// What was found instead.
        why: String,
    },
    /// The node answers with an error, or with something that is no report.
    #[error("{node} answers {why:?} to {command}")]
    Protocol {
        /// The node's name.
        node: String,
        /// The command.
        command: &'static str,
        /// The answer.
        why: String,
    },
}

/// A request to a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// Report.
    Report,
    /// Report; and the master of this run and epoch has its lease from then on.
    Grant {
        /// The run, as the node reported it.
        run_id: String,
        /// The epoch of its config.
        epoch: Epoch,
        /// Its clock, as it reported it.
        clock_ms: u64,
    },
    /// Promise an epoch.
    Prepare {
        /// The shard.
        shard: u16,
        /// The epoch.
        epoch: Epoch,
        /// Who may promise.
        consent: Consent,
    },
    /// Take this config.
    Accept(Box<ShardConfig>),
    /// Hold clients' writes.
    Pause {
        /// The shard.
        shard: u16,
        /// The master's epoch.
        epoch: Epoch,
        /// Go on by itself after this.
        milliseconds: u64,
    },
    /// See to it that all of the source is there.
    CutOver {
        /// The shard.
        shard: u16,
        /// The master's epoch.
        epoch: Epoch,
    },
    /// Import slots from another shard; none: give up what is imported.
    Import {
        /// The shard.
        shard: u16,
        /// The master's epoch.
        epoch: Epoch,
        /// The shard that has the slots.
        from: u16,
        /// Which slots.
        slots: SlotSet,
    },
    /// Hold writes to slots that are exported.
    Hold {
        /// The shard.
        shard: u16,
        /// The master's epoch.
        epoch: Epoch,
        /// The shard that gets the slots.
        to: u16,
        /// Which slots.
        slots: SlotSet,
        /// Go on by itself after this.
        milliseconds: u64,
    },
    /// Know the cluster.
    Map(ClusterMap),
    /// Take these directives: a JSON object as text, whose digest the node reports from then on.
    Config(String),
}

impl Request {
    /// The command's name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Report | Self::Grant { .. } => "KV REPORT",
            Self::Prepare { .. } => "KV PREPARE",
            Self::Accept(_) => "KV ACCEPT",
            Self::Pause { .. } => "KV PAUSE",
            Self::CutOver { .. } => "KV CUTOVER",
            Self::Import { .. } => "KV IMPORT",
            Self::Hold { .. } => "KV HOLD",
            Self::Map(_) => "KV MAP",
            Self::Config(_) => "KV CONFIG",
        }
    }

    const fn timeout(&self) -> Duration {
        match self {
            Self::Report | Self::Grant { .. } => REPORT_TIMEOUT,
            _ => CHANGE_TIMEOUT,
        }
    }

    fn command(&self, uid: &ClusterUid) -> Result<redis::Cmd, serde_json::Error> {
        let mut command = redis::cmd("KV");
        match self {
            Self::Report => command.arg("REPORT"),
            Self::Grant { run_id, epoch, clock_ms } => {
                command.arg("REPORT").arg(run_id).arg(epoch.0).arg(*clock_ms)
            }
            Self::Prepare { shard, epoch, consent } => {
                command.arg("PREPARE").arg(&uid.0).arg(*shard).arg(epoch.0).arg(consent.arguments())
            }
            Self::Accept(config) => command.arg("ACCEPT").arg(serde_json::to_string(config)?),
            Self::Pause { shard, epoch, milliseconds } => {
                command.arg("PAUSE").arg(&uid.0).arg(*shard).arg(epoch.0).arg(*milliseconds)
            }
            Self::CutOver { shard, epoch } => command.arg("CUTOVER").arg(&uid.0).arg(*shard).arg(epoch.0),
            Self::Import { shard, epoch, from, slots } => {
                let slots = serde_json::to_string(slots)?;
                command.arg("IMPORT").arg(&uid.0).arg(*shard).arg(epoch.0).arg(*from).arg(slots)
            }
            Self::Hold { shard, epoch, to, slots, milliseconds } => {
                let slots = serde_json::to_string(slots)?;
                let command = command.arg("HOLD").arg(&uid.0).arg(*shard).arg(epoch.0).arg(*to);
                command.arg(slots).arg(*milliseconds)
            }
            Self::Map(map) => command.arg("MAP").arg(serde_json::to_string(map)?),
            Self::Config(text) => command.arg("CONFIG").arg(text),
        };
        Ok(command)
    }
}

/// A node at an address, and the connection to it; connects when first asked, and again when the connection broke.
pub struct NodeClient {
    uid: ClusterUid,
    name: String,
    address: NodeAddress,
    password: String,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl NodeClient {
    /// A client that is not connected yet.
    #[must_use]
    pub fn new(uid: ClusterUid, name: String, address: NodeAddress, password: String) -> Self {
        Self { uid, name, address, password, connection: Mutex::new(None) }
    }

    /// The node's address.
    #[must_use]
    pub const fn address(&self) -> &NodeAddress {
        &self.address
    }

    /// Sends a request and returns the report that answers it. A connection that turns out broken is replaced once;
    /// all requests may be repeated.
    ///
    /// # Errors
    /// Why there is no report of this node.
    pub async fn call(&self, request: &Request) -> Result<NodeReport, ClientError> {
        let command =
            request.command(&self.uid).map_err(|error| self.protocol(request, error.to_string()))?;
        let (mut connection, fresh) = self.connection().await?;
        let mut answer = timeout(request.timeout(), command.query_async::<String>(&mut connection)).await;
        if !fresh && matches!(&answer, Ok(Err(error)) if broken(error)) {
            self.disconnect().await;
            (connection, _) = self.connection().await?;
            answer = timeout(request.timeout(), command.query_async::<String>(&mut connection)).await;
        }
        match answer {
            Ok(Ok(text)) => self.read(request, &text),
            Ok(Err(error)) => {
                if broken(&error) {
                    self.disconnect().await;
                }
                Err(self.explain(request, &error))
            }
            Err(_) => {
                self.disconnect().await;
                Err(self.unreachable(format!("no answer to {} in {:?}", request.name(), request.timeout())))
            }
        }
    }

    /// The connection, and whether it was made just now.
    async fn connection(&self) -> Result<(MultiplexedConnection, bool), ClientError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref() {
            return Ok((connection.clone(), false));
        }
        let info = ConnectionAddr::Tcp(self.address.ip.clone(), self.address.port)
            .into_connection_info()
            .map_err(|error| self.explain(&Request::Report, &error))?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(
                RedisConnectionInfo::default()
                    .set_username(USER)
                    .set_password(&self.password)
                    .set_skip_set_lib_name(),
            );
        let client = Client::open(info).map_err(|error| self.explain(&Request::Report, &error))?;
        // Each request brings its own time limit.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| self.unreachable(format!("no connection in {CONNECT_TIMEOUT:?}")))?
            .map_err(|error| self.explain(&Request::Report, &error))?;
        *slot = Some(connection.clone());
        Ok((connection, true))
    }

    async fn disconnect(&self) {
        *self.connection.lock().await = None;
    }

    /// Whose report it is, is the planner's to judge: it names a stranger that answers at a node's address.
    fn read(&self, request: &Request, text: &str) -> Result<NodeReport, ClientError> {
        serde_json::from_str(text).map_err(|error| self.protocol(request, format!("no report ({error})")))
    }

    fn explain(&self, request: &Request, error: &RedisError) -> ClientError {
        let detail = error.detail().unwrap_or_default();
        match error.code() {
            Some(STALE_EPOCH) => ClientError::StaleEpoch {
                node: self.name.clone(),
                newer: newest_epoch(detail).unwrap_or_default(),
            },
            Some(STICKY) => ClientError::Sticky { node: self.name.clone() },
            Some(WRONG_CLUSTER) => ClientError::WrongCluster {
                node: self.name.clone(),
                address: self.place(),
                why: detail.to_owned(),
            },
            _ if error.is_connection_refusal() => {
                ClientError::Refused { node: self.name.clone(), address: self.place() }
            }
            _ if broken(error) => self.unreachable(error.to_string()),
            _ => self.protocol(request, error.to_string()),
        }
    }

    fn unreachable(&self, why: String) -> ClientError {
        ClientError::Unreachable { node: self.name.clone(), address: self.place(), why }
    }

    fn protocol(&self, request: &Request, why: String) -> ClientError {
        ClientError::Protocol { node: self.name.clone(), command: request.name(), why }
    }

    fn place(&self) -> String {
        format!("{}:{}", self.address.ip, self.address.port)
    }
}

fn broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_unrecoverable_error()
}

/// The newest epoch that the text of a refusal names; it may name the old one too.
fn newest_epoch(text: &str) -> Option<Epoch> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).max().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn the_newer_epoch_is_read_from_a_refusal() {
        assert_eq!(newest_epoch("epoch 3 is older than epoch 17"), Some(Epoch(17)));
        assert_eq!(newest_epoch("none"), None);
    }

    /// A node that takes one connection for each script, and gives one answer of it to each request; after the last
    /// one it closes the connection.
    async fn node(scripts: Vec<Vec<&'static str>>) -> NodeClient {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for script in scripts {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                for answer in script {
                    if stream.read(&mut buffer).await.unwrap() == 0 {
                        break;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        let address = NodeAddress { ip: "127.0.0.1".into(), hostname: String::new(), port, bus_port: 0 };
        NodeClient::new(ClusterUid("u".into()), "a-0-0".into(), address, "secret".into())
    }

    const PREPARE: Request = Request::Prepare { shard: 0, epoch: Epoch(3), consent: Consent::IfSilent };

    #[tokio::test]
    async fn refusals_are_told_apart() {
        let client = node(vec![vec![
            "+OK\r\n",
            "-STALEEPOCH 3 is older than the promised epoch 7\r\n",
            "-WRONGCLUSTER this is shard 2 of v\r\n",
            "-ERR unknown command\r\n",
            "$2\r\n{}\r\n",
        ]])
        .await;
        let error = client.call(&PREPARE).await.unwrap_err();
        assert!(matches!(error, ClientError::StaleEpoch { newer: Epoch(7), .. }), "{error:?}");
        let error = client.call(&PREPARE).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongCluster { .. }), "{error:?}");
        for _ in 0..2 {
            let error = client.call(&PREPARE).await.unwrap_err();
            assert!(matches!(error, ClientError::Protocol { command: "KV PREPARE", .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_broken_connection_is_replaced_at_once() {
        let client = node(vec![vec!["+OK\r\n", "-ERR first\r\n"], vec!["+OK\r\n", "-ERR second\r\n"]]).await;
        for text in ["first", "second"] {
            let error = client.call(&PREPARE).await.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        // Nobody listens any more.
        let error = client.call(&PREPARE).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = NodeAddress { ip: "127.0.0.1".into(), hostname: String::new(), port, bus_port: 0 };
        let client = NodeClient::new(ClusterUid("u".into()), "a-0-0".into(), address, "secret".into());
        let error = client.call(&Request::Report).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    }
}
