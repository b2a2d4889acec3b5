//! Whatever happens while a snapshot is written, opening finds what the log alone would give.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::common::configurations;
use crate::support::{delete, map, picture, put, snapshot_with};
use crate::watched::{Call, Watched};
use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{Store, StoreBuilder};

const KEYS: u64 = 12;

fn builder(stripes: usize, clock: &Arc<ManualClock>) -> StoreBuilder {
    Store::builder().stripes(stripes).segment_bytes(4096).clock(clock.clone())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000)))
}

/// The disk without its snapshots: what is read of it then is the log alone.
fn log_alone(disk: &MemoryDisk) -> MemoryDisk {
    let disk = disk.power_cut(usize::MAX);
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".snapshot")) {
        disk.remove(name).unwrap();
    }
    disk
}

#[test]
fn g3_commits_go_on_while_a_snapshot_is_written() {
    for configuration in configurations().into_iter().filter(|one| one.is_durable()) {
        let store = configuration.open();
        let rows = map(&store, "rows");
        (0..KEYS).for_each(|key| put(&rows, key, key));
        let count = Rc::new(Cell::new(0));
        let (writer, done) = (rows.clone(), count.clone());
        let mid_walk = move |_| {
            // The snapshot stands still here; each of these is acknowledged meanwhile.
            done.set(done.get() + 1);
            put(&writer, done.get() % KEYS, 100 + done.get());
            true
        };
        snapshot_with(&store, mid_walk).unwrap();
        assert!(count.get() >= KEYS, "{} commits", count.get());
        let before = picture(&store, KEYS);
        drop((store, rows));
        assert_eq!(picture(&configuration.open(), KEYS), before, "{}", configuration.name);
    }
}

/// A key, and what becomes of it: `p` to put, `d` to delete; `t` lets the second pass.
type Act = (u64, char);

/// When the walk has come to this key, do these.
type Step = (u64, &'static [Act]);

#[test]
fn g3_a_key_deleted_or_created_again_during_the_walk_keeps_its_past() {
    // Before the snapshot, and during its walk, which goes through the keys in order.
    type Schedule = (&'static [Act], &'static [Step]);
    let schedules: [Schedule; 9] = [
        // Deleted after it was walked, and before.
        (&[(3, 'p')], &[(1, &[(0, 'd'), (3, 'd')])]),
        // Deleted and created again, before and behind the walk.
        (&[(3, 'p')], &[(1, &[(0, 'd'), (0, 'p'), (3, 'd'), (3, 'p')])]),
        // Gone when the walk comes by, there again afterwards.
        (&[(3, 'p')], &[(1, &[(3, 'd')]), (4, &[(3, 'p')])]),
        (&[(3, 'p')], &[(1, &[(3, 'd')]), (4, &[(3, 'p'), (3, 'd')])]),
        // A remembered deletion makes way for an entity behind the walk: it shares the second.
        (&[(0, 'd')], &[(4, &[(0, 'p')])]),
        (&[(3, 'd')], &[(1, &[(3, 'p')])]),
        (&[(3, 'd')], &[(1, &[(3, 'p')]), (4, &[(3, 'd')])]),
        // The same in another second.
        (&[(3, 'd'), (0, 't')], &[(1, &[(3, 'p')]), (4, &[(0, 't'), (0, 'd'), (0, 'p')])]),
        // A new key on either side, gone again.
        (&[(9, 'd')], &[(1, &[(9, 'p'), (10, 'p')]), (4, &[(9, 'd'), (0, 'd')])]),
    ];
    for stripes in [1, 64] {
        for (number, (before, steps)) in schedules.iter().enumerate() {
            let (disk, clock) = (MemoryDisk::new(), clock());
            let store = builder(stripes, &clock).open_on(Arc::new(disk.clone())).unwrap();
            let rows = map(&store, "rows");
            (0..10).for_each(|key| put(&rows, key, key));
            let act = {
                let (rows, clock) = (rows.clone(), clock.clone());
                move |(key, what): &Act| match what {
                    'p' => put(&rows, *key, 1_000 + key),
                    'd' => delete(&rows, *key),
                    _ => clock.advance(Duration::from_secs(2)),
                }
            };
            before.iter().for_each(&act);
            // So that what was before has settled, where one stripe has all.
            (5..9).for_each(|key| put(&rows, key, key));
            let mut left: Vec<Step> = steps.to_vec();
            let hook = move |value: u64| {
                while left.first().is_some_and(|(key, _)| *key <= value && value < 1_000) {
                    left.remove(0).1.iter().for_each(&act);
                }
                true
            };
            snapshot_with(&store, hook).unwrap();
            let expected = picture(&store, 12);
            drop((store, rows));
            for disk in [log_alone(&disk), disk] {
                let store = builder(stripes, &clock).open_on(Arc::new(disk)).unwrap();
                assert_eq!(picture(&store, 12), expected, "schedule {number}, {stripes} stripes");
            }
        }
    }
}

#[test]
fn g3_a_hundred_random_interleavings_end_as_the_log_alone_says() {
    let mut snapshots = 0;
    for seed in 0..100 {
        let random = Rc::new(RefCell::new(fastrand::Rng::with_seed(seed)));
        let (disk, clock) = (MemoryDisk::new(), clock());
        let stripes = [1, 4, 64][seed as usize % 3];
        let mut store = builder(stripes, &clock).open_on(Arc::new(disk.clone())).unwrap();
        // Segments that pruning removes are kept aside: the log alone must be whole.
        let act = |store: &Store, random: &Rc<RefCell<fastrand::Rng>>, clock: &Arc<ManualClock>| {
            let (name, key, value, what) = {
                let mut random = random.borrow_mut();
                let name = ["one", "two", "three"][random.usize(..3)];
                (name, random.u64(..KEYS), random.u64(..), random.u8(..10))
            };
            let rows = map(store, name);
            match what {
                0..5 => put(&rows, key, value),
                5..9 => drop(rows.delete(key).unconditional().by("carl").commit()),
                _ => clock.advance(Duration::from_millis(400)),
            }
        };
        for _ in 0..4 {
            let before = random.borrow_mut().u8(..40);
            let after = random.borrow_mut().u8(..10);
            (0..before).for_each(|_| act(&store, &random, &clock));
            if random.borrow_mut().bool() {
                let (within, random, clock) = (store.clone(), random.clone(), clock.clone());
                let hook = move |_| {
                    let times = random.borrow_mut().u8(..3);
                    (0..times).for_each(|_| act(&within, &random, &clock));
                    true
                };
                snapshot_with(&store, hook).unwrap();
                snapshots += 1;
            }
            (0..after).for_each(|_| act(&store, &random, &clock));
            let expected = picture(&store, KEYS);
            if random.borrow_mut().bool() {
                store.close().unwrap();
            } else {
                drop(store);
            }
            store = builder(stripes, &clock).open_on(Arc::new(disk.clone())).unwrap();
            assert_eq!(picture(&store, KEYS), expected, "seed {seed}");
            // Without the snapshots, as long as nothing was removed for them.
            let alone = log_alone(&disk);
            if alone.list().unwrap().iter().any(|name| name == "00000000000000000001.log") {
                let alone = builder(stripes, &clock).open_on(Arc::new(alone)).unwrap();
                assert_eq!(picture(&alone, KEYS), expected, "seed {seed}, log alone");
            }
        }
    }
    assert!(snapshots > 100, "{snapshots} snapshots");
}

#[test]
fn g3_after_a_power_cut_at_any_disk_call_all_that_was_acknowledged_is_there() {
    for (stripes, survivors) in [(1, 0), (64, 0), (1, usize::MAX)] {
        let (disk, clock) = (MemoryDisk::new(), clock());
        let images = Arc::new(std::sync::Mutex::new(Vec::new()));
        let watched = {
            let (disk, images) = (disk.clone(), images.clone());
            Watched::new(disk.clone(), move |_: Call, _: &str| {
                images.lock().unwrap().push(disk.power_cut(survivors));
                Ok(())
            })
        };
        let open = |disk: Arc<dyn Disk>| builder(stripes, &clock).open_on(disk);
        let mut checked = 0;
        // What was acknowledged before the calls that follow, and what may be there after them.
        let mut check = |before: &crate::support::Picture, after: &crate::support::Picture| {
            for image in images.lock().unwrap().drain(..) {
                let found = picture(&open(Arc::new(image)).unwrap(), KEYS);
                for (place, state) in &found {
                    let allowed = [before.get(place), after.get(place)];
                    assert!(allowed.contains(&Some(state)), "{place:?}: {state} {allowed:?}");
                }
                assert!(before.keys().all(|place| found.contains_key(place)));
                checked += 1;
            }
        };
        let store = open(Arc::new(watched)).unwrap();
        images.lock().unwrap().clear();
        let mut random = fastrand::Rng::with_seed(7);
        let mut before = picture(&store, KEYS);
        for turn in 0..120 {
            let rows = map(&store, ["one", "two"][turn % 2]);
            let key = random.u64(..KEYS);
            match random.u8(..4) {
                0 => drop(rows.delete(key).unconditional().commit()),
                _ => put(&rows, key, turn as u64),
            }
            if turn % 25 == 24 {
                let after = picture(&store, KEYS);
                check(&before, &after);
                before = after;
                let writer = rows.clone();
                snapshot_with(&store, move |value| {
                    // Acknowledged in the middle of it; may be missing before.
                    if value % 5 == 0 {
                        put(&writer, 11, value);
                    }
                    true
                })
                .unwrap();
                // In between, key 11 was anything it ever was.
                let place = (rows.name().to_owned(), 11);
                let images: Vec<_> = images.lock().unwrap().drain(..).collect();
                for image in images {
                    let mut found = picture(&open(Arc::new(image)).unwrap(), KEYS);
                    let mut expected = before.clone();
                    found.remove(&place);
                    expected.remove(&place);
                    assert_eq!(found, expected);
                }
            }
            let after = picture(&store, KEYS);
            check(&before, &after);
            before = after;
        }
        let removed = !disk.list().unwrap().contains(&"00000000000000000001.log".to_owned());
        assert!(removed, "the log was never cut, so that was not tested");
        assert!(checked > 200, "{checked} power cuts");
    }
}
