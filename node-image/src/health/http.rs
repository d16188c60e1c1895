//! As much of HTTP/1.1 as probes and Prometheus need: one GET or HEAD a connection. What anybody may cost is bounded.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::warning;

/// Connections at one time, each with a thread. One more has the oldest closed: whoever says nothing holds up no probe.
const MOST_CONNECTIONS: usize = 16;

/// Bytes of a request, with its headers.
const MOST_REQUEST: usize = 8 * 1024;

/// How long a request may take to arrive, from its first byte to its last.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer may take to leave.
const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// How long is waited after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(20);

/// How long what is refused is read on, so that the other end gets the answer before the end.
const LINGER: Duration = Duration::from_millis(200);

/// Answers what comes to `listener`, from now on; `answer` gets a path, without its query, and returns status and text.
///
/// # Errors
/// If there can be no thread for it.
pub(super) fn serve(
    listener: TcpListener,
    answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
) -> io::Result<()> {
    let answer = Arc::new(answer);
    thread::Builder::new().name("kv-health".into()).spawn(move || {
        let mut open = VecDeque::new();
        let mut failing = false;
        loop {
            let taken = listener.accept().and_then(|(stream, _)| begin(stream, &answer, &mut open));
            // For want of files or threads it fails at once, and again and again; it passes.
            if let Err(error) = &taken {
                if !failing {
                    warning!("Cannot take a connection to the health port: {error}; going on to try");
                }
                thread::sleep(PAUSE);
            }
            failing = taken.is_err();
        }
    })?;
    Ok(())
}

/// Has a thread answer what comes on a new connection.
fn begin<A>(stream: TcpStream, answer: &Arc<A>, open: &mut VecDeque<Weak<TcpStream>>) -> io::Result<()>
where
    A: Fn(&str) -> (u16, String) + Send + Sync + 'static,
{
    open.retain(|stream| stream.strong_count() > 0);
    while open.len() >= MOST_CONNECTIONS {
        // Its thread wakes, and ends.
        if let Some(oldest) = open.pop_front().and_then(|stream| stream.upgrade()) {
            let _ = oldest.shutdown(Shutdown::Both);
        }
    }
    let (stream, answer) = (Arc::new(stream), Arc::clone(answer));
    open.push_back(Arc::downgrade(&stream));
    thread::Builder::new().name("kv-health-one".into()).spawn(move || {
        // Whoever asked may have gone.
        let _ = converse(&stream, &*answer);
    })?;
    Ok(())
}

fn converse(stream: &TcpStream, answer: &dyn Fn(&str) -> (u16, String)) -> io::Result<()> {
    let request = read_head(stream)?;
    let mut words = request.split(|byte| *byte == b' ' || *byte == b'\r' || *byte == b'\n');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (code, text) = match (method, std::str::from_utf8(path)) {
        _ if !is_whole(&request) => (431, "the request is too large\n".to_owned()),
        (b"GET" | b"HEAD", Ok(path)) => answer(path),
        (b"GET" | b"HEAD", Err(_)) => (400, "the path is no text\n".to_owned()),
        _ => (405, "only GET\n".to_owned()),
    };
    let mut reply = format!(
        "HTTP/1.1 {code} {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        reason(code),
        text.len()
    );
    if method != b"HEAD" {
        reply.push_str(&text);
    }
    write_within(stream, reply.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    linger(stream);
    Ok(())
}

/// Reads up to the empty line, or as much as a request may be.
fn read_head(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let until = Instant::now() + READ_WITHIN;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !is_whole(&request) && request.len() < MOST_REQUEST {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => request.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(request)
}

fn is_whole(request: &[u8]) -> bool {
    request.windows(4).any(|bytes| bytes == b"\r\n\r\n")
}

/// Each write may take a part of the time only, so that who reads byte by byte does not stay.
fn write_within(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let until = Instant::now() + WRITE_WITHIN;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is still on its way: closing a socket with unread bytes takes the answer away from who sent them.
fn linger(mut stream: &TcpStream) {
    let until = Instant::now() + LINGER;
    let mut piece = [0; 1024];
    while let Ok(left) = left(until) {
        if stream.set_read_timeout(Some(left)).is_err() || !matches!(stream.read(&mut piece), Ok(1..)) {
            return;
        }
    }
}

/// The time that is left.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, |path| (if path == "/a" { 200 } else { 404 }, format!("{path}\n"))).unwrap();
        address
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn what_is_asked_is_answered_and_the_connection_closed() {
        let address = server();
        let reply = ask(address, "GET /a?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("\r\nContent-Length: 3\r\n") && reply.ends_with("\r\n\r\n/a\n"), "{reply}");
        assert!(ask(address, "GET /b HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
        let head = ask(address, "HEAD /a HTTP/1.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(address, "POST /a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    }

    #[test]
    fn many_that_say_nothing_hold_up_nobody_and_are_closed() {
        let address = server();
        let mut silent: Vec<_> = (0..3 * MOST_CONNECTIONS).map(|_| connect(address)).collect();
        assert!(ask(address, "GET /a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
        for stream in &mut silent {
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "it is answered");
        }
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let address = server();
        let mut stream = connect(address);
        stream.write_all(b"GET /a HTTP/1.1\r\nX: ").unwrap();
        let piece = [b'x'; 1024];
        // It is closed long before that.
        let sent = (0..100_000).take_while(|_| stream.write_all(&piece).is_ok()).count();
        assert!(sent < 100_000, "all of it was read");
        assert!(ask(address, "GET /a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn the_largest_request_gets_an_answer_that_says_so() {
        let reply = ask(server(), &format!("GET /a HTTP/1.1\r\nX: {}", "x".repeat(MOST_REQUEST)));
        assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    }
}
