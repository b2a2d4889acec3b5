//! Earlier versions: which are shown, that they survive, and that they are bounded.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};

use common::everywhere;
use common::hooked::{Call, Hooked};
use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Collection, Error, HistoryEntry, Limit, Reason, Store, Version};
use proptest::prelude::*;

type Map = Collection<u64, u64>;

fn map(store: &Store, history: u32) -> Map {
    store.declare("map").history(history).open().unwrap()
}

/// Version, value if there was one, and by whom.
type Line = (u64, Option<u64>, Option<String>);

fn lines(map: &Map, key: u64) -> Vec<Line> {
    let history = map.history(key).unwrap();
    for entry in &history {
        let at = map.get_at(key, entry.version()).unwrap();
        let expected = entry.entity().map(|entity| (**entity, entity.created_at()));
        assert_eq!(at.map(|entity| (*entity, entity.created_at())), expected);
    }
    let times: Vec<_> = history.iter().map(HistoryEntry::at).collect();
    assert!(times.is_sorted_by(|later, earlier| later >= earlier));
    let line = |entry: &HistoryEntry<u64>| {
        let value = entry.entity().map(|entity| **entity);
        (entry.version().get(), value, entry.by().map(str::to_owned))
    };
    history.iter().map(line).collect()
}

fn put(map: &Map, key: u64, value: u64) -> Version {
    map.put(key, value).unconditional().by("ann").commit().unwrap().version()
}

fn puts(map: &Map, values: std::ops::Range<u64>) {
    for value in values {
        put(map, 1, value);
    }
}

#[test]
fn g3_history_has_the_newest_first_and_tells_of_deletions() {
    everywhere(|configuration, store| {
        let rows = map(&store, 3);
        assert!(lines(&rows, 1).is_empty(), "{}", configuration.name);
        let mut expected = Vec::new();
        for value in 1..=3 {
            let version = put(&rows, 1, value);
            expected.insert(0, (version.get(), Some(value), Some("ann".to_owned())));
            put(&rows, 2, value);
            assert_eq!(lines(&rows, 1), expected);
        }
        let gone = rows.delete(1).if_exists().by("bob").commit().unwrap().version();
        expected.insert(0, (gone.get(), None, Some("bob".to_owned())));
        assert_eq!(lines(&rows, 1), expected, "the deletion is the newest");
        assert!(rows.get(1).unwrap().is_none());
        assert!(rows.get_at(1, gone).unwrap().is_none());
        let version = put(&rows, 1, 4);
        expected.insert(0, (version.get(), Some(4), Some("ann".to_owned())));
        let oldest = expected.pop().unwrap();
        assert_eq!(lines(&rows, 1), expected, "three earlier ones, no more");
        assert!(rows.get_at(1, Version::new(oldest.0).unwrap()).unwrap().is_none());
        assert!(rows.get_at(2, version).unwrap().is_none(), "it is of another key");
        if configuration.is_durable() {
            drop((rows, store));
            for _ in 0..2 {
                let store = configuration.open();
                // Whoever does not say how many gets as many as before.
                let rows = store.collection::<u64, u64>("map").unwrap();
                assert_eq!(lines(&rows, 1), expected, "{}", configuration.name);
                store.snapshot().unwrap();
            }
        }
    });
}

#[test]
fn g12_history_is_kept_if_asked_for_and_bounded() {
    everywhere(|_, store| {
        let none = store.collection::<u64, u64>("none").unwrap();
        puts(&none, 0..5);
        assert_eq!(lines(&none, 1).len(), 1);
        let error = store.declare::<u64, u64>("map").history(1_001).open().unwrap_err();
        let Error::Limit { limit: Limit::History, allowed: 1_000, actual: 1_001, place } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(place, "map");
        let most = map(&store, 1_000);
        puts(&most, 0..1_100);
        let values: Vec<_> = lines(&most, 1).into_iter().map(|line| line.1.unwrap()).collect();
        assert_eq!(values, (99..1_100).rev().collect::<Vec<_>>());
        let error = store.declare::<u64, u64>("map").history(2).open().unwrap_err();
        let said = error.to_string();
        assert!(said.contains("1000 earlier versions of each key, not 2"), "{said}");
    });
}

#[test]
fn g12_a_forgotten_deletion_takes_the_history_of_its_key_along() {
    let limits = ifmatch::Limits { deletions: 1, ..ifmatch::Limits::default() };
    let store = Store::builder().stripes(1).limits(limits).in_memory();
    let rows = map(&store, 5);
    for key in [1, 2] {
        put(&rows, key, key);
        rows.delete(key).if_exists().commit().unwrap();
    }
    assert!(lines(&rows, 1).is_empty());
    assert_eq!(lines(&rows, 2).len(), 2);
    put(&rows, 1, 1);
    assert_eq!(lines(&rows, 1).len(), 1);
}

#[test]
fn g12_the_number_of_versions_can_be_changed_when_the_store_opens() {
    for stripes in [1, 64] {
        for snapshot in [false, true] {
            let disk = MemoryDisk::new();
            let values = |rows: &Map| -> Vec<u64> {
                lines(rows, 1).into_iter().map(|line| line.1.unwrap()).collect()
            };
            let in_life = |history: Option<u32>, work: &dyn Fn(&Map)| {
                let builder = Store::builder().stripes(stripes);
                let store = builder.open_on(Arc::new(disk.clone())).unwrap();
                let rows = match history {
                    Some(history) => map(&store, history),
                    None => store.collection("map").unwrap(),
                };
                work(&rows);
                if snapshot {
                    store.snapshot().unwrap();
                }
            };
            in_life(None, &|rows| puts(rows, 0..4));
            in_life(Some(2), &|rows| {
                assert_eq!(values(rows), [3], "nothing was kept so far");
                puts(rows, 4..8);
                assert_eq!(values(rows), [7, 6, 5]);
            });
            in_life(None, &|rows| assert_eq!(values(rows), [7, 6, 5]));
            in_life(Some(4), &|rows| {
                assert_eq!(values(rows), [7, 6, 5]);
                puts(rows, 8..10);
                assert_eq!(values(rows), [9, 8, 7, 6, 5]);
            });
            in_life(None, &|rows| assert_eq!(values(rows), [9, 8, 7, 6, 5]));
            in_life(Some(1), &|rows| {
                assert_eq!(values(rows), [9, 8]);
                put(rows, 1, 10);
                assert_eq!(values(rows), [10, 9]);
            });
            in_life(None, &|rows| assert_eq!(values(rows), [10, 9]));
            in_life(Some(0), &|rows| {
                assert_eq!(values(rows), [10]);
                put(rows, 2, 0);
            });
            in_life(Some(3), &|rows| assert_eq!(values(rows), [10], "{snapshot}"));
        }
    }
}

/// Lets as many syncs of a disk pass as it has permits for.
struct Gate {
    permits: Mutex<u64>,
    arrived: AtomicU64,
    moved: Condvar,
}

impl Gate {
    fn give(&self, permits: u64) {
        *self.permits.lock().unwrap() = permits;
        self.moved.notify_all();
    }

    fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let permits = self.permits.lock().unwrap();
        *self.moved.wait_while(permits, |permits| *permits == 0).unwrap() -= 1;
    }

    /// Waits until a sync waits that is not one of the first `before`.
    fn wait_for_sync(&self, before: u64) {
        while self.arrived.load(Ordering::Relaxed) <= before {
            std::thread::yield_now();
        }
    }
}

/// Opens the gate for ever, should the test fail: the store would wait while it is dropped.
struct Opened(Arc<Gate>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.give(u64::MAX);
    }
}

#[test]
fn g3_pending_versions_of_a_hot_key_push_out_none_that_may_be_seen() {
    for stripes in [1, 64] {
        let (permits, arrived) = (Mutex::new(u64::MAX), AtomicU64::new(0));
        let gate = Arc::new(Gate { permits, arrived, moved: Condvar::new() });
        let hooked = {
            let gate = gate.clone();
            Hooked::new(MemoryDisk::new(), move |call| {
                if matches!(call, Call::Sync) {
                    gate.pass();
                }
                Ok(())
            })
        };
        let builder = Store::builder().stripes(stripes);
        let store = builder.open_on(Arc::new(hooked)).unwrap();
        let rows = map(&store, 3);
        let _opened = Opened(gate.clone());
        let values =
            || -> Vec<u64> { lines(&rows, 1).into_iter().map(|line| line.1.unwrap()).collect() };
        for value in 0..6 {
            put(&rows, 1, value);
        }
        assert_eq!(values(), [5, 4, 3, 2]);
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Vec::new();
        let mut write = |key, value| {
            let mut write = Box::pin(rows.put(key, value).unconditional().into_future());
            assert!(write.as_mut().poll(&mut context).is_pending());
            waiting.push(write);
        };
        gate.give(0);
        let before = gate.arrived.load(Ordering::Relaxed);
        write(2, 0);
        gate.wait_for_sync(before);
        // Into the open frame, many more than are kept.
        for value in 6..50 {
            write(1, value);
            assert_eq!(values(), [5, 4, 3, 2], "{value} is not durable");
        }
        gate.give(1);
        gate.wait_for_sync(before + 1);
        // That frame is being synced; into the next.
        for value in 50..100 {
            write(1, value);
            assert_eq!(values(), [5, 4, 3, 2], "{value} is not durable");
        }
        gate.give(1);
        gate.wait_for_sync(before + 2);
        assert_eq!(values(), [49, 48, 47, 46], "the first of the two frames is durable");
        gate.give(u64::MAX);
        store.flush().unwrap();
        assert_eq!(values(), [99, 98, 97, 96]);
        put(&rows, 1, 100);
        assert_eq!(values(), [100, 99, 98, 97]);
    }
}

#[test]
fn g3_no_reader_sees_a_gap_while_writers_race() {
    everywhere(|configuration, store| {
        let rows = map(&store, 4);
        rows.create(1, 0).commit().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            rows.update(1, |value| *value += 1).commit().unwrap();
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let history = rows.history(1).unwrap();
                    let values: Vec<u64> = history.iter().map(|e| **e.entity().unwrap()).collect();
                    let newest = values[0];
                    let expected: Vec<_> = (newest.saturating_sub(4)..=newest).rev().collect();
                    assert_eq!(values, expected, "{}", configuration.name);
                }
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(lines(&rows, 1)[0].1, Some(400));
    });
}

#[test]
fn g2_a_migration_begins_the_history_anew() {
    for stripes in [1, 64] {
        let disk = MemoryDisk::new();
        let open = || Store::builder().stripes(stripes).open_on(Arc::new(disk.clone())).unwrap();
        let store = open();
        let rows = map(&store, 5);
        puts(&rows, 0..3);
        put(&rows, 2, 0);
        rows.delete(2).if_exists().commit().unwrap();
        drop((rows, store));
        let migrated = |store: &Store| {
            let declared = store.declare::<u64, String>("map").schema(2);
            declared.migrate(1, |number: u64| format!("{number}!")).open().unwrap()
        };
        let texts = |rows: &Collection<u64, String>, key| -> Vec<Option<String>> {
            let history = rows.history(key).unwrap();
            history.iter().map(|e| e.entity().map(|text| (**text).clone())).collect()
        };
        let text = |text: &str| Some(text.to_owned());
        let store = open();
        let rows = migrated(&store);
        assert_eq!(texts(&rows, 1), [text("2!")]);
        assert_eq!(texts(&rows, 2), [None], "the deletion is remembered");
        rows.put(1, "3!".to_owned()).if_exists().commit().unwrap();
        rows.create(2, "0!".to_owned()).commit().unwrap();
        drop((rows, store));
        for _ in 0..2 {
            let store = open();
            let rows = migrated(&store);
            assert_eq!(texts(&rows, 1), [text("3!"), text("2!")], "{stripes} stripes");
            assert_eq!(texts(&rows, 2), [text("0!"), None], "{stripes} stripes");
            store.snapshot().unwrap();
        }
    }
}

#[test]
fn g1_a_stale_write_finds_its_base_in_history() {
    everywhere(|_, store| {
        let rows = map(&store, 2);
        let v1 = put(&rows, 1, 10);
        put(&rows, 1, 11);
        let refused = rows.put(1, 12).if_match(v1).commit().unwrap_err();
        let conflict = refused.conflict().unwrap();
        assert_eq!(conflict.reason(), Reason::StaleVersion);
        assert_eq!(*rows.get_at(1, conflict.expected()[0]).unwrap().unwrap(), 10);
    });
}

/// What a run does.
#[derive(Clone, Debug)]
enum Operation {
    Put(u64, u64),
    Delete(u64),
    Snapshot,
    /// Closed or cut off, then opened with so many versions, or with what was.
    Reopen(bool, Option<u32>),
}

fn operation() -> impl Strategy<Value = Operation> {
    let reopen = (any::<bool>(), prop::option::weighted(0.5, 0..5u32));
    prop_oneof![
        12 => (0..4u64, any::<u64>()).prop_map(|(key, value)| Operation::Put(key, value)),
        4 => (0..4u64).prop_map(Operation::Delete),
        1 => Just(Operation::Snapshot),
        2 => reopen.prop_map(|(clean, history)| Operation::Reopen(clean, history)),
    ]
}

/// All that happened to a key, the oldest first, and how much of it has to be shown.
#[derive(Default)]
struct Past {
    states: Vec<(u64, Option<u64>)>,
    kept: usize,
}

impl Past {
    fn add(&mut self, version: Version, value: Option<u64>, history: usize) {
        self.kept = (self.kept + 1).min(history).min(self.states.len());
        self.states.push((version.get(), value));
    }
}

fn check(rows: &Map, model: &BTreeMap<u64, Past>, history: usize) {
    for (key, past) in model {
        let found = lines(rows, *key).into_iter();
        let found: Vec<_> = found.map(|(version, value, _)| (version, value)).collect();
        let newest = past.states.iter().rev().take(found.len()).copied();
        assert_eq!(found, newest.collect::<Vec<_>>(), "key {key} has a gap");
        let earlier = found.len() - 1;
        assert!((past.kept..=history).contains(&earlier), "key {key}: {earlier} of {}", past.kept);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn g3_history_is_what_a_list_of_all_commits_says(
        operations in prop::collection::vec(operation(), 1..80),
        stripes in prop::sample::select(vec![1, 64]),
        mut history in 0..5u32,
    ) {
        let mut disk = MemoryDisk::new();
        let builder = || Store::builder().stripes(stripes).segment_bytes(4096);
        let mut store = builder().open_on(Arc::new(disk.clone())).unwrap();
        let mut rows = map(&store, history);
        let mut model: BTreeMap<u64, Past> = BTreeMap::new();
        let mut told = false;
        for operation in operations {
            match operation {
                Operation::Put(key, value) => {
                    let version = put(&rows, key, value);
                    model.entry(key).or_default().add(version, Some(value), history as usize);
                    told = true;
                }
                Operation::Delete(key) => match rows.delete(key).unconditional().commit() {
                    Ok(done) => {
                        let past = model.entry(key).or_default();
                        past.add(done.version(), None, history as usize);
                        told = true;
                    }
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                },
                Operation::Snapshot => store.snapshot().unwrap(),
                Operation::Reopen(clean, wanted) => {
                    if clean {
                        store.clone().close().unwrap();
                    } else {
                        disk = disk.power_cut(0);
                    }
                    store = builder().open_on(Arc::new(disk.clone())).unwrap();
                    // A number that no write came after is not stored yet.
                    let wanted = wanted.or((!told).then_some(history));
                    (history, told) = (wanted.unwrap_or(history), wanted.is_none());
                    rows = match wanted {
                        Some(history) => map(&store, history),
                        None => store.collection("map").unwrap(),
                    };
                    for past in model.values_mut() {
                        past.kept = past.kept.min(history as usize);
                    }
                }
            }
            check(&rows, &model, history as usize);
        }
    }
}

#[test]
fn g3_a_power_cut_leaves_the_history_that_was_acknowledged() {
    let disk = MemoryDisk::new();
    let store = Store::builder().segment_bytes(4096).open_on(Arc::new(disk.clone())).unwrap();
    let rows = map(&store, 3);
    let mut random = fastrand::Rng::with_seed(5);
    let mut cuts = 0;
    for turn in 0..150 {
        let key = random.u64(..3);
        match random.u8(..4) {
            0 => drop(rows.delete(key).unconditional().commit()),
            _ => {
                put(&rows, key, turn);
            }
        }
        if turn % 40 == 39 {
            store.snapshot().unwrap();
        }
        for survivors in [0, 1, usize::MAX] {
            let left = disk.power_cut(survivors);
            let again = Store::builder().open_on(Arc::new(left)).unwrap();
            let found = again.collection::<u64, u64>("map").unwrap();
            for key in 0..3 {
                assert_eq!(lines(&found, key), lines(&rows, key), "turn {turn}");
            }
            cuts += 1;
        }
    }
    assert!(disk.list().unwrap().iter().any(|name| name.ends_with(".snapshot")));
    assert_eq!(cuts, 450);
}
