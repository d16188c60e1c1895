//! Following a running Redis or Valkey as the master of a shard (`spec.source`), until the user cuts over.
//!
//! The source's stream is passed on to the replicas byte by byte, and clients can read. The shard has no reign of its own:
//! no barrier stands in the stream, nothing is written here, and any node of the shard can follow the source instead.

use std::time::{Duration, Instant};

use kv_core::control::{DataState, NodeState};
use kv_core::shard::ShardConfig;
use kv_core::source::{Following, Source};

use super::{Event, Refusal, Server};
use crate::source::{HELD, News, Place, Seen, Watch};
use crate::{notice, warning};

/// How long before the source's writers go on this node is no longer sure that it has everything.
const MARGIN: Duration = Duration::from_secs(3);

/// How long to wait after a cut-over that did not come about.
const RETRY: Duration = Duration::from_secs(1);

/// What a master that follows a source knows of it.
#[derive(Debug)]
pub struct Adoption {
    source: Source,
    place: Place,
    watch: Watch,
    seen: Option<Seen>,
    /// What is wrong, as far as the watch knows.
    problem: Option<String>,
    /// What kept a cut-over from coming about, and since when that is known.
    failed: Option<(String, Instant)>,
    cut_over: Option<CutOver>,
    /// No cut-over is begun before that.
    retry_at: Instant,
}

/// A cut-over that was asked for.
#[derive(Debug)]
struct CutOver {
    until: Instant,
    /// Where the source's stream ends; `None` until it has said so.
    end: Option<Seen>,
}

impl Adoption {
    /// A cut-over did not come about: the source's writers go on.
    fn give_up(&mut self, problem: String, now: Instant) {
        warning!("No cut-over from {}: {problem}", self.source);
        self.cut_over = None;
        self.failed = Some((problem, now));
        self.retry_at = now + RETRY;
        self.watch.go_on();
    }
}

impl Server {
    /// Follows a source from now on.
    pub(super) fn follow_source(&mut self, source: Source) {
        let address = (source.host.clone(), source.port);
        if self.adoption.as_ref().is_none_or(|adoption| adoption.source != source) {
            self.watch_source(source);
        }
        self.follow(address, None);
    }

    fn watch_source(&mut self, source: Source) {
        let (place, mailbox, of) = (self.source_place(&source), self.mailbox(), source.clone());
        let tell = move |news| mailbox.send(Event::Source(of.clone(), news));
        match Watch::start(place.clone(), tell) {
            Ok(watch) => {
                let retry_at = self.clock.instant;
                self.adoption = Some(Adoption {
                    source,
                    place,
                    watch,
                    seen: None,
                    problem: None,
                    failed: None,
                    cut_over: None,
                    retry_at,
                });
            }
            Err(error) => warning!("Cannot start a thread to watch the source: {error}"),
        }
    }

    /// Follows no source, or no more; `complete`: since all of it is here.
    pub(super) fn leave_source(&mut self, complete: bool) {
        let Some(adoption) = self.adoption.take() else { return };
        if complete {
            notice!("Cut over from {}: it is followed no more", adoption.source);
            adoption.watch.end();
        }
    }

    fn source_place(&self, source: &Source) -> Place {
        let some = |name| Some(self.config.settings.text(name).to_owned()).filter(|text| !text.is_empty());
        Place {
            address: (source.host.clone(), source.port),
            user: some("masteruser"),
            password: some("masterauth"),
        }
    }

    /// The source that this node follows in place of a reign of its own.
    pub(super) fn source(&self) -> Option<&Source> {
        self.adoption.as_ref()?;
        let config = self.routing.config().filter(|_| self.routing.state() == NodeState::Master)?;
        config.source.as_ref()
    }

    /// Whether it follows a source of which it has no data yet that could be read.
    pub(super) fn awaits_source(&self) -> bool {
        self.source().is_some() && self.routing.data() <= DataState::Syncing && self.keyspace.is_empty()
    }

    /// What the watch saw.
    pub(super) fn on_source(&mut self, of: &Source, news: News) {
        let now = self.clock.instant;
        let Some(adoption) = self.adoption.as_mut().filter(|adoption| adoption.source == *of) else { return };
        match news.seen {
            Ok(seen) => {
                if let Some(cut_over) = adoption.cut_over.as_mut().filter(|_| news.final_look) {
                    (cut_over.end, adoption.failed) = (Some(seen.clone()), None);
                }
                (adoption.seen, adoption.problem) = (Some(seen), None);
            }
            Err(problem) if news.final_look => adoption.give_up(problem, now),
            Err(problem) => (adoption.seen, adoption.problem) = (None, Some(problem)),
        }
    }

    /// `KV CUTOVER`: finds out where the source's stream ends, and whether all of it is here.
    ///
    /// # Errors
    /// If this node follows no source.
    pub(crate) fn begin_cut_over(&mut self) -> Result<(), Refusal> {
        if self.source().is_none() {
            return Err(Refusal::NoSource);
        }
        let now = self.clock.instant;
        if let Some(adoption) = &mut self.adoption
            && adoption.cut_over.is_none()
            && now >= adoption.retry_at
        {
            notice!("Cut-over from {} begins", adoption.source);
            adoption.cut_over = Some(CutOver { until: now + HELD - MARGIN, end: None });
            adoption.watch.cut_over(adoption.source.writers);
        }
        Ok(())
    }

    /// Whether all of the source's data is here, and its writers are held.
    fn is_complete(&self) -> bool {
        let cut_over = self.adoption.as_ref().and_then(|adoption| adoption.cut_over.as_ref());
        let streams = self.link.as_ref().is_some_and(|link| link.client().is_some());
        streams
            && cut_over.filter(|cut_over| self.clock.instant < cut_over.until).is_some_and(|cut_over| {
                cut_over.end.as_ref().is_some_and(|end| {
                    end.replid == self.history.replid && end.offset <= self.history.offset()
                })
            })
    }

    /// Refuses a config by which this node would follow its source no more, while it has not all of it.
    ///
    /// # Errors
    /// [`Refusal::Incomplete`]
    pub(crate) fn check_cut_over(&mut self, next: &ShardConfig) -> Result<(), Refusal> {
        if self.source().is_none() || next.source.is_some() || next.master != self.routing.id() {
            return Ok(());
        }
        self.drain_link();
        match self.source() {
            Some(source) if !self.is_complete() => Err(Refusal::Incomplete(source.to_string())),
            _ => Ok(()),
        }
    }

    /// Periodic work: another password, a cut-over that did not come about.
    pub(super) fn tend_adoption(&mut self) {
        let Some(place) = self.adoption.as_ref().map(|adoption| self.source_place(&adoption.source)) else {
            return;
        };
        let now = self.clock.instant;
        let Some(adoption) = &mut self.adoption else { return };
        if adoption.place != place {
            adoption.place.clone_from(&place);
            adoption.watch.go(place);
        }
        if adoption.cut_over.as_ref().is_some_and(|cut_over| now >= cut_over.until) {
            adoption.give_up("the last of its data did not arrive in time".to_owned(), now);
        }
        let stale = |since: Instant| now.saturating_duration_since(since) > 2 * HELD;
        adoption.failed.take_if(|(_, since)| stale(*since));
    }

    /// How far this node is with its source; `None` if it follows none.
    pub(super) fn source_report(&self) -> Option<Following> {
        self.source()?;
        let adoption = self.adoption.as_ref()?;
        let streams = self.link.as_ref().is_some_and(|link| link.client().is_some());
        let same = adoption.seen.as_ref().filter(|seen| streams && seen.replid == self.history.replid);
        let link_error = &self.stats.last_link_error;
        let of_link = (!streams && !link_error.is_empty()).then(|| link_error.clone());
        Some(Following {
            lag_bytes: same.map(|seen| seen.offset.saturating_sub(self.history.offset())),
            cutting_over: adoption.cut_over.is_some(),
            complete: self.is_complete(),
            problem: of_link
                .or_else(|| adoption.failed.as_ref().map(|(problem, _)| problem.clone()))
                .or_else(|| adoption.problem.clone()),
        })
    }
}
