//! Segments: the files of the log, their names and headers, and how one is mended.

use std::fmt;
use std::io;

use crate::disk::Disk;
use crate::error::Error;
use crate::log::frame::{FrameBuilder, Place, Seal, take};
use crate::version::Lineage;

pub(crate) const HEADER: usize = 64;
const MAGIC: [u8; 8] = *b"ifmatchL";
const FORMAT: u32 = 1;

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

/// No segment and no version has a number above: no store lives that long, and what comes next can
/// be computed without care for overflow.
const NUMBER_MAX: u64 = u64::MAX / 4;

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

/// Why the header of a file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged(String),
    /// Whole, and of a format that this build does not know.
    Format(u32),
}

impl BadHeader {
    pub(crate) fn into_error(self, disk: &dyn Disk, name: &str) -> Error {
        let (path, detail) = (disk.path(name), self.to_string());
        match self {
            BadHeader::Damaged(_) => Error::Corrupt { path, offset: 0, detail },
            BadHeader::Format(_) => Error::NotAStore { path, detail },
        }
    }
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadHeader::Damaged(detail) => f.write_str(detail),
            BadHeader::Format(format) => {
                write!(f, "it has format {format}; this build reads format {FORMAT}, ")?;
                f.write_str("so use a newer one")
            }
        }
    }
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
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        for field in
            [self.lineage.bits(), self.number, self.salt, self.first_version, self.ceiling, 0]
        {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.truncate(HEADER - 4);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let mut header = [0; HEADER];
        header.copy_from_slice(&bytes);
        header
    }

    /// Reads the header of a segment.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let damaged = |detail: &str| BadHeader::Damaged(detail.to_owned());
        let bytes: &[u8; HEADER] =
            bytes.first_chunk().ok_or_else(|| damaged("it is shorter than its header"))?;
        let (mut rest, checksum) = bytes.split_at(HEADER - 4);
        if checksum != crc32c::crc32c(rest).to_le_bytes() {
            return Err(damaged("its header does not match its checksum"));
        }
        let mut field = || take(&mut rest).unwrap_or_default();
        if field() != MAGIC {
            return Err(damaged("it is no log segment"));
        }
        let [f0, f1, f2, f3, ..] = field();
        let format = u32::from_le_bytes([f0, f1, f2, f3]);
        if format != FORMAT {
            return Err(BadHeader::Format(format));
        }
        let mut number = || u64::from_le_bytes(field());
        let header = Header {
            lineage: Lineage::from_bits(number()),
            number: number(),
            salt: number(),
            first_version: number(),
            ceiling: number(),
        };
        let sensible = (1..=NUMBER_MAX).contains(&header.number)
            && (1..=header.ceiling).contains(&header.first_version)
            && header.ceiling <= NUMBER_MAX;
        sensible.then_some(header).ok_or_else(|| damaged("its numbers make no sense"))
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
    fn g10_a_header_reads_back_and_no_flipped_bit_passes() {
        let header = Header {
            lineage: Lineage::from_bits(3),
            number: 4,
            salt: 5,
            first_version: 6,
            ceiling: 7,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..HEADER * 8 {
            let mut flipped = bytes;
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Header::decode(&flipped).is_err());
        }
        assert!(Header::decode(&bytes[..HEADER - 1]).is_err());
    }

    #[test]
    fn a_name_gives_its_number_back() {
        assert_eq!(number_of(&file_name(17)), Some(17));
        assert_eq!(number_of("17.log"), None);
        assert_eq!(number_of("00000000000000000017.log.tmp"), None);
        assert_eq!(number_of("+0000000000000000017.log"), None);
    }
}
