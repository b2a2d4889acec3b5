//! Segments: the files of the log, their names and headers, and how one is mended.

use std::io;

use crate::disk::Disk;
pub(crate) use crate::log::file_header::HEADER;
use crate::log::file_header::{self, BadHeader, NUMBER_MAX};
use crate::log::frame::{FrameBuilder, Place, Seal};
use crate::version::Lineage;

const MAGIC: [u8; 8] = *b"ifmatchL";

/// How large segments grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    /// How many versions a segment promises to hold at most. After an unclean stop numbering goes
    /// on above the promise, so that a version that was lost is not given out again (G2).
    pub(crate) versions: u64,
}

impl Default for Size {
    fn default() -> Size {
        Size { bytes: 64 << 20, versions: 1 << 20 }
    }
}

/// What stands at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) lineage: Lineage,
    pub(crate) number: u64,
    /// Random, so that a frame left over in a file that is used again does not fit.
    pub(crate) salt: u64,
    pub(crate) first_version: u64,
    /// Versions above are not in this segment.
    pub(crate) ceiling: u64,
}

impl Header {
    /// The header of a segment to come.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub(crate) fn new(
        lineage: Lineage,
        number: u64,
        first_version: u64,
        versions: u64,
    ) -> io::Result<Header> {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let ceiling = first_version.saturating_add(versions - 1);
        Ok(Header { lineage, number, salt: u64::from_le_bytes(salt), first_version, ceiling })
    }

    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let Header { lineage, number, salt, first_version, ceiling } = *self;
        file_header::encode(MAGIC, &[lineage.bits(), number, salt, first_version, ceiling])
    }

    /// Reads the header of a segment.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let [lineage, number, salt, first_version, ceiling] = file_header::decode(MAGIC, bytes)?;
        let lineage = Lineage::from_bits(lineage);
        let header = Header { lineage, number, salt, first_version, ceiling };
        let sensible = (1..=NUMBER_MAX).contains(&header.number)
            && (1..=header.ceiling).contains(&header.first_version)
            && header.ceiling <= NUMBER_MAX;
        sensible.then_some(header).ok_or(BadHeader::Damaged("its numbers make no sense"))
    }

    pub(crate) fn place(&self, offset: usize) -> Place {
        Place { salt: self.salt, offset: offset as u64 }
    }
}

/// The name of a segment's file. Names order as numbers do.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:020}.log")
}

/// The number in a segment's name; `None` for another file.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Replaces a segment by a copy of its valid part, closed by a seal, so that nothing is served
/// from pages that may not have reached the medium. Atomic: a crash leaves the old or the new.
///
/// Versions up to the ceiling may have been given out and lost with the tail: the seal leaves
/// them out, so that not even a second crash makes them come again. Returns the next version.
///
/// # Errors
/// What the system says.
pub(crate) fn rewrite(disk: &dyn Disk, header: &Header, segment: &Valid<'_>) -> io::Result<u64> {
    let name = file_name(header.number);
    let temporary = format!("{name}.tmp");
    let next_version = segment.next_version.max(header.ceiling.saturating_add(1));
    let seal = FrameBuilder::seal(next_version, Seal::Closed);
    let offset = segment.bytes.len();
    let seal = seal.finish(header.place(offset), segment.next_version.saturating_sub(1));
    let mut file = disk.create(&temporary)?;
    file.write_at(0, segment.bytes)?;
    file.write_at(offset as u64, &seal)?;
    file.sync()?;
    disk.rename(&temporary, &name)?;
    disk.sync_names()?;
    Ok(next_version)
}

/// The part of a segment that is kept.
pub(crate) struct Valid<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) next_version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_number_back() {
        assert_eq!(number_of(&file_name(17)), Some(17));
        assert_eq!(number_of("17.log"), None);
        assert_eq!(number_of("00000000000000000017.log.tmp"), None);
        assert_eq!(number_of("+0000000000000000017.log"), None);
    }
}
