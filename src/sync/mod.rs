//! The seam to the scheduler: every lock, atomic and wait of the crate goes through here.
//!
//! Natively that is parking_lot and the standard library. Under `--cfg ifmatch_loom` it is loom,
//! which runs the same code through every interleaving.

#[cfg(not(ifmatch_loom))]
mod native;
#[cfg(not(ifmatch_loom))]
use native as imp;

#[cfg(ifmatch_loom)]
mod loom;
#[cfg(ifmatch_loom)]
use self::loom as imp;

mod lock;
mod order;

pub(crate) use imp::{AtomicBool, AtomicU64, Ordering, Parker, hash_seed, parker, spawn};
pub(crate) use lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use order::Level;

/// Wakes all, with no lock held. A waker runs code of the caller's runtime: one that panics must
/// not keep the others asleep.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = std::task::Waker>) {
    for waker in wakers {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
    }
}

/// Marks that the calling thread runs a closure of the caller's.
pub(crate) struct UserCode(());

impl UserCode {
    pub(crate) fn enter() -> UserCode {
        imp::USER_CODE.with(|depth| depth.set(depth.get() + 1));
        UserCode(())
    }

    pub(crate) fn is_running() -> bool {
        imp::USER_CODE.with(|depth| depth.get() > 0)
    }
}

impl Drop for UserCode {
    fn drop(&mut self) {
        imp::USER_CODE.with(|depth| depth.set(depth.get() - 1));
    }
}
