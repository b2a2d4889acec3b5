//! Copying a store while it is written to, and making a store of the copy.

use crate::admin::image;
use crate::admin::place;
use crate::admin::report::{Copied, Damage, Written};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::reader::Segment;
use crate::log::segment;
use crate::progress::{Meter, OnProgress, Phase};
use crate::recovery::birth;
use crate::recovery::{self, End, Head, base, corrupt, io_error};
use crate::snapshot::{self, load};
use crate::version::Lineage;

/// Copies the newest snapshot that is whole, and the log from there on, up to the last whole
/// frame. All of it is checked on the way.
///
/// # Errors
/// [`Error::NotEmpty`], [`Error::InUse`] and [`Error::Io`]; [`Error::NotAStore`] and
/// [`Error::Corrupt`] of what is copied. What was written is removed.
pub(crate) fn backup(from: &dyn Disk, to: &dyn Disk, progress: &OnProgress<'_>) -> Result<Copied> {
    place::kind(from, &place::names(from)?)?;
    let _lock = place::take_empty(to)?;
    let copied = place::steadily(|| {
        clear(to)?;
        Copy { from, to, progress, files: 0, bytes: 0 }.all()
    });
    let copied = copied.and_then(|copied| {
        to.sync_names().map_err(|source| io_error(to, "sync", "", source))?;
        birth::write(to, &birth::BACKUP, copied.lineage)?;
        Ok(copied)
    });
    copied.inspect_err(|_| {
        // Who failed has been told; it is no backup.
        let _ = clear(to);
    })
}

/// Makes a store of a backup.
///
/// # Errors
/// [`Error::NotABackup`]; [`Error::Corrupt`] if it is damaged, and nothing is written;
/// [`Error::NotEmpty`], [`Error::InUse`] and [`Error::Io`].
pub(crate) fn restore(
    from: &dyn Disk,
    to: &dyn Disk,
    progress: &OnProgress<'_>,
) -> Result<Written> {
    let names = place::names(from)?;
    if !names.iter().any(|name| name == birth::BACKUP.name) {
        let detail = match names.iter().any(|name| name == birth::STORE.name) {
            true => "it is a store, which `ifmatch backup` makes a backup of".to_owned(),
            false => format!("it has no {:?}", birth::BACKUP.name),
        };
        return Err(Error::NotABackup { path: from.path(""), detail });
    }
    place::check_empty(to)?;
    let (_, found) = place::read(from, progress)?;
    let last_version = found.last_version();
    image::write(to, found.contents, last_version)
}

/// Removes what a former attempt wrote; the directory was empty.
fn clear(to: &dyn Disk) -> Result<()> {
    for name in place::names(to)?.iter().filter(|name| *name != "lost+found") {
        to.remove(name).map_err(|source| io_error(to, "remove", name, source))?;
    }
    Ok(())
}

struct Copy<'a> {
    from: &'a dyn Disk,
    to: &'a dyn Disk,
    progress: &'a OnProgress<'a>,
    files: u64,
    bytes: u64,
}

impl Copy<'_> {
    fn all(mut self) -> Result<Copied> {
        let names = place::names(self.from)?;
        let (kind, birth) = place::kind(self.from, &names)?;
        let lineage = birth::read(self.from, kind, &birth)?;
        let heads = recovery::heads(self.from, &names)?;
        let (mut start, mut end) = (0, 0);
        let mut damaged = None;
        let mut passed_over = Vec::new();
        for at in names.iter().rev().filter_map(|name| snapshot::start_of(name)) {
            match self.snapshot(at, lineage)? {
                Ok(checked) => {
                    (start, end) = (at, checked.end);
                    break;
                }
                Err(damage) => {
                    passed_over.push(Damage::of(snapshot::file_name(at), &damage));
                    damaged = damaged.or(Some((at, damage)));
                }
            }
        }
        base::check_log(self.from, &heads, start, damaged)?;
        let last_version = self.log(&heads, start, end, lineage)?;
        let Copy { files, bytes, .. } = self;
        Ok(Copied { lineage, last_version, files, bytes, passed_over })
    }

    /// The inner error is damage: nothing was copied.
    fn snapshot(
        &mut self,
        start: u64,
        lineage: Lineage,
    ) -> Result<std::result::Result<load::Checked, crate::log::reader::Damage>> {
        let name = snapshot::file_name(start);
        let len = self.from.len(&name);
        let len = len.map_err(|source| io_error(self.from, "read", &name, source))?;
        let mut meter = Meter::new(Some(self.progress), Phase::Snapshot, len);
        let failed = |source| io_error(self.to, "write", &name, source);
        let mut file = self.to.create(&name).map_err(failed)?;
        let checked = load::check(self.from, start, lineage, &mut |offset, bytes| {
            file.write_at(offset, bytes).map_err(failed)?;
            meter.add(bytes.len() as u64);
            Ok(())
        })?;
        match &checked {
            Ok(checked) => {
                file.sync().map_err(failed)?;
                self.files += 1;
                self.bytes += checked.bytes;
            }
            Err(_) => self.to.remove(&name).map_err(failed)?,
        }
        Ok(checked)
    }

    /// Returns the last version.
    fn log(&mut self, heads: &[Head], start: u64, end: u64, lineage: Lineage) -> Result<u64> {
        let first = heads.iter().rposition(|head| head.first_version <= start + 1);
        let heads = heads.get(first.unwrap_or(0)..).unwrap_or_default();
        let total = heads.iter().map(|head| head.bytes).sum();
        let mut meter = Meter::new(Some(self.progress), Phase::Log, total);
        let (mut before, mut place) = (None, None);
        for head in heads {
            let name = segment::file_name(head.number);
            let bytes = self.from.read(&name);
            let bytes = bytes.map_err(|source| io_error(self.from, "read", &name, source))?;
            let damage = |damage| corrupt(self.from, &name, damage);
            let segment = Segment::read(&bytes).map_err(damage)?;
            recovery::check_order(&segment.header, head.number, lineage, before.as_ref())
                .map_err(|detail| recovery::corrupt_at(self.from, &name, 0, detail))?;
            for record in segment.records() {
                record.map_err(damage)?;
            }
            self.copy(&name, bytes.get(..segment.valid_len).unwrap_or(&bytes))?;
            place = Some((name, segment.valid_len as u64));
            before = Some(End { number: head.number, next_version: segment.next_version });
            meter.add(head.bytes);
        }
        let last = before.map_or(start, |end| end.next_version - 1);
        match last < end {
            true => Err(base::cut_short(self.from, start, end, last, place)),
            false => Ok(last),
        }
    }

    fn copy(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let write = || {
            let mut file = self.to.create(name)?;
            file.write_at(0, bytes)?;
            file.sync()
        };
        write().map_err(|source| io_error(self.to, "write", name, source))?;
        self.files += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
