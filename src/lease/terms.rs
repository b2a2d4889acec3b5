//! What a commit has to do with leases: those it takes, renews, gives back or relies on, and
//! those of others that it has to respect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::alarm::Slot;
use crate::clock::Timestamp;
use crate::commit::Change;
use crate::conflict::{Conflict, Effort};
use crate::entity::{Actor, Record};
use crate::error::Result;
use crate::feed;
use crate::group::{Group, Locked, LockedMembers, Members, Share, Verdict};
use crate::ids::First;
use crate::lease::hold::{Barred, Hold, collection_of, entry_key};
use crate::lease::table::Leases;
use crate::lease::{Held, Leasable};
use crate::log::Stamp;
use crate::map::{Install, KeyBuf, State};
use crate::store::Inner;
use crate::sync::{AtomicU64, Ordering};
use crate::turns::Place;
use crate::version::Version;

/// The leases of a commit.
pub(crate) struct LeaseTerms {
    /// Of the collection of leases.
    members: Members<Hold>,
    /// Those that have to be the current ones of their keys: all of them, should the caller name
    /// two of one key.
    relied_on: BTreeMap<(KeyBuf, Version), Held>,
    /// Those that are changed by right, and so do not keep out who changes them; `true` if they
    /// have to hold until then.
    owned: BTreeMap<KeyBuf, bool>,
    /// Of those that change: how many leases their collections have.
    counts: BTreeMap<KeyBuf, Arc<AtomicU64>>,
    slots: Vec<Slot>,
    /// What was refused for want of a lease, and not for a key that is written.
    refused: Vec<((KeyBuf, Version), Box<Barred>)>,
}

impl Group {
    /// Takes a lease with the commit. The version of the commit is its token.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit).
    pub(crate) fn take_lease(
        &mut self,
        store: &Inner,
        leased: &Arc<dyn Leasable>,
        key: &KeyBuf,
        hold: Hold,
    ) -> Result<()> {
        // No write of the key is under way when it is leased.
        Arc::clone(leased).lock_with(self, key);
        let terms = self.leases(store);
        terms.slots.push(store.leases.slot(store, || leased.place(key))?);
        let entry = entry_key(leased.name(), key);
        let record = Record::unplaced(hold);
        terms.members.item(&entry).change = Some(Change::Put { record, encoded: Vec::new() });
        Ok(())
    }
}

impl LeaseTerms {
    pub(crate) fn new(leases: &Leases) -> LeaseTerms {
        LeaseTerms {
            members: Members::new(Arc::clone(&leases.entries)),
            relied_on: BTreeMap::new(),
            owned: BTreeMap::new(),
            counts: BTreeMap::new(),
            slots: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(crate) fn relying_on(leases: &Leases, held: &Held) -> LeaseTerms {
        let mut terms = LeaseTerms::new(leases);
        terms.rely_on(held);
        terms
    }

    /// Relies on a lease: it has to be the current one of its key.
    pub(crate) fn rely_on(&mut self, held: &Held) {
        let entry = held.entry();
        self.members.item(&entry);
        self.relied_on.insert((entry, held.token), held.clone());
    }

    /// Changes a lease that the commit relies on, if it is still as it was `seen`.
    pub(crate) fn change(&mut self, held: &Held, seen: State<Hold>, hold: Option<Hold>) {
        self.rely_on(held);
        let item = self.members.item(&held.entry());
        item.seen = Some(seen);
        item.change = Some(match hold {
            Some(hold) => Change::Put { record: Record::unplaced(hold), encoded: Vec::new() },
            None => Change::Delete,
        });
    }

    /// Deletes a lease, if it is still as it was `seen`. The caller has the right to it.
    pub(crate) fn end(&mut self, entry: &KeyBuf, seen: State<Hold>) {
        let item = self.members.item(entry);
        item.seen = Some(seen);
        item.change = Some(Change::Delete);
        self.owned.insert(entry.clone(), false);
    }

    /// Has a lease last longer, if it is still as it was `seen` and has not expired: else there may
    /// have been a write in between. The caller has the right to it.
    pub(crate) fn prolong(&mut self, entry: &KeyBuf, seen: State<Hold>, hold: Hold) {
        let item = self.members.item(entry);
        item.seen = Some(seen);
        let record = Record::unplaced(hold);
        item.change = Some(Change::Put { record, encoded: Vec::new() });
        self.owned.insert(entry.clone(), true);
    }

    /// As [`Share::prepare`].
    ///
    /// # Errors
    /// As of that.
    pub(crate) fn prepare(&mut self, store: &Inner, actor: Option<&Actor>) -> Result<usize> {
        for entry in self.members.changed() {
            let count = store.leases.count_of(&collection_of(entry));
            self.counts.insert(entry.clone(), count);
        }
        self.members.prepare(store, actor)
    }

    pub(crate) fn writes(&self) -> usize {
        self.members.writes()
    }

    /// Locks the leases that the commit names, and those of keys that it writes.
    pub(crate) fn lock<'a>(
        &'a mut self,
        store: &'a Inner,
        written: Vec<KeyBuf>,
    ) -> LockedLeases<'a> {
        let LeaseTerms { members, relied_on, owned, counts, slots, refused } = self;
        // Of a round before this one.
        refused.clear();
        for entry in &written {
            members.item(entry);
        }
        let (members, written) = (members.lock_members(), written.into_iter().collect());
        // Whatever has expired now has expired for all who lock these leases later.
        let now = store.clock.monotonic();
        let store = &store.leases;
        LockedLeases { store, members, relied_on, owned, counts, slots, refused, written, now }
    }

    /// As [`Share::lost_at`].
    pub(crate) fn lost_at(&self) -> Option<Place> {
        self.members.lost_at()
    }

    /// As [`Share::take_conflicts`].
    pub(crate) fn take_conflicts(
        &mut self,
        store: &Inner,
        decided_at: Timestamp,
        effort: Option<Effort>,
    ) -> Vec<Conflict> {
        let LeaseTerms { members, relied_on, refused, .. } = self;
        let conflict = |(missed, barred)| {
            let Held { leased, key, .. } = relied_on.get(&missed)?;
            let (collection, key) = (Arc::clone(leased.name()), leased.text(key));
            Some(Conflict::barred(barred, collection, key, store.lineage, decided_at))
        };
        let mut conflicts: Vec<_> = refused.drain(..).filter_map(conflict).collect();
        conflicts.append(&mut members.take_conflicts(store, decided_at, effort));
        conflicts
    }
}

/// The leases of a commit, locked.
pub(crate) struct LockedLeases<'a> {
    store: &'a Leases,
    members: LockedMembers<'a, Hold>,
    relied_on: &'a BTreeMap<(KeyBuf, Version), Held>,
    owned: &'a BTreeMap<KeyBuf, bool>,
    counts: &'a BTreeMap<KeyBuf, Arc<AtomicU64>>,
    slots: &'a mut Vec<Slot>,
    refused: &'a mut Vec<((KeyBuf, Version), Box<Barred>)>,
    /// Those of keys that are written, or leased.
    written: BTreeSet<KeyBuf>,
    now: Duration,
}

impl LockedLeases<'_> {
    /// What keeps the commit from writing or leasing this key.
    pub(crate) fn bar(&self, collection: &str, key: &[u8]) -> Option<Box<Barred>> {
        let entry = entry_key(collection, key);
        if self.owned.contains_key(&entry) {
            return None;
        }
        let state = self.members.newest_at(&entry);
        let named = self.relied_on.range((entry.clone(), Version::FIRST)..);
        let mut named = named.take_while(|((other, _), _)| *other == entry).peekable();
        match named.peek() {
            None => Barred::by(state, None, self.now),
            Some(_) => named.find_map(|((_, token), _)| Barred::by(state, Some(*token), self.now)),
        }
    }
}

impl Locked for LockedLeases<'_> {
    fn leases(&self, _: bool) -> Vec<KeyBuf> {
        Vec::new()
    }

    /// Decides on the leases that do not stand for a key that is written.
    fn decide(&mut self, _: Option<&LockedLeases<'_>>, verdict: &mut Verdict) {
        self.members.decide(None, verdict);
        let has_expired = |entry: &KeyBuf| {
            let held = self.members.newest_at(entry).live();
            held.is_none_or(|held| held.has_expired(self.now))
        };
        let lasting = self.owned.iter().filter(|(_, lasting)| **lasting);
        verdict.moved |= lasting.map(|(entry, _)| entry).any(has_expired);
        for (entry, token) in self.relied_on.keys() {
            let state = self.members.newest_at(entry);
            if !self.written.contains(entry)
                && let Some(barred) = Barred::by(state, Some(*token), self.now)
            {
                verdict.unmet = true;
                self.refused.push(((entry.clone(), *token), barred));
            }
        }
    }

    /// No lease is in a unique index.
    fn lock_unique(&mut self, _: &mut Verdict) {}

    fn lock_index(&mut self, verdict: &mut Verdict) {
        self.members.lock_index(verdict);
    }

    fn list(&mut self) {
        self.members.list();
    }

    fn announces(&self) -> bool {
        self.members.announces()
    }

    fn announce(&self, bytes: &mut Vec<u8>) {
        self.members.announce(bytes);
    }

    fn log(&self, bytes: &mut Vec<u8>) {
        self.members.log(bytes);
    }

    fn first(&self) -> Option<First> {
        None
    }

    fn unlock_index(&mut self) {
        self.members.unlock_index();
    }

    /// A key is leased from here on for whoever locks its stripe next.
    fn install(&mut self, stamp: Stamp, actor: Option<&Actor>, at: Install) {
        for (entry, count) in self.counts {
            let was_held = self.members.newest_at(entry).live().is_some();
            let is_held = self.members.set_deadline(entry, self.now);
            match (was_held, is_held) {
                (false, true) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    self.slots.pop().into_iter().for_each(Slot::keep);
                }
                (true, false) => {
                    count.fetch_sub(1, Ordering::Relaxed);
                    self.store.give_back();
                }
                _ => {}
            }
        }
        self.members.install(stamp, actor, at);
    }

    fn tell(&self, changes: &mut Vec<feed::Change>) {
        self.members.tell(changes);
    }
}

impl LockedMembers<'_, Hold> {
    /// From when on a lease that is about to be installed will have expired. Returns whether it
    /// is one, and not the end of one.
    fn set_deadline(&mut self, entry: &KeyBuf, now: Duration) -> bool {
        let Some(Change::Put { record, .. }) = self.change_at(entry) else { return false };
        // Not shared since `Record::unplaced` made it.
        if let Some(record) = Arc::get_mut(record) {
            record.value.deadline = now.saturating_add(record.value.ttl);
        }
        true
    }
}
