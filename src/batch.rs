//! Batches: many writes, each by itself, with one wait for the disk.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::error::{Error, Limit, Result};
use crate::key::Key;
use crate::log::Ticket;
use crate::retry::Driven;
use crate::store::{Inner, Store};
use crate::version::Version;
use crate::write::{Run, Verb, Write};

/// Writes that are to be run together; made by [`Store::batch`].
#[must_use = "a batch does nothing before `commit` or `.await`"]
pub struct Batch<'a> {
    store: &'a Inner,
    writes: Vec<Box<dyn Item + 'a>>,
    /// The collection of a write that belongs to another store.
    stranger: Option<Arc<str>>,
}

impl Store {
    /// Writes each by itself, in the order in which they were added, and waits for the disk once.
    ///
    /// One that is refused keeps none of the others from landing; for all or nothing see
    /// [`transact`](Store::transact). Each gets a version of its own. A batch of writes on the
    /// disk costs about as much as one.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let v1 = shifts.create("s-1", 8).commit()?.version();
    /// let results = store
    ///     .batch()
    ///     .with(shifts.create("s-1", 6))
    ///     .with(shifts.put("s-1", 7).if_match(v1))
    ///     .with(shifts.create("s-2", 4))
    ///     .commit()?;
    /// assert!(results[0].as_ref().is_err_and(|error| error.is_conflict()));
    /// assert!(results[1].as_ref().is_ok_and(|version| *version > v1));
    /// assert_eq!(shifts.len()?, 2);
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn batch(&self) -> Batch<'_> {
        Batch { store: &self.inner, writes: Vec::new(), stranger: None }
    }
}

impl<'a> Batch<'a> {
    /// Adds a write. What it does is seen by those that were added after it.
    pub fn with<K, V, O>(mut self, write: Write<'a, K, V, O>) -> Self
    where
        K: Key,
        V: Send + Sync + 'static,
        O: Verb<V> + 'a,
    {
        let (store, name, run) = write.into_run();
        if !std::ptr::eq(self.store, store) {
            self.stranger = Some(name);
        }
        let driven = Driven::new(store, run, store.retry.clone());
        self.writes.push(Box::new(Single { driven, rests_on: 0, failed: None }));
        self
    }

    /// Runs the writes and blocks until all answers are durable (G3): of each the version that it
    /// wrote, or why it did not.
    ///
    /// # Errors
    /// [`Limit`](Error::Limit) if there are too many, and [`OtherStore`](Error::OtherStore);
    /// nothing was written then. Each result has errors of its own; see [`Write::commit`].
    pub fn commit(mut self) -> Result<Vec<Result<Version>>> {
        self.check()?;
        self.writes.iter_mut().for_each(|write| write.settle());
        // One wait covers all; what is left to ask for is known then.
        let _ = self.store.journal.wait(self.rests_on());
        Ok(self.tell())
    }

    fn check(&mut self) -> Result<()> {
        if let Some(collection) = self.stranger.take() {
            return Err(Error::OtherStore { collection });
        }
        let place = || "a batch".to_owned();
        self.store.limits.check(Limit::BatchWrites, self.writes.len(), place)
    }

    fn rests_on(&self) -> u64 {
        self.writes.iter().map(|write| write.rests_on()).max().unwrap_or(0)
    }

    fn tell(&mut self) -> Vec<Result<Version>> {
        let journal = &self.store.journal;
        let tell = |mut write: Box<dyn Item + '_>| write.tell(journal.wait(write.rests_on()));
        std::mem::take(&mut self.writes).into_iter().map(tell).collect()
    }
}

impl<'a> IntoFuture for Batch<'a> {
    type Output = Result<Vec<Result<Version>>>;
    type IntoFuture = BatchFuture<'a>;

    fn into_future(self) -> BatchFuture<'a> {
        BatchFuture { batch: self, settled: 0, ticket: Ticket::default() }
    }
}

/// A batch being awaited, on any runtime. Begins when it is first polled; dropped later, it does
/// not undo the writes that have landed, and leaves the others.
#[must_use = "futures do nothing unless polled"]
pub struct BatchFuture<'a> {
    batch: Batch<'a>,
    settled: usize,
    ticket: Ticket,
}

impl Future for BatchFuture<'_> {
    type Output = Result<Vec<Result<Version>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let BatchFuture { batch, settled, ticket } = &mut *self;
        if *settled == 0 {
            batch.check()?;
        }
        while let Some(write) = batch.writes.get_mut(*settled) {
            ready!(write.poll_settled(context));
            *settled += 1;
        }
        let journal = &batch.store.journal;
        let _ = ready!(journal.poll(batch.rests_on(), ticket, context.waker()));
        Poll::Ready(Ok(batch.tell()))
    }
}

/// One write of a batch, whatever its types.
trait Item: Send {
    /// Runs it until its outcome is certain; blocks for room in the log alone.
    fn settle(&mut self);

    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// What has to be durable before the outcome may be told.
    fn rests_on(&self) -> u64;

    fn tell(&mut self, durable: Result<()>) -> Result<Version>;
}

struct Single<'a, V, O>
where
    V: Send + Sync + 'static,
    O: Verb<V>,
{
    driven: Driven<'a, Run<'a, V, O>>,
    rests_on: u64,
    failed: Option<Error>,
}

impl<V: Send + Sync, O: Verb<V>> Single<'_, V, O> {
    fn note(&mut self, settled: Result<u64>) {
        match settled {
            Ok(rests_on) => self.rests_on = rests_on,
            Err(error) => self.failed = Some(error),
        }
    }
}

impl<V: Send + Sync, O: Verb<V>> Item for Single<'_, V, O> {
    fn settle(&mut self) {
        let settled = self.driven.settle();
        self.note(settled);
    }

    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let settled = ready!(self.driven.poll_settled(context));
        self.note(settled);
        Poll::Ready(())
    }

    fn rests_on(&self) -> u64 {
        self.rests_on
    }

    fn tell(&mut self, durable: Result<()>) -> Result<Version> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.driven.tell(durable).map(|output| O::version(&output)),
        }
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("writes", &self.writes.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for BatchFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchFuture").field("batch", &self.batch).finish_non_exhaustive()
    }
}
