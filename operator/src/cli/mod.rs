//! The command line: one file for each subcommand. Only arguments, output and exit codes belong here.

// They panic when nobody reads any more, as behind `| head`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod crd;
pub mod kubectl;
pub mod local;
pub mod plan;
mod receipts;
pub mod run;
mod switchover;

/// Runs replicated, sharded key-value clusters, on Kubernetes or as local processes.
#[derive(Debug, Parser)]
#[command(name = "kv-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator: reconcile the KvClusters of a Kubernetes cluster.
    Run(run::Args),
    /// Print the CustomResourceDefinition as YAML.
    Crd(crd::Args),
    /// Show what would be done for a KvCluster, without doing it.
    Plan(plan::Args),
    /// Run a cluster as processes of this machine, without Kubernetes.
    Local(local::Args),
}

/// Why a subcommand failed: a text for the user that names what failed and what to do.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the chosen subcommand; a failure makes the exit code 1.
pub async fn run(cli: Cli) -> ExitCode {
    outcome(match cli.command {
        Command::Run(args) => run::run(args).await,
        Command::Crd(args) => crd::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Local(args) => local::run(args).await,
    })
}

/// Prints a line, or several. Whoever closed the output does not want to read it, which is no failure.
///
/// # Errors
/// If it cannot be written for another reason, such as a disk that is full.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Tells a line beside the output.
fn note(text: &str) {
    // Where notes cannot be written, nobody can be told that either.
    let _ = writeln!(io::stderr(), "{text}");
}

/// The exit code of a program that did this. A failure goes to stderr with its causes.
pub fn outcome(outcome: Result<ExitCode, Failure>) -> ExitCode {
    outcome.unwrap_or_else(|failure| {
        let mut text = failure.to_string();
        let mut cause = failure.source();
        while let Some(next) = cause {
            let line = next.to_string();
            if !text.contains(&line) {
                text = format!("{text}: {line}");
            }
            cause = next.source();
        }
        note(&format!("error: {text}"));
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_lines_are_sound() {
        super::Cli::command().debug_assert();
        super::kubectl::Kubectl::command().debug_assert();
    }
}
