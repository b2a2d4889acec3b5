//! Snapshots: what a store holds, written beside running writers, so that the log can be cut.
//!
//! A snapshot is fuzzy: each entry is as it was when the writer came to it. Together with the log
//! from its start on it is exact. FORMAT.md draws the bytes and says why nothing is missed.

pub(crate) mod entry;
pub(crate) mod header;
pub(crate) mod load;
mod schedule;
pub(crate) mod write;

use std::sync::Arc;

pub(crate) use header::{file_name, start_of};
pub(crate) use schedule::{Known, Settings, Snapshots};

use crate::error::Result;
use crate::record::CatalogEntry;
use crate::recovery::StoredCollection;
use crate::snapshot::entry::Entry;
use crate::sync::AtomicU64;

/// Where the writer finds the collections.
pub(crate) trait Sources: Send + Sync {
    /// All that the log knows by name now.
    fn collect(&self) -> Collected;
}

/// What there is to be written.
pub(crate) struct Collected {
    pub(crate) collections: Vec<Named>,
    /// If given, what is stored is as it was at this version, and the log after it has to be read.
    pub(crate) unmoved: Option<u64>,
}

/// A collection that has a name in the log.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) entry: CatalogEntry,
    pub(crate) contents: Contents,
}

pub(crate) enum Contents {
    /// Recovered and not open yet: the bytes are there. `None` if nothing is stored.
    Stored(Option<Arc<StoredCollection>>),
    Open(Arc<dyn Source>),
}

/// Takes an entry; may block on the disk.
pub(crate) type Emit<'a> = dyn FnMut(&Entry<'_>) -> Result<()> + 'a;

/// A collection that is open, whatever the type of its values. Calls `emit` with nothing locked.
pub(crate) trait Source: Send + Sync {
    /// Whether the log knows the name.
    fn is_announced(&self) -> bool;

    /// The deletions that are remembered.
    ///
    /// # Errors
    /// What `emit` says.
    fn deletions(&self, durable: &AtomicU64, emit: &mut Emit<'_>) -> Result<()>;

    /// What is visible at each key of the index, deletions included.
    ///
    /// # Errors
    /// What `emit` says; [`Error::Encode`](crate::Error::Encode).
    fn states(&self, durable: &AtomicU64, emit: &mut Emit<'_>) -> Result<()>;

    /// What was visible before, as far as it is kept.
    ///
    /// # Errors
    /// As [`states`](Source::states).
    fn histories(&self, durable: &AtomicU64, emit: &mut Emit<'_>) -> Result<()>;
}
