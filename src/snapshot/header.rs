//! The head of a snapshot's file, and its name.

use crate::clock::Timestamp;
pub(crate) use crate::log::file_header::HEADER;
use crate::log::file_header::{self, BadHeader, NUMBER_MAX};
use crate::log::frame::Place;
use crate::version::Lineage;

const MAGIC: [u8; 8] = *b"ifmatchS";

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
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let Header { lineage, salt, start, time } = *self;
        file_header::encode(MAGIC, &[lineage.bits(), salt, start, time.0])
    }

    /// Reads the header of a snapshot.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let [lineage, salt, start, time] = file_header::decode(MAGIC, bytes)?;
        let (lineage, time) = (Lineage::from_bits(lineage), Timestamp::from_micros(time));
        let sensible = start <= NUMBER_MAX;
        let header = Header { lineage, salt, start, time };
        sensible.then_some(header).ok_or(BadHeader::Damaged("its numbers make no sense"))
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
    fn a_name_gives_its_version_back() {
        assert_eq!(start_of(&file_name(17)), Some(17));
        assert_eq!(start_of("00000000000000000017.log"), None);
        assert_eq!(start_of("00000000000000000017.snapshot.tmp"), None);
    }
}
