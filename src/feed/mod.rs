//! The change feed: every commit once, in order, from any place that is still kept (G9).
//!
//! A feed is a reader at a [`Cursor`]. It tells each commit that is shown to
//! readers, whole and in version order, and waits for the next one. Where commits are no longer
//! kept it says so with [`Error::Gap`](crate::Error::Gap): it is never silent about one.
//!
//! ```
//! use ifmatch::feed::ChangeKind;
//!
//! let store = ifmatch::Store::in_memory();
//! let shifts = store.collection::<String, u32>("shifts")?;
//! let mut feed = store.changes().from_now().collection(&shifts).open()?;
//!
//! shifts.create("s-1", 8).by("ann").commit()?;
//! shifts.delete("s-1").unconditional().by("bob").commit()?;
//!
//! let created = feed.try_next()?.expect("a commit");
//! assert_eq!(created.written_by(), Some("ann"));
//! let change = &created.changes()[0];
//! assert_eq!((change.collection(), change.key().as_str()), ("shifts", "s-1"));
//! assert_eq!(*change.entity::<u32>().expect("it was put"), 8);
//!
//! let deleted = feed.try_next()?.expect("another one");
//! assert_eq!(deleted.changes()[0].kind(), ChangeKind::Delete);
//! assert!(feed.try_next()?.is_none());
//! # Ok::<(), ifmatch::Error>(())
//! ```
//!
//! The newest commits are in memory, [`Limits::feed`](crate::Limits::feed) changes of them, as soon
//! as the first feed of the process was opened, or from the start if the
//! [builder](crate::StoreBuilder::feed) says so. They keep the values that they wrote, replaced or
//! not. What is older is read from the log, as far back as the store keeps it for its snapshots or
//! was [told to](crate::StoreBuilder::keep_log); in memory there is no log. A writer does not wait
//! for readers: who falls behind all that is kept gets the gap.
//!
//! What is shown to readers is told, so with [`Durability::Sync`](crate::Durability::Sync) what a
//! power cut cannot take back. With the others a crash may take back what was told; a cursor of
//! before goes on behind it. Whatever changes together is one commit, a migration too.
//! Collections whose names begin with `$` are the store's own: told to those who name them.

mod change;
mod encoded;
mod filter;
mod past;
mod publisher;
mod reader;
mod ring;
mod wait;

use std::fmt;

use crate::collection::Collection;
use crate::error::Result;
use crate::key::{AsPrefix, Key};
use crate::store::Store;
use crate::version::Cursor;
use filter::Filter;

pub use change::{Change, ChangeKind, Commit};
pub use reader::{Feed, NextCommit};
pub use wait::{WaitFor, WaitForFuture};

pub(crate) use encoded::Catalog;
pub(crate) use past::Past;
pub(crate) use publisher::Publisher;

/// A change feed that is about to be opened, made by [`Store::changes`].
///
/// ```
/// let store = ifmatch::Store::builder().feed(true).in_memory();
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.create("a-1", 8).commit()?;
/// shifts.create("b-1", 6).commit()?;
///
/// // All that is kept, but only what begins with `b-`.
/// let mut feed = store.changes().collection(&shifts).prefix("b-").open()?;
/// assert_eq!(feed.try_next()?.expect("a commit").changes()[0].key(), "b-1");
///
/// // Kept somewhere, to go on from later: everything up to here has been told.
/// let kept = feed.cursor().to_string();
/// shifts.create("b-2", 7).commit()?;
/// let mut feed = store.changes().since(kept.parse().unwrap()).open()?;
/// assert_eq!(feed.try_next()?.expect("a commit").changes()[0].key(), "b-2");
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[must_use = "a builder opens nothing before `open`"]
pub struct Changes<'a> {
    store: &'a Store,
    start: Start,
    filter: Filter,
}

enum Start {
    Oldest,
    Now,
    After(Cursor),
}

impl Store {
    /// The changes of the store: those that are kept, from the oldest on, and all that follow. See
    /// [`feed`](crate::feed).
    pub fn changes(&self) -> Changes<'_> {
        Changes { store: self, start: Start::Oldest, filter: Filter::default() }
    }

    /// Waits until a version is shown to readers: for whoever has been told a version, by another
    /// part of the program say, and wants to read no less.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.collection::<String, u32>("shifts")?;
    /// let version = shifts.create("s-1", 8).commit()?.version();
    /// store.wait_for(version).within(Duration::from_secs(1)).wait()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn wait_for(&self, version: crate::Version) -> WaitFor<'_> {
        WaitFor::new(&self.inner, version)
    }
}

impl Changes<'_> {
    /// Begins behind `cursor`, with the next commit. If that is not kept, or the cursor is none of
    /// this store's, the first item is the gap. An [`EntityTag`](crate::EntityTag) is a cursor too.
    pub fn since(mut self, cursor: Cursor) -> Self {
        self.start = Start::After(cursor);
        self
    }

    /// Begins now. Whoever opens the feed first and reads the store after that misses nothing:
    /// what the read did not see is in the feed.
    pub fn from_now(mut self) -> Self {
        self.start = Start::Now;
        self
    }

    /// Tells the changes of this collection only, and of others that are named so.
    pub fn collection<K: Key, V: Send + Sync + 'static>(
        self,
        collection: &Collection<K, V>,
    ) -> Self {
        self.collection_named(collection.name())
    }

    /// As [`collection`](Changes::collection), of one that need not be open, or there yet.
    pub fn collection_named(self, name: &str) -> Self {
        self.keys_of(name, &[])
    }

    /// As [`collection`](Changes::collection), but only of keys that begin so; see
    /// [`Collection::prefix`].
    pub fn collection_prefix<K: Key, V: Send + Sync + 'static>(
        self,
        collection: &Collection<K, V>,
        prefix: impl AsPrefix<K>,
    ) -> Self {
        prefix.with_prefix(|prefix| self.keys_of(collection.name(), prefix))
    }

    /// Tells the changes of keys only whose bytes begin so: those of a string are its own.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.filter.prefix = prefix.as_ref().to_vec();
        self
    }

    fn keys_of(mut self, name: &str, prefix: &[u8]) -> Self {
        self.filter.collections.push((name.to_owned(), prefix.to_vec()));
        self
    }

    /// Opens the feed.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn open(self) -> Result<Feed> {
        let Changes { store, start, filter } = self;
        let inner = &store.inner;
        inner.durable()?;
        let mut feed = Feed::new(inner, filter);
        match start {
            Start::Oldest => feed.go_to_oldest(),
            Start::Now => feed.go_to(inner.journal.last_shown()),
            Start::After(Cursor { lineage, version })
                if lineage == inner.lineage && version <= inner.journal.last_version() =>
            {
                feed.go_to(version);
            }
            Start::After(unknown) => feed.go_nowhere(unknown),
        }
        Ok(feed)
    }
}

impl fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("collections", &self.filter.collections)
            .finish_non_exhaustive()
    }
}
