//! The store: a set of collections with one commit order.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::{Clock, Timestamp};
use crate::collection::{Collection, CollectionState};
use crate::disk::Disk;
use crate::error::{Error, Limit, Result};
use crate::journal::{Counter, Journal};
use crate::key::Key;
use crate::log::Log;
use crate::options::{Limits, RetryPolicy, StoreBuilder};
use crate::record::CatalogEntry;
use crate::recovery::{self, Contents, Recovered, StoredCollection};
use crate::service::Service;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::turns::Turns;
use crate::version::{EntityTag, Lineage, Version};

/// A set of collections in one directory or in memory, with one lineage and one commit order.
///
/// A handle: clones are the same store. The last handle to go closes it, collections included.
///
/// ```no_run
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Shift;
/// let store = ifmatch::Store::open("data")?;
/// let shifts = store.collection::<String, Shift>("shifts")?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) lineage: Lineage,
    pub(crate) journal: Journal,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) retry: RetryPolicy,
    pub(crate) service: Arc<Service>,
    pub(crate) turns: Turns,
    pub(crate) random: Mutex<fastrand::Rng>,
    closed: AtomicBool,
    stripes: usize,
    registry: Mutex<Registry>,
    /// Keeps other processes out of the directory until the store is closed.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

/// What is known of the collections, by name. Locked for look-ups alone.
#[derive(Default)]
struct Registry {
    /// Those that have been written.
    catalog: BTreeMap<String, CatalogEntry>,
    /// What was recovered of collections that are not open yet.
    stored: BTreeMap<u32, Arc<StoredCollection>>,
    open: BTreeMap<String, Open>,
    next_id: u32,
}

/// A collection that is open in this process.
struct Open {
    /// An `Arc<CollectionState<V>>`.
    state: Arc<dyn Any + Send + Sync>,
    types: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("lineage", &self.inner.lineage).finish_non_exhaustive()
    }
}

impl Store {
    /// A store that is gone when its last handle is. Nothing is encoded, and every commit
    /// counts as durable at once.
    pub fn in_memory() -> Store {
        Store::builder().in_memory()
    }

    /// Opens the store in the directory `path`, creating both where there is none.
    ///
    /// Every write is durable when it is acknowledged (G3). One process can have a directory
    /// open at a time.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotAStore`], [`Error::Corrupt`] (G10) and [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Store::builder().open(path)
    }

    /// Settings for a store that is about to open.
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    pub(crate) fn create_in_memory(builder: StoreBuilder) -> Store {
        let service = Arc::new(Service::new(Arc::clone(&builder.clock)));
        // Without randomness from the system, the clock and an address still tell stores apart.
        let lineage = recovery::new_lineage().unwrap_or_else(|_| {
            let now = Timestamp::from(builder.clock.now()).0;
            Lineage::from_bits(now ^ (Arc::as_ptr(&service) as u64).rotate_left(32))
        });
        let journal = Journal::Memory(Counter::new());
        Store::assemble(builder, lineage, journal, service, Contents::default(), None)
    }

    pub(crate) fn open_on(builder: StoreBuilder, disk: Arc<dyn Disk>) -> Result<Store> {
        recovery::check_names(&*disk)?;
        let lock = disk.lock().map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => Error::InUse(disk.path("")),
            _ => Error::Io { action: "lock", path: disk.path("lock"), source },
        })?;
        let recovered = recovery::recover(&disk, builder.segment_size)?;
        let Recovered { lineage, contents, writer, next_version } = recovered;
        let service = Arc::new(Service::new(Arc::clone(&builder.clock)));
        let (time, thread) = (contents.last_time, Arc::clone(&service));
        let log = Log::new(writer, next_version, time, thread, builder.durability, disk.path(""));
        service.attach(&log);
        Ok(Store::assemble(builder, lineage, Journal::Log(log), service, contents, Some(lock)))
    }

    fn assemble(
        builder: StoreBuilder,
        lineage: Lineage,
        journal: Journal,
        service: Arc<Service>,
        contents: Contents,
        lock: Option<Box<dyn Send + Sync>>,
    ) -> Store {
        let StoreBuilder { stripes, limits, retry, clock, seed, .. } = builder;
        let Contents { catalog, collections, .. } = contents;
        let next_id = catalog.values().map(|entry| entry.id).max().unwrap_or(0) + 1;
        let stored = collections.into_iter().map(|(id, stored)| (id, Arc::new(stored))).collect();
        let registry = Registry { catalog, stored, open: BTreeMap::new(), next_id };
        let inner = Inner {
            lineage,
            journal,
            clock,
            limits,
            retry,
            service,
            turns: Turns::new(),
            random: Mutex::new(seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)),
            closed: AtomicBool::new(false),
            stripes,
            registry: Mutex::new(registry),
            lock: Mutex::new(lock),
        };
        Store { inner: Arc::new(inner) }
    }

    /// The collection of this name. It comes to be with its first write.
    ///
    /// Opening a stored collection decodes its values; opening it again gives the same one. The
    /// bytes of a value do not tell its type: whether they are a `V` is decided by whether they
    /// decode as one.
    ///
    /// # Errors
    /// [`Error::CollectionName`]; [`Error::CollectionType`] if it is open or stored with other
    /// types; [`Error::Decode`] if a stored value is no `V`; [`Error::Limit`].
    pub fn collection<K, V>(&self, name: &str) -> Result<Collection<K, V>>
    where
        K: Key,
        V: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        if !is_collection_name(name) {
            return Err(Error::CollectionName(name.to_owned()));
        }
        let types = format!("{} -> {}", K::kind(), std::any::type_name::<V>());
        let (id, stored) = {
            let mut registry = self.inner.registry.lock();
            if let Some(open) = registry.open.get(name) {
                return self.again(open, name, &types);
            }
            let known = registry.catalog.contains_key(name);
            let taken = registry.next_id as usize - 1;
            let wanted = if known { 0 } else { taken + 1 };
            self.inner.limits.check(Limit::Collections, wanted, || name.to_owned())?;
            registry.id_of(name, &K::kind())?
        };
        // Decoding runs the caller's code: no lock is held. If another thread was faster, what
        // it opened counts, and this is dropped.
        let (stripes, deletions) = (self.inner.stripes, self.inner.limits.deletions);
        let state = CollectionState::<V>::load::<K>(id, name, stripes, deletions, stored)?;
        let state: Arc<dyn Any + Send + Sync> = Arc::new(state);
        let mut registry = self.inner.registry.lock();
        let surplus = registry.stored.remove(&id);
        let open = Open { state: Arc::clone(&state), types: types.clone() };
        let result = self.again(registry.open.entry(name.to_owned()).or_insert(open), name, &types);
        // What is not needed is dropped when nothing is locked: that may run the caller's code.
        drop(registry);
        drop((state, surplus));
        result
    }

    fn again<K: Key, V: Send + Sync + 'static>(
        &self,
        open: &Open,
        name: &str,
        types: &str,
    ) -> Result<Collection<K, V>> {
        let state = Arc::clone(&open.state).downcast::<CollectionState<V>>();
        match state.ok().filter(|_| open.types == types) {
            Some(state) => Ok(Collection::new(Arc::clone(&self.inner), state)),
            None => Err(Error::CollectionType {
                collection: name.to_owned(),
                opened_as: open.types.clone(),
                asked_for: types.to_owned(),
            }),
        }
    }

    /// The names of the collections that are stored or open, in order.
    pub fn collections(&self) -> Vec<String> {
        let registry = self.inner.registry.lock();
        let mut names: Vec<String> = registry.catalog.keys().cloned().collect();
        names.extend(registry.open.keys().cloned());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether [`collections`](Store::collections) has this name.
    pub fn has_collection(&self, name: &str) -> bool {
        let registry = self.inner.registry.lock();
        registry.catalog.contains_key(name) || registry.open.contains_key(name)
    }

    /// The identity of this history of commits.
    pub fn lineage(&self) -> Lineage {
        self.inner.lineage
    }

    /// The entity tag of a version of this store.
    pub fn tag(&self, version: Version) -> EntityTag {
        EntityTag { lineage: self.inner.lineage, version }
    }

    /// Makes durable what was committed so far, whatever the [`Durability`](crate::Durability).
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a sync failed, now or before.
    pub fn flush(&self) -> Result<()> {
        self.inner.journal.flush()
    }

    /// Refuses further writes, makes durable what is under way, and seals the log, so that the
    /// next open is quick. All handles are closed by it, and what is under way is answered.
    ///
    /// Dropping the last handle does the same, but cannot tell of a failure.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a sync failed. What was acknowledged is durable even so.
    pub fn close(self) -> Result<()> {
        self.inner.close()
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    /// The highest version that counts as durable, for reads.
    pub(crate) fn durable(&self) -> Result<&AtomicU64> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(self.journal.shown())
    }

    fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let closed = self.journal.close();
        self.service.stop();
        // Nothing is written from here on, so that the directory can be opened again, even if
        // handles of this store are still about.
        let lock = self.lock.lock().take();
        drop(lock);
        closed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody is left to tell; whatever was acknowledged is durable already.
        let _ = self.close();
    }
}

impl Registry {
    /// The number of a collection, given out here to a new one, and what is stored of it.
    fn id_of(
        &mut self,
        name: &str,
        key_kind: &str,
    ) -> Result<(u32, Option<Arc<StoredCollection>>)> {
        let Some(entry) = self.catalog.get(name) else {
            let id = self.next_id;
            self.next_id += 1;
            return Ok((id, None));
        };
        if entry.key_kind != key_kind {
            return Err(Error::CollectionType {
                collection: name.to_owned(),
                opened_as: format!("keys of type {}", entry.key_kind),
                asked_for: format!("keys of type {key_kind}"),
            });
        }
        // A catalogued collection without contents has been announced and emptied: still stored.
        Ok((entry.id, Some(self.stored.entry(entry.id).or_default().clone())))
    }
}

/// 1 to 64 characters of `a-z`, `0-9`, `_` and `-`.
pub(crate) fn is_collection_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}
