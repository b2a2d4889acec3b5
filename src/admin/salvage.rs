//! Putting together what is left of a damaged store.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use crate::admin::pieces::Pieces;
use crate::admin::place;
use crate::admin::report::Dropped;
use crate::admin::verify::lineage_of_files;
use crate::clock::Timestamp;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::file_header::BadHeader;
use crate::log::frame::{Frame, LogRecord, take};
use crate::log::segment;
use crate::map::KeyBuf;
use crate::progress::{Meter, OnProgress, Phase};
use crate::record::{self, CATALOG, CatalogEntry};
use crate::recovery::birth;
use crate::recovery::{Contents, Stored, StoredCollection, io_error};
use crate::snapshot::entry::{self, Decoded};
use crate::snapshot::{self, header, load};
use crate::version::Lineage;

/// Why a range at the end of a segment is dropped.
const TAIL: &str = "no frame of the log is valid from here on";

/// Why a record cannot be applied, and its version.
type Unusable = (String, Option<u64>);

/// What is left of a store.
pub(super) struct Salvage<'a> {
    disk: &'a dyn Disk,
    lineage: Option<Lineage>,
    pub(super) contents: Contents,
    /// What the collections are, by number.
    entries: BTreeMap<u32, Named>,
    /// Where a collection was migrated: what is older is in another schema.
    renewed: BTreeMap<u32, u64>,
    /// All up to here is in the snapshot.
    start: u64,
    /// The version with which the log should go on.
    due: u64,
    /// The log went up to here when the snapshot was written.
    end: u64,
    /// The highest version that anything names.
    highest: u64,
    /// Commits that were read from the log.
    pub(super) commits: u64,
    pub(super) dropped: Vec<Dropped>,
    pub(super) missing: Vec<RangeInclusive<u64>>,
}

/// A collection, as something says that is this old.
struct Named {
    told_at: u64,
    /// The oldest version that is known to be in this schema.
    since: u64,
    name: String,
    entry: CatalogEntry,
}

impl<'a> Salvage<'a> {
    /// Takes the newest whole snapshot, what is left of the newer ones, and all whole frames of
    /// the log. Without a whole snapshot, what is left of any.
    ///
    /// # Errors
    /// [`Error::NotAStore`] if nothing of a store is there, or of a newer format; [`Error::Io`].
    pub(super) fn all(disk: &'a dyn Disk, progress: &OnProgress<'_>) -> Result<Salvage<'a>> {
        let names = place::names(disk)?;
        let mut salvage = Salvage {
            disk,
            lineage: None,
            contents: Contents::default(),
            entries: BTreeMap::new(),
            renewed: BTreeMap::new(),
            start: 0,
            due: 1,
            end: 0,
            highest: 0,
            commits: 0,
            dropped: Vec::new(),
            missing: Vec::new(),
        };
        salvage.identify(&names)?;
        salvage.snapshots(&names, progress)?;
        salvage.log(&names, progress)?;
        salvage.settle();
        Ok(salvage)
    }

    /// No version is higher.
    pub(super) fn last_version(&self) -> u64 {
        self.highest.max(self.end).max(self.due - 1)
    }

    fn identify(&mut self, names: &[String]) -> Result<()> {
        let is_ours = |name: &String| {
            segment::number_of(name).is_some() || snapshot::start_of(name).is_some()
        };
        let found = match place::kind(self.disk, names) {
            Ok((kind, bytes)) => match birth::read(self.disk, kind, &bytes) {
                Err(Error::Corrupt { detail, .. }) => {
                    self.lose(kind.name, 0..bytes.len(), &detail, None);
                    None
                }
                found => Some(found?),
            },
            Err(error) if !names.iter().any(is_ours) => return Err(error),
            Err(_) => None,
        };
        self.lineage = found.or_else(|| lineage_of_files(self.disk, names));
        Ok(())
    }

    fn snapshots(&mut self, names: &[String], progress: &OnProgress<'_>) -> Result<()> {
        let mut damaged = Vec::new();
        let lineage = self.lineage.unwrap_or(Lineage::from_bits(0));
        for start in names.iter().rev().filter_map(|name| snapshot::start_of(name)) {
            match load::load(self.disk, start, lineage, Some(progress)) {
                Ok(Ok(loaded)) => {
                    // What the log must tell begins at the start, even if more was seen.
                    (self.start, self.due, self.end) = (start, start + 1, loaded.end);
                    self.contents = loaded.contents;
                    break;
                }
                Ok(Err(_)) => damaged.push(start),
                Err(Error::Corrupt { detail, .. }) => {
                    let name = snapshot::file_name(start);
                    let len = self.len(&name)?;
                    self.lose(&name, 0..len, &detail, None);
                }
                Err(other) => return Err(other),
            }
        }
        for (name, entry) in self.contents.catalog.clone() {
            self.entries.insert(entry.id, Named { told_at: self.start, since: 0, name, entry });
        }
        for start in damaged.into_iter().rev() {
            self.snapshot(start)?;
        }
        Ok(())
    }

    /// Takes the whole blocks of a damaged snapshot.
    fn snapshot(&mut self, start: u64) -> Result<()> {
        let name = snapshot::file_name(start);
        let bytes = self.read(&name)?;
        let pieces = match header::Header::decode(&bytes) {
            Ok(header) => Pieces::of(&bytes, header.salt),
            Err(BadHeader::Damaged(detail)) => {
                self.lose(&name, 0..bytes.len().min(header::HEADER), detail, None);
                Pieces::without_header(&bytes, salt_in(&bytes, 24))
            }
            Err(bad) => return Err(bad.into_error(self.disk, &name)),
        };
        for range in pieces.damaged {
            self.lose(&name, range, "no block of the snapshot is valid here", None);
        }
        let (mut named, mut states) = (Vec::new(), Vec::new());
        let mut last_actor = None;
        for (offset, frame) in &pieces.frames {
            for record in frame.records() {
                let decoded = record.and_then(|record| {
                    entry::decode(record.payload, record.written_at, &mut last_actor)
                });
                match decoded {
                    Some(Decoded::Collection { name, entry }) => named.push((name, entry)),
                    Some(Decoded::State { collection, key, stored }) => {
                        states.push((*offset, frame.len(), collection, KeyBuf::from(key), stored));
                    }
                    None => {
                        self.lose(&name, range_of(*offset, frame), "an entry is unreadable", None);
                    }
                }
            }
        }
        for (collection, entry) in named {
            let of_it = states.iter().filter(|state| state.2 == entry.id);
            let live = of_it.filter(|state| matches!(state.4, Stored::Live { .. }));
            let since = live.map(|state| state.4.version().get()).min().unwrap_or(start);
            self.name(start, since, collection, entry);
        }
        for (offset, len, collection, key, stored) in states {
            self.highest = self.highest.max(stored.version().get());
            if self.contents.add(collection, key, stored).is_none() {
                let why = format!("collection {collection} has no name");
                self.lose(&name, offset..offset + len, &why, None);
            }
        }
        Ok(())
    }

    fn log(&mut self, names: &[String], progress: &OnProgress<'_>) -> Result<()> {
        let numbers = || names.iter().filter_map(|name| segment::number_of(name));
        let mut lens = Vec::new();
        for number in numbers() {
            lens.push(self.len(&segment::file_name(number))? as u64);
        }
        let mut meter = Meter::new(Some(progress), Phase::Log, lens.iter().sum());
        for (number, len) in numbers().zip(lens) {
            self.segment(number)?;
            meter.add(len);
        }
        // What a snapshot knows of, and the log should have had.
        self.expect(self.last_version() + 1);
        Ok(())
    }

    fn segment(&mut self, number: u64) -> Result<()> {
        let name = segment::file_name(number);
        let bytes = self.read(&name)?;
        let mut is_whole = true;
        let pieces = match segment::Header::decode(&bytes) {
            Ok(header) if header.number != number || Some(header.lineage) != self.lineage => {
                let why = format!("it is segment {} of lineage {}", header.number, header.lineage);
                self.lose(&name, 0..bytes.len(), &why, None);
                return Ok(());
            }
            Ok(header) => {
                self.expect(header.first_version);
                Pieces::of(&bytes, header.salt)
            }
            Err(BadHeader::Damaged(detail)) => {
                is_whole = false;
                self.lose(&name, 0..bytes.len().min(segment::HEADER), detail, None);
                Pieces::without_header(&bytes, salt_in(&bytes, 32))
            }
            Err(bad) => return Err(bad.into_error(self.disk, &name)),
        };
        let mut damaged = pieces.damaged.into_iter().peekable();
        for (offset, frame) in &pieces.frames {
            let gap = damaged.next_if(|range| range.start < *offset);
            let lost = frame.first_version > self.due && (gap.is_some() || !is_whole);
            let missing = lost.then(|| self.due..=frame.first_version - 1);
            if let Some(range) = gap {
                self.lose(&name, range, "no frame of the log is valid here", missing.clone());
            }
            missing.into_iter().for_each(|versions| self.miss(versions));
            is_whole = true;
            for record in frame.records() {
                let kept = record.ok_or(("a record is longer than its frame".to_owned(), None));
                if let Err((why, version)) = kept.and_then(|record| self.record(&record)) {
                    let missing = version.map(|version| version..=version);
                    missing.clone().into_iter().for_each(|versions| self.miss(versions));
                    self.lose(&name, range_of(*offset, frame), &why, missing);
                }
            }
            self.due = self.due.max(frame.first_version + u64::from(frame.count));
        }
        for range in damaged {
            self.lose(&name, range, TAIL, None);
        }
        Ok(())
    }

    /// Applies a record, or says why it cannot be, and which version that leaves out.
    fn record(&mut self, logged: &LogRecord<'_>) -> std::result::Result<(), Unusable> {
        let version = logged.version;
        if version <= self.start {
            return Ok(());
        }
        let unreadable = || ("the record cannot be read".to_owned(), Some(version));
        let record = record::decode(logged.payload).ok_or_else(unreadable)?;
        for write in &record.writes {
            if write.collection == CATALOG {
                let name = std::str::from_utf8(write.key).map_err(|_| unreadable())?;
                let entry = write.value.and_then(CatalogEntry::decode).ok_or_else(unreadable)?;
                self.name(version, version, name, entry);
            } else if !self.contents.collections.contains_key(&write.collection) {
                let collection = write.collection;
                return Err((format!("collection {collection} has no name"), Some(version)));
            }
        }
        self.contents.apply(logged).map_err(|why| (why, Some(version)))?;
        self.commits += 1;
        Ok(())
    }

    /// Something of the age `told_at` says what a collection is, and that versions from `since` on
    /// are in its schema.
    fn name(&mut self, told_at: u64, since: u64, name: &str, entry: CatalogEntry) {
        let id = entry.id;
        self.contents.name(name, entry.clone());
        let named = Named { told_at, since, name: name.to_owned(), entry };
        match self.entries.get(&id) {
            Some(known) if known.told_at > told_at => {
                if !known.entry.reads_as(&named.entry) {
                    self.renewed.insert(id, known.since);
                }
                return;
            }
            Some(known) if !known.entry.reads_as(&named.entry) => {
                self.renewed.insert(id, since);
            }
            _ => {}
        }
        self.entries.insert(id, named);
    }

    /// The newest word on each collection counts, and nothing is kept in an older schema.
    fn settle(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        self.contents.catalog =
            entries.into_values().map(|Named { name, entry, .. }| (name, entry)).collect();
        for (id, since) in std::mem::take(&mut self.renewed) {
            let Some(stored) = self.contents.collections.remove(&id) else { continue };
            let mut kept = StoredCollection::default();
            for (key, state) in stored.into_states() {
                let current = state.version().get() >= since;
                if current || matches!(state, Stored::Deleted(_)) {
                    kept.replace(key, |_| Some(state));
                }
            }
            self.contents.collections.insert(id, kept);
        }
        // Times go on above all that is left.
        let time = |stored: &Stored| match stored {
            Stored::Live { metadata, .. } => metadata.written_at,
            Stored::Deleted(deletion) => deletion.deleted_at,
        };
        let states = self.contents.collections.values().flat_map(StoredCollection::iter);
        let last = states.map(|(_, stored)| time(stored)).max().unwrap_or(Timestamp(0));
        self.contents.last_time = self.contents.last_time.max(last);
    }

    /// The log goes on with this version.
    fn expect(&mut self, version: u64) {
        if version <= self.due {
            return;
        }
        let missing = self.due..=version - 1;
        if let Some(tail) = self.dropped.last_mut().filter(|dropped| dropped.why == TAIL) {
            tail.missing = Some(missing.clone());
        }
        self.miss(missing);
        self.due = version;
    }

    /// Neighbours become one range.
    fn miss(&mut self, versions: RangeInclusive<u64>) {
        match self.missing.last_mut().filter(|last| last.end() + 1 == *versions.start()) {
            Some(last) => *last = *last.start()..=*versions.end(),
            None => self.missing.push(versions),
        }
    }

    fn lose(
        &mut self,
        name: &str,
        range: Range<usize>,
        why: &str,
        missing: Option<RangeInclusive<u64>>,
    ) {
        let (offset, len) = (range.start as u64, range.len() as u64);
        let (file, why) = (name.to_owned(), why.to_owned());
        self.dropped.push(Dropped { file, offset, len, why, missing });
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.disk.read(name).map_err(|source| io_error(self.disk, "read", name, source))
    }

    fn len(&self, name: &str) -> Result<usize> {
        let len = self.disk.len(name);
        Ok(len.map_err(|source| io_error(self.disk, "read", name, source))? as usize)
    }
}

/// The salt in a header, whether that is whole or not.
fn salt_in(header: &[u8], at: usize) -> Option<u64> {
    take(&mut header.get(at..)?).map(u64::from_le_bytes)
}

fn range_of(offset: usize, frame: &Frame<'_>) -> Range<usize> {
    offset..offset + frame.len()
}
