//! Connections on which every byte of a reply is seen, and scripts that are run on a node and on a real Redis.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Process;

pub struct Wire(BufReader<TcpStream>);

impl Wire {
    pub fn connect(server: &Process) -> Self {
        Self::to(server.port)
    }

    pub fn to(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The next reply or push: its lines, separated by spaces, without the lengths of strings.
    pub fn read(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        let kind = line.chars().next().unwrap_or_else(|| panic!("the connection was closed"));
        let len = line[1..].parse::<i64>().unwrap_or(0);
        match kind {
            '$' | '=' if len >= 0 => {
                let mut bytes = vec![0; len as usize + 2];
                self.0.read_exact(&mut bytes).unwrap();
                format!("\"{}\"", bytes[..len as usize].escape_ascii())
            }
            '*' | '>' | '~' | '%' if len >= 0 => {
                let count = if kind == '%' { len * 2 } else { len };
                let items: Vec<_> = (0..count).map(|_| self.read()).collect();
                format!("{kind}[{}]", items.join(" "))
            }
            _ => line,
        }
    }

    /// The snapshot that SYNC brings, if its length is said.
    pub fn read_snapshot(&mut self) -> Vec<u8> {
        let mut line = String::new();
        while line.trim_end().is_empty() {
            line.clear();
            self.0.read_line(&mut line).unwrap();
        }
        let mut bytes = vec![0; line.trim_end().strip_prefix('$').unwrap().parse().unwrap()];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn run(&mut self, line: &str) -> String {
        self.send(&line.split(' ').collect::<Vec<_>>());
        self.read()
    }

    /// Whether nothing has come from the server that was not read yet.
    pub fn is_silent(&mut self) -> bool {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let waits = self.0.fill_buf().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.0.get_ref().set_nonblocking(false).unwrap();
        waits
    }

    /// Whether the server closed the connection.
    pub fn is_closed(&mut self) -> bool {
        match self.0.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock, // it stayed open for as long as was waited
        }
    }
}

/// Runs a script: on each line the name of a client, and a command or `<` to read one more reply. Returns the lines with
/// the replies.
pub fn transcript(server: &Process, script: &str) -> Vec<String> {
    let mut clients = BTreeMap::new();
    let mut lines = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(' ').unwrap();
        let wire = clients.entry(name).or_insert_with(|| Wire::connect(server));
        let reply = if rest == "<" { wire.read() } else { wire.run(rest) };
        lines.push(format!("{line} -> {reply}"));
    }
    lines
}

/// Checks that a script gives the same on a real Redis and on a node.
pub fn compare(script: &str, args: &[&str]) {
    let (redis, node) = (Process::redis(args), Process::node(args));
    let (theirs, ours) = (transcript(&redis, script), transcript(&node, script));
    for index in 0..theirs.len() {
        let before = &theirs[index.saturating_sub(10)..index];
        assert_eq!(theirs[index], ours[index], "Redis is on the left; before that: {before:#?}");
    }
}
