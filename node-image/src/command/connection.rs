//! Connection commands: PING, ECHO, AUTH, HELLO, SELECT, CLIENT, QUIT, RESET, READONLY, READWRITE.

use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, Handler, KeySpec};
use crate::resp::Protocol;
use crate::server::{Client, ClientKey, Kind, Server, User};

const fn row(
    name: &'static str,
    arity: i32,
    flags: Flags,
    since: &'static str,
    summary: &'static str,
    handler: super::ServerHandler,
) -> CommandSpec {
    // Whoever asks for a PING wants to know whether the data are there.
    let loading = if matches!(name.as_bytes(), b"ping") { Flags::empty() } else { Flags::LOADING };
    let flags = flags.union(loading).union(Flags::STALE);
    let handler = Handler::Server(handler);
    CommandSpec { name, arity, flags, keys: KeySpec::None, group: Group::Connection, since, summary, handler }
}

const FAST: Flags = Flags::FAST;
const OPEN: Flags = Flags::FAST.union(Flags::NO_AUTH);
const ALWAYS: Flags = OPEN.union(Flags::WHILE_SUBSCRIBED);

/// The part of the command table that is about connections.
pub const COMMANDS: &[CommandSpec] = &[
    row(
        "ping",
        -1,
        FAST.union(Flags::WHILE_SUBSCRIBED),
        "1.0.0",
        "Returns the server's liveliness response.",
        ping,
    ),
    row("echo", 2, FAST, "1.0.0", "Returns the given string.", echo),
    row("auth", -2, OPEN, "1.0.0", "Authenticates the connection.", auth),
    row("hello", -1, OPEN, "6.0.0", "Handshakes with the Redis server.", hello),
    row("select", 2, FAST, "1.0.0", "Changes the selected database.", select),
    row("client", -2, Flags::empty(), "2.4.0", "A container for client connection commands.", client),
    row("quit", -1, ALWAYS, "1.0.0", "Closes the connection.", quit),
    row("reset", 1, ALWAYS, "6.2.0", "Resets the connection.", reset),
    row(
        "readonly",
        1,
        FAST,
        "3.0.0",
        "Enables read-only queries for a connection to a Redis Cluster replica node.",
        readonly,
    ),
    row(
        "readwrite",
        1,
        FAST,
        "3.0.0",
        "Enables read-write queries for a connection to a Reids Cluster replica node.",
        readwrite,
    ),
];

fn ping(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let listens = |client: &Client| client.protocol == Protocol::Resp2 && client.is_subscriber();
    match args.get(1) {
        Some(_) if args.len() > 2 => return Err(CommandError::Arity("ping".into())),
        text if server.clients.get(key).is_some_and(listens) => {
            let mut reply = server.reply(key);
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(text.unwrap_or_default());
        }
        Some(text) => server.reply(key).bulk(text),
        None => server.reply(key).simple("PONG"),
    }
    Ok(())
}

fn echo(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.reply(key).bulk(args.at(1));
    Ok(())
}

/// Compares in a time that does not depend on where the texts differ.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    differing == 0 && a.len() == b.len()
}

fn authenticate(server: &mut Server, key: ClientKey, user: &[u8], password: &[u8]) -> CommandResult {
    let control = server.config.control_password.as_deref().unwrap_or_default().as_bytes();
    let default = server.tunables.requirepass.as_bytes();
    let is = |name: &str| user == name.as_bytes();
    let found = if is("default") {
        (default.is_empty() || same_secret(default, password)).then_some(User::Default)
    } else if control.is_empty() || !same_secret(control, password) {
        None
    } else if is(kv_core::control::USER) {
        Some(User::Operator)
    } else if is(kv_core::control::REPLICATION_USER) {
        Some(User::Replica)
    } else {
        None
    };
    let found =
        found.ok_or(CommandError::text("WRONGPASS invalid username-password pair or user is disabled."))?;
    if let Some(client) = server.clients.get_mut(key) {
        client.user = found;
    }
    Ok(())
}

fn auth(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    match args.len() {
        2 if server.tunables.requirepass.is_empty() => {
            return Err(CommandError::text(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            ));
        }
        2 => authenticate(server, key, b"default", args.at(1))?,
        3 => authenticate(server, key, args.at(1), args.at(2))?,
        _ => return Err(CommandError::Syntax),
    }
    server.reply(key).ok();
    Ok(())
}

fn hello(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let protocol = match args.get(1) {
        None => None,
        Some(b"2") => Some(Protocol::Resp2),
        Some(b"3") => Some(Protocol::Resp3),
        Some(other) if crate::resp::parse_i64(other).is_none() => {
            return Err(CommandError::text("ERR Protocol version is not an integer or out of range"));
        }
        Some(_) => return Err(CommandError::text("NOPROTO unsupported protocol version")),
    };
    let mut name = None;
    let mut index = 2;
    while index < args.len() {
        if args.is(index, "auth") && index + 2 < args.len() {
            authenticate(server, key, args.at(index + 1), args.at(index + 2))?;
            index += 3;
        } else if args.is(index, "setname") && index + 1 < args.len() {
            name = Some(client_name(args.at(index + 1))?);
            index += 2;
        } else {
            let option = String::from_utf8_lossy(args.at(index)).into_owned();
            return Err(CommandError::text(format!("ERR Syntax error in HELLO option '{option}'")));
        }
    }
    let Some(client) = server.clients.get_mut(key) else { return Ok(()) };
    if client.user == User::Nobody {
        return Err(CommandError::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    client.protocol = protocol.unwrap_or(client.protocol);
    if let Some(name) = name {
        client.name = name;
    }
    let (proto, id) = (if client.protocol == Protocol::Resp3 { 3 } else { 2 }, client.id);
    let mode = if server.tunables.cluster_enabled { "cluster" } else { "standalone" };
    let role = if server.link.is_some() { "replica" } else { "master" };
    let mut reply = server.reply(key);
    reply.map(7);
    for (field, text) in [("server", "redis"), ("version", kv_core::REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(proto);
    reply.bulk(b"id");
    reply.integer(i64::try_from(id).unwrap_or(i64::MAX));
    for (field, text) in [("mode", mode), ("role", role)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn select(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let db = args.integer(1)?;
    if server.tunables.cluster_enabled && db != 0 {
        return Err(CommandError::text("ERR SELECT is not allowed in cluster mode"));
    }
    let db = usize::try_from(db)
        .ok()
        .filter(|db| *db < server.settings.databases)
        .ok_or(CommandError::text("ERR DB index is out of range"))?;
    if let Some(client) = server.clients.get_mut(key) {
        client.db = db;
    }
    server.reply(key).ok();
    Ok(())
}

fn quit(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    server.reply(key).ok();
    if let Some(client) = server.clients.get_mut(key) {
        client.closing = true;
    }
    Ok(())
}

fn reset(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    server.end_session(key);
    let user = if server.tunables.requirepass.is_empty() { User::Default } else { User::Nobody };
    if let Some(client) = server.clients.get_mut(key) {
        client.user = user;
        client.db = 0;
        client.protocol = Protocol::Resp2;
        client.readonly = false;
        client.name.clear();
    }
    server.reply(key).simple("RESET");
    Ok(())
}

fn set_readonly(server: &mut Server, key: ClientKey, readonly: bool) -> CommandResult {
    if !server.tunables.cluster_enabled {
        return Err(CommandError::text("ERR This instance has cluster support disabled"));
    }
    if let Some(client) = server.clients.get_mut(key) {
        client.readonly = readonly;
    }
    server.reply(key).ok();
    Ok(())
}

fn readonly(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    set_readonly(server, key, true)
}

fn readwrite(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    set_readonly(server, key, false)
}

fn client_name(name: &[u8]) -> Result<String, CommandError> {
    let printable = name.iter().all(|b| (b'!'..=b'~').contains(b));
    match String::from_utf8(name.to_vec()) {
        Ok(name) if printable && name.len() <= 1024 => Ok(name),
        _ => {
            Err(CommandError::text("ERR Client names cannot contain spaces, newlines or special characters."))
        }
    }
}

fn client(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let subcommand = args.at(1).to_ascii_lowercase();
    let arity = |fits: bool| {
        let name = format!("client|{}", String::from_utf8_lossy(&subcommand));
        if fits { Ok(()) } else { Err(CommandError::Arity(name)) }
    };
    match subcommand.as_slice() {
        b"id" => {
            arity(args.len() == 2)?;
            let id = server.clients.get(key).map_or(0, |client| client.id);
            server.reply(key).integer(i64::try_from(id).unwrap_or(i64::MAX));
        }
        b"getname" => {
            arity(args.len() == 2)?;
            let name =
                server.clients.get(key).map(|client| client.name.clone()).filter(|name| !name.is_empty());
            server.reply(key).bulk_or_nil(name.as_deref().map(str::as_bytes));
        }
        b"setname" => {
            arity(args.len() == 3)?;
            let name = client_name(args.at(2))?;
            if let Some(client) = server.clients.get_mut(key) {
                client.name = name;
            }
            server.reply(key).ok();
        }
        b"setinfo" => {
            arity(args.len() == 4)?;
            set_info(server, key, args)?;
        }
        b"info" => {
            arity(args.len() == 2)?;
            let line = server.clients.get(key).map(|client| describe(server, client)).unwrap_or_default();
            server.reply(key).verbatim(&format!("{line}\n"));
        }
        b"list" => list(server, key, args)?,
        b"kill" => {
            arity(args.len() >= 3)?;
            kill(server, key, args)?;
        }
        b"no-evict" | b"no-touch" => {
            arity(args.len() == 3)?;
            if !args.is(2, "on") && !args.is(2, "off") {
                return Err(CommandError::Syntax);
            }
            server.reply(key).ok();
        }
        other => {
            let other = String::from_utf8_lossy(other).into_owned();
            return Err(CommandError::text(format!("ERR unknown subcommand '{other}'. Try CLIENT HELP.")));
        }
    }
    Ok(())
}

fn set_info(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let value = client_name(args.at(3)).map_err(|_| {
        let option = String::from_utf8_lossy(args.at(2)).into_owned();
        CommandError::text(format!("ERR {option} cannot contain spaces, newlines or special characters."))
    })?;
    let Some(client) = server.clients.get_mut(key) else { return Ok(()) };
    if args.is(2, "lib-name") {
        client.lib_name = value;
    } else if args.is(2, "lib-ver") {
        client.lib_version = value;
    } else {
        let option = String::from_utf8_lossy(args.at(2)).into_owned();
        return Err(CommandError::text(format!("ERR Unrecognized option '{option}'")));
    }
    server.reply(key).ok();
    Ok(())
}

/// Whether a client is of a type, as CLIENT LIST and KILL name types; `None` if there is no such type.
fn is_type(client: &Client, name: &[u8]) -> Option<bool> {
    Some(match name.to_ascii_lowercase().as_slice() {
        b"normal" => matches!(client.kind, Kind::Normal) && !client.is_subscriber(),
        b"replica" | b"slave" => matches!(client.kind, Kind::Replica(_)),
        b"master" => client.is_parent(),
        b"pubsub" => client.is_subscriber(),
        _ => return None,
    })
}

fn unknown_type(name: &[u8]) -> CommandError {
    CommandError::text(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name)))
}

fn describe(server: &Server, client: &Client) -> String {
    let dirty = client.session.as_ref().is_some_and(|session| server.session_is_dirty(session));
    client.describe(server.clock.instant, dirty)
}

fn list(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let mut text = String::new();
    let wanted: Vec<&[u8]> = args.from(3).to_vec();
    for (_, client) in server.clients.iter() {
        let shown = if args.len() == 2 {
            true
        } else if args.is(2, "type") && wanted.len() == 1 {
            is_type(client, args.at(3)).ok_or_else(|| unknown_type(args.at(3)))?
        } else if args.is(2, "id") && !wanted.is_empty() {
            wanted.iter().any(|id| *id == client.id.to_string().as_bytes())
        } else {
            return Err(CommandError::Syntax);
        };
        if shown {
            text.push_str(&describe(server, client));
            text.push('\n');
        }
    }
    server.reply(key).verbatim(&text);
    Ok(())
}

fn kill(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if args.len() == 3 {
        let found = server.clients.keys_where(|client| client.peer.to_string().as_bytes() == args.at(2));
        let Some(&victim) = found.first() else { return Err(CommandError::text("ERR No such client")) };
        server.reply(key).ok();
        end(server, victim, key);
        return Ok(());
    }
    if !args.len().is_multiple_of(2) {
        return Err(CommandError::Syntax);
    }
    let mut skip_me = true;
    for index in (2..args.len()).step_by(2) {
        if args.is(index, "skipme") {
            skip_me = match args.at(index + 1).to_ascii_lowercase().as_slice() {
                b"yes" => true,
                b"no" => false,
                _ => return Err(CommandError::Syntax),
            };
        }
    }
    let mut victims = Vec::new();
    for (candidate, client) in server.clients.iter() {
        if matches_filters(client, args)? && !(skip_me && candidate == key) {
            victims.push(candidate);
        }
    }
    server.reply(key).count(victims.len());
    victims.into_iter().for_each(|victim| end(server, victim, key));
    Ok(())
}

fn matches_filters(client: &Client, args: Args<'_>) -> Result<bool, CommandError> {
    for index in (2..args.len()).step_by(2) {
        let value = args.at(index + 1);
        let fits = match args.at(index).to_ascii_lowercase().as_slice() {
            b"id" => {
                let id = crate::resp::parse_i64(value).filter(|id| *id > 0);
                let id = id.ok_or(CommandError::text("ERR client-id should be greater than 0"))?;
                client.id == id.unsigned_abs()
            }
            b"addr" => client.peer.to_string().as_bytes() == value,
            b"laddr" => client.local.to_string().as_bytes() == value,
            b"user" => client.user.name().as_bytes() == value,
            b"type" => is_type(client, value).ok_or_else(|| unknown_type(value))?,
            b"skipme" => true,
            _ => return Err(CommandError::Syntax),
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
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
