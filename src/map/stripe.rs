//! One stripe: a hash table, what in it is still to settle, and the deletions it remembers.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::{Bound, Range};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::map::chain::{Garbage, Slot, State};
use crate::map::history::{Earlier, History};
use crate::map::{Deletions, Install, KeyBuf, KeyIndex, PORTION};
use crate::sync::{AtomicU64, Ordering};

/// Each write settles up to this many earlier ones: more than one, so that the backlog shrinks.
const SETTLED_PER_WRITE: usize = 2;

pub(crate) struct Stripe<V> {
    table: HashTable<Hashed<V>>,
    /// Slots whose settled state is live.
    live: usize,
    /// What was installed before it was durable, in version order.
    settling: VecDeque<Mark>,
    /// Remembered deletions, in the order they settled; beyond the limit the oldest is forgotten.
    deleted: VecDeque<Mark>,
    /// How many have left `deleted`: with it, each has a place that does not move.
    forgotten: u64,
    deleted_limit: usize,
    /// Absent if none is kept.
    history: Option<Box<History<V>>>,
}

/// A slot with its hash, so that a growing table does not hash keys again.
struct Hashed<V> {
    hash: u64,
    slot: Slot<V>,
}

/// Finds a slot again without its key: a commit of several keys has one version for all of them,
/// so the whole hash has to be the same as well.
#[derive(Clone, Copy)]
struct Mark {
    hash: u64,
    version: u64,
}

impl<V> Hashed<V> {
    fn is_newest(&self, mark: &Mark) -> bool {
        self.hash == mark.hash && self.slot.newest().version() == mark.version
    }
}

impl<V> Stripe<V> {
    pub(crate) fn new(deleted_limit: usize, history: usize) -> Stripe<V> {
        Stripe {
            table: HashTable::new(),
            live: 0,
            settling: VecDeque::new(),
            deleted: VecDeque::new(),
            forgotten: 0,
            deleted_limit,
            history: History::new(history),
        }
    }

    pub(crate) fn reserve(&mut self, slots: usize) {
        self.table.reserve(slots, |hashed| hashed.hash);
    }

    /// Puts a settled state at a key that is not there. The key index is the caller's to see to.
    pub(crate) fn restore(&mut self, hash: u64, key: KeyBuf, state: State<V>) {
        let mark = Mark { hash, version: state.version() };
        let slot = Slot::settled_at(key, state);
        let after = Standing::of(&slot);
        self.table.insert_unique(hash, Hashed { hash, slot }, |hashed| hashed.hash);
        let before = Standing { live: false, pending: false, listed: false, deleted: false };
        let mut garbage = Garbage::new();
        self.account(mark, before, after, &mut garbage);
    }

    /// Puts back the earlier states of a key, unless it has been forgotten.
    pub(crate) fn restore_history(&mut self, hash: u64, key: KeyBuf, states: VecDeque<State<V>>) {
        let remembered = self.find(hash, &key).is_some();
        if let Some(history) = self.history.as_mut().filter(|_| remembered) {
            history.restore(key, states);
        }
    }

    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<&Slot<V>> {
        self.table.find(hash, |hashed| *hashed.slot.key == *key).map(|hashed| &hashed.slot)
    }

    /// What the next write of the key meets.
    pub(crate) fn newest(&self, hash: u64, key: &[u8]) -> &State<V> {
        self.find(hash, key).map_or(&State::Vacant, Slot::newest)
    }

    pub(crate) fn len(&self, durable: &AtomicU64) -> usize {
        let durable = durable.load(Ordering::Acquire);
        let mut len = self.live;
        for mark in &self.settling {
            // A slot has one mark of its newest version, and may have others.
            let newest = |hashed: &Hashed<V>| hashed.is_newest(mark);
            let Some(hashed) = self.table.find(mark.hash, newest) else { continue };
            len += usize::from(hashed.slot.visible(durable).live().is_some());
            len -= usize::from(hashed.slot.settled().live().is_some());
        }
        len
    }

    pub(crate) fn history(&self, hash: u64, key: &[u8], durable: &AtomicU64) -> Vec<State<V>> {
        let durable = durable.load(Ordering::Acquire);
        let mut states: Vec<_> = self.durable_states(hash, key, durable).cloned().collect();
        states.sort_unstable_by_key(|state| Reverse(state.version()));
        states.truncate(1 + self.kept());
        states
    }

    pub(crate) fn state_at(
        &self,
        hash: u64,
        key: &[u8],
        version: u64,
        durable: &AtomicU64,
    ) -> Option<State<V>> {
        let durable = durable.load(Ordering::Acquire);
        let states = || self.durable_states(hash, key, durable);
        let found = states().find(|state| state.version() == version)?;
        // More are kept for a while, until the key is written again.
        let newer = states().filter(|state| state.version() > version).count();
        (newer <= self.kept()).then(|| found.clone())
    }

    pub(crate) fn states(&self, hash: u64, key: &[u8], durable: &AtomicU64) -> Vec<State<V>> {
        let durable = durable.load(Ordering::Acquire);
        let Some(slot) = self.find(hash, key) else { return Vec::new() };
        let most = if self.history.is_some() { usize::MAX } else { 1 };
        slot.durable_states(durable).take(most).cloned().collect()
    }

    /// See [`History::portion`].
    pub(crate) fn portion_of_history(
        &self,
        after: Bound<&[u8]>,
        durable: &AtomicU64,
        found: &mut Earlier<V>,
    ) -> Option<KeyBuf> {
        let durable = durable.load(Ordering::Acquire);
        self.history.as_ref()?.portion(after, PORTION as usize, durable, found)
    }

    /// How many earlier states a reader may see of a key.
    fn kept(&self) -> usize {
        self.history.as_ref().map_or(0, |history| history.kept())
    }

    /// What is durable of a key, in its slot and before.
    fn durable_states(
        &self,
        hash: u64,
        key: &[u8],
        durable: u64,
    ) -> impl Iterator<Item = &State<V>> {
        let slot = self.find(hash, key).into_iter();
        let history = self.history.iter().flat_map(move |history| history.of(key, durable));
        slot.flat_map(move |slot| slot.durable_states(durable)).chain(history)
    }

    /// Deletions that a reader may see and that have not settled go to `found`. Returns the places
    /// of those that have.
    pub(crate) fn unsettled_deletions(
        &self,
        durable: &AtomicU64,
        found: &mut Deletions,
    ) -> Range<u64> {
        let durable = durable.load(Ordering::Acquire);
        for mark in &self.settling {
            let newest = |hashed: &Hashed<V>| hashed.is_newest(mark);
            if let Some(hashed) = self.table.find(mark.hash, newest) {
                found.extend(hashed.slot.visible_deletion(durable));
            }
        }
        self.forgotten..self.forgotten + self.deleted.len() as u64
    }

    /// The settled deletions at these places go to `found`, as far as they still count.
    pub(crate) fn settled_deletions(
        &self,
        places: Range<u64>,
        durable: &AtomicU64,
        found: &mut Deletions,
    ) {
        let durable = durable.load(Ordering::Acquire);
        let places = places.filter_map(|place| place.checked_sub(self.forgotten));
        for mark in places.filter_map(|place| self.deleted.get(usize::try_from(place).ok()?)) {
            let settled = |hashed: &Hashed<V>| {
                hashed.hash == mark.hash && hashed.slot.settled().version() == mark.version
            };
            if let Some(hashed) = self.table.find(mark.hash, settled) {
                found.extend(hashed.slot.visible_deletion(durable));
            }
        }
    }

    /// Puts the key into the index, unless it is there.
    pub(crate) fn list(&self, keys: &KeyIndex, hash: u64, key: &KeyBuf) {
        if !self.find(hash, key).is_some_and(|slot| Standing::of(slot).listed) {
            keys.insert(key);
        }
    }

    /// Puts `state` at the head of a key, which has been listed if it had no entity.
    pub(crate) fn install(
        &mut self,
        keys: &KeyIndex,
        (hash, key): (u64, &KeyBuf),
        state: State<V>,
        at: Install,
        garbage: &mut Garbage<V>,
    ) {
        let version = state.version();
        let matches = |hashed: &Hashed<V>| hashed.slot.key == *key;
        let slot = match self.table.entry(hash, matches, |hashed| hashed.hash) {
            Entry::Occupied(entry) => &mut entry.into_mut().slot,
            Entry::Vacant(entry) => {
                let slot = Slot::new(key.clone());
                &mut entry.insert(Hashed { hash, slot }).into_mut().slot
            }
        };
        let (before, left_from) = (Standing::of(slot), garbage.len());
        slot.install(state, at.open_from, at.durable, garbage);
        if let Some(history) = &mut self.history {
            history.take(&slot.key, garbage, left_from, at);
        }
        let after = Standing::of(slot);
        if before.listed && !after.listed {
            keys.remove(&slot.key, version);
        }
        let mark = Mark { hash, version };
        if after.pending {
            self.settling.push_back(mark);
        }
        self.account(mark, before, after, garbage);
    }

    /// Removes a key, if this version is its newest and durable. `false` if it is not durable.
    pub(crate) fn expel(
        &mut self,
        keys: &KeyIndex,
        (hash, key): (u64, &KeyBuf),
        version: u64,
        durable: u64,
        garbage: &mut Garbage<V>,
    ) -> bool {
        let newest = |hashed: &Hashed<V>| {
            hashed.slot.key == *key && hashed.slot.newest().version() == version
        };
        let Ok(entry) = self.table.find_entry(hash, newest) else { return true };
        if version > durable {
            return false;
        }
        let (mut hashed, _) = entry.remove();
        self.live -= usize::from(Standing::of(&hashed.slot).live);
        hashed.slot.settle(durable, garbage);
        garbage.push(hashed.slot.settled().clone());
        keys.remove(key, version);
        true
    }

    /// Takes earlier writes that have become durable out of their chains, as each write has to.
    /// After all that was listed is installed: what settles as deleted is taken from the index.
    pub(crate) fn settle(&mut self, keys: &KeyIndex, at: Install, garbage: &mut Garbage<V>) {
        for _ in 0..SETTLED_PER_WRITE {
            let Some(mark) = self.settling.pop_front_if(|mark| mark.version <= at.durable) else {
                return;
            };
            // Superseded or settled already: some other mark stands for what is left to do.
            let newest = |hashed: &Hashed<V>| hashed.is_newest(&mark);
            let Some(hashed) = self.table.find_mut(mark.hash, newest) else { continue };
            let (before, left_from) = (Standing::of(&hashed.slot), garbage.len());
            hashed.slot.settle(at.durable, garbage);
            if let Some(history) = &mut self.history {
                history.take(&hashed.slot.key, garbage, left_from, at);
            }
            let after = Standing::of(&hashed.slot);
            if before.listed && !after.listed {
                keys.remove(&hashed.slot.key, mark.version);
            }
            self.account(mark, before, after, garbage);
        }
    }

    /// Keeps the count and the memory of deletions in step with a slot that changed.
    fn account(&mut self, mark: Mark, before: Standing, after: Standing, garbage: &mut Garbage<V>) {
        self.live += usize::from(after.live);
        self.live -= usize::from(before.live);
        if before.deleted || !after.deleted {
            return;
        }
        self.deleted.push_back(mark);
        if self.deleted.len() > self.deleted_limit
            && let Some(oldest) = self.deleted.pop_front()
        {
            self.forgotten += 1;
            self.forget(oldest, garbage);
        }
    }

    /// Removes a slot whose deletion is the last that happened to it.
    fn forget(&mut self, mark: Mark, garbage: &mut Garbage<V>) {
        let still = |hashed: &Hashed<V>| hashed.is_newest(&mark);
        if let Ok(entry) = self.table.find_entry(mark.hash, still) {
            garbage.push(entry.get().slot.settled().clone());
            if let Some(history) = &mut self.history {
                history.forget(&entry.get().slot.key, garbage);
            }
            entry.remove();
        }
    }
}

/// What matters of a slot to the books of its stripe.
#[derive(Clone, Copy)]
struct Standing {
    live: bool,
    pending: bool,
    /// Whether the key stands in the index: it has an entity, or may get or lose one.
    listed: bool,
    /// A deletion is all there is, and it is settled.
    deleted: bool,
}

impl Standing {
    fn of<V>(slot: &Slot<V>) -> Standing {
        let (live, pending) = (slot.settled().live().is_some(), slot.is_pending());
        let deleted = matches!(slot.settled(), State::Deleted(_)) && !pending;
        Standing { live, pending, listed: live || pending, deleted }
    }
}
