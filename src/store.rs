//! The store: a set of collections with one commit order.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::{self, Copied};
use crate::clock::{Clock, Timestamp};
use crate::codec::Encoding;
use crate::collection::{Collection, CollectionState, is_collection_name};
use crate::contention::{Contention, Tally};
use crate::declare::CollectionBuilder;
use crate::disk::Disk;

use crate::error::{Error, Limit, Result};
use crate::feed::{Past, Publisher};
use crate::ids::Ids;
use crate::journal::{Counter, Journal};
use crate::key::{Key, KeyType};
use crate::lease::Leases;
use crate::log::Log;
use crate::map::Map;
use crate::migration::{Migration, check_codec};
use crate::operation::OperationTable;
use crate::options::{Limits, RetryPolicy, StoreBuilder};

use crate::recovery::{self, Contents, Recovered};
use crate::registry::{Open, Registry};
use crate::reserved::Reserved;
use crate::service::Service;
use crate::snapshot::{self, Snapshots};
use crate::source::Typed;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Level, Mutex, MutexGuard, Ordering, UserCode};
use crate::turns::Turns;
use crate::unique::{self, Declarations, Unique};
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
    pub(crate) feed: Arc<Publisher>,
    pub(crate) turns: Turns,
    pub(crate) ids: Ids,
    pub(crate) contention: Tally,
    pub(crate) leases: Leases,
    pub(crate) operations: OperationTable,
    #[cfg_attr(not(feature = "axum"), allow(dead_code, reason = "it is there for the router"))]
    pub(crate) settings: Arc<CollectionState<Vec<u8>>>,
    pub(crate) random: Mutex<fastrand::Rng>,
    closed: AtomicBool,
    pub(crate) stripes: usize,
    pub(crate) registry: Arc<Mutex<Registry>>,
    /// A migration has ended, well or not.
    migrated: Condvar,
    /// Absent in memory.
    snapshots: Option<Arc<Snapshots>>,
    /// Keeps other processes out of the directory until the store is closed.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
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
        let feed = Arc::new(Publisher::new(&builder.limits));
        let journal = Journal::Memory(Counter::new(Arc::clone(&feed)));
        let registry = Registry::new(Contents::default());
        let reserved = Reserved::new(builder.stripes);
        Store::assemble(builder, lineage, journal, service, feed, registry, reserved, None)
    }

    pub(crate) fn open_on(builder: StoreBuilder, disk: Arc<dyn Disk>) -> Result<Store> {
        recovery::check_names(&*disk)?;
        let lock = recovery::lock(&*disk)?;
        let recovered = recovery::recover(&disk, builder.segment_size, builder.progress.as_deref());
        let Recovered { lineage, contents, writer, next_version, live, known } = recovered?;
        let service = Arc::new(Service::new(Arc::clone(&builder.clock)));
        let (time, thread) = (contents.last_time, Arc::clone(&service));
        let feed = Arc::new(Publisher::new(&builder.limits));
        let (durability, path, watchers) =
            (builder.durability, disk.path(""), Arc::clone(&feed.watchers));
        let log = Log::new(writer, next_version, time, thread, durability, path, watchers);
        service.attach(&log);
        let registry = Registry::new(contents);
        let reserved = Reserved::new(builder.stripes);
        reserved.open(&registry, &builder.limits, &*builder.clock, time)?;
        // The log is counted by segments.
        let after = builder.snapshot_after.max(builder.segment_size.bytes);
        let rate = builder.snapshot_rate;
        let (clock, keep) = (Arc::clone(&builder.clock), builder.keep_log);
        let settings = snapshot::Settings { lineage, clock, rate, after, keep };
        let (for_snapshots, sources) = (Arc::clone(&log), Arc::clone(&registry));
        let snapshots = Snapshots::new(settings, disk, for_snapshots, live, sources, known);
        snapshots.start_if_due();
        let journal = Journal::Log(log);
        let on_disk = Some((snapshots, lock));
        Ok(Store::assemble(builder, lineage, journal, service, feed, registry, reserved, on_disk))
    }

    #[allow(clippy::too_many_arguments, reason = "what the two ways of opening make")]
    fn assemble(
        builder: StoreBuilder,
        lineage: Lineage,
        journal: Journal,
        service: Arc<Service>,
        feed: Arc<Publisher>,
        registry: Arc<Mutex<Registry>>,
        reserved: Reserved,
        on_disk: Option<(Arc<Snapshots>, Box<dyn Send + Sync>)>,
    ) -> Store {
        let StoreBuilder { stripes, limits, retry, clock, seed, .. } = builder;
        let (snapshots, lock) = on_disk.unzip();
        if builder.feed {
            feed.turn_on(&journal);
        }
        let Reserved { ids, leases, operations, scopes, begun, settings } = reserved;
        let ids = Ids::new(ids, limits.operation_ids, limits.operation_id_age);
        let operations = OperationTable::new(operations, scopes, begun);
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let inner = Inner {
            lineage,
            journal,
            clock,
            limits,
            retry,
            service,
            feed,
            turns: Turns::new(),
            ids,
            operations,
            contention: Tally::new(),
            settings,
            leases: Leases::new(leases),
            random: Mutex::new(Level::Alone("random numbers"), random),
            closed: AtomicBool::new(false),
            stripes,
            registry,
            migrated: Condvar::new(),
            snapshots,
            lock: Mutex::new(Level::Alone("lock of the directory"), lock),
        };
        let inner = Leases::watch(Arc::new(inner));
        inner.operations.watch(&inner);
        Store { inner }
    }

    /// The collection of this name, in the default codec and with schema number 1: short for
    /// [`declare`](Store::declare) and [`open`](CollectionBuilder::open). It comes to be with its
    /// first write.
    ///
    /// Opening a stored collection decodes its values; opening it again gives the same one. The
    /// bytes of a value do not tell its type: whether they are a `V` is decided by whether they
    /// decode as one, unless the schema number tells.
    ///
    /// # Errors
    /// [`Error::CollectionName`]; [`Error::CollectionType`] if it is open or stored with other
    /// types or another codec; [`Error::Schema`] if its schema number is not 1;
    /// [`Error::Decode`] if a stored value is no `V`; [`Error::Limit`].
    pub fn collection<K, V>(&self, name: &str) -> Result<Collection<K, V>>
    where
        K: Key,
        V: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.declare(name).open()
    }

    /// A collection that is to be opened with more than its types: a schema number, a codec,
    /// migrations.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.declare::<String, u32>("shifts").schema(2).open()?;
    /// shifts.create("s-17", 8).commit()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn declare<'a, K, V>(&'a self, name: &'a str) -> CollectionBuilder<'a, K, V> {
        CollectionBuilder::new(self, name)
    }

    pub(crate) fn open_collection<K: Key, V: Send + Sync + 'static>(
        &self,
        name: &str,
        encoding: Encoding<V>,
        history: Option<u32>,
        migrations: &mut BTreeMap<u32, Migration<'_, V>>,
        unique: Declarations<V>,
    ) -> Result<Collection<K, V>> {
        if !is_collection_name(name) {
            return Err(Error::CollectionName(name.to_owned()));
        }
        unique::check(name, &unique)?;
        let asked_for = unique::said(&unique);
        let keys = KeyType::of::<K>();
        let types = format!("{} -> {}", keys.kind, std::any::type_name::<V>());
        let inner = &*self.inner;
        let wanted = history.unwrap_or(0) as usize;
        inner.limits.check(Limit::History, wanted, || name.to_owned())?;
        let (id, stored, kept, migration) = {
            let mut registry = inner.registry_without_migration(name)?;
            if let Some(open) = registry.open.get(name) {
                return self.again(open, name, &types, &encoding, history, &asked_for);
            }
            let known = registry.catalog.contains_key(name);
            let taken = registry.next_id as usize - 1;
            let wanted = if known { 0 } else { taken + 1 };
            inner.limits.check(Limit::Collections, wanted, || name.to_owned())?;
            let (id, stored) = registry.id_of(name, &keys.kind)?;
            let kept = registry.catalog.get(name).map(|entry| entry.history);
            let migration = match registry.catalog.get(name) {
                Some(entry) => Migration::choose(migrations, name, entry, &encoding)?,
                None => None,
            };
            let migration = migration.map(|migration| {
                registry.migrating.insert(name.to_owned(), inner.journal.durable());
                (migration, UnderWay { inner, name })
            });
            (id, stored, kept, migration)
        };
        // Decoding runs the caller's code: no lock is held. If another thread was faster, what
        // it opened counts, and this is dropped.
        let (stripes, deletions) = (inner.stripes, inner.limits.deletions);
        let history_or_kept = history.or(kept).unwrap_or(0);
        let map = Map::new(id.into(), stripes, deletions, history_or_kept as usize);
        let mut state = CollectionState::new(id, name, keys, map, encoding, history_or_kept, kept);
        state.unique = Unique::all(id, unique, stripes);
        state.leases = inner.leases.count_of(name);
        let stored = stored.unwrap_or_default();
        let entry = state.entry();
        let mut migrated = None;
        let under_way = match migration {
            None => {
                state.load(&inner.limits, &stored, |_, _| ())?;
                None
            }
            Some((migration, under_way)) => {
                migration.run(inner, &state, &stored)?;
                migrated = Some(entry.clone());
                Some(under_way)
            }
        };
        let state = Arc::new(state);
        let source = Arc::new(Typed { state: Arc::clone(&state) });
        let opened: Arc<dyn Any + Send + Sync> = state.clone();
        // A migration that began meanwhile is not overtaken: what is written to a collection that
        // was opened before would be in the old schema, behind the record that says otherwise.
        let mut registry = match under_way {
            Some(_) => inner.registry.lock(),
            None => inner.registry_without_migration(name)?,
        };
        registry.catalog.extend(migrated.map(|entry| (name.to_owned(), entry)));
        let surplus = registry.stored.remove(&id);
        let open = Open { state: opened, types: types.clone(), source, entry };
        let open = registry.open.entry(name.to_owned()).or_insert(open);
        let result = self.again(open, name, &types, &state.encoding, history, &asked_for);
        // What is not needed is dropped when nothing is locked: that may run the caller's code.
        drop(registry);
        drop((state, surplus, stored, under_way));
        result
    }

    pub(crate) fn again<K: Key, V: Send + Sync + 'static>(
        &self,
        open: &Open,
        name: &str,
        types: &str,
        encoding: &Encoding<V>,
        history: Option<u32>,
        indexes: &[String],
    ) -> Result<Collection<K, V>> {
        let state = Arc::clone(&open.state).downcast::<CollectionState<V>>();
        let Some(state) = state.ok().filter(|_| open.types == types) else {
            return Err(Error::CollectionType {
                collection: name.to_owned(),
                opened_as: open.types.clone(),
                asked_for: types.to_owned(),
            });
        };
        let (stored, asked_for) = (state.encoding.schema, encoding.schema);
        if stored != asked_for {
            return Err(Error::Schema { collection: name.to_owned(), stored, asked_for });
        }
        check_codec(name, &state.encoding.codec_name, &encoding.codec_name)?;
        if let Some(asked_for) = history.filter(|history| *history != state.history) {
            let versions = |number: u32| format!("{number} earlier versions of each key");
            return Err(Error::CollectionType {
                collection: name.to_owned(),
                opened_as: versions(state.history),
                asked_for: versions(asked_for),
            });
        }
        state.check_indexes(indexes)?;
        Ok(Collection::new(Arc::clone(&self.inner), state))
    }

    /// The names of the collections that are stored or open, in order.
    pub fn collections(&self) -> Vec<String> {
        let registry = self.inner.registry.lock();
        let known = registry.catalog.keys().chain(registry.open.keys());
        let mut names: Vec<String> =
            known.filter(|name| is_collection_name(name)).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether [`collections`](Store::collections) has this name.
    pub fn has_collection(&self, name: &str) -> bool {
        let registry = self.inner.registry.lock();
        let is_known = registry.catalog.contains_key(name) || registry.open.contains_key(name);
        is_known && is_collection_name(name)
    }

    /// How many earlier versions of each key a collection keeps, if there is such a collection.
    #[cfg(feature = "axum")]
    pub(crate) fn history_of(&self, name: &str) -> Option<u32> {
        let registry = self.inner.registry.lock();
        let open = registry.open.get(name).map(|open| &open.entry);
        open.or_else(|| registry.catalog.get(name)).map(|entry| entry.history)
    }

    /// The identity of this history of commits.
    pub fn lineage(&self) -> Lineage {
        self.inner.lineage
    }

    /// The entity tag of a version of this store.
    pub fn tag(&self, version: Version) -> EntityTag {
        EntityTag { lineage: self.inner.lineage, version }
    }

    /// What conflicts there were since the store was opened, by reason and by key.
    ///
    /// ```
    /// use ifmatch::{Reason, Store};
    ///
    /// let store = Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// shifts.create("s-17", 8).commit()?;
    /// assert!(shifts.create("s-17", 6).commit().is_err());
    ///
    /// let seen = store.contention();
    /// assert_eq!(seen.conflicts[&Reason::AlreadyExists], 1);
    /// assert_eq!(seen.hot_keys[0].key, "s-17");
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn contention(&self) -> Contention {
        self.inner.contention.report(self.inner.clock.monotonic())
    }

    /// Makes durable what was committed so far, whatever the [`Durability`](crate::Durability).
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a sync failed, now or before.
    pub fn flush(&self) -> Result<()> {
        self.inner.journal.flush()
    }

    /// Writes down what the store holds now, so that opening it is quick and the log before can go.
    ///
    /// Blocks until that is durable, after a snapshot that is under way; readers and writers go on
    /// meanwhile. A store takes snapshots by itself as its log grows, see
    /// [`StoreBuilder::snapshot_after`]. In memory there is nothing to do.
    ///
    /// ```no_run
    /// let store = ifmatch::Store::open("data")?;
    /// store.snapshot()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Poisoned`]; [`Error::Io`] and [`Error::Encode`], after which
    /// the store goes on as before, without the snapshot.
    pub fn snapshot(&self) -> Result<()> {
        self.inner.snapshots.as_ref().map_or(Ok(()), |snapshots| snapshots.take())
    }

    /// Copies the store as it is now into an empty or absent directory; see
    /// [`admin::backup`](crate::admin::backup), and [`admin::restore`](crate::admin::restore) for
    /// the way back. Readers and writers go on meanwhile.
    ///
    /// What was committed before the call is in the copy, whatever the
    /// [`Durability`](crate::Durability).
    ///
    /// ```no_run
    /// let store = ifmatch::Store::open("data")?;
    /// store.backup("backups/monday")?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// As of `admin::backup`; [`Error::Closed`]; [`Error::Poisoned`]; [`Error::Io`] of a store in
    /// memory, which has no files.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<Copied> {
        self.inner.durable()?;
        self.flush()?;
        let Some(snapshots) = &self.inner.snapshots else {
            let source = std::io::ErrorKind::Unsupported.into();
            return Err(Error::Io { action: "back up", path: "memory".into(), source });
        };
        admin::backup_from(snapshots.disk(), to.as_ref())
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

    /// The log, to be read; absent in memory.
    pub(crate) fn past(&self) -> Option<Past> {
        let snapshots = self.snapshots.as_ref()?;
        let registry = Arc::downgrade(&self.registry);
        Some(snapshots.past(registry))
    }

    /// The registry, when nobody migrates the collection.
    ///
    /// # Errors
    /// [`Error::Migrating`] if it is one of the caller's closures that would have to wait.
    pub(crate) fn registry_without_migration(
        &self,
        name: &str,
    ) -> Result<MutexGuard<'_, Registry>> {
        let mut registry = self.registry.lock();
        while registry.migrating.contains_key(name) {
            if UserCode::is_running() {
                return Err(Error::Migrating { collection: name.to_owned() });
            }
            registry = self.migrated.wait(registry, None);
        }
        Ok(registry)
    }

    fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.feed.close();
        self.operations.wake_all();
        if let Some(snapshots) = &self.snapshots {
            snapshots.stop();
        }
        let closed = self.journal.close();
        self.service.stop();
        if let Some(snapshots) = &self.snapshots {
            snapshots.wait();
        }
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

/// A migration that has begun; over when it is dropped.
pub(crate) struct UnderWay<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) name: &'a str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.inner.registry.lock().migrating.remove(self.name);
        self.inner.migrated.notify_all();
    }
}
