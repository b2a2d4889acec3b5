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

pub(crate) use imp::{
    AtomicBool, AtomicU64, Condvar, Mutex, Ordering, RwLock, RwLockWriteGuard, UserCode, hash_seed,
    parker, spawn,
};
