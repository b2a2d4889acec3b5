//! One run of a transaction: the closure, and the commit of what it staged.

use std::marker::PhantomData;

use crate::commit::Terms;
use crate::conflict::Effort;
use crate::entity::Actor;
use crate::error::{Limit, Result};
use crate::group::{Attempt, Group, Verdict};
use crate::ids::{Caller, Claim};
use crate::log::Room;
use crate::retry::{Phase, Retrying, Settled, Task};
use crate::store::Inner;
use crate::sync::UserCode;
use crate::transact::{Once, Transacted, Transaction};
use crate::turns::Place;
use crate::version::Version;

pub(crate) struct Run<F, R> {
    body: F,
    own: Option<Own<R>>,
    pub(super) actor: Option<Actor>,
    pub(super) caller: Caller,
    /// What a second one with this operation id has to have as well.
    pub(super) payload: Vec<u8>,
    result: PhantomData<fn() -> R>,
}

/// What the crate's own steps have done with what their closures return. If one has landed before,
/// its closure runs all the same, and is told so by the [`Transaction`].
pub(crate) struct Own<R> {
    /// Once it has landed, with nothing locked.
    pub(crate) landed: fn(&mut R),
    /// What is to be kept with the operation id; `None` if the step is refused, and so not to be
    /// remembered, whatever the commit writes.
    pub(crate) kept: fn(&R) -> Option<Box<[u8]>>,
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
        let (caller, payload, result) = (Caller::default(), Vec::new(), PhantomData);
        Run { body, own: None, actor: None, caller, payload, result }
    }

    /// A step of the crate's own. Its actor is not always its caller.
    pub(crate) fn step(
        body: F,
        own: Own<R>,
        actor: Option<Actor>,
        caller: Caller,
        payload: Vec<u8>,
    ) -> Run<F, R> {
        Run { own: Some(own), actor, caller, payload, ..Run::new(body) }
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
        let mut terms = Terms { claim: self.claim(store)?, held: None };
        let before = terms.claim.as_ref().and_then(|claim| store.ids.find(claim, store.now()));
        if let Some((record, claim)) = before.as_ref().zip(terms.claim.as_ref()) {
            let version = record.metadata.version;
            let checked = record.check(claim, self.caller.id());
            if checked.is_err() || self.own.is_none() {
                let answer = checked.map(|()| Once::Replayed { version });
                return Ok(Phase::nothing(answer, version.get()));
            }
        }
        let mut transaction = Transaction::begin(store)?;
        if let Some(record) = before {
            transaction.verdict.rests_on = record.metadata.version.get();
            transaction.before = Some(record);
        }
        let result = {
            let _running = UserCode::enter();
            (self.body)(&mut transaction)
        };
        let Transaction { mut group, verdict, before, .. } = transaction;
        // Whatever the closure made of it.
        if verdict.moved {
            return lost(group, verdict.rests_on, retrying);
        }
        // What it objects to may be what the first try has done meanwhile.
        if before.is_none()
            && let Some(claim) = &terms.claim
            && store.ids.find(claim, store.now()).is_some()
        {
            return Ok(Phase::Try(None));
        }
        let value = match result {
            Ok(value) => value,
            Err(error) => return Ok(Phase::nothing(Err(error), verdict.rests_on)),
        };
        if !group.decides() {
            let answer = Once::first(value, None, retrying.finish());
            return Ok(Phase::nothing(Ok(answer), verdict.rests_on));
        }
        if let Some(Own { kept, .. }) = &self.own {
            // What had landed before, and is forgotten, is done anew under the id that it has.
            let kept = kept(&value).filter(|_| before.is_none());
            terms.claim = terms.claim.zip(kept).map(|(claim, kept)| claim.with_value(kept));
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
                if stamp.is_some()
                    && let Some(Own { landed, .. }) = &self.own
                {
                    landed(&mut value);
                }
                let version = stamp.and_then(|stamp| Version::new(stamp.version));
                let rests_on = rests_on.max(version.map_or(0, Version::get));
                let answer = Ok(Once::first(value, version, retrying.finish()));
                let left = version.map(|_| group);
                return Ok(Phase::Answer(Settled { answer, rests_on, left }));
            }
            // It is found then.
            Attempt::Replayed(_) => return Ok(Phase::Try(None)),
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
        let verb: &[u8] = if self.own.is_some() { b"step" } else { b"transact" };
        let about = [verb, &self.payload];
        let said = about.len() - usize::from(self.payload.is_empty());
        let place = || "a transaction".to_owned();
        self.caller.claim(&store.limits, about.split_at(said).0, place)
    }
}

impl<R> Once<R> {
    fn first(value: R, version: Option<Version>, effort: Effort) -> Once<R> {
        let Effort { attempts, elapsed } = effort;
        Once::First(Transacted { value, version, attempts, elapsed })
    }
}
