//! What is stored of a collection: its keys with their states, values still encoded.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::conflict::Deletion;
use crate::entity::{Metadata, Previous};
use crate::map::KeyBuf;
use crate::version::Version;

/// A state of a key.
pub(crate) enum Stored {
    Live { metadata: Metadata, value: Box<[u8]> },
    Deleted(Deletion),
}

impl Stored {
    pub(crate) fn version(&self) -> Version {
        match self {
            Stored::Live { metadata, .. } => metadata.version,
            Stored::Deleted(deletion) => deletion.version,
        }
    }

    fn as_previous(&self) -> Previous<'_> {
        match self {
            Stored::Live { metadata, .. } => Previous::Live(metadata),
            Stored::Deleted(deletion) => Previous::Deleted(deletion),
        }
    }
}

/// A map that keeps its keys in the order in which they came: from a snapshot they come sorted, and
/// building an index of sorted keys is quick.
#[derive(Default)]
pub(crate) struct StoredCollection {
    /// The newest state of each key.
    states: Vec<(KeyBuf, Stored)>,
    /// Where in `states` a key is.
    places: HashTable<usize>,
    hasher: RandomState,
    /// How many earlier states a key keeps.
    history: usize,
    /// What is live and older is in another schema: it may be the newest, but is no history.
    schema_since: Option<Version>,
    /// By place, from the oldest to the newest.
    earlier: BTreeMap<usize, VecDeque<Stored>>,
}

impl StoredCollection {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&KeyBuf, &Stored)> {
        self.states.iter().map(|(key, stored)| (key, stored))
    }

    /// Keys that have earlier states with those of them that are among the `most` newest, from the
    /// oldest to the newest.
    pub(crate) fn earlier(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (&KeyBuf, impl Iterator<Item = &Stored>)> {
        self.earlier.iter().filter_map(move |(place, earlier)| {
            let (key, _) = self.states.get(*place)?;
            Some((key, earlier.iter().skip(earlier.len().saturating_sub(most))))
        })
    }

    pub(crate) fn into_states(self) -> impl Iterator<Item = (KeyBuf, Stored)> {
        self.states.into_iter()
    }

    /// Keys with an entity: its metadata and its value, encoded.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&KeyBuf, &Metadata, &[u8])> {
        self.iter().filter_map(|(key, stored)| match stored {
            Stored::Live { metadata, value } => Some((key, metadata, &**value)),
            Stored::Deleted(_) => None,
        })
    }

    /// Keys whose deletion is remembered.
    pub(crate) fn deleted(&self) -> impl Iterator<Item = (&KeyBuf, &Deletion)> {
        self.iter().filter_map(|(key, stored)| match stored {
            Stored::Live { .. } => None,
            Stored::Deleted(deletion) => Some((key, deletion)),
        })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Keeps so many earlier states of each key from here on.
    pub(crate) fn keep_history(&mut self, history: usize) {
        self.history = history;
        if history == 0 {
            self.earlier.clear();
        }
        self.earlier.values_mut().for_each(|earlier| trim(earlier, history));
    }

    /// From this version on values are in another schema. Who reads that cannot read what is older.
    pub(crate) fn begin_schema(&mut self, since: Version) {
        self.schema_since = Some(since);
        self.earlier.clear();
    }

    /// Adds a state that `with` makes, knowing the one before it: the newest counts, and others are
    /// kept as far as history is. One that is there already stays.
    pub(crate) fn add(
        &mut self,
        key: KeyBuf,
        version: Version,
        with: impl FnOnce(Previous<'_>) -> Stored,
    ) {
        let StoredCollection { states, places, hasher, .. } = self;
        let place = match place_of(&key, states, places, hasher) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                place.insert(states.len());
                return states.push((key, with(Previous::None)));
            }
        };
        let Some((_, newest)) = self.states.get_mut(place) else { return };
        if newest.version() < version {
            let stored = with(newest.as_previous());
            let before = std::mem::replace(newest, stored);
            let is_old = |since| before.version() < since && matches!(before, Stored::Live { .. });
            if self.history > 0 && !self.schema_since.is_some_and(is_old) {
                let earlier = self.earlier.entry(place).or_default();
                earlier.push_back(before);
                trim(earlier, self.history);
            }
        } else if newest.version() > version && self.history > 0 {
            let earlier = self.earlier.entry(place).or_default();
            let at = earlier.partition_point(|stored| stored.version() < version);
            let is_there = earlier.get(at).is_some_and(|stored| stored.version() == version);
            if is_there || (at == 0 && earlier.len() >= self.history) {
                return;
            }
            let before = at.checked_sub(1).and_then(|before| earlier.get(before));
            let stored = with(before.map_or(Previous::None, Stored::as_previous));
            earlier.insert(at, stored);
            trim(earlier, self.history);
        }
    }

    /// Replaces the state of `key` by what `with` makes of it; `None` leaves it.
    pub(crate) fn replace(
        &mut self,
        key: KeyBuf,
        with: impl FnOnce(Option<&Stored>) -> Option<Stored>,
    ) {
        let StoredCollection { states, places, hasher, .. } = self;
        match place_of(&key, states, places, hasher) {
            Entry::Occupied(place) => {
                if let Some((_, state)) = states.get_mut(*place.get())
                    && let Some(stored) = with(Some(state))
                {
                    *state = stored;
                }
            }
            Entry::Vacant(place) => {
                if let Some(stored) = with(None) {
                    place.insert(states.len());
                    states.push((key, stored));
                }
            }
        }
    }
}

fn place_of<'a>(
    key: &[u8],
    states: &[(KeyBuf, Stored)],
    places: &'a mut HashTable<usize>,
    hasher: &RandomState,
) -> Entry<'a, usize> {
    let key_at = |place: &usize| states.get(*place).map_or(&[][..], |(key, _)| key);
    let is_key = |place: &usize| *key_at(place) == *key;
    places.entry(hasher.hash_one(key), is_key, |place| hasher.hash_one(key_at(place)))
}

fn trim(earlier: &mut VecDeque<Stored>, history: usize) {
    earlier.drain(..earlier.len().saturating_sub(history));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map(writes in prop::collection::vec((0..40u8, any::<bool>()), 0..200)) {
            let mut stored = StoredCollection::default();
            let mut model = std::collections::BTreeMap::new();
            for (version, (key, replaces)) in (1..).zip(writes) {
                let version = Version::new(version).unwrap();
                let deleted_at = Timestamp(0);
                let new = || Stored::Deleted(Deletion { version, deleted_by: None, deleted_at });
                stored.replace(KeyBuf::from(&[key][..]), |before| {
                    assert_eq!(before.map(Stored::version), model.get(&key).copied());
                    replaces.then(new)
                });
                if replaces {
                    model.insert(key, version);
                }
            }
            let found = stored.iter().map(|(key, state)| (key[0], state.version()));
            prop_assert_eq!(found.collect::<std::collections::BTreeMap<_, _>>(), model);
        }
    }
}
