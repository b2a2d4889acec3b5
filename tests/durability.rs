//! What each durability promises, and what a power cut may take back.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use common::block_on;
use common::hooked::{Call, Hooked};
use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{Collection, Durability, Error, Store, StoreBuilder};

const HOUR: Duration = Duration::from_secs(3_600);
const UNSYNCED: [Durability; 2] = [Durability::Interval(HOUR), Durability::None];

/// A store on a disk of which the syncs are counted.
struct Counted {
    disk: MemoryDisk,
    syncs: Arc<AtomicU64>,
    store: Store,
    map: Collection<u64, u64>,
}

fn open(builder: StoreBuilder) -> Counted {
    open_on(&MemoryDisk::new(), builder)
}

fn open_on(disk: &MemoryDisk, builder: StoreBuilder) -> Counted {
    let syncs = Arc::new(AtomicU64::new(0));
    let hooked = {
        let syncs = syncs.clone();
        Hooked::new(disk.clone(), move |call| {
            if matches!(call, Call::Sync) {
                syncs.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    let store = builder.open_on(Arc::new(hooked)).unwrap();
    let map = store.collection("map").unwrap();
    // The first write starts a segment, and syncs its header.
    let other = store.collection::<u8, u8>("other").unwrap();
    other.put(1, 1).unconditional().commit().unwrap();
    store.flush().unwrap();
    syncs.store(0, Ordering::Relaxed);
    Counted { disk: disk.clone(), syncs, store, map }
}

/// Keys that are there after a power cut at this moment.
fn after_power_cut(disk: &MemoryDisk) -> usize {
    let store = Store::builder().open_on(Arc::new(disk.power_cut(0))).unwrap();
    store.collection::<u64, u64>("map").unwrap().len().unwrap()
}

/// Another thread does it, sooner or later.
fn until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn g3_without_sync_answers_do_not_wait_and_flush_makes_durable() {
    for durability in UNSYNCED {
        let Counted { disk, syncs, store, map } = open(Store::builder().durability(durability));
        for key in 0..10 {
            map.create(key, key).commit().unwrap();
        }
        block_on(map.create(10, 10)).unwrap();
        map.update(10, |value| *value += 1).commit().unwrap();
        assert!(map.create(10, 0).commit().unwrap_err().is_conflict());
        assert_eq!((map.len().unwrap(), *map.get(10).unwrap().unwrap()), (11, 11));
        assert_eq!(syncs.load(Ordering::Relaxed), 0, "{durability:?}");
        assert_eq!(after_power_cut(&disk), 0);
        store.flush().unwrap();
        assert_eq!(after_power_cut(&disk), 11);
        map.create(11, 11).commit().unwrap();
        store.close().unwrap();
        assert_eq!(after_power_cut(&disk), 12);
    }
}

#[test]
fn g3_an_interval_syncs_what_was_written_when_it_is_over() {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
    let builder = Store::builder().durability(Durability::Interval(HOUR)).clock(clock.clone());
    let Counted { disk, syncs, map, .. } = open(builder);
    for round in 1..=3 {
        map.create(round, 0).commit().unwrap();
        map.update(round, |value| *value += 1).commit().unwrap();
        clock.advance(HOUR - Duration::from_millis(1));
        assert_eq!(syncs.load(Ordering::Relaxed), round - 1);
        clock.advance(Duration::from_millis(1));
        until(|| syncs.load(Ordering::Relaxed) == round);
        until(|| after_power_cut(&disk) == round as usize);
    }
}

#[test]
fn g3_without_durability_the_system_gets_each_write_soon() {
    let Counted { disk, map, .. } = open(Store::builder().durability(Durability::None));
    map.create(1, 0x6b72_616d_6b72_616d).commit().unwrap();
    let mark = [0x6d, 0x61, 0x72, 0x6b, 0x6d, 0x61, 0x72, 0x6b];
    let written = || disk.read("00000000000000000001.log").unwrap();
    until(|| written().windows(8).any(|bytes| bytes == mark));
    assert_eq!(after_power_cut(&disk), 0);
}

#[test]
fn g2_a_version_that_a_power_cut_took_back_is_not_given_out_again() {
    for durability in UNSYNCED {
        let builder = || {
            let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
            let builder = Store::builder().durability(durability).clock(clock);
            builder.segment_bytes(4096).segment_versions(8)
        };
        let mut disk = MemoryDisk::new();
        let mut highest = 0;
        for life in 0..20 {
            let Counted { map, .. } = open_on(&disk, builder());
            // Across several ceilings, ending on either side of one.
            for key in 0..20 + life {
                let version = map.put(key, life).unconditional().commit().unwrap().version();
                assert!(version.get() > highest, "{version} was given out in an earlier life");
                highest = version.get();
            }
            disk = disk.power_cut(0);
        }
    }
}

#[test]
fn g10_rot_in_the_last_write_of_an_idle_store_is_found() {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
    let Counted { disk, syncs, map, .. } = open(Store::builder().clock(clock.clone()));
    map.create(1, 7).commit().unwrap();
    let last = |disk: &MemoryDisk| {
        let bytes = disk.read("00000000000000000001.log").unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap()
    };
    let rotten = |at: usize| {
        let rotten = disk.power_cut(0);
        assert!(rotten.damage("00000000000000000001.log", |bytes| bytes[at] ^= 1));
        Store::builder().open_on(Arc::new(rotten)).map(|_| ())
    };
    let end = last(&disk);
    rotten(end).expect("it is cut like a tear");
    clock.advance(Duration::from_secs(1));
    until(|| syncs.load(Ordering::Relaxed) == 2);
    until(|| last(&disk.power_cut(0)) > end);
    assert!(matches!(rotten(end), Err(Error::Corrupt { .. })));
    // It is no clean end all the same.
    let store = Store::builder().open_on(Arc::new(disk.power_cut(0))).unwrap();
    let again = store.collection::<u64, u64>("map").unwrap();
    assert!(again.create(2, 0).commit().unwrap().version().get() > 1 << 20);
}

/// A store in which the last write, and its seal if there is one, can be told apart.
fn sealed(disk: &MemoryDisk) -> bool {
    let bytes = disk.power_cut(0).read("00000000000000000001.log").unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // One byte in place of records, none of which are counted.
    bytes[..used].last_chunk::<33>().is_some_and(|seal| seal[8..16] == [1, 0, 0, 0, 0, 0, 0, 0])
}

#[test]
fn g10_a_store_that_was_flushed_is_sealed_when_idle() {
    let second = Duration::from_secs(1);
    for durability in [Durability::Sync, Durability::Interval(HOUR), Durability::None] {
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let builder = Store::builder().durability(durability).clock(clock.clone());
        let Counted { disk, store, map, .. } = open(builder);
        map.create(1, 7).commit().unwrap();
        // What was written without a sync is idle, but cannot be sealed.
        let written = || disk.read("00000000000000000001.log").unwrap();
        until(|| durability != Durability::None || written().contains(&7));
        clock.advance(second);
        store.flush().unwrap();
        store.flush().unwrap();
        until(|| {
            clock.advance(second);
            std::thread::sleep(Duration::from_millis(1));
            sealed(&disk)
        });
        assert_eq!(after_power_cut(&disk), 1, "{durability:?}");
    }
}

#[test]
fn an_interval_may_be_as_long_as_time() {
    let durability = Durability::Interval(Duration::MAX);
    let Counted { disk, store, map, .. } = open(Store::builder().durability(durability));
    map.create(1, 1).commit().unwrap();
    assert_eq!(after_power_cut(&disk), 0);
    store.close().unwrap();
    assert_eq!(after_power_cut(&disk), 1);
}

#[test]
fn a_snapshot_is_taken_of_what_was_not_synced_yet() {
    for durability in UNSYNCED {
        let Counted { disk, store, map, .. } = open(Store::builder().durability(durability));
        for round in 0..3 {
            map.put(round, round).unconditional().commit().unwrap();
            store.snapshot().unwrap();
            let starts = disk.list().unwrap().into_iter().filter(|name| name.ends_with("snapshot"));
            let newest = starts.max().expect("a snapshot was taken");
            let version = map.get(round).unwrap().unwrap().version();
            assert_eq!(newest, format!("{:020}.snapshot", version.get()), "{durability:?}");
            assert_eq!(after_power_cut(&disk), round as usize + 1);
        }
    }
}
