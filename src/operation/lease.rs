//! Leases that an operation takes for its duration: they last and end with it.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use crate::collection::Collection;
use crate::error::{Error, Limit, Result};
use crate::ids::{Caller, called};
use crate::key::{AsKey, Key};
use crate::lease::{Held, Hold, Leasable, Lease, entry_key};
use crate::map::{KeyBuf, State};
use crate::operation::record::Running;
use crate::operation::step::{Done, Outcome, Step, Steps, Verb};
use crate::operation::{OperationFuture, OperationHandle, commit};
#[cfg(doc)]
use crate::options::Limits;
use crate::store::Inner;

/// What is to be leased.
#[derive(Clone)]
pub(crate) struct Leasing {
    /// Whose key it is.
    store: Arc<Inner>,
    leased: Arc<dyn Leasable>,
    key: KeyBuf,
    reason: Option<String>,
}

/// A lease that an operation has not taken yet; made by [`OperationHandle::lease`].
#[must_use = "a lease is not taken before `commit` or `.await`"]
pub struct LeaseForOperation<'a> {
    handle: &'a OperationHandle,
    leasing: Box<Leasing>,
    caller: Caller,
}

impl OperationHandle {
    /// Takes a lease of a key for as long as the operation goes on: nobody else can write the key,
    /// and is refused as [`Locked`](crate::Reason::Locked) and told of the operation. A sign of
    /// life too.
    ///
    /// Every sign of life of the operation is one of its leases; the commit that ends it gives
    /// them back, also if it expires. So whoever has the lease has the operation, and the other
    /// way round, whatever becomes of the holder. A lease that was given back, or that has expired
    /// because it was renewed for less, is not the operation's any more. A second call for the
    /// same key gives the same lease. The holder of the lease is who began the operation. See
    /// [`Collection::lease`] for what a lease is (G8).
    ///
    /// ```
    /// use ifmatch::{Reason, Store};
    ///
    /// let store = Store::in_memory();
    /// let albums = store.collection::<String, u32>("albums")?;
    /// let transfer = store.operations("transfer").begin("user/42").by("photos").commit()?;
    /// let lease = transfer.lease(&albums, "2019").commit()?;
    ///
    /// let refused = albums.create("2019", 12).by("alice").commit().unwrap_err();
    /// let conflict = refused.conflict().expect("it is leased");
    /// assert_eq!(conflict.reason(), Reason::Locked);
    /// assert_eq!(conflict.lease().and_then(|lease| lease.operation()), Some(transfer.id()));
    ///
    /// albums.create("2019", 12).holding(&lease).commit()?;
    /// transfer.complete("12 pictures").commit()?;
    /// albums.update("2019", |pictures| *pictures += 1).by("alice").commit()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn lease<K: Key, V: Send + Sync + 'static>(
        &self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
    ) -> LeaseForOperation<'_> {
        let (store, leased) = (Arc::clone(&collection.store), collection.leasable());
        let key = key.with_bytes(|key| KeyBuf::from(key));
        let leasing = Box::new(Leasing { store, leased, key, reason: None });
        LeaseForOperation { handle: self, leasing, caller: Caller::default() }
    }
}

impl LeaseForOperation<'_> {
    /// What for: told to those who are refused. Of no effect if the operation has the lease.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.leasing.reason = Some(text.into());
        self
    }

    /// Takes the lease and blocks until that is durable (G3).
    ///
    /// # Errors
    /// A conflict of the reason `locked` if somebody else holds a lease of the key; of the reason
    /// `fenced` or `in_progress` as for every step of the operation.
    /// [`OtherStore`](Error::OtherStore) if the collection is of another store;
    /// [`Limit`](Error::Limit), for [`Limits::operation_leases`] too,
    /// [`KeyReused`](Error::KeyReused), [`DiskFull`](Error::DiskFull), [`Closed`](Error::Closed)
    /// and [`Poisoned`](Error::Poisoned); a conflict of the reason `contended`. Nothing has changed
    /// then, unless `Poisoned` says that the outcome is unknown.
    pub fn commit(self) -> Result<Lease> {
        let LeaseForOperation { handle, leasing, caller } = self;
        let done = commit(&handle.operations.store, step(handle, &leasing), caller)?;
        lease(&leasing, done)
    }
}

called! {
    LeaseForOperation, caller;
    /// Names who takes it: an operation id is this actor's own. The holder of the lease is who
    /// began the operation.
    by;
    /// Gives the step an id: if this actor has taken it with this id before, the lease that it gave
    /// is returned, also if that has ended since (G5). See
    /// [`OperationStep::operation_id`](crate::OperationStep::operation_id).
    operation_id;
}

impl<'a> IntoFuture for LeaseForOperation<'a> {
    type Output = Result<Lease>;
    type IntoFuture = OperationFuture<'a, Lease>;

    fn into_future(self) -> OperationFuture<'a, Lease> {
        let LeaseForOperation { handle, leasing, caller } = self;
        let (store, step) = (&handle.operations.store, step(handle, &leasing));
        OperationFuture::new(store, step, caller, Box::new(move |done| lease(&leasing, done)))
    }
}

fn step(handle: &OperationHandle, leasing: &Leasing) -> Step {
    handle.step(Verb::Lease(Box::new(leasing.clone()))).step
}

fn lease(leasing: &Leasing, done: Done) -> Result<Lease> {
    let token = done.lease.or(done.version).ok_or(Error::Restart)?;
    let Outcome::Stands { info, replayed, .. } = done.outcome else {
        unreachable!("it was taken or refused")
    };
    let (leased, key) = (Arc::clone(&leasing.leased), leasing.key.clone());
    let lease = Lease::new(&leasing.store, Held { leased, key, token }, info.expires_at());
    Ok(lease.replayed(replayed))
}

impl Leasing {
    /// What an operation id stands for.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let reason = self.reason.as_ref().map(String::as_bytes);
        [self.leased.name().as_bytes(), &self.key].into_iter().chain(reason)
    }
}

impl Steps<'_, '_> {
    /// Takes a lease with the step, unless the operation has it.
    pub(super) fn lease(
        &mut self,
        kind: &str,
        running: &mut Running,
        leasing: &Leasing,
    ) -> Result<()> {
        let Leasing { store, leased, key, reason } = leasing;
        if !Arc::ptr_eq(store, self.store) {
            return Err(Error::OtherStore { collection: Arc::clone(leased.name()) });
        }
        let entry = entry_key(leased.name(), key);
        if running.leased.contains(&entry) {
            self.done.lease = self.lease_at(&entry).live().map(|record| record.token());
            return Ok(());
        }
        let (limits, place) = (&self.store.limits, || leased.place(key));
        limits.check(Limit::KeyBytes, key.len(), || leased.name().as_ref().to_owned())?;
        limits.check(Limit::LeaseReasonBytes, reason.as_ref().map_or(0, String::len), place)?;
        running.leased.insert(entry);
        limits.check(Limit::OperationLeases, running.leased.len(), place)?;
        let operation = Some((kind.to_owned(), running.id.clone()));
        let (ttl, reason) = (running.ttl, reason.clone());
        let hold = Hold { ttl, reason, operation, ..Hold::default() };
        self.done.leases = true;
        self.tx.group.take_lease(self.store, leased, key, hold)
    }

    /// Has what the operation leases last as long as itself. What it does not hold any more, it
    /// does not get back.
    pub(super) fn prolong_leases(&mut self, running: &mut Running) {
        let Running { id, ttl, leased, .. } = running;
        leased.retain(|entry| {
            let seen = self.lease_at(entry);
            let own = seen.live().filter(|record| record.value.is_of(id));
            let Some(held) = own.filter(|record| !record.has_expired(self.now.monotonic)) else {
                return false;
            };
            let hold = held.renewed(*ttl);
            self.tx.group.leases(self.store).prolong(entry, seen, hold);
            true
        });
        self.done.leases |= !leased.is_empty();
    }

    /// Gives back what the operation leases: it ends.
    pub(super) fn end_leases(&mut self, running: &Running) {
        for entry in &running.leased {
            let seen = self.lease_at(entry);
            if seen.live().is_some_and(|record| record.value.is_of(&running.id)) {
                self.tx.group.leases(self.store).end(entry, seen);
            }
        }
    }

    fn lease_at(&self, entry: &KeyBuf) -> State<Hold> {
        let map = &self.store.leases.entries.map;
        map.newest(map.hash(entry), entry)
    }
}

impl fmt::Debug for LeaseForOperation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.leasing.leased.place(&self.leasing.key);
        f.debug_struct("LeaseForOperation").field("place", &place).finish_non_exhaustive()
    }
}
