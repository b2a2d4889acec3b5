//! The builders of conditional writes: run by `commit`, or awaited.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use crate::collection::{Collection, CollectionState};
use crate::commit::{Attempt, Landed, Preconditions, Prepared, Written};
use crate::conflict::Effort;
use crate::entity::{Actor, Entity, Record};
use crate::error::{Limit, Result};
use crate::key::{AsKey, Key};
use crate::log::Ticket;
use crate::map::KeyBuf;
use crate::options::Limits;
use crate::precondition::Precondition;
use crate::version::Version;

/// A write that has not been run yet.
///
/// `O` says what it writes, [`Put`] or [`Delete`]; `C` whether a condition has been named. Only
/// a [`Conditional`] write can be run (G6): there is no overwriting by accident.
///
/// ```compile_fail,E0599
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.put("s-1", 8).commit()?; // no condition: there is no `commit`
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// ```compile_fail,E0277
/// # async fn example() -> ifmatch::Result<()> {
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.delete("s-1").await?; // nor is it a future
/// # Ok(())
/// # }
/// ```
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.put("s-1", 8).unconditional().commit()?; // overwriting is spelled out
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[must_use = "a write does nothing before `commit` or `.await`"]
pub struct Write<'a, K, V, O, C = Conditional> {
    request: Request<'a, K, V>,
    kind: PhantomData<(O, C)>,
}

/// Of a write: replaces the entity, or creates it.
#[derive(Debug)]
pub struct Put;

/// Of a write: deletes the entity.
#[derive(Debug)]
pub struct Delete;

/// Of a write: a condition has been named, so that it can be run.
#[derive(Debug)]
pub struct Conditional;

/// Of a write: no condition has been named yet.
#[derive(Debug)]
pub struct Unconditioned;

/// What a write asks for.
struct Request<'a, K, V> {
    collection: &'a Collection<K, V>,
    key: KeyBuf,
    /// The new value; `None` deletes. Allocated at once, so that moving the builder is cheap.
    record: Option<Arc<Record<V>>>,
    preconditions: Preconditions,
    actor: Option<Actor>,
}

/// A landed write of a value.
#[derive(Clone, Debug)]
pub struct Committed<V> {
    entity: Entity<V>,
    previous: Option<Version>,
    attempts: u32,
    elapsed: Duration,
}

impl<V> Committed<V> {
    pub(crate) fn new(entity: Entity<V>, previous: Option<Version>) -> Committed<V> {
        Committed { entity, previous, attempts: 1, elapsed: Duration::ZERO }
    }

    pub(crate) fn after(self, Effort { attempts, elapsed }: Effort) -> Committed<V> {
        Committed { attempts, elapsed, ..self }
    }

    /// The version of the new entity.
    pub fn version(&self) -> Version {
        self.entity.version()
    }

    /// The new value.
    pub fn value(&self) -> &V {
        self.entity.value()
    }

    /// The new entity.
    pub fn entity(&self) -> &Entity<V> {
        &self.entity
    }

    /// The new entity, owned.
    pub fn into_entity(self) -> Entity<V> {
        self.entity
    }

    /// The version that was replaced; `None` if the entity was created.
    pub fn previous(&self) -> Option<Version> {
        self.previous
    }

    /// How often the write was attempted: more than once for `update` and its kin alone.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long the attempts took, waiting for a turn and pauses included, the wait for the disk
    /// not. Zero for a write that is attempted once.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

/// A landed delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub(crate) version: Version,
    pub(crate) previous: Version,
}

impl Deleted {
    /// The number of the commit that deleted the entity.
    pub fn version(self) -> Version {
        self.version
    }

    /// The version that was deleted.
    pub fn previous(self) -> Version {
        self.previous
    }
}

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    /// Creates an entity where there is none. Already conditional: the key must be absent.
    pub fn create(&self, key: impl AsKey<K>, value: V) -> Write<'_, K, V, Put> {
        self.put(key, value).if_absent()
    }

    /// Writes a value under a condition that is still to be named.
    pub fn put(&self, key: impl AsKey<K>, value: V) -> Write<'_, K, V, Put, Unconditioned> {
        Write::new(Request::new(self, key, Some(value)))
    }

    /// Deletes an entity under a condition that is still to be named. An entity that is not
    /// there cannot be deleted, whatever the condition: that is refused as `absent` or `deleted`.
    pub fn delete(&self, key: impl AsKey<K>) -> Write<'_, K, V, Delete, Unconditioned> {
        Write::new(Request::new(self, key, None))
    }
}

impl<'a, K, V, O, C> Write<'a, K, V, O, C> {
    fn new(request: Request<'a, K, V>) -> Self {
        Write { request, kind: PhantomData }
    }

    /// Names the writer; see [`Entity::written_by`].
    pub fn by(mut self, actor: impl Into<Actor>) -> Self {
        self.request.actor = Some(actor.into());
        self
    }

    /// If the entity is at `version`.
    pub fn if_match(self, version: Version) -> Write<'a, K, V, O> {
        self.condition(Precondition::Matches(version))
    }

    /// If the entity is at one of `versions`.
    pub fn if_match_any(self, versions: impl IntoIterator<Item = Version>) -> Write<'a, K, V, O> {
        self.condition(Precondition::MatchesAny(versions.into_iter().collect()))
    }

    /// If the entity is absent, or at none of `versions`.
    pub fn if_none_match(self, versions: impl IntoIterator<Item = Version>) -> Write<'a, K, V, O> {
        self.condition(Precondition::MatchesNone(versions.into_iter().collect()))
    }

    /// If there is an entity, whatever its version.
    pub fn if_exists(self) -> Write<'a, K, V, O> {
        self.condition(Precondition::Exists)
    }

    /// If there is no entity.
    pub fn if_absent(self) -> Write<'a, K, V, O> {
        self.condition(Precondition::Absent)
    }

    /// If the entity was not written after `time`; see [`Precondition::UnmodifiedSince`].
    pub fn if_unmodified_since(self, time: SystemTime) -> Write<'a, K, V, O> {
        self.condition(Precondition::UnmodifiedSince(time))
    }

    /// Whatever is there: overwrites what others wrote.
    pub fn unconditional(self) -> Write<'a, K, V, O> {
        self.condition(Precondition::Unconditional)
    }

    /// If `precondition` holds, along with those already named.
    pub fn condition(mut self, precondition: Precondition) -> Write<'a, K, V, O> {
        self.request.preconditions.push(precondition);
        Write::new(self.request)
    }
}

impl<K, V, O> Write<'_, K, V, O>
where
    K: Key,
    V: Send + Sync + 'static,
    O: Operation<V>,
{
    /// Runs the write and blocks until its answer is durable (G3).
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if a condition did not hold;
    /// [`Limit`](crate::Error::Limit), [`Encode`](crate::Error::Encode),
    /// [`DiskFull`](crate::Error::DiskFull), [`Closed`](crate::Error::Closed) and
    /// [`Poisoned`](crate::Error::Poisoned). Nothing was written then, unless `Poisoned` says
    /// that the outcome is unknown.
    pub fn commit(self) -> Result<O::Output> {
        let request = self.request;
        request.check()?;
        let (collection, key) = (request.collection, request.key.clone());
        let prepared = request.prepare()?;
        let room = collection.store.journal.reserve(prepared.payload)?;
        let Collection { store, state, .. } = collection;
        let attempt = state.attempt(store, &key, prepared, room, false)?;
        let durable = collection.store.journal.wait(attempt.rests_on());
        durable.map_err(|error| attempt.lost(error))?;
        finish::<K, V, O>(collection, &key, attempt)
    }
}

impl<'a, K, V, O> IntoFuture for Write<'a, K, V, O>
where
    K: Key,
    V: Send + Sync + 'static,
    O: Operation<V>,
{
    type Output = Result<O::Output>;
    type IntoFuture = WriteFuture<'a, K, V, O>;

    fn into_future(self) -> WriteFuture<'a, K, V, O> {
        let state = FutureState::Start(self.request);
        WriteFuture { state, ticket: Ticket::default(), operation: PhantomData }
    }
}

/// A write being awaited, on any runtime. Acts when it is first polled, or, if the log has no room
/// for its record then, when it is polled after there is; dropping it later does not undo the
/// write, dropping it before leaves nothing. Never blocks on the disk.
#[must_use = "futures do nothing unless polled"]
pub struct WriteFuture<'a, K, V, O> {
    state: FutureState<'a, K, V>,
    ticket: Ticket,
    operation: PhantomData<fn() -> O>,
}

enum FutureState<'a, K, V> {
    Start(Request<'a, K, V>),
    Prepared { collection: &'a Collection<K, V>, key: KeyBuf, prepared: Prepared<V> },
    Waiting { collection: &'a Collection<K, V>, key: KeyBuf, attempt: Attempt<V> },
    Done,
}

/// Nothing in the future points into it.
impl<K, V, O> Unpin for WriteFuture<'_, K, V, O> {}

impl<K, V, O> Future for WriteFuture<'_, K, V, O>
where
    K: Key,
    V: Send + Sync + 'static,
    O: Operation<V>,
{
    type Output = Result<O::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match std::mem::replace(&mut this.state, FutureState::Done) {
                FutureState::Start(request) => {
                    request.check()?;
                    let (collection, key) = (request.collection, request.key.clone());
                    let prepared = request.prepare()?;
                    this.state = FutureState::Prepared { collection, key, prepared };
                }
                FutureState::Prepared { collection, key, prepared } => {
                    let Collection { store, state, .. } = collection;
                    let (bytes, ticket) = (prepared.payload, &mut this.ticket);
                    let room = store.journal.poll_reserve(bytes, ticket, context.waker());
                    let Poll::Ready(room) = room else {
                        this.state = FutureState::Prepared { collection, key, prepared };
                        return Poll::Pending;
                    };
                    let attempt = state.attempt(store, &key, prepared, room?, true)?;
                    this.ticket = Ticket::default();
                    this.state = FutureState::Waiting { collection, key, attempt };
                }
                FutureState::Waiting { collection, key, attempt } => {
                    let (journal, version) = (&collection.store.journal, attempt.rests_on());
                    return match journal.poll(version, &mut this.ticket, context.waker()) {
                        Poll::Ready(Ok(())) => {
                            Poll::Ready(finish::<K, V, O>(collection, &key, attempt))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(attempt.lost(error))),
                        Poll::Pending => {
                            this.state = FutureState::Waiting { collection, key, attempt };
                            Poll::Pending
                        }
                    };
                }
                // As a future may after its end; the answer has been given.
                FutureState::Done => return Poll::Pending,
            }
        }
    }
}

impl<'a, K: Key, V: Send + Sync + 'static> Request<'a, K, V> {
    fn new(collection: &'a Collection<K, V>, key: impl AsKey<K>, value: Option<V>) -> Self {
        let record = value.map(Record::unplaced);
        let key = key.with_bytes(|key| KeyBuf::from(key));
        Request { collection, key, record, preconditions: Preconditions::new(), actor: None }
    }

    /// # Errors
    /// [`Limit`](crate::Error::Limit).
    fn check(&self) -> Result<()> {
        let Collection { store, state, .. } = self.collection;
        check_request(&store.limits, state, &self.key, self.actor.as_ref())?;
        let count = |precondition: &Precondition| precondition.versions().len().max(1);
        let named = self.preconditions.iter().map(count).sum();
        store.limits.check(Limit::Preconditions, named, || state.place(&self.key))
    }

    /// Does everything that takes time.
    ///
    /// # Errors
    /// [`Encode`](crate::Error::Encode) and [`Limit`](crate::Error::Limit).
    fn prepare(self) -> Result<Prepared<V>> {
        let Request { collection, key, record, preconditions, actor } = self;
        let Collection { store, state, .. } = collection;
        match record {
            Some(record) => Prepared::put(store, state, &key, record, actor, preconditions),
            None => Ok(Prepared::delete(store, state, &key, actor, preconditions)),
        }
    }
}

/// The limits that every write is held to, whatever its verb.
///
/// # Errors
/// [`Limit`](crate::Error::Limit).
pub(crate) fn check_request<V: 'static>(
    limits: &Limits,
    collection: &CollectionState<V>,
    key: &[u8],
    actor: Option<&Actor>,
) -> Result<()> {
    limits.check(Limit::KeyBytes, key.len(), || collection.name.as_ref().to_owned())?;
    let actor = actor.map_or(0, |actor| actor.as_str().len());
    limits.check(Limit::ActorBytes, actor, || collection.place(key))
}

/// What a kind of write returns. Sealed.
pub trait Operation<V>: sealed::Operation<V> {}

impl<V, O: sealed::Operation<V>> Operation<V> for O {}

mod sealed {
    use crate::commit::Landed;

    pub trait Operation<V> {
        /// What a landed write returns.
        type Output;

        #[doc(hidden)]
        fn output(landed: Landed<V>) -> Self::Output;
    }
}

impl<V> sealed::Operation<V> for Put {
    type Output = Committed<V>;

    fn output(landed: Landed<V>) -> Committed<V> {
        match landed.written {
            Written::Put { entity, previous } => Committed::new(entity, previous),
            Written::Deleted(_) => unreachable!("a put has landed as a delete"),
        }
    }
}

impl<V> sealed::Operation<V> for Delete {
    type Output = Deleted;

    fn output(landed: Landed<V>) -> Deleted {
        match landed.written {
            Written::Deleted(deleted) => deleted,
            Written::Put { .. } => unreachable!("a delete has landed as a put"),
        }
    }
}

/// The answer, when everything it rests on is durable.
fn finish<K, V, O>(
    collection: &Collection<K, V>,
    key: &[u8],
    attempt: Attempt<V>,
) -> Result<O::Output>
where
    K: Key,
    V: Send + Sync + 'static,
    O: Operation<V>,
{
    match attempt {
        Attempt::Landed(landed) => Ok(O::output(landed)),
        Attempt::Refused(refused) => {
            Err(refused.into_conflict(&collection.store, &collection.state, key).into())
        }
    }
}

impl<K, V, O> fmt::Debug for WriteFuture<'_, K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteFuture").finish_non_exhaustive()
    }
}

impl<K, V, O, C> fmt::Debug for Write<'_, K, V, O, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write")
            .field("collection", &self.request.collection)
            .field("preconditions", &self.request.preconditions)
            .finish_non_exhaustive()
    }
}
