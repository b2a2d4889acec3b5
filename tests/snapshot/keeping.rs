//! What snapshots keep, what they let go, and that nothing they do harms the store.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::UNIX_EPOCH;

use crate::common::configurations;
use crate::common::hooked::Gate;
use crate::support::{delete, map, picture, put, snapshot_with, state};
use crate::watched::{Call, Watched};
use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{Error, Phase, Store, StoreBuilder};

fn builder() -> StoreBuilder {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
    Store::builder().stripes(4).segment_bytes(4096).clock(clock)
}

fn open(disk: &MemoryDisk) -> Store {
    builder().open_on(Arc::new(disk.clone())).unwrap()
}

fn files(disk: &impl Disk, suffix: &str) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(suffix)).collect()
}

/// The first version in a segment.
fn first_version(disk: &MemoryDisk, name: &str) -> u64 {
    u64::from_le_bytes(disk.read(name).unwrap()[40..48].try_into().unwrap())
}

#[test]
fn segments_go_only_behind_the_older_of_two_snapshots_and_in_order() {
    let removed = Arc::new(Mutex::new(Vec::new()));
    let log = removed.clone();
    let watched = Watched::new(MemoryDisk::new(), move |call, name| {
        if call == Call::Remove {
            log.lock().unwrap().push(name.to_owned());
        }
        Ok(())
    });
    let store = builder().open_on(Arc::new(watched.clone())).unwrap();
    let rows = map(&store, "rows");
    let mut starts: Vec<u64> = Vec::new();
    for turn in 0..5 {
        (0..150).for_each(|key| put(&rows, key % 10, key));
        let version = rows.get(9).unwrap().unwrap().version().get();
        store.snapshot().unwrap();
        starts.push(version);
        let names: Vec<String> = starts
            .iter()
            .rev()
            .take(2)
            .rev()
            .map(|start| format!("{start:020}.snapshot"))
            .collect();
        assert_eq!(files(&watched, ".snapshot"), names);
        let logs = files(&watched, ".log");
        if turn == 0 {
            assert!(removed.lock().unwrap().is_empty(), "one snapshot lets nothing go");
            continue;
        }
        let older = starts[turn - 1];
        assert!(first_version(&watched.disk, &logs[0]) <= older + 1, "needed, and gone");
        assert!(first_version(&watched.disk, &logs[1]) > older + 1, "not needed, and there");
    }
    let removed = removed.lock().unwrap();
    let logs: Vec<&String> = removed.iter().filter(|name| name.ends_with(".log")).collect();
    assert!(logs.len() > 5 && logs.is_sorted(), "{logs:?}");
}

#[test]
fn g10_a_damaged_newest_lets_neither_the_older_nor_its_log_go() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let rows = map(&store, "rows");
    for _ in 0..3 {
        (0..150).for_each(|key| put(&rows, key % 10, key));
        store.snapshot().unwrap();
    }
    store.close().unwrap();
    drop(rows);
    let before = files(&disk, ".snapshot");
    disk.damage(&before[1], |bytes| bytes[80] ^= 1);
    let store = open(&disk);
    let logs = files(&disk, ".log");
    put(&map(&store, "rows"), 1, 1);
    store.snapshot().unwrap();
    // Known to be whole are the older one and the new one.
    let after = files(&disk, ".snapshot");
    assert_eq!((after.len(), &after[..2]), (3, &before[..]));
    assert_eq!(files(&disk, ".log")[0], logs[0]);
    put(&map(&store, "rows"), 1, 2);
    store.snapshot().unwrap();
    assert_eq!(files(&disk, ".snapshot").len(), 2, "old ones go, damaged or not");
    assert_eq!(files(&disk, ".snapshot")[0], after[2]);
}

#[test]
fn nothing_new_is_no_new_snapshot() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    store.snapshot().unwrap();
    assert!(files(&disk, ".snapshot").is_empty());
    put(&map(&store, "rows"), 1, 1);
    store.snapshot().unwrap();
    let bytes = disk.read(&files(&disk, ".snapshot")[0]).unwrap();
    store.snapshot().unwrap();
    assert_eq!(files(&disk, ".snapshot").len(), 1);
    assert_eq!(disk.read(&files(&disk, ".snapshot")[0]).unwrap(), bytes);
    Store::in_memory().snapshot().unwrap();
}

#[test]
fn g11_a_snapshot_that_fails_anywhere_leaves_the_store_as_it_was() {
    let reached = Arc::new(AtomicU64::new(u64::MAX));
    let (left, failed) = (reached.clone(), Arc::new(AtomicBool::new(false)));
    let has_failed = failed.clone();
    let disk =
        Watched::new(MemoryDisk::new(), move |_, _| match left.fetch_sub(1, Ordering::Relaxed) {
            0 => {
                has_failed.store(true, Ordering::Relaxed);
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        });
    let store = builder().open_on(Arc::new(disk.clone())).unwrap();
    let rows = map(&store, "rows");
    (0..10).for_each(|key| put(&rows, key, key));
    let mut failures = 0;
    for call in 0.. {
        (0..60).for_each(|key| put(&rows, key % 10, call));
        reached.store(call, Ordering::Relaxed);
        let result = store.snapshot();
        reached.store(u64::MAX, Ordering::Relaxed);
        assert!(files(&disk, ".snapshot.tmp").is_empty());
        if !failed.swap(false, Ordering::Relaxed) {
            result.unwrap();
            break;
        }
        assert!(matches!(result, Err(Error::Io { .. })), "call {call}: {result:?}");
        failures += 1;
        // Goes on, and the next attempt succeeds.
        put(&rows, 3, 7);
        let image = disk.disk.power_cut(0);
        assert_eq!(picture(&open(&image), 10), picture(&store, 10), "call {call}");
        store.snapshot().unwrap();
    }
    assert!(failures > 8, "{failures} calls failed");
    assert_eq!(picture(&open(&disk.disk.power_cut(0)), 10), picture(&store, 10));
}

#[test]
fn g11_a_value_that_cannot_be_encoded_again_fails_the_snapshot_alone() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let rows = map(&store, "rows");
    (0..5).for_each(|key| put(&rows, key, key));
    let refused = snapshot_with(&store, |value| value != 3).unwrap_err();
    assert!(matches!(refused, Error::Encode { .. }), "{refused}");
    assert!(refused.to_string().contains("rows/3"), "{refused}");
    assert!(files(&disk, ".snapshot").is_empty() && files(&disk, ".snapshot.tmp").is_empty());
    let panicking = || snapshot_with(&store, |_| panic!("a bug of the caller's"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
    assert!(files(&disk, ".snapshot").is_empty() && files(&disk, ".snapshot.tmp").is_empty());
    put(&rows, 3, 4);
    store.snapshot().unwrap();
    assert_eq!(files(&disk, ".snapshot").len(), 1);
}

#[test]
fn closing_ends_a_snapshot_and_waits_for_it() {
    for configuration in configurations().into_iter().filter(|one| one.is_durable()) {
        let store = configuration.open();
        let rows = map(&store, "rows");
        (0..5).for_each(|key| put(&rows, key, key));
        let gate = Arc::new(Gate::default());
        gate.set_shut(true);
        std::thread::scope(|scope| {
            let (handle, held) = (store.clone(), gate.clone());
            let snapshot = scope.spawn(move || {
                snapshot_with(&handle, move |_| {
                    held.pass();
                    true
                })
            });
            gate.until_somebody_waits();
            let closing = scope.spawn(move || store.close());
            while !matches!(rows.get(1), Err(Error::Closed)) {
                std::thread::yield_now();
            }
            // It is still being written, so nobody else may have the directory.
            assert!(matches!(configuration.try_open(), Err(Error::InUse(_))));
            gate.set_shut(false);
            assert!(matches!(snapshot.join().unwrap(), Err(Error::Closed)));
            closing.join().unwrap().unwrap();
        });
        let store = configuration.open();
        assert_eq!(map(&store, "rows").len().unwrap(), 5);
        store.snapshot().unwrap();
    }
}

#[test]
fn a_second_snapshot_waits_for_the_first() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let rows = map(&store, "rows");
    put(&rows, 1, 1);
    let gate = Arc::new(Gate::default());
    gate.set_shut(true);
    std::thread::scope(|scope| {
        let held = gate.clone();
        let store = &store;
        let first = scope.spawn(move || {
            snapshot_with(store, move |_| {
                held.pass();
                true
            })
        });
        gate.until_somebody_waits();
        put(&rows, 2, 2);
        let second = scope.spawn(|| store.snapshot());
        gate.set_shut(false);
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!(files(&disk, "2.snapshot").len(), 1, "the second one has what came before it");
}

#[test]
fn temporary_files_are_removed_when_opening() {
    let disk = MemoryDisk::new();
    put(&map(&open(&disk), "rows"), 1, 1);
    for name in ["00000000000000000007.snapshot.tmp", "00000000000000000001.log.tmp", "spare.tmp"] {
        disk.create(name).unwrap();
    }
    open(&disk).close().unwrap();
    assert!(files(&disk, ".tmp").is_empty());
    // Before there is a store, what lies there is somebody else's.
    let disk = MemoryDisk::new();
    disk.create("letter.tmp").unwrap();
    open(&disk).close().unwrap();
    assert_eq!(files(&disk, ".tmp"), ["letter.tmp"]);
}

#[test]
fn g4_deletions_and_collections_that_nobody_opens_outlive_the_log() {
    for configuration in configurations().into_iter().filter(|one| one.is_durable()) {
        let open = || configuration.open_with(configuration.builder().segment_bytes(4096));
        let store = open();
        let (rows, other) = (map(&store, "rows"), map(&store, "other"));
        (0..20).for_each(|key| put(&rows, key, key));
        (0..10).for_each(|key| delete(&rows, key));
        put(&other, 1, 1);
        // Emptied, and yet there.
        put(&map(&store, "empty"), 1, 1);
        delete(&map(&store, "empty"), 1);
        let expected = picture(&store, 20);
        drop((store, rows, other));
        for life in 0..4 {
            // Nobody opens the collections, and the log that has them goes.
            let store = open();
            let busy = map(&store, "busy");
            (0..100).for_each(|key| put(&busy, key % 5, key));
            store.snapshot().unwrap();
            if life == 2 {
                let rows = map(&store, "rows");
                for key in 0..20 {
                    assert_eq!(state(&rows, key), expected[&("rows".to_owned(), key)]);
                }
                put(&busy, 1, 1);
                store.snapshot().unwrap();
            }
        }
        let mut found = picture(&open(), 20);
        found.retain(|(name, _), _| name != "busy");
        assert_eq!(found, expected, "{}", configuration.name);
    }
}

#[test]
fn g2_versions_and_times_go_on_after_a_snapshot() {
    let disk = MemoryDisk::new();
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH + std::time::Duration::from_secs(50)));
    let open = |clock: &Arc<ManualClock>| {
        let limits = ifmatch::Limits { deletions: 0, ..ifmatch::Limits::default() };
        let builder = builder().clock(clock.clone()).limits(limits);
        builder.open_on(Arc::new(disk.clone())).unwrap()
    };
    let store = open(&clock);
    let rows = map(&store, "rows");
    put(&rows, 1, 1);
    clock.advance(std::time::Duration::from_secs(50));
    put(&rows, 2, 2);
    // Forgotten at once: nothing that is left tells of the last version and its time.
    delete(&rows, 2);
    put(&rows, 3, 2);
    delete(&rows, 3);
    store.snapshot().unwrap();
    store.close().unwrap();
    drop(rows);
    files(&disk, ".log").iter().for_each(|name| disk.remove(name).unwrap());
    clock.set(UNIX_EPOCH);
    let store = open(&clock);
    put(&map(&store, "rows"), 4, 4);
    let entity = map(&store, "rows").get(4).unwrap().unwrap();
    let metadata = entity.metadata();
    assert_eq!(metadata.version().get(), 6);
    assert_eq!(metadata.written_at(), UNIX_EPOCH + std::time::Duration::from_secs(100));
}

#[test]
fn a_growing_log_brings_snapshots_by_itself_and_is_cut() {
    let (named, names) = mpsc::channel();
    let named = Mutex::new(named);
    let disk = Watched::new(MemoryDisk::new(), move |call, name| {
        if call == Call::Rename && name.ends_with(".snapshot") {
            let _ = named.lock().unwrap().send(name.to_owned());
        }
        Ok(())
    });
    let builder = builder().snapshot_after(20_000);
    let store = builder.open_on(Arc::new(disk.clone())).unwrap();
    let rows = map(&store, "rows");
    for _ in 0..3 {
        // Enough for one; more may come meanwhile.
        (0..1_000).for_each(|key| put(&rows, key % 10, key));
        names.recv().unwrap();
    }
    store.snapshot().unwrap();
    assert!(!files(&disk, ".log").contains(&"00000000000000000001.log".to_owned()));
    let expected = picture(&store, 10);
    drop((store, rows));
    assert_eq!(picture(&open(&disk.disk), 10), expected);
}

#[test]
fn opening_tells_how_far_it_is() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let rows = store.collection::<u64, String>("rows").unwrap();
    (0..40).for_each(|key| drop(rows.create(key, "x".repeat(100_000)).commit().unwrap()));
    store.snapshot().unwrap();
    store.close().unwrap();
    drop(rows);
    let told = Arc::new(Mutex::new(Vec::new()));
    let all = told.clone();
    let builder = builder().on_progress(move |progress| all.lock().unwrap().push(progress));
    builder.open_on(Arc::new(disk)).unwrap();
    let told = told.lock().unwrap();
    let of = |phase| told.iter().filter(move |now| now.phase == phase).collect::<Vec<_>>();
    let snapshot = of(Phase::Snapshot);
    assert!(snapshot.is_sorted_by_key(|now| now.done));
    for phase in [Phase::Snapshot, Phase::Log] {
        assert!(of(phase).last().is_some_and(|now| now.done == now.total), "{phase}");
    }
}
