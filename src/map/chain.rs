//! The states of one key: the visible one, and at most two that are not yet durable.

use std::sync::Arc;

use crate::conflict::Deletion;
use crate::entity::{Actor, Record};
use crate::map::KeyBuf;

/// What a commit left at a key.
pub(crate) enum State<V> {
    /// Nothing was ever here, or it has been forgotten.
    Vacant,
    Live(Arc<Record<V>>),
    /// Who deleted the entity, and when.
    Deleted(Arc<Deletion>),
}

impl<V> Clone for State<V> {
    fn clone(&self) -> Self {
        match self {
            State::Vacant => State::Vacant,
            State::Live(record) => State::Live(Arc::clone(record)),
            State::Deleted(deletion) => State::Deleted(Arc::clone(deletion)),
        }
    }
}

impl<V> State<V> {
    /// The version of the commit that left this; zero for none.
    pub(crate) fn version(&self) -> u64 {
        match self {
            State::Vacant => 0,
            State::Live(record) => record.metadata.version.get(),
            State::Deleted(deletion) => deletion.version.get(),
        }
    }

    /// Who left this, if that was said.
    pub(crate) fn actor(&self) -> Option<&Actor> {
        match self {
            State::Vacant => None,
            State::Live(record) => record.metadata.written_by.as_ref(),
            State::Deleted(deletion) => deletion.deleted_by.as_ref(),
        }
    }

    pub(crate) fn live(&self) -> Option<&Arc<Record<V>>> {
        match self {
            State::Live(record) => Some(record),
            State::Vacant | State::Deleted(_) => None,
        }
    }
}

/// A key and its chain of states.
///
/// The chain is bounded: there is one leader, so a state that is not durable lies either in the
/// frame being synced or in the open one, and a state of the open frame is replaced, not linked.
pub(crate) struct Slot<V> {
    pub(crate) key: KeyBuf,
    /// The newest state that was known durable when the slot was last touched.
    settled: State<V>,
    pending: Option<Box<Pending<V>>>,
}

struct Pending<V> {
    /// In the frame being synced, if `newest` is not.
    older: Option<State<V>>,
    newest: State<V>,
}

/// States taken out of a slot, to be dropped when no lock is held: dropping runs user code.
pub(crate) type Garbage<V> = smallvec::SmallVec<[State<V>; 2]>;

impl<V> Slot<V> {
    pub(crate) fn new(key: KeyBuf) -> Slot<V> {
        Slot { key, settled: State::Vacant, pending: None }
    }

    pub(crate) fn settled_at(key: KeyBuf, settled: State<V>) -> Slot<V> {
        Slot { key, settled, pending: None }
    }

    /// What the next write meets, durable or not.
    pub(crate) fn newest(&self) -> &State<V> {
        match &self.pending {
            Some(pending) => &pending.newest,
            None => &self.settled,
        }
    }

    /// What a reader may see: the newest state that is durable.
    pub(crate) fn visible(&self, durable: u64) -> &State<V> {
        match &self.pending {
            None => &self.settled,
            Some(pending) if pending.newest.version() <= durable => &pending.newest,
            Some(pending) => match &pending.older {
                Some(older) if older.version() <= durable => older,
                _ => &self.settled,
            },
        }
    }

    /// All that is durable, the newest first.
    pub(crate) fn durable_states(&self, durable: u64) -> impl Iterator<Item = &State<V>> {
        let newest = self.pending.iter().map(|pending| &pending.newest);
        let older = self.pending.iter().filter_map(|pending| pending.older.as_ref());
        let states = newest.chain(older).chain([&self.settled]);
        states.filter(move |state| (1..=durable).contains(&state.version()))
    }

    /// The key with its deletion, if that is what a reader may see.
    pub(crate) fn visible_deletion(&self, durable: u64) -> Option<(KeyBuf, Arc<Deletion>)> {
        match self.visible(durable) {
            State::Deleted(deletion) => Some((self.key.clone(), Arc::clone(deletion))),
            State::Vacant | State::Live(_) => None,
        }
    }

    pub(crate) fn settled(&self) -> &State<V> {
        &self.settled
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Puts `state` at the head. `open_from` is the first version of the open frame, and
    /// `durable` was read after `state` got its version.
    pub(crate) fn install(
        &mut self,
        state: State<V>,
        open_from: u64,
        durable: u64,
        garbage: &mut Garbage<V>,
    ) {
        self.settle(durable, garbage);
        if state.version() <= durable {
            garbage.push(std::mem::replace(&mut self.settled, state));
            return;
        }
        match &mut self.pending {
            None => self.pending = Some(Box::new(Pending { older: None, newest: state })),
            Some(pending) => {
                let previous = std::mem::replace(&mut pending.newest, state);
                if previous.version() >= open_from {
                    garbage.push(previous);
                } else {
                    debug_assert!(pending.older.is_none(), "three frames are not durable");
                    garbage.extend(pending.older.replace(previous));
                }
            }
        }
    }

    /// Takes what has become durable out of the chain.
    pub(crate) fn settle(&mut self, durable: u64, garbage: &mut Garbage<V>) {
        let Some(mut pending) = self.pending.take() else { return };
        if pending.newest.version() <= durable {
            garbage.push(std::mem::replace(&mut self.settled, pending.newest));
            garbage.extend(pending.older);
            return;
        }
        if pending.older.as_ref().is_some_and(|older| older.version() <= durable)
            && let Some(older) = pending.older.take()
        {
            garbage.push(std::mem::replace(&mut self.settled, older));
        }
        self.pending = Some(pending);
    }

    /// How many states the slot holds, for the tests of the bound.
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        let settled = usize::from(!matches!(self.settled, State::Vacant));
        let pending = self.pending.as_ref();
        settled + pending.map_or(0, |pending| 1 + usize::from(pending.older.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::version::Version;
    use proptest::prelude::*;

    fn deleted(version: u64) -> State<()> {
        let version = Version::new(version).unwrap();
        let deletion = Deletion { version, deleted_by: None, deleted_at: Timestamp(0) };
        State::Deleted(Arc::new(deletion))
    }

    proptest! {
        /// Appends (true) and syncs (false): a sync makes the taken frame durable and takes the
        /// open one, as the leader does. The visible state is always the newest durable one.
        #[test]
        fn g3_the_chain_is_bounded_and_shows_only_what_is_durable(
            steps in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut slot = Slot::new(KeyBuf::from(&b"k"[..]));
            let mut garbage = Garbage::new();
            let (mut last, mut syncing, mut durable) = (0, 0, 0);
            let mut installed = vec![0];
            for append in steps {
                if append {
                    last += 1;
                    slot.install(deleted(last), syncing + 1, durable, &mut garbage);
                    installed.push(last);
                } else {
                    durable = syncing;
                    syncing = last;
                    last += 1; // another key's commit
                }
                prop_assert!(slot.depth() <= 3);
                let newest = *installed.last().unwrap();
                let shown = *installed.iter().rfind(|version| **version <= durable).unwrap();
                prop_assert_eq!(slot.newest().version(), newest);
                prop_assert_eq!(slot.visible(durable).version(), shown);
            }
        }
    }
}
