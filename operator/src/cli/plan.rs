//! `kv-operator plan`.

use std::process::ExitCode;

use clap::Parser;

use super::Failure;

/// Show what would be done.
#[derive(Debug, Parser)]
pub struct Args {}

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(_args: Args) -> Result<ExitCode, Failure> {
    Err("not available in this build".into())
}
