//! A notification hook: posts what went wrong, and each change of master, to a URL as JSON. One task for all clusters, with a
//! bounded queue: a receiver that hangs delays nobody, and loses what it does not take.

use std::time::Duration;

use axum::http::{Request, Uri, header};
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use kube::{Client, Config};
use serde::Serialize;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{sleep, timeout};

use super::Event;
use crate::crd::Receipt;

/// Notifications that may wait.
const WAITING: usize = 256;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before each further attempt.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// Why nothing can be posted to a URL.
#[derive(Debug, thiserror::Error)]
pub enum BadHook {
    /// It is no URL that can be posted to.
    #[error(
        "the URL for notifications must be one of http or https with a host, such as https://alerts.example/kv"
    )]
    Url,
    /// There can be no client for it.
    #[error("no client for the URL for notifications: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// What is posted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    time: String,
    /// Empty without Kubernetes.
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    cluster: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    #[serde(rename = "type")]
    kind: &'static str,
    reason: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Box<Receipt>>,
}

/// Where notifications go. The task that posts them ends with the last copy of this, once all are posted.
#[derive(Clone, Debug)]
pub struct Hook(Sender<Notification>);

impl Hook {
    /// Posts to `url` from now on. It may hold a secret, and is never logged.
    ///
    /// # Errors
    /// If it is no URL that can be posted to.
    pub fn start(url: &str) -> Result<Self, BadHook> {
        let url: Uri = url.trim().parse().map_err(|_| BadHook::Url)?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
        let path = url.path_and_query().filter(|_| is_http).ok_or(BadHook::Url)?.to_string();
        let base = Uri::builder().scheme(url.scheme_str().unwrap_or("https"));
        let base = base.authority(url.authority().map_or("", |authority| authority.as_str()));
        let base = base.path_and_query("/").build().map_err(|_| BadHook::Url)?;
        // The client of the API server, which is there anyway: HTTP and TLS with the system's certificates.
        let client = Client::try_from(Config::new(base)).map_err(Box::new)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(post_all(client, path, receiver));
        Ok(Self(sender))
    }

    /// Posts an event, if it is about something that went wrong, or a change of master. Never waits.
    pub fn tell(&self, namespace: &str, cluster: &str, event: &Event) {
        if !event.warning && event.receipt.is_none() {
            return;
        }
        let notification = Notification {
            time: Timestamp::now().to_string(),
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            shard: event.shard,
            kind: if event.warning { "Warning" } else { "Normal" },
            reason: event.reason.clone(),
            message: event.message.clone(),
            receipt: event.receipt.clone(),
        };
        if self.0.try_send(notification).is_err() {
            tracing::warn!(cluster, reason = %event.reason, "a notification was dropped: too many wait to be posted");
        }
    }
}

async fn post_all(client: Client, path: String, mut waiting: Receiver<Notification>) {
    while let Some(notification) = waiting.recv().await {
        let Ok(body) = serde_json::to_vec(&notification) else { continue };
        let mut pauses = PAUSES.into_iter();
        while let Err(error) = post(&client, &path, &body).await {
            let Some(pause) = pauses.next() else {
                tracing::warn!(%error, reason = %notification.reason, "a notification could not be posted");
                break;
            };
            sleep(pause).await;
        }
    }
}

/// One attempt. What the receiver answers matters only as far as it took it.
async fn post(client: &Client, path: &str, body: &[u8]) -> Result<(), String> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_vec()))
        .map_err(|error| error.to_string())?;
    match timeout(PATIENCE, client.send(request)).await {
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(response)) if response.status().is_success() => Ok(()),
        Ok(Ok(response)) => Err(format!("the receiver answered {}", response.status())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::body::Bytes;
    use axum::http::{StatusCode, Uri};
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::*;

    fn event(reason: &str, warning: bool) -> Event {
        Event { shard: Some(3), warning, reason: reason.into(), message: "words".into(), receipt: None }
    }

    #[tokio::test]
    async fn what_went_wrong_is_posted_until_it_is_taken_and_nothing_else() {
        let (told, mut heard) = mpsc::unbounded_channel();
        let tries = Arc::new(AtomicUsize::new(0));
        let router = Router::new().fallback(async move |uri: Uri, body: Bytes| {
            told.send((uri.to_string(), serde_json::from_slice::<Value>(&body).unwrap())).unwrap();
            // The first attempt is not taken.
            if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                StatusCode::BAD_GATEWAY
            } else {
                StatusCode::NO_CONTENT
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook/kv?key=secret", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let hook = Hook::start(&url).unwrap();
        hook.tell("market", "shop", &event("Ready", false));
        hook.tell("market", "shop", &event("MasterExited", true));
        hook.tell("", "local", &event("NoQuorum", true));
        let mut next = async || heard.recv().await.unwrap();
        let (path, first) = next().await;
        assert_eq!(path, "/hook/kv?key=secret");
        assert_eq!((&first["reason"], &first["namespace"]), (&"MasterExited".into(), &"market".into()));
        assert_eq!(
            (&first["type"], &first["shard"], &first["cluster"]),
            (&"Warning".into(), &3.into(), &"shop".into())
        );
        assert!(
            first["time"].as_str().unwrap().parse::<Timestamp>().is_ok() && first.get("receipt").is_none()
        );
        assert_eq!(next().await.1, first, "it is posted again");
        let (_, second) = next().await;
        assert_eq!((&second["reason"], second.get("namespace")), (&"NoQuorum".into(), None));
    }

    #[tokio::test]
    async fn a_receiver_that_hangs_delays_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook = Hook::start(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        for _ in 0..2 * WAITING {
            hook.tell("", "shop", &event("NoQuorum", true));
        }
        assert!(hook.0.capacity() <= 1, "the rest is dropped");
    }

    #[tokio::test]
    async fn what_is_no_url_is_refused() {
        for url in ["", "alerts.example", "ftp://alerts.example/", "/kv", "https://"] {
            assert!(matches!(Hook::start(url), Err(BadHook::Url)), "{url}");
        }
        assert!(Hook::start("https://alerts.example").is_ok());
    }
}
