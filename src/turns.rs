//! Turns: callers that keep losing on one key queue up and go one after the other (G7).
//!
//! A turn is advice, not a lock: plain writes do not ask for one, and nobody waits for one
//! longer than [`PATIENCE`]. It is passed on when it is dropped, or when somebody has waited that
//! long for the same holder: a future that holds it may never be polled again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;

use crate::sync::{AtomicU64, Level, Mutex, Ordering, wake_all};

/// How long a caller waits for its turn before it goes ahead without.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// The collection, and the hash of the key: a collision only makes two keys share a queue.
pub(crate) type Place = (u32, u64);

#[derive(Clone)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    queues: Mutex<HashMap<Place, Queue, foldhash::fast::RandomState>>,
    /// How many queues there are, so that nobody locks while there is none.
    contended: AtomicU64,
    /// Counts the turns of all keys: a late comer is never taken for another.
    last_number: AtomicU64,
}

struct Queue {
    holder: u64,
    waiting: VecDeque<(u64, Option<Waker>)>,
}

/// A place in the queue of a key, in order of arrival. Leaves it when dropped.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    place: Place,
    number: u64,
    /// Whose turn it was when this one joined.
    holder_then: u64,
}

impl Turns {
    pub(crate) fn new() -> Turns {
        let shared = Shared {
            queues: Mutex::new(Level::Alone("turns"), HashMap::default()),
            contended: AtomicU64::new(0),
            last_number: AtomicU64::new(0),
        };
        Turns { shared: Arc::new(shared) }
    }

    /// Whether callers are queueing for this key: then a newcomer should not overtake them.
    pub(crate) fn is_contended(&self, place: Place) -> bool {
        self.shared.contended.load(Ordering::Relaxed) > 0
            && self.shared.queues.lock().contains_key(&place)
    }

    /// Queues up.
    pub(crate) fn join(&self, place: Place) -> Turn {
        let number = self.shared.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut queues = self.shared.queues.lock();
        let queue = queues.entry(place).or_insert_with(|| {
            self.shared.contended.fetch_add(1, Ordering::Relaxed);
            Queue { holder: number, waiting: VecDeque::new() }
        });
        if queue.holder != number {
            queue.waiting.push_back((number, None));
        }
        let holder_then = queue.holder;
        Turn { shared: Arc::clone(&self.shared), place, number, holder_then }
    }
}

impl Turn {
    /// Ready when it is the caller's turn; otherwise `waker` is woken when it comes.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<()> {
        // Cloning and dropping a waker may run code of the caller's runtime: not under the lock.
        let mut waker = Some(waker.clone());
        let mut queues = self.shared.queues.lock();
        let Some(queue) = queues.get_mut(&self.place) else { return Poll::Ready(()) };
        match queue.waiting.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, place)) => {
                std::mem::swap(place, &mut waker);
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Gives up waiting. If nobody has moved meanwhile, the holder is taken for gone.
    pub(crate) fn give_up(self) {
        self.shared.pass_on(self.place, self.holder_then);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.shared.pass_on(self.place, self.number) {
            self.shared.leave(self.place, self.number);
        }
    }
}

impl Shared {
    fn leave(&self, place: Place, number: u64) {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(&place) else { return };
        let at = queue.waiting.iter().position(|(waiting, _)| *waiting == number);
        let left = at.and_then(|at| queue.waiting.remove(at));
        drop(queues);
        drop(left);
    }

    /// Ends the turn of `holder`. `false` if it is not its turn.
    fn pass_on(&self, place: Place, holder: u64) -> bool {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(&place).filter(|queue| queue.holder == holder) else {
            return false;
        };
        let Some((next, waker)) = queue.waiting.pop_front() else {
            queues.remove(&place);
            self.contended.fetch_sub(1, Ordering::Relaxed);
            return true;
        };
        queue.holder = next;
        drop(queues);
        wake_all(waker);
        true
    }
}

#[cfg(all(test, not(ifmatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn g7_turns_come_in_order_of_arrival() {
        let turns = Turns::new();
        let place = (1, 7);
        assert!(!turns.is_contended(place));
        let first = turns.join(place);
        let second = turns.join(place);
        let third = turns.join(place);
        assert!(turns.is_contended(place) && !turns.is_contended((1, 8)));
        let ready = |turn: &Turn| turn.poll(Waker::noop()).is_ready();
        assert_eq!([&first, &second, &third].map(ready), [true, false, false]);
        drop(first);
        assert_eq!([&second, &third].map(ready), [true, false]);
        drop(second);
        assert!(ready(&third));
        drop(third);
        assert!(!turns.is_contended(place));
    }

    #[test]
    fn g7_a_holder_that_never_moves_is_passed_over() {
        let turns = Turns::new();
        let place = (1, 7);
        let stuck = turns.join(place);
        let (second, third) = (turns.join(place), turns.join(place));
        second.give_up();
        assert!(third.poll(Waker::noop()).is_ready());
        // It comes back too late to matter.
        let fourth = turns.join(place);
        drop(stuck);
        assert!(fourth.poll(Waker::noop()).is_pending());
        drop(third);
        assert!(fourth.poll(Waker::noop()).is_ready());
        drop(fourth);
        assert!(!turns.is_contended(place));
    }

    #[test]
    fn g7_a_holder_that_moves_is_not_passed_over() {
        let turns = Turns::new();
        let place = (1, 7);
        let (first, second) = (turns.join(place), turns.join(place));
        let (third, fourth) = (turns.join(place), turns.join(place));
        drop(first);
        third.give_up();
        assert!(second.poll(Waker::noop()).is_ready());
        assert!(fourth.poll(Waker::noop()).is_pending());
    }

    #[test]
    fn g7_who_leaves_the_queue_holds_nobody_up() {
        let turns = Turns::new();
        let place = (1, 7);
        let first = turns.join(place);
        let impatient = turns.join(place);
        let third = turns.join(place);
        drop(impatient);
        drop(first);
        assert!(third.poll(Waker::noop()).is_ready());
    }
}
