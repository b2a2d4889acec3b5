//! A value as it stands in the log, decoded when it is asked for.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::clock::Timestamp;
#[cfg(feature = "axum")]
use crate::codec::Json;
use crate::collection::CollectionState;
use crate::entity::{Actor, Entity, Metadata, Record};
#[cfg(feature = "axum")]
use crate::http::Document;
use crate::map::State;
use crate::record::CatalogEntry;
use crate::version::Version;

/// What the store knows of its collections.
pub(crate) trait Catalog: Send + Sync {
    /// Those that are stored or open, by their numbers.
    fn names(&self) -> BTreeMap<u32, (Arc<str>, CatalogEntry)>;

    /// The collection of this name, an `Arc<CollectionState<V>>`, if it is open.
    fn opened(&self, name: &str) -> Option<Arc<dyn Any + Send + Sync>>;
}

pub(crate) struct Encoded {
    pub(crate) bytes: Box<[u8]>,
    /// The schema and the codec in which it was written, if they are known.
    pub(crate) written_in: Option<(u32, Arc<str>)>,
    pub(crate) version: Version,
    pub(crate) written_at: Timestamp,
    pub(crate) written_by: Option<Actor>,
    /// Does not keep the store's contents.
    pub(crate) catalog: Weak<dyn Catalog>,
}

impl Encoded {
    /// `None` if the collection is not open as one of `V`, or the bytes are none. No lock is held
    /// while the caller's codec runs.
    pub(crate) fn decode<V: Send + Sync + 'static>(
        &self,
        collection: &str,
        key: &[u8],
    ) -> Option<Entity<V>> {
        let opened = self.catalog.upgrade()?.opened(collection)?;
        let state: Arc<CollectionState<V>> = opened.downcast().ok()?;
        let (schema, codec) = self.written_in.as_ref()?;
        if (*schema, &**codec) != (state.encoding.schema, &*state.encoding.codec_name) {
            return None;
        }
        let value = state.encoding.codec.decode(&self.bytes).ok()?;
        // Whoever was created before this and is still there has lived all the while.
        let created_at = match state.map.newest(state.map.hash(key), key) {
            State::Live(newest) if newest.metadata.created_at <= self.written_at => {
                newest.metadata.created_at
            }
            _ => self.written_at,
        };
        let metadata = Metadata {
            version: self.version,
            written_by: self.written_by.clone(),
            written_at: self.written_at,
            created_at,
            // It may: nothing is known of the version before.
            shares_second: true,
        };
        Some(Entity::new(Arc::new(Record { metadata, index_keys: None, value })))
    }

    /// The text of a document is what is stored of it. `None` if it is no document, or the
    /// collection is open as one of another type.
    #[cfg(feature = "axum")]
    pub(crate) fn document(&self, collection: &str) -> Option<Document> {
        let opened = self.catalog.upgrade()?.opened(collection);
        let is_documents = |opened: Arc<dyn Any + Send + Sync>| {
            opened.downcast::<CollectionState<Document>>().is_ok()
        };
        let (schema, codec) = self.written_in.as_ref()?;
        let is_json = (*schema, &**codec) == (1, Json::NAME);
        if !is_json || !opened.is_none_or(is_documents) {
            return None;
        }
        Document::from_bytes(self.bytes.to_vec()).ok()
    }
}
