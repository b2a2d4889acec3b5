//! Room for records: asked for before anything is locked, so that a full disk is found with
//! nothing done.

use crate::error::{Error, Limit, Result};
use crate::log::Log;
use crate::log::frame::{self, FrameBuilder, RECORD_HEADER};
use crate::options::PENDING_BYTES_MAX;

/// Room for one record of the open frame, or of one to come. Given back when dropped.
#[derive(Default)]
#[must_use = "room that is dropped is given back"]
pub(crate) struct Room<'a> {
    log: Option<&'a Log>,
    charge: u64,
}

impl<'a> Room<'a> {
    pub(super) fn new(log: &'a Log, charge: u64) -> Room<'a> {
        Room { log: Some(log), charge }
    }

    /// How many bytes there is room for.
    pub(crate) fn bytes(&self) -> usize {
        self.charge as usize
    }

    /// Gives nothing back any more: the record was appended, and `charge` with it.
    pub(super) fn spend(mut self) -> u64 {
        self.log = None;
        self.charge
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.log {
            log.give_back(self.charge);
        }
    }
}

/// What the open frame may still take: bytes for which there is space on the disk, and versions
/// that a durable header promises.
///
/// A record that has room may come to lie in a later frame than the open one: each has room for
/// a frame's header of its own.
pub(super) struct Budget {
    /// Bytes that the open frame may have.
    room: u64,
    /// The highest version that may be given out.
    ceiling: u64,
    /// Charges of those who have room and have not appended.
    reserved: u64,
    /// How many they are.
    reservations: u64,
    wanted: Wanted,
}

/// Bytes that the next frame should have, for those who found no room. Zero if there are none.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted {
    /// For any of them.
    pub(super) most: u64,
    /// For one of them at least, should there be no space for more.
    pub(super) least: u64,
}

/// Bytes that a record with this payload is charged.
pub(super) fn charge(payload: usize) -> u64 {
    (payload + RECORD_HEADER + frame::HEADER) as u64
}

impl Budget {
    pub(super) fn new(room: u64, ceiling: u64) -> Budget {
        Budget { room, ceiling, reserved: 0, reservations: 0, wanted: Wanted::default() }
    }

    /// Sets what the open frame may take. What has been promised stays promised.
    pub(super) fn set(&mut self, room: u64, ceiling: u64) {
        debug_assert!(self.reserved <= room, "{} of {room} are promised", self.reserved);
        (self.room, self.ceiling) = (room, ceiling);
    }

    /// Takes room for a record with this payload. `None` if there is none at the moment.
    ///
    /// # Errors
    /// [`Error::Limit`] if there never will be.
    pub(super) fn take(&mut self, frame: &FrameBuilder, payload: usize) -> Result<Option<u64>> {
        let charge = charge(payload);
        let used = if frame.is_empty() { 0 } else { frame.len() as u64 };
        let version = frame.next_version() + self.reservations;
        if used + self.reserved + charge <= self.room && version <= self.ceiling {
            self.reserved += charge;
            self.reservations += 1;
            return Ok(Some(charge));
        }
        let actual = self.reserved + charge;
        let allowed = PENDING_BYTES_MAX as u64;
        if actual > allowed {
            let limit = Limit::PendingBytes;
            return Err(Error::Limit { limit, allowed, actual, place: "the log".to_owned() });
        }
        let Wanted { most, least } = self.wanted;
        let least = if least == 0 { actual } else { least.min(actual) };
        self.wanted = Wanted { most: most.max(actual), least };
        Ok(None)
    }

    /// Room that was taken is used or not needed.
    pub(super) fn give_back(&mut self, charge: u64) {
        self.reserved -= charge;
        self.reservations -= 1;
    }

    /// What the next frame should have; asked once.
    pub(super) fn take_wanted(&mut self) -> Wanted {
        std::mem::take(&mut self.wanted)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.most > 0
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.reservations > 0
    }
}

#[cfg(all(test, not(ifmatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn g12_what_is_pending_is_bounded() {
        let frame = FrameBuilder::new(1, Vec::new());
        let mut budget = Budget::new(2 * charge(100), 10);
        let first = budget.take(&frame, 100).unwrap().unwrap();
        assert_eq!(first, charge(100));
        let most = PENDING_BYTES_MAX - (charge(100) + charge(0)) as usize;
        assert!(budget.take(&frame, most).unwrap().is_none(), "there may be room for it");
        let refused = budget.take(&frame, most + 1).unwrap_err();
        assert!(matches!(refused, Error::Limit { limit: Limit::PendingBytes, .. }), "{refused}");
        let Wanted { most: wanted, least } = budget.take_wanted();
        assert_eq!((wanted, least), (PENDING_BYTES_MAX as u64, PENDING_BYTES_MAX as u64));
        assert!(!budget.is_wanted(), "what is refused is not wanted");
        assert!(budget.take(&frame, 100).unwrap().is_some());
        assert!(budget.take(&frame, 0).unwrap().is_none());
        budget.give_back(first);
        assert!(budget.take(&frame, 0).unwrap().is_some(), "room that was not needed");
    }

    #[test]
    fn g2_no_room_is_given_above_the_ceiling() {
        let frame = FrameBuilder::new(4, Vec::new());
        let mut budget = Budget::new(1 << 20, 5);
        for version in 4..=6 {
            assert_eq!(budget.take(&frame, 1).unwrap().is_some(), version <= 5);
        }
    }
}
