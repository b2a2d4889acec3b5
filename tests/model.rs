//! Random operations, reopens, crashes and failing calls against a reference map.
//!
//! Properties: a write lands exactly where the reference says so; reads, scans and the length
//! agree with it; after a reopen or a crash everything acknowledged is there (G3), under the
//! same version (G2). After a failure reads go on, no write is applied, and the one that was in
//! flight is found whole or not at all (G11).

use std::collections::BTreeMap;
use std::sync::Arc;

use ifmatch::testing::{Call, Crash, Fault, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{
    Collection, Compute, Computed, Error, Outcome, Precondition, Store, Version, decide,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    /// Under the condition, relative to the current version and to an older one.
    Put(u8, u64, Condition),
    Delete(u8, Condition),
    Update(u8, u64),
    /// Puts where nothing is, deletes what is there.
    Toggle(u8),
    Reopen,
    Crash(Crash),
    /// A call of the kind fails, this many from now, and maybe all after it, maybe half-way.
    Fail(Call, u64, bool, bool),
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Absent,
    Exists,
    Current,
    Older,
    NotCurrent,
    Unconditional,
}

fn condition() -> impl Strategy<Value = Condition> {
    use Condition::*;
    prop::sample::select(vec![Absent, Exists, Current, Older, NotCurrent, Unconditional])
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..6u8;
    prop_oneof![
        6 => (key.clone(), any::<u64>(), condition()).prop_map(|(k, v, c)| Operation::Put(k, v, c)),
        3 => (key.clone(), condition()).prop_map(|(k, c)| Operation::Delete(k, c)),
        3 => (key.clone(), any::<u64>()).prop_map(|(k, v)| Operation::Update(k, v)),
        2 => key.prop_map(Operation::Toggle),
        1 => Just(Operation::Reopen),
        1 => crash().prop_map(Operation::Crash),
        1 => (prop::sample::select(&[Call::Write, Call::Sync, Call::Create, Call::SyncNames][..]),
            1..4u64, any::<bool>(), any::<bool>())
            .prop_map(|(call, nth, lasting, short)| Operation::Fail(call, nth, lasting, short)),
    ]
}

fn crash() -> impl Strategy<Value = Crash> {
    use Unsynced::{Dropped, Kept, Reordered, Torn};
    let writes = prop::sample::select(vec![Dropped, Kept, Torn, Reordered]);
    let names = prop::sample::select(vec![Names::Dropped, Names::Kept, Names::Prefix]);
    let power_cut = (writes, names, any::<u64>())
        .prop_map(|(writes, names, seed)| Crash::Power(PowerCut { writes, names, seed }));
    prop_oneof![1 => Just(Crash::Process), 3 => power_cut]
}

/// The store under test and what it should hold.
struct World {
    disk: Option<MemoryDisk>,
    stripes: usize,
    store: Store,
    map: Collection<u8, u64>,
    reference: BTreeMap<u8, (u64, Version)>,
    last_version: u64,
    /// A version that some key once had.
    older: Version,
    /// Whether a write was answered that the disk has failed.
    poisoned: bool,
    /// Faults that had struck when the store was opened.
    faults: u64,
    /// The write that was in flight then: it may have landed.
    in_flight: Option<(u8, Option<u64>)>,
}

impl World {
    fn new(disk: Option<MemoryDisk>, stripes: usize) -> World {
        let store = open(&disk, stripes);
        let map = store.collection("map").unwrap();
        let (reference, older) = (BTreeMap::new(), Version::new(1).unwrap());
        World {
            disk,
            stripes,
            store,
            map,
            reference,
            last_version: 0,
            older,
            poisoned: false,
            faults: 0,
            in_flight: None,
        }
    }

    fn precondition(&self, key: u8, condition: Condition) -> Precondition {
        let current = self.reference.get(&key).map_or(self.older, |(_, version)| *version);
        match condition {
            Condition::Absent => Precondition::Absent,
            Condition::Exists => Precondition::Exists,
            Condition::Current => Precondition::Matches(current),
            Condition::Older => Precondition::MatchesAny(vec![self.older]),
            Condition::NotCurrent => Precondition::MatchesNone(vec![current]),
            Condition::Unconditional => Precondition::Unconditional,
        }
    }

    /// What the condition says of the entity that the store shows.
    fn holds(&self, key: u8, precondition: &Precondition) -> bool {
        let entity = self.map.get(key).unwrap();
        decide(std::slice::from_ref(precondition), entity.as_ref().map(|e| e.metadata())).is_ok()
    }

    fn landed(&mut self, key: u8, value: Option<u64>, version: Version) {
        assert!(version.get() > self.last_version, "{version} after {}", self.last_version);
        self.last_version = version.get();
        self.older = self.reference.get(&key).map_or(self.older, |(_, version)| *version);
        match value {
            Some(value) => drop(self.reference.insert(key, (value, version))),
            None => drop(self.reference.remove(&key)),
        }
    }

    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Put(key, value, condition) => {
                let precondition = self.precondition(key, condition);
                let expected = self.holds(key, &precondition);
                let put = self.map.put(key, value).condition(precondition).commit();
                self.check(expected, key, Some(value), put.map(|done| done.version()));
            }
            Operation::Delete(key, condition) => {
                let precondition = self.precondition(key, condition);
                let there = self.reference.contains_key(&key);
                let expected = there && self.holds(key, &precondition);
                let delete = self.map.delete(key).condition(precondition).commit();
                self.check(expected, key, None, delete.map(|done| done.version()));
            }
            Operation::Update(key, value) => {
                let before = self.reference.get(&key).map(|(value, _)| *value);
                let update = self.map.update(key, |old| *old ^= value).commit();
                let value = before.map(|before| before ^ value);
                self.check(before.is_some(), key, value, update.map(|done| done.version()));
            }
            Operation::Toggle(key) => {
                let toggle = |old: Option<&u64>| match old {
                    None => Compute::Put(7),
                    Some(_) => Compute::Delete,
                };
                let value = (!self.reference.contains_key(&key)).then_some(7);
                let done = self.map.compute(key, toggle).commit().map(|done| match done {
                    Computed::Put(done) => done.version(),
                    Computed::Deleted(done) => done.version(),
                    Computed::Aborted(_) => panic!("it never aborts"),
                });
                self.check(true, key, value, done);
            }
            Operation::Reopen => {
                let Some(disk) = &self.disk else { return };
                let closed = self.store.clone().close();
                assert!(closed.is_ok() || disk.injected() > 0, "{closed:?}");
                self.reopen();
            }
            Operation::Crash(crash) => {
                self.disk = self.disk.take().map(|disk| disk.crash(disk.calls(), crash));
                self.reopen();
            }
            Operation::Fail(call, from_now, lasting, short) => {
                if let Some(disk) = &self.disk {
                    let (nth, error) = (disk.count(call) + from_now, std::io::ErrorKind::Other);
                    disk.fail(Fault { call, nth, lasting, short, error });
                }
            }
        }
    }

    fn check(
        &mut self,
        expected: bool,
        key: u8,
        value: Option<u64>,
        result: ifmatch::Result<Version>,
    ) {
        match result {
            Ok(version) => {
                assert!(expected && !self.poisoned, "{key} landed at {version}");
                self.landed(key, value, version);
            }
            Err(Error::Conflict(conflict)) => assert!(!expected, "{conflict}"),
            Err(Error::Poisoned { outcome: Outcome::Unknown, .. }) => {
                assert!(expected && !self.poisoned, "{key}: it was refused before");
                self.poisoned = true;
                self.in_flight = Some((key, value));
            }
            Err(Error::Poisoned { outcome: Outcome::NotApplied, .. }) => {
                // The disk may have failed while room was made, before anything was in flight.
                let struck = self.disk.as_ref().map_or(0, MemoryDisk::injected) > self.faults;
                assert!(self.poisoned || struck, "{key}: nothing had failed");
                self.poisoned = true;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn reopen(&mut self) {
        let Some(disk) = &self.disk else { return };
        disk.heal();
        self.faults = disk.injected();
        // The collection keeps the old store and its lock until it is replaced.
        let memory = Store::in_memory();
        self.map = memory.collection("none").unwrap();
        self.store = memory;
        self.store = open(&self.disk, self.stripes);
        self.map = self.store.collection("map").unwrap();
        self.poisoned = false;
        if let Some((key, value)) = self.in_flight.take() {
            self.resolve(key, value);
        }
    }

    /// Finds out what became of the write that was in flight.
    fn resolve(&mut self, key: u8, value: Option<u64>) {
        let now = self.map.get(key).unwrap().map(|entity| (*entity, entity.version()));
        if now == self.reference.get(&key).copied() {
            return;
        }
        assert_eq!(now.map(|(value, _)| value), value, "{key}: it is neither there nor absent");
        match now {
            Some((_, version)) => self.landed(key, value, version),
            None => drop(self.reference.remove(&key)),
        }
    }

    fn compare(&self) {
        let stored: BTreeMap<u8, (u64, Version)> = (self.map.iter())
            .map(|item| item.unwrap())
            .map(|(key, entity)| (key, (*entity, entity.version())))
            .collect();
        assert_eq!(stored, self.reference);
        assert_eq!(self.map.len().unwrap(), self.reference.len());
        for key in 0..6 {
            let got = self.map.get(key).unwrap().map(|entity| (*entity, entity.version()));
            assert_eq!(got, self.reference.get(&key).copied());
            assert_eq!(self.map.contains(key).unwrap(), got.is_some());
        }
    }
}

fn open(disk: &Option<MemoryDisk>, stripes: usize) -> Store {
    // Small segments, so that runs cross from one to the next.
    let builder = Store::builder().stripes(stripes).segment_bytes(4096);
    match disk {
        None => builder.in_memory(),
        Some(disk) => builder.open_on(Arc::new(disk.clone())).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_does_what_the_reference_does(
        operations in prop::collection::vec(operation(), 1..80),
        stripes in prop::sample::select(vec![1, 64]),
        on_disk: bool,
    ) {
        let mut world = World::new(on_disk.then(MemoryDisk::new), stripes);
        for operation in &operations {
            world.run(operation);
            world.compare();
        }
    }
}
