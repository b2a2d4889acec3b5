//! Who waits for the log: threads and futures in one list.

use std::task::Waker;

#[derive(Default)]
pub(super) struct Waiters {
    list: Vec<Waiter>,
    /// Counts the times that `list` was thinned out, which moves what is left.
    epoch: u64,
}

struct Waiter {
    version: u64,
    waker: Waker,
    /// A thread can lead; a future must not block.
    can_lead: bool,
}

/// What a caller remembers while it waits.
#[derive(Default)]
pub(crate) struct Ticket {
    /// Its place in the list, so that asking again does not queue twice.
    place: Option<(u64, usize)>,
    /// How often space had been asked for in vain when it began to wait for room.
    pub(super) shortages: Option<u64>,
}

/// Of a version: the next time that a leader is done, whatever it made durable.
pub(super) const NEXT: u64 = 0;

impl Waiters {
    /// Returns the waker that `waker` replaces, to be dropped when the lock is released.
    pub(super) fn enlist(
        &mut self,
        ticket: &mut Ticket,
        version: u64,
        waker: Waker,
        can_lead: bool,
    ) -> Option<Waker> {
        if let Some((epoch, place)) = ticket.place
            && epoch == self.epoch
            && let Some(waiter) = self.list.get_mut(place)
        {
            return Some(std::mem::replace(&mut waiter.waker, waker));
        }
        ticket.place = Some((self.epoch, self.list.len()));
        self.list.push(Waiter { version, waker, can_lead });
        None
    }

    /// Removes those who wait for no more than `durable`.
    pub(super) fn covered(&mut self, durable: u64) -> Vec<Waker> {
        self.epoch += 1;
        let covered = self.list.extract_if(.., |waiter| waiter.version <= durable);
        covered.map(|waiter| waiter.waker).collect()
    }

    /// A thread that can lead.
    pub(super) fn next_leader(&self) -> Option<&Waker> {
        self.list.iter().find(|waiter| waiter.can_lead).map(|waiter| &waiter.waker)
    }
}
