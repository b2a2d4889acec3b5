//! What the log is replayed onto: the newest snapshot that is whole, or nothing.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::reader::Damage;
use crate::log::segment;
use crate::progress::OnProgress;
use crate::recovery::{Contents, Head, corrupt};
use crate::snapshot::{self, Known, load};
use crate::version::Lineage;

/// Where replaying begins.
pub(crate) struct Base {
    /// All up to here is in the contents; zero for nothing.
    pub(crate) start: u64,
    /// The log has to go up to here.
    pub(crate) end: u64,
    pub(crate) known: Option<Known>,
    pub(crate) contents: Contents,
}

/// Takes the newest snapshot that is whole, or the whole log.
///
/// # Errors
/// [`Error::Corrupt`] if what is whole does not go back far enough; [`Error::NotAStore`] for a
/// snapshot of a newer format; [`Error::Io`].
pub(super) fn find(
    disk: &dyn Disk,
    names: &[String],
    lineage: Lineage,
    heads: &[Head],
    progress: Option<&OnProgress<'_>>,
) -> Result<Base> {
    let mut damaged = None;
    for start in names.iter().rev().filter_map(|name| snapshot::start_of(name)) {
        match load::load(disk, start, lineage, progress)? {
            Ok(loaded) => {
                let load::Loaded { end, bytes, contents } = loaded;
                check_log(disk, heads, start, damaged)?;
                let known = Some(Known { start, bytes });
                return Ok(Base { start, end, known, contents });
            }
            Err(damage) => damaged = damaged.or(Some((start, damage))),
        }
    }
    check_log(disk, heads, 0, damaged)?;
    Ok(Base { start: 0, end: 0, known: None, contents: Contents::default() })
}

/// Makes sure that the log goes on where the base ends. `damaged` is the newest snapshot that
/// could not be used.
pub(crate) fn check_log(
    disk: &dyn Disk,
    heads: &[Head],
    start: u64,
    damaged: Option<(u64, Damage)>,
) -> Result<()> {
    let first = heads.first();
    let reaches_back = match first {
        Some(first) => first.first_version <= start + 1,
        // Without a segment there is no more than the snapshot; with nothing at all, nothing.
        None => start > 0 || damaged.is_none(),
    };
    if reaches_back {
        return Ok(());
    }
    let needed = format!("versions from {} on", start + 1);
    if let Some((newest, Damage { offset, detail })) = damaged {
        let found = match first {
            Some(first) => format!("the log begins at version {}", first.first_version),
            None => "there is no log".to_owned(),
        };
        let instead = if start == 0 { "without it" } else { "with the snapshot before it" };
        let detail = format!("{detail}; {instead}, {needed} are needed, and {found}");
        return Err(corrupt(disk, &snapshot::file_name(newest), Damage { offset, detail }));
    }
    let (name, detail) = match first {
        Some(Head { number: 1, first_version, .. }) => {
            let detail = format!("it begins at version {first_version}, and {needed} are missing");
            (segment::file_name(1), detail)
        }
        Some(Head { number, .. }) => {
            let detail = format!("segment {} before it is missing, and {needed}", number - 1);
            (segment::file_name(*number), detail)
        }
        None => (String::new(), format!("{needed} are missing")),
    };
    Err(corrupt(disk, &name, Damage { offset: 0, detail }))
}

/// The log ends before the version up to which it was durable when the snapshot was written.
/// `last` is where it ends, in this file at this offset.
pub(crate) fn cut_short(
    disk: &dyn Disk,
    start: u64,
    end: u64,
    last: u64,
    place: Option<(String, u64)>,
) -> Error {
    let snapshot = snapshot::file_name(start);
    let (name, offset) = place.unwrap_or_else(|| (snapshot.clone(), 0));
    let from = last + 1;
    let detail = format!("versions {from} to {end} were durable, says {snapshot}, but are missing");
    corrupt(disk, &name, Damage { offset, detail })
}
