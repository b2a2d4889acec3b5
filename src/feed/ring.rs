//! The newest commits in memory, each in the slot of its version.
//!
//! A commit gets its version in one order and comes here in another, from many threads. So a slot
//! that is empty is waited for: nothing behind it is told before.

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use crate::feed::change::Commit;
use crate::sync::{AtomicU64, Level, Mutex, MutexGuard, Ordering};

/// Slots, each locked by itself: writers of different versions do not meet.
pub(crate) struct Ring {
    /// A power of two.
    slots: Box<[Mutex<Slot>]>,
    /// Bytes that may be held.
    bytes: u64,
    /// The least that a change counts for, so that the bytes bound the number too.
    change: u64,
    held: CachePadded<AtomicU64>,
    /// Whoever has it makes room. No commit up to this version is held.
    evicted: Mutex<u64>,
}

/// For one version at a time, from the oldest to the newest that fall on it.
#[derive(Default)]
struct Slot {
    version: u64,
    kept: Kept,
    /// A reader waits for a version above.
    awaited: bool,
}

/// What is kept of a version.
#[derive(Clone, Default)]
pub(crate) enum Kept {
    Commit(Commit),
    /// It is no commit's.
    LeftOut,
    /// Not any more, or it was never meant to be.
    #[default]
    Gone,
}

/// What became of a push.
#[derive(Default)]
pub(crate) struct Pushed {
    /// A reader waits for what was pushed.
    pub(crate) awaited: bool,
    /// To be dropped when no lock is held: that may run the caller's code.
    pub(crate) evicted: SmallVec<[Commit; 1]>,
}

/// A ring has at most so many slots, whatever is set.
const SLOTS_MAX: usize = 1 << 24;

/// And so many bytes, so that nothing overflows.
const BYTES_MAX: u64 = 1 << 48;

impl Ring {
    /// For about so many changes and bytes.
    pub(crate) fn new(changes: usize, bytes: usize) -> Ring {
        let changes = changes.clamp(1, SLOTS_MAX);
        let bytes = (bytes as u64).clamp(1, BYTES_MAX);
        let slot = || Mutex::new(Level::FeedSlot, Slot::default());
        Ring {
            slots: (0..changes.next_power_of_two()).map(|_| slot()).collect(),
            bytes,
            change: bytes.div_ceil(changes as u64),
            held: CachePadded::new(AtomicU64::new(0)),
            evicted: Mutex::new(Level::FeedRoom, 0),
        }
    }

    /// Puts what is to be kept of a version into its slot. What comes after the slot has gone to a
    /// later version, or after room was made of it, is not kept.
    pub(crate) fn push(&self, version: u64, kept: Kept, pushed: &mut Pushed) {
        let more = self.weight(&kept);
        let mut slot = self.slot(version);
        if slot.version >= version {
            drop(slot);
            pushed.evict(kept);
            return;
        }
        pushed.awaited |= slot.awaited;
        let replaced = std::mem::replace(&mut *slot, Slot { version, kept, awaited: false });
        let less = self.weight(&replaced.kept);
        // Before anybody can take it out again. Wraps where less is more.
        let held = self.held.fetch_add(more.wrapping_sub(less), Ordering::Relaxed);
        drop(slot);
        pushed.evict(replaced.kept);
        if held.wrapping_add(more).wrapping_sub(less) > self.bytes {
            self.make_room(version, pushed);
        }
    }

    /// What is kept of `version`; `None` if it has not come yet. Then whoever `awaits` it is woken
    /// for it.
    pub(crate) fn find(&self, version: u64, awaits: bool) -> Option<Kept> {
        let mut slot = self.slot(version);
        if slot.version < version {
            slot.awaited |= awaits;
            return None;
        }
        Some(if slot.version == version { slot.kept.clone() } else { Kept::Gone })
    }

    /// The version behind which, from `since` on, nothing is gone.
    pub(crate) fn oldest(&self, since: u64) -> u64 {
        let newest = self.slots.iter().map(|slot| slot.lock().version).max().unwrap_or_default();
        let mut oldest = since.max(newest.saturating_sub(self.slots.len() as u64));
        while oldest < newest && matches!(self.find(oldest + 1, false), Some(Kept::Gone)) {
            oldest += 1;
        }
        oldest
    }

    /// Takes the oldest out, up to below `version`, until what is held is within the bound. A
    /// slot that is still empty counts as gone: its commit would be the oldest.
    fn make_room(&self, version: u64, pushed: &mut Pushed) {
        let mut evicted = self.evicted.lock();
        *evicted = (*evicted).max(version.saturating_sub(self.slots.len() as u64));
        while *evicted + 1 < version && self.held.load(Ordering::Relaxed) > self.bytes {
            *evicted += 1;
            let mut slot = self.slot(*evicted);
            let left_out = matches!(slot.kept, Kept::LeftOut) && slot.version == *evicted;
            if slot.version > *evicted || left_out {
                continue;
            }
            pushed.awaited |= slot.awaited;
            let gone = Slot { version: *evicted, ..Slot::default() };
            let taken = std::mem::replace(&mut *slot, gone).kept;
            drop(slot);
            self.held.fetch_sub(self.weight(&taken), Ordering::Relaxed);
            pushed.evict(taken);
        }
    }

    fn weight(&self, kept: &Kept) -> u64 {
        let Kept::Commit(commit) = kept else { return 0 };
        commit.bytes().max(self.change.saturating_mul(commit.changes().len() as u64))
    }

    #[allow(clippy::indexing_slicing, reason = "masked by a length that is a power of two")]
    fn slot(&self, version: u64) -> MutexGuard<'_, Slot> {
        self.slots[version as usize & (self.slots.len() - 1)].lock()
    }
}

impl Pushed {
    fn evict(&mut self, kept: Kept) {
        if let Kept::Commit(commit) = kept {
            self.evicted.push(commit);
        }
    }
}
