//! Indexes of what is stored already: all that breaks them is told, and nothing is changed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ifmatch::testing::{Crash, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{Collection, Error, Store};
use serde::{Deserialize, Serialize};

use crate::common::everywhere;
use crate::{Employee, Employees, check_agreement, declare, employee, employees, holder};

/// The same collection, without indexes.
fn unindexed(store: &Store) -> Employees {
    store.collection("employees").unwrap()
}

#[test]
fn g4_all_that_breaks_a_new_index_is_told_and_nothing_changes() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let dirty = unindexed(&store);
        for (key, legacy_id, badge) in [
            ("e-1", "L-1", 1),
            ("e-2", "L-1", 2),
            ("e-3", "L-2", 3),
            ("e-4", "", 0),
            ("e-5", "", 0),
            ("e-6", "L-3", 3),
            ("e-7", "L-1", 7),
        ] {
            let employee = Employee { badge, ..employee("", legacy_id) };
            dirty.create(key, employee).commit().unwrap();
        }
        drop(dirty);
        store.close().unwrap();

        let store = configuration.open();
        let error = declare(&store).open().unwrap_err();
        assert_eq!(
            error.to_string(),
            "collection employees breaks its unique indexes: badge \"3\" is shared by e-3, e-6; \
             legacy_id \"L-1\" is shared by e-1, e-2, e-7; nothing was changed; open it without \
             the indexes, change these entities, and open it again"
        );
        let Error::Duplicates { collection, found, more } = error else { panic!("{error}") };
        assert_eq!((&*collection, found.len(), more), ("employees", 2, 0));
        assert_eq!((&*found[1].index, &*found[1].value), ("legacy_id", "L-1"));
        assert_eq!(found[1].keys, ["e-1", "e-2", "e-7"]);

        // It is as it was, in the same process too, and can be put right.
        let dirty = unindexed(&store);
        assert_eq!(dirty.len().unwrap(), 7);
        for key in ["e-2", "e-7"] {
            dirty.update(key, |e| e.legacy_id = Some(format!("was-{key}"))).commit().unwrap();
        }
        dirty.update("e-6", |e| e.badge = 6).commit().unwrap();
        let error = declare(&store).open().unwrap_err();
        assert!(matches!(error, Error::Indexes { .. }), "{error}");
        drop(dirty);
        store.close().unwrap();

        let store = configuration.open();
        let clean = employees(&store);
        assert_eq!(holder(&clean, "L-1").as_deref(), Some("e-1"));
        assert_eq!(holder(&clean, "was-e-7").as_deref(), Some("e-7"));
        check_agreement(&clean, (1..4).map(|id| format!("L-{id}")));
        assert!(clean.create("e-8", employee("", "L-2")).commit().unwrap_err().is_conflict());
    });
}

#[test]
fn g12_of_very_many_duplicates_as_many_are_told_as_can_be_read() {
    let disk = Arc::new(MemoryDisk::new());
    let store = Store::builder().open_on(disk.clone()).unwrap();
    let dirty = unindexed(&store);
    for n in 0..1_500 {
        dirty.create(format!("e-{n:04}"), employee("", &format!("L-{}", n / 3))).commit().unwrap();
    }
    drop(dirty);
    store.close().unwrap();
    let store = Store::builder().open_on(disk).unwrap();
    let Err(Error::Duplicates { found, more, .. }) = declare(&store).open() else {
        panic!("there are 1,500")
    };
    let named: usize = found.iter().map(|duplicate| duplicate.keys.len()).sum();
    assert_eq!((named, more), (1_000, 500));
    let error = declare(&store).open().unwrap_err().to_string();
    assert!(error.contains("; and 500 entities more; nothing was changed"), "{error}");
}

#[derive(Serialize, Deserialize)]
struct Older {
    legacy_id: String,
}

#[test]
fn a_migration_that_breaks_an_index_is_not_begun() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let old = store.collection::<String, Older>("employees").unwrap();
        for (key, legacy_id) in [("e-1", "l-1"), ("e-2", "L-1"), ("e-3", "L-2")] {
            old.create(key, Older { legacy_id: legacy_id.to_owned() }).commit().unwrap();
        }
        let last = old.get("e-3").unwrap().unwrap().version();
        drop(old);
        store.close().unwrap();
        let migrate = |store: &Store, upper: bool| {
            declare(store)
                .schema(2)
                .migrate(1, move |old: Older| match upper {
                    true => employee("", &old.legacy_id.to_uppercase()),
                    false => employee("", &old.legacy_id),
                })
                .open()
        };
        let store = configuration.open();
        let error = migrate(&store, true).unwrap_err();
        assert!(error.to_string().contains("legacy_id \"L-1\" is shared by e-1, e-2;"), "{error}");
        let old: Collection<String, Older> = store.collection("employees").unwrap();
        assert_eq!(old.get("e-3").unwrap().unwrap().version(), last);
        drop(old);
        store.close().unwrap();
        // With another migration it is, and what it wrote is in the index.
        for _ in 0..2 {
            let store = configuration.open();
            let new = migrate(&store, false).unwrap();
            assert_eq!(holder(&new, "l-1").as_deref(), Some("e-1"));
            let (_, found) = new.find_by("legacy_id", "L-2").unwrap().unwrap();
            assert_eq!(found.written_by(), Some("migration"));
            let refused = new.create("e-4", employee("", "L-1")).commit().unwrap_err();
            assert_eq!(refused.conflict().unwrap().holder(), Some("e-2"));
            drop(new);
            store.close().unwrap();
        }
    });
}

#[test]
fn a_collection_has_one_set_of_indexes_in_a_process() {
    everywhere(|_, store| {
        let first = employees(&store);
        first.create("e-1", employee("Ann", "L-1")).commit().unwrap();
        // Who names none gets the ones that are there.
        let other = unindexed(&store);
        assert!(other.create("e-2", employee("Bob", "L-1")).commit().unwrap_err().is_conflict());
        assert_eq!(holder(&other, "L-1").as_deref(), Some("e-1"));
        employees(&store);
        let name = |employee: &Employee| employee.name.clone();
        let error =
            store.declare::<String, Employee>("employees").unique("name", name).open().unwrap_err();
        assert_eq!(
            error.to_string(),
            "collection employees is open with other unique indexes: badge (u32), \
             legacy_id (string), not name (string); declare the same ones wherever it is opened"
        );
        store.collection::<String, Employee>("plain").unwrap();
        let error =
            store.declare::<String, Employee>("plain").unique("name", name).open().unwrap_err();
        assert!(error.to_string().contains(": none, not name (string);"), "{error}");
        let badge = |employee: &Employee| u64::from(employee.badge);
        let error = declare(&store).unique("badge", badge).open().unwrap_err();
        assert!(error.to_string().contains("badge (u32), legacy_id"), "{error}");
    });
}

#[test]
fn a_function_that_panics_at_opening_leaves_the_collection_closed() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        unindexed(&store).create("e-1", employee("Zoe", "L-1")).commit().unwrap();
        store.close().unwrap();
        let store = configuration.open();
        let nobody = |_: &Employee| -> Option<u32> { panic!("nobody may be indexed") };
        let open = || declare(&store).unique("panics", nobody).open().map(drop);
        assert!(catch_unwind(AssertUnwindSafe(open)).is_err());
        assert_eq!(holder(&employees(&store), "L-1").as_deref(), Some("e-1"));
    });
}

#[test]
fn g3_index_and_entities_agree_after_a_power_cut() {
    for seed in 0..30 {
        let mut disk = MemoryDisk::new();
        for round in 0..3 {
            let store =
                Store::builder().segment_bytes(4096).open_on(Arc::new(disk.clone())).unwrap();
            let employees = employees(&store);
            check_agreement(&employees, (0..10).map(|id| format!("L-{id}")));
            let mut random = fastrand::Rng::with_seed(seed * 3 + round);
            for _ in 0..40 {
                let (key, legacy_id) = (random.u8(..8), random.u8(..10));
                let key = format!("e-{key}");
                let written = match random.u8(..4) {
                    0 => employees.delete(key).if_exists().commit().map(drop),
                    _ => {
                        let value = employee("", &format!("L-{legacy_id}"));
                        employees.put(key, value).unconditional().commit().map(drop)
                    }
                };
                assert!(written.is_ok() || written.unwrap_err().is_conflict());
            }
            let crash = PowerCut { writes: Unsynced::Reordered, names: Names::Prefix, seed };
            // Somewhere in what was done since.
            let calls = disk.calls();
            disk = disk.crash(calls - random.usize(..calls.min(30)), Crash::Power(crash));
        }
        let store = Store::builder().open_on(Arc::new(disk)).unwrap();
        check_agreement(&employees(&store), (0..10).map(|id| format!("L-{id}")));
    }
}
