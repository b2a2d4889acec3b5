//! Leases: time-bounded, exclusive holds of keys, with tokens that fence those who come late (G8).

mod hold;
mod run;
mod table;
mod terms;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

pub use hold::LeaseInfo;
pub(crate) use hold::{Barred, EXPIRY, EntryKey, Hold, HoldCodec, entry_key};
pub(crate) use table::Leases;
pub(crate) use terms::{LeaseTerms, LockedLeases};

use crate::clock::Timestamp;
use crate::collection::{Collection, CollectionState};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::ids::{Caller, called};
use crate::key::{AsKey, Key};
use crate::lease::run::{Run, Step};
use crate::map::KeyBuf;
#[cfg(doc)]
use crate::options::Limits;
use crate::retry::{self, Driven};
use crate::store::Inner;
use crate::version::Version;

/// How long a lease holds, unless it says so.
const TTL: Duration = Duration::from_secs(30);

/// A lease that was taken: the means to write the key that it holds, to renew it, and to give it
/// back.
///
/// Whether it still holds is decided whenever it is used, at the instant that the write takes
/// effect: one that has expired, or that somebody else has taken over since, is refused as
/// [`Fenced`](crate::Reason::Fenced), however late its holder wakes up (G8). What counts is the
/// token, not the name of the holder.
///
/// Dropping it does not give it back: it holds until it expires, so that work may outlive the
/// value, and even the process.
#[derive(Clone)]
pub struct Lease {
    store: Arc<Inner>,
    held: Held,
    expires_at: Option<Timestamp>,
    replayed: bool,
}

/// What tells a lease from all others.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) leased: Arc<dyn Leasable>,
    pub(crate) key: KeyBuf,
    pub(crate) token: Version,
}

/// A collection whose keys can be leased, whatever the type of its values.
pub(crate) trait Leasable: Send + Sync {
    fn name(&self) -> &Arc<str>;

    /// The key as text.
    fn text(&self, key: &[u8]) -> String;

    /// Locks the key for writing with the group, without writing it.
    fn lock_with(self: Arc<Self>, group: &mut Group, key: &KeyBuf);

    /// Where something is, for messages.
    fn place(&self, key: &[u8]) -> String {
        format!("{}/{}", self.name(), self.text(key))
    }
}

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    /// Takes a lease of a key, whether there is an entity or not: for as long as it holds, nobody
    /// else can write the key or take a lease of it.
    ///
    /// Every write of the key that does not [hold](crate::Write::holding) the lease is refused as
    /// [`Locked`](crate::Reason::Locked), transactions too; the refusal says by whom, since when,
    /// and when to try again. Reading is free. A lease that has expired is no lease: the key can
    /// be written and leased again at once. Migrations do not ask for leases.
    ///
    /// Taking a lease is a commit, durable when it is answered (G3), and survives a restart: what
    /// is left of it is reckoned by the time of day then, and never more than its time to live.
    /// (With a [`Durability`](crate::Durability) other than `Sync` a crash may take it back, as any
    /// commit.) It does not change the entity or its version.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ifmatch::{Reason, Store};
    ///
    /// let store = Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let lease = shifts.lease("s-17").ttl(Duration::from_secs(60)).by("payroll").commit()?;
    ///
    /// let refused = shifts.create("s-17", 8).by("alice").commit().unwrap_err();
    /// assert_eq!(refused.conflict().map(|conflict| conflict.reason()), Some(Reason::Locked));
    ///
    /// shifts.create("s-17", 8).holding(&lease).commit()?;
    /// lease.release().commit()?;
    /// shifts.update("s-17", |hours| *hours += 1).by("alice").commit()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn lease(&self, key: impl AsKey<K>) -> TakeLease<'_> {
        let (leased, key) = (self.leasable(), key.with_bytes(|key| KeyBuf::from(key)));
        let step = Step::Take { ttl: TTL, reason: None };
        TakeLease(Run { store: &self.store, leased, key, step, caller: Caller::default() })
    }

    /// The lease of a key, if there is one that has not expired.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn lease_of(&self, key: impl AsKey<K>) -> Result<Option<LeaseInfo>> {
        let (map, durable) = (&self.store.leases.entries.map, self.store.durable()?);
        let entry = key.with_bytes(|key| entry_key(self.name(), key));
        let now = self.store.clock.monotonic();
        let record = map.visible(map.hash(&entry), &entry, durable);
        let held = record.filter(|record| !record.has_expired(now));
        Ok(held.map(|record| LeaseInfo::of(&record, now)))
    }

    /// A lease of which only the [token](Lease::token) was kept: in another process, or by a
    /// client far away. Whether it is one is decided when it is used.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let token = shifts.lease("s-17").commit()?.token();
    /// let lease = shifts.lease_with_token("s-17", token);
    /// shifts.create("s-17", 8).holding(&lease).commit()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn lease_with_token(&self, key: impl AsKey<K>, token: Version) -> Lease {
        let (leased, key) = (self.leasable(), key.with_bytes(|key| KeyBuf::from(key)));
        Lease::new(&self.store, Held { leased, key, token }, None)
    }

    pub(crate) fn leasable(&self) -> Arc<dyn Leasable> {
        Arc::<CollectionState<V>>::clone(&self.state)
    }
}

#[cfg(feature = "axum")]
impl crate::store::Store {
    /// Whether a key is leased, or was until just now: also in a collection that has not been
    /// written, which nobody may have opened since the lease was taken.
    pub(crate) fn has_lease(&self, collection: &str, key: &str) -> bool {
        let map = &self.inner.leases.entries.map;
        let entry =
            crate::key::sealed::Bytes::<String>::with_bytes(key, |key| entry_key(collection, key));
        map.newest(map.hash(&entry), &entry).live().is_some()
    }
}

impl<V: Send + Sync + 'static> Leasable for CollectionState<V> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn text(&self, key: &[u8]) -> String {
        CollectionState::text(self, key)
    }

    fn lock_with(self: Arc<Self>, group: &mut Group, key: &KeyBuf) {
        if let Some(members) = group.members(&self) {
            members.item(key).leased = true;
        }
    }
}

impl Lease {
    pub(crate) fn new(store: &Arc<Inner>, held: Held, expires_at: Option<SystemTime>) -> Lease {
        let (store, expires_at) = (Arc::clone(store), expires_at.map(Timestamp::from));
        Lease { store, held, expires_at, replayed: false }
    }

    pub(crate) fn replayed(self, replayed: bool) -> Lease {
        Lease { replayed, ..self }
    }

    /// The fencing token: the version of the commit that took the lease. Later leases have higher
    /// ones; renewing keeps it. It fences off mistakes, not attackers, who can guess it.
    pub fn token(&self) -> Version {
        self.held.token
    }

    /// When it expires, by the time of day, if it has not been renewed since; `None` if it was
    /// made of a token.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at.map(SystemTime::from)
    }

    /// Whether the step that gave it had been taken before, with the same operation id: then this
    /// is its first result, and the lease may have been renewed or have ended since (G5).
    pub fn is_replayed(&self) -> bool {
        self.replayed
    }

    /// Holds it for `ttl` from now on, which may be less than what was left.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let lease = shifts.lease("s-17").commit()?;
    /// let lease = lease.renew(Duration::from_secs(300)).commit()?;
    /// assert!(shifts.lease_of("s-17")?.expect("held").remaining() > Duration::from_secs(60));
    /// # drop(lease);
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn renew(&self, ttl: Duration) -> RenewLease<'_> {
        RenewLease(self.run(Step::Renew { token: self.held.token, ttl }))
    }

    /// Gives it back: the key can be written and leased by others.
    pub fn release(&self) -> ReleaseLease<'_> {
        ReleaseLease(self.run(Step::Release { token: self.held.token }))
    }

    fn run(&self, step: Step) -> Run<'_> {
        let Held { leased, key, .. } = &self.held;
        let (leased, key, caller) = (Arc::clone(leased), key.clone(), Caller::default());
        Run { store: &self.store, leased, key, step, caller }
    }

    /// What a commit of this store relies on.
    ///
    /// # Errors
    /// [`Error::OtherStore`].
    pub(crate) fn held_in(&self, store: &Inner) -> Result<&Held> {
        if std::ptr::eq(&*self.store, store) {
            return Ok(&self.held);
        }
        Err(Error::OtherStore { collection: Arc::clone(self.held.leased.name()) })
    }

    /// What a write of this key relies on: that the lease is of this key, and holds.
    ///
    /// # Errors
    /// [`Error::OtherStore`].
    pub(crate) fn for_key<V: Send + Sync + 'static>(
        &self,
        store: &Inner,
        collection: &Arc<CollectionState<V>>,
        key: &KeyBuf,
    ) -> Result<Held> {
        let Held { token, .. } = *self.held_in(store)?;
        Ok(Held { leased: Arc::<CollectionState<V>>::clone(collection), key: key.clone(), token })
    }
}

impl Held {
    /// Where it is kept.
    fn entry(&self) -> KeyBuf {
        entry_key(self.leased.name(), &self.key)
    }
}

/// Taking a lease, not yet run; made by [`Collection::lease`].
#[must_use = "a lease is not taken before `commit` or `.await`"]
pub struct TakeLease<'a>(Run<'a>);

impl TakeLease<'_> {
    /// How long it holds, if it is not renewed; 30 s by default, at most
    /// [`Limits::lease_ttl`].
    pub fn ttl(mut self, time: Duration) -> Self {
        if let Step::Take { ttl, .. } = &mut self.0.step {
            *ttl = time;
        }
        self
    }

    /// What for: told to those who are refused.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        if let Step::Take { reason, .. } = &mut self.0.step {
            *reason = Some(text.into());
        }
        self
    }
}

/// Renewing a lease, not yet run; made by [`Lease::renew`].
#[must_use = "a lease is not renewed before `commit` or `.await`"]
pub struct RenewLease<'a>(Run<'a>);

/// Giving back a lease, not yet run; made by [`Lease::release`].
#[must_use = "a lease is not given back before `commit` or `.await`"]
pub struct ReleaseLease<'a>(Run<'a>);

/// A lease that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    replayed: bool,
}

impl Released {
    /// Whether it had been given back before, with the same operation id (G5).
    pub fn is_replayed(self) -> bool {
        self.replayed
    }
}

called! {
    TakeLease, 0.caller;
    /// Names the holder: told to those who are refused.
    by;
    /// Gives the taking an id: if this actor has taken this lease with this id before, that is what
    /// is returned, with the same token, and nothing is written (G5). See
    /// [`Write::operation_id`](crate::Write::operation_id); here it stands for the key, the time to
    /// live and the reason. The lease may have been renewed or have ended since; whether it still
    /// holds is decided when it is used.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let take = || shifts.lease("s-17").by("payroll").operation_id("june").commit();
    /// let (first, again) = (take()?, take()?); // the reply was lost, say
    /// assert!(again.is_replayed() && !first.is_replayed());
    /// assert_eq!((again.token(), again.expires_at()), (first.token(), first.expires_at()));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    operation_id;
}

called! {
    RenewLease, 0.caller;
    /// Names who does it: an operation id is this actor's own. Who took the lease stays its
    /// holder.
    by;
    /// Gives the step an id: if this actor has taken it with this id before, the first result is
    /// returned, and nothing is written (G5). See
    /// [`Write::operation_id`](crate::Write::operation_id); here it stands for the lease and the
    /// time to live.
    operation_id;
}

called! {
    ReleaseLease, 0.caller;
    /// Names who does it: an operation id is this actor's own. Who took the lease stays its
    /// holder.
    by;
    /// Gives the step an id: if this actor has taken it with this id before, the first result is
    /// returned, and nothing is written (G5). See
    /// [`Write::operation_id`](crate::Write::operation_id); here it stands for the lease.
    operation_id;
}

macro_rules! runs {
    ($($builder:ident => $output:ty, $answer:expr, $refusal:literal;)*) => {$(
        impl $builder<'_> {
            /// Runs it and blocks until the answer is durable (G3).
            ///
            /// # Errors
            #[doc = $refusal]
            /// [`Limit`](Error::Limit), [`KeyReused`](Error::KeyReused),
            /// [`DiskFull`](Error::DiskFull), [`Closed`](Error::Closed) and
            /// [`Poisoned`](Error::Poisoned). Nothing has changed then, unless `Poisoned` says
            /// that the outcome is unknown.
            pub fn commit(self) -> Result<$output> {
                let store = self.0.store;
                retry::run(store, self.0, store.retry.clone()).map($answer)
            }
        }

        impl<'a> IntoFuture for $builder<'a> {
            type Output = Result<$output>;
            type IntoFuture = LeaseFuture<'a, $output>;

            fn into_future(self) -> LeaseFuture<'a, $output> {
                let store = self.0.store;
                let run = Driven::new(store, self.0, store.retry.clone());
                LeaseFuture { run, answer: $answer }
            }
        }

        impl fmt::Debug for $builder<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let place = self.0.leased.place(&self.0.key);
                f.debug_struct(stringify!($builder)).field("place", &place).finish_non_exhaustive()
            }
        }
    )*};
}

runs! {
    TakeLease => Lease, |lease| lease, "A conflict of the reason `locked` if somebody holds one.";
    RenewLease => Lease, |lease| lease, "A conflict of the reason `fenced` if it has ended.";
    ReleaseLease => Released, |lease| Released { replayed: lease.replayed },
        "A conflict of the reason `fenced` if it has ended.";
}

/// A step of a lease being awaited, on any runtime. Begins when it is first polled; dropping it
/// later does not undo it.
#[must_use = "futures do nothing unless polled"]
pub struct LeaseFuture<'a, R> {
    run: Driven<'a, Run<'a>>,
    answer: fn(Lease) -> R,
}

/// Nothing in the future points into it.
impl<R> Unpin for LeaseFuture<'_, R> {}

impl<R> Future for LeaseFuture<'_, R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let answer = self.answer;
        self.run.poll(context).map(|lease| lease.map(answer))
    }
}

impl<R> fmt::Debug for LeaseFuture<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.held.leased.place(&self.held.key);
        f.debug_struct("Lease").field("place", &place).finish_non_exhaustive()
    }
}
