//! Read-modify-write: `update`, `try_update` and `compute`, retried within bounds (G7).

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::collection::Collection;
use crate::entity::{Actor, Entity};
use crate::error::{Error, Result};
use crate::key::{AsKey, Key};
use crate::log::Ticket;
use crate::map::KeyBuf;
use crate::options::RetryPolicy;
use crate::retry::{Attempts, Phase, Run, Step};
use crate::service::Timer;
use crate::sync::parker;
use crate::write::{Committed, Deleted, check_request};

/// What [`compute`](Collection::compute) is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compute<V> {
    /// Write this value, creating the entity where there is none.
    Put(V),
    /// Delete the entity; where there is none, do nothing.
    Delete,
    /// Do nothing.
    Abort,
}

/// What [`compute`](Collection::compute) did.
#[derive(Clone, Debug)]
pub enum Computed<V> {
    /// A value was written.
    Put(Committed<V>),
    /// The entity was deleted.
    Deleted(Deleted),
    /// Nothing was done; this is the entity that the decision was taken on.
    Aborted(Option<Entity<V>>),
}

/// A read-modify-write that has not been run yet.
///
/// `F` computes the change; it may run several times, on entities that are not durable yet, and
/// must have no outside effects. No lock is held meanwhile. `M` says how `F` is called:
/// [`Change`], [`TryChange`] or [`Decide`].
#[must_use = "an update does nothing before `commit` or `.await`"]
pub struct Update<'a, K, V, F, M> {
    collection: &'a Collection<K, V>,
    key: KeyBuf,
    change: F,
    actor: Option<Actor>,
    policy: RetryPolicy,
    method: PhantomData<fn() -> M>,
}

/// Of an update: the closure changes the value in place.
#[derive(Debug)]
pub struct Change;

/// Of an update: the closure changes the value in place, or refuses.
#[derive(Debug)]
pub struct TryChange;

/// Of an update: the closure decides on the value or its absence.
#[derive(Debug)]
pub struct Decide;

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    /// Changes the entity at `key` in place. When another write comes between, the change is
    /// applied anew to what that left, within the bounds of the [`RetryPolicy`].
    ///
    /// Callers who lost three times on a key take turns in order of arrival, so that none
    /// starves (G7). The outcome tells attempts and time.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let counters = store.collection::<String, u64>("counters")?;
    /// counters.create("visits", 0).commit()?;
    /// let done = counters.update("visits", |visits| *visits += 1).by("web-1").commit()?;
    /// assert_eq!(*done.value(), 1);
    /// assert_eq!(done.attempts(), 1);
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn update<F>(&self, key: impl AsKey<K>, change: F) -> Update<'_, K, V, F, Change>
    where
        V: Clone,
        F: FnMut(&mut V),
    {
        Update::new(self, key, change)
    }

    /// As [`update`](Collection::update), with a change that may refuse: then nothing is
    /// written, and its error is returned once what it saw is durable.
    ///
    /// ```
    /// use ifmatch::{Error, Store};
    ///
    /// let store = Store::in_memory();
    /// let stock = store.collection::<String, u32>("stock")?;
    /// stock.create("bolts", 3).commit()?;
    /// let take = |n: u32| move |left: &mut u32| {
    ///     *left = left.checked_sub(n).ok_or_else(|| Error::refused("out of stock"))?;
    ///     Ok(())
    /// };
    /// stock.try_update("bolts", take(2)).commit()?;
    /// let refusal = stock.try_update("bolts", take(2)).commit().unwrap_err();
    /// assert_eq!(refusal.to_string(), "out of stock");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn try_update<F>(&self, key: impl AsKey<K>, change: F) -> Update<'_, K, V, F, TryChange>
    where
        V: Clone,
        F: FnMut(&mut V) -> Result<()>,
    {
        Update::new(self, key, change)
    }

    /// Decides on the entity at `key`, or on its absence, what is to become of it.
    ///
    /// ```
    /// use ifmatch::{Compute, Computed, Store};
    ///
    /// let store = Store::in_memory();
    /// let votes = store.collection::<String, u32>("votes")?;
    /// let vote = || votes.compute("ann", |votes| Compute::Put(votes.copied().unwrap_or(0) + 1));
    /// vote().commit()?;
    /// let Computed::Put(done) = vote().commit()? else { unreachable!() };
    /// assert_eq!(*done.value(), 2);
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn compute<F>(&self, key: impl AsKey<K>, decide: F) -> Update<'_, K, V, F, Decide>
    where
        F: FnMut(Option<&V>) -> Compute<V>,
    {
        Update::new(self, key, decide)
    }
}

impl<'a, K: Key, V: Send + Sync + 'static, F, M> Update<'a, K, V, F, M> {
    fn new(collection: &'a Collection<K, V>, key: impl AsKey<K>, change: F) -> Self {
        let key = key.with_bytes(|key| KeyBuf::from(key));
        let policy = collection.store.retry.clone();
        Update { collection, key, change, actor: None, policy, method: PhantomData }
    }

    /// Names the writer; see [`Entity::written_by`].
    pub fn by(mut self, actor: impl Into<Actor>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Retries by this policy instead of the store's.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }
}

impl<'a, K, V, F, M> Update<'a, K, V, F, M>
where
    K: Key,
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    /// Runs the change and blocks until its answer is durable (G3).
    ///
    /// # Errors
    /// A conflict: `absent` if `update` finds no entity, `contended` if the policy's bounds are
    /// spent. Whatever the closure refused with. [`Limit`](crate::Error::Limit),
    /// [`Encode`](crate::Error::Encode), [`DiskFull`](crate::Error::DiskFull),
    /// [`Closed`](crate::Error::Closed) and [`Poisoned`](crate::Error::Poisoned). Nothing was
    /// written then, unless `Poisoned` says that the outcome is unknown.
    pub fn commit(self) -> Result<M::Output> {
        let mut run = self.start(false)?;
        let store = run.store();
        let mut phase = run.first_phase();
        loop {
            phase = match phase {
                Phase::Turn { until } => {
                    let parker = parker();
                    while !run.has_turn(parker.waker(), until) {
                        let left = until.saturating_sub(store.clock.monotonic());
                        parker.park(Some(left));
                    }
                    Phase::Try(None)
                }
                Phase::Pause { until } => {
                    let now = store.clock.monotonic();
                    store.clock.sleep(until.saturating_sub(now));
                    Phase::Try(None)
                }
                Phase::Try(seen) => run.compute(seen)?,
                Phase::Write(prepared) => {
                    let room = store.journal.reserve(prepared.payload)?;
                    run.attempt(prepared, room)?
                }
                Phase::Answer { answer, rests_on, garbage: _garbage } => {
                    run.leave_queue();
                    let durable = store.journal.wait(rests_on);
                    durable.map_err(|error| lost(&answer, error))?;
                    return answer.map(M::output);
                }
            }
        }
    }

    fn start(self, by_future: bool) -> Result<Run<'a, K, V, F, M>> {
        let store = &self.collection.store;
        check_request(self.collection, &self.key, self.actor.as_ref())?;
        let attempts = Attempts::new(self.policy, store.clock.monotonic());
        let Update { collection, key, change, actor, .. } = self;
        Ok(Run::new(collection, key, change, actor, attempts, by_future))
    }
}

impl<'a, K, V, F, M> IntoFuture for Update<'a, K, V, F, M>
where
    K: Key,
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    type Output = Result<M::Output>;
    type IntoFuture = UpdateFuture<'a, K, V, F, M>;

    fn into_future(self) -> UpdateFuture<'a, K, V, F, M> {
        let state = State::Start(self);
        UpdateFuture { state, ticket: Ticket::default(), timer: None }
    }
}

/// An update being awaited, on any runtime. Begins when it is first polled. Dropped before its
/// change has landed it writes nothing; dropped later it does not undo the write.
#[must_use = "futures do nothing unless polled"]
pub struct UpdateFuture<'a, K, V, F, M> {
    state: State<'a, K, V, F, M>,
    ticket: Ticket,
    timer: Option<Timer>,
}

#[allow(clippy::large_enum_variant, reason = "a box would cost each update an allocation")]
enum State<'a, K, V, F, M> {
    Start(Update<'a, K, V, F, M>),
    Running(Run<'a, K, V, F, M>, Phase<V>),
    Done,
}

/// Nothing in the future points into it.
impl<K, V, F, M> Unpin for UpdateFuture<'_, K, V, F, M> {}

impl<K, V, F, M> Future for UpdateFuture<'_, K, V, F, M>
where
    K: Key,
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    type Output = Result<M::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<M::Output>> {
        let this = &mut *self;
        loop {
            let next = match std::mem::replace(&mut this.state, State::Done) {
                State::Start(update) => {
                    let mut run = update.start(true)?;
                    let phase = run.first_phase();
                    State::Running(run, phase)
                }
                State::Running(mut run, phase) => {
                    match this.poll_phase(&mut run, phase, context)? {
                        Advance::Next(phase) => State::Running(run, phase),
                        Advance::Answer(answer) => return Poll::Ready(Ok(answer)),
                        Advance::Wait(phase) => {
                            this.state = State::Running(run, phase);
                            return Poll::Pending;
                        }
                    }
                }
                // As a future may after its end; the answer has been given.
                State::Done => return Poll::Pending,
            };
            this.state = next;
        }
    }
}

/// Why the answer cannot be given: what it rests on will not become durable.
fn lost<V>(answer: &Result<Computed<V>>, error: Error) -> Error {
    match answer {
        Ok(Computed::Put(_) | Computed::Deleted(_)) => error,
        Ok(Computed::Aborted(_)) | Err(_) => error.nothing_written(),
    }
}

/// How far a poll has come.
enum Advance<V, O> {
    Next(Phase<V>),
    Wait(Phase<V>),
    Answer(O),
}

impl<'a, K, V, F, M> UpdateFuture<'a, K, V, F, M>
where
    K: Key,
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    fn poll_phase(
        &mut self,
        run: &mut Run<'a, K, V, F, M>,
        phase: Phase<V>,
        context: &mut Context<'_>,
    ) -> Result<Advance<V, M::Output>> {
        let store = run.store();
        // The service thread wakes the task at a deadline; a new deadline replaces the last.
        let mut wake_at = |deadline| {
            self.timer = store.service.wake_at(deadline, context.waker().clone());
        };
        Ok(match phase {
            // Nobody keeps a deadline any more; the attempt will say so.
            Phase::Turn { .. } | Phase::Pause { .. } if store.durable().is_err() => {
                Advance::Next(Phase::Try(None))
            }
            Phase::Turn { until } if run.has_turn(context.waker(), until) => {
                Advance::Next(Phase::Try(None))
            }
            Phase::Turn { until } => {
                wake_at(until);
                Advance::Wait(phase)
            }
            Phase::Pause { until } if store.clock.monotonic() >= until => {
                Advance::Next(Phase::Try(None))
            }
            Phase::Pause { until } => {
                wake_at(until);
                Advance::Wait(phase)
            }
            Phase::Try(seen) => {
                self.timer = None;
                Advance::Next(run.compute(seen)?)
            }
            Phase::Write(prepared) => {
                let (bytes, ticket) = (prepared.payload, &mut self.ticket);
                match store.journal.poll_reserve(bytes, ticket, context.waker()) {
                    Poll::Ready(room) => {
                        let next = run.attempt(prepared, room?)?;
                        self.ticket = Ticket::default();
                        Advance::Next(next)
                    }
                    Poll::Pending => Advance::Wait(Phase::Write(prepared)),
                }
            }
            Phase::Answer { answer, rests_on, garbage } => {
                run.leave_queue();
                let durable = store.journal.poll(rests_on, &mut self.ticket, context.waker());
                match durable {
                    Poll::Ready(durable) => {
                        durable.map_err(|error| lost(&answer, error))?;
                        Advance::Answer(answer.map(M::output)?)
                    }
                    Poll::Pending => Advance::Wait(Phase::Answer { answer, rests_on, garbage }),
                }
            }
        })
    }
}

impl<K, V, F, M> fmt::Debug for Update<'_, K, V, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update").field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl<K, V, F, M> fmt::Debug for UpdateFuture<'_, K, V, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateFuture").finish_non_exhaustive()
    }
}

/// How the closure of an update is called, and what the update returns. Sealed.
pub trait Method<V, F>: sealed::Method<V, F> {}

impl<V, F, M: sealed::Method<V, F>> Method<V, F> for M {}

pub(crate) mod sealed {
    use super::{Computed, Step};

    pub trait Method<V, F> {
        /// What a landed update returns.
        type Output;

        #[doc(hidden)]
        fn step(change: &mut F, current: Option<&V>) -> Step<V>;

        #[doc(hidden)]
        fn output(computed: Computed<V>) -> Self::Output;
    }
}

impl<V: Clone, F: FnMut(&mut V)> sealed::Method<V, F> for Change {
    type Output = Committed<V>;

    fn step(change: &mut F, current: Option<&V>) -> Step<V> {
        let change = &mut |value: &mut V| {
            change(value);
            Ok(())
        };
        TryChange::step(change, current)
    }

    fn output(computed: Computed<V>) -> Committed<V> {
        <TryChange as sealed::Method<V, fn(&mut V) -> Result<()>>>::output(computed)
    }
}

impl<V: Clone, F: FnMut(&mut V) -> Result<()>> sealed::Method<V, F> for TryChange {
    type Output = Committed<V>;

    fn step(change: &mut F, current: Option<&V>) -> Step<V> {
        let Some(current) = current else { return Step::Absent };
        let mut value = current.clone();
        match change(&mut value) {
            Ok(()) => Step::Do(Compute::Put(value)),
            Err(error) => Step::Refuse(error),
        }
    }

    fn output(computed: Computed<V>) -> Committed<V> {
        match computed {
            Computed::Put(committed) => committed,
            // `step` yields puts alone.
            Computed::Deleted(_) | Computed::Aborted(_) => {
                unreachable!("an update has landed as something else")
            }
        }
    }
}

impl<V, F: FnMut(Option<&V>) -> Compute<V>> sealed::Method<V, F> for Decide {
    type Output = Computed<V>;

    fn step(decide: &mut F, current: Option<&V>) -> Step<V> {
        Step::Do(decide(current))
    }

    fn output(computed: Computed<V>) -> Computed<V> {
        computed
    }
}
