//! A real Redis for tests that ask whether it agrees with us. Needs `redis-server`, of the Debian package of this name.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; it ends with the test.
pub(crate) struct Redis {
    child: Child,
    stream: BufReader<TcpStream>,
}

impl Redis {
    /// Starts a server on the files of a directory and waits until it has loaded them; `None`, with a word about it, if
    /// there is no such program.
    pub fn start(dir: &Path, args: &[&str]) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--dir"]).arg(dir).args(args);
        let Ok(child) = command.stdout(Stdio::null()).spawn() else {
            eprintln!("skipped: there is no redis-server");
            return None;
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break BufReader::new(stream),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut redis = Self { child, stream };
        while redis.ask("PING") != "+PONG" {
            assert!(Instant::now() < deadline, "it does not end loading");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(redis)
    }

    /// The reply to a command: its line, or the text of a bulk string.
    pub fn ask(&mut self, command: &str) -> String {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut line = self.line();
        if line.starts_with('$') {
            line = self.line();
        }
        line
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Stops the server in order.
    pub fn stop(mut self) {
        self.stream.get_mut().write_all(b"SHUTDOWN NOSAVE\r\n").unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
