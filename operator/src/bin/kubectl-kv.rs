//! The `kubectl kv` plugin.

use std::process::ExitCode;

use clap::Parser;
use kv_operator::cli::{kubectl, outcome};

#[tokio::main]
async fn main() -> ExitCode {
    outcome(kubectl::run(kubectl::Kubectl::parse()).await)
}
