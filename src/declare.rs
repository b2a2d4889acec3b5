//! Declaring a collection: its schema number, its codec and its migrations.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::{Bincode, Codec, Encoding};
use crate::collection::Collection;
#[cfg(feature = "axum")]
use crate::error::Limit;
use crate::error::Result;
use crate::key::Key;
use crate::migration::Migration;
#[cfg(feature = "axum")]
use crate::reopen::Reopening;
use crate::store::Store;
#[cfg(feature = "json")]
use crate::unique::PointedInto;
use crate::unique::{Declarations, Declared, IndexKey};

/// A collection that is about to be opened, made by [`Store::declare`].
///
/// Values evolve: the bytes of a value do not tell their type, so the store keeps a number beside
/// them. Whoever changes the type changes the number, and says how to get from the old type to
/// the new one.
///
/// ```
/// use ifmatch::Store;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OldShift {
///     hours: u32,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Shift {
///     minutes: u32,
///     notes: Vec<String>,
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path();
/// let store = Store::open(path)?;
/// let shifts = store.collection::<String, OldShift>("shifts")?; // schema 1
/// let v1 = shifts.create("s-17", OldShift { hours: 8 }).commit()?.version();
/// # drop(shifts);
/// store.close()?;
///
/// // The next release of the program:
/// let store = Store::open(path)?;
/// let shifts = store
///     .declare::<String, Shift>("shifts")
///     .schema(2)
///     .migrate(1, |old: OldShift| Shift { minutes: old.hours * 60, notes: Vec::new() })
///     .open()?;
/// let shift = shifts.get("s-17")?.expect("it was migrated");
/// assert_eq!(shift.minutes, 480);
/// assert!(shift.version() > v1, "a new content has a new version");
/// assert_eq!(shift.written_by(), Some("migration"));
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[must_use = "a builder opens nothing before `open`"]
pub struct CollectionBuilder<'a, K, V, C = Bincode> {
    store: &'a Store,
    name: &'a str,
    schema: u32,
    codec: Arc<C>,
    trusted: bool,
    history: Option<u32>,
    migrations: BTreeMap<u32, Migration<'a, V>>,
    unique: Declarations<V>,
    key: PhantomData<fn() -> K>,
}

impl<'a, K, V> CollectionBuilder<'a, K, V> {
    pub(crate) fn new(store: &'a Store, name: &'a str) -> CollectionBuilder<'a, K, V> {
        CollectionBuilder {
            store,
            name,
            schema: 1,
            codec: Arc::new(Bincode),
            trusted: false,
            history: None,
            migrations: BTreeMap::new(),
            unique: Declarations::new(),
            key: PhantomData,
        }
    }
}

impl<'a, K, V: 'static, C> CollectionBuilder<'a, K, V, C> {
    /// The number of the type of the values; 1 by default. Give each type that was ever stored a
    /// number of its own.
    pub fn schema(mut self, number: u32) -> Self {
        self.schema = number;
        self
    }

    /// How values are stored; [`Bincode`] by default. Name it before the migrations, which read
    /// with it.
    pub fn codec<D>(self, codec: D) -> CollectionBuilder<'a, K, V, D> {
        let CollectionBuilder { store, name, schema, trusted, .. } = self;
        let (history, migrations, unique, key) =
            (self.history, self.migrations, self.unique, self.key);
        let codec = Arc::new(codec);
        CollectionBuilder { store, name, schema, codec, trusted, history, migrations, unique, key }
    }

    /// Keeps `versions` earlier versions of each key, at most 1,000, deletions included; see
    /// [`Collection::history`]. A new collection keeps none unless asked to, and pays nothing for
    /// it; a stored one keeps as many as before.
    ///
    /// They are held in memory as entities are, survive a restart, and count for nothing else. A
    /// smaller number forgets what is beyond it at once; with 0 no earlier value is decoded. A
    /// [migration](CollectionBuilder::migrate) begins the history anew, because earlier values
    /// are not of the new type.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.declare::<String, u32>("shifts").history(8).open()?;
    /// let v1 = shifts.create("s-17", 6).commit()?.version();
    /// shifts.put("s-17", 8).if_match(v1).commit()?;
    /// assert_eq!(shifts.get_at("s-17", v1)?.as_deref(), Some(&6));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn history(mut self, versions: u32) -> Self {
        self.history = Some(versions);
        self
    }

    /// Takes the codec at its word. By default every value is decoded once before it is stored,
    /// and one that does not read back as what it was is refused: serde can write types that it
    /// cannot read. That is a decoding and an encoding more for each durable write.
    pub fn trust_encoding(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// How to get from the values of an older schema, in the codec named so far, to these. One
    /// for each number that may still be stored.
    ///
    /// A migration happens in [`open`](CollectionBuilder::open), and is one commit: all entities
    /// get one new version, written now by an actor named `migration`; when they were created is
    /// kept, and so are remembered deletions. It is durable before `open` returns. A crash or an
    /// error before that leaves everything as it was, and the next `open` begins anew; so `f` may
    /// run several times for an entity, and must have no outside effects. No lock is held
    /// meanwhile.
    pub fn migrate<Old>(self, from: u32, f: impl FnMut(Old) -> V + 'a) -> Self
    where
        C: Codec<Old>,
    {
        let codec = Arc::clone(&self.codec);
        self.add(from, Migration::new(codec, f))
    }

    /// As [`migrate`](CollectionBuilder::migrate), from values that were stored by another codec.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// use ifmatch::{Bincode, Json};
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let notes = store
    ///     .declare::<u64, String>("notes")
    ///     .schema(2)
    ///     .codec(Json)
    ///     .migrate_from(1, Bincode, |note: String| note)
    ///     .open()?;
    /// notes.create(1, "call back".to_owned()).commit()?;
    /// # }
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn migrate_from<Old, D: Codec<Old>>(
        self,
        from: u32,
        codec: D,
        f: impl FnMut(Old) -> V + 'a,
    ) -> Self {
        self.add(from, Migration::new(Arc::new(codec), f))
    }

    fn add(mut self, from: u32, migration: Migration<'a, V>) -> Self {
        self.migrations.insert(from, migration);
        self
    }

    /// No two entities may have the same key in the index of this name. `f` makes the index key
    /// of a value, or `None` to leave the entity out.
    ///
    /// A write that would give two entities the same index key is refused, whatever it is made
    /// with: a conflict of the reason [`Duplicate`](crate::Reason::Duplicate), which names the
    /// entity that holds the key. Several writes of one transaction count as one: entities may
    /// swap their index keys. [`find_by`](Collection::find_by) looks entities up.
    ///
    /// ```
    /// use ifmatch::{Reason, Store};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Debug, Serialize, Deserialize)]
    /// struct Employee {
    ///     legacy_id: Option<String>,
    /// }
    ///
    /// let store = Store::in_memory();
    /// let employees = store
    ///     .declare::<String, Employee>("employees")
    ///     .unique("legacy_id", |employee: &Employee| employee.legacy_id.clone())
    ///     .open()?;
    /// let with = |id: &str| Employee { legacy_id: Some(id.to_owned()) };
    /// employees.create("e-1", with("L-7")).commit()?;
    ///
    /// let error = employees.create("e-2", with("L-7")).commit().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "employees/e-2 cannot be written: employees/e-1 holds the same legacy_id; \
    ///      choose another value, or change that entity first"
    /// );
    /// let conflict = error.conflict().unwrap();
    /// assert_eq!(conflict.reason(), Reason::Duplicate);
    /// assert_eq!((conflict.index(), conflict.holder()), (Some("legacy_id"), Some("e-1")));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// Indexes are not stored: each program declares those that it needs, and opening builds them
    /// of what is there. If entities share an index key by then, that is
    /// [`Error::Duplicates`](crate::Error::Duplicates), which lists them.
    ///
    /// `f` runs once for each value that is written or loaded, with no lock held; what it returned
    /// is kept with the value. One that makes another key of the same value each time keeps
    /// apart what it happened to return, until the collection is opened anew. An index key is as
    /// long as a key may be.
    pub fn unique<T: IndexKey>(
        mut self,
        name: &str,
        f: impl Fn(&V) -> T + Send + Sync + 'static,
    ) -> Self {
        self.unique.insert(name.to_owned(), Declared::new(f));
        self
    }

    /// As [`unique`](CollectionBuilder::unique), of what is at this JSON Pointer (RFC 6901), which
    /// is the name of the index too. Entities that have nothing there, or null, are left out.
    ///
    /// Index keys are JSON text, so that `1` and `"1"` differ, while `1` and `1.0` do not. Arrays
    /// and objects count as a whole, whatever the order of their members.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// use ifmatch::Json;
    /// use serde_json::{Value, json};
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let employees = store
    ///     .declare::<String, Value>("employees")
    ///     .codec(Json)
    ///     .unique_pointer("/legacy_id")
    ///     .open()?;
    /// employees.create("e-1", json!({ "legacy_id": "L-7" })).commit()?;
    /// employees.create("e-2", json!({ "name": "Bob" })).commit()?;
    ///
    /// let found = employees.find_by("/legacy_id", json!("L-7").to_string())?;
    /// assert_eq!(found.map(|(key, _)| key).as_deref(), Some("e-1"));
    /// # }
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    #[cfg(feature = "json")]
    pub fn unique_pointer(mut self, pointer: &str) -> Self
    where
        V: PointedInto,
    {
        self.unique.insert(pointer.to_owned(), Declared::at_pointer(pointer.to_owned()));
        self
    }

    /// Opens the collection. It comes to be with its first write.
    ///
    /// Opening a stored collection decodes its values, and migrates them where its schema number
    /// is another one. While one thread migrates, others that open the collection wait; closures
    /// of the caller's cannot wait, and are refused. Opening it again gives the same one: whoever
    /// opens it first in a process decides whether the codec is trusted, and which unique indexes
    /// it has; who names none later gets it with those.
    ///
    /// # Errors
    /// [`CollectionName`](crate::Error::CollectionName);
    /// [`CollectionType`](crate::Error::CollectionType) if it is open or stored with other types
    /// or another codec, or open with another number of earlier versions;
    /// [`Schema`](crate::Error::Schema) if it has another schema number, and there is no migration
    /// from that; [`Decode`](crate::Error::Decode) if a stored value is not of its type;
    /// [`Duplicates`](crate::Error::Duplicates) if stored entities share the key of a unique index;
    /// [`Indexes`](crate::Error::Indexes) if it is open with other ones;
    /// [`Index`](crate::Error::Index) if one cannot be; [`Limit`](crate::Error::Limit).
    ///
    /// Of a migration also [`Encode`](crate::Error::Encode), [`Closed`](crate::Error::Closed),
    /// [`Migrating`](crate::Error::Migrating) and [`Poisoned`](crate::Error::Poisoned). Nothing
    /// has changed then, unless `Poisoned` says that the outcome is unknown.
    pub fn open(self) -> Result<Collection<K, V>>
    where
        K: Key,
        V: Send + Sync + 'static,
        C: Codec<V>,
    {
        let CollectionBuilder { store, name, schema, codec, trusted, history, .. } = self;
        let (mut migrations, unique) = (self.migrations, self.unique);
        let encoding = Encoding::new(schema, codec, trusted);
        store.open_collection(name, encoding, history, &mut migrations, unique)
    }

    /// Makes sure that there can be such a collection.
    ///
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) and [`Error::Limit`](crate::Error::Limit).
    #[cfg(feature = "axum")]
    pub(crate) fn check(&self) -> Result<()> {
        crate::unique::check(self.name, &self.unique)?;
        let history = self.history.unwrap_or(0) as usize;
        self.store.inner.limits.check(Limit::History, history, || self.name.to_owned())
    }

    /// Opens a collection anew that is open already, so that it has the history and exactly the
    /// unique indexes that are named here; see [`Store::reopen`].
    #[cfg(feature = "axum")]
    pub(crate) fn reopen(self) -> Result<Reopening<'a, V>>
    where
        K: Key,
        V: Send + Sync + 'static,
        C: Codec<V>,
    {
        self.check()?;
        let CollectionBuilder { store, name, schema, codec, trusted, history, unique, .. } = self;
        let encoding = Encoding::new(schema, codec, trusted);
        store.reopen::<K, V>(name, encoding, history, unique)
    }
}

impl<K, V, C> fmt::Debug for CollectionBuilder<'_, K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectionBuilder")
            .field("name", &self.name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
