//! One run of a read-modify-write of one key.

use std::marker::PhantomData;
use std::sync::Arc;

use smallvec::smallvec;

use crate::collection::CollectionState;
use crate::commit::{Attempt, Prepared, Refused, Written};
use crate::entity::{Actor, Entity, Record};
use crate::error::{Error, Result};
use crate::log::Room;
use crate::map::{Garbage, KeyBuf, State};
use crate::precondition::Precondition;
use crate::retry::{Phase, Retrying, Task};
use crate::sync::UserCode;
use crate::turns::Place;
use crate::update::{Compute, Computed, Method};
use crate::write::{Committed, check_request};

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
    collection: &'a CollectionState<V>,
    key: KeyBuf,
    hash: u64,
    change: F,
    actor: Option<Actor>,
    method: PhantomData<fn() -> M>,
}

impl<'a, V, F, M> Run<'a, V, F, M> {
    pub(super) fn new(
        collection: &'a CollectionState<V>,
        key: KeyBuf,
        change: F,
        actor: Option<Actor>,
    ) -> Self {
        let hash = collection.map.hash(&key);
        Run { collection, key, hash, change, actor, method: PhantomData }
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
        let seen = seen.unwrap_or_else(|| collection.map.newest(self.hash, key));
        let step = {
            let _running = UserCode::enter();
            M::step(&mut self.change, seen.live().map(|record| &record.value))
        };
        let compute = match step {
            Step::Do(compute) => compute,
            Step::Refuse(error) => return Ok(Phase::nothing(Err(error), seen.version())),
            Step::Absent => {
                let rests_on = seen.version();
                let conflict =
                    Refused::absent(seen, store.now()).into_conflict(store, collection, key);
                return Ok(Phase::nothing(Err(conflict.into()), rests_on));
            }
        };
        let unchanged = smallvec![match seen.live() {
            Some(record) => Precondition::Matches(record.metadata.version),
            None => Precondition::Absent,
        }];
        let actor = self.actor.clone();
        let prepared = match (compute, seen.live()) {
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
        let payload = prepared.payload;
        Ok(Phase::Write { prepared, payload })
    }

    fn attempt(
        &mut self,
        prepared: Prepared<V>,
        room: Room<'_>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>> {
        let (store, collection) = (retrying.store, self.collection);
        let by_future = retrying.by_future;
        let attempt = collection.attempt(store, &self.key, prepared, room, by_future)?;
        let rests_on = attempt.rests_on();
        let refused = match attempt {
            Attempt::Landed(landed) => {
                let computed = match landed.written {
                    Written::Deleted(deleted) => Computed::Deleted(deleted),
                    Written::Put { entity, previous } => {
                        let committed = Committed::new(entity, previous);
                        Computed::Put(committed.after(retrying.effort()))
                    }
                };
                let (answer, left) = (Ok(M::output(computed)), Some(landed.garbage));
                return Ok(Phase::Answer { answer, rests_on, left });
            }
            Attempt::Refused(refused) => refused,
        };
        let place = (collection.id, self.hash);
        if let Some(phase) = retrying.after_loss(place, Some(refused.newest.clone())) {
            return Ok(phase);
        }
        let conflict = refused.into_conflict(store, collection, &self.key);
        Ok(Phase::nothing(Err(conflict.contended(retrying.effort()).into()), rests_on))
    }
}
