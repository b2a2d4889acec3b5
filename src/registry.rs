//! What a store knows of its collections, by name: those that are open, and those that are stored.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::feed::Catalog;
use crate::record::CatalogEntry;
use crate::recovery::{Contents, StoredCollection};
use crate::reserved::is_reserved;
use crate::snapshot::{self, Collected, Named, Source, Sources};
use crate::sync::{Level, Mutex};

/// What is known of the collections, by name. Locked for look-ups alone.
#[derive(Default)]
pub(crate) struct Registry {
    /// Those that have been written.
    pub(crate) catalog: BTreeMap<String, CatalogEntry>,
    /// What was recovered of collections that are not open yet.
    pub(crate) stored: BTreeMap<u32, Arc<StoredCollection>>,
    pub(crate) open: BTreeMap<String, Open>,
    /// Those that a thread migrates at the moment: they are not open, and nobody else may open
    /// them meanwhile. With the version that was durable before.
    pub(crate) migrating: BTreeMap<String, u64>,
    pub(crate) next_id: u32,
}

/// A collection that is open in this process.
pub(crate) struct Open {
    /// An `Arc<CollectionState<V>>`.
    pub(crate) state: Arc<dyn Any + Send + Sync>,
    pub(crate) types: String,
    /// The same for snapshots, and what the catalog says of it.
    pub(crate) source: Arc<dyn Source>,
    pub(crate) entry: CatalogEntry,
}

impl Registry {
    pub(crate) fn new(contents: Contents) -> Arc<Mutex<Registry>> {
        let Contents { catalog, collections, .. } = contents;
        let ids = catalog.values().map(|entry| entry.id);
        let next_id = ids.filter(|id| !is_reserved(*id)).max().unwrap_or(0) + 1;
        let stored = collections.into_iter().map(|(id, stored)| (id, Arc::new(stored))).collect();
        let registry = Registry { catalog, stored, next_id, ..Registry::default() };
        Arc::new(Mutex::new(Level::Alone("registry of collections"), registry))
    }

    /// The number of a collection, given out here to a new one, and what is stored of it.
    pub(crate) fn id_of(
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

impl Sources for Mutex<Registry> {
    fn collect(&self) -> Collected {
        let registry = self.lock();
        let open = registry.open.iter().filter(|(_, open)| open.source.is_announced());
        let open = open.map(|(name, open)| {
            let contents = snapshot::Contents::Open(Arc::clone(&open.source));
            Named { name: name.clone(), entry: open.entry.clone(), contents }
        });
        let is_open = |name: &&String| registry.open.contains_key(*name);
        let stored = registry.catalog.iter().filter(|(name, _)| !is_open(name));
        let stored = stored.map(|(name, entry)| {
            let contents = snapshot::Contents::Stored(registry.stored.get(&entry.id).cloned());
            Named { name: name.clone(), entry: entry.clone(), contents }
        });
        let collections = open.chain(stored).collect();
        // What is stored of a collection that is being migrated is what was there before; the
        // migration may be durable already, and has to be read from the log.
        Collected { collections, unmoved: registry.migrating.values().min().copied() }
    }
}

impl Catalog for Mutex<Registry> {
    fn names(&self) -> BTreeMap<u32, (Arc<str>, CatalogEntry)> {
        let registry = self.lock();
        let open = registry.open.iter().map(|(name, open)| (name, &open.entry));
        let known = registry.catalog.iter().chain(open);
        known.map(|(name, entry)| (entry.id, (name.as_str().into(), entry.clone()))).collect()
    }

    fn opened(&self, name: &str) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lock().open.get(name).map(|open| Arc::clone(&open.state))
    }
}
