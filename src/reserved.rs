//! The crate's own collections, beside those of the caller: they open with the store.
//!
//! Their names are none that a caller could give. Their numbers are the highest, so that they
//! come last in the order of locks.

use std::sync::Arc;

use crate::codec::{Codec, Encoding};
use crate::collection::CollectionState;
use crate::ids::{IdCodec, IdRecord};
use crate::key::KeyType;
use crate::map::Map;

const FIRST: u32 = u32::MAX - 15;

const IDS: u32 = FIRST;

pub(crate) struct Reserved {
    /// What landed writes with operation ids left behind.
    pub(crate) ids: Arc<CollectionState<IdRecord>>,
}

impl Reserved {
    pub(crate) fn new(stripes: usize) -> Reserved {
        Reserved { ids: create(IDS, "$ids", stripes, IdCodec) }
    }
}

/// Whether a collection of this number is the crate's own.
pub(crate) fn is_reserved(id: u32) -> bool {
    id >= FIRST
}

fn create<V: 'static>(
    id: u32,
    name: &str,
    stripes: usize,
    codec: impl Codec<V>,
) -> Arc<CollectionState<V>> {
    // Its codec is the crate's own, and is tested to read back what it writes.
    let (keys, encoding) = (KeyType::of::<Vec<u8>>(), Encoding::new(1, Arc::new(codec), true));
    let map = Map::new(id.into(), stripes, 0, 0);
    Arc::new(CollectionState::new(id, name, keys, map, encoding, 0, None))
}
