//! `kv-operator crd`.

use std::process::ExitCode;

use clap::Parser;

use super::Failure;
use crate::crd;

/// Print the CustomResourceDefinition as YAML.
#[derive(Debug, Parser)]
pub struct Args {}

/// Runs the subcommand.
///
/// # Errors
/// If the definition cannot be written as YAML.
pub async fn run(_args: Args) -> Result<ExitCode, Failure> {
    print!("{}", crd::definition_yaml()?);
    Ok(ExitCode::SUCCESS)
}
