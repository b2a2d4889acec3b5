//! Commits that are not in memory, read from the log beside its writer.
//!
//! What is shown of the log has been written, so a frame that is missing where a version is due is
//! either in the next segment, or gone with its segment, or damaged: never left out in silence.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Weak};

use crate::disk::Disk;
use crate::entity::Actor;
use crate::error::{Error, Result};
use crate::feed::change::{Change, Commit};
use crate::feed::encoded::{Catalog, Encoded};
use crate::feed::filter::Filter;
use crate::log::frame::{self, Frame, FrameHead, LogRecord};
use crate::log::segment::{self, Header};
use crate::log::{LiveSegment, LiveSegments, Log};
use crate::record::{self, CATALOG, CatalogEntry, LoggedWrite};
use crate::recovery::{corrupt_at, io_error};
use crate::sync::Ordering;
use crate::version::{Cursor, Lineage, Version};

/// So many bytes of frames are read at a time, or one frame if it is longer.
const BATCH: u64 = 1 << 20;

/// So many bytes are asked of the disk at once.
const CHUNK: usize = 256 << 10;

/// The log of a store, for reading.
pub(crate) struct Past {
    disk: Arc<dyn Disk>,
    log: Arc<Log>,
    live: Arc<LiveSegments>,
    /// Does not keep the store's contents.
    catalog: Weak<dyn Catalog>,
    lineage: Lineage,
    /// The segment of this number is not there, and none before it.
    missing: u64,
    place: Option<Place>,
}

/// Where the next batch begins, and what is known there.
struct Place {
    walk: Walk,
    known: Known,
}

#[derive(Default)]
struct Known {
    names: BTreeMap<u32, Name>,
    last_actor: Option<Actor>,
}

/// A collection as it is from some version on.
struct Name {
    name: Arc<str>,
    kind: Arc<str>,
    schema: u32,
    codec: Arc<str>,
    /// Before this version it was in another schema, or in none.
    since: u64,
}

/// Commits in order, and the version up to which there are no others.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) commits: VecDeque<Commit>,
    pub(crate) upto: u64,
}

impl Past {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        log: Arc<Log>,
        live: Arc<LiveSegments>,
        catalog: Weak<dyn Catalog>,
        lineage: Lineage,
    ) -> Past {
        Past { disk, log, live, catalog, lineage, missing: 0, place: None }
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The version behind which the log is whole.
    pub(crate) fn oldest(&self) -> u64 {
        if self.live.oldest(0).is_none() {
            // What is shown without being durable may not be written yet. Should that fail, it
            // will not be.
            let _ = self.log.flush();
        }
        let first = self.live.oldest(self.missing).map(|oldest| oldest.first_version);
        first.unwrap_or_else(|| self.log.last_version() + 1) - 1
    }

    /// Some commits after the version `after`, of which one is shown. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Gap`] if they are not kept any more; [`Error::Corrupt`], [`Error::Poisoned`] and
    /// [`Error::Io`].
    pub(crate) fn read(&mut self, after: u64, filter: &Filter) -> Result<Batch> {
        if let Some(batch) = self.read_what_is_written(after, filter)? {
            return Ok(batch);
        }
        // As above.
        self.log.flush().map_err(Error::nothing_written)?;
        if let Some(batch) = self.read_what_is_written(after, filter)? {
            return Ok(batch);
        }
        match &self.place {
            None => Err(self.gap(after)),
            Some(Place { walk, .. }) => {
                let detail = format!("version {} was durable, but is missing", after + 1);
                Err(corrupt_at(&*self.disk, &walk.name(), walk.at.offset, detail))
            }
        }
    }

    /// `None` if it does not come to the version behind `after`.
    fn read_what_is_written(&mut self, after: u64, filter: &Filter) -> Result<Option<Batch>> {
        let shown = self.log.shown().load(Ordering::Acquire);
        match self.read_up_to(shown, after, filter) {
            // The segment went while it was read, or before. It may still be in the list.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let oldest = self.live.oldest(self.missing);
                self.missing = oldest.map_or(self.missing, |oldest| oldest.number);
                Err(self.gap(after))
            }
            result => result.map(|batch| batch.filter(|batch| batch.upto > after)),
        }
    }

    fn read_up_to(&mut self, shown: u64, after: u64, filter: &Filter) -> Result<Option<Batch>> {
        let place = self.place.take().filter(|place| place.walk.at.due == after + 1);
        let found = match place {
            Some(place) => Some(place),
            None => self.find(shown, after)?,
        };
        let Some(Place { mut walk, mut known }) = found else { return Ok(None) };
        let mut commits = VecDeque::new();
        walk.start_anew();
        let mut each = |record: &LogRecord<'_>| {
            if record.version > after {
                commits.extend(self.commit(&mut known, record, filter)?);
            }
            Some(())
        };
        while walk.read < BATCH && walk.step(self, shown, &mut each)? {}
        let upto = walk.at.due - 1;
        self.place = Some(Place { walk, known });
        Ok(Some(Batch { commits, upto }))
    }

    /// The place of the version behind `after`. `None` if nothing was written yet.
    fn find(&self, shown: u64, after: u64) -> Result<Option<Place>> {
        if self.live.oldest(0).is_none() {
            return Ok(None);
        }
        // Before the log is looked through: what is announced later is found there.
        let catalog = self.catalog.upgrade().ok_or(Error::Closed)?;
        let names = catalog.names().into_iter();
        let names = names.map(|(id, (name, entry))| (id, Name::new(name, &entry, 0)));
        let mut known = Known { names: names.collect(), last_actor: None };
        let segment = self.live.holding(after + 1).ok_or_else(|| self.gap(after))?;
        let mut walk = Walk::into(self, segment)?;
        let mut start = None;
        loop {
            let here = walk.at;
            let went = walk.step(self, shown, &mut |record| {
                let record_of = (record.version > after).then(|| record::decode(record.payload));
                for write in record_of.map_or(Some(Vec::new()), |record| Some(record?.writes))? {
                    known.announce(&write, record.version)?;
                }
                Some(())
            })?;
            if !went || walk.at.due > after + 1 {
                start = start.or(Some(here));
            }
            if !went {
                break;
            }
        }
        walk.at = start.unwrap_or(walk.at);
        Ok(Some(Place { walk, known }))
    }

    /// The part of a record that is asked for. The outer `None` if it cannot be read.
    fn commit(
        &self,
        known: &mut Known,
        logged: &LogRecord<'_>,
        filter: &Filter,
    ) -> Option<Option<Commit>> {
        let record = record::decode(logged.payload)?;
        let (version, written_at) = (Version::new(logged.version)?, logged.written_at);
        let written_by = record.actor.map(|name| Actor::shared(&mut known.last_actor, name));
        let mut changes = Vec::new();
        for write in &record.writes {
            known.announce(write, logged.version)?;
            if write.collection == CATALOG {
                continue;
            }
            let Name { name, kind, schema, codec, since } = known.names.get(&write.collection)?;
            if !filter.passes(name, write.key) {
                continue;
            }
            let encoded = write.value.map(|bytes| Encoded {
                bytes: bytes.into(),
                written_in: (logged.version >= *since).then(|| (*schema, Arc::clone(codec))),
                version,
                written_at,
                written_by: written_by.clone(),
                catalog: Weak::clone(&self.catalog),
            });
            changes.push(Change::logged(name, kind, write.key, encoded));
        }
        let some = !changes.is_empty();
        let place = (logged.version, written_at);
        Some(some.then(|| Commit::new(place, written_by, changes, 0)))
    }

    fn gap(&self, after: u64) -> Error {
        let cursor = |version| Cursor { lineage: self.lineage, version };
        Error::Gap { asked_for: cursor(after), oldest: cursor(self.oldest()) }
    }
}

impl Known {
    /// Takes over what a write to the catalog says. `None` if it cannot be read.
    fn announce(&mut self, write: &LoggedWrite<'_>, version: u64) -> Option<()> {
        if write.collection == CATALOG {
            let name = std::str::from_utf8(write.key).ok()?;
            let entry = CatalogEntry::decode(write.value?)?;
            if self.names.get(&entry.id).is_none_or(|known| known.since <= version) {
                self.names.insert(entry.id, Name::new(name.into(), &entry, version));
            }
        }
        Some(())
    }
}

impl Name {
    fn new(name: Arc<str>, entry: &CatalogEntry, since: u64) -> Name {
        let CatalogEntry { key_kind, schema, codec, .. } = entry;
        Name {
            name,
            kind: key_kind.as_str().into(),
            schema: *schema,
            codec: codec.as_str().into(),
            since,
        }
    }
}

/// Goes through the log, frame by frame.
struct Walk {
    at: At,
    /// Bytes of frames that it went through.
    read: u64,
    /// Bytes of the segment that were read last, from this offset on.
    chunk: Vec<u8>,
    chunk_start: u64,
}

#[derive(Clone, Copy)]
struct At {
    header: Header,
    offset: u64,
    /// The version that is due there.
    due: u64,
}

impl Walk {
    fn into(past: &Past, segment: LiveSegment) -> Result<Walk> {
        let name = segment::file_name(segment.number);
        let header = past.disk.read_at(&name, 0, segment::HEADER);
        let header = header.map_err(|source| io_error(&*past.disk, "read", &name, source))?;
        let header = Header::decode(&header).map_err(|bad| bad.into_error(&*past.disk, &name))?;
        if (header.lineage, header.number) != (past.lineage, segment.number) {
            let detail = "it is not the segment that it was".to_owned();
            return Err(corrupt_at(&*past.disk, &name, 0, detail));
        }
        let at = At { header, offset: segment::HEADER as u64, due: header.first_version };
        Ok(Walk { at, read: 0, chunk: Vec::new(), chunk_start: 0 })
    }

    /// Forgets what was read before: more has been written meanwhile.
    fn start_anew(&mut self) {
        self.chunk.clear();
        self.read = 0;
    }

    fn name(&self) -> String {
        segment::file_name(self.at.header.number)
    }

    /// Goes through one frame, or into the next segment. `false` if there is nothing to be shown.
    fn step(
        &mut self,
        past: &Past,
        shown: u64,
        each: &mut dyn FnMut(&LogRecord<'_>) -> Option<()>,
    ) -> Result<bool> {
        let At { header, offset, due } = self.at;
        let place = header.place(offset as usize);
        self.load(past, frame::HEADER)?;
        let len = FrameHead::read(self.bytes(), place).map_or(0, |head| head.len());
        self.load(past, len)?;
        let Some(frame) = Frame::read(self.bytes(), place) else {
            return self.next_segment(past);
        };
        let corrupt = |detail| corrupt_at(&*past.disk, &self.name(), offset, detail);
        let found = frame.first_version;
        if found < due || (found > due && !frame.is_seal()) {
            return Err(corrupt(format!("version {found} follows where {due} is due")));
        }
        if !frame.is_seal() && frame.last_version() > shown {
            return Ok(false);
        }
        for record in frame.records() {
            let read = record.as_ref().and_then(&mut *each);
            read.ok_or_else(|| corrupt(format!("a record behind version {due} is damaged")))?;
        }
        let due = found + u64::from(frame.count);
        self.at = At { offset: offset + len as u64, due, ..self.at };
        self.read += len as u64;
        Ok(true)
    }

    /// The next segment starts where this one ends.
    fn next_segment(&mut self, past: &Past) -> Result<bool> {
        let At { header, due, .. } = self.at;
        let next = past.live.holding(due);
        match next.filter(|next| next.number > header.number && next.first_version == due) {
            Some(next) => {
                *self = Walk { read: self.read, ..Walk::into(past, next)? };
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The bytes from where it is.
    fn bytes(&self) -> &[u8] {
        let start = self.at.offset.checked_sub(self.chunk_start);
        start.and_then(|start| self.chunk.get(start as usize..)).unwrap_or_default()
    }

    /// Sees to it that there are so many bytes from where it is, if the file has them.
    fn load(&mut self, past: &Past, len: usize) -> Result<()> {
        if self.bytes().len() < len {
            let (name, offset) = (self.name(), self.at.offset);
            let chunk = past.disk.read_at(&name, offset, len.max(CHUNK));
            self.chunk = chunk.map_err(|source| io_error(&*past.disk, "read", &name, source))?;
            self.chunk_start = offset;
        }
        Ok(())
    }
}
