//! What keys held before: the states that left their slots, as many as the collection keeps.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::map::{Garbage, Install, KeyBuf, State};

/// The earlier states of the keys of one stripe.
pub(crate) struct History<V> {
    /// How many a key keeps of those that are durable.
    kept: usize,
    /// States in version order. Keys in order, so that a walk finds again where it was.
    keys: BTreeMap<KeyBuf, VecDeque<State<V>>>,
}

/// Earlier states with their keys.
pub(crate) type Earlier<V> = Vec<(KeyBuf, State<V>)>;

impl<V> History<V> {
    /// `None` if none is kept: then nothing is paid for it.
    pub(crate) fn new(kept: usize) -> Option<Box<History<V>>> {
        (kept > 0).then(|| Box::new(History { kept, keys: BTreeMap::new() }))
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Takes out of `garbage` what has left the slot of `key`, and gives back what is beyond the
    /// bound.
    pub(crate) fn take(
        &mut self,
        key: &KeyBuf,
        garbage: &mut Garbage<V>,
        left_from: usize,
        at: Install,
    ) {
        let left = garbage.drain(left_from..).filter(|state| !matches!(state, State::Vacant));
        let left: Garbage<V> = left.collect();
        if left.is_empty() {
            return;
        }
        let states = match self.keys.get_mut(&**key) {
            Some(states) => states,
            None => self.keys.entry(key.clone()).or_default(),
        };
        for state in left {
            // What was replaced within the open frame left before what is older and settled.
            let place = states.partition_point(|kept| kept.version() < state.version());
            states.insert(place, state);
        }
        trim(states, self.kept, at, garbage);
    }

    /// Puts back what was stored of a key: settled states, from the oldest to the newest.
    pub(crate) fn restore(&mut self, key: KeyBuf, states: VecDeque<State<V>>) {
        self.keys.insert(key, states);
    }

    /// The key is forgotten.
    pub(crate) fn forget(&mut self, key: &[u8], garbage: &mut Garbage<V>) {
        garbage.extend(self.keys.remove(key).into_iter().flatten());
    }

    /// The states of `key` that are durable, the newest first.
    pub(crate) fn of(&self, key: &[u8], durable: u64) -> impl Iterator<Item = &State<V>> {
        let states = self.keys.get(key).into_iter().flat_map(|states| states.iter().rev());
        states.filter(move |state| state.version() <= durable)
    }

    /// The durable states of the keys after `after`: of as many keys as it takes to get `enough`
    /// of them. Returns the last key; `None` if there are no more.
    pub(crate) fn portion(
        &self,
        after: Bound<&[u8]>,
        enough: usize,
        durable: u64,
        found: &mut Earlier<V>,
    ) -> Option<KeyBuf> {
        let mut last = None;
        for (key, states) in self.keys.range::<[u8], _>((after, Bound::Unbounded)) {
            let states = states.iter().filter(|state| state.version() <= durable);
            found.extend(states.map(|state| (key.clone(), state.clone())));
            last = Some(key.clone());
            if found.len() >= enough {
                break;
            }
        }
        last
    }
}

/// Keeps the newest of what is durable, of the frame being synced, and of the open one: each may
/// be the next that a reader gets to see, and none pushes out what belongs to another.
fn trim<V>(states: &mut VecDeque<State<V>>, kept: usize, at: Install, garbage: &mut Garbage<V>) {
    let synced = states.partition_point(|state| state.version() <= at.durable);
    let syncing = states.partition_point(|state| state.version() < at.open_from).max(synced);
    // From the back, so that the places in front do not move.
    for (start, end) in [(syncing, states.len()), (synced, syncing), (0, synced)] {
        let surplus = (end - start).saturating_sub(kept);
        garbage.extend(states.drain(start..start + surplus));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::conflict::Deletion;
    use crate::map::Map;
    use crate::sync::AtomicU64;
    use crate::version::Version;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn state(version: u64) -> State<()> {
        let version = Version::new(version).unwrap();
        let deletion = Deletion { version, deleted_by: None, deleted_at: Timestamp(0) };
        State::Deleted(Arc::new(deletion))
    }

    proptest! {
        /// Appends to one of three keys, and syncs (`None`), as the leader does. Whatever is
        /// durable, a key shows its newest state and all before it up to the bound, and the
        /// memory that it takes is bounded.
        #[test]
        fn g3_history_shows_the_newest_durable_states_without_a_gap(
            steps in prop::collection::vec(prop::option::weighted(0.9, 0..3u8), 0..120),
            kept in 0..4usize,
        ) {
            let map = Map::new(1, 1, 100, kept);
            let (mut last, mut syncing, durable) = (0, 0, AtomicU64::new(0));
            let mut installed = vec![Vec::new(); 3];
            for step in steps {
                last += 1;
                match step {
                    Some(key) => {
                        let (name, mut garbage) = (KeyBuf::from(&[key][..]), Garbage::new());
                        let settled = durable.load(crate::sync::Ordering::Acquire);
                        let at = Install { open_from: syncing + 1, durable: settled };
                        let locked = map.lock(map.hash(&name), &name);
                        locked.list();
                        locked.install(state(last), at, &mut garbage);
                        installed[usize::from(key)].push(last);
                    }
                    None => {
                        durable.store(syncing, crate::sync::Ordering::Release);
                        syncing = last;
                    }
                }
                let shown = durable.load(crate::sync::Ordering::Acquire);
                for (key, versions) in (0..).zip(&installed) {
                    let name: [u8; 1] = [key];
                    let found = map.history(map.hash(&name), &name, &durable);
                    let found: Vec<_> = found.iter().map(State::version).collect();
                    let seen = versions.iter().rev().filter(|version| **version <= shown);
                    let expected: Vec<_> = seen.take(1 + kept).copied().collect();
                    prop_assert_eq!(&found, &expected);
                    for version in versions {
                        let at = map.state_at(map.hash(&name), &name, *version, &durable);
                        prop_assert_eq!(at.is_some(), expected.contains(version));
                    }
                }
                let mut all = 0;
                let everything = AtomicU64::new(u64::MAX);
                let count = |_: &KeyBuf, _: &State<()>| {
                    all += 1;
                    Ok::<(), ()>(())
                };
                map.histories(&everything, count).unwrap();
                prop_assert!(all <= 3 * 3 * kept, "{all} states");
            }
        }
    }
}
