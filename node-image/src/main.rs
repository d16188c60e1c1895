//! The `kv-node` program.

use std::fmt::Write as _;
use std::io::{self, Write as _};
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
        Ok(CommandLine::Version) => tell(&format!(
            "kv-node server v={} sha=00000000:0 malloc=libc bits={} build=kv-{}\n",
            kv_core::REDIS_VERSION,
            usize::BITS,
            kv_core::VERSION
        )),
        Ok(CommandLine::Help) => {
            let mut text = HELP.to_owned();
            for directive in kv_core::directive::DIRECTIVES {
                // Writing to a String cannot fail.
                let _ =
                    writeln!(text, "  {:<34} {:<24} {}", directive.name, directive.default, directive.help);
            }
            tell(&text)
        }
        Ok(CommandLine::Run(config)) => run(*config),
        Err(error) => fail(&error),
    }
}

/// Writes to standard output. A reader that has seen enough, as `head` does, is no failure.
fn tell(text: &str) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error),
        _ => ExitCode::SUCCESS,
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
    // Nobody may listen any more.
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}
