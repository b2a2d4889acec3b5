//! Whatever happens while a snapshot is written, the history in it and in the log behind it is
//! what the log alone would give.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::support::{Map, Value, delete, put, snapshot_with};
use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{HistoryEntry, Store, StoreBuilder};

const KEYS: u64 = 10;

fn builder(stripes: usize, clock: &Arc<ManualClock>) -> StoreBuilder {
    Store::builder().stripes(stripes).segment_bytes(4096).clock(clock.clone())
}

fn rows(store: &Store, history: u32) -> Map {
    store.declare("rows").history(history).open().unwrap()
}

/// All that can be told of the past of each key.
fn histories(rows: &Map) -> Vec<Vec<String>> {
    let told = |entry: &HistoryEntry<Value>| match entry {
        HistoryEntry::Entity(entity) => format!("{:?} {:?}", **entity, entity.metadata()),
        HistoryEntry::Deleted(deletion) => format!("{deletion:?}"),
    };
    (0..KEYS).map(|key| rows.history(key).unwrap().iter().map(told).collect()).collect()
}

/// The disk, and the disk without its snapshots, as long as the log is whole.
fn images(disk: &MemoryDisk) -> Vec<MemoryDisk> {
    let (with, without) = (disk.power_cut(usize::MAX), disk.power_cut(usize::MAX));
    let names = without.list().unwrap();
    for name in names.iter().filter(|name| name.ends_with(".snapshot")) {
        without.remove(name).unwrap();
    }
    let is_whole = names.iter().any(|name| name == "00000000000000000001.log");
    std::iter::once(with).chain(is_whole.then_some(without)).collect()
}

/// Holds what is on the disk against the store: with the snapshots, and with the log alone.
fn check(disk: &MemoryDisk, stripes: usize, clock: &Arc<ManualClock>, live: &Map, what: &str) {
    let expected = histories(live);
    for (without, disk) in images(disk).into_iter().enumerate() {
        let store = builder(stripes, clock).open_on(Arc::new(disk)).unwrap();
        let found = histories(&store.collection("rows").unwrap());
        assert_eq!(found, expected, "{what}, {without} without snapshots");
    }
}

#[test]
fn g3_what_leaves_its_key_during_the_walk_is_not_lost() {
    // When the walk comes to the key, `d`elete or `p`ut these; twice is there and back.
    type Step = (u64, &'static [(u64, char)]);
    let schedules: [&[Step]; 6] = [
        // Behind the walk, and before it comes.
        &[(1, &[(0, 'p'), (3, 'p')])],
        &[(1, &[(0, 'd'), (3, 'd')])],
        &[(1, &[(3, 'd'), (5, 'p')]), (4, &[(3, 'p'), (0, 'd'), (0, 'p')])],
        // It is not there when the walk comes by, and was not there when deletions were walked.
        &[(0, &[(3, 'd'), (5, 'p'), (6, 'p')]), (4, &[(3, 'p'), (3, 'd'), (3, 'p')])],
        // More often than is kept.
        &[(1, &[(3, 'p'), (3, 'p'), (3, 'p'), (3, 'p')]), (4, &[(3, 'p'), (3, 'd'), (3, 'p')])],
        &[(2, &[(0, 'p'), (0, 'p'), (0, 'd'), (0, 'p'), (8, 'p'), (8, 'd')])],
    ];
    for stripes in [1, 64] {
        for history in [1, 2, 5] {
            for (number, steps) in schedules.iter().enumerate() {
                let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000)));
                let disk = MemoryDisk::new();
                let store = builder(stripes, &clock).open_on(Arc::new(disk.clone())).unwrap();
                let live = rows(&store, history);
                for value in 0..2 {
                    (0..8).for_each(|key| put(&live, key, 100 * value + key));
                    clock.advance(Duration::from_millis(700));
                }
                delete(&live, 7);
                let act = {
                    let live = live.clone();
                    move |(key, what): &(u64, char)| match what {
                        'p' => put(&live, *key, 1_000 + key),
                        _ => delete(&live, *key),
                    }
                };
                let mut left = steps.to_vec();
                let hook = move |value: u64| {
                    while left.first().is_some_and(|(key, _)| 100 + key <= value && value < 1_000) {
                        left.remove(0).1.iter().for_each(&act);
                    }
                    true
                };
                snapshot_with(&store, hook).unwrap();
                let what = format!("schedule {number}, {stripes} stripes, {history} kept");
                check(&disk, stripes, &clock, &live, &what);
            }
        }
    }
}

#[test]
fn g3_history_through_random_interleavings_is_what_the_log_alone_says() {
    let mut snapshots = 0;
    for seed in 0..200 {
        let random = Rc::new(RefCell::new(fastrand::Rng::with_seed(seed)));
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000)));
        let (disk, stripes) = (MemoryDisk::new(), [1, 4, 64][seed as usize % 3]);
        let history = 1 + seed as u32 % 5;
        for _ in 0..3 {
            let store = builder(stripes, &clock).open_on(Arc::new(disk.clone())).unwrap();
            let live = rows(&store, history);
            let act = {
                let (live, random, clock) = (live.clone(), random.clone(), clock.clone());
                move || {
                    let (key, value, what) = {
                        let mut random = random.borrow_mut();
                        (random.u64(..KEYS), random.u64(..), random.u8(..10))
                    };
                    match what {
                        0..5 => put(&live, key, value),
                        5..9 => drop(live.delete(key).unconditional().by("carl").commit()),
                        _ => clock.advance(Duration::from_millis(400)),
                    }
                }
            };
            let before = random.borrow_mut().u8(..60);
            (0..before).for_each(|_| act());
            let (within, drawn) = (act.clone(), random.clone());
            let hook = move |_| {
                let times = drawn.borrow_mut().u8(..4);
                (0..times).for_each(|_| within());
                true
            };
            snapshot_with(&store, hook).unwrap();
            snapshots += 1;
            check(&disk, stripes, &clock, &live, &format!("seed {seed}, at the end of a snapshot"));
            let after = random.borrow_mut().u8(..10);
            (0..after).for_each(|_| act());
            check(&disk, stripes, &clock, &live, &format!("seed {seed}"));
        }
    }
    assert_eq!(snapshots, 600);
}
