//! Values evolve: schema numbers, migrations and codecs, over every configuration.

mod common;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::everywhere;
use common::hooked::{Call, Hooked};
use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{
    Bincode, Codec, Collection, CollectionBuilder, Error, Json, Limit, Limits, Outcome, Reason,
    Store, Version,
};
use proptest::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    hours: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shift {
    minutes: u32,
    note: String,
}

impl From<Old> for Shift {
    fn from(old: Old) -> Shift {
        Shift { minutes: old.hours * 60, note: "was old".to_owned() }
    }
}

fn old(store: &Store) -> Result<Collection<String, Old>, Error> {
    store.collection("shifts")
}

/// As the next release of a program declares it.
fn declare(store: &Store) -> CollectionBuilder<'_, String, Shift> {
    store.declare("shifts").schema(2)
}

fn migrate(store: &Store) -> Result<Collection<String, Shift>, Error> {
    declare(store).migrate(1, |old: Old| old.into()).open()
}

/// Three entities in schema 1, and a deleted one. Returns the last version.
fn fill(store: &Store) -> Version {
    let shifts = old(store).unwrap();
    for hours in 1..=3 {
        shifts.create(format!("s-{hours}"), Old { hours }).by("ann").commit().unwrap();
    }
    shifts.create("gone", Old { hours: 0 }).commit().unwrap();
    shifts.delete("gone").if_exists().by("bob").commit().unwrap().version()
}

fn minutes(shifts: &Collection<String, Shift>) -> Vec<u32> {
    shifts.iter().map(|item| item.unwrap().1.minutes).collect()
}

fn on(disk: &MemoryDisk) -> Store {
    Store::builder().stripes(1).open_on(Arc::new(disk.clone())).unwrap()
}

/// A disk with what `fill` leaves.
fn filled() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = on(&disk);
    fill(&store);
    store.close().unwrap();
    disk
}

#[test]
fn g2_a_migration_gives_all_entities_one_new_version() {
    let time = |secs| UNIX_EPOCH + Duration::from_secs(secs);
    let clock = Arc::new(ManualClock::new(time(100)));
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        drop(store);
        clock.set(time(100));
        let open = || configuration.open_with(configuration.builder().clock(clock.clone()));
        let store = open();
        let last = fill(&store);
        store.close().unwrap();
        clock.set(time(200));
        let store = open();
        let migrated = migrate(&store).unwrap();
        let version = migrated.get("s-1").unwrap().unwrap().version();
        assert!(version > last, "{}", configuration.name);
        let check = |shifts: &Collection<String, Shift>| {
            assert_eq!(minutes(shifts), [60, 120, 180], "{}", configuration.name);
            assert_eq!(shifts.len().unwrap(), 3);
            for item in shifts.iter() {
                let (_, shift) = item.unwrap();
                assert_eq!((shift.version(), shift.written_by()), (version, Some("migration")));
                assert_eq!((shift.created_at(), shift.written_at()), (time(100), time(200)));
            }
            let refused = shifts.delete("gone").unconditional().commit().unwrap_err();
            let deletion = refused.conflict().unwrap().deletion().unwrap();
            assert_eq!((deletion.version(), deletion.deleted_by()), (last, Some("bob")));
        };
        check(&migrated);
        // As whoever had read the old content is told.
        let stale = Shift { minutes: 1, note: String::new() };
        let refused = migrated.put("s-1", stale).if_match(last).commit().unwrap_err();
        assert_eq!(refused.conflict().unwrap().reason(), Reason::StaleVersion);
        assert!(refused.to_string().contains("migration changed it"), "{refused}");
        drop(migrated);
        store.close().unwrap();
        // It is done once and for all; the migration is not needed any more.
        let store = open();
        let shifts = declare(&store).open().unwrap();
        check(&shifts);
        let next = Shift { minutes: 5, note: String::new() };
        let next = shifts.create("s-4", next).commit().unwrap().version();
        assert!(next > version);
    });
}

#[test]
fn g3_a_power_cut_leaves_a_migration_whole_or_undone() {
    let disk = filled();
    let before = disk.power_cut(0);
    let cuts = Arc::new(Mutex::new(Vec::new()));
    let armed = Arc::new(AtomicBool::new(false));
    let hooked = {
        let (disk, cuts, armed) = (disk.clone(), cuts.clone(), armed.clone());
        Hooked::new(disk.clone(), move |_| {
            if armed.load(Ordering::Relaxed) {
                cuts.lock().unwrap().extend((0..3).map(|survivors| disk.power_cut(survivors)));
            }
            Ok(())
        })
    };
    let store = Store::builder().stripes(1).open_on(Arc::new(hooked)).unwrap();
    armed.store(true, Ordering::Relaxed);
    let version = migrate(&store).unwrap().get("s-1").unwrap().unwrap().version();
    armed.store(false, Ordering::Relaxed);
    // Acknowledged, so durable.
    let after = disk.power_cut(0);
    assert_eq!(is_migrated(&after.power_cut(0)), Some(version));

    let mut cuts = std::mem::take(&mut *cuts.lock().unwrap());
    assert!(cuts.len() >= 6, "a write and a sync at least");
    // And with a part of the frame.
    let newest = "00000000000000000002.log";
    assert!(before.read(newest).is_err());
    let bytes = after.read(newest).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for len in (64..=used + 1).rev().step_by(7) {
        let torn = after.power_cut(0);
        torn.damage(newest, |bytes| bytes.truncate(len));
        cuts.push(torn);
    }
    let (mut whole, mut undone) = (0, 0);
    for cut in &cuts {
        match is_migrated(cut) {
            Some(found) => {
                assert_eq!(found, version);
                whole += 1;
            }
            None => {
                undone += 1;
                // The next open begins anew.
                assert_eq!(minutes(&migrate(&on(cut)).unwrap()), [60, 120, 180]);
                // The version of the first attempt was not shown, so it may come again.
                assert!(is_migrated(cut).is_some_and(|again| again >= version));
            }
        }
    }
    println!("{whole} cuts left all, {undone} nothing");
    assert!(whole > 0 && undone > 0);
}

/// The version of the migration if it is there, `None` if all is old; nothing in between.
fn is_migrated(disk: &MemoryDisk) -> Option<Version> {
    let store = on(disk);
    match declare(&store).open() {
        Ok(shifts) => {
            assert_eq!(minutes(&shifts), [60, 120, 180]);
            let version = shifts.get("s-1").unwrap().unwrap().version();
            assert!(shifts.iter().all(|item| item.unwrap().1.version() == version));
            Some(version)
        }
        Err(Error::Schema { stored: 1, asked_for: 2, .. }) => {
            let shifts = old(&store).unwrap();
            let hours: Vec<_> = shifts.iter().map(|item| item.unwrap().1.hours).collect();
            assert_eq!(hours, [1, 2, 3]);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn g11_a_migration_whose_sync_fails_shows_nothing() {
    let disk = filled();
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let hooked = Hooked::new(disk.clone(), move |call| match call {
        Call::Sync if is_broken.load(Ordering::Relaxed) => Err(std::io::Error::other("on fire")),
        _ => Ok(()),
    });
    let store = Store::builder().open_on(Arc::new(hooked)).unwrap();
    // A segment is there, so that the next sync is that of the migration.
    store.collection::<u8, u8>("other").unwrap().create(1, 1).commit().unwrap();
    broken.store(true, Ordering::Relaxed);
    let outcome = |result: Result<_, Error>| match result {
        Err(Error::Poisoned { outcome, .. }) => outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(outcome(migrate(&store)), Outcome::Unknown);
    assert_eq!(outcome(migrate(&store)), Outcome::NotApplied);
    // What is durable can still be read.
    assert_eq!(old(&store).unwrap().len().unwrap(), 3);
    assert_eq!(is_migrated(&disk.power_cut(0)), None);
}

#[test]
fn another_schema_without_a_migration_is_refused() {
    everywhere(|configuration, store| {
        let newer = store.declare::<String, Shift>("shifts").schema(3).open().unwrap();
        newer.create("s", Shift { minutes: 1, note: String::new() }).commit().unwrap();
        drop(newer);
        let mut store = store;
        for _ in 0..2 {
            let refused = declare(&store).migrate(1, |old: Old| old.into()).open().unwrap_err();
            assert!(
                matches!(&refused, Error::Schema { collection, stored: 3, asked_for: 2 }
                    if collection == "shifts"),
                "{refused}"
            );
            assert!(refused.to_string().contains("use a build that knows schema 3"), "{refused}");
            if !configuration.is_durable() {
                return;
            }
            drop(store);
            store = configuration.open();
        }
        let refused = store.declare::<String, Shift>("shifts").schema(4).open().unwrap_err();
        assert!(refused.to_string().contains("a migration from schema 3"), "{refused}");
        assert_eq!(refused.http_status(), 409);
        // A refusal leaves it as it is.
        let shifts = store.declare::<String, Shift>("shifts").schema(3).open().unwrap();
        assert_eq!(minutes(&shifts), [1]);
    });
}

#[test]
fn another_codec_is_refused() {
    everywhere(|configuration, store| {
        let shifts = store.declare::<String, Shift>("shifts").codec(Json).open().unwrap();
        shifts.create("s", Shift { minutes: 1, note: String::new() }).commit().unwrap();
        drop(shifts);
        let mut store = store;
        for _ in 0..2 {
            let refused = store.collection::<String, Shift>("shifts").unwrap_err();
            assert!(matches!(refused, Error::CollectionType { .. }), "{refused}");
            let said = refused.to_string();
            assert!(said.contains("codec json") && said.contains("codec bincode"), "{said}");
            if !configuration.is_durable() {
                return;
            }
            drop(store);
            store = configuration.open();
        }
        // A migration names the codec it reads.
        let wrong = declare(&store).migrate(1, |shift: Shift| shift).open().unwrap_err();
        assert!(matches!(wrong, Error::CollectionType { .. }), "{wrong}");
        let right = declare(&store).migrate_from(1, Json, |shift: Shift| shift).open().unwrap();
        assert_eq!(minutes(&right), [1]);
    });
}

#[test]
fn each_older_schema_has_its_migration() {
    for first in 1..=3 {
        let disk = MemoryDisk::new();
        let store = on(&disk);
        let numbers = store.declare::<u8, u64>("numbers").schema(first).open().unwrap();
        numbers.create(1, 1).commit().unwrap();
        drop((numbers, store));
        let store = on(&disk);
        let numbers = store
            .declare::<u8, String>("numbers")
            .schema(4)
            .codec(Json)
            .migrate_from(1, Bincode, |number: u64| format!("one {number}"))
            .migrate_from(2, Bincode, |number: u64| format!("two {number}"))
            .migrate_from(3, Bincode, |number: u64| format!("three {number}"))
            .open()
            .unwrap();
        let expected = ["one 1", "two 1", "three 1"][first as usize - 1];
        assert_eq!(*numbers.get(1).unwrap().unwrap(), expected);
    }
}

#[test]
fn a_collection_that_was_emptied_is_migrated_too() {
    let disk = MemoryDisk::new();
    let store = on(&disk);
    let shifts = old(&store).unwrap();
    shifts.create("s", Old { hours: 1 }).commit().unwrap();
    shifts.delete("s").if_exists().commit().unwrap();
    drop((shifts, store));
    assert!(migrate(&on(&disk)).unwrap().is_empty().unwrap());
    assert!(declare(&on(&disk)).open().unwrap().is_empty().unwrap());
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let disk = filled();
    let store = on(&disk);
    let before = disk.list().unwrap();
    let panics = |old: Old| match old.hours {
        2 => panic!("the closure panics"),
        _ => Shift::from(old),
    };
    let open = AssertUnwindSafe(|| declare(&store).migrate(1, panics).open());
    assert!(catch_unwind(open).is_err());
    // Bytes of a u32 that end too soon for a pair.
    let unreadable = declare(&store).migrate(1, |(hours, _): (u32, u32)| Old { hours }.into());
    let error = unreadable.open().unwrap_err();
    assert!(matches!(&error, Error::Decode { key, .. } if key == "s-1"), "{error}");
    let large = |_: Old| Shift { minutes: 0, note: "x".repeat(2 << 20) };
    let error = declare(&store).migrate(1, large).open().unwrap_err();
    assert!(matches!(error, Error::Limit { limit: Limit::ValueBytes, .. }), "{error}");
    let never = store.declare::<String, Never>("shifts").schema(2);
    let error = never.migrate(1, |_: Old| Never { field: None }).open().unwrap_err();
    assert!(matches!(error, Error::Encode { .. }), "{error}");
    assert_eq!(disk.list().unwrap(), before, "something was written");
    assert_eq!(minutes(&migrate(&store).unwrap()), [60, 120, 180]);
}

/// Serde writes it, and bincode cannot read it.
#[derive(Debug, Serialize, Deserialize)]
struct Never {
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<u8>,
}

#[test]
fn g12_a_migration_beyond_its_limit_is_refused() {
    let disk = filled();
    let open = |migration_bytes| {
        let limits = Limits { migration_bytes, ..Limits::default() };
        Store::builder().limits(limits).open_on(Arc::new(disk.clone())).unwrap()
    };
    let error = migrate(&open(50)).unwrap_err();
    assert!(matches!(error, Error::Limit { limit: Limit::MigrationBytes, .. }), "{error}");
    assert!(error.to_string().contains("bytes of migrated collection"), "{error}");
    assert_eq!(is_migrated(&disk), None);
    migrate(&open(500)).unwrap();
}

#[test]
fn two_threads_that_open_at_once_migrate_once() {
    let store = on(&filled());
    let runs = AtomicUsize::new(0);
    let (begun, has_begun) = channel();
    let count = |old: Old| {
        runs.fetch_add(1, Ordering::Relaxed);
        let _ = begun.send(());
        Shift::from(old)
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| declare(&store).migrate(1, count).open().unwrap());
        has_begun.recv().unwrap();
        let second = migrate_counted(&store, &runs).unwrap();
        // Whoever does not know the new schema waits as well, and is refused.
        assert!(matches!(old(&store), Err(Error::CollectionType { .. })));
        let first = first.join().unwrap();
        let version = |shifts: &Collection<_, Shift>| shifts.get("s-1").unwrap().unwrap().version();
        assert_eq!(version(&first), version(&second));
    });
    assert_eq!(runs.into_inner(), 3);
}

fn migrate_counted(store: &Store, runs: &AtomicUsize) -> Result<Collection<String, Shift>, Error> {
    let count = |old: Old| {
        runs.fetch_add(1, Ordering::Relaxed);
        old.into()
    };
    declare(store).migrate(1, count).open()
}

#[test]
fn a_closure_that_opens_what_it_migrates_is_refused() {
    let store = on(&filled());
    let within = |old_shift: Old| {
        assert!(matches!(migrate(&store), Err(Error::Migrating { .. })));
        assert!(matches!(old(&store), Err(Error::Migrating { .. })));
        // Everything else is allowed.
        let log = store.collection::<String, String>("log").unwrap();
        log.put("last", "seen".to_owned()).unconditional().commit().unwrap();
        old_shift.into()
    };
    assert_eq!(minutes(&declare(&store).migrate(1, within).open().unwrap()), [60, 120, 180]);
}

static DECODING: OnceLock<Sender<()>> = OnceLock::new();
static GO_ON: Mutex<()> = Mutex::new(());

/// Says when it is decoded, and waits.
#[derive(Debug, Serialize)]
struct Slow(u32);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slow, D::Error> {
        if let Some(decoding) = DECODING.get() {
            decoding.send(()).unwrap();
            drop(GO_ON.lock().unwrap());
        }
        u32::deserialize(deserializer).map(Slow)
    }
}

#[test]
fn whoever_still_decodes_the_old_schema_does_not_overtake_a_migration() {
    let disk = MemoryDisk::new();
    let store = on(&disk);
    store.collection::<u8, Slow>("slow").unwrap().create(1, Slow(7)).commit().unwrap();
    drop(store);
    let store = on(&disk);
    let (decoding, is_decoding) = channel();
    DECODING.set(decoding).unwrap();
    let mut held = Some(GO_ON.lock().unwrap());
    std::thread::scope(|scope| {
        let overtaken = scope.spawn(|| store.collection::<u8, Slow>("slow"));
        is_decoding.recv().unwrap();
        // The other one is done decoding before the migration is committed.
        let widen = |old: u32| {
            held.take();
            u64::from(old)
        };
        let wide = store.declare::<u8, u64>("slow").schema(2).migrate(1, widen).open().unwrap();
        assert_eq!(*wide.get(1).unwrap().unwrap(), 7);
        assert!(matches!(overtaken.join().unwrap(), Err(Error::CollectionType { .. })));
        wide.put(1, 8).unconditional().commit().unwrap();
    });
    drop(store);
    let wide = on(&disk).declare::<u8, u64>("slow").schema(2).open().unwrap();
    assert_eq!(*wide.get(1).unwrap().unwrap(), 8);
}

#[test]
fn a_json_collection_is_there_after_reopening() {
    everywhere(|configuration, store| {
        let open = |store: &Store| {
            store.declare::<u64, HashMap<String, Option<f64>>>("json").codec(Json).open().unwrap()
        };
        let value =
            HashMap::from([("a \"b\"".to_owned(), Some(0.1 + 0.2)), ("c".to_owned(), None)]);
        open(&store).create(1, value.clone()).commit().unwrap();
        open(&store)
            .update(1, |value| value.retain(|_, number| number.is_some()))
            .commit()
            .unwrap();
        let store = match configuration.is_durable() {
            true => {
                drop(store);
                configuration.open()
            }
            false => store,
        };
        let kept = open(&store).get(1).unwrap().unwrap();
        assert_eq!(*kept, HashMap::from([("a \"b\"".to_owned(), Some(0.1 + 0.2))]));
    });
}

#[test]
fn what_does_not_read_back_is_refused_unless_the_codec_is_trusted() {
    fn check<C: Codec<V> + Copy, V: Send + Sync + 'static>(codec: C, value: impl Fn() -> V) {
        everywhere(|configuration, store| {
            let open = |name| store.declare::<u8, V>(name).codec(codec);
            let checked = open("checked").open().unwrap().create(1, value()).commit();
            assert_eq!(checked.is_err(), configuration.is_durable());
            if let Err(error) = checked {
                assert!(matches!(&error, Error::Encode { .. }), "{error}");
                assert!(error.to_string().contains("read"), "{error}");
            }
            let trusted = open("trusted").trust_encoding().open().unwrap();
            trusted.create(1, value()).commit().unwrap();
        });
    }
    check(Bincode, || Never { field: None });
    check(Json, || vec![f64::NAN]);
}

proptest! {
    /// serde_json's usual way of reading numbers would be off by one bit now and then.
    #[test]
    fn every_number_reads_back_as_json(bits: u64) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let bytes = Json.encode(&number).unwrap();
        let back: f64 = Json.decode(&bytes).unwrap();
        prop_assert_eq!(back.to_bits(), bits);
    }
}

#[test]
fn a_codec_consumes_every_byte() {
    assert!(Codec::<u8>::decode(&Bincode, &[1, 2]).is_err());
    assert!(Codec::<u8>::decode(&Json, b"1 2").is_err());
    assert_eq!(Codec::<u8>::decode(&Json, b"1"), Ok(1));
}

#[test]
fn documents_are_stored_byte_for_byte() {
    use ifmatch::http::Document;

    let disk = MemoryDisk::new();
    let text = "{ \"status\" : \"open\",\n\t\"n\": 1.50e0 } ";
    let open =
        |store: &Store| store.declare::<String, Document>("shifts").codec(Json).open().unwrap();
    let document = Document::parse(text.to_owned()).unwrap();
    open(&on(&disk)).create("s-17", document).commit().unwrap();
    let log = disk.read("00000000000000000001.log").unwrap();
    assert!(log.windows(text.len()).any(|bytes| bytes == text.as_bytes()));
    assert_eq!(open(&on(&disk)).get("s-17").unwrap().unwrap().json(), text);
    // And any program can read them as its own type.
    #[derive(Serialize, Deserialize)]
    struct Typed {
        status: String,
    }
    let store = on(&disk);
    let typed = store.declare::<String, Typed>("shifts").codec(Json).open().unwrap();
    assert_eq!(typed.get("s-17").unwrap().unwrap().status, "open");
}

#[test]
fn in_memory_there_is_nothing_to_migrate() {
    let store = Store::in_memory();
    let shifts = migrate(&store).unwrap();
    assert!(shifts.is_empty().unwrap());
    let now = Shift { minutes: 1, note: String::new() };
    let written = shifts.create("s", now).commit().unwrap().into_entity();
    assert!(written.written_at() <= SystemTime::now());
    assert_eq!(minutes(&migrate(&store).unwrap()), [1]);
}
