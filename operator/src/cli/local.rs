//! `kv-operator local`.

use std::process::ExitCode;

use clap::Parser;

use super::Failure;

/// Run a cluster as local processes.
#[derive(Debug, Parser)]
pub struct Args {}

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(_args: Args) -> Result<ExitCode, Failure> {
    Err("not available in this build".into())
}
