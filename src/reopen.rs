//! Opening a collection anew that is open already, with other unique indexes or another history.

use std::any::Any;
use std::sync::Arc;

use crate::codec::Encoding;
use crate::collection::CollectionState;
use crate::error::{Error, Result};
use crate::key::{Key, KeyType};
use crate::map::{KeyBuf, Map};
use crate::recovery::{Stored, StoredCollection};
use crate::registry::Open;
use crate::snapshot::Source;
use crate::snapshot::entry::Entry;
use crate::source::Typed;
use crate::store::{Store, UnderWay};
use crate::sync::{AtomicU64, Ordering};
use crate::unique::{Declarations, Unique};

/// What holds the state of an open collection besides handles: the registry, twice, and whoever
/// looks.
const HOLDERS: usize = 3;

/// A collection that is about to take the place of the one that is open, which stays if this is
/// dropped. Whoever opens it meanwhile waits.
#[must_use = "nothing has changed before `finish`"]
pub(crate) struct Reopening<'a, V> {
    state: CollectionState<V>,
    types: String,
    under_way: UnderWay<'a>,
}

impl Store {
    /// Makes an open collection anew from what it holds, as it was checked to be possible: records
    /// have the keys of the indexes that there were when they were made, and the map has the
    /// history that it was made for. Without a `history` it keeps as much as before.
    ///
    /// # Errors
    /// As of opening it; [`Error::CollectionInUse`] if there is a handle of it, which would write
    /// where nobody reads any more; [`Error::Poisoned`].
    pub(crate) fn reopen<'a, K: Key, V: Send + Sync + 'static>(
        &'a self,
        name: &'a str,
        encoding: Encoding<V>,
        history: Option<u32>,
        unique: Declarations<V>,
    ) -> Result<Reopening<'a, V>> {
        let inner = &*self.inner;
        let keys = KeyType::of::<K>();
        let (old, types, known, under_way) = {
            let mut registry = inner.registry_without_migration(name)?;
            let Some(open) = registry.open.get(name) else {
                return Err(Error::CollectionInUse { collection: name.to_owned() });
            };
            let types = open.types.clone();
            let old = self.again::<K, V>(open, name, &types, &encoding, None, &[])?.state;
            // Handles come from other handles, or from what is locked here.
            if Arc::strong_count(&old) > HOLDERS {
                return Err(Error::CollectionInUse { collection: name.to_owned() });
            }
            let known = registry.catalog.get(name).map(|entry| entry.history);
            registry.migrating.insert(name.to_owned(), inner.journal.durable());
            (old, types, known, UnderWay { inner, name })
        };
        // Then what is shown is all there is.
        inner.journal.flush()?;
        let stored = as_stored(&old, inner.journal.shown())?;
        let kept = if old.announced.load(Ordering::Relaxed) { Some(old.history) } else { known };
        let history = history.unwrap_or(old.history);
        let map = Map::new(old.id.into(), inner.stripes, inner.limits.deletions, history as usize);
        let mut state = CollectionState::new(old.id, name, keys, map, encoding, history, kept);
        state.unique = Unique::all(old.id, unique, inner.stripes);
        state.leases = Arc::clone(&old.leases);
        state.load(&inner.limits, &stored, |_, _| ())?;
        Ok(Reopening { state, types, under_way })
    }
}

impl<V: Send + Sync + 'static> Reopening<'_, V> {
    /// From here on it is the one that is open.
    pub(crate) fn finish(self) {
        let Reopening { state, types, under_way } = self;
        let (entry, state) = (state.entry(), Arc::new(state));
        let source = Arc::new(Typed { state: Arc::clone(&state) });
        let state: Arc<dyn Any + Send + Sync> = state;
        let open = Open { state, types, source, entry };
        let before = under_way.inner.registry.lock().open.insert(under_way.name.to_owned(), open);
        // Dropping values may run the caller's code: nothing is locked.
        drop(before);
    }
}

/// What a collection holds as it would be stored.
///
/// # Errors
/// [`Error::Encode`].
fn as_stored<V: Send + Sync + 'static>(
    state: &Arc<CollectionState<V>>,
    durable: &AtomicU64,
) -> Result<StoredCollection> {
    let mut stored = StoredCollection::default();
    stored.keep_history(state.history as usize);
    let source = Typed { state: Arc::clone(state) };
    let mut take = |entry: &Entry<'_>| {
        let (key, version, state) = match *entry {
            Entry::Collection { .. } => return Ok(()),
            Entry::Entity { key, metadata, value, .. } => {
                let (metadata, value) = (metadata.clone(), value.into());
                (key, metadata.version, Stored::Live { metadata, value })
            }
            Entry::Deletion { key, deletion, .. } => {
                (key, deletion.version, Stored::Deleted(deletion.clone()))
            }
        };
        stored.add(KeyBuf::from(key), version, |_| state);
        Ok(())
    };
    source.deletions(durable, &mut take)?;
    source.states(durable, &mut take)?;
    source.histories(durable, &mut take)?;
    Ok(stored)
}
