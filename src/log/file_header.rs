//! The first 64 bytes of a file: what it is, its format, its numbers and their checksum.

use std::fmt;

use crate::disk::Disk;
use crate::error::Error;
use crate::log::frame::take;

pub(crate) const HEADER: usize = 64;
const FORMAT: u32 = 1;

/// No number of a header is larger: no store lives that long, and what comes next can be computed
/// without care for overflow.
pub(crate) const NUMBER_MAX: u64 = u64::MAX / 4;

/// Why the header of a file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged(&'static str),
    /// Whole, and of a format that this build does not know.
    Format(u32),
}

/// A header with up to five numbers.
pub(crate) fn encode(magic: [u8; 8], numbers: &[u64]) -> [u8; HEADER] {
    let fields = numbers.iter().flat_map(|number| number.to_le_bytes());
    let content = magic.into_iter().chain(u64::from(FORMAT).to_le_bytes()).chain(fields);
    let mut header = [0; HEADER];
    for (place, byte) in header.iter_mut().take(HEADER - 4).zip(content) {
        *place = byte;
    }
    let (covered, checksum) = header.split_at_mut(HEADER - 4);
    checksum.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    header
}

/// The numbers of a header.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode<const N: usize>(magic: [u8; 8], bytes: &[u8]) -> Result<[u64; N], BadHeader> {
    let damaged = |detail| Err(BadHeader::Damaged(detail));
    let Some(bytes) = bytes.first_chunk::<HEADER>() else {
        return damaged("it is shorter than its header");
    };
    let (mut rest, checksum) = bytes.split_at(HEADER - 4);
    if checksum != crc32c::crc32c(rest).to_le_bytes() {
        return damaged("its header does not match its checksum");
    }
    if take(&mut rest) != Some(magic) {
        return damaged("it is something else than its name says");
    }
    let format = take(&mut rest).map_or(0, u32::from_le_bytes);
    if format != FORMAT {
        return Err(BadHeader::Format(format));
    }
    let _zero: Option<[u8; 4]> = take(&mut rest);
    Ok(std::array::from_fn(|_| take(&mut rest).map_or(0, u64::from_le_bytes)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_a_header_reads_back_and_no_flipped_bit_passes() {
        let bytes = encode(*b"ifmatchX", &[3, 4, 5, 6, u64::MAX]);
        assert_eq!(decode(*b"ifmatchX", &bytes), Ok([3, 4, 5, 6, u64::MAX]));
        assert!(decode::<5>(*b"ifmatchY", &bytes).is_err());
        for at in 0..HEADER * 8 {
            let mut flipped = bytes;
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode::<5>(*b"ifmatchX", &flipped).is_err());
        }
        assert!(decode::<5>(*b"ifmatchX", &bytes[..HEADER - 1]).is_err());
    }
}
