//! A network that can be cut: what connects to it is passed on to a server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Passes connections on to a port of this machine, as long as it is not cut.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    /// How long each piece is under way.
    delay: Duration,
    cut: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn close_all(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn pass_on(&self, client: TcpStream) {
        // Under the lock: a cut closes all that was let through before it.
        let mut open = self.open.lock().unwrap();
        let cut = self.cut.load(Ordering::SeqCst);
        let (false, Ok(server)) = (cut, TcpStream::connect(("127.0.0.1", self.target))) else {
            return drop(client.shutdown(Shutdown::Both));
        };
        for (from, to) in [(&client, &server), (&server, &client)] {
            let delay = self.delay;
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    thread::sleep(delay);
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        open.extend([client, server]);
    }
}

impl Proxy {
    pub fn new(target: u16) -> Self {
        Self::slow(target, Duration::ZERO)
    }

    /// A network on which everything is under way for a while.
    pub fn slow(target: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target,
            delay,
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let passing = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if passing.ended.load(Ordering::SeqCst) {
                    return;
                }
                passing.pass_on(client);
            }
        });
        Self { port, shared }
    }

    pub fn port_text(&self) -> String {
        self.port.to_string()
    }

    /// Closes every connection, and lets none through from now on.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.close_all();
    }

    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // it waits for one
    }
}
