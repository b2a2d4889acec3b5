//! The hot path: a lock-striped hash map of entities with an ordered index of its keys.
//!
//! Pure memory: it knows nothing of files, types of keys or conditions. Each stripe is a
//! reader-writer lock over a hash table of its own, padded to its cache lines, so that writers of
//! different keys rarely meet. Lock order: a stripe, then the key index. Whoever locks several
//! stripes does so in the order of their indexes.

mod chain;
mod history;
mod key_buf;
mod key_index;
mod stripe;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::fast::FixedState;

pub(crate) use chain::{Garbage, State};
pub(crate) use history::Earlier;
pub(crate) use key_buf::KeyBuf;
pub(crate) use key_index::{KeyIndex, Keys, is_empty};
use stripe::Stripe;

use crate::conflict::Deletion;
use crate::entity::Record;
use crate::sync::{
    AtomicU64, Level, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard, hash_seed,
};

pub(crate) struct Map<V> {
    stripes: Box<[CachePadded<RwLock<Stripe<V>>>]>,
    hasher: FixedState,
    keys: KeyIndex,
}

/// Deletions with their keys.
pub(crate) type Deletions = Vec<(KeyBuf, Arc<Deletion>)>;

/// How many deletions are looked up under one lock.
const PORTION: u64 = 512;

/// hashbrown uses the lowest bits and the top seven of a hash; the stripe is chosen by others.
const STRIPE_SHIFT: u32 = 40;

impl<V> Map<V> {
    /// `rank` orders the locks of maps that are locked together. `stripes` is a power of two.
    /// About `deleted_limit` deletions are remembered: as many for each stripe as it takes to make
    /// up that number. A key keeps `history` earlier states.
    pub(crate) fn new(rank: u64, stripes: usize, deleted_limit: usize, history: usize) -> Map<V> {
        debug_assert!(stripes.is_power_of_two());
        let deleted_limit = deleted_limit.div_ceil(stripes);
        let stripe = |place| {
            let level = Level::Stripe { map: rank, place };
            CachePadded::new(RwLock::new(level, Stripe::new(deleted_limit, history)))
        };
        Map {
            stripes: (0..stripes).map(stripe).collect(),
            hasher: FixedState::with_seed(hash_seed()),
            keys: KeyIndex::new(rank),
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
        self.keys.fill(live.iter().map(|(key, _)| key.clone()));
        self.reserve(live.len());
        let live = live.into_iter().map(|(key, record)| (key, State::Live(record)));
        let deleted = deleted.map(|(key, deletion)| (key, State::Deleted(deletion)));
        for (key, state) in live.chain(deleted) {
            let hash = self.hash(&key);
            self.stripe(hash).write().restore(hash, key, state);
        }
    }

    /// Puts back the earlier states of keys that [`fill`](Map::fill) has put back, as far as they
    /// are still remembered: from the oldest to the newest.
    pub(crate) fn fill_history(&self, keys: impl Iterator<Item = (KeyBuf, VecDeque<State<V>>)>) {
        for (key, states) in keys {
            let hash = self.hash(&key);
            self.stripe(hash).write().restore_history(hash, key, states);
        }
    }

    /// Makes room in a new map.
    pub(crate) fn reserve(&self, keys: usize) {
        for stripe in &self.stripes {
            stripe.write().reserve(keys / self.stripes.len());
        }
    }

    /// Puts what was stored at a key, without listing it in the key index, unless something is
    /// there: that is returned.
    pub(crate) fn restore_new(
        &self,
        key: KeyBuf,
        record: Arc<Record<V>>,
    ) -> Option<Arc<Record<V>>> {
        let hash = self.hash(&key);
        let mut stripe = self.stripe(hash).write();
        let there = stripe.newest(hash, &key).live().cloned();
        if there.is_none() {
            stripe.restore(hash, key, State::Live(record));
        }
        there
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

    /// What a reader may see of a key and what was before, deletions included: the newest first,
    /// and as many after it as are kept.
    pub(crate) fn history(&self, hash: u64, key: &[u8], durable: &AtomicU64) -> Vec<State<V>> {
        self.stripe(hash).read().history(hash, key, durable)
    }

    /// The state of this version, if it is still kept and a reader may see it.
    pub(crate) fn state_at(
        &self,
        hash: u64,
        key: &[u8],
        version: u64,
        durable: &AtomicU64,
    ) -> Option<State<V>> {
        self.stripe(hash).read().state_at(hash, key, version, durable)
    }

    /// What a snapshot keeps of a key, besides what [`histories`](Map::histories) gives: the
    /// visible state, and others that have not left its slot yet if history is kept.
    pub(crate) fn states(&self, hash: u64, key: &[u8], durable: &AtomicU64) -> Vec<State<V>> {
        self.stripe(hash).read().states(hash, key, durable)
    }

    /// Gives each state that is durable and has left its slot to `each`, in portions, with
    /// nothing locked.
    pub(crate) fn histories<E>(
        &self,
        durable: &AtomicU64,
        mut each: impl FnMut(&KeyBuf, &State<V>) -> Result<(), E>,
    ) -> Result<(), E> {
        for stripe in &self.stripes {
            let mut after = Bound::Unbounded;
            loop {
                let mut found = Earlier::new();
                let bound = after.as_ref().map(|key: &KeyBuf| &**key);
                let last = stripe.read().portion_of_history(bound, durable, &mut found);
                for (key, state) in &found {
                    each(key, state)?;
                }
                match last {
                    Some(last) => after = Bound::Excluded(last),
                    None => break,
                }
            }
        }
        Ok(())
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
    pub(crate) fn lock<'a>(&'a self, hash: u64, key: &'a KeyBuf) -> Locked<'a, V> {
        Locked { stripe: self.stripe(hash).write(), keys: &self.keys, hash, key }
    }

    /// Removes a key, without a trace, if this version is its newest and durable. `false` if it is
    /// not durable.
    pub(crate) fn expel(&self, hash: u64, key: &KeyBuf, version: u64, durable: &AtomicU64) -> bool {
        let mut garbage = Garbage::new();
        let mut stripe = self.stripe(hash).write();
        let durable = durable.load(Ordering::Acquire);
        stripe.expel(&self.keys, (hash, key), version, durable, &mut garbage)
    }

    /// The index of the key's stripe.
    pub(crate) fn stripe_of(&self, hash: u64) -> usize {
        (hash >> STRIPE_SHIFT) as usize & (self.stripes.len() - 1)
    }

    /// Locks a stripe by its index: for writing, or for reading alone.
    pub(crate) fn lock_stripe(
        &self,
        index: usize,
        for_writing: bool,
    ) -> Option<LockedStripe<'_, V>> {
        let stripe = self.stripes.get(index)?;
        Some(match for_writing {
            true => LockedStripe::Exclusive(stripe.write(), &self.keys),
            false => LockedStripe::Shared(stripe.read()),
        })
    }

    /// The ordered index of the keys.
    pub(crate) fn keys(&self) -> &KeyIndex {
        &self.keys
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
        self.keys.read().range(bounds).take(limit).cloned().collect()
    }

    #[allow(clippy::indexing_slicing, reason = "masked by a length that is a power of two")]
    fn stripe(&self, hash: u64) -> &RwLock<Stripe<V>> {
        &self.stripes[self.stripe_of(hash)]
    }
}

/// A key whose stripe is locked.
pub(crate) struct Locked<'a, V> {
    stripe: RwLockWriteGuard<'a, Stripe<V>>,
    keys: &'a KeyIndex,
    hash: u64,
    key: &'a KeyBuf,
}

impl<V> Locked<'_, V> {
    pub(crate) fn newest(&self) -> &State<V> {
        self.stripe.newest(self.hash, self.key)
    }

    /// Puts the key into the key index. To be called before the append of what is to be installed
    /// at a key that has no entity.
    pub(crate) fn list(&self) {
        self.stripe.list(self.keys, self.hash, self.key);
    }

    /// Puts `state` at the head and unlocks. What it replaces goes to `garbage`.
    pub(crate) fn install(mut self, state: State<V>, at: Install, garbage: &mut Garbage<V>) {
        self.stripe.install(self.keys, (self.hash, self.key), state, at, garbage);
        self.stripe.settle(self.keys, at, garbage);
    }
}

/// A stripe that is locked for as long as this lives.
pub(crate) enum LockedStripe<'a, V> {
    Shared(RwLockReadGuard<'a, Stripe<V>>),
    Exclusive(RwLockWriteGuard<'a, Stripe<V>>, &'a KeyIndex),
}

impl<V> LockedStripe<'_, V> {
    pub(crate) fn newest(&self, hash: u64, key: &[u8]) -> &State<V> {
        match self {
            LockedStripe::Shared(stripe) => stripe.newest(hash, key),
            LockedStripe::Exclusive(stripe, _) => stripe.newest(hash, key),
        }
    }

    /// Puts `state` at the head, in a stripe that is locked for writing. [`settle`] is to be called
    /// once for each, when all of them are installed.
    ///
    /// [`settle`]: LockedStripe::settle
    pub(crate) fn install(
        &mut self,
        (hash, key): (u64, &KeyBuf),
        state: State<V>,
        at: Install,
        garbage: &mut Garbage<V>,
    ) {
        match self {
            LockedStripe::Exclusive(stripe, keys) => {
                stripe.install(keys, (hash, key), state, at, garbage);
            }
            LockedStripe::Shared(_) => debug_assert!(false, "the stripe is locked for reading"),
        }
    }

    /// Takes earlier writes that have become durable out of their chains.
    pub(crate) fn settle(&mut self, at: Install, garbage: &mut Garbage<V>) {
        match self {
            LockedStripe::Exclusive(stripe, keys) => stripe.settle(keys, at, garbage),
            LockedStripe::Shared(_) => debug_assert!(false, "the stripe is locked for reading"),
        }
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
