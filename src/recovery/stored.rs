//! What is stored of a collection: its keys with their newest states, values still encoded.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::conflict::Deletion;
use crate::entity::Metadata;
use crate::map::KeyBuf;
use crate::version::Version;

/// The newest state of a key.
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
}

/// A map that keeps its keys in the order in which they came: from a snapshot they come sorted, and
/// building an index of sorted keys is quick.
#[derive(Default)]
pub(crate) struct StoredCollection {
    states: Vec<(KeyBuf, Stored)>,
    /// Where in `states` a key is.
    places: HashTable<usize>,
    hasher: RandomState,
}

impl StoredCollection {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&KeyBuf, &Stored)> {
        self.states.iter().map(|(key, stored)| (key, stored))
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

    /// Replaces the state of `key` by what `with` makes of it; `None` leaves it.
    pub(crate) fn replace(
        &mut self,
        key: KeyBuf,
        with: impl FnOnce(Option<&Stored>) -> Option<Stored>,
    ) {
        let StoredCollection { states, places, hasher } = self;
        let key_at = |place: &usize| states.get(*place).map_or(&[][..], |(key, _)| key);
        let is_key = |place: &usize| *key_at(place) == *key;
        let hash = |place: &usize| hasher.hash_one(key_at(place));
        match places.entry(hasher.hash_one(&*key), is_key, hash) {
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
