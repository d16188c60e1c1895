//! The `kv-operator` program: one subcommand for each way to run the planner.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    kv_operator::cli::run(kv_operator::cli::Cli::parse()).await
}
