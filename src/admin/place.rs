//! Directories as the tools find them: what they are, read beside whoever writes to them, and
//! empty ones to fill.

use std::io;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::progress::OnProgress;
use crate::recovery::birth::{self, Kind};
use crate::recovery::{self, Found, io_error};
use crate::version::Lineage;

/// How often a directory is read anew that a running store changes meanwhile.
const ATTEMPTS: usize = 10;

/// A directory that is read beside a running store may lose a file to it, or show a write whose
/// predecessor was looked at before it came. So it is read anew, and damage is what two readings
/// agree on.
///
/// # Errors
/// What `read` says.
pub(super) fn steadily<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    let mut before = None;
    for _ in 1..ATTEMPTS {
        let error = match read() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let what = error.to_string();
        if !may_pass(&error) || before.as_ref() == Some(&what) {
            return Err(error);
        }
        before = Some(what);
    }
    read()
}

/// Whether it may be the work of a running store.
pub(super) fn may_pass(error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } => true,
        Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The names of the files, in order.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn names(disk: &dyn Disk) -> Result<Vec<String>> {
    let mut names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
    names.sort_unstable();
    Ok(names)
}

/// What the directory is: a store or a backup, and the bytes that say so.
///
/// # Errors
/// [`Error::NotAStore`] and [`Error::Io`].
pub(super) fn kind(disk: &dyn Disk, names: &[String]) -> Result<(&'static Kind, Vec<u8>)> {
    let is_there = |kind: &&&Kind| names.iter().any(|name| name == kind.name);
    let Some(kind) = [&birth::STORE, &birth::BACKUP].iter().find(is_there).copied() else {
        let detail = format!("it has no {:?}", birth::STORE.name);
        return Err(Error::NotAStore { path: disk.path(""), detail });
    };
    let bytes = disk.read(kind.name);
    Ok((kind, bytes.map_err(|source| io_error(disk, "read", kind.name, source))?))
}

/// All that a store or a backup holds.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::Corrupt`] and [`Error::Io`].
pub(super) fn read(disk: &dyn Disk, progress: &OnProgress<'_>) -> Result<(Lineage, Found)> {
    steadily(|| {
        let names = names(disk)?;
        let (kind, bytes) = kind(disk, &names)?;
        let lineage = birth::read(disk, kind, &bytes)?;
        Ok((lineage, recovery::read(disk, &names, lineage, Some(progress))?))
    })
}

/// Refuses a directory that holds anything. One that is not there is empty.
///
/// # Errors
/// [`Error::NotEmpty`] and [`Error::Io`].
pub(super) fn check_empty(disk: &dyn Disk) -> Result<()> {
    match disk.list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(disk, "list", "", source)),
        // A fresh file system has a directory of its own.
        Ok(names) if names.iter().all(|name| name == "lost+found") => Ok(()),
        Ok(_) => Err(Error::NotEmpty(disk.path(""))),
    }
}

/// Creates the directory, and keeps everybody else out of it while the returned guard lives.
///
/// # Errors
/// [`Error::NotEmpty`], [`Error::InUse`] and [`Error::Io`].
pub(super) fn take_empty(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>> {
    check_empty(disk)?;
    disk.prepare().map_err(|source| io_error(disk, "create the directory", "", source))?;
    let lock = recovery::lock(disk)?;
    // Somebody else may have been faster.
    check_empty(disk)?;
    Ok(lock)
}
