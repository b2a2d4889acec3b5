//! What a key held before: reading earlier versions of an entity.

use std::sync::Arc;
use std::time::SystemTime;

use crate::collection::{Collection, CollectionState};
use crate::conflict::Deletion;
use crate::entity::Entity;
use crate::error::Result;
use crate::key::{AsKey, Key};
use crate::map::State;
use crate::precondition::Precondition;
use crate::rebase::{Based, Basis};
use crate::store::Inner;
use crate::version::Version;

/// One version in the history of a key.
#[derive(Clone, Debug)]
pub enum HistoryEntry<V> {
    /// A value was written.
    Entity(Entity<V>),
    /// The entity was deleted.
    Deleted(Deletion),
}

impl<V> HistoryEntry<V> {
    /// The number of the commit.
    pub fn version(&self) -> Version {
        match self {
            HistoryEntry::Entity(entity) => entity.version(),
            HistoryEntry::Deleted(deletion) => deletion.version(),
        }
    }

    /// Who wrote or deleted, if the write said so.
    pub fn by(&self) -> Option<&str> {
        match self {
            HistoryEntry::Entity(entity) => entity.written_by(),
            HistoryEntry::Deleted(deletion) => deletion.deleted_by(),
        }
    }

    /// When it was written or deleted.
    pub fn at(&self) -> SystemTime {
        match self {
            HistoryEntry::Entity(entity) => entity.written_at(),
            HistoryEntry::Deleted(deletion) => deletion.deleted_at(),
        }
    }

    /// The entity, unless it was deleted.
    pub fn entity(&self) -> Option<&Entity<V>> {
        match self {
            HistoryEntry::Entity(entity) => Some(entity),
            HistoryEntry::Deleted(_) => None,
        }
    }

    fn of(state: State<V>) -> Option<HistoryEntry<V>> {
        match state {
            State::Vacant => None,
            State::Live(record) => Some(HistoryEntry::Entity(Entity::new(record))),
            State::Deleted(deletion) => Some(HistoryEntry::Deleted(Deletion::clone(&deletion))),
        }
    }
}

impl<K: Key, V: Send + Sync + 'static> Collection<K, V> {
    /// What is at `key` now and what was there before, the newest first: the current version, or
    /// the deletion if there is none, and as many earlier ones as the collection
    /// [keeps](crate::CollectionBuilder::history). None of them is missing in between.
    ///
    /// As all reads do, it shows what is durable (G3), and all of it at one instant. The history
    /// of a deleted key goes when its deletion is forgotten, see
    /// [`Limits::deletions`](crate::Limits::deletions); some of it may be back after a restart.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.declare::<String, u32>("shifts").history(8).open()?;
    /// shifts.create("s-17", 6).by("ann").commit()?;
    /// shifts.delete("s-17").if_exists().by("bob").commit()?;
    /// shifts.create("s-17", 8).by("ann").commit()?;
    /// let history = shifts.history("s-17")?;
    /// let values: Vec<_> = history.iter().map(|entry| entry.entity().map(|e| **e)).collect();
    /// assert_eq!(values, [Some(8), None, Some(6)]);
    /// assert_eq!(history[1].by(), Some("bob"));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn history(&self, key: impl AsKey<K>) -> Result<Vec<HistoryEntry<V>>> {
        let (map, durable) = (&self.state.map, self.store.durable()?);
        let states = key.with_bytes(|key| map.history(map.hash(key), key, durable));
        Ok(states.into_iter().filter_map(HistoryEntry::of).collect())
    }

    /// The entity that was at `key` in exactly this version. `None` if that version was of
    /// another key, was a deletion, or is not kept any more.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn get_at(&self, key: impl AsKey<K>, version: Version) -> Result<Option<Entity<V>>> {
        let (map, durable) = (&self.state.map, self.store.durable()?);
        let number = version.get();
        let state = key.with_bytes(|key| map.state_at(map.hash(key), key, number, durable));
        Ok(state.and_then(|state| state.live().cloned()).map(Entity::new))
    }
}

impl<V: Send + Sync + 'static> CollectionState<V> {
    /// What a write was based on that was refused on `newest`: the one version that it named, if
    /// that is still kept. Nobody is told before `newest` is durable, so that one is, too.
    pub(crate) fn basis(
        &self,
        store: &Inner,
        key: &[u8],
        unmet: &Precondition,
        newest: &State<V>,
    ) -> Option<Box<dyn Basis>> {
        if self.history == 0 {
            return None;
        }
        let (Precondition::Matches(_) | Precondition::MatchesAny(_), State::Live(current)) =
            (unmet, newest)
        else {
            return None;
        };
        let [version] = unmet.versions() else { return None };
        let hash = self.map.hash(key);
        let state = self.map.state_at(hash, key, version.get(), store.journal.shown())?;
        let (base, current) = (Arc::clone(state.live()?), Arc::clone(current));
        Some(Box::new(Based { base, current, codec: Arc::clone(&self.encoding.codec) }))
    }
}
