//! Who waits for something to be shown: threads and futures in one list, woken all at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use crate::sync::{Level, Mutex, wake_all};

/// Those who look again when they are woken. Locked by itself, and never while a waker runs.
pub(crate) struct Watchers {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    wakers: BTreeMap<u64, Waker>,
    last: u64,
}

impl Watchers {
    pub(crate) fn new() -> Watchers {
        Watchers { list: Mutex::new(Level::Alone("watchers of the feed"), List::default()) }
    }

    /// Wakes all. To be called after what they wait for has come about: whoever enlists later
    /// finds it when looking again.
    pub(crate) fn wake(&self) {
        let wakers = std::mem::take(&mut self.list.lock().wakers);
        wake_all(wakers.into_values());
    }
}

/// One place in the list; given up when dropped.
pub(crate) struct Watch {
    watchers: Arc<Watchers>,
    place: Option<u64>,
}

impl Watch {
    pub(crate) fn new(watchers: Arc<Watchers>) -> Watch {
        Watch { watchers, place: None }
    }

    /// Has `waker` woken the next time. The caller has to look again after that, before it sleeps.
    pub(crate) fn enlist(&mut self, waker: &Waker) {
        // Cloning and dropping a waker may run code of the caller's runtime: not under the lock.
        let waker = waker.clone();
        let mut list = self.watchers.list.lock();
        let place = *self.place.get_or_insert_with(|| {
            list.last += 1;
            list.last
        });
        let replaced = list.wakers.insert(place, waker);
        drop(list);
        drop(replaced);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let waker = self.watchers.list.lock().wakers.remove(&place);
            drop(waker);
        }
    }
}
