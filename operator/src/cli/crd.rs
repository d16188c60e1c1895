//! `kv-operator crd`.

use std::process::ExitCode;

use clap::Parser;

use super::Failure;
use crate::crd;

/// Print the CustomResourceDefinition as YAML.
#[derive(Debug, Parser)]
pub struct Args {
    /// Print it as a template of the Helm chart.
    #[arg(long)]
    template: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// If the definition cannot be written as YAML.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let text = if args.template { crd::definition_template()? } else { crd::definition_yaml()? };
    super::print(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
