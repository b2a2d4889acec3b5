//! The keys of unique indexes that a commit changes, or relies on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::collection::CollectionState;
use crate::conflict::{Deletion, HeldKey};
use crate::entity::Record;
use crate::group::Verdict;
use crate::log::Stamp;
use crate::map::{Garbage, Install, KeyBuf, LockedStripe, State};
use crate::unique::Unique;
use crate::version::Version;

/// A key of an index: the place of the index in its collection, and the key.
pub(super) type IndexPlace = (usize, KeyBuf);

/// What was looked up, as it was: it has to be so still.
pub(super) type Lookups = BTreeMap<IndexPlace, State<KeyBuf>>;

/// Whether an index key is still nobody's, or the same entity's.
pub(super) fn is_same(seen: &State<KeyBuf>, newest: &State<KeyBuf>) -> bool {
    match (seen.live(), newest.live()) {
        (None, None) => true,
        (Some(seen), Some(newest)) => seen.metadata.version == newest.metadata.version,
        _ => false,
    }
}

/// What becomes of the index keys of one collection.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<IndexPlace, EntryChange>);

#[derive(Default)]
struct EntryChange {
    released: bool,
    /// The key of the entity that gets it.
    claimed_by: Option<KeyBuf>,
}

/// An entity that cannot be written, because another has the index key.
pub(super) struct Taken {
    /// The index, by its place.
    pub(super) index: usize,
    pub(super) by: KeyBuf,
    pub(super) holder: KeyBuf,
    /// Whether the holder is another one that the commit gives the key to.
    pub(super) within: bool,
}

impl Taken {
    pub(super) fn held<V: 'static>(&self, collection: &CollectionState<V>) -> Option<HeldKey> {
        let index = Arc::clone(&collection.unique.get(self.index)?.name);
        Some(HeldKey { index, holder: collection.text(&self.holder), within: self.within })
    }
}

impl Changes {
    /// The entity at `key` is replaced; `None` for there being none. What it keeps does not change.
    /// Claims of what the commit gives to another one already go to `lost`.
    pub(super) fn replace<V>(
        &mut self,
        key: &KeyBuf,
        old: Option<&Record<V>>,
        new: Option<&Record<V>>,
        indexes: &[Unique<V>],
        lost: &mut Vec<Taken>,
    ) {
        for index in 0..indexes.len() {
            let of = |record: Option<&Record<V>>| record?.index_key(index).cloned();
            let (old, new) = (of(old), of(new));
            if old == new {
                continue;
            }
            if let Some(old) = old {
                self.0.entry((index, old)).or_default().released = true;
            }
            let Some(new) = new else { continue };
            let entry = self.0.entry((index, new)).or_default();
            match &entry.claimed_by {
                None => entry.claimed_by = Some(key.clone()),
                Some(first) => {
                    let (by, holder) = (key.clone(), first.clone());
                    lost.push(Taken { index, by, holder, within: true });
                }
            }
        }
    }
}

/// Index keys of one collection whose stripes are locked.
pub(super) struct LockedEntries<'a, V> {
    indexes: &'a [Unique<V>],
    changes: Changes,
    /// Those of all index keys, in the order of index and stripe.
    stripes: Vec<((usize, usize), LockedStripe<'a, KeyBuf>)>,
}

impl<'a, V> LockedEntries<'a, V> {
    pub(super) fn lock(
        indexes: &'a [Unique<V>],
        changes: Changes,
        lookups: &Lookups,
    ) -> LockedEntries<'a, V> {
        let mut wanted = BTreeMap::new();
        let read = lookups.keys().map(|place| (place, false));
        for ((index, key), changed) in read.chain(changes.0.keys().map(|place| (place, true))) {
            if let Some(unique) = indexes.get(*index) {
                let stripe = unique.map.stripe_of(unique.map.hash(key));
                *wanted.entry((*index, stripe)).or_insert(false) |= changed;
            }
        }
        let lock = |((index, stripe), for_writing): ((usize, usize), bool)| {
            let locked = indexes.get(index)?.map.lock_stripe(stripe, for_writing)?;
            Some(((index, stripe), locked))
        };
        let stripes = wanted.into_iter().filter_map(lock).collect();
        LockedEntries { indexes, changes, stripes }
    }

    /// The first look-up that would find something else by now.
    pub(super) fn moved<'l>(
        &self,
        lookups: &'l Lookups,
        verdict: &mut Verdict,
    ) -> Option<(&'l State<KeyBuf>, State<KeyBuf>)> {
        lookups.iter().find_map(|((index, key), seen)| {
            let newest = self.newest(*index, key);
            verdict.rests_on = verdict.rests_on.max(newest.version());
            (!is_same(seen, newest)).then(|| (seen, newest.clone()))
        })
    }

    /// Claims of what another entity holds go to `lost`.
    pub(super) fn decide(&self, verdict: &mut Verdict, lost: &mut Vec<Taken>) {
        for ((index, key), change) in &self.changes.0 {
            let newest = self.newest(*index, key);
            verdict.rests_on = verdict.rests_on.max(newest.version());
            if let (Some(by), false, Some(holder)) =
                (&change.claimed_by, change.released, newest.live())
            {
                let (by, holder) = (by.clone(), holder.value.clone());
                lost.push(Taken { index: *index, by, holder, within: false });
            }
        }
    }

    pub(super) fn install(&mut self, stamp: Stamp, at: Install, garbage: &mut Garbage<KeyBuf>) {
        let version = Version::new(stamp.version).unwrap_or(Version::FIRST);
        for ((index, key), change) in std::mem::take(&mut self.changes.0) {
            let state = match change.claimed_by {
                Some(holder) => State::Live(Record::at(version, holder)),
                None => {
                    let deleted_at = stamp.written_at;
                    State::Deleted(Deletion { version, deleted_by: None, deleted_at }.into())
                }
            };
            let Some((hash, place)) = self.place(index, &key) else { continue };
            if let Some((_, stripe)) = self.stripes.get_mut(place) {
                stripe.install((hash, &key), state, at, garbage);
                // Nothing is listed, so nothing has to wait for the others.
                stripe.settle(at, garbage);
            }
        }
    }

    fn newest(&self, index: usize, key: &KeyBuf) -> &State<KeyBuf> {
        let found = self.place(index, key);
        let found = found.and_then(|(hash, place)| Some((hash, self.stripes.get(place)?)));
        found.map_or(&State::Vacant, |(hash, (_, stripe))| stripe.newest(hash, key))
    }

    /// The hash of an index key, and where its stripe is.
    fn place(&self, index: usize, key: &KeyBuf) -> Option<(u64, usize)> {
        let map = &self.indexes.get(index)?.map;
        let hash = map.hash(key);
        let stripe = (index, map.stripe_of(hash));
        Some((hash, self.stripes.binary_search_by_key(&stripe, |(place, _)| *place).ok()?))
    }
}
