//! Which of several operators acts: the holder of a Lease.
//!
//! kube has no leader election of its own, and the crates that have one are tied to older releases of it. A lost Lease
//! ends the process: nothing that matters is in its memory, and what it had under way is fenced by epochs.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, timeout};

/// For how long a Lease holds that is not renewed.
const DURATION: Duration = Duration::from_secs(10);

/// A holder that could not renew for this long stops, well before another may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(7);

/// How often the holder renews, and the others look.
const PERIOD: Duration = Duration::from_secs(2);

/// Why the Lease is no longer held.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another operator holds it.
    #[error("the lease {name} was taken over by {holder:?}")]
    Taken {
        /// Name of the Lease.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error("the lease {name} could not be renewed for {RENEW_DEADLINE:?}; last error: {last}")]
    Expired {
        /// Name of the Lease.
        name: String,
        /// What the API server said last.
        last: String,
    },
}

/// One operator's view of the Lease.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The version of the Lease that was seen last, and when by this machine's clock: others' clocks are not trusted.
    seen: Option<(String, Instant)>,
}

impl Elector {
    /// An operator that goes by `identity`.
    #[must_use]
    pub fn new(api: Api<Lease>, name: String, identity: String) -> Self {
        Self { api, name, identity, seen: None }
    }

    /// Waits until the Lease is held.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(None) => return,
                Ok(Some(holder)) => tracing::debug!(%holder, "another operator leads"),
                Err(error) => tracing::warn!(%error, lease = %self.name, "the lease cannot be had"),
            }
            sleep(PERIOD).await;
        }
    }

    /// Renews the Lease; returns only when it is lost.
    pub async fn hold(&mut self) -> Lost {
        let mut renewed = Instant::now();
        let mut last = String::new();
        loop {
            sleep(PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.attempt()).await {
                Ok(Ok(None)) => renewed = Instant::now(),
                Ok(Ok(Some(holder))) => return Lost::Taken { name: self.name.clone(), holder },
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = "no answer".into(),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return Lost::Expired { name: self.name.clone(), last };
            }
        }
    }

    /// Gives the Lease back, so that another operator need not wait.
    pub async fn release(&self) {
        let Ok(mut lease) = self.api.get(&self.name).await else { return };
        let Some(spec) =
            lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return;
        };
        spec.holder_identity = None;
        if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "the lease could not be given back");
        }
    }

    /// Takes or renews the Lease. `None`: it is held; otherwise who holds it.
    async fn attempt(&mut self) -> Result<Option<String>, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            return self.api.create(&PostParams::default(), &lease).await.map(|_| None);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && !self.ran_out(&lease) {
            return Ok(Some(holder));
        }
        // The object's version is in the request: of two that try, one gets a conflict.
        let next = Lease { spec: Some(self.spec(lease.spec.as_ref())), metadata: lease.metadata };
        self.api.replace(&self.name, &PostParams::default(), &next).await.map(|_| None)
    }

    fn ran_out(&mut self, lease: &Lease) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if *seen == version => since.elapsed() > DURATION,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = old.is_some_and(|old| old.holder_identity.as_ref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if mine { old.and_then(|old| old.acquire_time.clone()) } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}
