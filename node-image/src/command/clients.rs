//! CLIENT LIST, INFO, KILL, PAUSE, UNBLOCK and REPLY: clients as other clients see them, and what they get to see.

use std::time::{Duration, Instant};

use super::{Args, CommandError, CommandResult};
use crate::resp::parse_i64;
use crate::server::{Client, ClientKey, Kind, Replies, Server, User};

pub(super) fn info(server: &mut Server, key: ClientKey) {
    let line = server.clients.get(key).map(|client| describe(server, client)).unwrap_or_default();
    server.reply(key).verbatim(&format!("{line}\n"));
}

fn describe(server: &Server, client: &Client) -> String {
    let dirty = client.session.as_ref().is_some_and(|session| server.session_is_dirty(session));
    client.describe(server.clock.instant, dirty)
}

pub(super) fn list(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let filters = Filters::parse(args, 2)?;
    let mut text = String::new();
    let sentinel = came_by_sentinel(server, key);
    for (candidate, client) in server.clients.iter() {
        let skipped = client.sentinel != sentinel || filters.skip_me == Some(true) && candidate == key;
        if filters.fit(client, server.clock.instant) && !skipped {
            text.push_str(&describe(server, client));
            text.push('\n');
        }
    }
    server.reply(key).verbatim(&text);
    Ok(())
}

/// Whether a client came by `sentinel-port`: it sees only those that did, and others only others.
fn came_by_sentinel(server: &Server, key: ClientKey) -> bool {
    server.clients.get(key).is_some_and(|client| client.sentinel)
}

pub(super) fn kill(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let sentinel = came_by_sentinel(server, key);
    if args.len() == 3 {
        let is = |client: &Client| client.peer.to_string().as_bytes() == args.at(2);
        let found = server.clients.keys_where(|client| client.sentinel == sentinel && is(client));
        let Some(&victim) = found.first() else { return Err(CommandError::text("ERR No such client")) };
        server.reply(key).ok();
        end(server, victim, key);
        return Ok(());
    }
    let filters = Filters::parse(args, 2)?;
    let fits = |client: &Client| client.sentinel == sentinel && filters.fit(client, server.clock.instant);
    let mut victims = server.clients.keys_where(fits);
    victims.retain(|victim| filters.skip_me == Some(false) || *victim != key);
    server.reply(key).count(victims.len());
    victims.into_iter().for_each(|victim| end(server, victim, key));
    Ok(())
}

/// Closes a client; the one that asks for its own end gets its reply first.
fn end(server: &mut Server, victim: ClientKey, asking: ClientKey) {
    if victim == asking {
        if let Some(client) = server.clients.get_mut(victim) {
            client.closing = true;
        }
    } else {
        server.clients.doom(victim);
    }
}

/// `CLIENT PAUSE milliseconds [WRITE | ALL]`
pub(super) fn pause(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let all = match args.get(3) {
        None => true,
        Some(_) if args.is(3, "all") => true,
        Some(_) if args.is(3, "write") => false,
        Some(_) => return Err(CommandError::text("ERR CLIENT PAUSE mode must be WRITE or ALL")),
    };
    let millis =
        parse_i64(args.at(2)).ok_or(CommandError::text("ERR timeout is not an integer or out of range"))?;
    let millis = u64::try_from(millis).map_err(|_| CommandError::text("ERR timeout is negative"))?;
    let until = server.clock.instant.checked_add(Duration::from_millis(millis));
    let until = until.ok_or(CommandError::text("ERR timeout is not an integer or out of range"))?;
    server.pause_clients(until, all);
    server.reply(key).ok();
    Ok(())
}

/// `CLIENT UNBLOCK id [TIMEOUT | ERROR]`
pub(super) fn unblock(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let error = match args.get(3) {
        None => false,
        Some(_) if args.is(3, "timeout") => false,
        Some(_) if args.is(3, "error") => true,
        Some(_) => return Err(CommandError::text("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    let id = u64::try_from(args.integer(2)?).ok();
    let found = server.clients.keys_where(|client| Some(client.id) == id);
    let unblocked = found.first().is_some_and(|found| server.end_wait(*found, error));
    server.reply(key).one_or_zero(unblocked);
    Ok(())
}

/// `CLIENT REPLY ON | OFF | SKIP`
pub(super) fn replies(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let Some(client) = server.clients.get_mut(key) else { return Ok(()) };
    match args.at(2).to_ascii_lowercase().as_slice() {
        b"on" => {
            client.replies = Replies::Sent;
            server.reply(key).ok();
        }
        b"off" => client.replies = Replies::Off,
        b"skip" if client.replies == Replies::Off => {}
        b"skip" => client.replies = Replies::SkipNext,
        _ => return Err(CommandError::Syntax),
    }
    Ok(())
}

/// What a client is looked at for.
enum Filter<'a> {
    Ids(Vec<u64>),
    Address(&'a [u8]),
    LocalAddress(&'a [u8]),
    Ip(&'a [u8]),
    User(&'a [u8]),
    Name(&'a [u8]),
    LibName(&'a [u8]),
    LibVersion(&'a [u8]),
    Type(Type),
    /// At least so many seconds old.
    Age(u64),
    /// Idle for at least so many seconds.
    Idle(u64),
    Db(usize),
}

/// A type of clients.
enum Type {
    Normal,
    Replica,
    Master,
    PubSub,
}

impl Type {
    fn named(name: &[u8]) -> Result<Self, CommandError> {
        Ok(match name.to_ascii_lowercase().as_slice() {
            b"normal" => Self::Normal,
            b"replica" | b"slave" => Self::Replica,
            b"master" | b"primary" => Self::Master,
            b"pubsub" => Self::PubSub,
            _ => {
                let name = String::from_utf8_lossy(name);
                return Err(CommandError::text(format!("ERR Unknown client type '{name}'")));
            }
        })
    }

    fn is_of(&self, client: &Client) -> bool {
        match self {
            Self::Normal => matches!(client.kind, Kind::Normal) && !client.is_subscriber(),
            Self::Replica => matches!(client.kind, Kind::Replica(_)),
            Self::Master => client.is_parent(),
            Self::PubSub => client.is_subscriber(),
        }
    }
}

/// The filters of CLIENT LIST and CLIENT KILL, all of which have to fit.
struct Filters<'a> {
    all: Vec<Filter<'a>>,
    /// `SKIPME`, if it was given.
    skip_me: Option<bool>,
}

impl<'a> Filters<'a> {
    fn parse(args: Args<'a>, mut index: usize) -> Result<Self, CommandError> {
        let mut filters = Self { all: Vec::new(), skip_me: None };
        while index < args.len() {
            let value = args.get(index + 1).ok_or(CommandError::Syntax)?;
            let filter = match args.at(index).to_ascii_lowercase().as_slice() {
                b"id" => {
                    let mut ids = vec![id(value)?];
                    // More may follow; the next word that is no number is another filter.
                    while let Some(more) = args.get(index + 2).filter(|word| parse_i64(word).is_some()) {
                        ids.push(id(more)?);
                        index += 1;
                    }
                    Filter::Ids(ids)
                }
                b"addr" => Filter::Address(value),
                b"laddr" => Filter::LocalAddress(value),
                b"ip" => Filter::Ip(value),
                b"user" => Filter::User(user(value)?),
                b"name" => Filter::Name(value),
                b"lib-name" => Filter::LibName(value),
                b"lib-ver" => Filter::LibVersion(value),
                b"type" => Filter::Type(Type::named(value)?),
                b"maxage" => Filter::Age(seconds(value, "maxage")?),
                b"idle" => Filter::Idle(seconds(value, "idle")?),
                b"db" => {
                    let db = parse_i64(value).and_then(|db| usize::try_from(db).ok());
                    Filter::Db(db.ok_or(CommandError::text(
                        "ERR DB number should be between 0 and the number of databases",
                    ))?)
                }
                b"skipme" => {
                    filters.skip_me = Some(match value.to_ascii_lowercase().as_slice() {
                        b"yes" => true,
                        b"no" => false,
                        _ => return Err(CommandError::Syntax),
                    });
                    index += 2;
                    continue;
                }
                _ => return Err(CommandError::Syntax),
            };
            filters.all.push(filter);
            index += 2;
        }
        Ok(filters)
    }

    fn fit(&self, client: &Client, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then).as_secs();
        self.all.iter().all(|filter| match filter {
            Filter::Ids(ids) => ids.contains(&client.id),
            Filter::Address(address) => client.peer.to_string().as_bytes() == *address,
            Filter::LocalAddress(address) => client.local.to_string().as_bytes() == *address,
            Filter::Ip(ip) => client.peer.ip().to_string().as_bytes() == *ip,
            Filter::User(name) => client.user.name().as_bytes() == *name,
            Filter::Name(name) => client.name.as_bytes() == *name,
            Filter::LibName(name) => client.lib_name.as_bytes() == *name,
            Filter::LibVersion(version) => client.lib_version.as_bytes() == *version,
            Filter::Type(wanted) => wanted.is_of(client),
            Filter::Age(least) => since(client.since) >= *least,
            Filter::Idle(least) => since(client.active) >= *least,
            Filter::Db(db) => client.db == *db,
        })
    }
}

/// The name of a user, if there is such a user.
fn user(name: &[u8]) -> Result<&[u8], CommandError> {
    let known = [User::Default, User::Operator, User::Replica];
    let found = known.into_iter().any(|user| user.name().as_bytes() == name);
    let unknown = || CommandError::text(format!("ERR No such user '{}'", String::from_utf8_lossy(name)));
    if found { Ok(name) } else { Err(unknown()) }
}

fn id(text: &[u8]) -> Result<u64, CommandError> {
    let id = parse_i64(text).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
    id.ok_or(CommandError::text("ERR client-id should be greater than 0"))
}

fn seconds(text: &[u8], name: &str) -> Result<u64, CommandError> {
    let number = parse_i64(text)
        .ok_or_else(|| CommandError::text(format!("ERR {name} is not an integer or out of range")))?;
    let number = u64::try_from(number).ok().filter(|number| *number > 0);
    number.ok_or_else(|| CommandError::text(format!("ERR {name} should be greater than 0")))
}
