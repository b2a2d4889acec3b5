//! What children told, kept where no crash reaches it, and held against what is in the store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::AddAssign;
use std::path::Path;
use std::time::SystemTime;

use ifmatch::Collection;

use crate::child::{Child, Fact, Key, State, builder};
use crate::proof::{self, Proof};

/// More than a child tells before a failing sync meets it or a signal.
const MOST_FACTS: usize = 100_000;

/// All that is known of one store, over the lives of many children.
#[derive(Default)]
pub(crate) struct Evidence {
    /// What a version wrote: once told or read, for ever the same.
    contents: BTreeMap<u64, State>,
    /// The version that a key has reached at least.
    reached: HashMap<Key, u64>,
    /// Values that were refused.
    never: HashSet<(Key, u64)>,
    proof: Proof,
    pub(crate) counts: Counts,
}

/// How much was told and checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) seen: u64,
    pub(crate) never: u64,
    pub(crate) poisoned: u64,
    pub(crate) checks: u64,
    pub(crate) proof: proof::Counts,
}

impl Evidence {
    /// Listens until the child has told of so many acknowledgements, or ends.
    pub(crate) fn take_in(&mut self, child: &mut Child, acknowledgements: u64) {
        let enough = self.counts.acknowledged + acknowledgements;
        for fact in child {
            self.add(fact);
            if self.counts.acknowledged >= enough {
                return;
            }
        }
    }

    /// Listens to what the child told before it ended. Returns it.
    pub(crate) fn take_in_rest(&mut self, child: &mut Child) -> Vec<Fact> {
        let facts: Vec<Fact> = child.by_ref().take(MOST_FACTS).collect();
        assert!(facts.len() < MOST_FACTS, "the child goes on, though it should have ended");
        facts.iter().for_each(|fact| self.add(fact.clone()));
        child.wait();
        facts
    }

    fn add(&mut self, fact: Fact) {
        match fact {
            Fact::Acknowledged(state) => {
                self.counts.acknowledged += 1;
                self.witness(state);
            }
            Fact::Seen(state) => {
                self.counts.seen += 1;
                self.witness(state);
            }
            Fact::Gone(key, version) => self.reach(key, version),
            Fact::Never(key, value) => {
                self.counts.never += 1;
                self.never.insert((key, value));
            }
            Fact::Poisoned => self.counts.poisoned += 1,
            Fact::Told(told) => self.proof.learn(&told).unwrap(),
            Fact::Opening | Fact::NotOpened => {}
        }
    }

    fn witness(&mut self, state: State) {
        let before = self.contents.insert(state.version, state);
        assert!(before.is_none_or(|before| before == state), "{before:?} and {state:?} (G2)");
        self.reach(state.key, state.version);
    }

    fn reach(&mut self, key: Key, version: u64) {
        let reached = self.reached.entry(key).or_default();
        *reached = version.max(*reached);
    }

    /// Opens the store and holds everything against it.
    pub(crate) fn check(&mut self, directory: &Path) {
        let store = builder().open(directory).unwrap();
        let rows = store.collection("rows").unwrap();
        let counters = store.collection("counters").unwrap();
        let keys: Vec<Key> = self.reached.keys().copied().collect();
        for key in keys {
            let found = current(if key.counter { &counters } else { &rows }, key);
            let reached = self.reached[&key];
            assert!(found.version >= reached, "{key} had reached version {reached}: {found:?}");
            self.witness(found);
        }
        for State { key, value, version } in self.contents.values() {
            let refused = value.is_some_and(|value| self.never.contains(&(*key, value)));
            assert!(!refused, "version {version} of {key} has a value that was refused");
        }
        self.check_counters();
        self.proof.check(&store, &SystemTime::now).unwrap();
        self.counts.proof = self.proof.counts.clone();
        self.counts.checks += 1;
        store.close().unwrap();
    }

    /// Counters only go up, one by one: no update was lost, none was applied twice.
    fn check_counters(&self) {
        let mut newest: HashMap<Key, State> = HashMap::new();
        for state in self.contents.values().filter(|state| state.key.counter) {
            if let Some(before) = newest.insert(state.key, *state) {
                assert!(state.value > before.value, "{before:?}, then {state:?}");
            }
        }
    }
}

/// What the store has at a key, deletions included.
fn current(collection: &Collection<u64, u64>, key: Key) -> State {
    if let Some(entity) = collection.get(key.number).unwrap() {
        return State { key, version: entity.version().get(), value: Some(*entity) };
    }
    let refused = collection.delete(key.number).if_exists().commit().unwrap_err();
    let deletion = refused.conflict().unwrap().deletion().expect("deletions are remembered");
    State { key, version: deletion.version().get(), value: None }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.acknowledged += other.acknowledged;
        self.seen += other.seen;
        self.never += other.never;
        self.poisoned += other.poisoned;
        self.checks += other.checks;
        self.proof += &other.proof;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acknowledged, seen, never, poisoned, checks, proof } = self;
        write!(f, "{acknowledged} writes acknowledged, {seen} states seen, {never} values ")?;
        write!(
            f,
            "refused, {poisoned} times poisoned; held against the store {checks} times; {proof}"
        )
    }
}
