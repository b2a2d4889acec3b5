//! A commit of several keys of any collections: decided at one instant, one record, one version.
//!
//! All locks are taken before anything is written, and in one order for everybody: the stripes of
//! all keys by collection and index; those of the index keys by collection, unique index and
//! stripe; the key indexes by collection; the log. They are kept until everything is installed.
//! (Two-phase locking: Eswaran et al., The Notions of Consistency and Predicate Locks in a Database
//! System, 1976; what was scanned is locked by its key index.)

mod members;
mod unique;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use members::{Item, LockedMembers, Members, Scan};

use crate::clock::Timestamp;
use crate::collection::CollectionState;
use crate::commit::Terms;
use crate::conflict::{Conflict, Effort};
use crate::entity::{Actor, Record};
use crate::error::Result;
use crate::feed;
use crate::ids::{Claimed, First, IdRecord};
use crate::lease::{LeaseTerms, LockedLeases};
use crate::log::{Room, Stamp};
use crate::map::{Install, KeyBuf};
use crate::record;
use crate::store::Inner;
use crate::sync::Ordering;
use crate::turns::Place;

/// The keys that a commit reads and writes, by the number of their collection.
#[derive(Default)]
pub(crate) struct Group {
    shares: BTreeMap<u32, Box<dyn Share>>,
    leases: Option<LeaseTerms>,
}

/// How an attempt ended.
pub(crate) enum Attempt {
    /// With the version of the commit; `None` if there was nothing to write.
    Landed(Option<Stamp>),
    /// The commit with this operation id has landed before.
    Replayed(Arc<Record<IdRecord>>),
    Refused {
        decided_at: Timestamp,
    },
}

/// What was decided.
#[derive(Clone, Copy, Default)]
pub(crate) struct Verdict {
    /// The highest version that it was decided on.
    pub(crate) rests_on: u64,
    /// A key has changed since it was read.
    pub(crate) moved: bool,
    /// A condition that was named does not hold.
    pub(crate) unmet: bool,
    /// An index key is held by an entity that is not locked.
    pub(crate) lacks_holder: bool,
}

/// The keys of one collection, whatever the type of its values.
pub(crate) trait Share: Any + Send {
    /// Encodes what is to be written. Returns how long the writes may get in the record.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode) and [`Error::Limit`](crate::Error::Limit).
    fn prepare(&mut self, store: &Inner, actor: Option<&Actor>) -> Result<usize>;

    fn writes(&self) -> usize;

    /// Whether anything is to be decided: a condition was named, or something is written.
    fn decides(&self) -> bool;

    /// Checks that nothing that was read has changed. Returns the version from which on this is
    /// so at the latest.
    fn unchanged(&mut self) -> Option<u64>;

    /// Counts the first key as refused.
    fn blame(&mut self);

    /// Takes up the holders of index keys that were lacking.
    fn take_up_holders(&mut self);

    /// Locks the stripes of all keys.
    fn lock(&mut self) -> Box<dyn Locked + '_>;

    /// Where the first key is that was refused.
    fn lost_at(&self) -> Option<Place>;

    /// What was refused, as the caller gets it (G4).
    fn take_conflicts(
        &mut self,
        store: &Inner,
        decided_at: Timestamp,
        effort: Option<Effort>,
    ) -> Vec<Conflict>;

    /// Counts what was refused, where the caller is not told because it is tried again.
    fn count_losses(&self, store: &Inner);
}

/// The keys of one collection, locked.
pub(crate) trait Locked {
    /// Where the leases are kept of the keys that are written. None has a lease if the collection
    /// has none, unless `all` are asked for.
    fn leases(&self, all: bool) -> Vec<KeyBuf>;

    /// Decides all conditions, and whether a lease is in the way.
    fn decide(&mut self, leases: Option<&LockedLeases<'_>>, verdict: &mut Verdict);

    /// Locks the index keys that are looked up, or change hands, and checks that they are free.
    fn lock_unique(&mut self, verdict: &mut Verdict);

    /// Locks the key index, if it was scanned or is going to change, and checks that no key came
    /// into a scanned range.
    fn lock_index(&mut self, verdict: &mut Verdict);

    /// Puts the keys that are created into the key index.
    fn list(&mut self);

    /// Whether the log has to be told the collection's name. Called under the lock of the log.
    fn announces(&self) -> bool;

    /// Writes the collection's name.
    fn announce(&self, bytes: &mut Vec<u8>);

    fn log(&self, bytes: &mut Vec<u8>);

    /// What the first write finds at its key.
    fn first(&self) -> Option<First>;

    fn unlock_index(&mut self);

    fn install(&mut self, stamp: Stamp, actor: Option<&Actor>, at: Install);

    /// What the feed tells of what was installed.
    fn tell(&self, changes: &mut Vec<feed::Change>);
}

impl Group {
    /// The keys of this collection.
    pub(crate) fn members<V: Send + Sync + 'static>(
        &mut self,
        collection: &Arc<CollectionState<V>>,
    ) -> Option<&mut Members<V>> {
        let share = self.shares.entry(collection.id);
        let share = share.or_insert_with(|| Box::new(Members::new(Arc::clone(collection))));
        let share: &mut dyn Any = &mut **share;
        share.downcast_mut()
    }

    /// What the commit has to do with leases.
    pub(crate) fn leases(&mut self, store: &Inner) -> &mut LeaseTerms {
        self.leases.get_or_insert_with(|| LeaseTerms::new(&store.leases))
    }

    /// Encodes what is to be written. Returns how long the record may get.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode) and [`Error::Limit`](crate::Error::Limit).
    pub(crate) fn prepare(&mut self, store: &Inner, actor: Option<&Actor>) -> Result<usize> {
        let name = actor.map_or(0, |actor| actor.as_str().len());
        let mut payload = record::NUMBERS_AT_MOST + name;
        for share in self.shares.values_mut() {
            payload += share.prepare(store, actor)?;
        }
        if let Some(leases) = &mut self.leases {
            payload += leases.prepare(store, actor)?;
        }
        Ok(payload)
    }

    /// Whether anything is to be decided under locks.
    pub(crate) fn decides(&self) -> bool {
        self.leases.is_some() || self.shares.values().any(|share| share.decides())
    }

    /// Checks that nothing that was read has changed. Returns the version from which on this is
    /// so at the latest.
    pub(crate) fn unchanged(&mut self) -> Option<u64> {
        self.shares.values_mut().try_fold(0, |from, share| Some(from.max(share.unchanged()?)))
    }

    /// Counts a key as refused, where it cannot be told which one it is.
    pub(crate) fn blame(&mut self) {
        if let Some(share) = self.shares.values_mut().next() {
            share.blame();
        }
    }

    /// Tries the commit; see [`attempt`].
    ///
    /// # Errors
    /// As of `attempt`.
    pub(crate) fn attempt(
        &mut self,
        store: &Inner,
        terms: Option<&Terms>,
        actor: Option<&Actor>,
        room: Room<'_>,
        by_future: bool,
        verdict: &mut Verdict,
    ) -> Result<Attempt> {
        let mut shares: Vec<_> = self.shares.values_mut().map(|share| &mut **share).collect();
        let leases = &mut self.leases;
        attempt(store, &mut shares, leases, terms, actor, room, by_future, verdict)
    }

    /// Where the first key is that was refused.
    pub(crate) fn lost_at(&self) -> Option<Place> {
        let leases = self.leases.as_ref().and_then(LeaseTerms::lost_at);
        self.shares.values().find_map(|share| share.lost_at()).or(leases)
    }

    /// As [`Share::count_losses`].
    pub(crate) fn count_losses(&self, store: &Inner) {
        self.shares.values().for_each(|share| share.count_losses(store));
    }

    /// All that was refused, as one conflict; the first key's is told first (G4). `effort` is
    /// given of one that has been tried too often.
    pub(crate) fn into_conflict(
        mut self,
        store: &Inner,
        decided_at: Timestamp,
        effort: Option<Effort>,
    ) -> Option<Conflict> {
        let shares = self.shares.values_mut();
        let all = shares.flat_map(|share| share.take_conflicts(store, decided_at, effort));
        let leases = self.leases.iter_mut();
        let leases = leases.flat_map(|leases| leases.take_conflicts(store, decided_at, effort));
        let mut all = all.chain(leases);
        let first = all.next()?;
        Some(first.with_others(all.collect()))
    }
}

/// Tries a commit, for the record of which there is room. It takes effect if and only if all
/// conditions hold and nothing that was read has changed (G1). The shares are in the order of their
/// collections.
///
/// # Errors
/// [`Error::Closed`](crate::Error::Closed) and [`Error::Poisoned`](crate::Error::Poisoned); nothing
/// was written then.
#[allow(clippy::too_many_arguments, reason = "all that one commit is")]
pub(crate) fn attempt(
    store: &Inner,
    shares: &mut [&mut dyn Share],
    leases: &mut Option<LeaseTerms>,
    terms: Option<&Terms>,
    actor: Option<&Actor>,
    room: Room<'_>,
    by_future: bool,
    verdict: &mut Verdict,
) -> Result<Attempt> {
    store.durable()?;
    let writes: usize = shares.iter().map(|share| share.writes()).sum();
    let writes = writes + leases.as_ref().map_or(0, LeaseTerms::writes);
    let claim = terms.and_then(|terms| terms.claim.as_ref());
    let before = *verdict;
    let (mut locked, claimed) = loop {
        let mut locked: Vec<_> = shares.iter_mut().map(|share| share.lock()).collect();
        let leases = lock_leases(store, leases, &locked);
        let claimed = claim.map(|claim| store.ids.lock(claim));
        // Before any conflict is reported (G5).
        if let Some(record) = claimed.as_ref().and_then(|claimed| claimed.found(store.now())) {
            verdict.rests_on = verdict.rests_on.max(record.metadata.version.get());
            return Ok(Attempt::Replayed(record));
        }
        for share in &mut locked {
            share.decide(leases.as_ref(), verdict);
        }
        if let Some(mut leases) = leases {
            leases.decide(None, verdict);
            locked.push(Box::new(leases));
        }
        for share in &mut locked {
            share.lock_unique(verdict);
        }
        if !verdict.lacks_holder {
            break (locked, claimed);
        }
        // A refusal tells of the holder as it is at that instant. Its stripe comes before those of
        // the index keys, so all is decided anew.
        drop((locked, claimed));
        *verdict = before;
        shares.iter_mut().for_each(|share| share.take_up_holders());
    };
    for share in &mut locked {
        share.lock_index(verdict);
    }
    if verdict.moved || verdict.unmet {
        drop((locked, claimed));
        return Ok(Attempt::Refused { decided_at: store.now() });
    }
    if writes == 0 {
        return Ok(Attempt::Landed(None));
    }
    let stamp = Decided { locked, claimed, writes }.land(store, actor, room, by_future)?;
    store.journal.appended(stamp);
    if let Some(claim) = claim {
        store.ids.landed(claim, stamp, store.journal.shown());
    }
    Ok(Attempt::Landed(Some(stamp)))
}

/// A commit that is to land: everything that it concerns is locked.
struct Decided<'a> {
    locked: Vec<Box<dyn Locked + 'a>>,
    claimed: Option<Claimed<'a>>,
    writes: usize,
}

impl Decided<'_> {
    /// Appends the record, installs everything and unlocks.
    ///
    /// # Errors
    /// As of [`attempt`].
    fn land(
        self,
        store: &Inner,
        actor: Option<&Actor>,
        room: Room<'_>,
        by_future: bool,
    ) -> Result<Stamp> {
        let Decided { mut locked, mut claimed, writes } = self;
        for share in &mut locked {
            share.list();
        }
        if let Some(claimed) = &mut claimed {
            claimed.prepare(locked.iter().find_map(|share| share.first()).unwrap_or_default());
        }
        let payload = |bytes: &mut Vec<u8>| log(bytes, &locked, claimed.as_ref(), actor, writes);
        let bytes = room.bytes();
        let stamp = store.journal.append(&*store.clock, by_future, room, payload)?;
        for share in &mut locked {
            share.unlock_index();
        }
        let durable = store.journal.shown().load(Ordering::Acquire);
        let at = Install { open_from: stamp.open_from, durable };
        for share in &mut locked {
            share.install(stamp, actor, at);
        }
        let noted = claimed.and_then(|claimed| claimed.install(stamp, actor, at));
        let told = store.feed.publish(stamp, || {
            let mut changes = Vec::with_capacity(writes + 1);
            locked.iter().for_each(|share| share.tell(&mut changes));
            changes.extend(noted);
            feed::Commit::new(stamp.place(), actor.cloned(), changes, bytes)
        });
        drop(locked);
        // Wakes the caller's code: with nothing locked.
        drop(told);
        Ok(stamp)
    }
}

/// Locks the leases that the commit names, and those of the keys that it writes: behind the stripes
/// of the keys, because nobody takes a lease of a key without its stripe.
fn lock_leases<'a>(
    store: &'a Inner,
    leases: &'a mut Option<LeaseTerms>,
    locked: &[Box<dyn Locked + '_>],
) -> Option<LockedLeases<'a>> {
    let all = leases.is_some();
    let written: Vec<_> = locked.iter().flat_map(|share| share.leases(all)).collect();
    if written.is_empty() && !all {
        return None;
    }
    let leases = leases.get_or_insert_with(|| LeaseTerms::new(&store.leases));
    Some(leases.lock(store, written))
}

/// Writes the record: the names that the log does not know yet, then the writes.
fn log(
    bytes: &mut Vec<u8>,
    locked: &[Box<dyn Locked + '_>],
    claimed: Option<&Claimed<'_>>,
    actor: Option<&Actor>,
    writes: usize,
) {
    let unknown: Vec<_> = locked.iter().filter(|share| share.announces()).collect();
    let unknown_ids = claimed.filter(|claimed| claimed.announces());
    let names = unknown.len() + usize::from(unknown_ids.is_some());
    let count = names + writes + usize::from(claimed.is_some());
    record::begin(bytes, actor.map(Actor::as_str), count as u64);
    for share in unknown {
        share.announce(bytes);
    }
    unknown_ids.into_iter().for_each(|claimed| claimed.announce(bytes));
    for share in locked {
        share.log(bytes);
    }
    claimed.into_iter().for_each(|claimed| claimed.log(bytes));
}
