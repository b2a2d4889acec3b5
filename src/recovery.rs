//! Opening a directory: read what is there, mend an unclean end, start the next segment.

pub(crate) mod base;
pub(crate) mod birth;
mod stored;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::conflict::Deletion;
use crate::disk::Disk;
use crate::entity::{Actor, Metadata};
use crate::error::{Error, Result};
use crate::log::frame::LogRecord;
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

const META: &str = birth::STORE.name;

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
    progress: Option<&OnProgress<'_>>,
) -> Result<Recovered> {
    let here = &**disk;
    // A process that died may have left names that a power cut would still take back.
    here.sync_names().map_err(|source| io_error(here, "sync", "", source))?;
    let mut names = here.list().map_err(|source| io_error(here, "list", "", source))?;
    names.sort_unstable();
    let lineage = match here.read(META) {
        Ok(bytes) => birth::read(here, &birth::STORE, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // What else is there is not the store's own.
            names.clear();
            create(here)?
        }
        Err(source) => return Err(io_error(here, "read", META, source)),
    };
    let Found { contents, start, known, heads, tail } = read(here, &names, lineage, progress)?;
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

/// What was read of a directory; nothing in it was changed.
pub(crate) struct Found {
    pub(crate) contents: Contents,
    /// Where the snapshot was started that it was read from; zero for none.
    start: u64,
    known: Option<Known>,
    heads: Vec<Head>,
    tail: Option<Tail>,
}

impl Found {
    /// The version of the last commit.
    pub(crate) fn last_version(&self) -> u64 {
        self.tail.as_ref().map_or(self.start, Tail::last_version)
    }

    /// Whether nothing was written after a clean end, or nothing at all.
    pub(crate) fn is_closed(&self) -> bool {
        self.tail.as_ref().is_none_or(|tail| tail.closed)
    }
}

/// Reads the files of these names, which are in order. Changes nothing and needs no lock: beside
/// a running store, what is written meanwhile may look like damage, and files may vanish.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::Corrupt`] and [`Error::Io`].
pub(crate) fn read(
    disk: &dyn Disk,
    names: &[String],
    lineage: Lineage,
    progress: Option<&OnProgress<'_>>,
) -> Result<Found> {
    let heads = heads(disk, names)?;
    let Base { start, end, known, mut contents } =
        base::find(disk, names, lineage, &heads, progress)?;
    let log = Replay { disk, lineage, start, contents: &mut contents, end: None };
    let tail = log.all(&heads, progress)?;
    let last = tail.as_ref().map_or(start, Tail::last_version);
    if last < end {
        return Err(base::cut_short(disk, start, end, last, tail.as_ref().map(Tail::place)));
    }
    Ok(Found { contents, start, known, heads, tail })
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

/// Keeps everybody else out of the directory while the returned guard lives.
///
/// # Errors
/// [`Error::InUse`] and [`Error::Io`].
pub(crate) fn lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>> {
    disk.lock().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => Error::InUse(disk.path("")),
        _ => io_error(disk, "lock", "lock", source),
    })
}

/// Refuses a directory that holds something else, before anything is written to it.
///
/// # Errors
/// [`Error::NotAStore`] and [`Error::Io`].
pub(crate) fn check_names(disk: &dyn Disk) -> Result<()> {
    let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
    let has = |file: &str| names.iter().any(|name| name == file);
    if has(META) {
        return Ok(());
    }
    let detail = if has(birth::BACKUP.name) {
        "it is a backup, which `ifmatch restore` makes a store of elsewhere".to_owned()
    } else if let Some(stranger) = names.iter().find(|name| !may_be_anywhere(name)) {
        format!("it holds {stranger:?} but no {META:?}")
    } else {
        return Ok(());
    };
    Err(Error::NotAStore { path: disk.path(""), detail })
}

/// A crash while creating leaves a temporary file, a fresh file system its own directory.
fn may_be_anywhere(name: &str) -> bool {
    name.ends_with(".tmp") || name == "lost+found"
}

/// What is known of a segment before it is read.
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) first_version: u64,
    /// Of the file.
    pub(crate) bytes: u64,
}

/// The segments in order.
pub(crate) fn heads(disk: &dyn Disk, names: &[String]) -> Result<Vec<Head>> {
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
pub(crate) struct End {
    pub(crate) number: u64,
    pub(crate) next_version: u64,
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
    fn all(mut self, heads: &[Head], progress: Option<&OnProgress<'_>>) -> Result<Option<Tail>> {
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
        check_order(&segment.header, number, self.lineage, self.end.as_ref())
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
}

/// Segments follow each other without a gap. `end` is where the one before ended, if it was read.
///
/// # Errors
/// Says what does not fit.
pub(crate) fn check_order(
    header: &segment::Header,
    number: u64,
    lineage: Lineage,
    end: Option<&End>,
) -> std::result::Result<(), String> {
    if header.lineage != lineage || header.number != number {
        return Err(format!(
            "it is segment {} of lineage {}, not {number} of {lineage}",
            header.number, header.lineage
        ));
    }
    let Some(end) = end else { return Ok(()) };
    if number != end.number + 1 {
        return Err(format!("segment {} before it is missing", number - 1));
    }
    let (due, found) = (end.next_version, header.first_version);
    if found != due {
        return Err(format!("it starts at version {found}, where {due} is due"));
    }
    Ok(())
}

impl Contents {
    /// A collection comes to be, or is told of anew.
    pub(crate) fn name(&mut self, name: &str, entry: CatalogEntry) {
        let collection = self.collections.entry(entry.id).or_default();
        collection.keep_history(entry.history as usize);
        self.catalog.insert(name.to_owned(), entry);
    }

    /// Adds a state of which all is known. `None` if the collection has no name.
    pub(crate) fn add(&mut self, id: u32, key: KeyBuf, stored: Stored) -> Option<()> {
        self.collections.get_mut(&id)?.add(key, stored.version(), |_| stored);
        Some(())
    }

    /// Applies a record that is newer than what is there.
    ///
    /// # Errors
    /// Says why it cannot be.
    pub(crate) fn apply(&mut self, logged: &LogRecord<'_>) -> std::result::Result<(), String> {
        let version = logged.version;
        let unreadable = || format!("the record of version {version} cannot be read");
        let record = record::decode(logged.payload).ok_or_else(unreadable)?;
        let version = Version::new(version).ok_or_else(unreadable)?;
        let actor = record.actor.map(|name| Actor::shared(&mut self.actor, name));
        self.last_time = self.last_time.max(logged.written_at);
        for write in &record.writes {
            if write.collection == CATALOG {
                self.announce(write, version).ok_or_else(unreadable)?;
            } else {
                let written_at = logged.written_at;
                self.write(write, version, written_at, actor.clone()).ok_or_else(unreadable)?;
            }
        }
        Ok(())
    }

    /// `None` if the entry cannot be read.
    fn announce(&mut self, write: &LoggedWrite<'_>, version: Version) -> Option<()> {
        let name = std::str::from_utf8(write.key).ok()?;
        let entry = CatalogEntry::decode(write.value?)?;
        if self.catalog.get(name).is_some_and(|known| !known.reads_as(&entry)) {
            self.collections.entry(entry.id).or_default().begin_schema(version);
        }
        self.name(name, entry);
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
        // The snapshot may have seen this write, or a later one.
        collection.add(KeyBuf::from(write.key), version, |previous| match write.value {
            None => {
                Stored::Deleted(Deletion { version, deleted_by: actor, deleted_at: written_at })
            }
            Some(value) => {
                let metadata = Metadata::after(previous, version, written_at, actor);
                Stored::Live { metadata, value: value.into() }
            }
        });
        Some(())
    }
}

/// Makes a new store of a directory that holds nothing.
fn create(disk: &dyn Disk) -> Result<Lineage> {
    let lineage = new_lineage().map_err(|source| io_error(disk, "create", META, source))?;
    birth::write(disk, &birth::STORE, lineage)?;
    Ok(lineage)
}

/// 64 random bits from the system.
pub(crate) fn new_lineage() -> io::Result<Lineage> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    Ok(Lineage::from_bits(u64::from_le_bytes(bits)))
}

pub(crate) fn corrupt(disk: &dyn Disk, name: &str, damage: Damage) -> Error {
    corrupt_at(disk, name, damage.offset, damage.detail)
}

pub(crate) fn corrupt_at(disk: &dyn Disk, name: &str, offset: u64, detail: String) -> Error {
    Error::Corrupt { path: disk.path(name), offset, detail }
}

pub(crate) fn io_error(
    disk: &dyn Disk,
    action: &'static str,
    name: &str,
    source: io::Error,
) -> Error {
    Error::Io { action, path: disk.path(name), source }
}
