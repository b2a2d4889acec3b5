//! The commands that look after a store: verify, back up, restore, repair, compact.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ifmatch::Store;
use ifmatch::admin::{self, CollectionReport, Dropped, Written};

use crate::bar::Bar;
use crate::complain;
use crate::serve::say;

/// What cannot even be read.
const UNREADABLE: u8 = 2;

#[derive(Args)]
pub(crate) struct Verify {
    /// The directory of the store, or a backup.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,
}

impl Verify {
    /// Succeeds if nothing is damaged; 1 if something is, 2 if it cannot be read.
    pub(crate) fn run(self) -> ExitCode {
        let bar = Bar::new();
        let report = admin::verify(&self.data, &|now| bar.show(now));
        bar.clear();
        match report {
            Ok(report) => {
                say(&format!("{}: {report}\n", self.data.display()));
                if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                complain(&format!("cannot verify: {error}"));
                ExitCode::from(UNREADABLE)
            }
        }
    }
}

#[derive(Args)]
pub(crate) struct Backup {
    /// The directory of the store, which may be running.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,

    /// Where to write the backup: an empty directory, or one that is not there.
    to: PathBuf,
}

impl Backup {
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        let bar = Bar::new();
        let copied = admin::backup(&self.data, &self.to, &|now| bar.show(now));
        bar.clear();
        let copied = copied.map_err(|error| format!("there is no backup: {error}"))?;
        for damage in &copied.passed_over {
            complain(&format!("not in the backup, and not needed: {damage}"));
        }
        say(&format!(
            "Backed up {} to {}: {} files, {} bytes, all commits up to version {} of lineage {}.\n",
            self.data.display(),
            self.to.display(),
            copied.files,
            copied.bytes,
            copied.last_version,
            copied.lineage,
        ));
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The directory that `ifmatch backup` wrote to.
    from: PathBuf,

    /// The directory of the new store: empty, or not there.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,
}

impl Restore {
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        let bar = Bar::new();
        let written = admin::restore(&self.from, &self.data, &|now| bar.show(now));
        bar.clear();
        let written = written.map_err(|error| format!("nothing is restored: {error}"))?;
        say(&format!("Restored {} to {}: ", self.from.display(), self.data.display()));
        tell(&written);
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Repair {
    /// The directory of the damaged store, which must not be running. It is not changed.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,

    /// The directory of the new store: empty, or not there.
    to: PathBuf,
}

impl Repair {
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        let bar = Bar::new();
        let repaired = admin::repair(&self.data, &self.to, &|now| bar.show(now));
        bar.clear();
        let repaired = repaired.map_err(|error| format!("nothing is repaired: {error}"))?;
        for Dropped { file, offset, len, why, .. } in &repaired.dropped {
            say(&format!("Dropped {len} bytes of {file} at byte {offset}: {why}\n"));
        }
        say(&format!(
            "Repaired {} to {}, with {} commits of the log: ",
            self.data.display(),
            self.to.display(),
            repaired.commits,
        ));
        tell(&repaired.written);
        if !repaired.dropped.is_empty() {
            let to: PathBuf = self.to.components().collect();
            say(&format!("What was dropped is in {}.dropped.\n", to.display()));
        }
        match &repaired.missing[..] {
            [] => say("No version is missing.\n"),
            missing => {
                let ranges: Vec<_> = missing
                    .iter()
                    .map(|range| format!("{} to {}", range.start(), range.end()))
                    .collect();
                say(&format!(
                    "Missing are versions {}; some may never have been given out, or be in what is \
                     left of a damaged snapshot.\n",
                    ranges.join(", ")
                ));
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Compact {
    /// The directory of the store, which must not be running.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,
}

impl Compact {
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        let failed = |error| format!("cannot compact: {error}");
        if !self.data.exists() {
            return Err(format!("cannot compact: there is no {}", self.data.display()));
        }
        let bar = Bar::new();
        let shown = bar.clone();
        let builder = Store::builder().snapshot_rate(u64::MAX);
        let store = builder.on_progress(move |now| shown.show(now)).open(&self.data);
        bar.clear();
        let store = store.map_err(failed)?;
        let before = self.used();
        store.snapshot().map_err(failed)?;
        store.close().map_err(failed)?;
        let after = self.used();
        let change = match before.checked_sub(after) {
            Some(freed) => format!("{freed} bytes freed"),
            None => format!("{} bytes more", after - before),
        };
        say(&format!(
            "Compacted {}: {after} bytes now, {change}.\n\
             Two snapshots are kept, and the log from the older one on: what is behind the newer \
             one goes with the next.\n",
            self.data.display(),
        ));
        Ok(())
    }

    /// Bytes of the files.
    fn used(&self) -> u64 {
        let entries = std::fs::read_dir(&self.data).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
    }
}

/// Says what a new store holds.
pub(crate) fn tell(written: &Written) {
    let count = |count: fn(&CollectionReport) -> u64| -> u64 {
        written.collections.iter().map(count).sum()
    };
    say(&format!(
        "{} entities in {} collections, {} deletions remembered.\n\
         The new lineage is {}, so that tags of the old store match nothing; versions go on \
         above {}.\n",
        count(|collection| collection.entities),
        written.collections.len(),
        count(|collection| collection.deletions),
        written.lineage,
        written.last_version,
    ));
}
