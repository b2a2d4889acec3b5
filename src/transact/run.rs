//! One run of a transaction: the closure, and the commit of what it staged.

use std::marker::PhantomData;

use crate::commit::Terms;
use crate::conflict::Effort;
use crate::entity::{Actor, Record};
use crate::error::{Limit, Result};
use crate::group::{Attempt, Group, Verdict};
use crate::ids::{Claim, IdRecord};
use crate::log::Room;
use crate::retry::{Phase, Retrying, Settled, Task};
use crate::store::Inner;
use crate::sync::UserCode;
use crate::transact::{Once, Transacted, Transaction};
use crate::turns::Place;
use crate::version::Version;

pub(crate) struct Run<F, R> {
    body: F,
    /// Called with what the closure returned, once that has landed, with nothing locked.
    landed: fn(&mut R),
    pub(super) actor: Option<Actor>,
    pub(super) operation_id: Option<String>,
    /// What a second one with this operation id has to have as well.
    pub(super) payload: Vec<u8>,
    result: PhantomData<fn() -> R>,
}

/// What a closure that ran to its end leaves.
pub(crate) struct Prepared<R> {
    group: Group,
    terms: Terms,
    verdict: Verdict,
    value: R,
}

impl<F, R> Run<F, R> {
    pub(super) fn new(body: F) -> Run<F, R> {
        let (landed, result, payload) = (|_: &mut R| (), PhantomData, Vec::new());
        Run { body, landed, actor: None, operation_id: None, payload, result }
    }

    /// A step of the crate's own.
    pub(crate) fn step(body: F, landed: fn(&mut R), actor: Option<Actor>) -> Run<F, R> {
        Run { landed, actor, ..Run::new(body) }
    }
}

impl<F, R> Task for Run<F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    type Seen = ();
    type Prepared = Prepared<R>;
    type Answer = Once<R>;
    type Left = Group;

    fn place(&self) -> Option<Place> {
        None
    }

    fn compute(&mut self, _: Option<()>, retrying: &mut Retrying<'_>) -> Result<Phase<Self>> {
        let store = retrying.store;
        let name = self.actor.as_ref().map_or(0, |actor| actor.as_str().len());
        store.limits.check(Limit::ActorBytes, name, || "a transaction".to_owned())?;
        let terms = Terms { claim: self.claim(store)?, held: None };
        if let Some(claim) = &terms.claim
            && let Some(record) = store.ids.find(claim, store.now())
        {
            return Ok(self.replay(&record, claim));
        }
        let mut transaction = Transaction::begin(store)?;
        let result = {
            let _running = UserCode::enter();
            (self.body)(&mut transaction)
        };
        let Transaction { mut group, verdict, .. } = transaction;
        // Whatever the closure made of it.
        if verdict.moved {
            return lost(group, verdict.rests_on, retrying);
        }
        let value = match result {
            Ok(value) => value,
            Err(error) => return Ok(Phase::nothing(Err(error), verdict.rests_on)),
        };
        if !group.decides() {
            let answer = Once::first(value, None, retrying.finish());
            return Ok(Phase::nothing(Ok(answer), verdict.rests_on));
        }
        let claim = terms.claim.as_ref().map_or(0, |claim| claim.payload(&store.ids));
        let payload = group.prepare(store, self.actor.as_ref())? + claim;
        let place = || "a transaction".to_owned();
        store.limits.check(Limit::TransactionBytes, payload, place)?;
        Ok(Phase::Write { prepared: Prepared { group, terms, verdict, value }, payload })
    }

    fn attempt(
        &mut self,
        prepared: Prepared<R>,
        room: Room<'_>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>> {
        let (store, by_future) = (retrying.store, retrying.by_future);
        let Prepared { mut group, terms, mut verdict, mut value } = prepared;
        let (given, actor) = (Some(&terms), self.actor.as_ref());
        let attempt = group.attempt(store, given, actor, room, by_future, &mut verdict)?;
        let rests_on = verdict.rests_on;
        let decided_at = match attempt {
            Attempt::Landed(stamp) => {
                if stamp.is_some() {
                    (self.landed)(&mut value);
                }
                let version = stamp.and_then(|stamp| Version::new(stamp.version));
                let rests_on = rests_on.max(version.map_or(0, Version::get));
                let answer = Ok(Once::first(value, version, retrying.finish()));
                let left = version.map(|_| group);
                return Ok(Phase::Answer(Settled { answer, rests_on, left }));
            }
            Attempt::Replayed(record) => {
                let answer = terms.claim.map(|claim| self.replay(&record, &claim));
                return Ok(answer.unwrap_or(Phase::Try(None)));
            }
            Attempt::Refused { decided_at } => decided_at,
        };
        // What was named may have been made from what was read.
        if verdict.moved {
            return lost(group, rests_on, retrying);
        }
        match group.into_conflict(store, decided_at, None) {
            Some(conflict) => Ok(Phase::nothing(Err(conflict.into()), rests_on)),
            None => Ok(Phase::Try(None)),
        }
    }
}

/// Goes on after something that was read has changed.
fn lost<F, R>(group: Group, rests_on: u64, retrying: &mut Retrying<'_>) -> Result<Phase<Run<F, R>>>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    let store = retrying.store;
    let next = group.lost_at().and_then(|place| retrying.after_loss(place, None));
    if let Some(phase) = next {
        group.count_losses(store);
        return Ok(phase);
    }
    match group.into_conflict(store, store.now(), Some(retrying.finish())) {
        Some(conflict) => Ok(Phase::nothing(Err(conflict.into()), rests_on)),
        None => Ok(Phase::Try(None)),
    }
}

impl<F, R> Run<F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    /// What the operation id stands for: its actor, and what the caller says, because a closure has
    /// no bytes.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit).
    fn claim(&self, store: &Inner) -> Result<Option<Claim>> {
        let Some(id) = &self.operation_id else { return Ok(None) };
        let place = || "a transaction".to_owned();
        store.limits.check(Limit::OperationIdBytes, id.len(), place)?;
        let about: [&[u8]; 2] = [b"transact", &self.payload];
        let said = about.len() - usize::from(self.payload.is_empty());
        Ok(Some(Claim::new(self.actor.as_ref(), id, about.split_at(said).0)))
    }

    fn replay(&self, record: &Record<IdRecord>, claim: &Claim) -> Phase<Self> {
        let version = record.metadata.version;
        let checked = record.check(claim, self.operation_id.as_deref().unwrap_or_default());
        Phase::nothing(checked.map(|()| Once::Replayed { version }), version.get())
    }
}

impl<R> Once<R> {
    fn first(value: R, version: Option<Version>, effort: Effort) -> Once<R> {
        let Effort { attempts, elapsed } = effort;
        Once::First(Transacted { value, version, attempts, elapsed })
    }
}
