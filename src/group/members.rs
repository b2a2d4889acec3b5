//! The keys of one collection that a commit reads and writes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::collection::CollectionState;
use crate::commit::{Change, Landed, Preconditions, Refused, Written, payload_at_most};
use crate::conflict::{Conflict, Effort, HeldKey, Reason};
use crate::entity::{Actor, Record};
use crate::error::Result;
use crate::feed;
use crate::group::unique::{Changes, LockedEntries, Lookups, Taken, is_same};
use crate::group::{Locked, Share, Verdict};
use crate::ids::First;
use crate::lease::{Barred, LockedLeases, entry_key};
use crate::log::Stamp;
use crate::map::{Garbage, Install, KeyBuf, Keys, LockedStripe, State, is_empty};
use crate::precondition::Precondition;
use crate::record::LoggedWrite;
use crate::store::Inner;
use crate::sync::Ordering;
use crate::turns::Place;

pub(crate) struct Members<V> {
    collection: Arc<CollectionState<V>>,
    items: BTreeMap<KeyBuf, Item<V>>,
    scans: Vec<Scan>,
    lookups: Lookups,
    /// Entities whose keys are to be locked, because an index key is theirs.
    holders: Vec<KeyBuf>,
    refused: Vec<RefusedItem<V>>,
    /// What was replaced: dropped with this, when nothing is locked and the commit is answered.
    garbage: Garbage<V>,
    index_garbage: Garbage<KeyBuf>,
}

/// A key that is read or written.
pub(crate) struct Item<V> {
    pub(crate) hash: u64,
    /// As it was read: it has to be so still.
    pub(crate) seen: Option<State<V>>,
    /// The conditions that were named.
    pub(crate) conditions: Preconditions,
    pub(crate) change: Option<Change<V>>,
    /// A lease of the key is taken: its stripe is locked as if it were written.
    pub(crate) leased: bool,
    /// What the landed change came to.
    pub(crate) written: Option<Written<V>>,
}

/// A range of which every key was read.
pub(crate) struct Scan {
    pub(crate) start: Bound<KeyBuf>,
    pub(crate) end: Bound<KeyBuf>,
}

struct RefusedItem<V> {
    key: KeyBuf,
    unmet: Precondition,
    barred: Option<Box<Barred>>,
    /// What the decision was taken on. `None` if that was the key's being there at all.
    newest: Option<State<V>>,
    held: Option<HeldKey>,
}

impl<V: Send + Sync + 'static> Members<V> {
    pub(crate) fn new(collection: Arc<CollectionState<V>>) -> Members<V> {
        Members {
            collection,
            items: BTreeMap::new(),
            scans: Vec::new(),
            lookups: Lookups::new(),
            holders: Vec::new(),
            refused: Vec::new(),
            garbage: Garbage::new(),
            index_garbage: Garbage::new(),
        }
    }

    pub(crate) fn get(&self, key: &KeyBuf) -> Option<&Item<V>> {
        self.items.get(key)
    }

    /// The key, which is taken up if it is new here.
    pub(crate) fn item(&mut self, key: &KeyBuf) -> &mut Item<V> {
        let collection = &self.collection;
        self.items.entry(key.clone()).or_insert_with(|| Item {
            hash: collection.map.hash(key),
            seen: None,
            conditions: Preconditions::new(),
            change: None,
            leased: false,
            written: None,
        })
    }

    /// The keys within the bounds that were taken up, in order.
    pub(crate) fn range(
        &self,
        bounds: (Bound<KeyBuf>, Bound<KeyBuf>),
    ) -> impl Iterator<Item = (&KeyBuf, &Item<V>)> {
        let empty = is_empty((as_slice(&bounds.0), as_slice(&bounds.1)));
        let items = (!empty).then(|| self.items.range(bounds));
        items.into_iter().flatten()
    }

    /// What became of the one change that has landed, once.
    pub(crate) fn take_landed(&mut self, key: &KeyBuf) -> Option<Landed<V>> {
        let written = self.items.get_mut(key)?.written.take()?;
        Some(Landed { written, garbage: std::mem::take(&mut self.garbage) })
    }

    /// The first thing that was refused.
    pub(crate) fn take_refused(
        &mut self,
        rests_on: u64,
        decided_at: Timestamp,
    ) -> Option<Refused<V>> {
        let RefusedItem { unmet, barred, newest, held, .. } = self.refused.drain(..).next()?;
        Some(Refused { unmet, newest: newest?, decided_at, rests_on, held, barred })
    }

    /// The keys that are written.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &KeyBuf> {
        self.items.iter().filter(|(_, item)| item.change.is_some()).map(|(key, _)| key)
    }

    /// As [`Share::lock`].
    pub(crate) fn lock_members(&mut self) -> LockedMembers<'_, V> {
        let Members { collection, items, scans, lookups, holders, refused, .. } = self;
        let (garbage, index_garbage) = (&mut self.garbage, &mut self.index_garbage);
        // Of a round before this one.
        refused.clear();
        let map = &collection.map;
        let mut wanted = BTreeMap::new();
        for item in items.values() {
            *wanted.entry(map.stripe_of(item.hash)).or_insert(false) |= item.is_exclusive();
        }
        let lock = |(index, for_writing)| Some((index, map.lock_stripe(index, for_writing)?));
        let stripes = wanted.into_iter().filter_map(lock).collect();
        LockedMembers {
            collection,
            items,
            scans,
            lookups,
            holders,
            refused,
            garbage,
            index_garbage,
            stripes,
            entries: None,
            keys: None,
        }
    }

    /// The values that the commit is to leave, with their keys.
    pub(crate) fn staged(&self) -> impl Iterator<Item = (&KeyBuf, &Record<V>)> {
        self.items.iter().filter_map(|(key, item)| match &item.change {
            Some(Change::Put { record, .. }) => Some((key, &**record)),
            Some(Change::Delete) | None => None,
        })
    }

    /// The index keys that were looked up.
    pub(crate) fn lookups(&mut self) -> &mut Lookups {
        &mut self.lookups
    }

    pub(crate) fn scans(&mut self) -> &mut Vec<Scan> {
        &mut self.scans
    }
}

impl<V> Item<V> {
    /// The value as the commit leaves it.
    pub(crate) fn view(&self) -> Option<&Arc<Record<V>>> {
        match &self.change {
            Some(Change::Put { record, .. }) => Some(record),
            Some(Change::Delete) => None,
            None => self.seen.as_ref()?.live(),
        }
    }

    /// Whether nobody else may write the key, or lease it, at the same time.
    fn is_exclusive(&self) -> bool {
        self.change.is_some() || self.leased
    }

    /// The first condition that does not hold. What was read comes first: all else may have been
    /// made from it.
    fn decide(&self, newest: &State<V>, verdict: &mut Verdict) -> Option<Precondition> {
        verdict.rests_on = verdict.rests_on.max(newest.version());
        if let Some(seen) = &self.seen
            && seen.version() != newest.version()
        {
            verdict.moved = true;
            return Some(expectation(seen));
        }
        let current = newest.live().map(|record| &record.metadata);
        let unmet = match &self.change {
            Some(change) => change.decide(&self.conditions, current),
            None => crate::precondition::decide(&self.conditions, current).map_err(Clone::clone),
        };
        verdict.unmet |= unmet.is_err();
        unmet.err()
    }
}

impl<V> RefusedItem<V> {
    /// The refusal of a look-up that finds something else by now: of the entity that comes or goes.
    fn of_lookup(seen: &State<KeyBuf>, newest: &State<KeyBuf>) -> Option<RefusedItem<V>> {
        let (key, unmet) = match (newest.live(), seen.live()) {
            (Some(comes), _) => (&comes.value, Precondition::Absent),
            (None, Some(goes)) => (&goes.value, Precondition::Exists),
            (None, None) => return None,
        };
        let (key, barred, newest, held) = (key.clone(), None, None, None);
        Some(RefusedItem { key, unmet, barred, newest, held })
    }
}

/// What relying on this state amounts to.
fn expectation<V>(seen: &State<V>) -> Precondition {
    match seen.live() {
        Some(record) => Precondition::Matches(record.metadata.version),
        None => Precondition::Absent,
    }
}

impl Scan {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (as_slice(&self.start), as_slice(&self.end))
    }
}

fn as_slice(bound: &Bound<KeyBuf>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &**key)
}

impl<V: Send + Sync + 'static> Share for Members<V> {
    fn prepare(&mut self, store: &Inner, actor: Option<&Actor>) -> Result<usize> {
        let (collection, keeps) = (&*self.collection, store.journal.keeps_records());
        let mut payload = 0;
        for (key, item) in &mut self.items {
            let value = match &mut item.change {
                None => continue,
                Some(Change::Put { record, encoded }) if keeps => {
                    *encoded = collection.encode(&store.limits, key, &record.value)?;
                    encoded.len()
                }
                Some(_) => 0,
            };
            payload += payload_at_most(store, collection, key, value, actor);
        }
        Ok(payload)
    }

    fn writes(&self) -> usize {
        self.items.values().filter(|item| item.change.is_some()).count()
    }

    fn decides(&self) -> bool {
        self.items.values().any(|item| item.change.is_some() || !item.conditions.is_empty())
    }

    fn unchanged(&mut self) -> Option<u64> {
        let Members { collection, items, scans, lookups, refused, .. } = self;
        let (map, mut vacant) = (&collection.map, !scans.is_empty());
        for (key, item) in &*items {
            let Some(seen) = &item.seen else { continue };
            let newest = map.newest(item.hash, key);
            vacant |= matches!(seen, State::Vacant);
            if newest.version() != seen.version() {
                let (key, unmet) = (key.clone(), expectation(seen));
                let newest = Some(newest);
                refused.push(RefusedItem { key, unmet, barred: None, newest, held: None });
                return None;
            }
        }
        let mut since = 0;
        for ((index, key), seen) in &*lookups {
            let Some(index) = collection.unique.get(*index) else { continue };
            let newest = index.map.newest(index.map.hash(key), key);
            if !is_same(seen, &newest) {
                refused.extend(RefusedItem::of_lookup(seen, &newest));
                return None;
            }
            since = since.max(match newest.version() {
                0 => index.map.keys().removed_at(),
                version => version,
            });
        }
        let keys = map.keys().read();
        if let Some(key) = scans.iter().find_map(|scan| newcomer(&keys, scan, items)) {
            let (unmet, barred, held) = (Precondition::Absent, None, None);
            refused.push(RefusedItem { key, unmet, barred, newest: None, held });
            return None;
        }
        Some(if vacant { since.max(map.keys().removed_at()) } else { since })
    }

    fn take_up_holders(&mut self) {
        for key in std::mem::take(&mut self.holders) {
            self.item(&key);
        }
    }

    fn blame(&mut self) {
        let first = self.items.keys().next().cloned();
        let key = first.unwrap_or_else(|| KeyBuf::from(&[][..]));
        let unmet = Precondition::Exists;
        self.refused.push(RefusedItem { key, unmet, barred: None, newest: None, held: None });
    }

    fn lock(&mut self) -> Box<dyn Locked + '_> {
        Box::new(self.lock_members())
    }

    fn lost_at(&self) -> Option<Place> {
        let first = self.refused.first()?;
        Some((self.collection.id, self.collection.map.hash(&first.key)))
    }

    fn count_losses(&self, store: &Inner) {
        // A duplicate is not tried again.
        for RefusedItem { key, unmet, newest, .. } in &self.refused {
            let current = newest.as_ref().and_then(State::live).map(|record| &record.metadata);
            let deleted = matches!(newest, Some(State::Deleted(_)));
            self.collection.refused(store, key, Reason::of(unmet, current, deleted), true);
        }
    }

    fn take_conflicts(
        &mut self,
        store: &Inner,
        decided_at: Timestamp,
        effort: Option<Effort>,
    ) -> Vec<Conflict> {
        let Members { collection, items, refused, .. } = self;
        refused.sort_by(|one, other| one.key.cmp(&other.key));
        let conflict = |RefusedItem { key, unmet, barred, newest, held }| {
            let map = &collection.map;
            let newest = newest.unwrap_or_else(|| map.newest(map.hash(&key), &key));
            let change = items.get_mut(&key).and_then(|item| item.change.take());
            let rests_on = newest.version();
            let refused = Refused { unmet, newest, decided_at, rests_on, held, barred };
            refused.into_conflict(store, collection, &key, change, effort)
        };
        refused.drain(..).map(conflict).collect()
    }
}

/// A key that came into a range after that was scanned.
fn newcomer<V>(keys: &Keys<'_>, scan: &Scan, items: &BTreeMap<KeyBuf, Item<V>>) -> Option<KeyBuf> {
    let known = |key: &KeyBuf| items.get(key).is_some_and(|item| item.seen.is_some());
    keys.range(scan.bounds()).find(|key| !known(key)).cloned()
}

pub(crate) struct LockedMembers<'a, V> {
    collection: &'a CollectionState<V>,
    items: &'a mut BTreeMap<KeyBuf, Item<V>>,
    scans: &'a [Scan],
    lookups: &'a Lookups,
    holders: &'a mut Vec<KeyBuf>,
    refused: &'a mut Vec<RefusedItem<V>>,
    garbage: &'a mut Garbage<V>,
    index_garbage: &'a mut Garbage<KeyBuf>,
    /// Those of all items, in the order of their indexes.
    stripes: Stripes<'a, V>,
    entries: Option<LockedEntries<'a, V>>,
    keys: Option<Keys<'a>>,
}

type Stripes<'a, V> = Vec<(usize, LockedStripe<'a, V>)>;

impl<V: Send + Sync + 'static> LockedMembers<'_, V> {
    fn newest(&self, key: &KeyBuf, item: &Item<V>) -> &State<V> {
        let stripe = self.collection.map.stripe_of(item.hash);
        let found = self.stripes.binary_search_by_key(&stripe, |(index, _)| *index);
        let stripe = found.ok().and_then(|place| self.stripes.get(place));
        stripe.map_or(&State::Vacant, |(_, stripe)| stripe.newest(item.hash, key))
    }

    /// What becomes of index keys. Claims of what the commit itself gives away go to `lost`.
    fn index_changes(&self, lost: &mut Vec<Taken>) -> Changes {
        let mut changes = Changes::default();
        for (key, item) in &*self.items {
            let new = match &item.change {
                None => continue,
                Some(Change::Put { record, .. }) => Some(&**record),
                Some(Change::Delete) => None,
            };
            let old = self.newest(key, item).live().map(|record| &**record);
            changes.replace(key, old, new, &self.collection.unique, lost);
        }
        changes
    }

    /// Refuses to give an index key to a second entity.
    fn refuse(&mut self, claim: Taken, verdict: &mut Verdict) {
        verdict.unmet = true;
        let newest = match (self.items.get(&claim.holder), claim.within) {
            // It is not the holder yet.
            (_, true) => State::Vacant,
            (Some(item), false) => self.newest(&claim.holder, item).clone(),
            (None, false) => {
                verdict.lacks_holder = true;
                self.holders.push(claim.holder);
                return;
            }
        };
        // One refusal for each key: of the condition that was named, if there is one.
        if self.refused.iter().all(|refused| refused.key != claim.by) {
            let (held, newest) = (claim.held(self.collection), Some(newest));
            let (key, unmet) = (claim.by, Precondition::Unconditional);
            self.refused.push(RefusedItem { key, unmet, barred: None, newest, held });
        }
    }

    /// As [`newest`](LockedMembers::newest), of a key that was taken up.
    pub(crate) fn newest_at(&self, key: &KeyBuf) -> &State<V> {
        self.items.get(key).map_or(&State::Vacant, |item| self.newest(key, item))
    }

    /// What is to be written at a key.
    pub(crate) fn change_at(&mut self, key: &KeyBuf) -> Option<&mut Change<V>> {
        self.items.get_mut(key)?.change.as_mut()
    }

    /// Keys that come to have an entity.
    fn created(&self) -> impl Iterator<Item = &KeyBuf> {
        let items = self.items.iter();
        let puts = items.filter(|(_, item)| matches!(item.change, Some(Change::Put { .. })));
        puts.filter(|(key, item)| self.newest(key, item).live().is_none()).map(|(key, _)| key)
    }
}

impl<V: Send + Sync + 'static> Locked for LockedMembers<'_, V> {
    fn leases(&self, all: bool) -> Vec<KeyBuf> {
        // Whoever has taken a lease of one of the keys had its stripe, and has raised this before
        // it let go: so it is seen under the same lock, whatever the ordering.
        if !all && self.collection.leases.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let exclusive = self.items.iter().filter(|(_, item)| item.is_exclusive());
        exclusive.map(|(key, _)| entry_key(&self.collection.name, key)).collect()
    }

    fn decide(&mut self, leases: Option<&LockedLeases<'_>>, verdict: &mut Verdict) {
        for (key, item) in &*self.items {
            let newest = self.newest(key, item);
            let exclusive = leases.filter(|_| item.is_exclusive());
            let barred = exclusive.and_then(|leases| leases.bar(&self.collection.name, key));
            verdict.unmet |= barred.is_some();
            let unmet = item.decide(newest, verdict);
            if barred.is_some() || unmet.is_some() {
                let (key, newest) = (key.clone(), Some(newest.clone()));
                let unmet = unmet.unwrap_or(Precondition::Unconditional);
                self.refused.push(RefusedItem { key, unmet, barred, newest, held: None });
            }
        }
    }

    fn lock_unique(&mut self, verdict: &mut Verdict) {
        // What has moved is tried again, whoever holds which index key.
        if self.collection.unique.is_empty() || verdict.moved {
            return;
        }
        let (indexes, mut lost) = (&*self.collection.unique, Vec::new());
        let entries = LockedEntries::lock(indexes, self.index_changes(&mut lost), self.lookups);
        if let Some((seen, newest)) = entries.moved(self.lookups, verdict) {
            verdict.moved = true;
            self.refused.extend(RefusedItem::of_lookup(seen, &newest));
            return;
        }
        entries.decide(verdict, &mut lost);
        self.entries = Some(entries);
        for claim in lost {
            self.refuse(claim, verdict);
        }
    }

    fn lock_index(&mut self, verdict: &mut Verdict) {
        let keys = self.collection.map.keys();
        let guard = match (self.created().next().is_some(), self.scans.is_empty()) {
            (false, true) => return,
            (false, false) => keys.read(),
            (true, _) => keys.write(),
        };
        for scan in self.scans {
            if let Some(key) = newcomer(&guard, scan, self.items) {
                verdict.moved = true;
                let unmet = Precondition::Absent;
                self.refused.push(RefusedItem {
                    key,
                    unmet,
                    barred: None,
                    newest: None,
                    held: None,
                });
            }
        }
        self.keys = Some(guard);
    }

    fn list(&mut self) {
        let created: Vec<_> = self.created().cloned().collect();
        if let Some(keys) = &mut self.keys {
            created.into_iter().for_each(|key| keys.insert(key));
        }
    }

    fn announces(&self) -> bool {
        let writes = self.items.values().any(|item| item.change.is_some());
        writes && !self.collection.announced.swap(true, Ordering::Relaxed)
    }

    fn announce(&self, bytes: &mut Vec<u8>) {
        self.collection.announce(bytes);
    }

    fn log(&self, bytes: &mut Vec<u8>) {
        for (key, item) in &*self.items {
            if let Some(change) = &item.change {
                let value = change.encoded();
                LoggedWrite { collection: self.collection.id, key, value }.encode(bytes);
            }
        }
    }

    fn first(&self) -> Option<First> {
        let (key, item) = self.items.iter().find(|(_, item)| item.change.is_some())?;
        let replaced = self.newest(key, item).live().map(|record| &record.metadata);
        Some(First {
            deleted: matches!(item.change, Some(Change::Delete)),
            previous: replaced.map(|metadata| metadata.version),
            created_at: replaced.map(|metadata| metadata.created_at),
        })
    }

    fn unlock_index(&mut self) {
        self.keys = None;
    }

    fn install(&mut self, stamp: Stamp, actor: Option<&Actor>, at: Install) {
        let LockedMembers { collection, items, stripes, garbage, .. } = self;
        let mut written = Vec::new();
        for (key, item) in &mut **items {
            let Some(change) = item.change.take() else { continue };
            let stripe = collection.map.stripe_of(item.hash);
            let found = stripes.binary_search_by_key(&stripe, |(index, _)| *index);
            let Ok(place) = found else { continue };
            let Some((_, stripe)) = stripes.get_mut(place) else { continue };
            let newest = stripe.newest(item.hash, key);
            let (state, landed) = change.land(newest, stamp, actor.cloned());
            stripe.install((item.hash, key), state, at, garbage);
            item.written = Some(landed);
            written.push(place);
        }
        for place in written {
            if let Some((_, stripe)) = stripes.get_mut(place) {
                stripe.settle(at, garbage);
            }
        }
        if let Some(entries) = &mut self.entries {
            entries.install(stamp, at, self.index_garbage);
        }
    }

    fn tell(&self, changes: &mut Vec<feed::Change>) {
        for (key, item) in &*self.items {
            let change = |record| feed::Change::new(self.collection, key, record);
            match &item.written {
                Some(Written::Put { entity, .. }) => changes.push(change(Some(entity.record()))),
                Some(Written::Deleted(_)) => changes.push(change(None)),
                None => {}
            }
        }
    }
}
