//! Writes the seeds of each fuzzer to `corpus/FUZZER/` in the directory that is named.

use std::path::Path;

use kv_node_fuzz::checks::{aof, commands, rdb, resp};

fn main() -> std::io::Result<()> {
    let dir = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    for (fuzzer, seeds) in [
        ("resp", resp::seeds()),
        ("rdb", rdb::seeds()),
        ("aof", aof::seeds()),
        ("commands", commands::seeds()),
    ] {
        let dir = Path::new(&dir).join("corpus").join(fuzzer);
        std::fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
