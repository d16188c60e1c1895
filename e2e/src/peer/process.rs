//! What the kernel tells of a process.

use std::fs;

use crate::cluster::{Error, Result};

/// Ticks in a second of the times in /proc/PID/stat: Linux has fixed what user space sees of them.
const TICKS: f64 = 100.0;

/// Seconds of processor time, of all threads in user and kernel mode.
///
/// # Errors
/// If there is no such process.
pub fn cpu_s(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    cpu_ticks(&text).map(|ticks| ticks as f64 / TICKS).ok_or_else(|| unreadable(pid, "stat"))
}

/// Resident bytes.
///
/// # Errors
/// If there is no such process.
pub fn rss(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&text, "VmRSS").map(|kb| kb * 1024.0).ok_or_else(|| unreadable(pid, "status"))
}

/// Bytes of a process and its children together, in which a page that they share counts once. Children may end
/// meanwhile. Without children it is the resident size, which costs the process nothing to tell.
///
/// # Errors
/// If there is no such process.
pub fn family_memory(pid: u32) -> Result<f64> {
    let children = children(pid)?;
    if children.is_empty() {
        return rss(pid);
    }
    let pss = |pid: u32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        kilobytes(&text, "Pss").map(|kb| kb * 1024.0)
    };
    let own = pss(pid).ok_or_else(|| unreadable(pid, "smaps_rollup"))?;
    Ok(own + children.into_iter().filter_map(pss).sum::<f64>())
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(all)
}

fn unreadable(pid: u32, file: &str) -> Error {
    Error::Unexpected(format!("cannot make sense of /proc/{pid}/{file}"))
}

/// utime + stime of /proc/PID/stat. The name, the second field, may contain spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    user.checked_add(kernel)
}

/// The value of a line `FIELD:  N kB`.
fn kilobytes(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20 0 4";
        assert_eq!(cpu_ticks(&format!("42 (kv-node) {rest}")), Some(154));
        assert_eq!(cpu_ticks(&format!("42 (a) S (b) {rest}")), Some(154));
        assert_eq!(cpu_ticks("42 (kv-node) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn a_field_is_not_taken_for_another_that_begins_like_it() {
        let text = "Rss:  100 kB\nPss_Dirty:   7 kB\nPss:      64 kB\n";
        assert_eq!(kilobytes(text, "Pss"), Some(64.0));
        assert_eq!(kilobytes(text, "VmRSS"), None);
    }

    #[test]
    fn this_process_has_memory_and_has_used_time() {
        let me = std::process::id();
        assert!(rss(me).unwrap() > 100_000.0);
        assert!(cpu_s(me).unwrap() >= 0.0);
        assert!(family_memory(me).unwrap() > 100_000.0);
    }
}
