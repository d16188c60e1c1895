//! Connection commands: PING, ECHO, AUTH, HELLO, SELECT, CLIENT, QUIT, RESET, READONLY, READWRITE.

use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, clients, help};
use crate::resp::Protocol;
use crate::server::{Client, ClientKey, Replies, Server, User};

const ANY: Flags = Flags::LOADING.union(Flags::STALE);
const FAST: Flags = ANY.union(Flags::FAST);
const OPEN: Flags = FAST.union(Flags::NO_AUTH);
const ALWAYS: Flags = OPEN.union(Flags::WHILE_SUBSCRIBED);

/// The part of the command table that is about connections.
pub const COMMANDS: &[CommandSpec] = &[
    row(
        Group::Connection,
        "ping",
        -1,
        // Not while data are loaded: whoever asks wants to know whether they are there.
        Flags::FAST.union(Flags::STALE).union(Flags::WHILE_SUBSCRIBED),
        "1.0.0",
        "Returns the server's liveliness response.",
        ping,
    ),
    row(Group::Connection, "echo", 2, FAST, "1.0.0", "Returns the given string.", echo),
    row(Group::Connection, "auth", -2, OPEN, "1.0.0", "Authenticates the connection.", auth),
    row(Group::Connection, "hello", -1, OPEN, "6.0.0", "Handshakes with the Redis server.", hello),
    row(Group::Connection, "select", 2, FAST, "1.0.0", "Changes the selected database.", select),
    row(Group::Connection, "client", -2, ANY, "2.4.0", "A container for client connection commands.", client),
    row(Group::Connection, "quit", -1, ALWAYS, "1.0.0", "Closes the connection.", quit),
    row(Group::Connection, "reset", 1, ALWAYS, "6.2.0", "Resets the connection.", reset),
    row(
        Group::Connection,
        "readonly",
        1,
        FAST,
        "3.0.0",
        "Enables read-only queries for a connection to a Redis Cluster replica node.",
        readonly,
    ),
    row(
        Group::Connection,
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
    let role = if server.link.is_some() { "replica" } else { "master" };
    let fields: &[_] = match server.tunables.cluster_enabled {
        _ if client.sentinel => &[("mode", "sentinel")],
        true => &[("mode", "cluster"), ("role", role)],
        false => &[("mode", "standalone"), ("role", role)],
    };
    let mut reply = server.reply(key);
    reply.map(5 + fields.len());
    for (field, text) in [("server", "redis"), ("version", kv_core::REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(proto);
    reply.bulk(b"id");
    reply.integer(i64::try_from(id).unwrap_or(i64::MAX));
    for (field, text) in fields {
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
        client.knows_cluster = false;
        (client.no_evict, client.no_touch) = (false, false);
        client.replies = Replies::Sent;
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
        client.knows_cluster = true;
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
    let sentinel = server.clients.get(key).is_some_and(|client| client.sentinel);
    match subcommand.as_slice() {
        b"pause" | b"unpause" | b"unblock" if sentinel => {
            return Err(CommandError::text("ERR only the data port's clients can be paused and blocked"));
        }
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
            clients::info(server, key);
        }
        b"list" => clients::list(server, key, args)?,
        b"kill" => {
            arity(args.len() >= 3)?;
            clients::kill(server, key, args)?;
        }
        b"pause" => {
            arity(args.len() == 3 || args.len() == 4)?;
            clients::pause(server, key, args)?;
        }
        b"unpause" => {
            arity(args.len() == 2)?;
            server.unpause_clients();
            server.reply(key).ok();
        }
        b"reply" => {
            arity(args.len() == 3)?;
            clients::replies(server, key, args)?;
        }
        b"unblock" => {
            arity(args.len() == 3 || args.len() == 4)?;
            clients::unblock(server, key, args)?;
        }
        b"help" => help::reply(&mut server.reply(key), args.len(), help::CLIENT)?,
        b"no-evict" | b"no-touch" => {
            arity(args.len() == 3)?;
            if !args.is(2, "on") && !args.is(2, "off") {
                return Err(CommandError::Syntax);
            }
            let on = args.is(2, "on");
            if let Some(client) = server.clients.get_mut(key) {
                match subcommand.as_slice() {
                    b"no-evict" => client.no_evict = on,
                    _ => client.no_touch = on,
                }
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
