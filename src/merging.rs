//! Writes that merge: refused as stale, they put their edit on top of what the others wrote.

use std::any::Any;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::codec::Codec;
use crate::collection::CollectionState;
use crate::commit::Preconditions;
use crate::conflict::{Conflict, Effort, Reason};
use crate::entity::{Actor, Record};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::map::KeyBuf;
use crate::options::RetryPolicy;
use crate::precondition::Precondition;
use crate::rebase::Based;
use crate::store::Inner;
use crate::write::{Committed, Put, Request, Write, WriteFuture};

/// A write that merges and has not been run yet, made by [`Write::merge`].
#[must_use = "a write does nothing before `commit` or `.await`"]
pub struct Merge<'a, K, V> {
    write: Write<'a, K, V, Put>,
    policy: RetryPolicy,
}

impl<'a, K, V: Send + Sync + 'static> Write<'a, K, V, Put> {
    /// If another write came first, merges this one's edit with what is there and tries again, as
    /// [`Conflict::rebase`](crate::Conflict::rebase) does: as long as the edits do not overlap, and
    /// the collection [keeps](crate::CollectionBuilder::history) the version that the write is
    /// based on, which its condition names.
    ///
    /// The store's [`RetryPolicy`] bounds how often and for how long; there is no pause but the
    /// wait for the disk. Where edits overlap the conflict is the one that there would be without
    /// merging, with the caller's own value. A write that has an operation id or a predicate on the
    /// state is refused as if it did not merge: what the two stand for is the value as it was sent.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.declare::<String, BTreeMap<String, u32>>("shifts").history(8).open()?;
    /// let shift = |hours, pay| BTreeMap::from([("hours".into(), hours), ("pay".into(), pay)]);
    /// let v1 = shifts.create("s-17", shift(6, 90)).commit()?.version();
    /// shifts.put("s-17", shift(8, 90)).if_match(v1).commit()?;
    /// let done = shifts.put("s-17", shift(6, 99)).if_match(v1).merge().commit()?;
    /// assert!(done.merged());
    /// assert_eq!(*done.value(), shift(8, 99));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn merge(self) -> Merge<'a, K, V> {
        let policy = self.request.store.retry.clone();
        Merge { write: self, policy }
    }
}

impl<'a, K: Key, V: Send + Sync + 'static> Merge<'a, K, V> {
    /// Tries again by this policy instead of the store's.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Runs the write and blocks until its answer is durable (G3). The outcome tells whether it
    /// [merged](Committed::merged), and what it took, waits for the disk included.
    ///
    /// # Errors
    /// As of [`Write::commit`]; a conflict is `contended` if the policy's bounds are spent.
    pub fn commit(self) -> Result<Committed<V>> {
        let (mut merging, mut write) = self.start();
        loop {
            merging.begin();
            match write.commit() {
                Ok(done) => return Ok(merging.finish(done)),
                Err(error) => write = merging.next(error)?,
            }
        }
    }

    fn start(self) -> (Merging<'a, V>, Write<'a, K, V, Put>) {
        let Merge { write, policy } = self;
        let Request { store, collection, key, preconditions, actor, .. } = &write.request;
        let merging = Merging {
            store,
            collection,
            is_plain: write.request.is_plain(),
            key: key.clone(),
            preconditions: preconditions.clone(),
            actor: actor.clone(),
            policy,
            started: None,
            attempts: 0,
            wanted: None,
        };
        (merging, write)
    }
}

impl<'a, K: Key, V: Send + Sync + 'static> IntoFuture for Merge<'a, K, V> {
    type Output = Result<Committed<V>>;
    type IntoFuture = MergeFuture<'a, K, V>;

    fn into_future(self) -> MergeFuture<'a, K, V> {
        let (merging, write) = self.start();
        MergeFuture { merging, write: write.into_future(), key: PhantomData }
    }
}

/// A write that merges, being awaited; each of its attempts is as a [`WriteFuture`].
#[must_use = "futures do nothing unless polled"]
pub struct MergeFuture<'a, K, V: Send + Sync + 'static> {
    merging: Merging<'a, V>,
    write: WriteFuture<'a, V, Put>,
    key: PhantomData<fn() -> K>,
}

/// Nothing in the future points into it.
impl<K, V: Send + Sync> Unpin for MergeFuture<'_, K, V> {}

impl<K: Key, V: Send + Sync + 'static> Future for MergeFuture<'_, K, V> {
    type Output = Result<Committed<V>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            this.merging.begin();
            match Pin::new(&mut this.write).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(done)) => return Poll::Ready(Ok(this.merging.finish(done))),
                Poll::Ready(Err(error)) => {
                    this.write = this.merging.next::<K>(error)?.into_future();
                }
            }
        }
    }
}

/// What is needed for the next attempt.
struct Merging<'a, V> {
    store: &'a Inner,
    collection: &'a Arc<CollectionState<V>>,
    /// Whether it is a write that can be made anew.
    is_plain: bool,
    key: KeyBuf,
    preconditions: Preconditions,
    actor: Option<Actor>,
    policy: RetryPolicy,
    started: Option<Duration>,
    attempts: u32,
    wanted: Option<Wanted<V>>,
}

/// What the caller wanted: each merge begins with it anew.
struct Wanted<V> {
    relied_on: Precondition,
    /// Where that stands among the conditions; the version there is replaced by each merge.
    place: usize,
    base: Arc<Record<V>>,
    proposed: V,
}

impl<'a, V: Send + Sync + 'static> Merging<'a, V> {
    /// The clock runs from the first attempt on.
    fn begin(&mut self) {
        let clock = &self.store.clock;
        self.started.get_or_insert_with(|| clock.monotonic());
    }

    fn finish(&self, done: Committed<V>) -> Committed<V> {
        match self.attempts {
            0 => done,
            lost => {
                let effort = Effort { attempts: lost + 1, elapsed: self.elapsed() };
                done.after(effort).by_merging()
            }
        }
    }

    /// The write of what is merged now.
    ///
    /// # Errors
    /// What the caller gets if that cannot be.
    fn next<K>(&mut self, error: Error) -> Result<Write<'a, K, V, Put>> {
        let Error::Conflict(mut conflict) = error else { return Err(error) };
        if !self.is_plain {
            return Err(Error::Conflict(conflict));
        }
        self.attempts += 1;
        let wanted = self.wanted.take().or_else(|| Wanted::of(&mut conflict, &self.preconditions));
        let Some(wanted) = wanted else { return Err(Error::Conflict(conflict)) };
        let (is_spent, elapsed) = (self.is_spent(), self.elapsed());
        let condition = self.preconditions.get_mut(wanted.place);
        if let Some(condition) = condition.filter(|condition| **condition == conflict.unmet) {
            // What the caller relied on, not what an earlier merge did.
            conflict.unmet = wanted.relied_on.clone();
            if let Some(based) = wanted.based(&conflict, &self.collection.encoding.codec) {
                match based.merge(&wanted.proposed) {
                    Ok(merged) if !is_spent => {
                        *condition = Precondition::Matches(based.current.metadata.version);
                        self.wanted = Some(wanted);
                        return Ok(self.write(merged));
                    }
                    Ok(_) => {
                        conflict.reason = Reason::Contended;
                        conflict.effort = Some(Effort { attempts: self.attempts, elapsed });
                    }
                    Err(_) => {}
                }
                conflict.basis = Some(Box::new(based));
            }
        }
        conflict.proposed = Some(Box::new(wanted.proposed));
        Err(Error::Conflict(conflict))
    }

    fn write<K>(&self, value: V) -> Write<'a, K, V, Put> {
        let mut request = Request::new(self.store, self.collection, self.key.clone(), Some(value));
        request.preconditions = self.preconditions.clone();
        request.actor = self.actor.clone();
        Write::new(request)
    }

    fn elapsed(&self) -> Duration {
        let now = self.store.clock.monotonic();
        now.saturating_sub(self.started.unwrap_or(now))
    }

    fn is_spent(&self) -> bool {
        self.attempts >= self.policy.attempts || self.elapsed() >= self.policy.budget
    }
}

impl<V: Send + Sync + 'static> Wanted<V> {
    /// `None` if the refused write cannot be merged, whatever it proposed.
    fn of(conflict: &mut Conflict, preconditions: &[Precondition]) -> Option<Wanted<V>> {
        let place = preconditions.iter().position(|condition| *condition == conflict.unmet)?;
        let basis: &dyn Any = conflict.basis.as_deref()?;
        let base = Arc::clone(&basis.downcast_ref::<Based<V>>()?.base);
        let proposed: Box<dyn Any> = conflict.proposed.take()?;
        let proposed = *proposed.downcast().ok()?;
        Some(Wanted { relied_on: conflict.unmet.clone(), place, base, proposed })
    }

    /// The same base, beside what is there now.
    fn based(&self, conflict: &Conflict, codec: &Arc<dyn Codec<V>>) -> Option<Based<V>> {
        let current = Arc::clone(&conflict.current.as_ref()?.record).downcast().ok()?;
        Some(Based { base: Arc::clone(&self.base), current, codec: Arc::clone(codec) })
    }
}

impl<K, V> fmt::Debug for Merge<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").field("write", &self.write).finish_non_exhaustive()
    }
}

impl<K, V: Send + Sync> fmt::Debug for MergeFuture<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergeFuture").finish_non_exhaustive()
    }
}
