//! The Redis server that is compared with.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::commands::node::DATABASES;
use crate::commands::reply::Reply;

/// A `redis-server` process that ends with this value.
pub struct Redis {
    process: Child,
    stream: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the server");
        let socket = dir.path().join("redis.sock");
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--databases", &DATABASES.to_string()])
            .arg("--unixsocket")
            .arg(&socket)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed for this test (Debian: apt-get install redis-server)");
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    let _ = process.kill();
                    panic!("redis-server does not listen on its socket: {error}");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self { process, stream: BufReader::new(stream), _dir: dir }
    }

    pub fn execute(&mut self, argv: &[Vec<u8>]) -> Reply {
        let mut request = format!("*{}\r\n", argv.len()).into_bytes();
        for arg in argv {
            request.extend(format!("${}\r\n", arg.len()).into_bytes());
            request.extend(arg);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).expect("redis-server takes requests");
        Reply::read(&mut self.stream)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
