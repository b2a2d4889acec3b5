//! Every byte of a small store flipped and every file cut at every length: found, or harmless.

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::report;
use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Collection, Error, Store};

/// All entities: value and version by key.
type Contents = BTreeMap<u64, (String, u64)>;

/// A store after three lives, of which the last was closed or cut off, and its contents after
/// each commit.
struct Intact {
    disk: MemoryDisk,
    closed: bool,
    states: Vec<Contents>,
}

/// What became of the damage.
enum Found {
    Refused,
    /// All is there, or all but the last commits, this many: a tail that nothing proves.
    Cut(usize),
}

fn open(disk: &MemoryDisk) -> Result<Store, Error> {
    Store::builder().stripes(1).segment_bytes(1024).open_on(Arc::new(disk.clone()))
}

fn map(store: &Store) -> Result<Collection<u64, String>, Error> {
    store.collection("map")
}

fn intact(closed: bool) -> Intact {
    let disk = MemoryDisk::new();
    let (mut states, mut contents) = (vec![Contents::new()], Contents::new());
    let mut cut_off = disk.clone();
    for life in 0..3 {
        let store = open(&disk).unwrap();
        let map = map(&store).unwrap();
        for step in 0..6 {
            let (key, value) = (step % 4, format!("value {step} of life {life}"));
            if life > 0 && step == 4 {
                map.delete(key).if_exists().commit().unwrap();
                contents.remove(&key);
            } else {
                let put = map.put(key, value.clone()).unconditional().commit().unwrap();
                contents.insert(key, (value, put.version().get()));
            }
            states.push(contents.clone());
        }
        if closed || life < 2 {
            store.close().unwrap();
        }
        cut_off = disk.power_cut(0);
    }
    Intact { disk: cut_off, closed, states }
}

impl Intact {
    fn damaged(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> MemoryDisk {
        let disk = self.disk.power_cut(0);
        assert!(disk.damage(name, change));
        disk
    }

    /// Opens, and compares all that is shown with what was there at some time. What opened
    /// takes writes, and opens again.
    fn judge(&self, disk: &MemoryDisk, what: &str) -> Found {
        match catch_unwind(AssertUnwindSafe(|| self.look(disk, what))) {
            Ok(found) => found,
            Err(_) => panic!("{what}: it panicked"),
        }
    }

    fn look(&self, disk: &MemoryDisk, what: &str) -> Found {
        let is_there = disk.list().unwrap().contains(&self.newest());
        let store = match open(disk) {
            Err(Error::Corrupt { .. } | Error::NotAStore { .. }) => return Found::Refused,
            other => other.unwrap_or_else(|error| panic!("{what}: {error}")),
        };
        let shown = contents(&store);
        let known = self.states.iter().rev().position(|state| *state == shown);
        let lost = known.unwrap_or_else(|| panic!("{what}: it shows {shown:?}"));
        let put = map(&store).unwrap().put(9, "new".to_owned()).unconditional().commit().unwrap();
        let version = put.version().get();
        // Without its file nothing tells of the versions that it held.
        let above = self.states.iter().flat_map(Contents::values).all(|(_, old)| version > *old);
        assert!(above || !is_there, "{what}: version {version} was given out before");
        store.close().unwrap();
        let mut expected = shown;
        expected.insert(9, ("new".to_owned(), version));
        assert_eq!(contents(&open(disk).unwrap()), expected, "{what}");
        Found::Cut(lost)
    }

    /// The newest file that holds anything of the log: the only one that may be torn.
    fn newest(&self) -> String {
        let segments = |name: &String| name.ends_with(".log");
        self.disk.list().unwrap().into_iter().filter(segments).max().unwrap()
    }
}

fn contents(store: &Store) -> Contents {
    let entity = |item: ifmatch::Result<(u64, ifmatch::Entity<String>)>| {
        let (key, entity) = item.unwrap();
        (key, (entity.value().clone(), entity.version().get()))
    };
    map(store).unwrap().iter().map(entity).collect()
}

#[test]
fn g10_every_flipped_byte_is_found_or_was_never_durable_or_is_no_data() {
    for closed in [true, false] {
        let intact = intact(closed);
        let (mut found, mut harmless, mut cut) = (0, 0, 0);
        for name in intact.disk.list().unwrap() {
            let bytes = intact.disk.read(&name).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            for (at, flip) in (0..bytes.len()).flat_map(|at| [(at, 0x01), (at, 0x10), (at, 0xff)]) {
                // Of the zeroes behind the data a few stand for all.
                if at > used + 40 && at % 50 > 0 {
                    continue;
                }
                let what = format!("{name}: byte {at} flipped by {flip:#x}, closed: {closed}");
                let disk = intact.damaged(&name, |bytes| bytes[at] ^= flip);
                match intact.judge(&disk, &what) {
                    Found::Refused => found += 1,
                    Found::Cut(0) => harmless += 1,
                    // Only the last frame has no later one to prove that it was durable.
                    Found::Cut(1) if !intact.closed && name == intact.newest() => cut += 1,
                    Found::Cut(lost) => panic!("{what}: the last {lost} commits are lost"),
                }
            }
        }
        report(format_args!(
            "closed: {closed}; {found} flips found, {harmless} harmless, {cut} cut a frame"
        ));
        assert!(found > 1_000 && (cut > 0) != closed);
    }
}

#[test]
fn g10_every_file_cut_at_every_length_is_found_or_a_torn_tail_or_harmless() {
    for closed in [true, false] {
        let intact = intact(closed);
        let (mut found, mut harmless, mut cut) = (0, 0, 0);
        for name in intact.disk.list().unwrap() {
            for len in 0..intact.disk.read(&name).unwrap().len() {
                let what = format!("{name}: cut at {len}, closed: {closed}");
                let disk = intact.damaged(&name, |bytes| bytes.truncate(len));
                match intact.judge(&disk, &what) {
                    Found::Refused => found += 1,
                    Found::Cut(0) => harmless += 1,
                    Found::Cut(1..=6) if name == intact.newest() && len >= 64 => cut += 1,
                    Found::Cut(lost) => panic!("{what}: the last {lost} commits are lost"),
                }
            }
        }
        report(format_args!(
            "closed: {closed}; {found} cuts found, {harmless} harmless, {cut} as a torn tail"
        ));
        assert!(found > 500 && cut > 100);
    }
}

#[test]
fn g10_every_missing_file_is_found() {
    let intact = intact(true);
    for name in intact.disk.list().unwrap() {
        let disk = intact.disk.power_cut(0);
        disk.remove(&name).unwrap();
        let what = format!("{name} missing");
        match intact.judge(&disk, &what) {
            Found::Refused | Found::Cut(0) => {}
            // That there was a newer segment, no other file tells.
            Found::Cut(1..=6) if name == intact.newest() => {}
            Found::Cut(lost) => panic!("{what}: the last {lost} commits are lost"),
        }
    }
}
