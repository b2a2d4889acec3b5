//! The builders of conditional writes: run by `commit`, or awaited.

mod run;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use crate::collection::{Collection, CollectionState};
use crate::commit::Written;
use crate::conflict::Effort;
use crate::entity::{Actor, Entity};
use crate::error::{Limit, Result};
use crate::key::{AsKey, Key, key_buf};
use crate::lease::Lease;
use crate::options::Limits;
use crate::precondition::Precondition;
use crate::retry::{self, Driven};
use crate::store::Inner;
use crate::version::Version;
pub(crate) use crate::write::run::{Request, Run};

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
    pub(crate) request: Request<'a, V>,
    key: PhantomData<fn() -> K>,
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

/// A landed write of a value.
#[derive(Clone, Debug)]
pub struct Committed<V> {
    entity: Entity<V>,
    previous: Option<Version>,
    attempts: u32,
    elapsed: Duration,
    replayed: bool,
    merged: bool,
}

impl<V> Committed<V> {
    pub(crate) fn new(entity: Entity<V>, previous: Option<Version>) -> Committed<V> {
        let elapsed = Duration::ZERO;
        Committed { entity, previous, attempts: 1, elapsed, replayed: false, merged: false }
    }

    pub(crate) fn after(self, Effort { attempts, elapsed }: Effort) -> Committed<V> {
        Committed { attempts, elapsed, ..self }
    }

    pub(crate) fn replayed(self, replayed: bool) -> Committed<V> {
        Committed { replayed, ..self }
    }

    pub(crate) fn by_merging(self) -> Committed<V> {
        Committed { merged: true, ..self }
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

    /// Whether the value is a [merge](Write::merge) of the caller's with what others wrote.
    pub fn merged(&self) -> bool {
        self.merged
    }

    /// How often the write was attempted: more than once for `update` and its kin, and for a
    /// write that [merges](Write::merge).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether a write with this operation id had landed before, and this is its result (G5).
    pub fn is_replayed(&self) -> bool {
        self.replayed
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
    pub(crate) replayed: bool,
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

    /// Whether a delete with this operation id had landed before, and this is its result (G5).
    pub fn is_replayed(self) -> bool {
        self.replayed
    }
}

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    /// Creates an entity where there is none. Already conditional: the key must be absent.
    pub fn create(&self, key: impl AsKey<K>, value: V) -> Write<'_, K, V, Put> {
        self.put(key, value).if_absent()
    }

    /// Writes a value under a condition that is still to be named.
    pub fn put(&self, key: impl AsKey<K>, value: V) -> Write<'_, K, V, Put, Unconditioned> {
        Write::new(Request::new(&self.store, &self.state, key_buf(key), Some(value)))
    }

    /// Deletes an entity under a condition that is still to be named. An entity that is not
    /// there cannot be deleted, whatever the condition: that is refused as `absent` or `deleted`.
    pub fn delete(&self, key: impl AsKey<K>) -> Write<'_, K, V, Delete, Unconditioned> {
        Write::new(Request::new(&self.store, &self.state, key_buf(key), None))
    }
}

impl<'a, K, V, O, C> Write<'a, K, V, O, C> {
    pub(crate) fn new(request: Request<'a, V>) -> Self {
        Write { request, key: PhantomData, kind: PhantomData }
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

    /// If the entity is in a state: `holds` is true of its value. The name is the one by which a
    /// refusal, of the reason `wrong_state`, tells of it.
    ///
    /// `holds` runs with no lock held, on the newest entity, and again if that changes before the
    /// write takes effect, as often as the store's [`RetryPolicy`](crate::RetryPolicy) allows.
    ///
    /// ```
    /// use ifmatch::{Reason, Store};
    ///
    /// let store = Store::in_memory();
    /// let orders = store.collection::<u64, String>("orders")?;
    /// orders.create(7, "shipped".to_owned()).by("depot").commit()?;
    /// let cancel = orders.put(7, "cancelled".to_owned());
    /// let refused = cancel.if_state("pending", |order| order == "pending").commit().unwrap_err();
    /// assert_eq!(refused.conflict().map(|conflict| conflict.reason()), Some(Reason::WrongState));
    /// assert!(refused.to_string().starts_with("orders/7 is not in the state \"pending\""));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn if_state(
        mut self,
        name: impl Into<Arc<str>>,
        holds: impl Fn(&V) -> bool + Send + Sync + 'a,
    ) -> Write<'a, K, V, O> {
        self.request.add_predicate(name.into(), Box::new(holds));
        Write::new(self.request)
    }

    /// Gives the write an id: if a write of this actor with this id has landed before, that one's
    /// result is returned, and nothing is written (G5). So a write whose answer was lost can be
    /// sent again.
    ///
    /// The id stands for the verb, the key and the value, not for the conditions. It is remembered
    /// for as long as [`Limits::operation_ids`](crate::Limits) says, restarts included; refused
    /// writes are not. The value is encoded to be compared, in a store in memory too.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let orders = store.collection::<u64, String>("orders")?;
    /// let order = || orders.create(7, "two bolts".to_owned()).by("ann").operation_id("o-1");
    /// let first = order().commit()?;
    /// let again = order().commit()?; // the reply was lost, say
    /// assert_eq!(again.version(), first.version());
    /// assert!(again.is_replayed() && !first.is_replayed());
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn operation_id(mut self, id: impl Into<String>) -> Self {
        self.request.set_operation_id(id.into());
        self
    }

    /// Relies on a lease of the key: the write is refused as [`Fenced`](crate::Reason::Fenced) if
    /// that has expired, was given back or was taken over, at the instant that it would take
    /// effect (G8). See [`Collection::lease`]. It is no condition on the entity.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let lease = shifts.lease("s-17").commit()?;
    /// shifts.create("s-17", 8).holding(&lease).commit()?;
    /// lease.release().commit()?;
    /// let late = shifts.put("s-17", 9).unconditional().holding(&lease).commit();
    /// let late = late.unwrap_err().to_string();
    /// assert!(late.contains("is not held by lease 1 any more: it was given back"), "{late}");
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn holding(mut self, lease: &Lease) -> Self {
        self.request.set_lease(lease.clone());
        self
    }

    pub(crate) fn into_run(self) -> (&'a Inner, Arc<str>, Run<'a, V, O>) {
        let (store, collection) = (self.request.store, self.request.collection);
        (store, Arc::clone(&collection.name), Run::new(self.request))
    }

    /// If `precondition` holds, along with those already named.
    pub fn condition(mut self, precondition: Precondition) -> Write<'a, K, V, O> {
        self.request.preconditions.push(precondition);
        Write::new(self.request)
    }
}

impl<'a, K, V, O> Write<'a, K, V, O>
where
    K: Key,
    V: Send + Sync + 'static,
    O: Verb<V>,
{
    /// Runs the write and blocks until its answer is durable (G3).
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if a condition did not hold;
    /// [`Limit`](crate::Error::Limit), [`Encode`](crate::Error::Encode),
    /// [`KeyReused`](crate::Error::KeyReused), [`DiskFull`](crate::Error::DiskFull),
    /// [`Closed`](crate::Error::Closed) and [`Poisoned`](crate::Error::Poisoned). Nothing was
    /// written then, unless `Poisoned` says that the outcome is unknown.
    pub fn commit(self) -> Result<O::Output> {
        let store = self.request.store;
        retry::run(store, Run::<V, O>::new(self.request), store.retry.clone())
    }
}

impl<'a, K, V, O> IntoFuture for Write<'a, K, V, O>
where
    K: Key,
    V: Send + Sync + 'static,
    O: Verb<V>,
{
    type Output = Result<O::Output>;
    type IntoFuture = WriteFuture<'a, V, O>;

    fn into_future(self) -> WriteFuture<'a, V, O> {
        let store = self.request.store;
        WriteFuture(Driven::new(store, Run::new(self.request), store.retry.clone()))
    }
}

/// A write being awaited, on any runtime. Acts when it is first polled, or, if the log has no room
/// for its record then, when it is polled after there is; dropping it later does not undo the
/// write, dropping it before leaves nothing. Never blocks on the disk.
#[must_use = "futures do nothing unless polled"]
pub struct WriteFuture<'a, V, O>(Driven<'a, Run<'a, V, O>>)
where
    V: Send + Sync + 'static,
    O: Verb<V>;

/// Nothing in the future points into it.
impl<V: Send + Sync, O: Verb<V>> Unpin for WriteFuture<'_, V, O> {}

impl<V: Send + Sync, O: Verb<V>> Future for WriteFuture<'_, V, O> {
    type Output = Result<O::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context)
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
pub trait Verb<V>: sealed::Verb<V> {}

impl<V, O: sealed::Verb<V>> Verb<V> for O {}

pub(crate) mod sealed {
    use crate::commit::Written;
    use crate::version::Version;

    pub trait Verb<V> {
        /// What a landed write returns.
        type Output: Send;

        #[doc(hidden)]
        const VERB: &'static [u8];

        #[doc(hidden)]
        fn output(written: Written<V>, replayed: bool) -> Self::Output;

        #[doc(hidden)]
        fn version(output: &Self::Output) -> Version;
    }
}

impl<V: Send + Sync> sealed::Verb<V> for Put {
    type Output = Committed<V>;

    const VERB: &'static [u8] = b"put";

    fn output(written: Written<V>, replayed: bool) -> Committed<V> {
        match written {
            Written::Put { entity, previous } => {
                Committed::new(entity, previous).replayed(replayed)
            }
            Written::Deleted(_) => unreachable!("a put has landed as a delete"),
        }
    }

    fn version(output: &Committed<V>) -> Version {
        output.version()
    }
}

impl<V> sealed::Verb<V> for Delete {
    type Output = Deleted;

    const VERB: &'static [u8] = b"delete";

    fn output(written: Written<V>, replayed: bool) -> Deleted {
        match written {
            Written::Deleted(deleted) => Deleted { replayed, ..deleted },
            Written::Put { .. } => unreachable!("a delete has landed as a put"),
        }
    }

    fn version(output: &Deleted) -> Version {
        output.version()
    }
}

impl<V: Send + Sync, O: Verb<V>> fmt::Debug for WriteFuture<'_, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteFuture").finish_non_exhaustive()
    }
}

impl<K, V, O, C> fmt::Debug for Write<'_, K, V, O, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write")
            .field("collection", &self.request.collection.name)
            .field("preconditions", &self.request.preconditions)
            .finish_non_exhaustive()
    }
}
