//! Random operations against a reference map, and many threads against an oracle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ifmatch::testing::{Crash, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{Collection, Compute, Error, Precondition, Reason, Store};
use proptest::prelude::*;

use crate::common::everywhere;
use crate::{Employee, Employees, check_agreement, employee, employees};

/// The index key, which a value may lack, and something else.
type Value = (Option<u8>, u64);

#[derive(Clone, Debug)]
enum Operation {
    Put(u8, Value),
    Delete(u8),
    Update(u8, Value),
    Toggle(u8, Value),
    /// `None` deletes.
    Transact(Vec<(u8, Option<Value>)>),
    Swap(u8, u8),
    Reopen,
    Crash(u64),
}

const KEYS: u8 = 6;
const INDEX_KEYS: u8 = 5;

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let value = || (prop::option::weighted(0.8, 0..INDEX_KEYS), any::<u64>());
    let write = (0..KEYS, prop::option::weighted(0.7, value()));
    prop_oneof![
        4 => (0..KEYS, value()).prop_map(|(key, value)| Put(key, value)),
        3 => (0..KEYS).prop_map(Delete),
        3 => (0..KEYS, value()).prop_map(|(key, value)| Update(key, value)),
        2 => (0..KEYS, value()).prop_map(|(key, value)| Toggle(key, value)),
        4 => prop::collection::vec(write, 1..4).prop_map(Transact),
        2 => (0..KEYS, 0..KEYS).prop_map(|(one, other)| Swap(one, other)),
        1 => Just(Reopen),
        1 => any::<u64>().prop_map(Crash),
    ]
}

type Reference = BTreeMap<u8, Value>;

/// Whether no two entities have the same index key.
fn is_unique(reference: &Reference) -> bool {
    let mut held: Vec<u8> = reference.values().filter_map(|(held, _)| *held).collect();
    let all = held.len();
    held.sort_unstable();
    held.dedup();
    held.len() == all
}

fn open(disk: &Option<MemoryDisk>, stripes: usize) -> (Store, Collection<u8, Value>) {
    let builder = Store::builder().stripes(stripes).segment_bytes(4096);
    let store = match disk {
        None => builder.in_memory(),
        Some(disk) => builder.open_on(Arc::new(disk.clone())).unwrap(),
    };
    let map = store.declare("map").unique("held", |value: &Value| value.0).open().unwrap();
    (store, map)
}

fn after(reference: &Reference, writes: &[(u8, Option<Value>)]) -> Reference {
    let mut after = reference.clone();
    for (key, value) in writes {
        match value {
            Some(value) => drop(after.insert(*key, *value)),
            None => drop(after.remove(key)),
        }
    }
    after
}

/// Does the operation, and says what it has written if it landed.
fn run(
    store: &Store,
    map: &Collection<u8, Value>,
    reference: &Reference,
    operation: &Operation,
) -> (Vec<(u8, Option<Value>)>, ifmatch::Result<()>) {
    match operation {
        Operation::Put(key, value) => {
            let done = map.put(*key, *value).unconditional().commit();
            (vec![(*key, Some(*value))], done.map(drop))
        }
        Operation::Delete(key) => {
            (vec![(*key, None)], map.delete(*key).unconditional().commit().map(drop))
        }
        Operation::Update(key, value) => {
            let done = map.update(*key, |old| *old = *value).commit();
            (vec![(*key, Some(*value))], done.map(drop))
        }
        Operation::Toggle(key, value) => {
            let toggle = |old: Option<&Value>| match old {
                None => Compute::Put(*value),
                Some(_) => Compute::Delete,
            };
            let written = (!reference.contains_key(key)).then_some(*value);
            (vec![(*key, written)], map.compute(*key, toggle).commit().map(drop))
        }
        Operation::Transact(writes) => {
            let done = store.transact(|tx| {
                for (key, value) in writes {
                    let there = tx.get(map, *key)?.is_some();
                    match value {
                        Some(value) => tx.put(map, *key, *value)?,
                        None if there => tx.delete(map, *key)?,
                        None => {}
                    }
                }
                // What is staged is found.
                let found = tx.find_by(map, "held", 0_u8)?.map(|(key, _)| key);
                let staged = after(reference, writes);
                let holders: Vec<_> =
                    staged.iter().filter(|(_, value)| value.0 == Some(0)).collect();
                assert_eq!(found.is_some(), !holders.is_empty());
                assert!(found.is_none_or(|found| holders.iter().any(|(key, _)| **key == found)));
                Ok(())
            });
            (writes.clone(), done.commit().map(drop))
        }
        Operation::Swap(one, other) => {
            let mut writes = Vec::new();
            let done = store.transact(|tx| {
                writes.clear();
                let (Some(mine), Some(yours)) = (tx.get(map, *one)?, tx.get(map, *other)?) else {
                    return Ok(());
                };
                writes = vec![(*one, Some(*yours)), (*other, Some(*mine))];
                tx.put(map, *one, *yours)?;
                tx.put(map, *other, *mine)
            });
            let done = done.commit().map(drop);
            (writes, done)
        }
        Operation::Reopen | Operation::Crash(_) => unreachable!("they write nothing"),
    }
}

fn compare(map: &Collection<u8, Value>, reference: &Reference) {
    let stored: Reference =
        map.iter().map(|item| item.unwrap()).map(|(key, value)| (key, *value)).collect();
    assert_eq!(stored, *reference);
    for held in 0..INDEX_KEYS {
        let found = map.find_by("held", held).unwrap().map(|(key, value)| (key, *value));
        let expected = reference.iter().find(|(_, value)| value.0 == Some(held));
        assert_eq!(found, expected.map(|(key, value)| (*key, *value)), "held {held}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn g1_an_index_does_what_the_reference_does(
        operations in prop::collection::vec(operation(), 1..60),
        stripes in prop::sample::select(vec![1, 64]),
        on_disk: bool,
    ) {
        let mut disk = on_disk.then(MemoryDisk::new);
        let (mut store, mut map) = open(&disk, stripes);
        let mut reference = Reference::new();
        for operation in &operations {
            match operation {
                Operation::Reopen | Operation::Crash(_) if disk.is_none() => {}
                Operation::Reopen => {
                    drop(map);
                    store.close().unwrap();
                    (store, map) = open(&disk, stripes);
                }
                Operation::Crash(seed) => {
                    let (writes, names, seed) = (Unsynced::Torn, Names::Prefix, *seed);
                    let cut = Crash::Power(PowerCut { writes, names, seed });
                    disk = disk.map(|disk| disk.crash(disk.calls(), cut));
                    (store, map) = open(&disk, stripes);
                }
                operation => {
                    let (writes, done) = run(&store, &map, &reference, operation);
                    let after = after(&reference, &writes);
                    match done {
                        Ok(()) => {
                            prop_assert!(is_unique(&after), "{operation:?} gave a key twice");
                            reference = after;
                        }
                        Err(Error::Conflict(conflict)) => {
                            let duplicate = conflict.reason() == Reason::Duplicate;
                            let absent = writes.iter().all(|(key, value)| {
                                let needs = matches!(operation, Operation::Update(..));
                                (value.is_none() || needs) && !reference.contains_key(key)
                            });
                            prop_assert!(duplicate != absent, "{operation:?}: {conflict}");
                            prop_assert!(!duplicate || !is_unique(&after), "{conflict}");
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            compare(&map, &reference);
        }
    }
}

#[test]
fn g1_index_and_entities_agree_after_many_threads() {
    everywhere(|configuration, store| {
        let map = employees(&store);
        let (running, landed) = (AtomicBool::new(true), AtomicU64::new(0));
        let id = |random: &mut fastrand::Rng| format!("L-{}", random.u8(..6));
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|seed| {
                    let (map, store, landed) = (&map, &store, &landed);
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed);
                        for _ in 0..300 {
                            let (one, other) = (random.u8(..8), random.u8(..8));
                            let (one, other) = (format!("e-{one}"), format!("e-{other}"));
                            let value = employee("", &id(&mut random));
                            let done = match random.u8(..4) {
                                0 => map.delete(&one).if_exists().commit().map(drop),
                                1 => {
                                    map.put(&one, value.clone()).unconditional().commit().map(drop)
                                }
                                2 => map.update(&one, |e| *e = value.clone()).commit().map(drop),
                                _ => swap_or_take(store, map, &one, &other, &value),
                            };
                            match done {
                                Ok(()) => _ = landed.fetch_add(1, Ordering::Relaxed),
                                Err(error) => {
                                    let conflict = error.conflict().expect("a conflict");
                                    if conflict.reason() == Reason::Duplicate {
                                        let holder = conflict.current::<Employee>().unwrap();
                                        assert_eq!(holder.legacy_id, value.legacy_id);
                                    }
                                }
                            }
                        }
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                let mut random = fastrand::Rng::with_seed(99);
                let mut found = 0_u64;
                while running.load(Ordering::Relaxed) {
                    let legacy_id = id(&mut random);
                    // `holder` checks that the entity has what it was found by.
                    found += u64::from(crate::holder(&map, &legacy_id).is_some());
                    let both = store.transact(|tx| {
                        let one = tx.find_by(&map, "legacy_id", &*legacy_id)?;
                        let two = tx.find_by(&map, "legacy_id", "L-0")?;
                        if let (Some((one, _)), Some((two, _))) = (one, two) {
                            assert_eq!(one == two, legacy_id == "L-0", "half of a commit");
                        }
                        Ok(())
                    });
                    let both = both.commit();
                    assert!(both.is_ok() || both.unwrap_err().is_conflict());
                }
                found
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            running.store(false, Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert!(landed.load(Ordering::Relaxed) > 100, "hardly anything landed");
        check_agreement(&map, (0..6).map(|id| format!("L-{id}")));
        if configuration.is_durable() {
            drop(map);
            store.close().unwrap();
            check_agreement(&employees(&configuration.open()), (0..6).map(|id| format!("L-{id}")));
        }
    });
}

/// Swaps what two entities have, or gives what is looked up to one of them.
fn swap_or_take(
    store: &Store,
    map: &Employees,
    one: &str,
    other: &str,
    value: &Employee,
) -> ifmatch::Result<()> {
    let done = store.transact(|tx| {
        if let (Some(mine), Some(yours)) = (tx.get(map, one)?, tx.get(map, other)?) {
            tx.put(map, one, (*yours).clone())?;
            return tx.put(map, other, (*mine).clone());
        }
        let wanted = value.legacy_id.as_deref().unwrap_or_default();
        if let Some((holder, _)) = tx.find_by(map, "legacy_id", wanted)? {
            tx.delete(map, holder)?;
        }
        tx.put_if(map, one, value.clone(), Precondition::Unconditional)
    });
    done.commit().map(drop)
}
