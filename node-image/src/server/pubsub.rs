//! Messages to whoever listens: who has subscribed to what, and how a message gets there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kv_core::slot::key_slot;

use super::managed::Route;
use super::{ClientKey, Clients, Server};
use crate::command::glob::glob_match;
use crate::command::{CommandError, CommandResult};
use crate::config::Tunables;
use crate::resp::{Protocol, Reply};

/// What a subscription takes besides the bytes of its name.
const OVERHEAD: usize = 64;

/// What a subscription is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A channel.
    Channel,
    /// All channels whose names fit a pattern.
    Pattern,
    /// A channel that belongs to the shard of its slot.
    Shard,
}

impl Scope {
    fn subscribed(self) -> &'static [u8] {
        match self {
            Self::Channel => b"subscribe",
            Self::Pattern => b"psubscribe",
            Self::Shard => b"ssubscribe",
        }
    }

    fn unsubscribed(self) -> &'static [u8] {
        match self {
            Self::Channel => b"unsubscribe",
            Self::Pattern => b"punsubscribe",
            Self::Shard => b"sunsubscribe",
        }
    }
}

/// Who has subscribed to each name.
pub type Subscribers = HashMap<Arc<[u8]>, BTreeSet<ClientKey>, hashbrown::DefaultHashBuilder>;

/// All subscriptions.
#[derive(Debug, Default)]
pub struct PubSub {
    channels: Subscribers,
    patterns: Subscribers,
    shards: Subscribers,
}

impl PubSub {
    /// Who has subscribed to each name of this kind. None is kept without subscribers.
    #[must_use]
    pub fn of(&self, scope: Scope) -> &Subscribers {
        match scope {
            Scope::Channel => &self.channels,
            Scope::Pattern => &self.patterns,
            Scope::Shard => &self.shards,
        }
    }

    fn of_mut(&mut self, scope: Scope) -> &mut Subscribers {
        match scope {
            Scope::Channel => &mut self.channels,
            Scope::Pattern => &mut self.patterns,
            Scope::Shard => &mut self.shards,
        }
    }

    fn add(&mut self, scope: Scope, name: &Arc<[u8]>, key: ClientKey) {
        self.of_mut(scope).entry(Arc::clone(name)).or_default().insert(key);
    }

    fn remove(&mut self, scope: Scope, name: &[u8], key: ClientKey) {
        let all = self.of_mut(scope);
        if let Some(keys) = all.get_mut(name) {
            keys.remove(&key);
            if keys.is_empty() {
                all.remove(name);
            }
        }
    }
}

/// What one client has subscribed to.
#[derive(Debug, Default)]
pub struct Subscriptions {
    channels: BTreeSet<Arc<[u8]>>,
    patterns: BTreeSet<Arc<[u8]>>,
    shards: BTreeSet<Arc<[u8]>>,
    bytes: usize,
}

impl Subscriptions {
    /// The names of this kind.
    #[must_use]
    pub fn of(&self, scope: Scope) -> &BTreeSet<Arc<[u8]>> {
        match scope {
            Scope::Channel => &self.channels,
            Scope::Pattern => &self.patterns,
            Scope::Shard => &self.shards,
        }
    }

    fn of_mut(&mut self, scope: Scope) -> &mut BTreeSet<Arc<[u8]>> {
        match scope {
            Scope::Channel => &mut self.channels,
            Scope::Pattern => &mut self.patterns,
            Scope::Shard => &mut self.shards,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty() && self.shards.is_empty()
    }

    /// Bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that a client is told with each change.
    fn count(&self, scope: Scope) -> usize {
        match scope {
            Scope::Channel | Scope::Pattern => self.channels.len() + self.patterns.len(),
            Scope::Shard => self.shards.len(),
        }
    }

    fn add(&mut self, scope: Scope, name: &[u8]) -> Option<Arc<[u8]>> {
        if self.of(scope).contains(name) {
            return None;
        }
        let name: Arc<[u8]> = name.into();
        self.bytes += name.len() + OVERHEAD;
        self.of_mut(scope).insert(Arc::clone(&name));
        Some(name)
    }

    fn remove(&mut self, scope: Scope, name: &[u8]) -> bool {
        let removed = self.of_mut(scope).remove(name);
        if removed {
            self.bytes = self.bytes.saturating_sub(name.len() + OVERHEAD);
        }
        removed
    }
}

impl Server {
    /// Subscribes a client to these names, and confirms each.
    pub(crate) fn subscribe(&mut self, key: ClientKey, scope: Scope, names: &[&[u8]]) -> CommandResult {
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let subscriptions = &mut client.session.get_or_insert_default().subscriptions;
        let more = names.iter().map(|name| name.len() + OVERHEAD).sum::<usize>();
        if subscriptions.bytes.saturating_add(more) > self.tunables.query_buffer {
            self.tidy_session(key);
            return Err(CommandError::text(
                "ERR the subscriptions are larger than client-query-buffer-limit",
            ));
        }
        let mut reply = Reply::new(&mut client.output, client.protocol);
        for name in names {
            if let Some(name) = subscriptions.add(scope, name) {
                let space = if client.sentinel { &mut self.sentinel.channels } else { &mut self.pubsub };
                space.add(scope, &name, key);
            }
            confirm(&mut reply, scope.subscribed(), Some(name), subscriptions.count(scope));
        }
        self.clients.queue_write(key);
        Ok(())
    }

    /// Ends a client's subscriptions to these names, or to all if there are none, and confirms each.
    pub(crate) fn unsubscribe(&mut self, key: ClientKey, scope: Scope, names: &[&[u8]]) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let subscriptions = &mut client.session.get_or_insert_default().subscriptions;
        let mut reply = Reply::new(&mut client.output, client.protocol);
        let all: Vec<_> = subscriptions.of(scope).iter().cloned().collect();
        let all: Vec<&[u8]> =
            if names.is_empty() { all.iter().map(AsRef::as_ref).collect() } else { names.to_vec() };
        let space = if client.sentinel { &mut self.sentinel.channels } else { &mut self.pubsub };
        for name in &all {
            if subscriptions.remove(scope, name) {
                space.remove(scope, name, key);
            }
            confirm(&mut reply, scope.unsubscribed(), Some(name), subscriptions.count(scope));
        }
        if all.is_empty() {
            confirm(&mut reply, scope.unsubscribed(), None, subscriptions.count(scope));
        }
        self.clients.queue_write(key);
        self.tidy_session(key);
    }

    /// Ends all of a client's subscriptions without a word.
    pub(super) fn forget_subscriptions(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(session) = client.session.as_mut() else { return };
        let gone = std::mem::take(&mut session.subscriptions);
        let space = if client.sentinel { &mut self.sentinel.channels } else { &mut self.pubsub };
        for scope in [Scope::Channel, Scope::Pattern, Scope::Shard] {
            gone.of(scope).iter().for_each(|name| space.remove(scope, name, key));
        }
    }

    /// Sends a message to all subscribers of this node; returns how many they are. A client that publishes what it
    /// listens to itself gets the message after its reply: `from` is that client.
    pub(crate) fn deliver(
        &mut self,
        scope: Scope,
        channel: &[u8],
        message: &[u8],
        from: Option<ClientKey>,
    ) -> usize {
        let Self { pubsub, clients, tunables, .. } = self;
        deliver_in(pubsub, clients, tunables, (scope, channel, message), from)
    }

    /// Sends a message to all subscribers on `sentinel-port`.
    pub(crate) fn announce(&mut self, channel: &str, message: &str) {
        let Self { sentinel, clients, tunables, .. } = self;
        let message = (Scope::Channel, channel.as_bytes(), message.as_bytes());
        deliver_in(&sentinel.channels, clients, tunables, message, None);
    }

    /// Publishes for a client: here, and to all that follow this node's stream.
    pub(crate) fn publish_for(&mut self, key: ClientKey, scope: Scope, channel: &[u8], message: &[u8]) {
        let receivers = self.deliver(scope, channel, message, Some(key));
        let name: &[u8] = if scope == Scope::Shard { b"SPUBLISH" } else { b"PUBLISH" };
        let before = self.history.offset();
        self.replicate_beat(&[name, channel, message]);
        let after = self.history.offset();
        if after != before
            && let Some(client) = self.clients.get_mut(key)
        {
            client.tells = true;
            client.write_offset = after;
        }
        self.reply(key).count(receivers);
        self.send_own_messages(key);
    }

    /// Gives a client the messages that it published itself, unless it is in the middle of a reply.
    pub(super) fn send_own_messages(&mut self, key: ClientKey) {
        if let Some(client) = self.clients.get_mut(key)
            && let Some(session) = client.session.as_mut().filter(|session| !session.executing)
        {
            client.output.append(&mut session.own_messages);
        }
    }

    /// After a change of slots: ends the subscriptions to shard channels that are elsewhere now.
    pub(super) fn drop_foreign_channels(&mut self) {
        let foreign = |name: &&Arc<[u8]>| {
            matches!(self.routing.route(key_slot(name), false, true), Route::Elsewhere(_))
        };
        let gone: Vec<_> = self.pubsub.shards.keys().filter(foreign).cloned().collect();
        for name in gone {
            for key in self.pubsub.shards.get(&name).cloned().unwrap_or_default() {
                self.unsubscribe(key, Scope::Shard, &[&*name]);
            }
        }
    }
}

/// Sends a message (its scope, channel and text) to all subscribers of a space; returns how many they are.
fn deliver_in(
    pubsub: &PubSub,
    clients: &mut Clients,
    tunables: &Tunables,
    (scope, channel, message): (Scope, &[u8], &[u8]),
    from: Option<ClientKey>,
) -> usize {
    let mut send = |keys: &BTreeSet<ClientKey>, words: &[&[u8]]| {
        let frame = frame(words);
        for key in keys {
            send(clients, *key, &frame, from == Some(*key), tunables);
        }
        keys.len()
    };
    let mut receivers = 0;
    if let Some(keys) = pubsub.of(scope).get(channel) {
        let kind: &[u8] = if scope == Scope::Shard { b"smessage" } else { b"message" };
        receivers += send(keys, &[kind, channel, message]);
    }
    if scope == Scope::Channel {
        for (pattern, keys) in pubsub.patterns.iter().filter(|(pattern, _)| glob_match(pattern, channel)) {
            receivers += send(keys, &[b"pmessage", pattern, channel, message]);
        }
    }
    receivers
}

/// A message as it is sent in RESP2. In RESP3 its first byte is another one.
fn frame(words: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    super::propagate::encode(&mut frame, words);
    frame
}

/// Adds a message to what a subscriber is to read, unless it is to be closed since there is too much already.
fn send(clients: &mut Clients, key: ClientKey, frame: &[u8], own: bool, tunables: &Tunables) {
    let Some(client) = clients.get_mut(key).filter(|client| !client.doomed && !client.closing) else {
        return;
    };
    let kind = if client.protocol == Protocol::Resp3 { b'>' } else { b'*' };
    let body = frame.get(1..).unwrap_or_default();
    let waiting = client.pending() + client.session.as_ref().map_or(0, |session| session.own_messages.len());
    let most = client.most_output(tunables);
    if most > 0 && waiting as u64 > most {
        return;
    }
    let start = client.output.len();
    let out = match client.session.as_mut() {
        Some(session) if own => &mut session.own_messages,
        _ => &mut client.output,
    };
    out.push(kind);
    out.extend_from_slice(body);
    client.note_plain(start);
    clients.queue_write(key);
}

fn confirm(reply: &mut Reply<'_>, kind: &[u8], name: Option<&[u8]>, count: usize) {
    reply.push(3);
    reply.bulk(kind);
    reply.bulk_or_nil(name);
    reply.count(count);
}
