//! Read-modify-write: `update`, `try_update` and `compute`, retried within bounds (G7).

mod run;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::collection::Collection;
use crate::entity::{Actor, Entity};
use crate::error::Result;
use crate::key::{AsKey, Key};
use crate::lease::Lease;
use crate::map::KeyBuf;
use crate::options::RetryPolicy;
use crate::retry::{self, Driven};
use crate::store::Inner;
use crate::update::run::{Run, Step};
use crate::write::{Committed, Deleted};

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
/// [`InPlace`], [`TryInPlace`] or [`Decide`].
#[must_use = "an update does nothing before `commit` or `.await`"]
pub struct Update<'a, K, V, F, M> {
    collection: &'a Collection<K, V>,
    key: KeyBuf,
    change: F,
    actor: Option<Actor>,
    operation_id: Option<String>,
    lease: Option<Lease>,
    policy: RetryPolicy,
    method: PhantomData<fn() -> M>,
}

/// Of an update: the closure changes the value in place.
#[derive(Debug)]
pub struct InPlace;

/// Of an update: the closure changes the value in place, or refuses.
#[derive(Debug)]
pub struct TryInPlace;

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
    pub fn update<F>(&self, key: impl AsKey<K>, change: F) -> Update<'_, K, V, F, InPlace>
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
    pub fn try_update<F>(&self, key: impl AsKey<K>, change: F) -> Update<'_, K, V, F, TryInPlace>
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
        let (actor, operation_id, lease, method) = (None, None, None, PhantomData);
        Update { collection, key, change, actor, operation_id, lease, policy, method }
    }

    /// Names the writer; see [`Entity::written_by`].
    pub fn by(mut self, actor: impl Into<Actor>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Gives the update an id: if one of this actor with this id has landed before, its result is
    /// returned, and nothing is written (G5). See
    /// [`Write::operation_id`](crate::Write::operation_id); here it stands for the key alone, and
    /// the value is remembered with it.
    pub fn operation_id(mut self, id: impl Into<String>) -> Self {
        self.operation_id = Some(id.into());
        self
    }

    /// Relies on a lease of the key; see [`Write::holding`](crate::Write::holding).
    pub fn holding(mut self, lease: &Lease) -> Self {
        self.lease = Some(lease.clone());
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
        let (store, run, policy) = self.into_run();
        retry::run(store, run, policy)
    }

    fn into_run(self) -> (&'a Inner, Run<'a, V, F, M>, RetryPolicy) {
        let Update { collection, key, change, actor, operation_id, lease, policy, .. } = self;
        let Collection { store, state, .. } = collection;
        (store, Run::new(state, key, change, actor, operation_id, lease), policy)
    }
}

impl<'a, K, V, F, M> IntoFuture for Update<'a, K, V, F, M>
where
    K: Key,
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    type Output = Result<M::Output>;
    type IntoFuture = UpdateFuture<'a, V, F, M>;

    fn into_future(self) -> UpdateFuture<'a, V, F, M> {
        let (store, run, policy) = self.into_run();
        UpdateFuture(Driven::new(store, run, policy))
    }
}

/// An update being awaited, on any runtime. Begins when it is first polled. Dropped before its
/// change has landed it writes nothing; dropped later it does not undo the write.
#[must_use = "futures do nothing unless polled"]
pub struct UpdateFuture<'a, V, F, M>(Driven<'a, Run<'a, V, F, M>>)
where
    V: Send + Sync + 'static,
    M: Method<V, F>;

/// Nothing in the future points into it.
impl<V: Send + Sync, F, M: Method<V, F>> Unpin for UpdateFuture<'_, V, F, M> {}

impl<V, F, M> Future for UpdateFuture<'_, V, F, M>
where
    V: Send + Sync + 'static,
    M: Method<V, F>,
{
    type Output = Result<M::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<M::Output>> {
        self.0.poll(context)
    }
}

impl<K, V, F, M> fmt::Debug for Update<'_, K, V, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update").field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl<V: Send + Sync, F, M: Method<V, F>> fmt::Debug for UpdateFuture<'_, V, F, M> {
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

impl<V: Clone, F: FnMut(&mut V)> sealed::Method<V, F> for InPlace {
    type Output = Committed<V>;

    fn step(change: &mut F, current: Option<&V>) -> Step<V> {
        let change = &mut |value: &mut V| {
            change(value);
            Ok(())
        };
        TryInPlace::step(change, current)
    }

    fn output(computed: Computed<V>) -> Committed<V> {
        <TryInPlace as sealed::Method<V, fn(&mut V) -> Result<()>>>::output(computed)
    }
}

impl<V: Clone, F: FnMut(&mut V) -> Result<()>> sealed::Method<V, F> for TryInPlace {
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
