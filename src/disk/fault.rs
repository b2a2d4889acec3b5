//! What can befall a disk: crashes, power cuts, calls that fail.

use std::io;

/// What ends a life.
#[derive(Clone, Copy, Debug)]
pub enum Crash {
    /// The process dies. Everything written can be read, and what was not synced is still at
    /// stake: a later power cut may take it.
    Process,
    /// The machine loses power.
    Power(PowerCut),
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerCut {
    /// Of what was written to files.
    pub writes: Unsynced,
    /// Of the names that were created, changed and removed. Independent of the contents.
    pub names: Names,
    /// Of the random choices.
    pub seed: u64,
}

/// What a power cut leaves of writes that were not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsynced {
    /// Nothing.
    #[default]
    Dropped,
    /// All.
    Kept,
    /// The first writes to each file, this many.
    First(usize),
    /// Any of them, each whole.
    Reordered,
    /// Any of their sectors of 512 bytes; and the length of the file is not theirs.
    Torn,
}

/// What a power cut leaves of names that were not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Nothing.
    #[default]
    Dropped,
    /// All.
    Kept,
    /// The first changes, any number of them.
    Prefix,
}

/// The kinds of calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the methods of `Disk` and `DiskFile`")]
pub enum Call {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncNames,
    /// Any call that changes nothing.
    Read,
}

impl Call {
    /// All kinds.
    pub const ALL: [Call; 7] = [
        Call::Create,
        Call::Write,
        Call::Sync,
        Call::Rename,
        Call::Remove,
        Call::SyncNames,
        Call::Read,
    ];
}

/// A call that is to fail.
///
/// A failed sync is what it is on Linux: the pages can be read, and count as clean, so that no
/// later sync makes them durable.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its kind.
    pub call: Call,
    /// Which call of that kind, counted from 1 in the life of the disk.
    pub nth: u64,
    /// Whether all later ones of the kind fail as well.
    pub lasting: bool,
    /// Whether a write writes half of its bytes before it fails.
    pub short: bool,
    /// The error that the call returns.
    pub error: io::ErrorKind,
}
