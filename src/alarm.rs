//! The earliest deadline of a sweep, and places that are counted: what leases and operations share.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::service::{Service, Timer};
use crate::sync::{AtomicU64, Level, Mutex, Ordering};

/// Has the service thread wake a sweep at the earliest time that anybody has asked for.
pub(crate) struct Alarm(Mutex<Option<Set>>);

struct Set {
    at: Duration,
    _timer: Timer,
}

impl Alarm {
    /// `name` is that of its lock.
    pub(crate) fn new(name: &'static str) -> Alarm {
        Alarm(Mutex::new(Level::Alone(name), None))
    }

    /// Has the waker woken at this time, unless it is to be earlier anyway.
    pub(crate) fn set(&self, service: &Service, at: Duration, waker: impl FnOnce() -> Waker) {
        // One that is due stands until its sweep has begun: no later one may take its place.
        let in_time = |set: &Set| set.at <= at;
        if self.0.lock().as_ref().is_some_and(in_time) {
            return;
        }
        // Not under the lock: a store that is closed wakes at once.
        let Some(timer) = service.wake_at(at, waker()) else { return };
        let mut alarm = self.0.lock();
        let surplus = match alarm.as_ref().is_some_and(in_time) {
            true => Some(Set { at, _timer: timer }),
            false => alarm.replace(Set { at, _timer: timer }),
        };
        drop(alarm);
        drop(surplus);
    }

    /// A sweep begins: whatever is asked for from here on is set anew.
    pub(crate) fn take(&self) {
        let set = self.0.lock().take();
        drop(set);
    }
}

/// The right to one more of what is counted. Given back when dropped.
pub(crate) struct Slot(Option<Arc<AtomicU64>>);

impl Slot {
    /// Counts one more. Returns how many there were before.
    pub(crate) fn take(total: &Arc<AtomicU64>) -> (Slot, u64) {
        let before = total.fetch_add(1, Ordering::Relaxed);
        (Slot(Some(Arc::clone(total))), before)
    }

    /// It has come to be: it has the slot from now on.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(total) = self.0.take() {
            total.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
