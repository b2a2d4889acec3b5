//! The hot path: a lock-striped hash map of entities with an ordered index of its keys.
//!
//! Pure memory: it knows nothing of files, types of keys or conditions. Each stripe is a
//! reader-writer lock over a hash table of its own, padded to its cache lines, so that writers of
//! different keys rarely meet. Lock order: a stripe, then the key index.

mod chain;
mod key_buf;
mod stripe;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::fast::FixedState;

pub(crate) use chain::{Garbage, State};
pub(crate) use key_buf::KeyBuf;
use stripe::Stripe;

use crate::conflict::Deletion;
use crate::entity::Record;
use crate::sync::{AtomicU64, Ordering, RwLock, RwLockWriteGuard, hash_seed};

pub(crate) struct Map<V> {
    stripes: Box<[CachePadded<RwLock<Stripe<V>>>]>,
    hasher: FixedState,
    keys: KeyIndex,
}

/// The keys that may be live, in order. Gives candidates: a reader checks each one's entity.
pub(crate) type KeyIndex = RwLock<BTreeSet<KeyBuf>>;

/// Deletions with their keys.
pub(crate) type Deletions = Vec<(KeyBuf, Arc<Deletion>)>;

/// How many deletions are looked up under one lock.
const PORTION: u64 = 512;

/// hashbrown uses the lowest bits and the top seven of a hash; the stripe is chosen by others.
const STRIPE_SHIFT: u32 = 40;

impl<V> Map<V> {
    /// `stripes` is a power of two. About `deleted_limit` deletions are remembered: as many for
    /// each stripe as it takes to make up that number.
    pub(crate) fn new(stripes: usize, deleted_limit: usize) -> Map<V> {
        debug_assert!(stripes.is_power_of_two());
        let deleted_limit = deleted_limit.div_ceil(stripes);
        let stripe = || CachePadded::new(RwLock::new(Stripe::new(deleted_limit)));
        Map {
            stripes: (0..stripes).map(|_| stripe()).collect(),
            hasher: FixedState::with_seed(hash_seed()),
            keys: RwLock::new(BTreeSet::new()),
        }
    }

    /// Fills a new map with what was stored: entities, and deletions from the oldest to the newest.
    /// No key is there twice.
    pub(crate) fn fill(
        &self,
        live: Vec<(KeyBuf, Arc<Record<V>>)>,
        deleted: impl Iterator<Item = (KeyBuf, Arc<Deletion>)>,
    ) {
        // Built from all keys at once: they come sorted, or in few sorted runs, from a snapshot.
        *self.keys.write() = live.iter().map(|(key, _)| key.clone()).collect();
        for stripe in &self.stripes {
            stripe.write().reserve(live.len() / self.stripes.len());
        }
        let live = live.into_iter().map(|(key, record)| (key, State::Live(record)));
        let deleted = deleted.map(|(key, deletion)| (key, State::Deleted(deletion)));
        for (key, state) in live.chain(deleted) {
            let hash = self.hash(&key);
            self.stripe(hash).write().restore(hash, key, state);
        }
    }

    /// Computed once per operation.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// The entity that a reader may see.
    pub(crate) fn visible(
        &self,
        hash: u64,
        key: &[u8],
        durable: &AtomicU64,
    ) -> Option<Arc<Record<V>>> {
        let stripe = self.stripe(hash).read();
        // Loaded under the lock: a state is not settled before a reader could know it durable.
        stripe.find(hash, key)?.visible(durable.load(Ordering::Acquire)).live().cloned()
    }

    /// What a reader may see, a deletion included.
    pub(crate) fn visible_state(&self, hash: u64, key: &[u8], durable: &AtomicU64) -> State<V> {
        let stripe = self.stripe(hash).read();
        let visible = |slot: &chain::Slot<V>| slot.visible(durable.load(Ordering::Acquire)).clone();
        stripe.find(hash, key).map_or(State::Vacant, visible)
    }

    /// Gives each deletion that a reader may see to `each`, in portions, with nothing locked.
    pub(crate) fn deletions<E>(
        &self,
        durable: &AtomicU64,
        mut each: impl FnMut(&KeyBuf, &Deletion) -> Result<(), E>,
    ) -> Result<(), E> {
        for stripe in &self.stripes {
            let mut found = Deletions::new();
            let mut places = stripe.read().unsettled_deletions(durable, &mut found);
            loop {
                for (key, deletion) in found.drain(..) {
                    each(&key, &deletion)?;
                }
                if places.is_empty() {
                    break;
                }
                let end = places.end.min(places.start + PORTION);
                let portion = places.start..end;
                stripe.read().settled_deletions(portion, durable, &mut found);
                places.start = end;
            }
        }
        Ok(())
    }

    /// Whether a reader may see an entity.
    pub(crate) fn contains(&self, hash: u64, key: &[u8], durable: &AtomicU64) -> bool {
        let stripe = self.stripe(hash).read();
        stripe
            .find(hash, key)
            .is_some_and(|slot| slot.visible(durable.load(Ordering::Acquire)).live().is_some())
    }

    /// What the next write would meet, durable or not.
    pub(crate) fn newest(&self, hash: u64, key: &[u8]) -> State<V> {
        let stripe = self.stripe(hash).read();
        stripe.find(hash, key).map_or(State::Vacant, |slot| slot.newest().clone())
    }

    /// Locks the key's stripe, to decide on the newest state and replace it at one instant.
    pub(crate) fn lock<'a>(&'a self, hash: u64, key: &'a [u8]) -> Locked<'a, V> {
        Locked { stripe: self.stripe(hash).write(), keys: &self.keys, hash, key }
    }

    /// How many entities a reader may see, counted stripe by stripe.
    pub(crate) fn len(&self, durable: &AtomicU64) -> usize {
        self.stripes.iter().map(|stripe| stripe.read().len(durable)).sum()
    }

    /// Up to `limit` keys within the bounds, in order. Some may have no visible entity.
    pub(crate) fn candidates(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Vec<KeyBuf> {
        if is_empty(bounds) {
            return Vec::new();
        }
        self.keys.read().range::<[u8], _>(bounds).take(limit).cloned().collect()
    }

    #[allow(clippy::indexing_slicing, reason = "masked by a length that is a power of two")]
    fn stripe(&self, hash: u64) -> &RwLock<Stripe<V>> {
        &self.stripes[(hash >> STRIPE_SHIFT) as usize & (self.stripes.len() - 1)]
    }
}

/// Ranges that `BTreeSet::range` would panic on.
fn is_empty(bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match bounds {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
        | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
        _ => false,
    }
}

/// A key whose stripe is locked.
pub(crate) struct Locked<'a, V> {
    stripe: RwLockWriteGuard<'a, Stripe<V>>,
    keys: &'a KeyIndex,
    hash: u64,
    key: &'a [u8],
}

impl<V> Locked<'_, V> {
    pub(crate) fn newest(&self) -> &State<V> {
        match self.stripe.find(self.hash, self.key) {
            Some(slot) => slot.newest(),
            None => &State::Vacant,
        }
    }

    /// Puts `state` at the head and unlocks. What it replaces goes to `garbage`.
    pub(crate) fn install(mut self, state: State<V>, at: Install, garbage: &mut Garbage<V>) {
        self.stripe.install(self.keys, (self.hash, self.key), state, at, garbage);
    }
}

/// Where in the commit order a state was installed.
#[derive(Clone, Copy)]
pub(crate) struct Install {
    /// The first version of the frame that the state's record went into.
    pub(crate) open_from: u64,
    /// The highest durable version, read after the record was appended.
    pub(crate) durable: u64,
}
