//! One run of a read-modify-write of one key.

use std::marker::PhantomData;
use std::sync::Arc;

use smallvec::smallvec;

use crate::collection::CollectionState;
use crate::commit::{Attempt, Prepared, Refused, Written};
use crate::entity::{Actor, Entity, Record};
use crate::error::{Error, Limit, Result};
use crate::ids::{Claim, IdRecord};
use crate::lease::Lease;
use crate::log::Room;
use crate::map::{Garbage, KeyBuf, State};
use crate::precondition::Precondition;
use crate::retry::{Phase, Retrying, Settled, Task};
use crate::store::Inner;
use crate::sync::UserCode;
use crate::turns::Place;
use crate::update::{Compute, Computed, Method};
use crate::write::{Committed, Deleted, check_request};

/// What the caller's closure made of the current value.
#[allow(missing_debug_implementations, reason = "public in name only: no caller gets one")]
pub enum Step<V> {
    /// Go on with this.
    Do(Compute<V>),
    /// It needs an entity, and there is none.
    Absent,
    /// It refused.
    Refuse(Error),
}

pub(super) struct Run<'a, V, F, M> {
    collection: &'a Arc<CollectionState<V>>,
    key: KeyBuf,
    hash: u64,
    change: F,
    actor: Option<Actor>,
    operation_id: Option<String>,
    lease: Option<Lease>,
    method: PhantomData<fn() -> M>,
}

impl<'a, V, F, M> Run<'a, V, F, M> {
    pub(super) fn new(
        collection: &'a Arc<CollectionState<V>>,
        key: KeyBuf,
        change: F,
        actor: Option<Actor>,
        operation_id: Option<String>,
        lease: Option<Lease>,
    ) -> Self {
        let hash = collection.map.hash(&key);
        let method = PhantomData;
        Run { collection, key, hash, change, actor, operation_id, lease, method }
    }
}

impl<V: Send + Sync + 'static, F, M: Method<V, F>> Task for Run<'_, V, F, M> {
    type Seen = State<V>;
    type Prepared = Prepared<V>;
    type Answer = M::Output;
    type Left = Garbage<V>;

    fn place(&self) -> Option<Place> {
        Some((self.collection.id, self.hash))
    }

    fn compute(
        &mut self,
        seen: Option<State<V>>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>> {
        let (store, collection, key) = (retrying.store, self.collection, &self.key);
        check_request(&store.limits, collection, key, self.actor.as_ref())?;
        let claim = self.claim(store)?;
        if let Some(record) = claim.as_ref().and_then(|claim| store.ids.find(claim, store.now())) {
            return self.replay(&record, claim.as_ref());
        }
        let seen = seen.unwrap_or_else(|| collection.map.newest(self.hash, key));
        let step = {
            let _running = UserCode::enter();
            M::step(&mut self.change, seen.live().map(|record| &record.value))
        };
        // What the closure objects to may be what the first try has done meanwhile.
        if claim.as_ref().is_some_and(|claim| store.ids.find(claim, store.now()).is_some()) {
            return Ok(Phase::Try(None));
        }
        let compute = match step {
            Step::Do(compute) => compute,
            Step::Refuse(error) => return Ok(Phase::nothing(Err(error), seen.version())),
            Step::Absent => {
                let rests_on = seen.version();
                let conflict = Refused::absent(seen, store.now())
                    .into_conflict(store, collection, key, None, None);
                return Ok(Phase::nothing(Err(conflict.into()), rests_on));
            }
        };
        let unchanged = smallvec![match seen.live() {
            Some(record) => Precondition::Matches(record.metadata.version),
            None => Precondition::Absent,
        }];
        let actor = self.actor.clone();
        let mut prepared = match (compute, seen.live()) {
            (Compute::Put(value), _) => {
                let record = Record::unplaced(value);
                Prepared::put(store, collection, key, record, actor, unchanged)?
            }
            (Compute::Delete, Some(_)) => {
                Prepared::delete(store, collection, key, actor, unchanged)
            }
            (Compute::Abort, _) | (Compute::Delete, None) => {
                let entity = seen.live().map(|record| Entity::new(Arc::clone(record)));
                let answer = Ok(M::output(Computed::Aborted(entity)));
                return Ok(Phase::nothing(answer, seen.version()));
            }
        };
        if let Some(claim) = claim {
            let value = prepared.encoded(store, collection, key)?.into();
            prepared.claim(store, claim.with_value(value));
        }
        if let Some(lease) = &self.lease {
            prepared.hold(lease.for_key(store, collection, key)?);
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
        let (store, collection) = (retrying.store, self.collection);
        let by_future = retrying.by_future;
        let attempt = collection.attempt(store, &self.key, &mut prepared, room, by_future)?;
        let rests_on = attempt.rests_on();
        let refused = match attempt {
            Attempt::Landed(landed) => {
                let effort = retrying.finish();
                let computed = match landed.written {
                    Written::Deleted(deleted) => Computed::Deleted(deleted),
                    Written::Put { entity, previous } => {
                        Computed::Put(Committed::new(entity, previous).after(effort))
                    }
                };
                let (answer, left) = (Ok(M::output(computed)), Some(landed.garbage));
                return Ok(Phase::Answer(Settled { answer, rests_on, left }));
            }
            Attempt::Replayed(record) => {
                return self.replay(&record, self.claim(store)?.as_ref());
            }
            Attempt::Refused(refused) => refused,
        };
        // Computed anew, it would meet the same lease or the same holder of an index key.
        let tries_again = !refused.is_barred() && !refused.is_duplicate();
        let place = (collection.id, self.hash);
        if tries_again && let Some(phase) = retrying.after_loss(place, Some(refused.newest.clone()))
        {
            collection.refused(store, &self.key, refused.reason(), true);
            return Ok(phase);
        }
        let spent = retrying.finish();
        let effort = tries_again.then_some(spent);
        let change = Some(prepared.into_change());
        let conflict = refused.into_conflict(store, collection, &self.key, change, effort);
        Ok(Phase::nothing(Err(conflict.into()), rests_on))
    }
}

impl<V: Send + Sync + 'static, F, M: Method<V, F>> Run<'_, V, F, M> {
    /// What the operation id stands for: the key alone, because a closure has no bytes.
    ///
    /// # Errors
    /// [`Error::Limit`].
    fn claim(&self, store: &Inner) -> Result<Option<Claim>> {
        let Some(id) = &self.operation_id else { return Ok(None) };
        let place = || self.collection.place(&self.key);
        store.limits.check(Limit::OperationIdBytes, id.len(), place)?;
        let target: [&[u8]; 3] = [b"update", self.collection.name.as_bytes(), &self.key];
        Ok(Some(Claim::new(self.actor.as_ref(), id, &target)))
    }

    /// The first result of an update that has landed before.
    fn replay(&self, record: &Record<IdRecord>, claim: Option<&Claim>) -> Result<Phase<Self>> {
        let rests_on = record.metadata.version.get();
        let answer = self.first_result(record, claim).map(M::output);
        Ok(Phase::nothing(answer, rests_on))
    }

    fn first_result(
        &self,
        record: &Record<IdRecord>,
        claim: Option<&Claim>,
    ) -> Result<Computed<V>> {
        let id = self.operation_id.as_deref().unwrap_or_default();
        claim.map_or(Ok(()), |claim| record.check(claim, id))?;
        let value = match &record.value.value {
            Some(bytes) if !record.value.first.deleted => {
                Some(Record::unplaced(self.collection.decode(&self.key, bytes)?))
            }
            _ => None,
        };
        Ok(match record.first_result(value) {
            Written::Put { entity, previous } => {
                Computed::Put(Committed::new(entity, previous).replayed(true))
            }
            Written::Deleted(deleted) => Computed::Deleted(Deleted { replayed: true, ..deleted }),
        })
    }
}
