//! The head of a snapshot's file, and its name.

use crate::clock::Timestamp;
use crate::log::frame::{Place, take};
use crate::log::segment::BadHeader;
use crate::version::Lineage;

pub(crate) const HEADER: usize = 64;
const MAGIC: [u8; 8] = *b"ifmatchS";
const FORMAT: u32 = 1;

/// No version is higher: no store lives that long, and what comes next can be computed.
pub(crate) const VERSION_MAX: u64 = u64::MAX / 4;

/// What stands at the start of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) lineage: Lineage,
    /// Random, so that a block of another file does not fit.
    pub(crate) salt: u64,
    /// All commits up to this one were durable when the snapshot was begun.
    pub(crate) start: u64,
    /// None of them was written later.
    pub(crate) time: Timestamp,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        for field in [self.lineage.bits(), self.salt, self.start, self.time.0] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.resize(HEADER - 4, 0);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a snapshot.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let damaged = |detail: &str| BadHeader::Damaged(detail.to_owned());
        let bytes: &[u8; HEADER] =
            bytes.first_chunk().ok_or_else(|| damaged("shorter than its header"))?;
        let (mut rest, checksum) = bytes.split_at(HEADER - 4);
        if checksum != crc32c::crc32c(rest).to_le_bytes() {
            return Err(damaged("its header does not match its checksum"));
        }
        let mut field = || take(&mut rest).unwrap_or_default();
        if field() != MAGIC {
            return Err(damaged("it is no snapshot"));
        }
        let [f0, f1, f2, f3, ..] = field();
        let format = u32::from_le_bytes([f0, f1, f2, f3]);
        if format != FORMAT {
            return Err(BadHeader::Format(format));
        }
        let mut number = || u64::from_le_bytes(field());
        let header = Header {
            lineage: Lineage::from_bits(number()),
            salt: number(),
            start: number(),
            time: Timestamp::from_micros(number()),
        };
        let sensible = header.start <= VERSION_MAX;
        sensible.then_some(header).ok_or_else(|| damaged("its numbers make no sense"))
    }

    pub(crate) fn place(&self, offset: u64) -> Place {
        Place { salt: self.salt, offset }
    }
}

/// The name of a snapshot's file. Names order as versions do.
pub(crate) fn file_name(start: u64) -> String {
    format!("{start:020}.snapshot")
}

/// The version in a snapshot's name; `None` for another file.
pub(crate) fn start_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".snapshot").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_a_header_reads_back_and_no_flipped_bit_passes() {
        let (lineage, time) = (Lineage::from_bits(3), Timestamp(6));
        let header = Header { lineage, salt: 4, start: 5, time };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..HEADER * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(matches!(Header::decode(&flipped), Err(BadHeader::Damaged(_))));
        }
        assert!(Header::decode(&bytes[..HEADER - 1]).is_err());
    }

    #[test]
    fn a_name_gives_its_version_back() {
        assert_eq!(start_of(&file_name(17)), Some(17));
        assert_eq!(start_of("00000000000000000017.log"), None);
        assert_eq!(start_of("00000000000000000017.snapshot.tmp"), None);
    }
}
