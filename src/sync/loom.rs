//! The same names over loom. Waits know no time-outs here: whoever waits must be woken.

#![allow(clippy::expect_used, reason = "a model that panics has failed anyway")]

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(super) use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
use loom::thread::{self, JoinHandle};

use super::order::Level;

const POISON: &str = "loom stops at the first panic, so no lock outlives one";

#[derive(Default)]
pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Mutex<T> {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect(POISON)
    }
}

pub(super) struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(super) fn new(value: T) -> RwLock<T> {
        RwLock(loom::sync::RwLock::new(value))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().expect(POISON)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().expect(POISON)
    }
}

#[derive(Default)]
pub(super) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(super) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _at_most: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        self.0.wait(guard).expect(POISON)
    }
}

pub(crate) fn spawn(_name: &str, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    Some(thread::spawn(body))
}

/// A token that is kept until it is used. loom's own is lost when the thread blocks on a lock
/// between being unparked and parking.
#[derive(Default)]
struct Token {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

pub(crate) struct Parker {
    token: Arc<Token>,
    waker: Waker,
}

pub(crate) fn parker() -> Parker {
    let token = Arc::new(Token::default());
    Parker { waker: Waker::from(Arc::clone(&token)), token }
}

impl Parker {
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(crate) fn park(&self, at_most: Option<Duration>) {
        let mut woken = self.token.woken.lock();
        while !*woken {
            woken = self.token.changed.wait(woken, at_most);
        }
        *woken = false;
    }
}

/// Fixed, so that each run of a model takes the same path.
pub(crate) fn hash_seed() -> u64 {
    7
}

loom::thread_local! {
    /// How many closures of the caller's the thread is in.
    pub(super) static USER_CODE: Cell<u32> = Cell::new(0);

    /// The levels of the locks that the thread holds, in the order in which it took them.
    pub(super) static HELD: RefCell<Vec<Level>> = RefCell::new(Vec::new());
}
