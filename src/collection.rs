//! A typed, named map from key to entity, and how it is read.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::codec::Encoding;
use crate::entity::{Entity, Metadata, Record};
use crate::error::{Error, Result};
use crate::key::{AsKey, AsPrefix, Key, KeyType};
use crate::map::{KeyBuf, Map, State};
use crate::options::Limits;
use crate::parallel::in_parts;
use crate::recovery::{Stored, StoredCollection};
use crate::store::{Inner, Store};
use crate::sync::{AtomicBool, AtomicU64};
use crate::unique::Unique;

/// A typed, named map from key to entity. All of it is held in memory.
///
/// A handle, cheap to clone, that keeps its store open. Reads never wait: they see the newest
/// entity that is durable (G3), and what they return is a snapshot.
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.create("s-1", 8).commit()?;
/// shifts.create("s-2", 6).commit()?;
/// let mut hours = 0;
/// for item in shifts.prefix("s-") {
///     let (_key, shift) = item?;
///     hours += *shift;
/// }
/// assert_eq!(hours, 14);
/// # Ok::<(), ifmatch::Error>(())
/// ```
pub struct Collection<K, V> {
    pub(crate) store: Arc<Inner>,
    pub(crate) state: Arc<CollectionState<V>>,
    key: PhantomData<fn() -> K>,
}

/// What all handles of a collection share.
pub(crate) struct CollectionState<V> {
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    pub(crate) keys: KeyType,
    pub(crate) map: Map<V>,
    /// In the order of their names.
    pub(crate) unique: Vec<Unique<V>>,
    pub(crate) encoding: Encoding<V>,
    /// How many earlier versions of each key are kept.
    pub(crate) history: u32,
    /// Whether the log knew the name when the collection was opened.
    pub(crate) stored: bool,
    /// Whether the log knows what there is to say of the collection. Set under the lock of the
    /// log.
    pub(crate) announced: AtomicBool,
    /// How many of its keys are leased; see [`Leases::count_of`](crate::lease::Leases::count_of).
    pub(crate) leases: Arc<AtomicU64>,
}

impl<K, V> Clone for Collection<K, V> {
    fn clone(&self) -> Self {
        let (store, state) = (Arc::clone(&self.store), Arc::clone(&self.state));
        Collection { store, state, key: PhantomData }
    }
}

impl<K, V> std::fmt::Debug for Collection<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection").field("name", &self.state.name).finish_non_exhaustive()
    }
}

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    pub(crate) fn new(store: Arc<Inner>, state: Arc<CollectionState<V>>) -> Collection<K, V> {
        Collection { store, state, key: PhantomData }
    }

    /// The store that it is of.
    pub fn store(&self) -> Store {
        Store { inner: Arc::clone(&self.store) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The entity at `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn get(&self, key: impl AsKey<K>) -> Result<Option<Entity<V>>> {
        Ok(key.with_bytes(|key| self.visible(key))?.map(Entity::new))
    }

    /// Runs `f` on the value at `key`, if there is one. No lock is held meanwhile.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let notes = store.collection::<u64, String>("notes")?;
    /// notes.create(7, "call back".to_owned()).commit()?;
    /// assert_eq!(notes.read(7, |note| note.len())?, Some(9));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn read<R>(&self, key: impl AsKey<K>, f: impl FnOnce(&V) -> R) -> Result<Option<R>> {
        let record = key.with_bytes(|key| self.visible(key))?;
        Ok(record.map(|record| f(&record.value)))
    }

    /// Whether there is an entity at `key`.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn contains(&self, key: impl AsKey<K>) -> Result<bool> {
        let (map, durable) = (&self.state.map, self.store.durable()?);
        Ok(key.with_bytes(|key| map.contains(map.hash(key), key, durable)))
    }

    /// How many entities there are. Counted stripe by stripe: writes meanwhile may or may not
    /// be counted.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn len(&self) -> Result<usize> {
        Ok(self.state.map.len(self.store.durable()?))
    }

    /// Whether there is none; see [`len`](Collection::len).
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The entities whose keys lie within the bounds, in key order.
    ///
    /// Consistent per key, not as a whole: each entity is read when the iterator gets there.
    /// To go on later, start anew behind the last key:
    ///
    /// ```
    /// use std::ops::Bound;
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let rows = store.collection::<u64, u64>("rows")?;
    /// for id in 0..10 {
    ///     rows.create(id, id * id).commit()?;
    /// }
    /// let page: Result<Vec<_>, _> = rows.range(3..).take(2).collect();
    /// let (last, _) = page?.pop().expect("there are more");
    /// let (_, next) = rows.range((Bound::Excluded(last), Bound::Unbounded)).next().unwrap()?;
    /// assert_eq!(*next, 25);
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn range<Q: AsKey<K>>(&self, bounds: impl RangeBounds<Q>) -> Range<K, V> {
        let bound = |bound: Bound<&Q>| bound.map(|key| key.with_bytes(|key| KeyBuf::from(key)));
        Range::new(self.clone(), bound(bounds.start_bound()), bound(bounds.end_bound()))
    }

    /// All entities in key order; see [`range`](Collection::range).
    pub fn iter(&self) -> Range<K, V> {
        Range::new(self.clone(), Bound::Unbounded, Bound::Unbounded)
    }

    /// The entities whose keys begin with `prefix`, in key order; see
    /// [`range`](Collection::range). For tuple keys the prefix is the first part, as a
    /// one-tuple.
    pub fn prefix(&self, prefix: impl AsPrefix<K>) -> Range<K, V> {
        prefix.with_prefix(|prefix| {
            let end = after_prefix(prefix)
                .map_or(Bound::Unbounded, |end| Bound::Excluded(KeyBuf::from(&end[..])));
            Range::new(self.clone(), Bound::Included(KeyBuf::from(prefix)), end)
        })
    }

    fn visible(&self, key: &[u8]) -> Result<Option<Arc<Record<V>>>> {
        let (map, durable) = (&self.state.map, self.store.durable()?);
        Ok(map.visible(map.hash(key), key, durable))
    }
}

/// The first key behind all that begin with `prefix`; `None` if there is no end to them.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// An iterator over entities in key order. Holds no lock between two items.
pub struct Range<K, V> {
    collection: Collection<K, V>,
    start: Bound<KeyBuf>,
    end: Bound<KeyBuf>,
    /// Keys to look at before more are taken from the index.
    candidates: VecDeque<KeyBuf>,
}

/// Keys are taken from the index in portions of this size.
const PORTION: usize = 128;

impl<K, V> Range<K, V> {
    fn new(collection: Collection<K, V>, start: Bound<KeyBuf>, end: Bound<KeyBuf>) -> Range<K, V> {
        Range { collection, start, end, candidates: VecDeque::new() }
    }

    fn next_candidate(&mut self) -> Option<KeyBuf> {
        if self.candidates.is_empty() {
            let bounds = (as_slice(&self.start), as_slice(&self.end));
            self.candidates = self.collection.state.map.candidates(bounds, PORTION).into();
            if let Some(last) = self.candidates.back() {
                self.start = Bound::Excluded(last.clone());
            }
        }
        self.candidates.pop_front()
    }
}

fn as_slice(bound: &Bound<KeyBuf>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &**key)
}

impl<K, V> std::fmt::Debug for Range<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Range").field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl<K: Key, V: Send + Sync + 'static> IntoIterator for &Collection<K, V> {
    type Item = Result<(K, Entity<V>)>;
    type IntoIter = Range<K, V>;

    fn into_iter(self) -> Range<K, V> {
        self.iter()
    }
}

impl<K: Key, V: Send + Sync + 'static> Iterator for Range<K, V> {
    type Item = Result<(K, Entity<V>)>;

    /// The next key that has a visible entity.
    ///
    /// # Errors
    /// As an item: [`Error::Closed`].
    fn next(&mut self) -> Option<Result<(K, Entity<V>)>> {
        loop {
            let bytes = self.next_candidate()?;
            let entity = match self.collection.visible(&bytes) {
                Ok(record) => record.map(Entity::new),
                Err(error) => return Some(Err(error)),
            };
            if let Some(item) = K::decode(&bytes).zip(entity) {
                return Some(Ok(item));
            }
        }
    }
}

/// Keys with their earlier states, from the oldest to the newest.
type Histories<V> = Vec<(KeyBuf, VecDeque<State<V>>)>;

impl<V: 'static> CollectionState<V> {
    /// Where something is, for messages.
    pub(crate) fn place(&self, key: &[u8]) -> String {
        format!("{}/{}", self.name, self.text(key))
    }

    /// The key as text.
    pub(crate) fn text(&self, key: &[u8]) -> String {
        (self.keys.text)(key)
    }

    /// `stored` is what the log says of its history, if it knows the collection.
    pub(crate) fn new(
        id: u32,
        name: &str,
        keys: KeyType,
        map: Map<V>,
        encoding: Encoding<V>,
        history: u32,
        stored: Option<u32>,
    ) -> CollectionState<V> {
        let leases = Arc::default();
        let announced = AtomicBool::new(stored == Some(history));
        let (name, stored, unique) = (name.into(), stored.is_some(), Vec::new());
        CollectionState {
            id,
            name,
            keys,
            map,
            unique,
            encoding,
            history,
            stored,
            announced,
            leases,
        }
    }

    /// The value that these bytes are, stored under `key`.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub(crate) fn decode(&self, key: &[u8], bytes: &[u8]) -> Result<V> {
        self.encoding.codec.decode(bytes).map_err(|detail| Error::Decode {
            collection: Arc::clone(&self.name),
            key: self.text(key),
            detail,
        })
    }

    /// Takes over what is stored, decoded, and made what it is in this process.
    ///
    /// # Errors
    /// [`Error::Decode`]; of unique indexes [`Error::Duplicates`] and [`Error::Limit`].
    pub(crate) fn load(
        &self,
        limits: &Limits,
        stored: &StoredCollection,
        adapt: impl Fn(&Metadata, &mut V) + Sync,
    ) -> Result<()>
    where
        V: Send + Sync,
    {
        let live: Vec<_> = stored.live().collect();
        let decoded = in_parts(&live, |part| {
            let decode = |(key, metadata, value): &(&KeyBuf, &Metadata, &[u8])| {
                let mut value = self.decode(key, value)?;
                adapt(metadata, &mut value);
                let metadata = Metadata::clone(metadata);
                let index_keys = self.index_keys(limits, key, &value)?;
                Ok((KeyBuf::clone(key), Arc::new(Record { metadata, index_keys, value })))
            };
            part.iter().map(decode).collect::<Result<Vec<_>>>()
        });
        let mut records = Vec::with_capacity(live.len());
        for part in decoded {
            records.append(&mut part?);
        }
        let histories = self.decode_history(stored)?;
        self.fill_indexes(&records)?;
        self.fill(records, stored);
        self.map.fill_history(histories.into_iter());
        Ok(())
    }

    fn decode_history(&self, stored: &StoredCollection) -> Result<Histories<V>>
    where
        V: Send + Sync,
    {
        let earlier = stored.earlier(self.history as usize);
        let earlier: Vec<_> = earlier.map(|(key, states)| (key, states.collect())).collect();
        let decoded = in_parts(&earlier, |part| {
            let decode = |(key, states): &(&KeyBuf, Vec<&Stored>)| {
                let states = states.iter().map(|stored| match stored {
                    Stored::Deleted(deletion) => Ok(State::Deleted(deletion.clone().into())),
                    Stored::Live { metadata, value } => {
                        self.earlier(key, metadata, value).map(State::Live)
                    }
                });
                Ok((KeyBuf::clone(key), states.collect::<Result<_>>()?))
            };
            part.iter().map(decode).collect::<Result<Histories<V>>>()
        });
        let parts = decoded.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// An earlier version: it is in no index.
    fn earlier(&self, key: &[u8], metadata: &Metadata, value: &[u8]) -> Result<Arc<Record<V>>> {
        let value = self.decode(key, value)?;
        let (metadata, index_keys) = (metadata.clone(), None);
        Ok(Arc::new(Record { metadata, index_keys, value }))
    }

    /// Puts in place what is durable already, before anybody else sees the collection: entities,
    /// and the deletions of what is stored.
    pub(crate) fn fill(&self, live: Vec<(KeyBuf, Arc<Record<V>>)>, stored: &StoredCollection) {
        let mut deleted: Vec<_> = stored.deleted().collect();
        // In the order of the commits, so that the oldest deletions are the first forgotten.
        deleted.sort_unstable_by_key(|(_, deletion)| deletion.version);
        let deleted = deleted.into_iter();
        self.map.fill(live, deleted.map(|(key, deletion)| (key.clone(), deletion.clone().into())));
    }
}

/// 1 to 64 characters of `a-z`, `0-9`, `_` and `-`.
pub(crate) fn is_collection_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}
