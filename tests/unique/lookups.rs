//! G1 and G3: what look-ups find, alone and within transactions.

use ifmatch::{Error, Store};

use crate::common::{block_on, everywhere};
use crate::{Employee, Employees, employee, employees, holder};

/// Runs `f` at its first call, and nothing at later ones.
fn once(mut f: impl FnMut()) -> impl FnMut() {
    let mut done = false;
    move || {
        if !std::mem::replace(&mut done, true) {
            f();
        }
    }
}

fn two(store: &Store) -> Employees {
    let employees = employees(store);
    employees.create("e-1", employee("Ann", "L-1")).commit().unwrap();
    employees.create("e-2", employee("Bob", "L-2")).commit().unwrap();
    employees
}

#[test]
fn g1_a_look_up_finds_what_the_last_commit_left() {
    everywhere(|_, store| {
        let employees = two(&store);
        let done = employees.update("e-1", |ann| ann.name.push('a')).commit().unwrap();
        let (key, found) = employees.find_by("legacy_id", "L-1").unwrap().unwrap();
        assert_eq!((&*key, found.version(), &*found.name), ("e-1", done.version(), "Anna"));
        assert!(employees.find_by("badge", 7_u32).unwrap().is_none());
        let moved = |ann: &mut Employee| (ann.badge, ann.legacy_id) = (7, None);
        block_on(employees.update("e-1", moved)).unwrap();
        assert!(employees.find_by("legacy_id", "L-1").unwrap().is_none());
        assert_eq!(employees.find_by("badge", 7_u32).unwrap().unwrap().0, "e-1");
    });
}

#[test]
fn an_index_that_is_not_there_is_told() {
    everywhere(|_, store| {
        let employees = two(&store);
        let error = employees.find_by("legacy", "L-1").unwrap_err();
        assert!(matches!(error, Error::Index { .. }));
        assert_eq!(
            error.to_string(),
            "collection employees, index legacy: there is no such unique index; \
             see how the collection is declared"
        );
        let error = employees.find_by("badge", 7_u64).unwrap_err();
        assert!(error.to_string().contains("its keys are of type u32, not u64"), "{error}");
        let error = store.transact(|tx| tx.find_by(&employees, "badge", "7")).commit();
        assert!(matches!(error, Err(Error::Index { .. })));
        store.clone().close().unwrap();
        assert!(matches!(employees.find_by("legacy_id", "L-1"), Err(Error::Closed)));
    });
}

#[test]
fn g1_a_look_up_sees_what_the_transaction_has_staged() {
    everywhere(|_, store| {
        let employees = two(&store);
        let done = store.transact(|tx| {
            let (key, ann) = tx.find_by(&employees, "legacy_id", "L-1")?.unwrap();
            assert_eq!((&*key, ann.version().is_some()), ("e-1", true));
            tx.put(&employees, "e-1", employee("Ann", "L-3"))?;
            assert!(tx.find_by(&employees, "legacy_id", "L-1")?.is_none());
            let (key, ann) = tx.find_by(&employees, "legacy_id", "L-3")?.unwrap();
            assert_eq!((&*key, ann.version()), ("e-1", None));
            tx.create(&employees, "e-3", employee("Cid", "L-1"))?;
            assert_eq!(tx.find_by(&employees, "legacy_id", "L-1")?.unwrap().0, "e-3");
            tx.require(&employees, "e-2")?;
            tx.delete(&employees, "e-2")?;
            assert!(tx.find_by(&employees, "legacy_id", "L-2")?.is_none());
            Ok(())
        });
        assert_eq!(done.commit().unwrap().attempts(), 1);
        let holders = ["L-1", "L-2", "L-3"].map(|legacy_id| holder(&employees, legacy_id));
        assert_eq!(holders, [Some("e-3".to_owned()), None, Some("e-1".to_owned())]);
    });
}

/// A transaction looks an index key up and writes what it found, while another one commits.
fn found_beside(store: &Store, legacy_id: &str, mut other: impl FnMut()) -> (Option<String>, u32) {
    let employees = employees(store);
    let notes = store.collection::<u64, Option<String>>("notes").unwrap();
    let done = store.transact(|tx| {
        let found = tx.find_by(&employees, "legacy_id", legacy_id)?.map(|(key, _)| key);
        other();
        tx.put_if(&notes, 1, found, ifmatch::Precondition::Unconditional)
    });
    let attempts = done.commit().unwrap().attempts();
    (notes.get(1).unwrap().unwrap().value().clone(), attempts)
}

#[test]
fn g1_an_index_key_that_comes_or_goes_is_a_conflict() {
    everywhere(|_, store| {
        let employees = two(&store);
        let comes = once(|| drop(employees.create("e-3", employee("", "L-3")).commit().unwrap()));
        assert_eq!(found_beside(&store, "L-3", comes), (Some("e-3".to_owned()), 2));
        let goes = once(|| _ = employees.delete("e-3").if_exists().commit().unwrap());
        assert_eq!(found_beside(&store, "L-3", goes), (None, 2));
        let moves = once(|| {
            let moved = store.transact(|tx| {
                tx.put_if(&employees, "e-1", employee("", ""), ifmatch::Precondition::Exists)?;
                tx.create(&employees, "e-4", employee("", "L-1"))
            });
            moved.commit().unwrap();
        });
        assert_eq!(found_beside(&store, "L-1", moves), (Some("e-4".to_owned()), 2));
        // What comes and goes in between, or beside it, is none.
        let nothing = once(|| {
            employees.create("e-5", employee("", "L-5")).commit().unwrap();
            employees.delete("e-5").if_exists().commit().unwrap();
            employees.create("e-6", employee("", "L-6")).commit().unwrap();
        });
        assert_eq!(found_beside(&store, "L-5", nothing), (None, 1));
    });
}

#[test]
fn g1_two_look_ups_see_one_instant() {
    everywhere(|_, store| {
        let employees = two(&store);
        let swap = || {
            let swapped = store.transact(|tx| {
                let (one, two) = (tx.require(&employees, "e-1")?, tx.require(&employees, "e-2")?);
                tx.put(&employees, "e-1", (*two).clone())?;
                tx.put(&employees, "e-2", (*one).clone())
            });
            swapped.commit().unwrap();
        };
        let mut other = once(swap);
        let seen = store.transact(|tx| {
            let one = tx.find_by(&employees, "legacy_id", "L-1")?.unwrap().0;
            other();
            let two = tx.find_by(&employees, "legacy_id", "L-2")?.unwrap().0;
            assert_ne!(one, two, "the closure has seen half of a commit");
            Ok((one, two))
        });
        assert_eq!(seen.commit().unwrap().into_value(), ("e-2".to_owned(), "e-1".to_owned()));
    });
}
