//! Reading all files of a store, and telling all that is wrong with them.

use crate::admin::place::{self, may_pass};
use crate::admin::report::{CollectionReport, Content, Damage, File, Report};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::reader::Segment;
use crate::log::segment;
use crate::progress::{Meter, OnProgress, Phase};
use crate::record;
use crate::recovery::birth::{self, Kind};
use crate::recovery::{self, End, Found, io_error};
use crate::snapshot::{self, load};
use crate::version::Lineage;

/// How often a store is read that seems damaged at another place each time: it is running.
const ATTEMPTS: usize = 10;

/// Reads all, and checks besides that it would open.
///
/// # Errors
/// [`Error::NotAStore`] and [`Error::Io`].
pub(crate) fn verify(disk: &dyn Disk, progress: &OnProgress<'_>) -> Result<Report> {
    let mut before: Option<Vec<Damage>> = None;
    for _ in 1..ATTEMPTS {
        match survey(disk, progress) {
            // What two readings agree on is no work of a running store.
            Ok(report) if report.is_whole() || before.as_ref() == Some(&report.damage) => {
                return Ok(report);
            }
            Ok(report) => before = Some(report.damage),
            Err(error) if may_pass(&error) && !is_missing(disk) => {}
            Err(error) => return Err(error),
        }
    }
    survey(disk, progress)
}

/// Whether it is the directory that is not there.
fn is_missing(disk: &dyn Disk) -> bool {
    disk.list().is_err()
}

fn survey(disk: &dyn Disk, progress: &OnProgress<'_>) -> Result<Report> {
    let names = place::names(disk)?;
    let (kind, birth) = place::kind(disk, &names)?;
    let mut survey = Survey { disk, files: Vec::new(), damage: Vec::new(), end: None };
    let lineage = match birth::read(disk, kind, &birth) {
        Ok(lineage) => Some(lineage),
        Err(error) => {
            survey.damaged(kind.name, error)?;
            lineage_of_files(disk, &names)
        }
    };
    if let Some(lineage) = lineage {
        survey.files(&names, kind, lineage, progress)?;
    }
    let found = match lineage.map(|lineage| recovery::read(disk, &names, lineage, Some(progress))) {
        Some(Ok(found)) => Some(found),
        Some(Err(error)) => {
            survey.damaged("", error)?;
            None
        }
        None => None,
    };
    Ok(Report {
        is_backup: kind.name == birth::BACKUP.name,
        lineage,
        last_version: found.as_ref().map(Found::last_version),
        closed: found.as_ref().is_some_and(Found::is_closed),
        collections: found.map(|found| CollectionReport::all(&found.contents)).unwrap_or_default(),
        files: survey.files,
        damage: survey.damage,
    })
}

/// What the first file with a whole header says.
pub(super) fn lineage_of_files(disk: &dyn Disk, names: &[String]) -> Option<Lineage> {
    names.iter().find_map(|name| {
        let head = disk.read_at(name, 0, segment::HEADER).ok()?;
        if segment::number_of(name).is_some() {
            return Some(segment::Header::decode(&head).ok()?.lineage);
        }
        snapshot::start_of(name)?;
        Some(snapshot::header::Header::decode(&head).ok()?.lineage)
    })
}

struct Survey<'a> {
    disk: &'a dyn Disk,
    files: Vec<File>,
    damage: Vec<Damage>,
    /// Of the last segment that is whole.
    end: Option<End>,
}

impl Survey<'_> {
    fn files(
        &mut self,
        names: &[String],
        kind: &Kind,
        lineage: Lineage,
        progress: &OnProgress<'_>,
    ) -> Result<()> {
        let mut lens = Vec::new();
        for name in names.iter().filter(|name| !name.ends_with(".tmp")) {
            match self.disk.len(name) {
                Ok(len) => lens.push((name, len)),
                Err(source) => return Err(io_error(self.disk, "read", name, source)),
            }
        }
        let total = lens.iter().map(|(_, len)| len).sum();
        let mut meter = Meter::new(Some(progress), Phase::Files, total);
        for (name, bytes) in lens {
            let content = if let Some(number) = segment::number_of(name) {
                self.segment(name, number, lineage)?
            } else if let Some(start) = snapshot::start_of(name) {
                self.snapshot(name, start, lineage)?
            } else if name == kind.name {
                Content::Birth
            } else {
                Content::Other
            };
            self.files.push(File { name: name.clone(), bytes, content });
            meter.add(bytes);
        }
        Ok(())
    }

    fn snapshot(&mut self, name: &str, start: u64, lineage: Lineage) -> Result<Content> {
        match load::check(self.disk, start, lineage, &mut |_, _| Ok(())) {
            Ok(Ok(load::Checked { end, entries, .. })) => {
                Ok(Content::Snapshot { start, end, entries })
            }
            Ok(Err(damage)) => {
                self.add(name, damage.offset, damage.detail);
                Ok(Content::Damaged)
            }
            Err(error) => self.damaged(name, error).map(|()| Content::Damaged),
        }
    }

    fn segment(&mut self, name: &str, number: u64, lineage: Lineage) -> Result<Content> {
        let bytes = self.disk.read(name);
        let bytes = bytes.map_err(|source| io_error(self.disk, "read", name, source))?;
        let segment = match Segment::read(&bytes) {
            Ok(segment) => segment,
            Err(damage) => {
                self.add(name, damage.offset, damage.detail);
                self.end = None;
                return Ok(Content::Damaged);
            }
        };
        let end = self.end.take();
        if let Err(detail) = recovery::check_order(&segment.header, number, lineage, end.as_ref()) {
            self.add(name, 0, detail);
        }
        let mut records = 0;
        for record in segment.records() {
            records += 1;
            match record {
                Err(damage) => self.add(name, damage.offset, damage.detail),
                Ok(logged) if record::decode(logged.payload).is_none() => {
                    let detail = format!("the record of version {} cannot be read", logged.version);
                    self.add(name, segment::HEADER as u64, detail);
                }
                Ok(_) => {}
            }
        }
        let tail = bytes.get(segment.valid_len..).unwrap_or_default();
        let torn = tail.iter().any(|byte| *byte != 0);
        let next_version = segment.next_version;
        self.end = Some(End { number, next_version });
        Ok(Content::Segment {
            first_version: segment.header.first_version,
            next_version,
            frames: segment.frames.len() as u64,
            records,
            torn_at: torn.then_some(segment.valid_len as u64),
        })
    }

    /// Adds the error if it is damage, of the file that it names or of `name`.
    ///
    /// # Errors
    /// The error, if it is something else.
    fn damaged(&mut self, name: &str, error: Error) -> Result<()> {
        let Error::Corrupt { path, offset, detail } = error else { return Err(error) };
        let of_directory = path == self.disk.path("");
        let file = path.file_name().filter(|_| !of_directory).map(|file| file.to_string_lossy());
        self.add(file.as_deref().unwrap_or(name), offset, detail);
        Ok(())
    }

    /// Opening may say more of the same place.
    fn add(&mut self, file: &str, offset: u64, detail: String) {
        let same = |known: &&mut Damage| known.file == file && known.offset == offset;
        match self.damage.iter_mut().find(same) {
            Some(known) => known.detail = detail,
            None => self.damage.push(Damage { file: file.to_owned(), offset, detail }),
        }
    }
}
