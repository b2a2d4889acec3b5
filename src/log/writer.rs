//! The one writer of the log: appends frames to the newest segment, and takes space ahead.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::log::LiveSegments;
use crate::log::frame::{self, FrameBuilder, Seal};
use crate::log::segment::{self, Header, Size};
use crate::version::Lineage;

/// Space is taken from the file system in steps of this size, before it is needed: a full disk
/// is found then, and a sync need not write the length of the file.
const STEP: u64 = 1 << 20;

/// The next segment, before it has a header and a name.
const SPARE: &str = "spare.tmp";

/// Appends frames to the newest segment. A frame that does not fit goes to the next one, whose
/// space was taken before.
pub(crate) struct SegmentWriter {
    disk: Arc<dyn Disk>,
    header: Header,
    /// None before the first write: opening a store takes no space.
    file: Option<Space>,
    /// Where the next frame goes.
    offset: u64,
    spare: Option<Space>,
    size: Size,
    live: Arc<LiveSegments>,
    /// Whether something was written that no sync covers.
    unsynced: bool,
}

/// A file and how much of it is the store's own already.
struct Space {
    file: Box<dyn DiskFile>,
    bytes: u64,
}

impl SegmentWriter {
    /// Goes on behind segment `number`, in which nothing has room any more.
    pub(crate) fn behind(
        number: u64,
        next_version: u64,
        lineage: Lineage,
        disk: Arc<dyn Disk>,
        size: Size,
        live: Arc<LiveSegments>,
    ) -> SegmentWriter {
        let ceiling = next_version - 1;
        let header = Header { lineage, number, salt: 0, first_version: next_version, ceiling };
        let (file, offset, spare, unsynced) = (None, 0, None, false);
        SegmentWriter { disk, header, file, offset, spare, size, live, unsynced }
    }

    /// Whether a segment was started since the store was opened.
    pub(crate) fn has_segment(&self) -> bool {
        self.file.is_some()
    }

    /// No version above is in the segment.
    pub(crate) fn ceiling(&self) -> u64 {
        self.header.ceiling
    }

    /// Bytes that the frame after one of `len` bytes may have, if it starts at `next_version`:
    /// space for them is there.
    pub(crate) fn room_after(&self, len: u64, next_version: u64) -> u64 {
        let spare = self.spare.as_ref().map_or(0, Space::room);
        match self.free().checked_sub(len) {
            None => spare.saturating_sub(len),
            Some(_) if next_version > self.header.ceiling => spare,
            Some(rest) => rest.max(spare),
        }
    }

    /// Goes to the next segment if a frame of `len` bytes that starts at `first_version` cannot
    /// go into this one, and the next one has been prepared.
    ///
    /// # Errors
    /// What the system says. The writer is of no more use then.
    pub(crate) fn place(&mut self, len: u64, first_version: u64) -> io::Result<()> {
        if len <= self.free() && first_version <= self.header.ceiling {
            return Ok(());
        }
        // The space for one may have been refused.
        let Some(mut spare) = self.spare.take_if(|spare| spare.room() >= len.max(1)) else {
            return Ok(());
        };
        // Before the first byte of the next segment.
        self.sync()?;
        let Header { lineage, number, .. } = self.header;
        let header = Header::new(lineage, number + 1, first_version, self.size.versions)?;
        name(&*self.disk, &header, &mut spare)?;
        let before = self.file.is_some().then_some(self.offset);
        self.live.started(header.number, header.first_version, before);
        (self.header, self.file, self.offset) = (header, Some(spare), segment::HEADER as u64);
        Ok(())
    }

    /// Takes space: after a frame of `len` bytes one of `want` bytes fits that starts at
    /// `next_version`.
    ///
    /// # Errors
    /// What the system says. If there is no space, the writer is as good as before.
    pub(crate) fn make_room(&mut self, len: u64, next_version: u64, want: u64) -> io::Result<()> {
        if self.room_after(len, next_version) >= want {
            return Ok(());
        }
        let end = self.offset + len + want;
        if end <= self.size.bytes
            && next_version <= self.header.ceiling
            && let Some(file) = &mut self.file
        {
            let step = step(self.size.bytes);
            return file.grow_to(end.next_multiple_of(step).min(self.size.bytes), step);
        }
        let spare = match &mut self.spare {
            Some(spare) => spare,
            None => self.spare.insert(Space::create(&*self.disk)?),
        };
        let (bytes, step) = (segment::HEADER as u64 + want, step(self.size.bytes));
        spare.grow_to(bytes.next_multiple_of(step), step)
    }

    /// Writes a frame, for which there is place. Returns its buffer, to be used again.
    ///
    /// # Errors
    /// What the system says. The writer is of no more use then.
    pub(crate) fn write(&mut self, frame: FrameBuilder, synced_to: u64) -> io::Result<Vec<u8>> {
        let Some(space) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let bytes = frame.finish(self.header.place(self.offset as usize), synced_to);
        self.unsynced = true;
        space.file.write_at(self.offset, &bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// What the system says. The writer is of no more use then.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced
            && let Some(space) = &mut self.file
        {
            space.file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Ends what was written so far with a seal, durably. Without space for one it does nothing:
    /// a seal lets more damage be told from a tear, but nothing rests on it.
    ///
    /// # Errors
    /// As [`write`](SegmentWriter::write).
    pub(crate) fn seal(&mut self, next_version: u64, seal: Seal) -> io::Result<()> {
        if self.free() >= SEAL {
            self.write(FrameBuilder::seal(next_version, seal), next_version - 1)?;
        }
        self.sync()
    }

    /// Gives the space of the next segment back: there will be none.
    pub(crate) fn discard_spare(&mut self) {
        if self.spare.take().is_some() {
            // If it stays, it is overwritten when the store is opened again.
            let _ = self.disk.remove(SPARE);
        }
    }

    /// Bytes that the writer should keep ahead: in small segments, one of them.
    pub(crate) fn room_ahead(&self) -> u64 {
        step(self.size.bytes).saturating_sub(segment::HEADER as u64)
    }

    /// Bytes of this segment for which there is space.
    pub(crate) fn free(&self) -> u64 {
        self.file.as_ref().map_or(0, |space| space.bytes.saturating_sub(self.offset))
    }
}

/// Bytes of a seal.
pub(crate) const SEAL: u64 = frame::HEADER as u64 + 1;

/// In small segments space is taken by the segment.
fn step(segment_bytes: u64) -> u64 {
    STEP.min(segment_bytes)
}

/// Gives the spare segment its header and its name: a segment has both or is none.
fn name(disk: &dyn Disk, header: &Header, spare: &mut Space) -> io::Result<()> {
    spare.file.write_at(0, &header.encode())?;
    spare.file.sync()?;
    disk.rename(SPARE, &segment::file_name(header.number))?;
    disk.sync_names()
}

impl Space {
    fn create(disk: &dyn Disk) -> io::Result<Space> {
        Ok(Space { file: disk.create(SPARE)?, bytes: 0 })
    }

    /// What is left for frames in a segment to be.
    fn room(&self) -> u64 {
        self.bytes.saturating_sub(segment::HEADER as u64)
    }

    /// Writes zeroes: a length alone takes no space, and unwritten extents cost a sync more.
    /// What could be taken before there was no more is kept.
    fn grow_to(&mut self, end: u64, step: u64) -> io::Result<()> {
        let zeroes = vec![0; step.min(end.saturating_sub(self.bytes)) as usize];
        while self.bytes < end {
            let part = (end - self.bytes).min(step);
            self.file.write_at(self.bytes, zeroes.get(..part as usize).unwrap_or(&zeroes))?;
            self.bytes += part;
        }
        Ok(())
    }
}
