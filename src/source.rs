//! What a snapshot sees of a collection that is open.

use std::ops::Bound;
use std::sync::Arc;

use crate::collection::CollectionState;
use crate::error::{Error, Result};
use crate::map::State;
use crate::snapshot::entry::Entry;
use crate::snapshot::{Emit, Source};
use crate::sync::{AtomicU64, Ordering};

/// Keys are taken from the index in portions of this size.
const PORTION: usize = 128;

/// A collection whose types are hidden behind [`Source`].
pub(crate) struct Typed<V> {
    pub(crate) state: Arc<CollectionState<V>>,
}

impl<V: Send + Sync + 'static> Source for Typed<V> {
    fn is_announced(&self) -> bool {
        self.state.stored || self.state.announced.load(Ordering::Relaxed)
    }

    fn deletions(&self, durable: &AtomicU64, emit: &mut Emit<'_>) -> Result<()> {
        let collection = self.state.id;
        self.state.map.deletions(durable, |key, deletion| {
            emit(&Entry::Deletion { collection, key, deletion })
        })
    }

    fn states(&self, durable: &AtomicU64, emit: &mut Emit<'_>) -> Result<()> {
        let map = &self.state.map;
        let mut start = Bound::Unbounded;
        loop {
            let after = start.as_ref().map(|key: &crate::map::KeyBuf| &**key);
            let keys = map.candidates((after, Bound::Unbounded), PORTION);
            let Some(last) = keys.last() else { return Ok(()) };
            start = Bound::Excluded(last.clone());
            for key in &keys {
                for state in map.states(map.hash(key), key, durable) {
                    self.emit(key, &state, emit)?;
                }
            }
        }
    }

    fn histories(&self, durable: &AtomicU64, emit: &mut Emit<'_>) -> Result<()> {
        self.state.map.histories(durable, |key, state| self.emit(key, state, emit))
    }
}

impl<V: 'static> Typed<V> {
    fn emit(&self, key: &[u8], state: &State<V>, emit: &mut Emit<'_>) -> Result<()> {
        let collection = self.state.id;
        match state {
            State::Vacant => Ok(()),
            State::Deleted(deletion) => emit(&Entry::Deletion { collection, key, deletion }),
            State::Live(record) => {
                let (metadata, value) = (&record.metadata, &*self.encode(key, &record.value)?);
                emit(&Entry::Entity { collection, key, metadata, value })
            }
        }
    }

    /// Checked to read back, as every write was: the log that has the bytes is going to go.
    fn encode(&self, key: &[u8], value: &V) -> Result<Vec<u8>> {
        self.state.encoding.encode(value).map_err(|detail| Error::Encode {
            collection: Arc::clone(&self.state.name),
            key: self.state.text(key),
            detail,
        })
    }
}
