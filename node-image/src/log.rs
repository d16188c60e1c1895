//! The node's log, in the form that tools of Redis read: `PID:ROLE DATE LEVEL TEXT`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much a line matters; the character is what stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// `.`
    Debug = 0,
    /// `-`
    Verbose = 1,
    /// `*`
    Notice = 2,
    /// `#`
    Warning = 3,
    /// Nothing is logged.
    Nothing = 4,
}

impl Level {
    /// The level of this name, as `loglevel` has it; `Notice` for any other.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "debug" => Self::Debug,
            "verbose" => Self::Verbose,
            "warning" => Self::Warning,
            "nothing" => Self::Nothing,
            _ => Self::Notice,
        }
    }

    fn mark(self) -> char {
        match self {
            Self::Debug => '.',
            Self::Verbose => '-',
            Self::Notice => '*',
            Self::Warning | Self::Nothing => '#',
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Notice as u8);
static ROLE: AtomicU8 = AtomicU8::new(b'M');
static SINK: Mutex<Option<Box<dyn Write + Send>>> = Mutex::new(None);

/// Lines below this level are dropped from now on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// The letter of the node's role in each line: M for a master, S for a replica.
pub fn set_role(letter: u8) {
    ROLE.store(letter, Ordering::Relaxed);
}

/// Appends to `file` from now on; stdout if it is empty.
///
/// # Errors
/// If the file cannot be opened.
pub fn open(file: &Path) -> io::Result<()> {
    let sink: Box<dyn Write + Send> = if file.as_os_str().is_empty() {
        Box::new(io::stdout())
    } else {
        Box::new(OpenOptions::new().create(true).append(true).open(file)?)
    };
    if let Ok(mut slot) = SINK.lock() {
        *slot = Some(sink);
    }
    Ok(())
}

/// Writes a line. A log that cannot be written is no reason to stop serving: the error is dropped.
pub fn write(level: Level, text: &str) {
    if (level as u8) < LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!(
        "{}:{} {} {} {}\n",
        std::process::id(),
        char::from(ROLE.load(Ordering::Relaxed)),
        date(now.as_secs(), now.subsec_millis()),
        level.mark(),
        text.replace(['\r', '\n'], " ")
    );
    if let Ok(mut sink) = SINK.lock() {
        let sink = sink.get_or_insert_with(|| Box::new(io::stdout()));
        let _ = sink.write_all(line.as_bytes());
        let _ = sink.flush();
    }
}

/// `22 Nov 2026 10:43:28.123`, in UTC. Civil date from days: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date(seconds: u64, millis: u32) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let name = usize::try_from(month - 1).ok().and_then(|i| MONTHS.get(i)).unwrap_or(&"");
    format!("{day:02} {name} {year} {:02}:{:02}:{:02}.{millis:03}", time / 3600, time / 60 % 60, time % 60)
}

/// Logs a line at level notice.
#[macro_export]
macro_rules! notice {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Notice, &format!($($arg)*)) };
}

/// Logs a line at level warning.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, &format!($($arg)*)) };
}

/// Logs a line at level verbose.
#[macro_export]
macro_rules! verbose {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Verbose, &format!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0, 0), "01 Jan 1970 00:00:00.000");
        assert_eq!(date(951_782_399, 7), "28 Feb 2000 23:59:59.007");
        assert_eq!(date(951_782_400, 0), "29 Feb 2000 00:00:00.000");
        assert_eq!(date(1_795_344_208, 0), "22 Nov 2026 10:43:28.000");
    }
}
