//! One attempt at a write: decide, append and install at one instant, with one stripe locked.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::codec::Encoding;
use crate::collection::CollectionState;
use crate::conflict::{Conflict, Current, Deletion, Effort, HeldKey, Reason};
use crate::contention;
use crate::entity::{Actor, Entity, Metadata, Previous, Record};
use crate::error::{Error, Limit, Result};
use crate::feed;
use crate::group::{self, Members, Share, Verdict};
use crate::ids::{Claim, IdRecord};
use crate::lease::{Barred, Held, LeaseTerms};
use crate::log::{Room, Stamp};
use crate::map::{Garbage, Install, KeyBuf, State};
use crate::options::Limits;
use crate::precondition::{Precondition, decide};
use crate::record::{self, CATALOG, CatalogEntry, LoggedWrite};
use crate::store::Inner;
use crate::sync::Ordering;
use crate::version::Version;
use crate::write::Deleted;

/// A change that is ready to be tried: everything that takes time has been done.
pub(crate) struct Prepared<V> {
    change: Change<V>,
    actor: Option<Actor>,
    pub(crate) preconditions: Preconditions,
    /// What it relies on besides the entity.
    pub(crate) terms: Option<Box<Terms>>,
    /// Bytes that its record takes at most; room for them has to be there.
    pub(crate) payload: usize,
}

/// What a write relies on besides the entity that it replaces.
#[derive(Default)]
pub(crate) struct Terms {
    /// That its operation id has not landed (G5).
    pub(crate) claim: Option<Claim>,
    /// That this lease of its key still holds (G8).
    pub(crate) held: Option<Held>,
}

/// The conditions of a write; the first that does not hold is reported.
pub(crate) type Preconditions = SmallVec<[Precondition; 1]>;

pub(crate) enum Change<V> {
    /// The record is not shared before it is installed. `encoded` is empty in memory.
    Put {
        record: Arc<Record<V>>,
        encoded: Vec<u8>,
    },
    Delete,
}

/// How an attempt ended. Nobody may be told before `rests_on` is durable (G3).
pub(crate) enum Attempt<V> {
    Landed(Landed<V>),
    /// A condition of the entity does not hold. The change is still there.
    Refused(Refused<V>),
    /// The write with this operation id has landed before.
    Replayed(Arc<Record<IdRecord>>),
}

pub(crate) struct Landed<V> {
    pub(crate) written: Written<V>,
    /// What was replaced: dropped when no lock is held and the write is answered, because
    /// dropping runs the caller's code.
    pub(crate) garbage: Garbage<V>,
}

#[allow(missing_debug_implementations, reason = "public in name only: no caller gets one")]
pub enum Written<V> {
    Put { entity: Entity<V>, previous: Option<Version> },
    Deleted(Deleted),
}

pub(crate) struct Refused<V> {
    pub(crate) unmet: Precondition,
    /// What the decision was taken on.
    pub(crate) newest: State<V>,
    pub(crate) decided_at: Timestamp,
    /// The highest version that it was decided on.
    pub(crate) rests_on: u64,
    /// The index key that another entity holds, which is what `newest` is of then.
    pub(crate) held: Option<HeldKey>,
    /// A lease that was in the way, or was missed.
    pub(crate) barred: Option<Box<Barred>>,
}

impl<V> Attempt<V> {
    /// The highest version that the answer was decided on.
    pub(crate) fn rests_on(&self) -> u64 {
        match self {
            Attempt::Landed(landed) => landed.written.version().get(),
            Attempt::Refused(refused) => refused.rests_on,
            Attempt::Replayed(record) => record.metadata.version.get(),
        }
    }
}

impl<V> Written<V> {
    fn version(&self) -> Version {
        match self {
            Written::Put { entity, .. } => entity.version(),
            Written::Deleted(deleted) => deleted.version,
        }
    }
}

impl<V: 'static> Prepared<V> {
    pub(crate) fn delete(
        store: &Inner,
        collection: &CollectionState<V>,
        key: &[u8],
        actor: Option<Actor>,
        preconditions: Preconditions,
    ) -> Prepared<V> {
        let payload = payload_at_most(store, collection, key, 0, actor.as_ref());
        Prepared { change: Change::Delete, actor, preconditions, terms: None, payload }
    }

    /// Encodes the value, if records are kept.
    ///
    /// # Errors
    /// [`Error::Encode`] and [`Error::Limit`].
    pub(crate) fn put(
        store: &Inner,
        collection: &CollectionState<V>,
        key: &[u8],
        mut record: Arc<Record<V>>,
        actor: Option<Actor>,
        preconditions: Preconditions,
    ) -> Result<Prepared<V>> {
        collection.index(&store.limits, key, &mut record)?;
        let encoded = match store.journal.keeps_records() {
            true => collection.encode(&store.limits, key, &record.value)?,
            false => Vec::new(),
        };
        let value = encoded.len();
        let payload = payload_at_most(store, collection, key, value, actor.as_ref());
        let change = Change::Put { record, encoded };
        Ok(Prepared { change, actor, preconditions, terms: None, payload })
    }

    pub(crate) fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// The value as it is stored, in memory too; nothing for a delete.
    ///
    /// # Errors
    /// [`Error::Encode`] and [`Error::Limit`].
    pub(crate) fn encoded(
        &self,
        store: &Inner,
        collection: &CollectionState<V>,
        key: &[u8],
    ) -> Result<Cow<'_, [u8]>> {
        Ok(match &self.change {
            Change::Delete => Cow::Borrowed(&[]),
            Change::Put { encoded, .. } if store.journal.keeps_records() => Cow::Borrowed(encoded),
            Change::Put { record, .. } => {
                Cow::Owned(collection.encode(&store.limits, key, &record.value)?)
            }
        })
    }

    /// The value that has not landed; `None` for a delete.
    pub(crate) fn into_value(self) -> Option<Arc<Record<V>>> {
        match self.change {
            Change::Put { record, .. } => Some(record),
            Change::Delete => None,
        }
    }

    /// With an operation id.
    pub(crate) fn claim(&mut self, store: &Inner, claim: Claim) {
        self.payload += claim.payload(&store.ids);
        self.terms.get_or_insert_default().claim = Some(claim);
    }

    /// With a lease.
    pub(crate) fn hold(&mut self, held: Held) {
        self.terms.get_or_insert_default().held = Some(held);
    }

    /// The change, once it has not landed.
    pub(crate) fn into_change(self) -> Change<V> {
        self.change
    }
}

/// Bytes that the record of one write may take.
pub(crate) fn payload_at_most<V>(
    store: &Inner,
    collection: &CollectionState<V>,
    key: &[u8],
    value: usize,
    actor: Option<&Actor>,
) -> usize {
    if !store.journal.keeps_records() {
        return 0;
    }
    let announcement = match collection.announced.load(Ordering::Relaxed) {
        true => 0,
        false => {
            collection.name.len()
                + collection.keys.kind.len()
                + collection.encoding.codec_name.len()
        }
    };
    let actor = actor.map_or(0, |actor| actor.as_str().len());
    key.len() + value + actor + announcement + record::NUMBERS_AT_MOST
}

impl<V: 'static> CollectionState<V> {
    /// The bytes of a value that is to be stored under `key`.
    ///
    /// # Errors
    /// [`Error::Encode`] and [`Error::Limit`].
    pub(crate) fn encode(&self, limits: &Limits, key: &[u8], value: &V) -> Result<Vec<u8>> {
        let encoded = self.encoding.encode(value).map_err(|detail| Error::Encode {
            collection: Arc::clone(&self.name),
            key: self.text(key),
            detail,
        })?;
        limits.check(Limit::ValueBytes, encoded.len(), || self.place(key))?;
        Ok(encoded)
    }

    /// Tries a change, for the record of which there is room. It takes effect if and only if all
    /// preconditions hold (G1). If it lands, it is taken out of `prepared`.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Poisoned`]; nothing was written then.
    pub(crate) fn attempt(
        self: &Arc<Self>,
        store: &Inner,
        key: &KeyBuf,
        prepared: &mut Prepared<V>,
        room: Room<'_>,
        by_future: bool,
    ) -> Result<Attempt<V>>
    where
        V: Send + Sync,
    {
        if prepared.terms.is_some() || !self.unique.is_empty() {
            return self.attempt_as_group(store, key, prepared, room, by_future);
        }
        let Prepared { change, actor, preconditions, payload: bytes, .. } = prepared;
        let durable = store.durable()?;
        let (mut garbage, hash) = (Garbage::new(), self.map.hash(key));
        let locked = self.map.lock(hash, key);
        // Whoever has leased the key had its stripe: whatever the ordering, this is seen. And
        // nobody can lease it now.
        if self.leases.load(Ordering::Relaxed) > 0 && store.leases.has_entry(&self.name, key) {
            drop(locked);
            return self.attempt_as_group(store, key, prepared, room, by_future);
        }
        let newest = locked.newest();
        let current = newest.live().map(|record| &record.metadata);
        if let Err(unmet) = change.decide(preconditions, current) {
            let newest = newest.clone();
            drop(locked);
            return Ok(Attempt::Refused(Refused::new(unmet, newest, store.now())));
        }
        if newest.live().is_none() {
            locked.list();
        }
        let payload = |bytes: &mut Vec<u8>| self.log(bytes, key, change, actor.as_ref());
        let stamp = store.journal.append(&*store.clock, by_future, room, payload)?;
        let change = std::mem::replace(change, Change::Delete);
        let (state, written) = change.land(newest, stamp, actor.take());
        let _told_when_unlocked = store.feed.publish(stamp, || {
            let change = feed::Change::new(self, key, state.live());
            let bytes = (*bytes).max(size_of::<Record<V>>());
            feed::Commit::new(stamp.place(), state.actor().cloned(), [change], bytes)
        });
        let durable = durable.load(Ordering::Acquire);
        locked.install(state, Install { open_from: stamp.open_from, durable }, &mut garbage);
        store.journal.appended(stamp);
        Ok(Attempt::Landed(Landed { written, garbage }))
    }

    /// As [`attempt`](CollectionState::attempt), of a write that does not concern its key alone.
    fn attempt_as_group(
        self: &Arc<Self>,
        store: &Inner,
        key: &KeyBuf,
        prepared: &mut Prepared<V>,
        room: Room<'_>,
        by_future: bool,
    ) -> Result<Attempt<V>>
    where
        V: Send + Sync,
    {
        let mut members = Members::new(Arc::clone(self));
        let item = members.item(key);
        item.conditions = prepared.preconditions.clone();
        item.change = Some(std::mem::replace(&mut prepared.change, Change::Delete));
        let terms = prepared.terms.as_deref();
        let (actor, mut verdict) = (prepared.actor.as_ref(), Verdict::default());
        let shares: &mut [&mut dyn Share] = &mut [&mut members];
        let held = terms.and_then(|terms| terms.held.as_ref());
        let leases = &mut held.map(|held| LeaseTerms::relying_on(&store.leases, held));
        let attempt =
            group::attempt(store, shares, leases, terms, actor, room, by_future, &mut verdict)?;
        if let Some(landed) = members.take_landed(key) {
            return Ok(Attempt::Landed(landed));
        }
        let change = members.item(key).change.take();
        prepared.change = change.unwrap_or(Change::Delete);
        Ok(match attempt {
            group::Attempt::Replayed(record) => Attempt::Replayed(record),
            group::Attempt::Landed(_) => unreachable!("what has landed was written"),
            group::Attempt::Refused { decided_at } => {
                let Some(refused) = members.take_refused(verdict.rests_on, decided_at) else {
                    unreachable!("what was refused has a reason")
                };
                Attempt::Refused(refused)
            }
        })
    }

    /// Writes the record of a change, and the collection's name before its first one.
    fn log(&self, bytes: &mut Vec<u8>, key: &[u8], change: &Change<V>, actor: Option<&Actor>) {
        // The lock of the log orders this: no record of the collection comes before its name.
        let known = self.announced.swap(true, Ordering::Relaxed);
        record::begin(bytes, actor.map(Actor::as_str), if known { 1 } else { 2 });
        if !known {
            self.announce(bytes);
        }
        LoggedWrite { collection: self.id, key, value: change.encoded() }.encode(bytes);
    }

    /// Writes what the catalog says of the collection.
    pub(crate) fn announce(&self, bytes: &mut Vec<u8>) {
        let entry = self.entry().encode();
        let (key, value) = (self.name.as_bytes(), Some(&entry[..]));
        LoggedWrite { collection: CATALOG, key, value }.encode(bytes);
    }

    pub(crate) fn entry(&self) -> CatalogEntry {
        let Encoding { schema, codec_name, .. } = &self.encoding;
        let (schema, codec) = (*schema, codec_name.clone());
        let (id, key_kind, history) = (self.id, self.keys.kind.clone(), self.history);
        CatalogEntry { id, key_kind, schema, codec, history }
    }
}

impl<V> Change<V> {
    pub(crate) fn encoded(&self) -> Option<&[u8]> {
        match self {
            Change::Put { encoded, .. } => Some(encoded),
            Change::Delete => None,
        }
    }

    /// The first condition that does not hold. There is no deleting what is not there, whatever
    /// the conditions say.
    pub(crate) fn decide(
        &self,
        preconditions: &[Precondition],
        current: Option<&Metadata>,
    ) -> std::result::Result<(), Precondition> {
        decide(preconditions, current).map_err(Precondition::clone)?;
        match (self, current) {
            (Change::Delete, None) => Err(Precondition::Exists),
            _ => Ok(()),
        }
    }

    /// The state to install, and what the caller is told.
    pub(crate) fn land(
        self,
        newest: &State<V>,
        stamp: Stamp,
        actor: Option<Actor>,
    ) -> (State<V>, Written<V>) {
        let written_at = stamp.written_at;
        let version = Version::new(stamp.version).unwrap_or(Version::FIRST);
        let replaced = newest.live().map(|record| record.metadata.version);
        let Change::Put { mut record, .. } = self else {
            let deletion = Deletion { version, deleted_by: actor, deleted_at: written_at };
            let previous = replaced.unwrap_or(version);
            let written = Written::Deleted(Deleted { version, previous, replayed: false });
            return (State::Deleted(Arc::new(deletion)), written);
        };
        let previous = match newest {
            State::Vacant => Previous::None,
            State::Live(record) => Previous::Live(&record.metadata),
            State::Deleted(deletion) => Previous::Deleted(deletion),
        };
        let metadata = Metadata::after(previous, version, written_at, actor);
        // Not shared since `Record::unplaced` made it.
        if let Some(record) = Arc::get_mut(&mut record) {
            record.metadata = metadata;
        }
        let entity = Entity::new(Arc::clone(&record));
        (State::Live(record), Written::Put { entity, previous: replaced })
    }
}

impl<V> CollectionState<V> {
    /// Counts a refusal. Returns the time within which its caller should come back, at random, if
    /// `comes_back` says that it will.
    pub(crate) fn refused(
        &self,
        store: &Inner,
        key: &[u8],
        reason: Reason,
        comes_back: bool,
    ) -> Duration {
        let place = contention::Place { collection: &self.name, key, text: self.keys.text };
        store.contention.refused(place, reason, comes_back, store.clock.monotonic())
    }
}

impl<V> Refused<V> {
    /// Whether trying again, on what is there now, would be refused again.
    pub(crate) fn is_barred(&self) -> bool {
        self.barred.is_some()
    }

    /// Whether a predicate has to be tried again, because the entity has changed since.
    pub(crate) fn is_moved(&self) -> bool {
        let current = self.newest.live().map(|record| record.metadata.version);
        let outdated =
            matches!(&self.unmet, Precondition::State(state) if state.is_outdated(current));
        outdated && !self.is_barred()
    }

    /// Why the change was refused.
    pub(crate) fn reason(&self) -> Reason {
        if let Some(barred) = &self.barred {
            return barred.reason();
        }
        if self.is_duplicate() {
            return Reason::Duplicate;
        }
        let current = self.newest.live().map(|record| &record.metadata);
        Reason::of(&self.unmet, current, matches!(self.newest, State::Deleted(_)))
    }

    /// Whether another entity holds an index key, so that there is no use in trying again.
    pub(crate) fn is_duplicate(&self) -> bool {
        self.held.is_some()
    }
}

impl<V: Send + Sync + 'static> Refused<V> {
    pub(crate) fn new(unmet: Precondition, newest: State<V>, decided_at: Timestamp) -> Refused<V> {
        let rests_on = newest.version();
        Refused { unmet, newest, decided_at, rests_on, held: None, barred: None }
    }

    /// The refusal of a change that needs an entity where there is none.
    pub(crate) fn absent(newest: State<V>, decided_at: Timestamp) -> Refused<V> {
        Refused::new(Precondition::Exists, newest, decided_at)
    }

    /// The refusal as its caller gets it (G4), the change that was refused handed back.
    pub(crate) fn into_conflict(
        self,
        store: &Inner,
        collection: &CollectionState<V>,
        key: &[u8],
        change: Option<Change<V>>,
        effort: Option<Effort>,
    ) -> Conflict {
        let reason = match effort {
            Some(_) => Reason::Contended,
            None => self.reason(),
        };
        let comes_back = !matches!(reason, Reason::AlreadyExists | Reason::Duplicate);
        let spread = collection.refused(store, key, reason, comes_back);
        let Refused { unmet, newest, decided_at, held, barred, .. } = self;
        let basis = collection.basis(store, key, &unmet, &newest);
        let (current, deletion) = match newest {
            State::Vacant => (None, None),
            State::Deleted(deletion) => (None, Some(Deletion::clone(&deletion))),
            State::Live(record) => {
                let metadata = record.metadata.clone();
                (Some(Current { metadata, record }), None)
            }
        };
        let proposed = match change {
            Some(Change::Put { record, .. }) => Arc::into_inner(record).map(|record| record.value),
            Some(Change::Delete) | None => None,
        };
        Conflict {
            reason,
            collection: Arc::clone(&collection.name),
            key: collection.text(key),
            lineage: store.lineage,
            unmet,
            current,
            deletion,
            decided_at,
            proposed: proposed.map(|value| Box::new(value) as Box<dyn Any + Send + Sync>),
            effort,
            operation: None,
            pause: contention::draw(&store.random, spread),
            barred,
            others: Vec::new(),
            basis,
            duplicate: held,
        }
    }
}
