//! Reading a segment back, and telling a torn tail from damage (G10).

use crate::log::frame::{Frame, LogRecord};
use crate::log::segment::{HEADER, Header};

/// What a segment holds.
pub(crate) struct Segment<'a> {
    pub(crate) header: Header,
    pub(crate) frames: Vec<Frame<'a>>,
    /// Bytes up to the end of the last valid frame.
    pub(crate) valid_len: usize,
    /// The version with which the log goes on.
    pub(crate) next_version: u64,
    /// Whether the last frame says that nothing was written after it.
    pub(crate) closed: bool,
}

/// Damage within a segment: at which byte, and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    pub(crate) detail: String,
}

impl<'a> Segment<'a> {
    /// Reads the frames of a segment, up to the first that is not valid.
    ///
    /// # Errors
    /// A header that is damaged, and a frame that is damaged although a later one tells that it
    /// had been synced.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Segment<'a>, Damage> {
        let header =
            Header::decode(bytes).map_err(|bad| Damage { offset: 0, detail: bad.to_string() })?;
        let next_version = header.first_version;
        let mut segment =
            Segment { header, frames: Vec::new(), valid_len: HEADER, next_version, closed: false };
        while let Some(frame) = segment.frame_at(bytes, segment.valid_len) {
            // Only a seal may leave versions out.
            let due = segment.next_version;
            if frame.first_version < due || (frame.first_version > due && !frame.is_seal()) {
                let found = frame.first_version;
                let detail = format!("version {found} follows where {due} is due");
                return Err(Damage { offset: segment.valid_len as u64, detail });
            }
            if !frame.is_seal() && frame.last_version() > header.ceiling {
                let (last, ceiling) = (frame.last_version(), header.ceiling);
                let detail = format!("version {last} lies above the ceiling {ceiling}");
                return Err(Damage { offset: segment.valid_len as u64, detail });
            }
            segment.valid_len += frame.len();
            segment.next_version = frame.first_version + u64::from(frame.count);
            segment.closed = frame.is_end();
            segment.frames.push(frame);
        }
        segment.check_tail(bytes)?;
        Ok(segment)
    }

    /// The records in version order.
    ///
    /// # Errors
    /// As an item: the offset of the frame whose records do not add up.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<LogRecord<'a>, Damage>> {
        let mut offset = HEADER as u64;
        self.frames.iter().flat_map(move |frame| {
            let at = offset;
            offset += frame.len() as u64;
            frame.records().map(move |record| {
                let detail = "a record is longer than its frame".to_owned();
                record.ok_or(Damage { offset: at, detail })
            })
        })
    }

    fn frame_at(&self, bytes: &'a [u8], offset: usize) -> Option<Frame<'a>> {
        Frame::read(bytes.get(offset..)?, self.header.place(offset))
    }

    /// A tail is torn only if nothing after it proves that it had been whole: a later frame
    /// written when these versions were known durable.
    fn check_tail(&self, bytes: &'a [u8]) -> Result<(), Damage> {
        for offset in self.valid_len + 1..bytes.len() {
            let Some(later) = self.frame_at(bytes, offset) else { continue };
            if later.synced_to >= self.next_version {
                let (due, proof) = (self.next_version, later.synced_to);
                let detail = format!(
                    "versions {due} to {proof} were durable, but their bytes are not valid"
                );
                return Err(Damage { offset: self.valid_len as u64, detail });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::log::frame::FrameBuilder;
    use crate::version::Lineage;

    const HEAD: Header = Header {
        lineage: Lineage::from_bits(1),
        number: 1,
        salt: 9,
        first_version: 1,
        ceiling: 100,
    };

    /// Frames of one version each; the n-th knows of n - 1 synced ones. Returns where they end.
    fn segment(frames: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = HEAD.encode().to_vec();
        let mut ends = Vec::new();
        for version in 1..=frames {
            let mut frame = FrameBuilder::new(version, Vec::new());
            frame.push(Timestamp(version), |bytes| bytes.extend_from_slice(b"payload"));
            let frame = frame.finish(HEAD.place(bytes.len()), version - 1);
            bytes.extend(frame);
            ends.push(bytes.len());
        }
        bytes.resize(bytes.len() + 500, 0);
        (bytes, ends)
    }

    #[test]
    fn g10_a_torn_last_frame_is_cut() {
        let (mut bytes, ends) = segment(3);
        bytes[ends[1] + 20] ^= 1;
        let segment = Segment::read(&bytes).unwrap();
        assert_eq!((segment.valid_len, segment.next_version), (ends[1], 3));
        assert_eq!(segment.records().count(), 2);
    }

    #[test]
    fn g10_a_frame_that_a_later_one_knows_durable_is_damage() {
        let (mut bytes, ends) = segment(4);
        bytes[ends[1] + 20] ^= 1;
        let damage = Segment::read(&bytes).err().unwrap();
        assert_eq!(damage.offset, ends[1] as u64);
        assert!(damage.detail.contains("versions 3 to 3"), "{}", damage.detail);
    }

    #[test]
    fn g10_every_flipped_byte_is_found_or_cuts_an_unproven_tail() {
        let (bytes, ends) = segment(3);
        for at in 0..ends[2] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            match Segment::read(&flipped) {
                Err(_) => {}
                Ok(segment) => assert!(at >= ends[1] && segment.next_version == 3, "byte {at}"),
            }
        }
    }
}
