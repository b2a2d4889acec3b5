//! parking_lot's locks and the operating system's threads.

use std::cell::Cell;
#[cfg(debug_assertions)]
use std::cell::RefCell;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

#[cfg(debug_assertions)]
use super::order::Level;

pub(super) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(super) fn wait<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        match at_most {
            Some(duration) => drop(self.0.wait_for(&mut guard, duration)),
            None => self.0.wait(&mut guard),
        }
        guard
    }
}

/// Starts a thread of the crate's own.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(body).ok()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// The calling thread as a waker, and the means to sleep until it is woken.
pub(crate) struct Parker(Waker);

thread_local! {
    static UNPARK: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

pub(crate) fn parker() -> Parker {
    Parker(UNPARK.with(Waker::clone))
}

impl Parker {
    pub(crate) fn waker(&self) -> &Waker {
        &self.0
    }

    /// Sleeps until woken, or until the time is up. May return early for no reason.
    pub(crate) fn park(&self, at_most: Option<Duration>) {
        match at_most {
            Some(duration) => thread::park_timeout(duration),
            None => thread::park(),
        }
    }
}

/// A seed that keys chosen by a stranger cannot anticipate.
pub(crate) fn hash_seed() -> u64 {
    std::hash::RandomState::new().hash_one(0)
}

thread_local! {
    /// How many closures of the caller's the thread is in.
    pub(super) static USER_CODE: Cell<u32> = const { Cell::new(0) };
}

#[cfg(debug_assertions)]
thread_local! {
    /// The levels of the locks that the thread holds, in the order in which it took them.
    pub(super) static HELD: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
}
