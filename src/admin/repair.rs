//! Making a store of what is left of a damaged one, and keeping what is not used of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::admin::image;
use crate::admin::place;
use crate::admin::report::{Dropped, Repaired};
use crate::admin::salvage::Salvage;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::progress::OnProgress;
use crate::recovery::{self, io_error};

/// So many bytes are copied at a time.
const CHUNK: u64 = 1 << 20;

/// What is dropped is written to `dropped`, and flushed, before there is a new store.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::InUse`], [`Error::NotEmpty`] and [`Error::Io`].
pub(crate) fn repair(
    from: &dyn Disk,
    to: &dyn Disk,
    dropped: &mut dyn Write,
    progress: &OnProgress<'_>,
) -> Result<Repaired> {
    // Taking the lock would create its file.
    place::names(from)?;
    let _lock = recovery::lock(from)?;
    place::check_empty(to)?;
    let salvage = Salvage::all(from, progress)?;
    for range in &salvage.dropped {
        keep(from, range, dropped)?;
    }
    dropped.flush().map_err(|source| not_kept(to, source))?;
    let last_version = salvage.last_version();
    let Salvage { contents, commits, dropped, missing, .. } = salvage;
    let written = image::write(to, contents, last_version)?;
    Ok(Repaired { written, commits, dropped, missing })
}

/// Writes a line about the range, and its bytes.
fn keep(from: &dyn Disk, range: &Dropped, dropped: &mut dyn Write) -> Result<()> {
    let Dropped { file, offset, len, why, missing } = range;
    let missing = match missing {
        Some(versions) => format!("[{},{}]", versions.start(), versions.end()),
        None => "null".to_owned(),
    };
    // Names and reasons are our own, and plain: quoted for Rust they are quoted for JSON.
    let head = format!(
        "{{\"file\":{file:?},\"offset\":{offset},\"length\":{len},\"why\":{why:?},\
         \"missing\":{missing}}}\n"
    );
    let failed = |source| not_kept(from, source);
    dropped.write_all(head.as_bytes()).map_err(failed)?;
    let mut done = 0;
    while done < *len {
        let bytes = from.read_at(file, offset + done, CHUNK.min(len - done) as usize);
        let bytes = bytes.map_err(|source| io_error(from, "read", file, source))?;
        if bytes.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        dropped.write_all(&bytes).map_err(failed)?;
        done += bytes.len() as u64;
    }
    dropped.write_all(b"\n").map_err(failed)
}

fn not_kept(disk: &dyn Disk, source: io::Error) -> Error {
    io_error(disk, "keep what is dropped of", "", source)
}

/// The file beside the new store; created with the first byte, synced when flushed.
pub(crate) struct DroppedFile {
    path: PathBuf,
    file: Option<File>,
}

impl DroppedFile {
    /// # Errors
    /// [`Error::Io`] if it is there already.
    pub(crate) fn beside(store: &Path) -> Result<DroppedFile> {
        // Without a slash at the end, which would mean a file within.
        let store: PathBuf = store.components().collect();
        let mut path = store.into_os_string();
        path.push(".dropped");
        let path = PathBuf::from(path);
        match path.exists() {
            true => {
                let source = io::ErrorKind::AlreadyExists.into();
                Err(Error::Io { action: "create", path, source })
            }
            false => Ok(DroppedFile { path, file: None }),
        }
    }
}

impl Write for DroppedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().write(true).create_new(true).open(&self.path)?),
        };
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }
}
