//! Transactions: reads and writes of any keys of any collections, all or nothing, retried.

mod find;
mod run;
mod view;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub use view::{Seen, Transaction};

use crate::entity::Actor;
#[cfg(doc)]
use crate::entity::Entity;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::ids::Caller;
use crate::options::RetryPolicy;
use crate::retry::{self, Driven};
use crate::store::{Inner, Store};
pub(crate) use crate::transact::run::{Own, Run};
use crate::version::Version;

/// A transaction that has not been run yet; made by [`Store::transact`].
#[must_use = "a transaction does nothing before `commit` or `.await`"]
pub struct Transact<'a, F, R> {
    store: &'a Inner,
    run: Run<F, R>,
    policy: RetryPolicy,
}

/// What a transaction came to.
#[derive(Clone, Debug)]
pub struct Transacted<R> {
    value: R,
    version: Option<Version>,
    attempts: u32,
    elapsed: Duration,
}

impl<R> Transacted<R> {
    /// What the closure returned.
    pub fn value(&self) -> &R {
        &self.value
    }

    /// What the closure returned, owned.
    pub fn into_value(self) -> R {
        self.value
    }

    /// The one version that everything written has; `None` if nothing was.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// How often the closure ran.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long the attempts took, pauses included, the wait for the disk not.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

impl Store {
    /// Reads and writes any keys of any collections of this store, all or nothing (G1).
    ///
    /// Transactions are serializable: each takes effect as if it ran alone, at the instant of its
    /// commit. What it read, scans included, is checked then; if any of it has changed, the
    /// closure runs again, within the bounds of the [`RetryPolicy`]. All that it writes gets one
    /// version and stands in one record of the log. One that only reads is a consistent view.
    ///
    /// The closure may run several times, on entities that are not durable yet, and must have no
    /// outside effects. It never sees half of another commit. No lock is held meanwhile. What it
    /// returns, an error too, is withheld until all that it rests on is durable (G3).
    ///
    /// ```
    /// use ifmatch::{Error, Store};
    ///
    /// let store = Store::in_memory();
    /// let accounts = store.collection::<String, u64>("accounts")?;
    /// accounts.create("ann", 10).commit()?;
    /// accounts.create("bob", 0).commit()?;
    ///
    /// let moved = store
    ///     .transact(|tx| {
    ///         let (ann, bob) = (tx.require(&accounts, "ann")?, tx.require(&accounts, "bob")?);
    ///         let left = ann.checked_sub(7).ok_or_else(|| Error::refused("too little"))?;
    ///         tx.put(&accounts, "ann", left)?;
    ///         tx.put(&accounts, "bob", *bob + 7)
    ///     })
    ///     .by("bank")
    ///     .commit()?;
    /// assert_eq!(accounts.get("ann")?.map(|ann| *ann), Some(3));
    /// assert_eq!(accounts.get("bob")?.map(|bob| bob.version()), moved.version());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn transact<F, R>(&self, body: F) -> Transact<'_, F, R>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<R>,
    {
        let store = &*self.inner;
        Transact { store, run: Run::new(body), policy: store.retry.clone() }
    }
}

impl<'a, F, R> Transact<'a, F, R> {
    /// Names the writer; see [`Entity::written_by`].
    pub fn by(mut self, actor: impl Into<Actor>) -> Self {
        self.run.actor = Some(actor.into());
        self
    }

    /// Retries by this policy instead of the store's.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Runs the transaction and blocks until its answer is durable (G3).
    ///
    /// # Errors
    /// A conflict: of each condition that was named and does not hold, see
    /// [`Conflict::all`](crate::Conflict::all); `contended` if the policy's bounds are spent.
    /// Whatever the closure refused with. [`Limit`](Error::Limit), [`Encode`](Error::Encode),
    /// [`DiskFull`](Error::DiskFull), [`Closed`](Error::Closed) and [`Poisoned`](Error::Poisoned).
    /// Nothing was written then, unless `Poisoned` says that the outcome is unknown.
    pub fn commit(self) -> Result<Transacted<R>>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<R>,
    {
        retry::run(self.store, self.run, self.policy).map(Once::expect_first)
    }

    /// Gives the transaction an id: if one of this actor with this id has landed before, it is not
    /// run again (G5). See [`Write::operation_id`](crate::Write::operation_id); here it stands for
    /// the actor alone. One that writes nothing is not remembered.
    ///
    /// ```
    /// use ifmatch::{Once, Store};
    ///
    /// let store = Store::in_memory();
    /// let hours = store.collection::<String, u32>("hours")?;
    /// let book = || {
    ///     let booking = store.transact(|tx| {
    ///         let so_far = tx.get(&hours, "ann")?.map_or(0, |hours| *hours);
    ///         tx.put(&hours, "ann", so_far + 8)
    ///     });
    ///     booking.by("ann").operation_id("monday").commit()
    /// };
    /// let Once::First(first) = book()? else { panic!("it has not landed before") };
    /// let Once::Replayed { version } = book()? else { panic!("it has") };
    /// assert_eq!(Some(version), first.version());
    /// assert_eq!(hours.get("ann")?.map(|hours| *hours), Some(8));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn operation_id(mut self, id: impl Into<String>) -> TransactOnce<'a, F, R> {
        self.run.caller = Caller { actor: self.run.actor.clone(), operation_id: Some(id.into()) };
        TransactOnce(self)
    }
}

impl<'a, F, R> IntoFuture for Transact<'a, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    type Output = Result<Transacted<R>>;
    type IntoFuture = TransactFuture<'a, F, R>;

    fn into_future(self) -> TransactFuture<'a, F, R> {
        TransactFuture(Driven::new(self.store, self.run, self.policy))
    }
}

/// A transaction being awaited, on any runtime. Begins when it is first polled. Dropped before
/// its writes have landed it writes nothing; dropped later it does not undo them.
#[must_use = "futures do nothing unless polled"]
pub struct TransactFuture<'a, F, R>(Driven<'a, Run<F, R>>)
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>;

/// Nothing in the future points into it.
impl<F, R> Unpin for TransactFuture<'_, F, R> where F: FnMut(&mut Transaction<'_>) -> Result<R> {}

impl<F, R> Future for TransactFuture<'_, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    type Output = Result<Transacted<R>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Transacted<R>>> {
        self.0.poll(context).map_ok(Once::expect_first)
    }
}

/// A transaction with an operation id; made by [`Transact::operation_id`].
#[must_use = "a transaction does nothing before `commit` or `.await`"]
pub struct TransactOnce<'a, F, R>(Transact<'a, F, R>);

/// What a transaction with an operation id came to (G5).
#[derive(Clone, Debug)]
pub enum Once<R> {
    /// It was run now.
    First(Transacted<R>),
    /// It had landed before. What its closure returned then is not kept.
    Replayed {
        /// The version that everything written got then.
        version: Version,
    },
}

impl<R> Once<R> {
    pub(crate) fn expect_first(self) -> Transacted<R> {
        match self {
            Once::First(transacted) => transacted,
            Once::Replayed { .. } => unreachable!("there was no operation id"),
        }
    }
}

impl<F, R> TransactOnce<'_, F, R> {
    /// What the transaction is about, as bytes: another one with the same operation id and other
    /// bytes is refused as [`KeyReused`](crate::Error::KeyReused), instead of being taken for the
    /// first.
    ///
    /// ```
    /// use ifmatch::Precondition;
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let hours = store.collection::<String, u32>("hours")?;
    /// let book = |count: u32| {
    ///     let always = Precondition::Unconditional;
    ///     let booking = store.transact(|tx| tx.put_if(&hours, "ann", count, always.clone()));
    ///     booking.by("ann").operation_id("monday").payload(count.to_le_bytes()).commit()
    /// };
    /// book(8)?;
    /// assert!(matches!(book(6), Err(ifmatch::Error::KeyReused { .. })));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn payload(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.run.payload = bytes.into();
        self
    }
}

impl<'a, F, R> TransactOnce<'a, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    /// Runs the transaction, unless it has landed before, and blocks until its answer is durable
    /// (G3).
    ///
    /// # Errors
    /// As [`Transact::commit`]; [`Error::KeyReused`].
    pub fn commit(self) -> Result<Once<R>> {
        retry::run(self.0.store, self.0.run, self.0.policy)
    }
}

impl<'a, F, R> IntoFuture for TransactOnce<'a, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    type Output = Result<Once<R>>;
    type IntoFuture = TransactOnceFuture<'a, F, R>;

    fn into_future(self) -> TransactOnceFuture<'a, F, R> {
        TransactOnceFuture(self.0.into_future())
    }
}

/// As [`TransactFuture`], of a transaction with an operation id.
#[must_use = "futures do nothing unless polled"]
pub struct TransactOnceFuture<'a, F, R>(TransactFuture<'a, F, R>)
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>;

impl<F, R> Future for TransactOnceFuture<'_, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    type Output = Result<Once<R>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Once<R>>> {
        self.0.0.poll(context)
    }
}

impl<F, R> fmt::Debug for TransactOnce<'_, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransactOnce").field(&self.0).finish()
    }
}

impl<F, R> fmt::Debug for TransactOnceFuture<'_, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactOnceFuture").finish_non_exhaustive()
    }
}

impl<F, R> fmt::Debug for Transact<'_, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transact").field("actor", &self.run.actor).finish_non_exhaustive()
    }
}

impl<F, R> fmt::Debug for TransactFuture<'_, F, R>
where
    F: FnMut(&mut Transaction<'_>) -> Result<R>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactFuture").finish_non_exhaustive()
    }
}
