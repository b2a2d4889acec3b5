//! Damage to snapshots is found: another takes their place, or the store does not open (G10).

use std::sync::Arc;

use crate::support::{Picture, delete, map, picture, put};
use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Error, Store, StoreBuilder};

const KEYS: u64 = 6;

fn builder() -> StoreBuilder {
    Store::builder().stripes(4).segment_bytes(4096)
}

fn open(disk: &MemoryDisk) -> Result<Store, Error> {
    builder().open_on(Arc::new(disk.clone()))
}

/// A store with `snapshots` snapshots, a log that begins behind nothing once there are two, and
/// commits after the last one.
fn disk(snapshots: u64) -> (MemoryDisk, Picture) {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let rows = map(&store, "rows");
    for turn in 0..=snapshots {
        (0..200).for_each(|write| put(&rows, write % (KEYS - 1), 1_000 * turn + write));
        if turn < snapshots {
            delete(&rows, 0);
            store.snapshot().unwrap();
        }
    }
    let picture = picture(&store, KEYS);
    store.close().unwrap();
    (disk, picture)
}

fn files(disk: &MemoryDisk, suffix: &str) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(suffix)).collect()
}

#[test]
fn g10_every_flipped_byte_and_every_length_of_the_newest_falls_back() {
    let (intact, expected) = disk(2);
    assert!(!files(&intact, ".log").contains(&"00000000000000000001.log".to_owned()));
    let snapshots = files(&intact, ".snapshot");
    let [_, newest] = &snapshots[..] else { panic!("{snapshots:?}") };
    let len = intact.read(newest).unwrap().len();
    assert!(len > 200, "{len} bytes");
    for at in 0..len {
        let (flipped, cut) = (intact.power_cut(0), intact.power_cut(0));
        flipped.damage(newest, |bytes| bytes[at] ^= 0x10);
        cut.damage(newest, |bytes| bytes.truncate(at));
        for disk in [flipped, cut] {
            assert_eq!(picture(&open(&disk).unwrap(), KEYS), expected, "byte {at}");
        }
    }
    let longer = intact.power_cut(0);
    longer.damage(newest, |bytes| bytes.push(0));
    assert_eq!(picture(&open(&longer).unwrap(), KEYS), expected);
}

#[test]
fn g10_a_damaged_only_snapshot_falls_back_to_the_whole_log() {
    let (disk, expected) = disk(1);
    let snapshots = files(&disk, ".snapshot");
    disk.damage(&snapshots[0], |bytes| bytes[70] ^= 1);
    assert_eq!(picture(&open(&disk).unwrap(), KEYS), expected);
}

fn corrupt(disk: &MemoryDisk, file: &str, says: &[&str]) {
    let before = disk.list().unwrap();
    let error = open(disk).err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let message = error.to_string();
    assert!(says.iter().chain([&file]).all(|part| message.contains(part)), "{message}");
    assert_eq!(disk.list().unwrap(), before, "nothing was changed");
}

#[test]
fn g10_when_both_are_damaged_the_store_does_not_open() {
    let (disk, _) = disk(2);
    let snapshots = files(&disk, ".snapshot");
    for name in &snapshots {
        disk.damage(name, |bytes| bytes[70] ^= 1);
    }
    corrupt(&disk, &snapshots[1], &["versions from 1 on are needed", "begins at version"]);
    // Nor when they are all that is left.
    files(&disk, ".log").iter().for_each(|name| disk.remove(name).unwrap());
    corrupt(&disk, &snapshots[1], &["there is no log"]);
}

#[test]
fn g10_without_any_snapshot_a_cut_log_does_not_open() {
    let (disk, _) = disk(2);
    files(&disk, ".snapshot").iter().for_each(|name| disk.remove(name).unwrap());
    let first = files(&disk, ".log")[0].clone();
    corrupt(&disk, &first, &["before it is missing", "versions from 1 on"]);
}

#[test]
fn g10_a_log_that_lost_what_the_snapshot_had_seen_does_not_open() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let rows = map(&store, "rows");
    (0..5).for_each(|key| put(&rows, key, key));
    let writer = rows.clone();
    // Seen by the walk, and after its start.
    crate::support::snapshot_with(&store, move |value| {
        if value == 0 {
            put(&writer, 4, 44);
        }
        true
    })
    .unwrap();
    // The last frame rots, which could not be told from a tear without the snapshot.
    let cut = disk.power_cut(0);
    let log = "00000000000000000001.log";
    let last = cut.read(log).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    cut.damage(log, |bytes| bytes[last] ^= 1);
    corrupt(&cut, log, &["were durable, says 00000000000000000005.snapshot"]);
    cut.remove(log).unwrap();
    corrupt(&cut, "00000000000000000005.snapshot", &["versions 6 to"]);
}

#[test]
fn g10_a_gap_in_the_log_behind_the_snapshot_is_found() {
    let (disk, _) = disk(2);
    let logs = files(&disk, ".log");
    disk.remove(&logs[logs.len() - 2]).unwrap();
    let error = open(&disk).err().unwrap().to_string();
    assert!(error.contains("before it is missing"), "{error}");
}

#[test]
fn a_snapshot_without_a_log_opens_if_it_needs_none() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let rows = map(&store, "rows");
    (0..5).for_each(|key| put(&rows, key, key));
    delete(&rows, 0);
    store.snapshot().unwrap();
    let expected = picture(&store, KEYS);
    store.close().unwrap();
    files(&disk, ".log").iter().for_each(|name| disk.remove(name).unwrap());
    for life in 0..3 {
        let store = open(&disk).unwrap();
        let rows = map(&store, "rows");
        assert_eq!(picture(&store, KEYS), expected);
        put(&rows, 100, life);
        assert_eq!(rows.get(100).unwrap().unwrap().version().get(), 7 + 2 * life, "they go on");
        delete(&rows, 100);
        drop(rows);
        store.close().unwrap();
        if life == 0 {
            assert_eq!(files(&disk, ".log"), ["00000000000000000001.log"]);
        }
    }
}

#[test]
fn a_snapshot_of_another_store_is_refused() {
    let (one, _) = disk(1);
    let (other, _) = disk(1);
    let name = files(&one, ".snapshot")[0].clone();
    let bytes = other.read(&name).unwrap();
    one.damage(&name, |content| *content = bytes);
    corrupt(&one, &name, &["it is of lineage"]);
}

#[test]
fn g10_a_snapshot_under_a_wrong_name_is_damage() {
    let (disk, expected) = disk(1);
    let name = files(&disk, ".snapshot")[0].clone();
    disk.rename(&name, "00000000000000000009.snapshot").unwrap();
    assert_eq!(picture(&open(&disk).unwrap(), KEYS), expected);
}

#[test]
fn a_snapshot_of_a_newer_format_is_named() {
    let (disk, _) = disk(1);
    let name = files(&disk, ".snapshot")[0].clone();
    disk.damage(&name, |bytes| {
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&checksum);
    });
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, Error::NotAStore { .. }), "{error}");
    assert!(error.to_string().contains("format 2"), "{error}");
}
