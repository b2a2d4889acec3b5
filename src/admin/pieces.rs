//! What is left of a file of frames: those that are whole, and the ranges between them.

use std::ops::Range;

use crate::log::frame::{self, Frame, Place};

/// The headers of segments and of snapshots have the same length.
const HEADER: usize = crate::log::segment::HEADER;

/// The parts of a file, in order.
#[derive(Default)]
pub(super) struct Pieces<'a> {
    /// With their offsets.
    pub(super) frames: Vec<(usize, Frame<'a>)>,
    /// Ranges without a valid frame. Zeroes at the end, which were never written, are none.
    pub(super) damaged: Vec<Range<usize>>,
}

impl<'a> Pieces<'a> {
    /// Looks for frames that are valid under this salt.
    pub(super) fn of(bytes: &'a [u8], salt: u64) -> Pieces<'a> {
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let frame_at = |offset: usize| {
            let frame = Frame::read(bytes.get(offset..)?, Place { salt, offset: offset as u64 })?;
            Some((offset, frame))
        };
        let mut pieces = Pieces::default();
        let mut offset = HEADER;
        while offset < bytes.len() {
            let next = frame_at(offset).or_else(|| (offset + 1..written).find_map(frame_at));
            let found = next.as_ref().map_or(written, |(found, _)| *found);
            if found > offset {
                pieces.damaged.push(offset..found);
            }
            let Some((found, frame)) = next else { break };
            offset = found + frame.len();
            pieces.frames.push((found, frame));
        }
        pieces
    }

    /// The same, of a file whose header is damaged. The salt may be whole in it; else the first
    /// frame with a whole body tells it.
    pub(super) fn without_header(bytes: &'a [u8], raw_salt: Option<u64>) -> Pieces<'a> {
        let under_raw = raw_salt.map(|salt| Pieces::of(bytes, salt));
        if let Some(pieces) = under_raw.filter(|pieces| !pieces.frames.is_empty()) {
            return pieces;
        }
        let salt_at = |offset: usize| frame::salt_of(bytes.get(offset..)?, offset as u64);
        match (HEADER..bytes.len()).find_map(salt_at) {
            Some(salt) => Pieces::of(bytes, salt),
            None => Pieces {
                frames: Vec::new(),
                damaged: std::iter::once(HEADER..bytes.len()).collect(),
            },
        }
    }
}
