//! Format 1 for ever: what this build has to read is kept in `tests/golden/v1/`.
//!
//! `contents.txt` says in words what each of the stores there holds. After a change of the format
//! within version 1, write them anew: `cargo test --test format -- --ignored`.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{AsKey, Collection, Error, Json, Key, Store, StoreBuilder};
use uuid::Uuid;

/// Ended by a clean close, by losing power within a write, and with snapshots in place of the
/// beginning of the log.
const STORES: [&str; 3] = ["closed", "cut", "snapshots"];

/// After an unclean stop versions go on above the ceiling of the segment.
const VERSIONS_PER_SEGMENT: u64 = 1 << 20;

/// A value with a bit of everything.
type Mixed = (bool, i64, Option<String>, Vec<u32>, f64);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn contents() -> String {
    fs::read_to_string(golden().join("contents.txt")).unwrap()
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// So small that the contents need several segments.
fn builder() -> StoreBuilder {
    Store::builder().segment_bytes(4096)
}

#[test]
fn g10_stores_of_format_1_read_as_they_were_written() {
    for name in STORES {
        let place = copy(name);
        for life in 0..3 {
            let store = builder().open(place.path()).unwrap();
            assert_eq!(describe(&store), contents(), "{name}, opened {life} times before");
            store.close().unwrap();
        }
    }
}

#[test]
fn g2_stores_of_format_1_give_no_version_out_again() {
    for (name, skipped) in STORES.into_iter().zip([0, VERSIONS_PER_SEGMENT, 0]) {
        let place = copy(name);
        let store = builder().open(place.path()).unwrap();
        let texts = store.collection::<String, String>("texts").unwrap();
        let written = texts.get("after the restart").unwrap().unwrap().version().get();
        let version = texts.create("new", String::new()).commit().unwrap().version().get();
        assert!(version > written.max(skipped), "{name}: {version} after {written}");
        // One more was written after that one.
        assert!(skipped > 0 || version == written + 2, "{name}: {version} after {written}");
    }
}

#[test]
fn stores_of_format_1_have_several_segments_and_are_small() {
    for name in STORES {
        let files = fs::read_dir(golden().join(name)).unwrap().map(|file| file.unwrap());
        let lengths: Vec<u64> = files.map(|file| file.metadata().unwrap().len()).collect();
        assert!(lengths.len() > 3, "{name}: {lengths:?}");
        assert!(lengths.iter().sum::<u64>() < 64 << 10, "{name}: {lengths:?}");
    }
}

#[test]
fn g10_a_newer_format_is_refused_by_name_with_what_to_do() {
    let newer = |bytes: &mut Vec<u8>, end: usize| {
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    };
    let place = copy("snapshots");
    let names = fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    let newest = |end: &str| names.iter().rfind(|name| name.ends_with(end)).unwrap().as_str();
    for (file, end) in [("meta", 20), (newest(".log"), 60), (newest(".snapshot"), 60)] {
        let place = copy("snapshots");
        let path = place.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        newer(&mut bytes, end);
        fs::write(&path, &bytes).unwrap();
        let error = builder().open(place.path()).unwrap_err();
        assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
        let message = error.to_string();
        for part in [file, "format 2", "reads format 1", "use a newer one"] {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{file} was changed");
    }
}

/// Not a test of its own: writes the stores.
#[test]
#[ignore = "writes tests/golden/v1 anew"]
fn write_golden_stores() {
    for name in STORES {
        let clock = Arc::new(ManualClock::new(start()));
        let disk = MemoryDisk::new();
        let open = || builder().clock(clock.clone()).open_on(Arc::new(disk.clone())).unwrap();
        let store = open();
        fill(&store, &clock);
        store.close().unwrap();
        let store = open();
        let snapshot = || {
            if name == "snapshots" {
                store.snapshot().unwrap();
            }
        };
        snapshot();
        write_after_restart(&store, &clock);
        snapshot();
        assert_eq!(describe(&store), contents(), "{}", describe(&store));
        if name == "cut" {
            save(&torn(&disk, &store), name);
        } else {
            store.close().unwrap();
            save(&disk, name);
        }
    }
}

/// The disk after losing power while one more write was under way.
fn torn(disk: &MemoryDisk, store: &Store) -> MemoryDisk {
    let texts = store.collection::<String, String>("texts").unwrap();
    texts.create("torn", "never acknowledged".to_owned()).commit().unwrap();
    let cut = disk.power_cut(0);
    let names = cut.list().unwrap().into_iter();
    let newest = names.filter(|name| name.ends_with(".log")).max().unwrap();
    cut.damage(&newest, |bytes| {
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[last] ^= 1;
    });
    cut
}

fn fill(store: &Store, clock: &ManualClock) {
    let tick = || clock.advance(Duration::from_secs(1));
    let texts = store.collection::<String, String>("texts").unwrap();
    texts.create("", "the empty key".to_owned()).commit().unwrap();
    tick();
    texts.create("gone", "soon".to_owned()).by("alice").commit().unwrap();
    texts.create("moved", "first life".to_owned()).by("alice").commit().unwrap();
    tick();
    texts.delete("gone").if_exists().by("bob").commit().unwrap();
    texts.delete("moved").if_exists().commit().unwrap();
    tick();
    texts.create("moved", "second life".to_owned()).by("Zoë").commit().unwrap();
    tick();
    texts.put("moved", "second life, changed".to_owned()).if_exists().commit().unwrap();
    let numbers = store.collection::<u64, u64>("numbers").unwrap();
    for number in [0, 255, 256, u64::MAX] {
        numbers.create(number, number).commit().unwrap();
    }
    numbers.update(0, |number| *number += 7).by("counter").commit().unwrap();
    tick();
    let signed = store.collection::<i32, i32>("signed").unwrap();
    for number in [i32::MIN, -1, 0, i32::MAX] {
        signed.create(number, number).commit().unwrap();
    }
    tick();
    let pairs = store.collection::<(String, u32), String>("pairs").unwrap();
    for text in ["a", "a\0b", "a/b"] {
        pairs.create((text.to_owned(), 1), "pair".to_owned()).by("pairer").commit().unwrap();
    }
    tick();
    let bytes = store.collection::<Vec<u8>, Vec<u8>>("bytes").unwrap();
    bytes.create(vec![0, 255, 0], vec![1, 2, 3]).commit().unwrap();
    // Longer than a segment, then such as fill one each.
    for (key, len) in [(vec![1], 5_000), (vec![2], 3_000), (vec![3], 3_000)] {
        bytes.create(key, vec![9; len]).commit().unwrap();
    }
    tick();
    let ids = store.collection::<Uuid, Mixed>("ids").unwrap();
    let mixed = (true, -1, Some("some".to_owned()), vec![0, 300, u32::MAX], 0.5);
    ids.create(Uuid::from_u128(1), mixed).commit().unwrap();
    ids.create(Uuid::max(), (false, i64::MIN, None, Vec::new(), -0.0)).commit().unwrap();
    tick();
    let notes = store.declare::<u16, Mixed>("notes").schema(3).codec(Json).open().unwrap();
    let note = (true, 7, Some("\u{e9}\n".to_owned()), vec![1], 1e300);
    notes.create(500, note).by("ann").commit().unwrap();
    tick();
    let kept = store.declare::<String, String>("kept").history(3).open().unwrap();
    for text in ["pushed out", "first", "second"] {
        kept.put("k", text.to_owned()).unconditional().by("ann").commit().unwrap();
    }
    kept.delete("k").if_exists().by("bob").commit().unwrap();
    kept.create("other", "alone".to_owned()).commit().unwrap();
}

fn write_after_restart(store: &Store, clock: &ManualClock) {
    clock.advance(Duration::from_secs(3600));
    let texts = store.collection::<String, String>("texts").unwrap();
    texts.put("moved", "changed after the restart".to_owned()).if_exists().commit().unwrap();
    let written = texts.create("after the restart", "yes".to_owned()).by("bob");
    written.commit().unwrap();
    let kept = store.collection::<String, String>("kept").unwrap();
    kept.create("k", "again".to_owned()).commit().unwrap();
}

/// Every collection, entity and remembered deletion in words.
fn describe(store: &Store) -> String {
    let mut lines = format!("collections: {}\n", store.collections().join(" "));
    lines += &entities::<String, String>(store, "texts", &["gone".to_owned()]);
    lines += &entities::<u64, u64>(store, "numbers", &[]);
    lines += &entities::<i32, i32>(store, "signed", &[]);
    lines += &entities::<(String, u32), String>(store, "pairs", &[]);
    lines += &entities::<Vec<u8>, Vec<u8>>(store, "bytes", &[]);
    lines += &entities::<Uuid, Mixed>(store, "ids", &[]);
    let notes = store.declare::<u16, Mixed>("notes").schema(3).codec(Json).open().unwrap();
    lines += &describe_collection(&notes, &[]);
    lines += "\nkept\n";
    let kept = store.collection::<String, String>("kept").unwrap();
    for key in ["k", "other"] {
        for entry in kept.history(key).unwrap() {
            let (version, by) = (entry.version(), entry.by().unwrap_or("nobody"));
            let what = entry.entity().map_or("deleted".to_owned(), |text| format!("{:?}", **text));
            let at = seconds(entry.at());
            lines += &format!("  {key:?} was {what}, version {version} by {by} at {at} s\n");
        }
    }
    lines
}

fn entities<K, V>(store: &Store, name: &str, deleted: &[K]) -> String
where
    K: Key + AsKey<K> + Clone + Debug,
    V: Debug + serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    describe_collection(&store.collection::<K, V>(name).unwrap(), deleted)
}

fn describe_collection<K, V>(collection: &Collection<K, V>, deleted: &[K]) -> String
where
    K: Key + AsKey<K> + Clone + Debug,
    V: Debug + Send + Sync + 'static,
{
    let mut lines = format!("\n{}\n", collection.name());
    for item in collection {
        let (key, entity) = item.unwrap();
        let (version, by) = (entity.version(), entity.written_by().unwrap_or("nobody"));
        let (at, created) = (seconds(entity.written_at()), seconds(entity.created_at()));
        let value = short(&*entity);
        lines += &format!("  {key:?} = {value}, version {version} by {by} at {at} s");
        lines += &format!(", created at {created} s\n");
    }
    for key in deleted {
        let refused = collection.delete(key.clone()).if_exists().commit().unwrap_err();
        let deletion = refused.conflict().unwrap().deletion().unwrap();
        let (version, by) = (deletion.version(), deletion.deleted_by().unwrap_or("nobody"));
        let at = seconds(deletion.deleted_at());
        lines += &format!("  {key:?} deleted, version {version} by {by} at {at} s\n");
    }
    lines
}

/// Since the contents were begun.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(start()).unwrap().as_secs_f64()
}

/// A value, or how long it is and how it begins.
fn short(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.get(..60) {
        Some(begin) => format!("{begin}… ({} characters)", text.chars().count()),
        None => text,
    }
}

/// A copy of a golden store, to be opened.
fn copy(name: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for file in fs::read_dir(golden().join(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), place.path().join(file.file_name())).unwrap();
    }
    place
}

fn save(disk: &MemoryDisk, name: &str) {
    let place = golden().join(name);
    if place.exists() {
        fs::remove_dir_all(&place).unwrap();
    }
    fs::create_dir_all(&place).unwrap();
    for file in disk.list().unwrap() {
        fs::write(place.join(&file), disk.read(&file).unwrap()).unwrap();
    }
}
