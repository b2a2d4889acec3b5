//! One run of a read-modify-write, as steps that threads and futures drive alike.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use smallvec::smallvec;

use crate::collection::Collection;
use crate::commit::{Attempt, Prepared, Refused, Written};
use crate::conflict::Effort;
use crate::entity::{Actor, Entity, Record};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::log::Room;
use crate::map::{Garbage, KeyBuf, State};
use crate::options::RetryPolicy;
use crate::precondition::Precondition;
use crate::store::Inner;
use crate::sync::UserCode;
use crate::turns::{PATIENCE, Turn};
use crate::update::{Compute, Computed, Method};
use crate::write::Committed;

/// After so many losses a caller queues up for its turn.
const LOSSES_BEFORE_TURN: u32 = 3;

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

/// What a run does next.
pub(crate) enum Phase<V> {
    /// Wait for the turn, but no longer than `until`.
    Turn { until: Duration },
    /// Wait `until` then, to let others pass.
    Pause { until: Duration },
    /// Compute the change on the entity that the last attempt lost to, or on the newest.
    Try(Option<State<V>>),
    /// Get room for the change, then attempt it.
    Write(Prepared<V>),
    /// Answer, as soon as `rests_on` is durable; then drop what was replaced.
    Answer { answer: Result<Computed<V>>, rests_on: u64, garbage: Garbage<V> },
}

pub(crate) struct Run<'a, K, V, F, M> {
    collection: &'a Collection<K, V>,
    key: KeyBuf,
    hash: u64,
    change: F,
    actor: Option<Actor>,
    attempts: Attempts,
    turn: Option<Turn>,
    by_future: bool,
    method: PhantomData<fn() -> M>,
}

impl<'a, K, V, F, M> Run<'a, K, V, F, M>
where
    K: Key,
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    pub(crate) fn new(
        collection: &'a Collection<K, V>,
        key: KeyBuf,
        change: F,
        actor: Option<Actor>,
        attempts: Attempts,
        by_future: bool,
    ) -> Self {
        let hash = collection.state.map.hash(&key);
        Run {
            collection,
            key,
            hash,
            change,
            actor,
            attempts,
            turn: None,
            by_future,
            method: PhantomData,
        }
    }

    pub(crate) fn store(&self) -> &'a Inner {
        &self.collection.store
    }

    /// Queues up at once where others do already: newcomers do not overtake.
    pub(crate) fn first_phase(&mut self) -> Phase<V> {
        let contended = self.store().turns.is_contended(self.place());
        if contended && !UserCode::is_running() { self.queue_up() } else { Phase::Try(None) }
    }

    /// Whether to go ahead: it is the caller's turn, or it has waited long enough.
    pub(crate) fn has_turn(&mut self, waker: &Waker, until: Duration) -> bool {
        if self.turn.as_ref().is_none_or(|turn| turn.poll(waker).is_ready()) {
            return true;
        }
        let out_of_patience = self.store().clock.monotonic() >= until;
        if out_of_patience && let Some(turn) = self.turn.take() {
            turn.give_up();
        }
        out_of_patience
    }

    /// Passes the turn on.
    pub(crate) fn leave_queue(&mut self) {
        self.turn = None;
    }

    /// Computes the change on what was `seen`.
    ///
    /// # Errors
    /// What keeps the change from being tried at all.
    pub(crate) fn compute(&mut self, seen: Option<State<V>>) -> Result<Phase<V>> {
        let (store, state) = (self.store(), &self.collection.state);
        store.durable()?;
        let seen = seen.unwrap_or_else(|| state.map.newest(self.hash, &self.key));
        self.attempts.count += 1;
        let step = {
            let _running = UserCode::enter();
            M::step(&mut self.change, seen.live().map(|record| &record.value))
        };
        let compute = match step {
            Step::Do(compute) => compute,
            Step::Refuse(error) => return Ok(Phase::answer(Err(error), seen.version())),
            Step::Absent => {
                let rests_on = seen.version();
                let refused = Refused::absent(seen, store.now());
                let answer = Err(refused.into_conflict(store, state, &self.key, None));
                return Ok(Phase::answer(answer, rests_on));
            }
        };
        let (actor, key) = (self.actor.clone(), &self.key);
        let unchanged = smallvec![match seen.live() {
            Some(record) => Precondition::Matches(record.metadata.version),
            None => Precondition::Absent,
        }];
        let prepared = match (compute, seen.live()) {
            (Compute::Put(value), _) => {
                let record = Record::unplaced(value);
                Prepared::put(store, state, key, record, actor, unchanged)?
            }
            (Compute::Delete, Some(_)) => Prepared::delete(store, state, key, actor, unchanged),
            (Compute::Abort, _) | (Compute::Delete, None) => {
                let entity = seen.live().map(|record| Entity::new(Arc::clone(record)));
                return Ok(Phase::answer(Ok(Computed::Aborted(entity)), seen.version()));
            }
        };
        Ok(Phase::Write(prepared))
    }

    /// Tries to write the change, for which there is room.
    ///
    /// # Errors
    /// What keeps the change from being tried at all.
    pub(crate) fn attempt(&mut self, prepared: Prepared<V>, room: Room<'_>) -> Result<Phase<V>> {
        let Collection { store, state, .. } = self.collection;
        let attempt = state.attempt(store, &self.key, prepared, room, self.by_future)?;
        Ok(self.conclude(attempt))
    }

    fn conclude(&mut self, attempt: Attempt<V>) -> Phase<V> {
        let store = self.store();
        let rests_on = attempt.rests_on();
        let refused = match attempt {
            Attempt::Landed(landed) => {
                let answer = match landed.written {
                    Written::Deleted(deleted) => Computed::Deleted(deleted),
                    Written::Put { entity, previous } => {
                        let Effort { attempts, elapsed } = self.attempts.effort(store);
                        Computed::Put(Committed::new(entity, previous).after(attempts, elapsed))
                    }
                };
                return Phase::Answer { answer: Ok(answer), rests_on, garbage: landed.garbage };
            }
            Attempt::Refused(refused) => refused,
        };
        if self.attempts.are_spent(store) {
            let effort = Some(self.attempts.effort(store));
            let state = &self.collection.state;
            let answer = Err(refused.into_conflict(store, state, &self.key, effort));
            return Phase::answer(answer, rests_on);
        }
        self.after_loss(refused)
    }

    /// The first retry goes out at once, from the entity that won; then pauses; then turns.
    fn after_loss(&mut self, refused: Refused<V>) -> Phase<V> {
        let lost = self.attempts.count;
        if lost == 1 {
            return Phase::Try(Some(refused.newest));
        }
        if lost >= LOSSES_BEFORE_TURN && self.turn.is_none() && !UserCode::is_running() {
            return self.queue_up();
        }
        let until = self.attempts.pause(self.store());
        Phase::Pause { until }
    }

    fn queue_up(&mut self) -> Phase<V> {
        let store = self.store();
        self.turn = Some(store.turns.join(self.place()));
        let until = store.clock.monotonic() + PATIENCE.min(self.attempts.left(store));
        Phase::Turn { until }
    }

    fn place(&self) -> (u32, u64) {
        (self.collection.state.id, self.hash)
    }
}

impl<V> Phase<V> {
    fn answer(answer: Result<Computed<V>>, rests_on: u64) -> Phase<V> {
        Phase::Answer { answer, rests_on, garbage: Garbage::new() }
    }
}

/// How much of a retry policy has been spent.
pub(crate) struct Attempts {
    policy: RetryPolicy,
    started: Duration,
    count: u32,
    last_pause: Duration,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy, now: Duration) -> Attempts {
        let last_pause = policy.pause_min;
        Attempts { policy, started: now, count: 0, last_pause }
    }

    fn elapsed(&self, store: &Inner) -> Duration {
        store.clock.monotonic().saturating_sub(self.started)
    }

    fn left(&self, store: &Inner) -> Duration {
        self.policy.budget.saturating_sub(self.elapsed(store))
    }

    fn are_spent(&self, store: &Inner) -> bool {
        self.count >= self.policy.attempts || self.left(store).is_zero()
    }

    fn effort(&self, store: &Inner) -> Effort {
        Effort { attempts: self.count, elapsed: self.elapsed(store) }
    }

    /// Decorrelated jitter (Brooker, Exponential Backoff And Jitter, 2015): each pause is drawn
    /// between the shortest and three times the last one. Returns when it is over.
    fn pause(&mut self, store: &Inner) -> Duration {
        let RetryPolicy { pause_min, pause_max, .. } = self.policy;
        let most = self.last_pause.saturating_mul(3).clamp(pause_min, pause_max.max(pause_min));
        let spread = (most - pause_min).as_nanos() as u64;
        let drawn = Duration::from_nanos(store.random.lock().u64(0..=spread));
        self.last_pause = pause_min.saturating_add(drawn);
        let wait = self.last_pause.min(self.left(store));
        store.clock.monotonic().saturating_add(wait)
    }
}
