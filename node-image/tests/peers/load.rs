//! Data in bulk, and writes without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{Connection, Pipeline};

use crate::support::content::{DATABASES, LATER};

/// So many keys of all types, some of them with a time to live.
pub fn bulk(connection: &mut Connection, count: usize) {
    for start in (0..count).step_by(1000) {
        let mut pipe = redis::pipe();
        for index in start..count.min(start + 1000) {
            let (key, text) = (format!("bulk:{index}"), format!("value-{index:x}").repeat(1 + index % 7));
            match index % 10 {
                0 => pipe.cmd("RPUSH").arg(&key).arg(&text).arg(index).arg("c"),
                1 => pipe.cmd("SADD").arg(&key).arg(index).arg(index / 3),
                2 => pipe.cmd("SADD").arg(&key).arg(&text).arg("b"),
                3 => pipe.cmd("HSET").arg(&key).arg("field").arg(&text).arg("n").arg(index),
                4 => pipe.cmd("ZADD").arg(&key).arg(index as f64 / 3.0).arg(&text).arg(-1).arg("low"),
                5 => pipe.cmd("SET").arg(&key).arg(index),
                6 => pipe.cmd("SET").arg(&key).arg(&text).arg("PXAT").arg(LATER),
                _ => pipe.cmd("SET").arg(&key).arg(&text),
            };
        }
        let () = pipe.query(connection).unwrap();
    }
}

/// A client that writes without end. While nobody takes its writes it tries again.
pub struct Load {
    written: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub fn start(port: u16, seed: u64) -> Self {
        let (written, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let random = fastrand::Rng::with_seed(seed);
        let mut writer = Writer { port, written: Arc::clone(&written), ended: Arc::clone(&ended), random };
        Self { written, ended, thread: Some(thread::spawn(move || writer.run())) }
    }

    /// How many commands were written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    pub fn stop(mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

struct Writer {
    port: u16,
    written: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    random: fastrand::Rng,
}

impl Writer {
    fn run(&mut self) {
        while !self.ended.load(Ordering::SeqCst) {
            let _ = self.write_on();
            thread::sleep(Duration::from_millis(5)); // between two attempts
        }
    }

    fn write_on(&mut self) -> redis::RedisResult<()> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        while !self.ended.load(Ordering::SeqCst) {
            let mut pipe = redis::pipe();
            pipe.cmd("SELECT").arg(DATABASES[self.random.usize(..2)]).ignore();
            let whole = self.random.bool();
            if whole {
                pipe.atomic();
            }
            let count = self.random.usize(1..20);
            (0..count).for_each(|_| self.add(&mut pipe));
            let () = pipe.query(&mut connection)?;
            self.written.fetch_add(count as u64, Ordering::SeqCst);
            thread::sleep(Duration::from_micros(500)); // the tests share few cores
        }
        Ok(())
    }

    /// One command. Each type has keys of its own, so that none fails.
    fn add(&mut self, pipe: &mut Pipeline) {
        let (number, member) = (self.random.i64(-1000..1000), self.random.u32(..300));
        let key = |kind: &str| format!("load:{kind}:{}", member % 7);
        match self.random.u32(..24) {
            0 => pipe.cmd("SET").arg(key("s")).arg(number),
            1 => pipe.cmd("INCRBY").arg(key("n")).arg(number),
            2 => pipe.cmd("INCRBYFLOAT").arg(key("f")).arg(0.1),
            3 => pipe.cmd("APPEND").arg(key("a")).arg("text"),
            4 => pipe.cmd("SETRANGE").arg(key("a")).arg(member).arg("x"),
            5 => pipe.cmd("SET").arg(key("e")).arg(number).arg("PX").arg(1 + member % 20),
            6 => pipe.cmd("GETEX").arg(key("s")).arg("EX").arg(5000 + member),
            7 => pipe.cmd("RPUSH").arg(key("l")).arg(number).arg("element"),
            8 => pipe.cmd("LPOP").arg(key("l")).arg(1 + member % 3),
            9 => pipe.cmd("LTRIM").arg(key("l")).arg(-50).arg(-1),
            10 => pipe.cmd("LINSERT").arg(key("l")).arg("BEFORE").arg("element").arg(member),
            11 => pipe.cmd("SADD").arg(key("u")).arg(member).arg(number),
            12 => pipe.cmd("SPOP").arg(key("u")).arg(1 + member % 3),
            13 => pipe.cmd("SUNIONSTORE").arg("load:u:union").arg(key("u")).arg("load:u:1"),
            14 => pipe.cmd("HSET").arg(key("h")).arg(member).arg(number).arg("f").arg(member),
            15 => pipe.cmd("HINCRBYFLOAT").arg(key("h")).arg("sum").arg(0.25),
            16 => pipe.cmd("HDEL").arg(key("h")).arg(member).arg("f"),
            17 => pipe.cmd("ZADD").arg(key("z")).arg(number as f64 / 8.0).arg(member),
            18 => pipe.cmd("ZINCRBY").arg(key("z")).arg(0.1).arg(member),
            19 => pipe.cmd("ZPOPMIN").arg(key("z")),
            20 => pipe.cmd("ZRANGESTORE").arg("load:z:range").arg(key("z")).arg(0).arg(20),
            21 => pipe.cmd("PEXPIRE").arg(key("z")).arg(member % 30),
            22 => pipe.cmd("UNLINK").arg(format!(
                "load:{}:{}",
                ["s", "l", "u", "h"][member as usize % 4],
                member % 7
            )),
            _ => pipe.cmd("LMOVE").arg(key("l")).arg("load:l:moved").arg("LEFT").arg("RIGHT"),
        };
        pipe.ignore();
    }
}
