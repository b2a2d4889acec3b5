//! The `ifmatch` program: serves a store over HTTP.

mod serve;
mod server;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An optimistic-concurrency store whose conflicts explain themselves.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve JSON documents over HTTP, with ETag, If-Match and 409 done right.
    Serve(serve::Serve),
}

fn main() -> ExitCode {
    let Cli { command: Command::Serve(serve) } = Cli::parse();
    match serve.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "ifmatch: {message}");
            ExitCode::FAILURE
        }
    }
}
