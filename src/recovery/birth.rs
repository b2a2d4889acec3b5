//! The file that makes a store of a directory, or a backup.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::frame::take;
use crate::log::reader::Damage;
use crate::recovery::{corrupt, io_error};
use crate::version::Lineage;

const FORMAT: u32 = 1;

/// What a directory is, by the file that is written to it last.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    magic: [u8; 8],
    article: &'static str,
}

/// A store.
pub(crate) const STORE: Kind = Kind { name: "meta", magic: *b"ifmatchM", article: "a store" };

/// A backup: the files of a store, which must not be opened as one, because the versions that the
/// store gave out later would be given out again.
pub(crate) const BACKUP: Kind = Kind { name: "backup", magic: *b"ifmatchB", article: "a backup" };

/// Makes the directory what it is, durably and at once.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write(disk: &dyn Disk, kind: &Kind, lineage: Lineage) -> Result<()> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&lineage.bits().to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let temporary = format!("{}.tmp", kind.name);
    let write = || {
        let mut file = disk.create(&temporary)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.rename(&temporary, kind.name)?;
        disk.sync_names()
    };
    write().map_err(|source| io_error(disk, "create", kind.name, source))
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// [`Error::NotAStore`] and [`Error::Corrupt`].
pub(crate) fn read(disk: &dyn Disk, kind: &Kind, bytes: &[u8]) -> Result<Lineage> {
    let not_a_store = |detail: String| Error::NotAStore { path: disk.path(kind.name), detail };
    let mut rest = bytes;
    let magic: Option<[u8; 8]> = take(&mut rest);
    if magic != Some(kind.magic) {
        return Err(not_a_store(format!("it was not written by {}", kind.article)));
    }
    let format = take(&mut rest).map(u32::from_le_bytes);
    if let Some(format) = format.filter(|format| *format > FORMAT) {
        return Err(not_a_store(format!(
            "it has format {format}; this build reads format {FORMAT}, so use a newer one"
        )));
    }
    let lineage = take(&mut rest).map(u64::from_le_bytes);
    let covered = bytes.get(..20).unwrap_or_default();
    match lineage {
        Some(lineage) if rest == crc32c::crc32c(covered).to_le_bytes() => {
            Ok(Lineage::from_bits(lineage))
        }
        _ => {
            let detail = "it does not match its checksum".to_owned();
            Err(corrupt(disk, kind.name, Damage { offset: 0, detail }))
        }
    }
}
