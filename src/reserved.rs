//! The crate's own collections, beside those of the caller: they open with the store.
//!
//! Their names are none that a caller could give. Their numbers are the highest, so that they
//! come last in the order of locks.

use std::any::Any;
use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::codec::{Codec, Encoding};
use crate::collection::CollectionState;
use crate::entity::Metadata;
use crate::error::Result;
use crate::ids::{IdCodec, IdRecord};
use crate::key::{Key, KeyType};
use crate::lease::{EntryKey, Hold, HoldCodec};
use crate::map::Map;
use crate::operation::{
    BegunCodec, BegunRecord, OperationCodec, OperationRecord, ScopeCodec, ScopeKey, ScopeRecord,
};
use crate::options::Limits;
use crate::registry::{Open, Registry};
use crate::source::Typed;
use crate::sync::{Mutex, Ordering};

const FIRST: u32 = u32::MAX - 15;

/// Behind all keys that are written.
const LEASES: u32 = u32::MAX - 1;

/// Behind all that a commit may be refused for.
const IDS: u32 = u32::MAX;

/// So many leases are remembered that have ended, so that who comes late is told how.
const ENDED_LEASES: usize = 4_096;

const OPERATIONS: u32 = FIRST + 2;

const SCOPES: u32 = FIRST + 3;

const BEGUN: u32 = FIRST + 4;

const SETTINGS: u32 = FIRST + 5;

pub(crate) struct Reserved {
    /// What landed writes with operation ids left behind.
    pub(crate) ids: Arc<CollectionState<IdRecord>>,
    /// What keys are leased.
    pub(crate) leases: Arc<CollectionState<Hold>>,
    /// Operations that have not been forgotten, by id.
    pub(crate) operations: Arc<CollectionState<OperationRecord>>,
    /// What is in progress in each scope, and what waits behind it.
    pub(crate) scopes: Arc<CollectionState<ScopeRecord>>,
    /// Which operation was begun with an operation id.
    pub(crate) begun: Arc<CollectionState<BegunRecord>>,
    /// How what has a name is to be treated, for layers above the store.
    pub(crate) settings: Arc<CollectionState<Vec<u8>>>,
}

impl Reserved {
    pub(crate) fn new(stripes: usize) -> Reserved {
        Reserved {
            ids: create::<Vec<u8>, _>(IDS, "$ids", (stripes, 0), IdCodec),
            leases: create::<EntryKey, _>(LEASES, "$leases", (stripes, ENDED_LEASES), HoldCodec),
            operations: create::<String, _>(
                OPERATIONS,
                "$operations",
                (stripes, 0),
                OperationCodec,
            ),
            scopes: create::<ScopeKey, _>(SCOPES, "$scopes", (stripes, 0), ScopeCodec),
            begun: create::<Vec<u8>, _>(BEGUN, "$begun", (stripes, 0), BegunCodec),
            settings: create::<String, _>(SETTINGS, "$settings", (stripes, 0), SettingsCodec),
        }
    }
}

impl Reserved {
    /// Takes over what is stored; the last commit was at this time.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode).
    pub(crate) fn open(
        &self,
        registry: &Mutex<Registry>,
        limits: &Limits,
        clock: &dyn Clock,
        last_commit: Timestamp,
    ) -> Result<()> {
        open(registry, limits, &self.ids, |_, _| ())?;
        open(registry, limits, &self.leases, Hold::lasting_from(clock, last_commit))?;
        open(registry, limits, &self.operations, |_, _| ())?;
        open(registry, limits, &self.scopes, ScopeRecord::lasting_from(clock, last_commit))?;
        open(registry, limits, &self.begun, |_, _| ())?;
        open(registry, limits, &self.settings, |_, _| ())
    }
}

/// Bytes as they are: whoever sets them knows what they say.
struct SettingsCodec;

impl Codec<Vec<u8>> for SettingsCodec {
    fn name(&self) -> &str {
        "settings"
    }

    fn encode(&self, settings: &Vec<u8>) -> std::result::Result<Vec<u8>, String> {
        Ok(settings.clone())
    }

    fn decode(&self, bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
        Ok(bytes.to_vec())
    }
}

/// Whether a collection of this number is the crate's own.
pub(crate) fn is_reserved(id: u32) -> bool {
    id >= FIRST
}

fn create<K: Key, V: 'static>(
    id: u32,
    name: &str,
    (stripes, deletions): (usize, usize),
    codec: impl Codec<V>,
) -> Arc<CollectionState<V>> {
    // Its codec is the crate's own, and is tested to read back what it writes.
    let (keys, encoding) = (KeyType::of::<K>(), Encoding::new(1, Arc::new(codec), true));
    let map = Map::new(id.into(), stripes, deletions, 0);
    Arc::new(CollectionState::new(id, name, keys, map, encoding, 0, None))
}

fn open<V: Send + Sync + 'static>(
    registry: &Mutex<Registry>,
    limits: &Limits,
    collection: &Arc<CollectionState<V>>,
    adapt: impl Fn(&Metadata, &mut V) + Sync,
) -> Result<()> {
    let name = collection.name.as_ref().to_owned();
    let stored = registry.lock().stored.remove(&collection.id);
    collection.load(limits, &stored.unwrap_or_default(), adapt)?;
    let open = Open {
        state: Arc::clone(collection) as Arc<dyn Any + Send + Sync>,
        types: String::new(),
        source: Arc::new(Typed { state: Arc::clone(collection) }),
        entry: collection.entry(),
    };
    let mut registry = registry.lock();
    collection.announced.store(registry.catalog.contains_key(&name), Ordering::Relaxed);
    registry.open.insert(name, open);
    Ok(())
}
