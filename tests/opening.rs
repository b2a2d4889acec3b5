//! What happens when the directory is not what it should be.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Error, Store};

const SEGMENT: &str = "00000000000000000001.log";

/// Opening fails with an error whose message names the path and says what to do.
fn refusal(path: &Path) -> Error {
    let error = Store::open(path).err().expect("it does not open");
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
    fs::write(place.path().join("meta"), "precious").unwrap();
    assert!(matches!(refusal(place.path()), Error::NotAStore { .. }));
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
fn g10_every_flipped_byte_is_found_or_was_never_durable_or_is_no_data() {
    for closed in [true, false] {
        let intact = disk(5, closed);
        let used = intact.read(SEGMENT).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        let (mut found, mut harmless) = (0, 0);
        for name in ["meta", SEGMENT] {
            for at in 0..intact.read(name).unwrap().len().min(used + 100) {
                let disk = intact.power_cut(0);
                disk.damage(name, |bytes| bytes[at] ^= 0x10);
                match open(&disk).map(|store| store.collection::<u64, String>("map").unwrap()) {
                    Err(Error::Corrupt { .. } | Error::NotAStore { .. }) => found += 1,
                    Err(error) => panic!("{error}"),
                    // Only the last frame has no later one to prove that it was durable.
                    Ok(map) => {
                        harmless += 1;
                        let last = if closed { 5 } else { 4 };
                        for key in 0..last {
                            let value = map.get(key).unwrap().unwrap();
                            assert_eq!(*value, format!("value {key}"), "byte {at}");
                        }
                    }
                }
            }
        }
        println!("closed: {closed}; {found} flips found, {harmless} harmless");
        assert!(found > 300);
    }
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
    // There is no removing through the seam: the middle one gets a name that is no segment's.
    disk.rename("00000000000000000002.log", "aside").unwrap();
    let error = open(&disk).err().unwrap();
    assert!(error.to_string().contains("segment 2 before it is missing"), "{error}");
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
