//! Frames: the unit that is written with one call and made durable by one sync.
//!
//! FORMAT.md draws the bytes. The header's checksum also covers the segment's salt and the
//! frame's offset, so that a frame is valid in its own place only; and the header can be checked
//! by itself, so that looking for frames costs no more than reading.

use crate::clock::Timestamp;

pub(crate) const HEADER: usize = 32;
pub(crate) const RECORD_HEADER: usize = 12;

/// Where a frame stands: what the checksum covers besides the frame's own bytes.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) salt: u64,
    pub(crate) offset: u64,
}

/// Why a frame has no records: all before it had been synced when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// Nothing was written for a while; more may follow.
    Idle = 1,
    /// The store was closed, or the segment mended: nothing follows in this segment.
    Closed = 2,
}

/// A frame that is being filled with the records of commits.
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
    first_version: u64,
    count: u32,
}

impl FrameBuilder {
    /// `spare` is a buffer to use again.
    pub(crate) fn new(first_version: u64, mut spare: Vec<u8>) -> FrameBuilder {
        spare.clear();
        spare.resize(HEADER, 0);
        FrameBuilder { bytes: spare, first_version, count: 0 }
    }

    /// A frame without records, after which `next_version` is due.
    pub(crate) fn seal(next_version: u64, seal: Seal) -> FrameBuilder {
        let mut frame = FrameBuilder::new(next_version, Vec::new());
        frame.bytes.push(seal as u8);
        frame
    }

    /// A frame of bytes that need not be records: for the fuzz targets.
    #[cfg(feature = "testing")]
    pub(crate) fn of_anything(first_version: u64, count: u32, body: &[u8]) -> FrameBuilder {
        let mut frame = FrameBuilder::new(first_version, Vec::new());
        frame.bytes.extend_from_slice(body);
        FrameBuilder { count, ..frame }
    }

    pub(crate) fn first_version(&self) -> u64 {
        self.first_version
    }

    /// The version that the next record will get.
    pub(crate) fn next_version(&self) -> u64 {
        self.first_version + u64::from(self.count)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the record of one commit; `payload` writes its content.
    pub(crate) fn push(&mut self, written_at: Timestamp, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&written_at.0.to_le_bytes());
        payload(&mut self.bytes);
        let len = self.bytes.len() - start - RECORD_HEADER;
        put(&mut self.bytes, start, &(len as u32).to_le_bytes());
        self.count += 1;
    }

    /// The bytes to write at `place`. `synced_to` is the highest version known durable.
    pub(crate) fn finish(mut self, place: Place, synced_to: u64) -> Vec<u8> {
        let body = self.bytes.get(HEADER..).unwrap_or_default();
        let (body_crc, body_len) = (crc32c::crc32c(body), body.len() as u32);
        put(&mut self.bytes, 4, &body_crc.to_le_bytes());
        put(&mut self.bytes, 8, &body_len.to_le_bytes());
        put(&mut self.bytes, 12, &self.count.to_le_bytes());
        put(&mut self.bytes, 16, &self.first_version.to_le_bytes());
        put(&mut self.bytes, 24, &synced_to.to_le_bytes());
        let header_crc = header_checksum(place, self.bytes.get(4..HEADER).unwrap_or_default());
        put(&mut self.bytes, 0, &header_crc.to_le_bytes());
        self.bytes
    }
}

/// A valid frame, borrowed from the segment.
pub(crate) struct Frame<'a> {
    pub(crate) first_version: u64,
    pub(crate) synced_to: u64,
    pub(crate) count: u32,
    body: &'a [u8],
}

/// The record of one commit.
pub(crate) struct LogRecord<'a> {
    pub(crate) version: u64,
    pub(crate) written_at: Timestamp,
    pub(crate) payload: &'a [u8],
}

/// The header of a frame, valid by itself: what it says of the frame may be believed.
pub(crate) struct FrameHead {
    pub(crate) first_version: u64,
    pub(crate) synced_to: u64,
    pub(crate) count: u32,
    body_crc: u32,
    body_len: usize,
}

impl FrameHead {
    /// Reads the header at the start of `bytes`. `None` if there is no valid one.
    pub(crate) fn read(bytes: &[u8], place: Place) -> Option<FrameHead> {
        let mut rest = bytes.get(..HEADER)?;
        let header_crc = u32::from_le_bytes(take(&mut rest)?);
        let covered = rest;
        let body_crc = u32::from_le_bytes(take(&mut rest)?);
        let body_len = u32::from_le_bytes(take(&mut rest)?) as usize;
        let count = u32::from_le_bytes(take(&mut rest)?);
        let first_version = u64::from_le_bytes(take(&mut rest)?);
        let synced_to = u64::from_le_bytes(take(&mut rest)?);
        // Zeroes, as in space not yet written, are no frame: no commit has version zero.
        let plausible = first_version != 0
            && first_version.checked_add(count.into()).is_some()
            && (count as usize).saturating_mul(RECORD_HEADER) <= body_len;
        let valid = plausible && header_checksum(place, covered) == header_crc;
        valid.then_some(FrameHead { first_version, synced_to, count, body_crc, body_len })
    }

    /// Bytes of the whole frame.
    pub(crate) fn len(&self) -> usize {
        HEADER + self.body_len
    }
}

impl<'a> Frame<'a> {
    /// Reads the frame at the start of `bytes`. `None` if there is no valid one.
    pub(crate) fn read(bytes: &'a [u8], place: Place) -> Option<Frame<'a>> {
        let head = FrameHead::read(bytes, place)?;
        let FrameHead { first_version, synced_to, count, .. } = head;
        let body = bytes.get(HEADER..head.len())?;
        let valid = crc32c::crc32c(body) == head.body_crc;
        valid.then_some(Frame { first_version, synced_to, count, body })
    }

    /// Bytes of the whole frame.
    pub(crate) fn len(&self) -> usize {
        HEADER + self.body.len()
    }

    /// The version of the last record; of a seal, the one before its own.
    pub(crate) fn last_version(&self) -> u64 {
        self.first_version + u64::from(self.count) - 1
    }

    pub(crate) fn is_seal(&self) -> bool {
        self.count == 0
    }

    /// Whether nothing was written after it.
    pub(crate) fn is_end(&self) -> bool {
        self.is_seal() && self.body == [Seal::Closed as u8]
    }

    /// The records in version order. `None` for one whose lengths do not add up.
    pub(crate) fn records(&self) -> impl Iterator<Item = Option<LogRecord<'a>>> + use<'a> {
        let (mut rest, first, count) = (self.body, self.first_version, self.count);
        (0..count).map(move |place| {
            let len = u32::from_le_bytes(take(&mut rest)?) as usize;
            let written_at = Timestamp::from_micros(u64::from_le_bytes(take(&mut rest)?));
            let (payload, after) = rest.split_at_checked(len)?;
            rest = after;
            let whole = place + 1 < count || rest.is_empty();
            let version = first + u64::from(place);
            whole.then_some(LogRecord { version, written_at, payload })
        })
    }
}

/// A store that writes a million versions a second comes here after nine years.
const PLAUSIBLE_VERSION: u64 = 1 << 48;

/// A salt under which the header at the start of `bytes` is valid, if the body is whole: for a
/// file that has lost its own. It need not be the file's, but takes the same frames for valid.
pub(crate) fn salt_of(bytes: &[u8], offset: u64) -> Option<u64> {
    let mut rest = bytes.get(..HEADER)?;
    let header_crc = u32::from_le_bytes(take(&mut rest)?);
    let mut fields = rest;
    let body_crc = u32::from_le_bytes(take(&mut fields)?);
    let body_len = u32::from_le_bytes(take(&mut fields)?) as usize;
    let count = u32::from_le_bytes(take(&mut fields)?) as usize;
    let first_version = u64::from_le_bytes(take(&mut fields)?);
    let synced_to = u64::from_le_bytes(take(&mut fields)?);
    // Before anything that takes longer.
    let plausible = (1..PLAUSIBLE_VERSION).contains(&first_version)
        && synced_to < PLAUSIBLE_VERSION
        && body_len > 0
        && count.saturating_mul(RECORD_HEADER) <= body_len;
    let body = bytes.get(HEADER..HEADER.checked_add(body_len)?).filter(|_| plausible)?;
    if crc32c::crc32c(body) != body_crc {
        return None;
    }
    // The checksum is linear in the bits of the salt, of which 32 are enough.
    let checksum = |salt: u32| header_checksum(Place { salt: salt.into(), offset }, rest);
    let of_zero = checksum(0);
    // Columns by their highest bit, each with the bits of the salt that make it.
    let mut columns = [(0u32, 0u32); 32];
    let reduce = |columns: &[(u32, u32); 32], mut sum: u32, mut bits: u32| {
        for (column, made_by) in columns {
            if *column != 0 && sum & (1 << column.ilog2()) != 0 {
                sum ^= column;
                bits ^= made_by;
            }
        }
        (sum, bits)
    };
    for bit in 0..32 {
        let (column, made_by) = reduce(&columns, checksum(1 << bit) ^ of_zero, 1 << bit);
        let place = 31_usize.checked_sub(column.checked_ilog2()? as usize)?;
        *columns.get_mut(place)? = (column, made_by);
    }
    let (left, salt) = reduce(&columns, header_crc ^ of_zero, 0);
    let salt = u64::from(salt);
    (left == 0 && Frame::read(bytes, Place { salt, offset }).is_some()).then_some(salt)
}

fn header_checksum(place: Place, bytes: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&place.salt.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &place.offset.to_le_bytes());
    crc32c::crc32c_append(seed, bytes)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Takes a field of fixed width off the front.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place { salt: 5, offset: 64 };

    fn frame(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = FrameBuilder::new(7, Vec::new());
        for payload in payloads {
            frame.push(Timestamp(9), |bytes| bytes.extend_from_slice(payload));
        }
        frame.finish(PLACE, 6)
    }

    proptest! {
        #[test]
        fn a_frame_tells_its_salt(salt: u64, offset in 0..1u64 << 40, payload: Vec<u8>) {
            let place = Place { salt, offset };
            let frame = |place: Place| {
                let mut frame = FrameBuilder::new(7, Vec::new());
                frame.push(Timestamp(9), |bytes| bytes.extend_from_slice(&payload));
                frame.finish(place, 6)
            };
            let found = salt_of(&frame(place), offset).unwrap();
            let elsewhere = frame(Place { offset: offset + 77, ..place });
            let under_found = Place { salt: found, offset: offset + 77 };
            prop_assert!(Frame::read(&elsewhere, under_found).is_some());
        }

        #[test]
        fn a_frame_reads_back(payloads: Vec<Vec<u8>>, after: Vec<u8>) {
            let mut bytes = frame(&payloads);
            let len = bytes.len();
            bytes.extend(after);
            let read = Frame::read(&bytes, PLACE).unwrap();
            prop_assert_eq!((read.first_version, read.synced_to, read.len()), (7, 6, len));
            prop_assert_eq!(read.is_seal(), payloads.is_empty());
            prop_assert!(!read.is_end());
            let records: Vec<_> = read.records().map(Option::unwrap).collect();
            prop_assert!(records.iter().map(|record| record.payload.to_vec()).eq(payloads));
            prop_assert!(records.iter().map(|record| record.version).eq(7..7 + len_u64(&records)));
        }

        #[test]
        fn g10_no_flipped_bit_passes(
            payloads: Vec<Vec<u8>>,
            at: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let mut bytes = frame(&payloads);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Frame::read(&bytes, PLACE).is_none());
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            if let Some(frame) = Frame::read(&bytes, PLACE) {
                frame.records().for_each(drop);
            }
        }
    }

    fn len_u64(records: &[LogRecord<'_>]) -> u64 {
        records.len() as u64
    }

    #[test]
    fn a_seal_says_whether_more_may_follow() {
        for (seal, end) in [(Seal::Idle, false), (Seal::Closed, true)] {
            let bytes = FrameBuilder::seal(7, seal).finish(PLACE, 6);
            let read = Frame::read(&bytes, PLACE).unwrap();
            assert_eq!((read.is_seal(), read.is_end(), read.last_version()), (true, end, 6));
        }
    }

    #[test]
    fn g10_a_frame_is_valid_in_its_own_place_only() {
        let bytes = frame(&[b"x".to_vec()]);
        assert!(Frame::read(&bytes, Place { offset: 65, ..PLACE }).is_none());
        assert!(Frame::read(&bytes, Place { salt: 6, ..PLACE }).is_none());
    }
}
