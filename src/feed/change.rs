//! What the feed tells: commits, and the changes that they are made of.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::collection::CollectionState;
use crate::entity::{Actor, Entity, Record};
use crate::feed::encoded::Encoded;
use crate::feed::filter::Filter;
#[cfg(feature = "axum")]
use crate::http::Document;
use crate::key::{Key, text_of_kind};
use crate::map::KeyBuf;
use crate::version::Version;

/// One commit: everything that changed at one instant, and who changed it.
///
/// As cheap to clone as an `Arc`. Of a [filtered](crate::feed::Changes) feed it has the changes
/// that were asked for.
#[derive(Clone)]
pub struct Commit(Arc<Whole>);

struct Whole {
    version: Version,
    written_by: Option<Actor>,
    written_at: Timestamp,
    changes: SmallVec<[Change; 1]>,
    /// About what it takes of memory.
    bytes: u64,
}

impl Commit {
    /// `bytes` is what its record takes, if there is one.
    pub(crate) fn new(
        (version, written_at): (u64, Timestamp),
        written_by: Option<Actor>,
        changes: impl IntoIterator<Item = Change>,
        bytes: usize,
    ) -> Commit {
        let version = Version::new(version).unwrap_or(Version::FIRST);
        let changes: SmallVec<_> = changes.into_iter().collect();
        let bytes = changes.iter().map(|change: &Change| change.key.len()).sum::<usize>() + bytes;
        Commit(Arc::new(Whole { version, written_by, written_at, changes, bytes: bytes as u64 }))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The part that the filter lets pass; `None` if that is nothing.
    pub(crate) fn filtered(self, filter: &Filter) -> Option<Commit> {
        let passes = |change: &&Change| filter.passes(&change.collection, &change.key);
        let passing = self.0.changes.iter().filter(passes);
        match passing.clone().count() {
            0 => None,
            all if all == self.0.changes.len() => Some(self),
            _ => {
                let place = (self.0.version.get(), self.0.written_at);
                Some(Commit::new(place, self.0.written_by.clone(), passing.cloned(), 0))
            }
        }
    }

    /// The number of the commit: every entity that it wrote has this version.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// Who wrote, if the write said so.
    pub fn written_by(&self) -> Option<&str> {
        self.0.written_by.as_ref().map(Actor::as_str)
    }

    /// When it was written. Never decreases from commit to commit.
    pub fn written_at(&self) -> SystemTime {
        self.0.written_at.into()
    }

    /// What changed, each key once; never nothing.
    pub fn changes(&self) -> &[Change] {
        &self.0.changes
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("version", &self.version())
            .field("written_by", &self.written_by())
            .field("changes", &self.changes())
            .finish_non_exhaustive()
    }
}

/// What became of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// An entity was created or replaced.
    Put,
    /// The entity was deleted.
    Delete,
}

/// What one commit did to one key.
#[derive(Clone)]
pub struct Change {
    collection: Arc<str>,
    key: KeyBuf,
    text: KeyText,
    content: Content,
}

/// How the key becomes text.
#[derive(Clone)]
enum KeyText {
    Of(fn(&[u8]) -> String),
    /// By the name of its type.
    OfKind(Arc<str>),
}

#[derive(Clone)]
enum Content {
    Deleted,
    /// An `Arc<Record<V>>`.
    Record(Arc<dyn Any + Send + Sync>),
    /// As it stands in the log.
    Encoded(Arc<Encoded>),
}

impl Change {
    /// The change that leaves this state at a key.
    pub(crate) fn new<V: Send + Sync + 'static>(
        collection: &CollectionState<V>,
        key: &[u8],
        record: Option<&Arc<Record<V>>>,
    ) -> Change {
        let content = match record {
            Some(record) => {
                let record: Arc<Record<V>> = Arc::clone(record);
                Content::Record(record)
            }
            None => Content::Deleted,
        };
        let text = KeyText::Of(collection.keys.text);
        Change { collection: Arc::clone(&collection.name), key: key.into(), text, content }
    }

    /// A change as it stands in the log; without `encoded` a delete.
    pub(crate) fn logged(
        collection: &Arc<str>,
        kind: &Arc<str>,
        key: &[u8],
        encoded: Option<Encoded>,
    ) -> Change {
        let content = match encoded {
            Some(encoded) => Content::Encoded(Arc::new(encoded)),
            None => Content::Deleted,
        };
        let text = KeyText::OfKind(Arc::clone(kind));
        Change { collection: Arc::clone(collection), key: key.into(), text, content }
    }

    /// The name of the collection.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The key, as text.
    pub fn key(&self) -> String {
        match &self.text {
            KeyText::Of(text) => text(&self.key),
            KeyText::OfKind(kind) => text_of_kind(kind, &self.key),
        }
    }

    /// The key, if it is a `K`: ask for the type that the collection has.
    pub fn key_as<K: Key>(&self) -> Option<K> {
        K::decode(&self.key)
    }

    /// The key as it is stored: bytes that order as the keys do.
    pub fn key_bytes(&self) -> &[u8] {
        &self.key
    }

    /// Whether the key has an entity after it.
    pub fn kind(&self) -> ChangeKind {
        match self.content {
            Content::Deleted => ChangeKind::Delete,
            Content::Record(_) | Content::Encoded(_) => ChangeKind::Put,
        }
    }

    /// The document that was written, also of a collection that is not open yet. `None` for a
    /// delete, and if the collection is open as one of something else.
    #[cfg(feature = "axum")]
    pub(crate) fn document(&self) -> Option<Document> {
        match &self.content {
            Content::Encoded(encoded) => encoded.document(&self.collection),
            _ => self.entity::<Document>().map(|entity| entity.value().clone()),
        }
    }

    /// The entity that was written. `None` for a delete, and if its value is no `V`.
    ///
    /// A change that is read from the log is decoded here, with the codec of the collection as it
    /// is open in this process: `None` also if it is not open as a `V`, or the change was written
    /// in another schema. The log does not tell when an entity was created: if it has been
    /// deleted since, `created_at` is when this change was made.
    pub fn entity<V: Send + Sync + 'static>(&self) -> Option<Entity<V>> {
        match &self.content {
            Content::Deleted => None,
            Content::Record(record) => Arc::clone(record).downcast().ok().map(Entity::new),
            Content::Encoded(encoded) => encoded.decode(&self.collection, &self.key),
        }
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("collection", &self.collection())
            .field("key", &self.key())
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}
