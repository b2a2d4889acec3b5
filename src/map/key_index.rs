//! The keys of a map in order, for scans.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::map::KeyBuf;
use crate::sync::{AtomicU64, Level, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The keys that may be live. Gives candidates: a reader checks each one's entity.
///
/// A key is inserted before the record is appended that makes it live, so whoever holds the index
/// while it appends a record of its own knows which keys are live at that version.
pub(crate) struct KeyIndex {
    keys: RwLock<BTreeSet<KeyBuf>>,
    /// The highest version of a deletion whose key was removed.
    removed_at: AtomicU64,
}

/// The index, locked for as long as this lives.
pub(crate) enum Keys<'a> {
    Shared(RwLockReadGuard<'a, BTreeSet<KeyBuf>>),
    Exclusive(RwLockWriteGuard<'a, BTreeSet<KeyBuf>>),
}

impl KeyIndex {
    /// `rank` is that of the map.
    pub(crate) fn new(rank: u64) -> KeyIndex {
        let keys = RwLock::new(Level::KeyIndex { map: rank }, BTreeSet::new());
        KeyIndex { keys, removed_at: AtomicU64::new(0) }
    }

    pub(crate) fn fill(&self, keys: impl Iterator<Item = KeyBuf>) {
        *self.keys.write() = keys.collect();
    }

    pub(crate) fn insert(&self, key: &KeyBuf) {
        self.keys.write().insert(key.clone());
    }

    /// Removes a key whose entity was deleted in this version.
    pub(crate) fn remove(&self, key: &KeyBuf, version: u64) {
        let mut keys = self.keys.write();
        keys.remove(key);
        self.removed_at.fetch_max(version, Ordering::AcqRel);
    }

    pub(crate) fn read(&self) -> Keys<'_> {
        Keys::Shared(self.keys.read())
    }

    pub(crate) fn write(&self) -> Keys<'_> {
        Keys::Exclusive(self.keys.write())
    }

    /// A key that is not there, or was found vacant, before this was read has had no entity from
    /// this version on.
    pub(crate) fn removed_at(&self) -> u64 {
        self.removed_at.load(Ordering::Acquire)
    }
}

impl Keys<'_> {
    /// The keys within the bounds, in order. Some may have no entity.
    pub(crate) fn range<'a>(
        &'a self,
        bounds: (Bound<&'a [u8]>, Bound<&'a [u8]>),
    ) -> impl Iterator<Item = &'a KeyBuf> {
        let keys = match self {
            Keys::Shared(keys) => &**keys,
            Keys::Exclusive(keys) => &**keys,
        };
        let range = (!is_empty(bounds)).then(|| keys.range::<[u8], _>(bounds));
        range.into_iter().flatten()
    }

    /// Inserts a key, where the index is locked for writing.
    pub(crate) fn insert(&mut self, key: KeyBuf) {
        match self {
            Keys::Exclusive(keys) => _ = keys.insert(key),
            Keys::Shared(_) => debug_assert!(false, "the index is locked for reading"),
        }
    }
}

/// Whether no key can be within the bounds: of those the standard library's trees take not all.
pub(crate) fn is_empty(bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match bounds {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
        | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
        _ => false,
    }
}
