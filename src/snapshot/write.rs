//! Writing a snapshot: in blocks, each of them synced, at a limited rate, with no lock held.

use std::io;
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::log::frame::FrameBuilder;
use crate::recovery::Stored;
use crate::snapshot::entry::Entry;
use crate::snapshot::header::{HEADER, Header, file_name};
use crate::snapshot::{Contents, Named};
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// A block that has become this long is written.
const BLOCK: usize = 1 << 20;

/// Sleeps are cut into pieces of this length, so that closing need not wait for long.
const NAP: Duration = Duration::from_millis(10);

/// What the writer is given besides the collections.
pub(crate) struct Target<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) clock: &'a dyn Clock,
    /// Bytes per second.
    pub(crate) rate: u64,
    pub(crate) stop: &'a AtomicBool,
}

/// A file that does not have its name yet. Removed when dropped before.
pub(crate) struct Unnamed<'a> {
    disk: &'a dyn Disk,
    start: u64,
    pub(crate) bytes: u64,
    done: bool,
}

/// Writes all entries and the seal, whose `end` is asked for when the entries have been written.
///
/// # Errors
/// [`Error::Closed`] if it was stopped; [`Error::Encode`] and [`Error::Io`]. The file is removed.
pub(crate) fn write<'a>(
    target: &'a Target<'a>,
    header: Header,
    collections: &[Named],
    durable: &AtomicU64,
    end: impl FnOnce() -> Result<u64>,
) -> Result<Unnamed<'a>> {
    let mut writer = Writer::create(target, header)?;
    for Named { name, entry, .. } in collections {
        writer.push(&Entry::Collection { name, entry })?;
    }
    // Deletions before keys: one that goes while the writer is at work makes way for an entity,
    // and that stands in the key index before the writer comes there.
    for Named { entry, contents, .. } in collections {
        match contents {
            Contents::Open(source) => source.deletions(durable, &mut |entry| writer.push(entry))?,
            Contents::Stored(None) => {}
            Contents::Stored(Some(stored)) => {
                for (key, stored) in stored.iter() {
                    writer.push(&entry_of(entry.id, key, stored))?;
                }
                for (key, earlier) in stored.earlier(usize::MAX) {
                    for stored in earlier {
                        writer.push(&entry_of(entry.id, key, stored))?;
                    }
                }
            }
        }
    }
    for Named { contents, .. } in collections {
        if let Contents::Open(source) = contents {
            source.states(durable, &mut |entry| writer.push(entry))?;
        }
    }
    // Keys before what they held earlier: a state that leaves its key meanwhile is found here.
    for Named { contents, .. } in collections {
        if let Contents::Open(source) = contents {
            source.histories(durable, &mut |entry| writer.push(entry))?;
        }
    }
    writer.seal(end()?)
}

fn entry_of<'a>(collection: u32, key: &'a [u8], stored: &'a Stored) -> Entry<'a> {
    match stored {
        Stored::Deleted(deletion) => Entry::Deletion { collection, key, deletion },
        Stored::Live { metadata, value } => Entry::Entity { collection, key, metadata, value },
    }
}

impl Unnamed<'_> {
    /// Gives the file its name, durably.
    ///
    /// # Errors
    /// [`Error::Io`]; the file is removed.
    pub(crate) fn name(mut self) -> Result<()> {
        let name = file_name(self.start);
        let failed = |source| io_error(self.disk, "name", &name, source);
        self.disk.rename(&temporary(self.start), &name).map_err(failed)?;
        self.done = true;
        self.disk.sync_names().map_err(|source| {
            // It is whole: should the name come back, that does no harm.
            let _ = self.disk.remove(&name);
            failed(source)
        })
    }
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Who failed has been told; opening the store removes it too.
            let _ = self.disk.remove(&temporary(self.start));
        }
    }
}

struct Writer<'a> {
    target: &'a Target<'a>,
    header: Header,
    file: Box<dyn DiskFile>,
    unnamed: Unnamed<'a>,
    block: FrameBuilder,
    /// When the open block was begun.
    begun: Duration,
}

impl<'a> Writer<'a> {
    fn create(target: &'a Target<'a>, header: Header) -> Result<Writer<'a>> {
        let (disk, start) = (target.disk, header.start);
        let name = temporary(start);
        let created = disk.create(&name);
        let mut file = created.map_err(|source| io_error(disk, "create", &name, source))?;
        let unnamed = Unnamed { disk, start, bytes: HEADER as u64, done: false };
        let written = file.write_at(0, &header.encode());
        written.map_err(|source| io_error(disk, "write", &name, source))?;
        let block = FrameBuilder::new(1, Vec::new());
        Ok(Writer { target, header, file, unnamed, block, begun: target.clock.monotonic() })
    }

    fn push(&mut self, entry: &Entry<'_>) -> Result<()> {
        if self.target.stop.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        self.block.push(entry.written_at(), |bytes| entry.encode(bytes));
        if self.block.len() < BLOCK {
            return Ok(());
        }
        let len = self.flush(self.header.start)?;
        self.pace(len)
    }

    fn seal(mut self, end: u64) -> Result<Unnamed<'a>> {
        if !self.block.is_empty() {
            self.flush(self.header.start)?;
        }
        self.flush(end)?;
        Ok(self.unnamed)
    }

    /// Writes the block and syncs it; returns its length.
    fn flush(&mut self, synced_to: u64) -> Result<u64> {
        let next = FrameBuilder::new(self.block.next_version(), Vec::new());
        let block = std::mem::replace(&mut self.block, next);
        let offset = self.unnamed.bytes;
        let bytes = block.finish(self.header.place(offset), synced_to);
        let write = self.file.write_at(offset, &bytes).and_then(|()| self.file.sync());
        write.map_err(|source| {
            io_error(self.target.disk, "write", &temporary(self.header.start), source)
        })?;
        let len = bytes.len() as u64;
        self.unnamed.bytes += len;
        self.block = FrameBuilder::new(self.block.next_version(), bytes);
        Ok(len)
    }

    /// Sleeps for as long as the rate demands.
    fn pace(&mut self, len: u64) -> Result<()> {
        let clock = self.target.clock;
        let takes = Duration::from_micros(len.saturating_mul(1_000_000) / self.target.rate.max(1));
        let taken = clock.monotonic().saturating_sub(self.begun);
        let mut left = takes.saturating_sub(taken);
        while !left.is_zero() {
            if self.target.stop.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            let nap = left.min(NAP);
            clock.sleep(nap);
            left -= nap;
        }
        self.begun = clock.monotonic();
        Ok(())
    }
}

fn temporary(start: u64) -> String {
    format!("{}.tmp", file_name(start))
}

pub(crate) fn io_error(
    disk: &dyn Disk,
    action: &'static str,
    name: &str,
    source: io::Error,
) -> Error {
    Error::Io { action, path: disk.path(name), source }
}
