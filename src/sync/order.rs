//! The order in which locks may be held together, asserted in debug builds and under loom.
//!
//! A thread that locks out of order panics, and the message names both locks, whether or not
//! anybody is there to deadlock with. Release builds keep nothing of it.

/// Where a lock stands in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// A stripe of a map: of several, by the rank of the map and then by the place in it.
    Stripe { map: u64, place: usize },
    /// The key index of a map; several may be held, by the rank of the map.
    KeyIndex { map: u64 },
    /// Who leads the log and who waits for it.
    LogQueue,
    /// The frame that commits are appended to.
    OpenFrame,
    /// Which snapshots there are, and whether one is being taken.
    Snapshots,
    /// Which segments there are.
    Segments,
    /// Whether the feed is on.
    FeedSwitch,
    /// Whoever makes room in the ring of the feed.
    FeedRoom,
    /// A slot of the ring.
    FeedSlot,
    /// Versions that are no commit's.
    FeedLeftOut,
    /// What is held by itself: with nothing locked before, and nothing meanwhile.
    Alone(&'static str),
}

#[cfg(any(debug_assertions, ifmatch_loom))]
pub(super) use asserted::{Held, Tag};
#[cfg(not(any(debug_assertions, ifmatch_loom)))]
pub(super) use free::{Held, Tag};

#[cfg(any(debug_assertions, ifmatch_loom))]
mod asserted {
    use super::Level;
    use crate::sync::imp::HELD;

    impl Level {
        /// Whether a thread that holds this may lock `next`: the whole order, and nothing besides.
        /// It is transitive, so that the lock taken last stands for all that are held.
        fn precedes(self, next: Level) -> bool {
            use Level::{FeedLeftOut, FeedRoom, FeedSlot, FeedSwitch};
            use Level::{KeyIndex, LogQueue, OpenFrame, Segments, Snapshots, Stripe};
            match (self, next) {
                (Stripe { map, place }, Stripe { map: next, place: then }) => {
                    (map, place) < (next, then)
                }
                (Stripe { .. }, KeyIndex { .. } | OpenFrame) => true,
                (KeyIndex { map }, KeyIndex { map: next }) => map < next,
                (KeyIndex { .. }, OpenFrame) => true,
                (LogQueue, OpenFrame) => true,
                (Stripe { .. }, FeedRoom | FeedSlot | FeedLeftOut) => true,
                (FeedRoom, FeedSlot) => true,
                (FeedSwitch, OpenFrame) => true,
                (Snapshots, Segments) => true,
                _ => false,
            }
        }
    }

    /// What a lock keeps of its level.
    #[derive(Clone, Copy)]
    pub(in crate::sync) struct Tag(Level);

    impl Tag {
        pub(in crate::sync) fn new(level: Level) -> Tag {
            Tag(level)
        }

        /// Notes that the thread is about to lock. A thread that is ending keeps no notes.
        pub(in crate::sync) fn hold(self) -> Held {
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(last) = held.last() {
                    let next = self.0;
                    assert!(last.precedes(next), "{next:?} is locked while {last:?} is held");
                }
                held.push(self.0);
            });
            Held(self.0)
        }
    }

    /// A lock that the thread holds.
    pub(in crate::sync) struct Held(Level);

    impl Held {
        /// A condition is waited for with nothing else locked: what is locked again at the end of
        /// the wait would be out of order.
        pub(in crate::sync) fn assert_alone(&self) {
            let held = HELD.try_with(|held| held.borrow().len()).unwrap_or(1);
            assert_eq!(held, 1, "{:?} is waited with while another lock is held", self.0);
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let place = held.iter().rposition(|level| *level == self.0);
                place.map(|place| held.remove(place))
            });
        }
    }
}

/// The same without weight.
#[cfg(not(any(debug_assertions, ifmatch_loom)))]
mod free {
    use super::Level;

    #[derive(Clone, Copy)]
    pub(in crate::sync) struct Tag;

    impl Tag {
        pub(in crate::sync) fn new(_level: Level) -> Tag {
            Tag
        }

        pub(in crate::sync) fn hold(self) -> Held {
            Held
        }
    }

    pub(in crate::sync) struct Held;

    impl Held {
        pub(in crate::sync) fn assert_alone(&self) {}
    }
}

#[cfg(all(test, debug_assertions, not(ifmatch_loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::Level::{self, Alone, KeyIndex, LogQueue, OpenFrame, Segments, Snapshots, Stripe};
    use crate::sync::{Condvar, Mutex, RwLock};

    const S: fn(u64, usize) -> Level = |map, place| Stripe { map, place };
    const K: fn(u64) -> Level = |map| KeyIndex { map };

    /// What happens when these are locked one after the other and held together.
    fn lock(levels: &[Level]) -> Result<(), String> {
        let locks: Vec<_> = levels.iter().map(|level| RwLock::new(*level, ())).collect();
        let hold = || {
            // Shared and exclusive alike.
            let (mut shared, mut exclusive) = (Vec::new(), Vec::new());
            for (place, lock) in locks.iter().enumerate() {
                if place % 2 == 0 {
                    shared.push(lock.read());
                } else {
                    exclusive.push(lock.write());
                }
            }
        };
        let said =
            |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<String>().unwrap_or_default();
        catch_unwind(AssertUnwindSafe(hold)).map_err(said)
    }

    #[test]
    fn locks_are_held_together_in_one_order() {
        for right in [
            &[S(1, 7), S(1, 8), S(2, 0), K(1), K(2), OpenFrame][..],
            &[S(1, 0), OpenFrame],
            &[LogQueue, OpenFrame],
            &[Snapshots, Segments],
            &[Alone("turns")],
        ] {
            assert_eq!(lock(right), Ok(()));
        }
    }

    #[test]
    fn another_order_panics_and_names_both() {
        let said =
            "Stripe { map: 1, place: 7 } is locked while Stripe { map: 1, place: 8 } is held";
        assert_eq!(lock(&[S(1, 8), S(1, 7)]), Err(said.to_owned()));
        for wrong in [
            [S(1, 8), S(1, 8)],
            [S(2, 0), S(1, 8)],
            [K(1), S(2, 0)],
            [K(2), K(1)],
            [K(1), K(1)],
            [OpenFrame, K(1)],
            [OpenFrame, S(1, 1)],
            [OpenFrame, LogQueue],
            [S(1, 1), LogQueue],
            [S(1, 1), Alone("turns")],
            [Alone("turns"), S(1, 1)],
            [Alone("turns"), Alone("random numbers")],
            [Segments, Snapshots],
        ] {
            let said = lock(&wrong).unwrap_err();
            for level in wrong {
                assert!(said.contains(&format!("{level:?}")), "{said}");
            }
            assert_eq!(lock(&[Alone("anything")]), Ok(()), "what was held is forgotten");
        }
    }

    #[test]
    fn locks_may_be_released_in_any_order() {
        let (first, second) = (RwLock::new(S(1, 1), ()), RwLock::new(S(1, 2), ()));
        let (held, then) = (first.read(), second.write());
        drop(held);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(first.read()))).is_err());
        drop(then);
        drop(first.write());
    }

    #[test]
    fn a_condition_is_waited_for_with_nothing_else_locked() {
        let (stripe, open) = (RwLock::new(S(1, 1), ()), Mutex::new(OpenFrame, ()));
        let wait = || Condvar::new().wait(open.lock(), Some(std::time::Duration::ZERO));
        drop(wait());
        let held = stripe.read();
        assert!(catch_unwind(AssertUnwindSafe(|| drop(wait()))).is_err());
        drop(held);
        drop(wait());
    }
}
