//! Fills servers with data, in pipelines.

use crate::cluster::Result;

/// Commands that are sent before their replies are read.
const BATCH: usize = 1000;

/// The name of a key: 16 bytes, the same as the load generators'.
pub fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// A value of so many bytes that no server takes for a number.
pub fn value(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// What a server answers to INFO.
///
/// # Errors
/// If it does not answer.
pub fn info(connection: &mut redis::Connection, section: &str) -> Result<String> {
    Ok(redis::cmd("INFO").arg(section).query(connection)?)
}

/// Sends the commands that `command` gives for 0, 1, 2 ... `count` - 1.
///
/// # Errors
/// If one of them fails.
pub fn send(
    connection: &mut redis::Connection,
    count: usize,
    command: impl Fn(usize) -> redis::Cmd,
) -> Result<()> {
    for from in (0..count).step_by(BATCH) {
        let mut pipe = redis::pipe();
        for number in from..count.min(from + BATCH) {
            pipe.add_command(command(number)).ignore();
        }
        pipe.query::<()>(connection)?;
    }
    Ok(())
}

/// Sets the keys 0 to `count` - 1 to values of `bytes` bytes.
///
/// # Errors
/// If one of them fails.
pub fn set(connection: &mut redis::Connection, count: usize, bytes: usize) -> Result<()> {
    let value = value(bytes);
    send(connection, count, |number| {
        let mut command = redis::cmd("SET");
        command.arg(key(number)).arg(&value);
        command
    })
}
