//! How far opening a store has come, for whoever shows it to a person.

use std::fmt;

/// How far opening a store has come; see [`on_progress`](crate::StoreBuilder::on_progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being read.
    pub phase: Phase,
    /// Bytes that have been read.
    pub done: u64,
    /// Bytes that there are.
    pub total: u64,
}

/// What is read while a store opens, or by a [tool](crate::admin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The newest snapshot that is whole.
    Snapshot,
    /// The log after it.
    Log,
    /// Every file, for itself.
    Files,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Snapshot => "reading the snapshot",
            Phase::Log => "reading the log",
            Phase::Files => "checking the files",
        })
    }
}

/// The caller's function that is told.
pub(crate) type OnProgress<'a> = dyn Fn(Progress) + Send + Sync + 'a;

/// Tells at most every mebibyte, and at the end of a phase.
pub(crate) struct Meter<'a> {
    tell: Option<&'a OnProgress<'a>>,
    phase: Phase,
    total: u64,
    done: u64,
    told: u64,
}

/// Bytes between two calls.
const STEP: u64 = 1 << 20;

impl<'a> Meter<'a> {
    pub(crate) fn new(tell: Option<&'a OnProgress<'a>>, phase: Phase, total: u64) -> Meter<'a> {
        Meter { tell, phase, total, done: 0, told: 0 }
    }

    /// All has been read.
    pub(crate) fn finish(&mut self) {
        if self.done < self.total {
            self.add(self.total - self.done);
        }
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.done - self.told >= STEP || self.done == self.total {
            self.told = self.done;
            let Meter { phase, done, total, .. } = *self;
            if let Some(tell) = self.tell {
                tell(Progress { phase, done, total });
            }
        }
    }
}
