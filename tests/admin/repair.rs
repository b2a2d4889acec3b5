//! `repair` keeps every whole commit, says what it dropped, and leaves its source alone (G2, G10).

use std::cell::RefCell;
use std::collections::BTreeMap;

use ifmatch::admin::Repaired;
use ifmatch::admin::on_disk::{backup, repair, verify};
use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Codec, Error, Store};

use crate::support::{KEYS, bytes, copy, disk, files, open, picture, unclean};

/// Repairs, and checks all that holds for any damage.
fn repaired(source: &MemoryDisk) -> (MemoryDisk, Repaired) {
    let before = bytes(source);
    let target = MemoryDisk::new();
    let (told, dropped) = repair(source, &target).unwrap();
    assert_eq!(bytes(source), before, "the source is unchanged");
    let report = verify(&target).unwrap();
    assert!(report.is_whole(), "{report}");
    assert_eq!(report.lineage, Some(told.written.lineage));
    check_dropped(source, &told, &dropped);
    (target, told)
}

/// The dropped bytes are there, each range behind a line that says where it was.
fn check_dropped(source: &MemoryDisk, told: &Repaired, mut dropped: &[u8]) {
    for range in &told.dropped {
        let end = dropped.iter().position(|byte| *byte == b'\n').unwrap();
        let line: serde_json::Value = serde_json::from_slice(&dropped[..end]).unwrap();
        assert_eq!(line["file"], *range.file);
        assert_eq!(
            (line["offset"].as_u64(), line["length"].as_u64()),
            (Some(range.offset), Some(range.len))
        );
        assert_eq!(line["why"], *range.why);
        let len = range.len as usize;
        let kept = &dropped[end + 1..end + 1 + len];
        assert_eq!(kept, source.read_at(&range.file, range.offset, len).unwrap());
        assert_eq!(dropped[end + 1 + len], b'\n');
        dropped = &dropped[end + 2 + len..];
    }
    assert!(dropped.is_empty());
}

#[test]
fn g2_a_whole_store_repairs_to_the_same_under_a_new_lineage() {
    for source in [disk(0), disk(1), disk(2), disk(3), unclean(0), unclean(2)] {
        let (target, told) = repaired(&source);
        assert!(told.dropped.is_empty() && told.missing.is_empty(), "{told:?}");
        assert_eq!(picture(&target), picture(&source));
        assert_ne!(open(&target).unwrap().lineage(), open(&source).unwrap().lineage());
    }
    let empty = MemoryDisk::new();
    open(&empty).unwrap().close().unwrap();
    assert_eq!(repaired(&empty).1.written.last_version, 0);
}

/// A store of one row each for a few keys, in several segments, and what each version wrote.
fn rows() -> (MemoryDisk, BTreeMap<u64, (u64, Option<u64>)>) {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let rows = store.collection::<u64, u64>("rows").unwrap();
    let mut written = BTreeMap::new();
    for count in 0..160 {
        let key = count % KEYS;
        let (version, value) = match count % 19 {
            18 => (rows.delete(key).if_exists().commit().unwrap().version(), None),
            _ => (rows.put(key, count).unconditional().commit().unwrap().version(), Some(count)),
        };
        written.insert(version.get(), (key, value));
    }
    drop(rows);
    store.close().unwrap();
    assert!(files(&disk, ".log").len() > 2);
    (disk, written)
}

/// How many versions.
fn missing(told: &Repaired) -> u64 {
    told.missing.iter().map(|range| range.end() - range.start() + 1).sum()
}

/// Where the first frame ends.
fn naming_ends(log: &[u8]) -> usize {
    64 + 32 + u32::from_le_bytes(log[72..76].try_into().unwrap()) as usize
}

/// What is left of the rows without the missing versions.
fn left(written: &BTreeMap<u64, (u64, Option<u64>)>, told: &Repaired) -> BTreeMap<u64, u64> {
    let mut left = BTreeMap::new();
    for (version, (key, value)) in written {
        if told.missing.iter().any(|missing| missing.contains(version)) {
            continue;
        }
        match value {
            Some(value) => left.insert(*key, *value),
            None => left.remove(key),
        };
    }
    left
}

fn found(disk: &MemoryDisk) -> BTreeMap<u64, u64> {
    let store: Store = open(disk).unwrap();
    let rows = store.collection::<u64, u64>("rows").unwrap();
    rows.iter().map(|entry| entry.unwrap()).map(|(key, row)| (key, *row)).collect()
}

#[test]
fn g10_all_whole_commits_are_kept_whatever_byte_is_flipped() {
    let (intact, written) = rows();
    let logs = files(&intact, ".log");
    for (name, content) in bytes(&intact) {
        let end = content.iter().rposition(|byte| *byte != 0).unwrap();
        // The first record names the collection: see below.
        let first = name == logs[0];
        for at in (0..=end).filter(|at| *at < 250 || at.is_multiple_of(11)) {
            if first && (64..naming_ends(&content)).contains(&at) {
                continue;
            }
            let damaged = copy(&intact);
            damaged.damage(&name, |bytes| bytes[at] ^= 8);
            let (target, told) = match repair(&damaged, &MemoryDisk::new()) {
                Err(Error::NotAStore { .. }) if name == "meta" => continue,
                _ => repaired(&damaged),
            };
            let lost = missing(&told);
            assert!(lost <= 1, "{name} byte {at}: {told:?}");
            if at < 64 {
                assert_eq!(lost, 0, "a header holds no commit: {name} byte {at}: {told:?}");
            }
            assert_eq!(found(&target), left(&written, &told), "{name} byte {at}: {told:?}");
            assert_eq!(told.commits + lost, written.len() as u64);
        }
    }
}

#[test]
fn g10_a_lost_block_or_file_costs_what_was_in_it() {
    let (intact, written) = rows();
    let logs = files(&intact, ".log");
    // The header, the header and first frames, something in the middle.
    for (range, most) in [(0..64, 0), (0..512, 8), (1024..1536, 10)] {
        for name in &logs[..2] {
            if name == &logs[0] && range == (0..512) {
                // It has the record that names the collection: see below.
                continue;
            }
            let damaged = copy(&intact);
            damaged.damage(name, |bytes| bytes[range.clone()].fill(0));
            let (target, told) = repaired(&damaged);
            assert!(missing(&told) <= most, "{name} {range:?}: {told:?}");
            assert_eq!(found(&target), left(&written, &told), "{name} {range:?}");
        }
    }
    let damaged = copy(&intact);
    damaged.remove(&logs[1]).unwrap();
    let (target, told) = repaired(&damaged);
    assert_eq!(told.missing.len(), 1);
    assert_eq!(found(&target), left(&written, &told));
    let damaged = copy(&intact);
    damaged.remove("meta").unwrap();
    let (target, told) = repaired(&damaged);
    assert!(told.missing.is_empty());
    assert_eq!(found(&target), left(&written, &told));
}

#[test]
fn g10_records_of_a_collection_that_nothing_names_are_dropped_and_told() {
    let (disk, written) = rows();
    disk.damage("00000000000000000001.log", |bytes| bytes[64 + 40] ^= 1);
    let (target, told) = repaired(&disk);
    assert_eq!(told.commits, 0);
    assert!(told.dropped.iter().any(|range| range.why.contains("has no name")), "{told:?}");
    assert_eq!(missing(&told), written.len() as u64);
    assert!(open(&target).unwrap().collections().is_empty());
}

#[test]
fn g10_damaged_snapshots_give_what_is_left_of_them() {
    let intact = disk(2);
    let expected = picture(&intact);
    let snapshots = files(&intact, ".snapshot");
    let seal = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let block = |bytes: &mut Vec<u8>| bytes[150] ^= 1;
    // The newest has lost its only block: the one before, and the log, have it all.
    let damaged = copy(&intact);
    damaged.damage(&snapshots[1], block);
    let (target, told) = repaired(&damaged);
    assert_eq!((picture(&target), &told.missing[..]), (expected.clone(), &[][..]));
    // Of both the seals, or the headers, are gone, not the block.
    for damage in [seal, |bytes: &mut Vec<u8>| bytes[30] ^= 1] {
        let damaged = copy(&intact);
        snapshots.iter().for_each(|name| assert!(damaged.damage(name, damage)));
        assert!(open(&damaged).is_err());
        let (target, told) = repaired(&damaged);
        assert_eq!(picture(&target), expected, "{told:?}");
        // That these parts are all there were cannot be told.
        assert_eq!((told.missing.len(), *told.missing[0].start()), (1, 1), "{told:?}");
    }
    // And when there is no log.
    let alone = copy(&intact);
    files(&alone, ".log").iter().for_each(|name| alone.remove(name).unwrap());
    snapshots.iter().for_each(|name| assert!(alone.damage(name, seal)));
    let (_, told) = repaired(&alone);
    assert_eq!(told.missing, [1..=told.written.last_version]);
    // Both blocks are gone, and the log that had the names: what is left has no name.
    let damaged = copy(&intact);
    snapshots.iter().for_each(|name| assert!(damaged.damage(name, block)));
    let (_, told) = repaired(&damaged);
    assert!(!told.missing.is_empty());
}

#[test]
fn what_is_in_use_or_there_or_no_store_is_refused() {
    let source = disk(0);
    let store = open(&source).unwrap();
    assert!(matches!(repair(&source, &MemoryDisk::new()), Err(Error::InUse(_))));
    store.close().unwrap();
    assert!(matches!(repair(&source, &disk(0)), Err(Error::NotEmpty(_))));
    let nothing = repair(&MemoryDisk::new(), &MemoryDisk::new());
    assert!(matches!(nothing, Err(Error::NotAStore { .. })));
    let copied = MemoryDisk::new();
    backup(&source, &copied).unwrap();
    let (target, told) = repaired(&copied);
    assert!(told.dropped.is_empty());
    assert_eq!(picture(&target), picture(&source), "a backup can be repaired too");
}

#[test]
fn g10_values_of_an_older_schema_are_not_mixed_in() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let rows = store.collection::<u64, u64>("rows").unwrap();
    (0..4).for_each(|key| drop(rows.create(key, key).commit().unwrap()));
    rows.delete(3).if_exists().commit().unwrap();
    drop(rows);
    store.close().unwrap();
    let store = open(&disk).unwrap();
    let migrate = |old: u64| format!("row {old}");
    let rows = store.declare::<u64, String>("rows").schema(2).migrate(1, migrate).open().unwrap();
    rows.put(0, "new".to_owned()).unconditional().commit().unwrap();
    drop(rows);
    store.close().unwrap();
    // The delete is lost: the entity that it took must not come back in the old schema.
    let first = "00000000000000000001.log";
    let damaged = copy(&disk);
    let frames = damaged.read(first).unwrap();
    let end = frames.iter().rposition(|byte| *byte != 0).unwrap();
    // The seal has 33 bytes; before it lies the delete.
    damaged.damage(first, |bytes| bytes[end - 35] ^= 1);
    let (target, told) = repaired(&damaged);
    assert_eq!(told.missing, [5..=5]);
    let store = open(&target).unwrap();
    let rows = store.declare::<u64, String>("rows").schema(2).open().unwrap();
    let rows: Vec<_> = rows.iter().map(|entry| entry.unwrap().1.value().clone()).collect();
    assert_eq!(rows, ["new", "row 1", "row 2"]);
}

/// Calls back when a value is encoded on this thread.
struct Calling;

type Call = Box<dyn FnOnce()>;

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

impl Codec<u64> for Calling {
    fn name(&self) -> &str {
        "calling"
    }

    fn encode(&self, value: &u64) -> Result<Vec<u8>, String> {
        let call = CALL.take();
        call.into_iter().for_each(|call| call());
        Ok(value.to_le_bytes().to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64, String> {
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| "not eight bytes".to_owned())
    }
}

#[test]
fn g10_a_log_that_lost_what_the_snapshot_had_seen_is_told() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let rows = store.declare::<u64, u64>("rows").codec(Calling).open().unwrap();
    (0..4).for_each(|key| drop(rows.put(key, key).unconditional().commit().unwrap()));
    let writer = rows.clone();
    CALL.set(Some(Box::new(move || {
        // Seen by the snapshot, and not seen.
        writer.put(3, 33).unconditional().commit().unwrap();
        writer.put(0, 100).unconditional().commit().unwrap();
    })));
    store.snapshot().unwrap();
    let lost = copy(&disk);
    files(&lost, ".log").iter().for_each(|name| lost.remove(name).unwrap());
    assert!(open(&lost).is_err());
    let (target, told) = repaired(&lost);
    assert_eq!(told.missing, [5..=6]);
    let store = open(&target).unwrap();
    let rows = store.declare::<u64, u64>("rows").codec(Calling).open().unwrap();
    assert_eq!(*rows.get(3).unwrap().unwrap(), 33);
    let next = rows.put(9, 9).unconditional().commit().unwrap().version();
    assert_eq!(next.get(), 7, "numbering goes on above all that is known of");
}
