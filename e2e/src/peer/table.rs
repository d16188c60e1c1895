//! The report: what was measured, as Markdown, and its place in a document.

use std::fmt::Write as _;

use super::stats::{Spread, ratio};

/// What begins the section in a document that this module replaces.
const BEGIN: &str = "<!-- `make bench` writes from here -->";
/// What ends it.
const END: &str = "<!-- to here -->";

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests per second.
    PerSecond,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Millions of bytes.
    Megabytes,
    /// Parts of a hundred.
    Percent,
}

impl Unit {
    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Percent)
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{:.0}k/s", value / 1000.0),
            Self::Micros => format!("{value:.2} µs"),
            Self::Millis => format!("{value:.1} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Bytes => format!("{value:.1} B"),
            Self::Megabytes => format!("{value:.0} MB"),
            Self::Percent => format!("{value:.0} %"),
        }
    }
}

/// What a row should come to at least, or at most, as its unit has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// So many times the peer's.
    Ratio(f64),
    /// This value.
    Value(f64),
    /// It is there to understand another row by.
    None,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is measured.
    pub name: String,
    unit: Unit,
    goal: Goal,
}

impl Row {
    /// A row.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: Unit, goal: Goal) -> Self {
        Self { name: name.into(), unit, goal }
    }

    fn goal(&self) -> String {
        let sign = if self.unit.more_is_better() { '≥' } else { '≤' };
        match self.goal {
            Goal::Ratio(goal) => format!("{sign} {}", times(goal)),
            Goal::Value(goal) => format!("{sign} {}", self.unit.show(goal)),
            Goal::None => String::new(),
        }
    }

    fn reached(&self, ours: f64, ratio: Option<f64>) -> &'static str {
        let (got, goal) = match self.goal {
            Goal::Ratio(goal) => (ratio, goal),
            Goal::Value(goal) => (Some(ours), goal),
            Goal::None => (None, 0.0),
        };
        match got {
            Some(got) if got == goal || (got > goal) == self.unit.more_is_better() => "yes",
            Some(_) => "no",
            None => "",
        }
    }
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

/// A row with what was measured of it, a value for each run.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The row.
    pub row: Row,
    /// Of our node.
    pub ours: Vec<f64>,
    /// Of the peer.
    pub peer: Vec<f64>,
}

impl Measured {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(row: Row) -> Self {
        Self { row, ours: Vec::new(), peer: Vec::new() }
    }

    fn ratio(&self) -> Option<f64> {
        ratio(Spread::of(&self.ours).median, Spread::of(&self.peer).median)
    }

    fn cell(&self, values: &[f64]) -> String {
        let spread = Spread::of(values);
        let median = self.row.unit.show(spread.median);
        match values.len() {
            0 | 1 => median,
            _ => {
                format!("{median} ({} to {})", self.row.unit.show(spread.min), self.row.unit.show(spread.max))
            }
        }
    }

    /// Its line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let (row, ratio) = (&self.row, self.ratio());
        format!(
            "| {} | {} | {} | {} | {} | {} |",
            row.name,
            self.cell(&self.ours),
            self.cell(&self.peer),
            ratio.map(times).unwrap_or_default(),
            row.goal(),
            row.reached(Spread::of(&self.ours).median, ratio),
        )
    }
}

/// The section of the document: on which machine what was measured, and the table.
#[must_use]
pub fn section(machine: &str, ours: &str, peer: &str, measured: &[Measured]) -> String {
    let runs = measured.iter().map(|one| one.ours.len());
    let (least, most) = (runs.clone().min().unwrap_or(0), runs.max().unwrap_or(0));
    let runs = if least == most { format!("{most}") } else { format!("{least} to {most}") };
    let mut text = format!(
        "## Engine against {}\n\n\
         One server process on core {}, its clients on core {}, of {machine}. {ours} and {peer} in turns, \
         runs of each row: {runs}. Median (smallest to largest), and how many times the peer's ours is. \
         Both are optimised builds, and write nothing to disk but the snapshots. Throughput: {} connections, 64-byte values, 100,000 keys; \
         collections: elements of 8 bytes into one. The CPU time is what the server used for a request; where the \
         client's core is the limit, it tells more than the rate.\n\n\
         | | {ours} | {peer} | ratio | goal | reached |\n|---|---|---|---|---|---|\n",
        peer.split(' ').next().unwrap_or(peer),
        super::SERVER_CORE,
        super::CLIENT_CORE,
        super::throughput::CONNECTIONS,
    );
    for one in measured {
        let _ = writeln!(text, "{}", one.line());
    }
    text.push_str("\nTo repeat it: `make bench`.\n");
    text
}

/// `document` with `section` in the place of the marked one.
///
/// # Errors
/// If nothing is marked; the text says so.
pub fn replace(document: &str, section: &str) -> Result<String, String> {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("there is no section between {BEGIN} and {END}"))?;
    Ok(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

/// This machine in a few words.
#[must_use]
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    describe(&cpu, &memory)
}

fn describe(cpu: &str, memory: &str) -> String {
    let value = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    let model = value(cpu, "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kb = value(memory, "MemTotal").and_then(|text| text.strip_suffix("kB")?.trim().parse::<f64>().ok());
    let virtual_machine = if cpu.contains("hypervisor") { ", virtual" } else { "" };
    format!("{model} ({cores} cores{virtual_machine}, {:.0} GiB)", kb.unwrap_or(0.0) / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(unit: Unit, goal: Goal, ours: &[f64], peer: &[f64]) -> String {
        Measured { row: Row::new("x", unit, goal), ours: ours.to_vec(), peer: peer.to_vec() }.line()
    }

    #[test]
    fn lines_show_medians_spread_ratio_and_goal() {
        assert_eq!(
            measured(Unit::PerSecond, Goal::Ratio(1.3), &[3e6, 2e6, 1e6], &[1e6, 1e6, 2e6]),
            "| x | 2000k/s (1000k/s to 3000k/s) | 1000k/s (1000k/s to 2000k/s) | 2.00 × | ≥ 1.30 × | yes |"
        );
        assert_eq!(
            measured(Unit::Bytes, Goal::Value(51.0), &[51.5], &[65.0]),
            "| x | 51.5 B | 65.0 B | 0.79 × | ≤ 51.0 B | no |"
        );
        assert_eq!(measured(Unit::Millis, Goal::None, &[1.0], &[0.0]), "| x | 1.0 ms | 0.0 ms |  |  |  |");
    }

    #[test]
    fn a_goal_is_reached_on_its_better_side() {
        let reached = |unit, goal, ours: f64| Row::new("x", unit, goal).reached(ours, ratio(ours, 2.0));
        assert_eq!(reached(Unit::PerSecond, Goal::Ratio(1.5), 3.0), "yes");
        assert_eq!(reached(Unit::PerSecond, Goal::Ratio(1.5), 2.9), "no");
        assert_eq!(reached(Unit::Micros, Goal::Ratio(1.5), 3.0), "yes");
        assert_eq!(reached(Unit::Micros, Goal::Ratio(1.5), 3.1), "no");
        assert_eq!(reached(Unit::Megabytes, Goal::Value(150.0), 149.0), "yes");
        assert_eq!(reached(Unit::Percent, Goal::Value(90.0), 89.0), "no");
        assert_eq!(reached(Unit::Percent, Goal::None, 89.0), "");
    }

    #[test]
    fn a_section_replaces_the_marked_one_and_nothing_else() {
        let document = format!("before\n\n{BEGIN}\nold\n{END}\n\nafter\n");
        let replaced = replace(&document, "new\n").unwrap();
        assert_eq!(replaced, format!("before\n\n{BEGIN}\nnew\n{END}\n\nafter\n"));
        assert_eq!(replace(&replaced, "new\n").unwrap(), replaced);
        assert!(replace("before", "new").unwrap_err().contains(BEGIN));
        assert!(replace(&format!("{END}\n{BEGIN}\n"), "new").is_err());
    }

    #[test]
    fn a_machine_is_its_processor_cores_and_memory() {
        let cpu =
            "processor\t: 0\nmodel name\t: EPYC\nflags: hypervisor\nprocessor\t: 1\nmodel name\t: EPYC\n";
        let memory = "MemTotal:       25165824 kB\n";
        assert_eq!(describe(cpu, memory), "EPYC (2 cores, virtual, 24 GiB)");
    }
}
