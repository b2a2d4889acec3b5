//! The crate's own collections, beside those of the caller: they open with the store.
//!
//! Their names are none that a caller could give. Their numbers are the highest, so that they
//! come last in the order of locks.

use std::sync::Arc;

use crate::codec::{Codec, Encoding};
use crate::collection::CollectionState;
use crate::ids::{IdCodec, IdRecord};
use crate::key::{Key, KeyType};
use crate::lease::{EntryKey, Hold, HoldCodec};
use crate::map::Map;

const FIRST: u32 = u32::MAX - 15;

/// Behind all keys that are written.
const LEASES: u32 = u32::MAX - 1;

/// Behind all that a commit may be refused for.
const IDS: u32 = u32::MAX;

/// So many leases are remembered that have ended, so that who comes late is told how.
const ENDED_LEASES: usize = 4_096;

pub(crate) struct Reserved {
    /// What landed writes with operation ids left behind.
    pub(crate) ids: Arc<CollectionState<IdRecord>>,
    /// What keys are leased.
    pub(crate) leases: Arc<CollectionState<Hold>>,
}

impl Reserved {
    pub(crate) fn new(stripes: usize) -> Reserved {
        Reserved {
            ids: create::<Vec<u8>, _>(IDS, "$ids", (stripes, 0), IdCodec),
            leases: create::<EntryKey, _>(LEASES, "$leases", (stripes, ENDED_LEASES), HoldCodec),
        }
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
