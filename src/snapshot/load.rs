//! Reading a snapshot back, block by block: all of it is checked, or nothing of it is used.

use std::collections::BTreeSet;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::file_header::{BadHeader, NUMBER_MAX};
use crate::log::frame::{self, Frame, FrameHead, Place};
use crate::log::reader::Damage;
use crate::map::KeyBuf;
use crate::parallel::in_parts_of;
use crate::progress::{Meter, OnProgress, Phase};
use crate::record::CatalogEntry;
use crate::recovery::{Contents, Stored};
use crate::snapshot::entry::{self, Decoded};
use crate::snapshot::header::{HEADER, Header, file_name};
use crate::snapshot::write::io_error;
use crate::version::Lineage;

/// A snapshot that is whole.
pub(crate) struct Loaded {
    /// The log must go up to here.
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    pub(crate) contents: Contents,
}

/// Reads the snapshot that was started at `start`. The inner error is damage: another snapshot
/// may do.
///
/// # Errors
/// [`Error::Io`]; [`Error::NotAStore`] and [`Error::Corrupt`] if it is whole, but of a newer
/// format or another lineage.
pub(crate) fn load(
    disk: &dyn Disk,
    start: u64,
    lineage: Lineage,
    progress: Option<&OnProgress<'_>>,
) -> Result<std::result::Result<Loaded, Damage>> {
    let scan = match Scan::all(disk, start, lineage)? {
        Ok(scan) => scan,
        Err(damage) => return Ok(Err(damage)),
    };
    let (header, bytes) = (scan.header, scan.len);
    let mut contents = Contents::after(header.time);
    let mut meter = Meter::new(progress, Phase::Snapshot, bytes);
    let mut blocks = &scan.blocks[..];
    while !blocks.is_empty() {
        let (round, later) = blocks.split_at(round_of(blocks));
        blocks = later;
        // Each block can be read by itself.
        let parts = in_parts_of(round, 1, |part| -> Result<_> {
            let mut entries = Entries::default();
            for block in part {
                let bytes = read(disk, start, block.offset, block.len)?;
                match entries.take(&bytes, header.place(block.offset)) {
                    Ok(()) => {}
                    Err(detail) => return Ok(Err(Damage { offset: block.offset, detail })),
                }
            }
            Ok(Ok(entries))
        });
        for entries in parts {
            let kept = match entries? {
                Ok(entries) => entries.keep(&mut contents),
                Err(damage) => return Ok(Err(damage)),
            };
            if let Err(detail) = kept {
                let offset = round.first().map_or(0, |block| block.offset);
                return Ok(Err(Damage { offset, detail }));
            }
        }
        meter.add(round.iter().map(|block| block.len as u64).sum());
    }
    // What is left are the header and the seal.
    meter.finish();
    Ok(Ok(Loaded { end: scan.end.unwrap_or(start), bytes, contents }))
}

/// A snapshot that was read through and found whole.
pub(crate) struct Checked {
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Reads a snapshot through, one block at a time, and keeps nothing of it. `each` is given all
/// its bytes in order. The inner error is damage.
///
/// # Errors
/// As [`load`]; what `each` says.
pub(crate) fn check(
    disk: &dyn Disk,
    start: u64,
    lineage: Lineage,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<std::result::Result<Checked, Damage>> {
    let scan = match Scan::all(disk, start, lineage)? {
        Ok(scan) => scan,
        Err(damage) => return Ok(Err(damage)),
    };
    each(0, &scan.header.encode())?;
    let mut named = BTreeSet::new();
    for Block { offset, len } in scan.blocks {
        let bytes = read(disk, start, offset, len)?;
        let mut entries = Entries::default();
        let taken = entries.take(&bytes, scan.header.place(offset)).and_then(|()| {
            named.extend(entries.named.iter().map(|(_, entry)| entry.id));
            match entries.states.iter().find(|(id, ..)| !named.contains(id)) {
                Some((id, ..)) => Err(format!("collection {id} has no name")),
                None => Ok(()),
            }
        });
        if let Err(detail) = taken {
            return Ok(Err(Damage { offset, detail }));
        }
        each(offset, &bytes)?;
    }
    each(scan.offset, &read(disk, start, scan.offset, frame::HEADER)?)?;
    let (end, entries) = (scan.end.unwrap_or(start), scan.next_entry - 1);
    Ok(Ok(Checked { end, bytes: scan.len, entries }))
}

fn read(disk: &dyn Disk, start: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
    let name = file_name(start);
    disk.read_at(&name, offset, len).map_err(|source| io_error(disk, "read", &name, source))
}

/// How many bytes are read before their entries are put in their place, which one thread does.
const ROUND: usize = 16 << 20;

/// How many blocks to read next; at least one.
fn round_of(blocks: &[Block]) -> usize {
    let mut bytes = 0;
    let within = blocks.iter().skip(1).take_while(|block| {
        bytes += block.len;
        bytes < ROUND
    });
    blocks.len().min(1 + within.count())
}

/// Reads `bytes` as a whole snapshot.
///
/// # Errors
/// Says what is damaged.
#[cfg(feature = "testing")]
pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<Contents, Damage> {
    let header =
        Header::decode(bytes).map_err(|bad| Damage { offset: 0, detail: bad.to_string() })?;
    let at = |offset: u64| bytes.get(usize::try_from(offset).ok()?..);
    let mut scan = Scan::new(header, bytes.len() as u64);
    while scan.end.is_none() {
        scan.next(at(scan.offset).unwrap_or_default())?;
    }
    let mut contents = Contents::after(header.time);
    for Block { offset, len } in scan.blocks {
        let block = at(offset).and_then(|rest| rest.get(..len)).unwrap_or_default();
        let mut entries = Entries::default();
        entries
            .take(block, header.place(offset))
            .and_then(|()| entries.keep(&mut contents))
            .map_err(|detail| Damage { offset, detail })?;
    }
    Ok(contents)
}

/// Goes from block to block by their heads: they follow each other up to the seal, and nothing
/// follows that.
struct Scan {
    header: Header,
    len: u64,
    offset: u64,
    next_entry: u64,
    blocks: Vec<Block>,
    end: Option<u64>,
}

struct Block {
    offset: u64,
    len: usize,
}

impl Scan {
    fn new(header: Header, len: u64) -> Scan {
        Scan { header, len, offset: HEADER as u64, next_entry: 1, blocks: Vec::new(), end: None }
    }

    /// Scans a whole file. The inner error is damage.
    fn all(
        disk: &dyn Disk,
        start: u64,
        lineage: Lineage,
    ) -> Result<std::result::Result<Scan, Damage>> {
        let name = file_name(start);
        let len = disk.len(&name).map_err(|source| io_error(disk, "read", &name, source))?;
        let header = match Header::decode(&read(disk, start, 0, HEADER)?) {
            Ok(header) => header,
            Err(BadHeader::Damaged(detail)) => {
                return Ok(Err(Damage { offset: 0, detail: detail.to_owned() }));
            }
            Err(bad @ BadHeader::Format(_)) => return Err(bad.into_error(disk, &name)),
        };
        if header.lineage != lineage {
            let detail = format!("it is of lineage {}, not of {lineage}", header.lineage);
            return Err(Error::Corrupt { path: disk.path(&name), offset: 16, detail });
        }
        if header.start != start {
            let detail = format!("it was started at version {}, not {start}", header.start);
            return Ok(Err(Damage { offset: 32, detail }));
        }
        let mut scan = Scan::new(header, len);
        while scan.end.is_none() {
            if let Err(damage) = scan.next(&read(disk, start, scan.offset, frame::HEADER)?) {
                return Ok(Err(damage));
            }
        }
        Ok(Ok(scan))
    }

    fn next(&mut self, bytes: &[u8]) -> std::result::Result<(), Damage> {
        let damage = |detail: &str| Err(Damage { offset: self.offset, detail: detail.to_owned() });
        let Some(head) = FrameHead::read(bytes, self.header.place(self.offset)) else {
            return damage("no valid block");
        };
        // Nobody asks for more memory than the file has bytes.
        let left = self.len.saturating_sub(self.offset);
        if head.len() as u64 > left {
            return damage("it ends within a block");
        }
        if head.first_version != self.next_entry {
            return damage("a block is missing before this one");
        }
        if head.count > 0 {
            if head.synced_to != self.header.start {
                return damage("a block of another snapshot");
            }
            self.blocks.push(Block { offset: self.offset, len: head.len() });
            self.next_entry += u64::from(head.count);
            self.offset += head.len() as u64;
            return Ok(());
        }
        if head.len() != frame::HEADER || head.len() as u64 != left {
            return damage("it goes on behind its seal");
        }
        if !(self.header.start..=NUMBER_MAX).contains(&head.synced_to) {
            return damage("its end makes no sense");
        }
        self.end = Some(head.synced_to);
        Ok(())
    }
}

/// What blocks hold, before it is known to whom it belongs.
#[derive(Default)]
struct Entries {
    named: Vec<(String, CatalogEntry)>,
    states: Vec<(u32, KeyBuf, Stored)>,
}

impl Entries {
    /// Adds the entries of a block.
    fn take(&mut self, bytes: &[u8], place: Place) -> std::result::Result<(), String> {
        let frame = Frame::read(bytes, place).ok_or("a block does not match its checksum")?;
        let mut last_actor = None;
        for record in frame.records() {
            let record = record.ok_or("an entry is longer than its block")?;
            let entry = entry::decode(record.payload, record.written_at, &mut last_actor)
                .ok_or_else(|| format!("entry {} cannot be read", record.version))?;
            match entry {
                Decoded::Collection { name, entry } => self.named.push((name.to_owned(), entry)),
                Decoded::State { collection, key, stored } => {
                    self.states.push((collection, KeyBuf::from(key), stored));
                }
            }
        }
        Ok(())
    }

    fn keep(self, contents: &mut Contents) -> std::result::Result<(), String> {
        for (name, entry) in self.named {
            contents.name(&name, entry);
        }
        for (collection, key, stored) in self.states {
            contents
                .add(collection, key, stored)
                .ok_or_else(|| format!("collection {collection} has no name"))?;
        }
        Ok(())
    }
}
