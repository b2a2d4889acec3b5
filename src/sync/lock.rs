//! The locks of the seam, each with its level in the order of all.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::imp;
use super::order::{Held, Level, Tag};

pub(crate) struct Mutex<T> {
    tag: Tag,
    lock: imp::Mutex<T>,
}

/// Unlocks when dropped.
pub(crate) struct MutexGuard<'a, T> {
    guard: imp::MutexGuard<'a, T>,
    held: Held,
}

pub(crate) struct RwLock<T> {
    tag: Tag,
    lock: imp::RwLock<T>,
}

/// Unlocks when dropped.
pub(crate) struct RwLockReadGuard<'a, T> {
    guard: imp::RwLockReadGuard<'a, T>,
    _held: Held,
}

/// Unlocks when dropped.
pub(crate) struct RwLockWriteGuard<'a, T> {
    guard: imp::RwLockWriteGuard<'a, T>,
    _held: Held,
}

/// A condition variable; with a time-out it may also wake for no reason.
pub(crate) struct Condvar(imp::Condvar);

/// In release builds a level weighs nothing.
#[cfg(not(any(debug_assertions, ifmatch_loom)))]
const _: () = {
    assert!(size_of::<Mutex<u64>>() == size_of::<imp::Mutex<u64>>());
    assert!(size_of::<RwLock<u64>>() == size_of::<imp::RwLock<u64>>());
    assert!(size_of::<MutexGuard<'_, u64>>() == size_of::<imp::MutexGuard<'_, u64>>());
    assert!(size_of::<RwLockReadGuard<'_, u64>>() == size_of::<imp::RwLockReadGuard<'_, u64>>());
    assert!(size_of::<RwLockWriteGuard<'_, u64>>() == size_of::<imp::RwLockWriteGuard<'_, u64>>());
    assert!(!std::mem::needs_drop::<Held>());
};

impl<T> Mutex<T> {
    pub(crate) fn new(level: Level, value: T) -> Mutex<T> {
        Mutex { tag: Tag::new(level), lock: imp::Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.tag.hold();
        MutexGuard { guard: self.lock.lock(), held }
    }
}

impl<T> RwLock<T> {
    pub(crate) fn new(level: Level, value: T) -> RwLock<T> {
        RwLock { tag: Tag::new(level), lock: imp::RwLock::new(value) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        let held = self.tag.hold();
        RwLockReadGuard { guard: self.lock.read(), _held: held }
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        let held = self.tag.hold();
        RwLockWriteGuard { guard: self.lock.write(), _held: held }
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(imp::Condvar::default())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Unlocks, waits, and locks again.
    pub(crate) fn wait<'a, T>(
        &self,
        MutexGuard { guard, held }: MutexGuard<'a, T>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        held.assert_alone();
        MutexGuard { guard: self.0.wait(guard, at_most), held }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
