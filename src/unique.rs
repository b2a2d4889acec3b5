//! Unique indexes: no two entities of a collection have the same index key.
//!
//! An index is a map of its own, from index keys to the keys of the entities that hold them. So
//! its entries have versions and pending states as entities have, and are locked as they are. It
//! is derived data: neither the log nor snapshots know of it.

#[cfg(feature = "json")]
mod pointer;

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "json")]
pub use pointer::PointedInto;

use crate::collection::{Collection, CollectionState};
use crate::entity::{Entity, IndexKeys, Record};
use crate::error::{Error, Limit, Result};
use crate::key::{AsKey, Key, KeyType, sealed::Bytes};
use crate::map::{KeyBuf, Map};
use crate::options::Limits;
use crate::parallel::in_parts;
use crate::sync::UserCode;

/// What a unique index makes of a value: a key, or an `Option` of one, where `None` leaves the
/// entity out of the index. Sealed; keys are of the types that [`Key`] lists.
pub trait IndexKey: seal::IndexKey {}

impl<T: seal::IndexKey> IndexKey for T {}

mod seal {
    use crate::key::Key;

    pub trait IndexKey {
        type Key: Key;

        #[doc(hidden)]
        fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Option<R>;
    }
}

impl<K: Key + Bytes<K>> seal::IndexKey for K {
    type Key = K;

    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Some(Bytes::<K>::with_bytes(self, f))
    }
}

impl<K: Key + Bytes<K>> seal::IndexKey for Option<K> {
    type Key = K;

    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.as_ref().map(|key| Bytes::<K>::with_bytes(key, f))
    }
}

/// An index key that several stored entities have; see [`Error::Duplicates`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Duplicate {
    /// The index.
    pub index: String,
    /// The index key, as text.
    pub value: String,
    /// The keys of the entities, as text and in order.
    pub keys: Vec<String>,
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} is shared by {}", self.index, self.value, self.keys.join(", "))
    }
}

/// As many entities are named that share an index key.
const NAMED: usize = 1_000;

/// How an index was declared.
pub(crate) struct Declared<V> {
    keys: KeyType,
    key_type: TypeId,
    extract: Box<Extract<V>>,
    /// Why there can be no such index.
    flaw: Option<&'static str>,
}

type Extract<V> = dyn Fn(&V) -> Option<KeyBuf> + Send + Sync;

impl<V: 'static> Declared<V> {
    pub(crate) fn new<T: IndexKey>(f: impl Fn(&V) -> T + Send + Sync + 'static) -> Declared<V> {
        Declared {
            keys: KeyType::of::<T::Key>(),
            key_type: TypeId::of::<T::Key>(),
            extract: Box::new(move |value| f(value).with_bytes(|key| KeyBuf::from(key))),
            flaw: None,
        }
    }
}

/// The indexes of a collection that is about to be opened, by name.
pub(crate) type Declarations<V> = BTreeMap<String, Declared<V>>;

/// # Errors
/// [`Error::Index`] if there can be no such index.
pub(crate) fn check<V>(collection: &str, declared: &Declarations<V>) -> Result<()> {
    let flaw = declared.iter().find_map(|(name, declared)| Some((name, declared.flaw?)));
    let Some((name, flaw)) = flaw else { return Ok(()) };
    Err(no_index(collection, name, flaw.to_owned()))
}

/// The indexes as messages name them, in order.
pub(crate) fn said<V>(declared: &Declarations<V>) -> Vec<String> {
    declared.iter().map(|(name, declared)| say(name, declared)).collect()
}

fn say<V>(name: &str, declared: &Declared<V>) -> String {
    format!("{name} ({})", declared.keys.kind)
}

fn no_index(collection: &str, index: &str, detail: String) -> Error {
    Error::Index { collection: collection.to_owned(), index: index.to_owned(), detail }
}

/// An index of an open collection.
pub(crate) struct Unique<V> {
    pub(crate) name: Arc<str>,
    declared: Declared<V>,
    /// Index keys, each with the key of the entity that holds it. Not listed in order.
    pub(crate) map: Map<KeyBuf>,
}

impl<V> Unique<V> {
    /// The indexes of the collection with this number. No releases are remembered: an index key
    /// that nobody holds was never there.
    pub(crate) fn all(id: u32, declared: Declarations<V>, stripes: usize) -> Vec<Unique<V>> {
        // Behind the maps of all collections, whose rank is their number.
        let first = (u64::from(id) + 1) << 32;
        let open = |(rank, (name, declared)): (u64, (String, _))| Unique {
            name: name.into(),
            declared,
            map: Map::new(rank, stripes, 0, 0),
        };
        (first..).zip(declared).map(open).collect()
    }
}

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    /// The entity that has this key in a unique index, if there is one. As
    /// [`get`](Collection::get), it never waits and sees what is durable.
    ///
    /// ```
    /// use ifmatch::Store;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Employee {
    ///     name: String,
    ///     legacy_id: Option<String>,
    /// }
    ///
    /// let store = Store::in_memory();
    /// let employees = store
    ///     .declare::<String, Employee>("employees")
    ///     .unique("legacy_id", |employee: &Employee| employee.legacy_id.clone())
    ///     .open()?;
    /// let ann = Employee { name: "Ann".to_owned(), legacy_id: Some("L-7".to_owned()) };
    /// employees.create("e-1", ann).commit()?;
    ///
    /// let (key, ann) = employees.find_by("legacy_id", "L-7")?.expect("just created");
    /// assert_eq!((&*key, &*ann.name), ("e-1", "Ann"));
    /// assert!(employees.find_by("legacy_id", "L-8")?.is_none());
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Index`] if the collection was opened without this index, or its keys are of
    /// another type; [`Error::Closed`].
    pub fn find_by<I: Key>(
        &self,
        index: &str,
        key: impl AsKey<I>,
    ) -> Result<Option<(K, Entity<V>)>> {
        let (state, durable) = (&*self.state, self.store.durable()?);
        let (place, unique) = state.unique_index::<I>(index)?;
        key.with_bytes(|bytes| {
            let hash = unique.map.hash(bytes);
            loop {
                let Some(holder) = unique.map.visible(hash, bytes, durable) else {
                    return Ok(None);
                };
                let key = &holder.value;
                let found = state.map.visible(state.map.hash(key), key, durable);
                // Else it was changed between the two looks, and the index knows by now.
                if let Some(found) = found.filter(|found| has_key(found, place, bytes)) {
                    return Ok(K::decode(key).map(|key| (key, Entity::new(found))));
                }
            }
        })
    }
}

/// Whether the index at this place made this key of the value.
pub(crate) fn has_key<V>(record: &Record<V>, place: usize, key: &[u8]) -> bool {
    record.index_key(place).is_some_and(|index_key| **index_key == *key)
}

impl<V: 'static> CollectionState<V> {
    /// Makes sure that what is asked for is what the collection was opened with, or nothing.
    ///
    /// # Errors
    /// [`Error::Indexes`].
    pub(crate) fn check_indexes(&self, asked_for: &[String]) -> Result<()> {
        let opened_with = self.unique.iter().map(|index| say(&index.name, &index.declared));
        let opened_with: Vec<_> = opened_with.collect();
        if asked_for.is_empty() || opened_with == asked_for {
            return Ok(());
        }
        let (collection, asked_for) = (self.name.as_ref().to_owned(), asked_for.to_vec());
        Err(Error::Indexes { collection, opened_with, asked_for })
    }

    /// The index of this name with its place, if its keys are of type `I`.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub(crate) fn unique_index<I: Key>(&self, name: &str) -> Result<(usize, &Unique<V>)> {
        let mut indexes = self.unique.iter().enumerate();
        let Some((place, index)) = indexes.find(|(_, index)| *index.name == *name) else {
            return Err(no_index(&self.name, name, "there is no such unique index".to_owned()));
        };
        let Declared { keys, key_type, .. } = &index.declared;
        if *key_type != TypeId::of::<I>() {
            let detail = format!("its keys are of type {}, not {}", keys.kind, I::kind());
            return Err(no_index(&self.name, name, detail));
        }
        Ok((place, index))
    }

    /// What the indexes make of a value. Runs the caller's code.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn index_keys(&self, limits: &Limits, key: &[u8], value: &V) -> Result<IndexKeys> {
        if self.unique.is_empty() {
            return Ok(None);
        }
        let _running = UserCode::enter();
        let extract = |index: &Unique<V>| {
            let index_key = (index.declared.extract)(value);
            let len = index_key.as_ref().map_or(0, |index_key| index_key.len());
            let place = || format!("{} in the index {}", self.place(key), index.name);
            limits.check(Limit::KeyBytes, len, place)?;
            Ok(index_key)
        };
        let keys = self.unique.iter().map(extract).collect::<Result<smallvec::SmallVec<_>>>()?;
        Ok(keys.iter().any(Option::is_some).then(|| Box::new(keys)))
    }

    /// A value whose write has no place in the commit order yet, with its index keys.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn record(&self, limits: &Limits, key: &[u8], value: V) -> Result<Arc<Record<V>>> {
        let mut record = Record::unplaced(value);
        self.index(limits, key, &mut record)?;
        Ok(record)
    }

    /// Adds the index keys to a record, which nobody else has yet.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn index(&self, limits: &Limits, key: &[u8], to: &mut Arc<Record<V>>) -> Result<()> {
        let index_keys = self.index_keys(limits, key, &to.value)?;
        if let Some(record) = Arc::get_mut(to) {
            record.index_keys = index_keys;
        }
        Ok(())
    }

    /// Fills the indexes, which are empty, with the keys of all that is stored.
    ///
    /// # Errors
    /// [`Error::Duplicates`].
    pub(crate) fn fill_indexes(&self, live: &[(KeyBuf, Arc<Record<V>>)]) -> Result<()>
    where
        V: Send + Sync,
    {
        let mut duplicates = Duplicates::default();
        for (place, index) in self.unique.iter().enumerate() {
            index.map.reserve(live.len());
            let enter = |(key, record): &(KeyBuf, Arc<Record<V>>)| {
                let (index_key, version) = (record.index_key(place)?, record.metadata.version);
                let holder = Record::at(version, key.clone());
                let there = index.map.restore_new(index_key.clone(), holder)?;
                Some((index_key.clone(), [there.value.clone(), key.clone()]))
            };
            let parts = in_parts(live, |part| part.iter().filter_map(enter).collect::<Vec<_>>());
            let mut shared = BTreeMap::<_, Vec<_>>::new();
            for (index_key, [there, key]) in parts.into_iter().flatten() {
                shared.entry(index_key).or_insert_with(|| vec![there]).push(key);
            }
            duplicates.add(self, index, shared);
        }
        let Duplicates { found, more, .. } = duplicates;
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::Duplicates { collection: self.name.as_ref().to_owned(), found, more })
    }
}

/// Stored entities that share index keys, as far as they are named.
#[derive(Default)]
struct Duplicates {
    found: Vec<Duplicate>,
    named: usize,
    more: usize,
}

impl Duplicates {
    fn add<V: 'static>(
        &mut self,
        collection: &CollectionState<V>,
        index: &Unique<V>,
        shared: BTreeMap<KeyBuf, Vec<KeyBuf>>,
    ) {
        for (index_key, mut keys) in shared {
            keys.sort_unstable();
            let named = keys.len().min(NAMED - self.named);
            self.named += named;
            self.more += keys.len() - named;
            if named > 0 {
                let keys = keys.iter().take(named).map(|key| collection.text(key)).collect();
                let value = (index.declared.keys.text)(&index_key);
                self.found.push(Duplicate { index: index.name.as_ref().to_owned(), value, keys });
            }
        }
    }
}
