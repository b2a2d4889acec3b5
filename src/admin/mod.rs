//! Tools for whoever looks after a store: verify, back up, restore, repair, dump and load.
//!
//! The program `ifmatch` (feature `server`) has them as commands. None of them changes the store
//! that it reads. Those that read take no lock, and work beside a running store; those that write
//! make a store of a new [`Lineage`](crate::Lineage), because the versions that the old one has
//! given out since say nothing about the new one.

mod backup;
#[cfg(feature = "json")]
mod dump;
mod image;
#[cfg(feature = "json")]
mod load;
#[cfg(feature = "testing")]
pub mod on_disk;
mod pieces;
mod place;
mod repair;
mod report;
mod salvage;
mod verify;

#[cfg(feature = "json")]
use std::io::{BufRead, Write};
use std::path::Path;

#[cfg(feature = "json")]
pub use report::Dumped;
pub use report::{
    CollectionReport, Content, Copied, Damage, Dropped, File, Repaired, Report, Written,
};

use crate::disk::{Directory, Disk};
use crate::error::Result;
use crate::progress::Progress;

/// Reads everything in a store or a backup, and tells all that is wrong with it (G10).
///
/// Beside a running store, what is being written meanwhile is a torn tail, which is no damage.
/// `on_progress` is told how far it has come.
///
/// ```no_run
/// let report = ifmatch::admin::verify("data", &|_| {})?;
/// assert!(report.is_whole(), "{report}");
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotAStore`](crate::Error::NotAStore) and [`Error::Io`](crate::Error::Io) if it cannot
/// be read at all. Damage is in the report.
pub fn verify(
    path: impl AsRef<Path>,
    on_progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report> {
    verify::verify(&Directory::at(path.as_ref()), on_progress)
}

/// Copies a store into an empty or absent directory, and checks all of it on the way.
///
/// Beside a running store nothing stops: whatever was acknowledged and synced before the call is
/// in the backup, and some of what was written meanwhile may be. Within the process that has the
/// store open, [`Store::backup`](crate::Store::backup) syncs first.
///
/// A backup is no store: it cannot be opened, only [restored](restore) and
/// [verified](verify()).
///
/// ```no_run
/// let copied = ifmatch::admin::backup("data", "backups/monday", &|_| {})?;
/// println!("{} bytes, up to version {}", copied.bytes, copied.last_version);
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotAStore`](crate::Error::NotAStore); [`Error::Corrupt`](crate::Error::Corrupt) if
/// what has to be copied is damaged; [`Error::NotEmpty`](crate::Error::NotEmpty) and
/// [`Error::InUse`](crate::Error::InUse) of the target; [`Error::Io`](crate::Error::Io). There is
/// no backup then.
pub fn backup(
    path: impl AsRef<Path>,
    to: impl AsRef<Path>,
    on_progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Copied> {
    let (from, to) = (Directory::at(path.as_ref()), Directory::at(to.as_ref()));
    backup::backup(&from, &to, on_progress)
}

/// Makes a store of a backup, in an empty or absent directory.
///
/// It holds the same entities with the same versions, times and writers, under a new lineage (G2):
/// entity tags of the old store do not match any more.
///
/// ```no_run
/// let written = ifmatch::admin::restore("backups/monday", "data", &|_| {})?;
/// let store = ifmatch::Store::open("data")?;
/// assert_eq!(store.lineage(), written.lineage);
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotABackup`](crate::Error::NotABackup); [`Error::Corrupt`](crate::Error::Corrupt) if
/// it is damaged; [`Error::NotEmpty`](crate::Error::NotEmpty) and
/// [`Error::InUse`](crate::Error::InUse) of the target; [`Error::Io`](crate::Error::Io). There is
/// no store then.
pub fn restore(
    backup: impl AsRef<Path>,
    to: impl AsRef<Path>,
    on_progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Written> {
    let (from, to) = (Directory::at(backup.as_ref()), Directory::at(to.as_ref()));
    backup::restore(&from, &to, on_progress)
}

/// Makes a new store of what is left of a damaged one, in an empty or absent directory.
///
/// It takes the newest snapshot that is whole, what is left of newer ones, and every whole commit
/// of the log, behind damage too. If no snapshot is whole, it takes what is left of all of them;
/// then an entity may come back whose deletion is not remembered any more. The lineage is new (G2).
///
/// The damaged store is not changed; it must not be running. What could not be used is written to
/// `<to>.dropped`: for each range a line of JSON that says where it was and why it is there, then
/// its bytes, then a line feed. Without damage there is no such file, and the new store holds the
/// same as the old one.
///
/// ```no_run
/// let repaired = ifmatch::admin::repair("data", "repaired", &|_| {})?;
/// println!("{} commits kept, {:?} missing", repaired.commits, repaired.missing);
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotAStore`](crate::Error::NotAStore) if nothing of a store is there, or of a newer
/// format; [`Error::InUse`](crate::Error::InUse) of either directory;
/// [`Error::NotEmpty`](crate::Error::NotEmpty) of the target; [`Error::Io`](crate::Error::Io).
pub fn repair(
    path: impl AsRef<Path>,
    to: impl AsRef<Path>,
    on_progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Repaired> {
    let (path, to) = (path.as_ref(), to.as_ref());
    let mut dropped = repair::DroppedFile::beside(to)?;
    repair::repair(&Directory::at(path), &Directory::at(to), &mut dropped, on_progress)
}

/// Writes all that a store or a backup holds as lines of JSON, for other tools to read.
///
/// Each line is an object with one field that says what it is: first `store`, then each
/// `collection` followed by its `entity` and `deletion` lines, and last `end`, which counts them.
/// Keys are `key` if they are strings, else `key_hex`: the bytes that order as the keys do. Values
/// of the codec `json` are `value`, all others, and those that span lines, `value_hex`. Times have
/// microseconds. Beside a running store it is what [`backup`] would copy. What the store keeps for
/// itself, operation ids for one, is left out: a store that is made of a dump is a new one.
///
/// ```no_run
/// ifmatch::admin::dump("data", &mut std::io::stdout().lock(), &|_| {})?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotAStore`](crate::Error::NotAStore); [`Error::Corrupt`](crate::Error::Corrupt), and
/// nothing is written; [`Error::Io`](crate::Error::Io).
#[cfg(feature = "json")]
pub fn dump(
    path: impl AsRef<Path>,
    to: &mut dyn Write,
    on_progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Dumped> {
    dump::dump(&Directory::at(path.as_ref()), to, on_progress)
}

/// Makes a store of what [`dump`] wrote, in an empty or absent directory. Versions, times and
/// writers are kept; the lineage is new (G2).
///
/// The dump is held in memory before anything is written. Whether keys and values are of their
/// types is found when a collection is opened.
///
/// ```no_run
/// let mut dump = std::io::BufReader::new(std::fs::File::open("dump.jsonl").unwrap());
/// ifmatch::admin::load(&mut dump, "data")?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// [`Error::Line`](crate::Error::Line) for a line that cannot be loaded, and nothing is written;
/// [`Error::NotEmpty`](crate::Error::NotEmpty) and [`Error::InUse`](crate::Error::InUse) of the
/// target; [`Error::Io`](crate::Error::Io).
#[cfg(feature = "json")]
pub fn load(from: &mut dyn BufRead, to: impl AsRef<Path>) -> Result<Written> {
    load::load(from, &Directory::at(to.as_ref()))
}

/// As [`backup`], of a store that is open in this process.
pub(crate) fn backup_from(from: &dyn Disk, to: &Path) -> Result<Copied> {
    backup::backup(from, &Directory::at(to), &|_| {})
}
