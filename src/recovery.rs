//! Opening a directory: read what is there, mend an unclean end, start the next segment.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::conflict::Deletion;
use crate::disk::Disk;
use crate::entity::{Actor, Metadata, Previous};
use crate::error::{Error, Result};
use crate::log::SegmentWriter;
use crate::log::frame::{LogRecord, take};
use crate::log::reader::{Damage, Segment};
use crate::log::segment::{self, Valid};
use crate::map::KeyBuf;
use crate::record::{self, CATALOG, CatalogEntry, LoggedWrite};
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
}

/// What the log adds up to. Values stay encoded until their collection is opened with a type.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) catalog: BTreeMap<String, CatalogEntry>,
    pub(crate) collections: BTreeMap<u32, StoredCollection>,
    pub(crate) last_time: Timestamp,
}

pub(crate) type StoredCollection = hashbrown::HashMap<KeyBuf, Stored, foldhash::fast::RandomState>;

/// The newest state of a key.
pub(crate) enum Stored {
    Live { metadata: Metadata, value: Box<[u8]> },
    Deleted(Deletion),
}

impl Stored {
    pub(crate) fn version(&self) -> Version {
        match self {
            Stored::Live { metadata, .. } => metadata.version,
            Stored::Deleted(deletion) => deletion.version,
        }
    }
}

/// Reads the directory, which the caller has locked.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::Corrupt`] and [`Error::Io`].
pub(crate) fn recover(disk: &Arc<dyn Disk>, size: segment::Size) -> Result<Recovered> {
    // A process that died may have left names that a power cut would still take back.
    disk.sync_names().map_err(|source| io_error(&**disk, "sync", "", source))?;
    let mut names = disk.list().map_err(|source| io_error(&**disk, "list", "", source))?;
    names.sort_unstable();
    let lineage = match disk.read(META) {
        Ok(bytes) => read_meta(&**disk, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&**disk)?,
        Err(source) => return Err(io_error(&**disk, "read", META, source)),
    };
    let segments = segments(&**disk, &names)?;
    let mut replay = Replay { disk: &**disk, lineage, contents: Contents::default(), end: None };
    for (place, (number, bytes)) in segments.iter().enumerate() {
        replay.segment(*number, bytes, place + 1 == segments.len())?;
    }
    let Replay { contents, end, .. } = replay;
    let (number, next_version) = end.map_or((0, 1), |end| (end.number, end.next_version));
    let writer = SegmentWriter::behind(number, next_version, lineage, Arc::clone(disk), size);
    Ok(Recovered { lineage, contents, writer, next_version })
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

/// The segments in order, with their bytes. One that was never born is left out: a crash between
/// creating a file and syncing its header leaves one without, and no frame goes in before. The
/// one before it is then the last, and its number is given out again.
fn segments(disk: &dyn Disk, names: &[String]) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut segments = Vec::new();
    for number in names.iter().filter_map(|name| segment::number_of(name)) {
        let name = segment::file_name(number);
        let bytes = disk.read(&name).map_err(|source| io_error(disk, "read", &name, source))?;
        segments.push((number, bytes));
    }
    let born = |(_, bytes): &(u64, Vec<u8>)| {
        bytes.len() >= segment::HEADER && bytes.iter().any(|byte| *byte != 0)
    };
    if segments.last().is_some_and(|last| !born(last)) {
        segments.pop();
    }
    if let Some((first @ 2.., _)) = segments.first() {
        let detail = format!("segment {} before it is missing", first - 1);
        return Err(corrupt(disk, &segment::file_name(*first), Damage { offset: 0, detail }));
    }
    Ok(segments)
}

/// Where the log read so far ends.
struct End {
    number: u64,
    next_version: u64,
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    lineage: Lineage,
    contents: Contents,
    end: Option<End>,
}

impl Replay<'_> {
    fn segment(&mut self, number: u64, bytes: &[u8], last: bool) -> Result<()> {
        let name = segment::file_name(number);
        let corrupt = |damage| corrupt(self.disk, &name, damage);
        let segment = Segment::read(bytes).map_err(corrupt)?;
        self.check_order(&segment, number)
            .map_err(|detail| corrupt(Damage { offset: 0, detail }))?;
        for record in segment.records() {
            let record = record.map_err(corrupt)?;
            self.contents
                .apply(&record)
                .map_err(|detail| corrupt(Damage { offset: segment::HEADER as u64, detail }))?;
        }
        let mut next_version = segment.next_version;
        if last && !segment.closed {
            let bytes = bytes.get(..segment.valid_len).unwrap_or(bytes);
            let valid = Valid { bytes, next_version };
            next_version = segment::rewrite(self.disk, &segment.header, &valid)
                .map_err(|source| io_error(self.disk, "rewrite", &name, source))?;
        }
        self.end = Some(End { number, next_version });
        Ok(())
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
    fn apply(&mut self, logged: &LogRecord<'_>) -> std::result::Result<(), String> {
        let version = logged.version;
        let unreadable = || format!("the record of version {version} cannot be read");
        let record = record::decode(logged.payload).ok_or_else(unreadable)?;
        let version = Version::new(version).ok_or_else(unreadable)?;
        let actor = record.actor.map(Actor::from);
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
        let entry = CatalogEntry::decode(write.value?)?;
        self.collections.entry(entry.id).or_default();
        self.catalog.insert(name.to_owned(), entry);
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
        let key = KeyBuf::from(write.key);
        let stored = match write.value {
            None => {
                Stored::Deleted(Deletion { version, deleted_by: actor, deleted_at: written_at })
            }
            Some(value) => {
                let previous = match collection.get(&key) {
                    Some(Stored::Live { metadata, .. }) => Previous::Live(metadata),
                    Some(Stored::Deleted(deletion)) => Previous::Deleted(deletion),
                    None => Previous::None,
                };
                let metadata = Metadata::after(previous, version, written_at, actor);
                Stored::Live { metadata, value: value.into() }
            }
        };
        collection.insert(key, stored);
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
