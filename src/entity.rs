//! What a read returns: a value with its version, its writer and its times.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::conflict::Deletion;
use crate::map::KeyBuf;
use crate::version::Version;

/// A value and what the store knows about it. Dereferences to the value.
///
/// It is a snapshot that later writes do not change, and as cheap to clone as an `Arc`.
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// let rooms = store.collection::<String, Vec<u8>>("rooms")?;
/// rooms.create("r1", vec![1, 2]).by("ann").commit()?;
/// let room = rooms.get("r1")?.expect("just created");
/// assert_eq!(room.len(), 2);
/// assert_eq!(room.written_by(), Some("ann"));
/// # Ok::<(), ifmatch::Error>(())
/// ```
pub struct Entity<V> {
    record: Arc<Record<V>>,
}

impl<V> Entity<V> {
    pub(crate) fn new(record: Arc<Record<V>>) -> Entity<V> {
        Entity { record }
    }

    pub(crate) fn record(&self) -> &Arc<Record<V>> {
        &self.record
    }

    /// The value.
    pub fn value(&self) -> &V {
        &self.record.value
    }

    /// Version, writer and times in one.
    pub fn metadata(&self) -> &Metadata {
        &self.record.metadata
    }

    /// The number of the commit that wrote this value.
    pub fn version(&self) -> Version {
        self.metadata().version
    }

    /// Who wrote this value, if the write said so.
    pub fn written_by(&self) -> Option<&str> {
        self.metadata().written_by()
    }

    /// When this value was written.
    pub fn written_at(&self) -> SystemTime {
        self.metadata().written_at()
    }

    /// When the entity was created; a delete and re-create starts a new life.
    pub fn created_at(&self) -> SystemTime {
        self.metadata().created_at()
    }
}

impl<V> Clone for Entity<V> {
    fn clone(&self) -> Self {
        Entity { record: Arc::clone(&self.record) }
    }
}

impl<V> Deref for Entity<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.value()
    }
}

impl<V: fmt::Debug> fmt::Debug for Entity<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entity")
            .field("value", self.value())
            .field("version", &self.version())
            .field("written_by", &self.written_by())
            .finish_non_exhaustive()
    }
}

/// What the store knows about an entity beside its value.
#[derive(Clone, Debug)]
pub struct Metadata {
    pub(crate) version: Version,
    pub(crate) written_by: Option<Actor>,
    pub(crate) written_at: Timestamp,
    pub(crate) created_at: Timestamp,
    /// Whether an earlier version of the key was written within the same second: then a time
    /// of whole seconds, as HTTP has, cannot tell the two apart.
    pub(crate) shares_second: bool,
}

impl Metadata {
    /// The number of the commit that wrote the value.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who wrote the value, if the write said so.
    pub fn written_by(&self) -> Option<&str> {
        self.written_by.as_ref().map(Actor::as_str)
    }

    /// When the value was written. Never decreases in the order of versions.
    pub fn written_at(&self) -> SystemTime {
        self.written_at.into()
    }

    /// When the entity was created.
    pub fn created_at(&self) -> SystemTime {
        self.created_at.into()
    }
}

/// What a write found at its key.
#[derive(Clone, Copy)]
pub(crate) enum Previous<'a> {
    None,
    Live(&'a Metadata),
    Deleted(&'a Deletion),
}

impl Metadata {
    /// The metadata of a write that follows `previous`.
    pub(crate) fn after(
        previous: Previous<'_>,
        version: Version,
        written_at: Timestamp,
        written_by: Option<Actor>,
    ) -> Metadata {
        let (created_at, earlier) = match previous {
            Previous::None => (written_at, None),
            Previous::Live(metadata) => (metadata.created_at, Some(metadata.written_at)),
            Previous::Deleted(deletion) => (written_at, Some(deletion.deleted_at)),
        };
        let shares_second = earlier.is_some_and(|time| time.second() == written_at.second());
        Metadata { version, written_by, written_at, created_at, shares_second }
    }
}

/// A stored value, as the map holds it.
pub(crate) struct Record<V> {
    pub(crate) metadata: Metadata,
    pub(crate) index_keys: IndexKeys,
    pub(crate) value: V,
}

/// What the unique indexes of the collection made of a value, in their order: kept, so that the
/// caller's function is not asked again. One word where there is nothing.
pub(crate) type IndexKeys = Option<Box<SmallVec<[Option<KeyBuf>; 1]>>>;

impl<V> Record<V> {
    /// A value whose write has no place in the commit order yet: the metadata is filled in then.
    pub(crate) fn unplaced(value: V) -> Arc<Record<V>> {
        Record::at(Version::FIRST, value)
    }

    /// A value of which the version is all that is to be known.
    pub(crate) fn at(version: Version, value: V) -> Arc<Record<V>> {
        let metadata = Metadata {
            version,
            written_by: None,
            written_at: Timestamp::default(),
            created_at: Timestamp::default(),
            shares_second: false,
        };
        Arc::new(Record { metadata, index_keys: None, value })
    }

    /// What the unique index at this place made of the value.
    pub(crate) fn index_key(&self, place: usize) -> Option<&KeyBuf> {
        self.index_keys.as_deref()?.get(place)?.as_ref()
    }
}

/// Who writes: a name, cheap to clone.
///
/// A program that writes often under one name makes it once:
///
/// ```
/// let importer = ifmatch::Actor::from("import");
/// let store = ifmatch::Store::in_memory();
/// let rows = store.collection::<u64, String>("rows")?;
/// for id in 0..3 {
///     rows.create(id, "row".to_owned()).by(&importer).commit()?;
/// }
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor(Arc<str>);

impl Actor {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Actor {
    /// The actor of this name; if it is the last one, that one again, which saves a copy.
    pub(crate) fn shared(last: &mut Option<Actor>, name: &str) -> Actor {
        match last {
            Some(actor) if actor.as_str() == name => actor.clone(),
            _ => last.insert(Actor::from(name)).clone(),
        }
    }
}

impl From<&str> for Actor {
    fn from(name: &str) -> Actor {
        Actor(name.into())
    }
}

impl From<String> for Actor {
    fn from(name: String) -> Actor {
        Actor(name.into())
    }
}

impl From<&String> for Actor {
    fn from(name: &String) -> Actor {
        Actor(name.as_str().into())
    }
}

impl From<&Actor> for Actor {
    fn from(actor: &Actor) -> Actor {
        actor.clone()
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
