//! Server commands: CONFIG, INFO, COMMAND, SHUTDOWN, SAVE, BGSAVE, BGREWRITEAOF, LASTSAVE, TIME, DEBUG.

use std::fmt::Write as _;

use kv_core::directive::{self, Change, DIRECTIVES, Directive, Effect, Kind, Value};

use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, help, info, introspect};
use crate::server::persistence::Bgsave;
use crate::server::{ClientKey, Ending, Server};

/// Not in a transaction: its changes of data are on their way to the append-only file as a whole, so that none may
/// begin, and no snapshot be made, in the middle of it.
const ALONE: Flags = Flags::ADMIN.union(Flags::NO_MULTI);
const ADMIN: Flags = ALONE.union(Flags::LOADING).union(Flags::STALE);
const OPEN: Flags = Flags::LOADING.union(Flags::STALE);

/// The part of the command table that is about the server.
pub const COMMANDS: &[CommandSpec] = &[
    row(
        Group::Server,
        "config",
        -2,
        ADMIN,
        "2.0.0",
        "A container for server configuration commands.",
        config,
    ),
    row(
        Group::Server,
        "info",
        -1,
        OPEN,
        "1.0.0",
        "Returns information and statistics about the server.",
        info::info,
    ),
    row(
        Group::Server,
        "command",
        -1,
        OPEN,
        "2.8.13",
        "Returns detailed information about all commands.",
        introspect::command,
    ),
    row(
        Group::Server,
        "shutdown",
        -1,
        ADMIN,
        "1.0.0",
        "Synchronously saves the database(s) to disk and shuts down the Redis server.",
        shutdown,
    ),
    row(Group::Server, "save", 1, ALONE, "1.0.0", "Synchronously saves the database(s) to disk.", save),
    row(Group::Server, "bgsave", -1, ALONE, "1.0.0", "Asynchronously saves the database(s) to disk.", bgsave),
    row(
        Group::Server,
        "bgrewriteaof",
        1,
        ALONE,
        "1.0.0",
        "Asynchronously rewrites the append-only file to disk.",
        bgrewriteaof,
    ),
    row(
        Group::Server,
        "lastsave",
        1,
        OPEN,
        "1.0.0",
        "Returns the Unix timestamp of the last successful save to disk.",
        lastsave,
    ),
    row(Group::Server, "time", 1, OPEN.union(Flags::FAST), "2.6.0", "Returns the server time.", time),
];

fn config(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    match args.at(1).to_ascii_lowercase().as_slice() {
        b"get" if args.len() >= 3 => get(server, key, args),
        b"set" if args.len() >= 4 && args.len().is_multiple_of(2) => {
            let mut pairs = Vec::new();
            for index in (2..args.len()).step_by(2) {
                pairs.push((args.text(index)?, args.text(index + 1)?));
            }
            set_by_user(server, &pairs)?;
            server.reply(key).ok();
            Ok(())
        }
        b"resetstat" if args.len() == 2 => {
            server.stats.reset();
            server.keyspace.reset_lazyfreed();
            server.persistence.reset_stats();
            server.reply(key).ok();
            Ok(())
        }
        b"help" => help::reply(&mut server.reply(key), args.len(), help::CONFIG),
        b"rewrite" => Err(CommandError::text(
            "ERR CONFIG REWRITE is not supported: change the configuration file, or the KvCluster's spec.config",
        )),
        b"get" | b"set" | b"resetstat" => {
            let name = String::from_utf8_lossy(args.at(1)).to_lowercase();
            Err(CommandError::Arity(format!("config|{name}")))
        }
        other => {
            let other = String::from_utf8_lossy(other).into_owned();
            Err(CommandError::text(format!("ERR unknown subcommand '{other}'. Try CONFIG HELP.")))
        }
    }
}

fn get(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let mut found: Vec<(&str, String)> = Vec::new();
    for directive in DIRECTIVES {
        for name in std::iter::once(&directive.name).chain(directive.aliases) {
            let wanted =
                |pattern: &&[u8]| super::glob::glob_match(&pattern.to_ascii_lowercase(), name.as_bytes());
            // An alias is shown only to whoever asks for it by name.
            let exact = args.from(2).iter().any(|pattern| pattern.eq_ignore_ascii_case(name.as_bytes()));
            if exact || (*name == directive.name && args.from(2).iter().any(wanted)) {
                // What the operator gave a node to log in elsewhere is not for its clients.
                let hidden = directive.name == "masterauth" && server.routing.is_managed();
                let value = server.config.settings.get(directive.name).map(ToString::to_string);
                let value = value.filter(|_| !hidden);
                found.push((name, value.unwrap_or_default()));
            }
        }
    }
    let mut reply = server.reply(key);
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn set_by_user(server: &mut Server, pairs: &[(&str, &str)]) -> CommandResult {
    let managed = server.routing.is_managed();
    for (name, _) in pairs {
        let owned = directive::lookup(name).is_some_and(|d| d.set_by == directive::SetBy::Operator);
        if managed && owned {
            return Err(failed(name, "it is set by the operator of this node's KvCluster"));
        }
    }
    set_directives(server, pairs.iter().copied())?;
    let given = |name: &str| directive::lookup(name).is_some_and(|d| server.given.contains_key(d.name));
    if pairs.iter().any(|(name, _)| given(name)) {
        // What this node was given is not what it has any more: its operator gives it again.
        server.config_digest.clear();
    }
    Ok(())
}

fn failed(name: &str, why: &str) -> CommandError {
    CommandError::text(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

/// Sets directives: all of them or, if one is wrong, none.
///
/// # Errors
/// If a directive is unknown, cannot be changed at run time, or its value is wrong.
pub(crate) fn set_directives<'a>(
    server: &mut Server,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> CommandResult {
    let mut changes: Vec<(&'static Directive, Value)> = Vec::new();
    for (name, text) in pairs {
        let directive = directive::lookup(name).ok_or_else(|| {
            CommandError::text(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
        })?;
        let value = directive::parse_value(directive, &[text])
            .map_err(|problem| failed(name, &problem.to_string()))?;
        if server.config.settings.get(directive.name) == Some(&value) {
            continue;
        }
        if directive.change != Change::Live {
            return Err(failed(name, "can't set immutable config"));
        }
        if changes.iter().any(|(known, _)| known.name == directive.name) {
            return Err(failed(name, "duplicate parameter"));
        }
        changes.push((directive, value));
    }
    for (directive, value) in changes {
        let shown = if directive.kind == Kind::Secret { "(hidden)".to_owned() } else { value.to_string() };
        let nothing = if directive.effect == Effect::None { ", which has no effect" } else { "" };
        crate::notice!("Directive {} is now {shown}{nothing}", directive.name);
        server.config.settings.set(directive, value);
    }
    server.apply_settings();
    Ok(())
}

fn shutdown(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let (mut save, mut force, mut now, mut abort) = (None, false, false, false);
    for index in 1..args.len() {
        match args.at(index).to_ascii_lowercase().as_slice() {
            b"save" => save = Some(true),
            b"nosave" => save = Some(false),
            b"now" => now = true,
            b"force" => force = true,
            b"abort" if args.len() == 2 => abort = true,
            _ => return Err(CommandError::Syntax),
        }
    }
    if abort {
        if !server.abort_ending() {
            return Err(CommandError::text("ERR No shutdown in progress."));
        }
        server.reply(key).ok();
        return Ok(());
    }
    crate::notice!("User requested shutdown...");
    if server.may_drain() && !now {
        if server.drain(save).is_err() && !force {
            server.abort_ending();
            return Err(CommandError::text("ERR Errors trying to SHUTDOWN. Check logs."));
        }
        return Ok(());
    }
    if server.save_at_the_end(save).is_err() && !force {
        return Err(CommandError::text("ERR Errors trying to SHUTDOWN. Check logs."));
    }
    server.ending = Ending::Now { save: Some(false) };
    Ok(())
}

fn save(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    if server.is_saving() {
        return Err(CommandError::text(IN_PROGRESS));
    }
    server.save_now().map_err(|error| CommandError::text(format!("ERR {error}")))?;
    server.reply(key).ok();
    Ok(())
}

const IN_PROGRESS: &str = "ERR Background save already in progress";

/// `BGSAVE [SCHEDULE | CANCEL]`
fn bgsave(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let scheduled = args.len() == 2 && args.is(1, "schedule");
    if args.len() == 2 && args.is(1, "cancel") {
        const NOTHING: &str = "ERR Background saving is currently not in progress or scheduled";
        let cancelled = server.cancel_bgsave().ok_or(CommandError::text(NOTHING))?;
        server.reply(key).simple(cancelled);
        return Ok(());
    }
    if args.len() > 2 || (args.len() == 2 && !scheduled) {
        return Err(CommandError::Syntax);
    }
    match server.start_bgsave().map_err(|error| CommandError::text(format!("ERR {error}")))? {
        Bgsave::Started => server.reply(key).simple("Background saving started"),
        Bgsave::Running => return Err(CommandError::text(IN_PROGRESS)),
        Bgsave::Busy if scheduled => {
            server.schedule_bgsave();
            server.reply(key).simple("Background saving scheduled");
        }
        Bgsave::Busy => {
            return Err(CommandError::text(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to \
                 schedule a BGSAVE whenever possible.",
            ));
        }
    }
    Ok(())
}

fn bgrewriteaof(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    server.start_rewrite().map_err(|error| CommandError::text(format!("ERR {error}")))?;
    server.reply(key).simple("Background append only file rewriting started");
    Ok(())
}

fn lastsave(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    let seconds = server.last_save_unix();
    server.reply(key).integer(i64::try_from(seconds).unwrap_or(i64::MAX));
    Ok(())
}

fn time(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut reply = server.reply(key);
    reply.array(2);
    for number in [now.as_secs(), u64::from(now.subsec_micros())] {
        let mut text = String::new();
        let _ = write!(text, "{number}");
        reply.bulk(text.as_bytes());
    }
    Ok(())
}
