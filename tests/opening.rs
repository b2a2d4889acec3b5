//! What happens when the directory is not what it should be.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ifmatch::testing::{Crash, Disk, MemoryDisk, PowerCut};
use ifmatch::{Error, Store};

const SEGMENT: &str = "00000000000000000001.log";

/// Opening fails with an error whose message names the path and says what to do.
fn refusal(path: &Path) -> Error {
    let error = Store::open(path).expect_err("it does not open");
    let message = error.to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert!(message.contains("; "), "no remedy: {message}");
    error
}

#[test]
fn a_file_is_no_directory() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(refusal(&file), Error::NotAStore { .. }));
    assert!(matches!(refusal(&file.join("below")), Error::Io { .. }));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_directory_with_something_else_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("letter.txt"), "precious").unwrap();
    assert!(matches!(refusal(place.path()), Error::NotAStore { .. }));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing was added");
    fs::write(place.path().join("meta"), "precious").unwrap();
    assert!(matches!(refusal(place.path()), Error::NotAStore { .. }));
    fs::remove_file(place.path().join("lock")).unwrap();
    assert_eq!(fs::read(place.path().join("meta")).unwrap(), b"precious");
}

#[test]
fn a_directory_is_open_once() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path()).unwrap();
    assert!(matches!(refusal(place.path()), Error::InUse(_)));
    let collection = store.collection::<u8, u8>("c").unwrap();
    drop(store);
    // The collection keeps the store open.
    assert!(matches!(refusal(place.path()), Error::InUse(_)));
    drop(collection);
    let store = Store::open(place.path()).unwrap();
    let _still_there = store.collection::<u8, u8>("c").unwrap();
    store.close().unwrap();
    Store::open(place.path()).unwrap();
}

#[test]
fn a_missing_directory_is_created_with_its_parents() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path().join("a/b")).unwrap();
    assert!(store.collections().is_empty());
}

/// A disk with a store of `writes` entities of one collection, closed or cut off.
fn disk(writes: u64, closed: bool) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let map = store.collection::<u64, String>("map").unwrap();
    for key in 0..writes {
        map.create(key, format!("value {key}")).commit().unwrap();
    }
    if closed {
        store.close().unwrap();
        return disk;
    }
    disk.power_cut(0)
}

fn open(disk: &MemoryDisk) -> Result<Store, Error> {
    Store::builder().segment_bytes(4096).open_on(Arc::new(disk.clone()))
}

#[test]
fn g10_a_newer_format_is_named() {
    let disk = disk(1, true);
    disk.damage("meta", |bytes| bytes[8] = 2);
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, Error::NotAStore { .. }));
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn g3_every_length_of_the_tail_opens_with_what_is_whole() {
    let intact = disk(5, false);
    let used = intact.read(SEGMENT).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    let mut whole = 0;
    for len in 64..=used + 1 {
        let disk = intact.power_cut(0);
        disk.damage(SEGMENT, |bytes| bytes.truncate(len));
        let store = open(&disk).unwrap();
        let map = store.collection::<u64, String>("map").unwrap();
        let now = map.len().unwrap();
        assert!(now == whole || now == whole + 1, "{whole} then {now} at {len}");
        assert!((0..now as u64).all(|key| map.contains(key).unwrap()));
        whole = now;
    }
    assert_eq!(whole, 5);
}

#[test]
fn g10_a_missing_segment_is_found() {
    let disk = MemoryDisk::new();
    for life in 0..3 {
        let store = open(&disk).unwrap();
        store.collection::<u64, u64>("map").unwrap().create(life, 0).commit().unwrap();
        store.close().unwrap();
    }
    disk.remove("00000000000000000002.log").unwrap();
    let error = open(&disk).err().unwrap();
    assert!(error.to_string().contains("segment 2 before it is missing"), "{error}");
}

#[test]
fn g10_a_missing_first_segment_is_found() {
    let disk = disk(1, true);
    let store = open(&disk).unwrap();
    store.collection::<u64, String>("map").unwrap().create(2, String::new()).commit().unwrap();
    store.close().unwrap();
    disk.remove(SEGMENT).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(error.to_string().contains("segment 1 before it is missing"), "{error}");
}

#[test]
fn g10_a_segment_without_its_header_is_damage() {
    for written in [b"".as_slice(), b"ifmatchL", &[0; 64]] {
        let disk = disk(3, false);
        let mut next = disk.create("00000000000000000002.log").unwrap();
        next.write_at(0, written).unwrap();
        assert!(matches!(open(&disk), Err(Error::Corrupt { .. })), "{written:?}");
    }
}

#[test]
fn g3_names_that_a_dead_process_left_unsynced_are_made_durable_first() {
    let disk = disk(3, false);
    // A process dies in the middle of opening, and the power fails in the middle of the next.
    let first = disk.crash(usize::MAX, Crash::Process);
    open(&first).unwrap();
    for died_at in 0..first.calls() {
        let second = first.crash(died_at, Crash::Process);
        open(&second).unwrap();
        for cut_at in 0..second.calls() {
            let third = second.crash(cut_at, Crash::Power(PowerCut::default()));
            let store = open(&third).unwrap_or_else(|error| panic!("{died_at}, {cut_at}: {error}"));
            assert_eq!(store.collection::<u64, String>("map").unwrap().len().unwrap(), 3);
        }
    }
}

#[test]
fn g2_a_crash_while_opening_after_a_crash_gives_no_version_out_twice() {
    let disk = disk(3, false);
    let map = open(&disk.power_cut(0)).unwrap().collection::<u64, String>("map").unwrap();
    let acknowledged = map.get(2).unwrap().unwrap().version();
    // The last frame is lost to rot, which cannot be told from a tear.
    let last = disk.read(SEGMENT).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    disk.damage(SEGMENT, |bytes| bytes[last] ^= 1);
    // Opening mends the segment; before anything is written, the power goes again.
    let mended = open(&disk).unwrap();
    let disk = disk.power_cut(0);
    drop(mended);
    let map = open(&disk).unwrap().collection::<u64, String>("map").unwrap();
    assert!(map.get(2).unwrap().is_none());
    let version = map.create(2, "other".to_owned()).commit().unwrap().version();
    assert!(version > acknowledged, "{version} was {acknowledged} once");
}

#[test]
fn a_torn_tail_full_of_would_be_frames_is_read_in_time() {
    let disk = MemoryDisk::new();
    let open = |disk: &MemoryDisk| Store::builder().open_on(Arc::new(disk.clone()));
    let store = open(&disk).unwrap();
    // Numbers that look like the lengths and versions of a frame at every offset: were each
    // checked whole, opening would take hours.
    let crafted: Vec<u8> = [0, 0, 4, 0].into_iter().cycle().take(1_000_000).collect();
    store.collection::<u8, Vec<u8>>("map").unwrap().create(1, crafted).commit().unwrap();
    let disk = disk.power_cut(0);
    disk.damage(SEGMENT, |bytes| bytes[64 + 200] ^= 1);
    let map = open(&disk).unwrap().collection::<u8, Vec<u8>>("map").unwrap();
    assert!(map.is_empty().unwrap());
}

#[test]
fn g12_deletions_are_forgotten_in_order_over_a_restart() {
    let disk = MemoryDisk::new();
    let limits = ifmatch::Limits { deletions: 4, ..ifmatch::Limits::default() };
    let open = || {
        let builder = Store::builder().stripes(1).limits(limits.clone());
        let store = builder.open_on(Arc::new(disk.clone())).unwrap();
        store.collection::<u64, u64>("map").unwrap()
    };
    let mut map = open();
    for key in 0..20 {
        map.create(key, 0).commit().unwrap();
        map.delete(key).if_exists().commit().unwrap();
    }
    map.create(99, 0).commit().unwrap();
    for _ in 0..2 {
        let remembered = |key: &u64| {
            let refused = map.delete(*key).unconditional().commit().unwrap_err();
            refused.conflict().unwrap().deletion().is_some()
        };
        let remembered: Vec<u64> = (0..20).filter(remembered).collect();
        assert_eq!(remembered, [16, 17, 18, 19]);
        drop(map);
        map = open();
    }
}

#[test]
fn g2_versions_go_on_above_the_ceiling_after_an_unclean_stop() {
    let disk = disk(3, false);
    let store = open(&disk).unwrap();
    let map = store.collection::<u64, String>("map").unwrap();
    let version = map.create(9, String::new()).commit().unwrap().version();
    assert!(version.get() > 1 << 20, "{version}");
    // And once more, with nothing in between but the stop.
    let disk = disk.power_cut(0);
    let store = open(&disk).unwrap();
    let map = store.collection::<u64, String>("map").unwrap();
    assert_eq!(map.get(9).unwrap().unwrap().version(), version);
    assert!(map.create(10, String::new()).commit().unwrap().version() > version);
}

#[test]
fn a_store_that_was_not_written_to_is_left_as_it_was() {
    let disk = disk(3, true);
    let before = disk.list().unwrap();
    for _ in 0..3 {
        let store = open(&disk).unwrap();
        let map = store.collection::<u64, String>("map").unwrap();
        assert_eq!(map.len().unwrap(), 3);
        store.close().unwrap();
        assert_eq!(disk.list().unwrap(), before);
    }
}
