//! The `kv-node` program.

use std::process::ExitCode;

use kv_node::config::{self, CommandLine};
use kv_node::server::{LoadError, Server, StartError};

const HELP: &str = "\
kv-node, a server that speaks the Redis protocol

Usage: kv-node [CONFIG-FILE] [--DIRECTIVE VALUE ...]
       kv-node --version
       kv-node --help

CONFIG-FILE has the syntax and the directives of redis.conf. A directive on the
command line wins over the file:

    kv-node --port 7000 --dir /var/lib/kv --appendonly yes
    kv-node kv.conf --replicaof 10.0.0.1 6379 --loglevel verbose

The directives, with their defaults:
";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match config::parse(&args) {
        Ok(CommandLine::Version) => {
            println!(
                "kv-node server v={} sha=00000000:0 malloc=libc bits={} build=kv-{}",
                kv_core::REDIS_VERSION,
                usize::BITS,
                kv_core::VERSION
            );
            ExitCode::SUCCESS
        }
        Ok(CommandLine::Help) => {
            print!("{HELP}");
            for directive in kv_core::directive::DIRECTIVES {
                println!("  {:<34} {:<24} {}", directive.name, directive.default, directive.help);
            }
            ExitCode::SUCCESS
        }
        Ok(CommandLine::Run(config)) => run(*config),
        Err(error) => fail(&error),
    }
}

fn run(config: config::Config) -> ExitCode {
    let mut server = match Server::start(config) {
        Ok(server) => server,
        Err(StartError::Load(LoadError::Stopped)) => return ExitCode::SUCCESS,
        Err(error) => return fail(&error),
    };
    match server.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}
