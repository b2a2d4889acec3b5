//! What a conditional write asks for, and one run of it.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::collection::CollectionState;
use crate::commit::{Attempt, Preconditions, Prepared};
use crate::entity::{Actor, Record};
use crate::error::{Limit, Result};
use crate::ids::{Claim, IdRecord};
use crate::lease::Lease;
use crate::log::Room;
use crate::map::{Garbage, KeyBuf};
use crate::precondition::{Precondition, Predicate};
use crate::retry::{Phase, Retrying, Settled, Task};
use crate::store::Inner;
use crate::sync::UserCode;
use crate::turns::Place;
use crate::write::check_request;
use crate::write::sealed::Verb;

/// What a write asks for.
pub(crate) struct Request<'a, V> {
    pub(crate) store: &'a Inner,
    pub(crate) collection: &'a Arc<CollectionState<V>>,
    pub(crate) key: KeyBuf,
    /// The new value; `None` deletes. Allocated at once, so that moving the builder is cheap.
    record: Option<Arc<Record<V>>>,
    pub(crate) preconditions: Preconditions,
    pub(crate) actor: Option<Actor>,
    extras: Option<Box<Extras<'a, V>>>,
}

/// What few writes ask for.
struct Extras<'a, V> {
    /// Each with its place in the list of conditions.
    predicates: Vec<(usize, Box<Holds<'a, V>>)>,
    operation_id: Option<String>,
    lease: Option<Lease>,
}

pub(super) type Holds<'a, V> = dyn Fn(&V) -> bool + Send + Sync + 'a;

impl<V> Default for Extras<'_, V> {
    fn default() -> Self {
        Extras { predicates: Vec::new(), operation_id: None, lease: None }
    }
}

impl<'a, V: Send + Sync + 'static> Request<'a, V> {
    pub(crate) fn new(
        store: &'a Inner,
        collection: &'a Arc<CollectionState<V>>,
        key: KeyBuf,
        value: Option<V>,
    ) -> Self {
        let record = value.map(Record::unplaced);
        let (preconditions, actor, extras) = (Preconditions::new(), None, None);
        Request { store, collection, key, record, preconditions, actor, extras }
    }

    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit).
    fn check(&self) -> Result<()> {
        let (limits, collection) = (&self.store.limits, &**self.collection);
        check_request(limits, collection, &self.key, self.actor.as_ref())?;
        let count = |precondition: &Precondition| precondition.versions().len().max(1);
        let named = self.preconditions.iter().map(count).sum();
        limits.check(Limit::Preconditions, named, || collection.place(&self.key))
    }

    /// Does everything that takes time.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode) and [`Error::Limit`](crate::Error::Limit).
    fn prepare(&mut self) -> Result<Prepared<V>> {
        let (store, collection, key) = (self.store, &**self.collection, &self.key);
        let (actor, preconditions) = (self.actor.take(), std::mem::take(&mut self.preconditions));
        match self.record.take() {
            Some(record) => Prepared::put(store, collection, key, record, actor, preconditions),
            None => Ok(Prepared::delete(store, collection, key, actor, preconditions)),
        }
    }
}

impl<V> Request<'_, V> {
    /// Whether it asks for nothing that few writes ask for.
    pub(crate) fn is_plain(&self) -> bool {
        self.extras.is_none()
    }

    pub(super) fn set_operation_id(&mut self, id: String) {
        self.extras.get_or_insert_default().operation_id = Some(id);
    }

    pub(super) fn set_lease(&mut self, lease: Lease) {
        self.extras.get_or_insert_default().lease = Some(lease);
    }
}

impl<'a, V> Request<'a, V> {
    pub(super) fn add_predicate(&mut self, name: Arc<str>, holds: Box<Holds<'a, V>>) {
        let place = self.preconditions.len();
        self.preconditions.push(Precondition::State(Predicate::untried(name)));
        self.extras.get_or_insert_default().predicates.push((place, holds));
    }
}

pub(crate) struct Run<'a, V, O> {
    request: Request<'a, V>,
    /// Of a write whose predicates have to be tried again.
    kept: Option<Prepared<V>>,
    operation: PhantomData<fn() -> O>,
}

impl<'a, V, O> Run<'a, V, O> {
    pub(super) fn new(request: Request<'a, V>) -> Self {
        Run { request, kept: None, operation: PhantomData }
    }
}

impl<V: Send + Sync + 'static, O: Verb<V>> Task for Run<'_, V, O> {
    type Seen = ();
    type Prepared = Prepared<V>;
    type Answer = O::Output;
    type Left = Garbage<V>;

    const TIMED: bool = false;

    fn place(&self) -> Option<Place> {
        None
    }

    fn compute(&mut self, _: Option<()>, _: &mut Retrying<'_>) -> Result<Phase<Self>> {
        let mut prepared = match self.kept.take() {
            Some(prepared) => prepared,
            None => {
                self.request.check()?;
                self.request.prepare()?
            }
        };
        if let Some(extras) = &self.request.extras {
            if let Some(lease) = &extras.lease {
                let Request { store, collection, key, .. } = &self.request;
                prepared.hold(lease.for_key(store, collection, key)?);
            }
            if let Some(record) = self.claim(&mut prepared)? {
                return self.replay(record, prepared);
            }
            self.try_predicates(&mut prepared);
        }
        let payload = prepared.payload;
        Ok(Phase::Write { prepared, payload })
    }

    fn attempt(
        &mut self,
        mut prepared: Prepared<V>,
        room: Room<'_>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>> {
        let Request { store, collection, key, .. } = &self.request;
        let attempt = collection.attempt(store, key, &mut prepared, room, retrying.by_future)?;
        let rests_on = attempt.rests_on();
        let refused = match attempt {
            Attempt::Landed(landed) => {
                let answer = Ok(O::output(landed.written, false));
                let left = Some(landed.garbage);
                return Ok(Phase::Answer(Settled { answer, rests_on, left }));
            }
            Attempt::Replayed(record) => return self.replay(record, prepared),
            Attempt::Refused(refused) => refused,
        };
        if refused.is_moved() {
            let place = (collection.id, collection.map.hash(key));
            if let Some(phase) = retrying.after_loss(place, None) {
                collection.refused(store, key, refused.reason(), true);
                self.kept = Some(prepared);
                return Ok(phase);
            }
        }
        let spent = refused.is_moved().then(|| retrying.finish());
        let change = Some(prepared.into_change());
        let conflict = refused.into_conflict(store, collection, key, change, spent);
        Ok(Phase::nothing(Err(conflict.into()), rests_on))
    }
}

impl<V: Send + Sync + 'static, O: Verb<V>> Run<'_, V, O> {
    /// Claims the operation id, if there is one. Returns what it has left behind if it has landed.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode), [`Error::Limit`](crate::Error::Limit).
    fn claim(&self, prepared: &mut Prepared<V>) -> Result<Option<Arc<Record<IdRecord>>>> {
        let Request { store, collection, key, extras, .. } = &self.request;
        let Some(id) = extras.as_ref().and_then(|extras| extras.operation_id.as_ref()) else {
            return Ok(None);
        };
        if prepared.terms.as_ref().is_none_or(|terms| terms.claim.is_none()) {
            let place = || collection.place(key);
            store.limits.check(Limit::OperationIdBytes, id.len(), place)?;
            let payload = prepared.encoded(store, collection, key)?;
            let target = [O::VERB, collection.name.as_bytes(), key, &*payload];
            let claim = Claim::new(prepared.actor(), id, &target);
            drop(payload);
            prepared.claim(store, claim);
        }
        let claim = prepared.terms.as_ref().and_then(|terms| terms.claim.as_ref());
        Ok(claim.and_then(|claim| store.ids.find(claim, store.now())))
    }

    /// The first result of a write that has landed before.
    fn replay(&self, record: Arc<Record<IdRecord>>, prepared: Prepared<V>) -> Result<Phase<Self>> {
        let rests_on = record.metadata.version.get();
        let id = self.request.extras.as_ref().and_then(|extras| extras.operation_id.as_deref());
        let claim = prepared.terms.as_ref().and_then(|terms| terms.claim.as_ref());
        let checked = claim.map_or(Ok(()), |claim| record.check(claim, id.unwrap_or_default()));
        if let Err(error) = checked {
            return Ok(Phase::nothing(Err(error), rests_on));
        }
        let written = record.first_result(prepared.into_value());
        Ok(Phase::nothing(Ok(O::output(written, true)), rests_on))
    }

    /// Tries the predicates on the newest entity.
    fn try_predicates(&self, prepared: &mut Prepared<V>) {
        let Request { collection, key, extras, .. } = &self.request;
        let Some(Extras { predicates, .. }) = extras.as_deref() else { return };
        if predicates.is_empty() {
            return;
        }
        let newest = collection.map.newest(collection.map.hash(key), key);
        let _running = UserCode::enter();
        for (place, holds) in predicates {
            if let Some(Precondition::State(predicate)) = prepared.preconditions.get_mut(*place) {
                predicate.tried(
                    newest.live().map(|record| (record.metadata.version, holds(&record.value))),
                );
            }
        }
    }
}
