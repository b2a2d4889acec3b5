//! The `ifmatch` program: serves a store over HTTP, and looks after it.

mod bar;
mod dump;
mod log;
mod serve;
mod server;
mod tools;

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
    /// Check all files of a store or a backup, running or not. Fails with 1 if it is damaged, with
    /// 2 if it cannot be read.
    Verify(tools::Verify),
    /// Copy a store, running or not.
    Backup(tools::Backup),
    /// Make a store of a backup.
    Restore(tools::Restore),
    /// Make a new store of what is left of a damaged one.
    Repair(tools::Repair),
    /// Write a store as lines of JSON, running or not.
    Dump(dump::Dump),
    /// Make a store of what `dump` wrote.
    Load(dump::Load),
    /// Take a snapshot of a store that is not running, and let go the log that it makes
    /// unnecessary.
    Compact(tools::Compact),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Verify(verify) => return verify.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Repair(repair) => repair.run(),
        Command::Dump(dump) => dump.run(),
        Command::Load(load) => load.run(),
        Command::Compact(compact) => compact.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

fn complain(message: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "ifmatch: {message}");
}
