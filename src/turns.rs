//! Turns: callers that keep losing on one key queue up and go one after the other (G7).
//!
//! A turn is advice, not a lock: plain writes do not ask for one, and nobody waits for one
//! longer than [`PATIENCE`]. It is passed on when it is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;

use crate::sync::{AtomicU64, Mutex, Ordering, wake_all};

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
}

#[derive(Default)]
struct Queue {
    holder: u64,
    waiting: VecDeque<(u64, Option<Waker>)>,
    last_number: u64,
}

/// A place in the queue of a key, in order of arrival. Leaves it when dropped.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    place: Place,
    number: u64,
}

impl Turns {
    pub(crate) fn new() -> Turns {
        let shared =
            Shared { queues: Mutex::new(HashMap::default()), contended: AtomicU64::new(0) };
        Turns { shared: Arc::new(shared) }
    }

    /// Whether callers are queueing for this key: then a newcomer should not overtake them.
    pub(crate) fn is_contended(&self, place: Place) -> bool {
        self.shared.contended.load(Ordering::Relaxed) > 0
            && self.shared.queues.lock().contains_key(&place)
    }

    /// Queues up.
    pub(crate) fn join(&self, place: Place) -> Turn {
        let mut queues = self.shared.queues.lock();
        let queue = queues.entry(place).or_default();
        queue.last_number += 1;
        let number = queue.last_number;
        if queue.holder == 0 {
            queue.holder = number;
            self.shared.contended.fetch_add(1, Ordering::Relaxed);
        } else {
            queue.waiting.push_back((number, None));
        }
        Turn { shared: Arc::clone(&self.shared), place, number }
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
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.shared.queues.lock();
        let Some(queue) = queues.get_mut(&self.place) else { return };
        let left = if queue.holder != self.number {
            let place = queue.waiting.iter().position(|(number, _)| *number == self.number);
            place.and_then(|place| queue.waiting.remove(place)).and_then(|(_, waker)| waker)
        } else if let Some((next, waker)) = queue.waiting.pop_front() {
            queue.holder = next;
            drop(queues);
            wake_all(waker);
            return;
        } else {
            queues.remove(&self.place);
            self.shared.contended.fetch_sub(1, Ordering::Relaxed);
            None
        };
        drop(queues);
        drop(left);
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
