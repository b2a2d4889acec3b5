//! Opening a directory: read what is there, mend an unclean end, start the next segment.

mod base;
mod stored;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::conflict::Deletion;
use crate::disk::Disk;
use crate::entity::{Actor, Metadata, Previous};
use crate::error::{Error, Result};
use crate::log::frame::{LogRecord, take};
use crate::log::reader::{Damage, Segment};
use crate::log::segment::{self, Valid};
use crate::log::{LiveSegment, LiveSegments, SegmentWriter};
use crate::map::KeyBuf;
use crate::progress::{Meter, OnProgress, Phase};
use crate::record::{self, CATALOG, CatalogEntry, LoggedWrite};
use crate::recovery::base::Base;
pub(crate) use crate::recovery::stored::{Stored, StoredCollection};
use crate::snapshot::Known;
use crate::version::{Lineage, Version};

const META: &str = "meta";
const META_MAGIC: [u8; 8] = *b"ifmatchM";
const META_FORMAT: u32 = 1;

/// A directory, read and ready for new commits.
pub(crate) struct Recovered {
    pub(crate) lineage: Lineage,
    pub(crate) contents: Contents,
    pub(crate) writer: SegmentWriter,
    pub(crate) next_version: u64,
    pub(crate) live: Arc<LiveSegments>,
    /// The snapshot that it was read from.
    pub(crate) known: Option<Known>,
}

/// What the log adds up to. Values stay encoded until their collection is opened with a type.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) catalog: BTreeMap<String, CatalogEntry>,
    pub(crate) collections: BTreeMap<u32, StoredCollection>,
    pub(crate) last_time: Timestamp,
    /// Who wrote last: the next one is often the same.
    actor: Option<Actor>,
}

impl Contents {
    /// Nothing, after commits that were written up to this time.
    pub(crate) fn after(last_time: Timestamp) -> Contents {
        Contents { last_time, ..Contents::default() }
    }
}

/// Reads the directory, which the caller has locked. Nothing that is stored is changed before all
/// of it has been found good.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::Corrupt`] and [`Error::Io`].
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    size: segment::Size,
    progress: Option<&OnProgress>,
) -> Result<Recovered> {
    let here = &**disk;
    // A process that died may have left names that a power cut would still take back.
    here.sync_names().map_err(|source| io_error(here, "sync", "", source))?;
    let mut names = here.list().map_err(|source| io_error(here, "list", "", source))?;
    names.sort_unstable();
    let lineage = match here.read(META) {
        Ok(bytes) => read_meta(here, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // What else is there is not the store's own.
            names.clear();
            create(here)?
        }
        Err(source) => return Err(io_error(here, "read", META, source)),
    };
    let heads = heads(here, &names)?;
    let Base { start, end, known, mut contents } =
        base::find(here, &names, lineage, &heads, progress)?;
    let log = Replay { disk: here, lineage, start, contents: &mut contents, end: None };
    let tail = log.all(&heads, progress)?;
    if tail.as_ref().map_or(start, Tail::last_version) < end {
        return Err(base::cut_short(here, start, end, tail.as_ref()));
    }
    let (number, next_version) = match tail {
        None => (0, start + 1),
        Some(tail) => (tail.number, tail.mend(here)?),
    };
    remove_left_over(here, &names)?;

    let live = Arc::new(LiveSegments::default());
    for Head { number, first_version, bytes } in heads {
        live.found(LiveSegment { number, first_version, bytes });
    }
    let (own, listed) = (Arc::clone(disk), Arc::clone(&live));
    let writer = SegmentWriter::behind(number, next_version, lineage, own, size, listed);
    Ok(Recovered { lineage, contents, writer, next_version, live, known })
}

/// What a crash left between writing a file and giving it its name.
fn remove_left_over(disk: &dyn Disk, names: &[String]) -> Result<()> {
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(disk, "remove", name, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a directory that holds something else, before anything is written to it.
///
/// # Errors
/// [`Error::NotAStore`] and [`Error::Io`].
pub(crate) fn check_names(disk: &dyn Disk) -> Result<()> {
    let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
    // A crash while creating leaves a temporary file, a fresh file system its own directory.
    let stranger = names.iter().find(|name| !name.ends_with(".tmp") && *name != "lost+found");
    match stranger {
        Some(stranger) if !names.iter().any(|name| name == META) => {
            let detail = format!("it holds {stranger:?} but no {META:?}");
            Err(Error::NotAStore { path: disk.path(""), detail })
        }
        _ => Ok(()),
    }
}

/// What is known of a segment before it is read.
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) first_version: u64,
    /// Of the file.
    pub(crate) bytes: u64,
}

/// The segments in order.
fn heads(disk: &dyn Disk, names: &[String]) -> Result<Vec<Head>> {
    let mut heads = Vec::new();
    for number in names.iter().filter_map(|name| segment::number_of(name)) {
        let name = segment::file_name(number);
        let failed = |source| io_error(disk, "read", &name, source);
        let head = disk.read_at(&name, 0, segment::HEADER).map_err(failed)?;
        let header = segment::Header::decode(&head).map_err(|bad| bad.into_error(disk, &name))?;
        let bytes = disk.len(&name).map_err(failed)?;
        heads.push(Head { number, first_version: header.first_version, bytes });
    }
    Ok(heads)
}

/// Where the log ends, and what has to be mended there.
pub(crate) struct Tail {
    number: u64,
    header: segment::Header,
    next_version: u64,
    valid_len: usize,
    /// Whether nothing was written after what is there.
    closed: bool,
    /// The last segment.
    bytes: Vec<u8>,
}

impl Tail {
    pub(crate) fn last_version(&self) -> u64 {
        self.next_version - 1
    }

    /// File and offset.
    pub(crate) fn place(&self) -> (String, u64) {
        (segment::file_name(self.number), self.valid_len as u64)
    }

    /// After an unclean stop, makes sure that what was read is on the medium. Returns the next
    /// version.
    fn mend(self, disk: &dyn Disk) -> Result<u64> {
        if self.closed {
            return Ok(self.next_version);
        }
        let bytes = self.bytes.get(..self.valid_len).unwrap_or(&self.bytes);
        let valid = Valid { bytes, next_version: self.next_version };
        segment::rewrite(disk, &self.header, &valid)
            .map_err(|source| io_error(disk, "rewrite", &segment::file_name(self.number), source))
    }
}

/// Where the log read so far ends.
struct End {
    number: u64,
    next_version: u64,
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    lineage: Lineage,
    /// What was written up to here is in the contents already.
    start: u64,
    contents: &'a mut Contents,
    end: Option<End>,
}

impl Replay<'_> {
    /// Reads what comes after `start`, one segment at a time. `None` if there is no segment.
    fn all(mut self, heads: &[Head], progress: Option<&OnProgress>) -> Result<Option<Tail>> {
        let first = heads.iter().rposition(|head| head.first_version <= self.start + 1);
        let heads = heads.get(first.unwrap_or(0)..).unwrap_or_default();
        let total = heads.iter().map(|head| head.bytes).sum();
        let mut meter = Meter::new(progress, Phase::Log, total);
        let mut tail = None;
        for head in heads {
            let name = segment::file_name(head.number);
            // The last one goes before the next one comes.
            drop(tail.take());
            let bytes = self.disk.read(&name);
            let bytes = bytes.map_err(|source| io_error(self.disk, "read", &name, source))?;
            tail = Some(self.segment(head.number, bytes)?);
            meter.add(head.bytes);
        }
        Ok(tail)
    }

    fn segment(&mut self, number: u64, bytes: Vec<u8>) -> Result<Tail> {
        let name = segment::file_name(number);
        let corrupt = |damage| corrupt(self.disk, &name, damage);
        let segment = Segment::read(&bytes).map_err(corrupt)?;
        self.check_order(&segment, number)
            .map_err(|detail| corrupt(Damage { offset: 0, detail }))?;
        for record in segment.records() {
            let record = record.map_err(corrupt)?;
            if record.version > self.start {
                self.contents
                    .apply(&record)
                    .map_err(|detail| corrupt(Damage { offset: segment::HEADER as u64, detail }))?;
            }
        }
        let Segment { header, next_version, valid_len, closed, .. } = segment;
        self.end = Some(End { number, next_version });
        Ok(Tail { number, header, next_version, valid_len, closed, bytes })
    }

    /// Segments follow each other without a gap.
    fn check_order(&self, segment: &Segment<'_>, number: u64) -> std::result::Result<(), String> {
        let header = &segment.header;
        if header.lineage != self.lineage || header.number != number {
            return Err(format!(
                "it is segment {} of lineage {}, not {number} of {}",
                header.number, header.lineage, self.lineage
            ));
        }
        let Some(end) = &self.end else { return Ok(()) };
        if number != end.number + 1 {
            return Err(format!("segment {} before it is missing", number - 1));
        }
        let (due, found) = (end.next_version, header.first_version);
        if found != due {
            return Err(format!("it starts at version {found}, where {due} is due"));
        }
        Ok(())
    }
}

impl Contents {
    /// A collection comes to be.
    pub(crate) fn name(&mut self, name: &str, entry: CatalogEntry) {
        self.collections.entry(entry.id).or_default();
        self.catalog.insert(name.to_owned(), entry);
    }

    /// Keeps the state with the higher version. `None` if the collection has no name.
    pub(crate) fn keep_newest(&mut self, id: u32, key: KeyBuf, stored: Stored) -> Option<()> {
        let version = stored.version();
        let is_newer = |kept: &Stored| kept.version() < version;
        self.collections
            .get_mut(&id)?
            .replace(key, |kept| kept.is_none_or(is_newer).then_some(stored));
        Some(())
    }

    fn apply(&mut self, logged: &LogRecord<'_>) -> std::result::Result<(), String> {
        let version = logged.version;
        let unreadable = || format!("the record of version {version} cannot be read");
        let record = record::decode(logged.payload).ok_or_else(unreadable)?;
        let version = Version::new(version).ok_or_else(unreadable)?;
        let actor = record.actor.map(|name| Actor::shared(&mut self.actor, name));
        self.last_time = self.last_time.max(logged.written_at);
        for write in &record.writes {
            if write.collection == CATALOG {
                self.announce(write).ok_or_else(unreadable)?;
            } else {
                let written_at = logged.written_at;
                self.write(write, version, written_at, actor.clone()).ok_or_else(unreadable)?;
            }
        }
        Ok(())
    }

    /// `None` if the entry cannot be read.
    fn announce(&mut self, write: &LoggedWrite<'_>) -> Option<()> {
        let name = std::str::from_utf8(write.key).ok()?;
        self.name(name, CatalogEntry::decode(write.value?)?);
        Some(())
    }

    /// `None` if the collection was not announced.
    fn write(
        &mut self,
        write: &LoggedWrite<'_>,
        version: Version,
        written_at: Timestamp,
        actor: Option<Actor>,
    ) -> Option<()> {
        let collection = self.collections.get_mut(&write.collection)?;
        collection.replace(KeyBuf::from(write.key), |kept| {
            let previous = match kept {
                // The snapshot may have seen a later write than this one.
                Some(kept) if kept.version() >= version => return None,
                Some(Stored::Live { metadata, .. }) => Previous::Live(metadata),
                Some(Stored::Deleted(deletion)) => Previous::Deleted(deletion),
                None => Previous::None,
            };
            Some(match write.value {
                None => {
                    Stored::Deleted(Deletion { version, deleted_by: actor, deleted_at: written_at })
                }
                Some(value) => {
                    let metadata = Metadata::after(previous, version, written_at, actor);
                    Stored::Live { metadata, value: value.into() }
                }
            })
        });
        Some(())
    }
}

/// Makes a new store of a directory that holds nothing.
fn create(disk: &dyn Disk) -> Result<Lineage> {
    let lineage = new_lineage().map_err(|source| io_error(disk, "create", META, source))?;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&META_MAGIC);
    bytes.extend_from_slice(&META_FORMAT.to_le_bytes());
    bytes.extend_from_slice(&lineage.bits().to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let temporary = format!("{META}.tmp");
    let write = || {
        let mut file = disk.create(&temporary)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.rename(&temporary, META)?;
        disk.sync_names()
    };
    write().map_err(|source| io_error(disk, "create", META, source))?;
    Ok(lineage)
}

/// 64 random bits from the system.
pub(crate) fn new_lineage() -> io::Result<Lineage> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    Ok(Lineage::from_bits(u64::from_le_bytes(bits)))
}

fn read_meta(disk: &dyn Disk, bytes: &[u8]) -> Result<Lineage> {
    let not_a_store = |detail: String| Error::NotAStore { path: disk.path(META), detail };
    let mut rest = bytes;
    let magic: Option<[u8; 8]> = take(&mut rest);
    if magic != Some(META_MAGIC) {
        return Err(not_a_store("it was not written by a store".to_owned()));
    }
    let format = take(&mut rest).map(u32::from_le_bytes);
    if let Some(format) = format.filter(|format| *format > META_FORMAT) {
        return Err(not_a_store(format!(
            "it has format {format}; this build reads format {META_FORMAT}, so use a newer one"
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
            Err(corrupt(disk, META, Damage { offset: 0, detail }))
        }
    }
}

fn corrupt(disk: &dyn Disk, name: &str, damage: Damage) -> Error {
    Error::Corrupt { path: disk.path(name), offset: damage.offset, detail: damage.detail }
}

fn io_error(disk: &dyn Disk, action: &'static str, name: &str, source: io::Error) -> Error {
    Error::Io { action, path: disk.path(name), source }
}
