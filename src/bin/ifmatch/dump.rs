//! `ifmatch dump` and `ifmatch load`: a store as lines of JSON, and back.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use ifmatch::admin::{self, Dumped};

use crate::bar::Bar;
use crate::serve::say;
use crate::tools::tell;

#[derive(Args)]
pub(crate) struct Dump {
    /// The directory of the store, which may be running, or a backup.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,

    /// The file to write, which must not be there; standard output if there is none.
    file: Option<PathBuf>,
}

impl Dump {
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        let bar = Bar::new();
        let dumped = match &self.file {
            Some(file) => self.to_file(file, &bar),
            None => self.to(&mut io::stdout().lock(), &bar),
        };
        bar.clear();
        let Dumped { last_version, entities, deletions, .. } = dumped?;
        let done = format!(
            "Dumped {}: {entities} entities and {deletions} remembered deletions, up to version \
             {last_version}.\n",
            self.data.display(),
        );
        match self.file {
            Some(_) => say(&done),
            // Standard output has the lines. Nobody is left to tell if this fails.
            None => drop(io::stderr().write_all(done.as_bytes())),
        }
        Ok(())
    }

    fn to_file(&self, path: &Path, bar: &Bar) -> Result<Dumped, String> {
        let failed = |error| format!("cannot write {}: {error}", path.display());
        let file = File::create_new(path).map_err(failed)?;
        let dumped = self.to(&file, bar).and_then(|dumped| {
            file.sync_all().map_err(failed)?;
            Ok(dumped)
        });
        dumped.inspect_err(|_| {
            // Who failed is told; half a dump is of no use.
            let _ = std::fs::remove_file(path);
        })
    }

    fn to(&self, to: impl Write, bar: &Bar) -> Result<Dumped, String> {
        let dumped = admin::dump(&self.data, &mut BufWriter::new(to), &|now| bar.show(now));
        dumped.map_err(|error| format!("cannot dump: {error}"))
    }
}

#[derive(Args)]
pub(crate) struct Load {
    /// The directory of the new store: empty, or not there.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,

    /// The file to read; standard input if there is none.
    file: Option<PathBuf>,
}

impl Load {
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        let bar = Bar::new();
        let written = match &self.file {
            Some(path) => {
                let file = File::open(path);
                let file =
                    file.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                admin::load(&mut BufReader::new(bar.reading(file)), &self.data)
            }
            None => admin::load(&mut io::stdin().lock(), &self.data),
        };
        bar.clear();
        let written = written.map_err(|error| format!("nothing is loaded: {error}"))?;
        say(&format!("Loaded {}: ", self.data.display()));
        tell(&written);
        Ok(())
    }
}
