//! A run of the ledger beside a cluster, in this process or in a pod: the same questions to both.

use std::time::Duration;

use crate::ledger::outage::Outage;
use crate::ledger::wire::{Remote, Reply, Request};
use crate::ledger::{Error, Report, Session, Tally};

/// A run of the ledger.
pub enum Ledger {
    /// In this process.
    Here(Box<Session>),
    /// In another, driven over its standard input and output.
    There(Remote),
}

impl Ledger {
    /// Now, on the run's clock, in microseconds of Unix time.
    ///
    /// # Errors
    /// If the run is gone.
    pub async fn now_us(&mut self) -> Result<u64, Error> {
        match self {
            Self::Here(session) => Ok(session.now_us()),
            Self::There(remote) => match remote.ask(&Request::Now).await? {
                Reply::Now(now) => Ok(now),
                other => Err(unexpected(&other)),
            },
        }
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// If the run is gone.
    pub async fn tally(&mut self) -> Result<Tally, Error> {
        match self {
            Self::Here(session) => Ok(session.tally()),
            Self::There(remote) => match remote.ask(&Request::Tally).await? {
                Reply::Tally(tally) => Ok(tally),
                other => Err(unexpected(&other)),
            },
        }
    }

    /// The outages that ended after `since_us` and took at least `min`; of each shard the `most` longest.
    ///
    /// # Errors
    /// If the run is gone.
    pub async fn outages(&mut self, since_us: u64, min: Duration, most: usize) -> Result<Vec<Outage>, Error> {
        let min_us = u64::try_from(min.as_micros()).unwrap_or(u64::MAX);
        match self {
            Self::Here(session) => Ok(session.outages(since_us, min_us, most)),
            Self::There(remote) => match remote.ask(&Request::Outages { since_us, min_us, most }).await? {
                Reply::Outages(outages) => Ok(outages),
                other => Err(unexpected(&other)),
            },
        }
    }

    /// The longest outage of one shard that ended after `since_us`, in milliseconds.
    ///
    /// # Errors
    /// If the run is gone.
    pub async fn longest_ms(&mut self, shard: usize, since_us: u64) -> Result<f64, Error> {
        let outages = self.outages(since_us, Duration::ZERO, 1).await?;
        Ok(outages.iter().find(|outage| outage.shard == Some(shard)).map_or(0.0, Outage::ms))
    }

    /// Returns when each writer had a write acknowledged that was begun after now.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn acknowledged(&mut self, within: Duration) -> Result<(), Error> {
        let since_us = self.now_us().await?;
        match self {
            Self::Here(session) => session.acknowledged_since(since_us, within).await,
            Self::There(remote) => {
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                match remote.ask(&Request::Acknowledged { since_us, within_ms }).await? {
                    Reply::Ready => Ok(()),
                    other => Err(unexpected(&other)),
                }
            }
        }
    }

    /// Stops the writers; what they wrote can be read back later.
    ///
    /// # Errors
    /// If the run is gone.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self {
            Self::Here(session) => {
                session.stop().await;
                Ok(())
            }
            Self::There(remote) => match remote.ask(&Request::Stop).await? {
                Reply::Ready => Ok(()),
                other => Err(unexpected(&other)),
            },
        }
    }

    /// Stops the writers if they still run, reads everything back and judges.
    ///
    /// # Errors
    /// If what was written cannot be read back in time.
    pub async fn finish(self, within: Duration) -> Result<Report, Error> {
        match self {
            Self::Here(session) => session.finish(within).await,
            Self::There(mut remote) => {
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                match remote.ask(&Request::Finish { within_ms }).await? {
                    Reply::Report(report) => Ok(*report),
                    other => Err(unexpected(&other)),
                }
            }
        }
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Wire(format!("an answer to another question: {reply:?}"))
}
