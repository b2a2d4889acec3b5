//! G1 and G4: who gets an index key, and what those are told who do not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use ifmatch::testing::MemoryDisk;
use ifmatch::{Compute, Conflict, Error, Limit, Precondition, Reason, Retry, Store};

use crate::common::hooked::{Call, Gate, Hooked};
use crate::common::{block_on, everywhere};
use crate::{Employee, Employees, check_agreement, declare, employee, employees, holder};

fn refusal<T: std::fmt::Debug>(result: ifmatch::Result<T>) -> Box<Conflict> {
    match result {
        Err(Error::Conflict(conflict)) => conflict,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn g4_a_duplicate_is_refused_and_explained() {
    everywhere(|_, store| {
        let employees = employees(&store);
        employees.create("e-1", employee("Ann", "L-7")).by("import").commit().unwrap();
        let ann = employees.get("e-1").unwrap().unwrap();
        let conflict = refusal(employees.create("e-2", employee("Bob", "L-7")).commit());
        assert_eq!(
            conflict.to_string(),
            "employees/e-2 cannot be written: employees/e-1 holds the same legacy_id; \
             choose another value, or change that entity first"
        );
        assert_eq!((conflict.reason(), conflict.retry()), (Reason::Duplicate, Retry::Never));
        assert_eq!((conflict.collection(), conflict.key()), ("employees", "e-2"));
        assert_eq!((conflict.index(), conflict.holder()), (Some("legacy_id"), Some("e-1")));
        let current = conflict.current::<Employee>().unwrap();
        assert_eq!((current.version(), &*current), (ann.version(), &*ann));
        assert_eq!(current.written_by(), Some("import"));
        assert_eq!(conflict.into_proposed::<Employee>(), Some(employee("Bob", "L-7")));
        assert!(employees.get("e-2").unwrap().is_none());
        assert_eq!(holder(&employees, "L-7").as_deref(), Some("e-1"));
    });
}

#[test]
fn g1_no_way_to_write_gets_by_the_index() {
    everywhere(|_, store| {
        let employees = employees(&store);
        employees.create("e-1", employee("Ann", "L-7")).commit().unwrap();
        employees.create("e-2", employee("Bob", "L-8")).commit().unwrap();
        let bob = || employee("Bob", "L-7");
        let policy = ifmatch::RetryPolicy { attempts: 3, ..Default::default() };
        let mut runs = 0;
        let update = employees.update("e-2", |bob| {
            runs += 1;
            bob.legacy_id = Some("L-7".to_owned());
        });
        let transaction = store.transact(|tx| tx.create(&employees, "e-3", bob()));
        let mut refused = vec![
            refusal(employees.put("e-2", bob()).if_exists().commit()),
            refusal(employees.put("e-2", bob()).unconditional().commit()),
            refusal(block_on(employees.put("e-2", bob()).unconditional())),
            refusal(update.retry(policy).commit()),
            refusal(employees.compute("e-2", |_| Compute::Put(bob())).commit()),
            refusal(block_on(employees.compute("e-3", |_| Compute::Put(bob())))),
            refusal(transaction.commit()),
        ];
        assert_eq!(runs, 1, "trying again would not help");
        for conflict in refused.drain(..) {
            assert_eq!(conflict.reason(), Reason::Duplicate, "{conflict}");
            assert_eq!((conflict.index(), conflict.holder()), (Some("legacy_id"), Some("e-1")));
        }
        assert_eq!(employees.len().unwrap(), 2);
        assert_eq!(holder(&employees, "L-8").as_deref(), Some("e-2"));
        // Its own key is no duplicate, and without one there is none.
        employees.put("e-1", employee("Anna", "L-7")).if_exists().commit().unwrap();
        employees.update("e-1", |anna| anna.name.push('!')).commit().unwrap();
        for key in ["n-1", "n-2"] {
            employees.create(key, employee("None", "")).commit().unwrap();
        }
        // The condition that was named is told before.
        let both = refusal(employees.create("e-2", bob()).commit());
        assert_eq!(both.reason(), Reason::AlreadyExists);
        check_agreement(&employees, ["L-7", "L-8"].map(str::to_owned).into_iter());
    });
}

#[test]
fn g5_operation_ids_and_predicates_go_with_an_index() {
    everywhere(|_, store| {
        let employees = employees(&store);
        let create = |key: &str, id: &str| {
            employees.create(key, employee("Ann", "L-7")).by("ann").operation_id(id).commit()
        };
        let first = create("e-1", "op-1").unwrap();
        let again = create("e-1", "op-1").unwrap();
        assert_eq!((again.version(), again.is_replayed()), (first.version(), true));
        assert_eq!(refusal(create("e-2", "op-2")).holder(), Some("e-1"));
        let named = |name: &'static str| {
            let put = employees.put("e-1", employee("Bob", "L-8"));
            put.if_state(name, move |employee| employee.name == name).commit()
        };
        assert_eq!(refusal(named("Cid")).reason(), Reason::WrongState);
        named("Ann").unwrap();
        // What is remembered of an operation is not what holds the index key.
        assert!(create("e-1", "op-1").unwrap().is_replayed());
        create("e-2", "op-2").unwrap();
        assert_eq!(holder(&employees, "L-7").as_deref(), Some("e-2"));
    });
}

#[test]
fn g4_each_index_is_named() {
    everywhere(|_, store| {
        let employees = employees(&store);
        let badge = |legacy_id: &str, badge| Employee { badge, ..employee("", legacy_id) };
        employees.create("e-1", badge("L-1", 1)).commit().unwrap();
        employees.create("e-2", badge("L-2", 2)).commit().unwrap();
        let conflict = refusal(employees.create("e-3", badge("L-3", 2)).commit());
        assert_eq!((conflict.index(), conflict.holder()), (Some("badge"), Some("e-2")));
        // Of two that are held one is told.
        let conflict = refusal(employees.create("e-3", badge("L-1", 2)).commit());
        assert_eq!(conflict.all().count(), 1);
        let both = refusal(
            store
                .transact(|tx| {
                    tx.create(&employees, "e-4", badge("L-1", 4))?;
                    tx.create(&employees, "e-3", badge("L-3", 2))?;
                    tx.check(&employees, "e-2", Precondition::Absent)
                })
                .commit(),
        );
        let told: Vec<_> = both.all().map(|one| (one.key(), one.reason(), one.holder())).collect();
        let duplicate = Reason::Duplicate;
        assert_eq!(
            told,
            [
                ("e-2", Reason::AlreadyExists, None),
                ("e-3", duplicate, Some("e-2")),
                ("e-4", duplicate, Some("e-1")),
            ]
        );
    });
}

#[test]
fn g1_an_index_key_is_free_again_after_a_delete_or_a_change() {
    everywhere(|configuration, store| {
        let mut employees = employees(&store);
        employees.create("e-1", employee("Ann", "L-7")).commit().unwrap();
        employees.put("e-1", employee("Ann", "L-8")).if_exists().commit().unwrap();
        assert_eq!(holder(&employees, "L-7"), None);
        employees.create("e-2", employee("Bob", "L-7")).commit().unwrap();
        employees.delete("e-2").if_exists().commit().unwrap();
        employees.create("e-3", employee("Cid", "L-7")).commit().unwrap();
        employees.update("e-3", |cid| cid.legacy_id = None).commit().unwrap();
        assert_eq!(holder(&employees, "L-7"), None);
        employees.create("e-4", employee("Dan", "L-7")).commit().unwrap();
        if configuration.is_durable() {
            drop(employees);
            store.close().unwrap();
            employees = crate::employees(&configuration.open());
        }
        assert_eq!(holder(&employees, "L-7").as_deref(), Some("e-4"));
        assert_eq!(holder(&employees, "L-8").as_deref(), Some("e-1"));
        assert_eq!(
            refusal(employees.create("e-5", employee("", "L-8")).commit()).holder(),
            Some("e-1")
        );
    });
}

#[test]
fn g1_index_keys_change_hands_within_a_transaction() {
    everywhere(|_, store| {
        let employees = employees(&store);
        for (key, legacy_id) in [("e-1", "L-1"), ("e-2", "L-2"), ("e-3", "L-3")] {
            employees.create(key, employee(key, legacy_id)).commit().unwrap();
        }
        let swapped = store.transact(|tx| {
            let (one, two) = (tx.require(&employees, "e-1")?, tx.require(&employees, "e-2")?);
            tx.put(&employees, "e-1", employee("e-1", two.legacy_id.as_deref().unwrap()))?;
            tx.put(&employees, "e-2", employee("e-2", one.legacy_id.as_deref().unwrap()))
        });
        let version = swapped.commit().unwrap().version();
        assert_eq!(holder(&employees, "L-1").as_deref(), Some("e-2"));
        assert_eq!(holder(&employees, "L-2").as_deref(), Some("e-1"));
        assert_eq!(employees.get("e-1").unwrap().map(|one| one.version()), version);
        // One goes, and leaves its index key to one that comes.
        let replaced = store.transact(|tx| {
            tx.delete_if(&employees, "e-3", Precondition::Exists)?;
            tx.create(&employees, "e-0", employee("e-0", "L-3"))
        });
        replaced.commit().unwrap();
        assert_eq!(holder(&employees, "L-3").as_deref(), Some("e-0"));
        check_agreement(&employees, (1..4).map(|id| format!("L-{id}")));
    });
}

#[test]
fn g1_a_transaction_does_not_give_one_index_key_twice() {
    everywhere(|_, store| {
        let employees = employees(&store);
        employees.create("e-1", employee("Ann", "L-1")).commit().unwrap();
        let conflict = refusal(
            store
                .transact(|tx| {
                    tx.create(&employees, "e-2", employee("Bob", "L-2"))?;
                    tx.create(&employees, "e-3", employee("Cid", "L-2"))
                })
                .commit(),
        );
        assert_eq!(
            conflict.to_string(),
            "employees/e-3 cannot be written: the same transaction gives employees/e-2 the same \
             legacy_id; choose another value for one of them"
        );
        assert!(conflict.current_version().is_none());
        // What is handed over to two is refused to one of them.
        let conflict = refusal(
            store
                .transact(|tx| {
                    tx.put_if(&employees, "e-1", employee("Ann", ""), Precondition::Exists)?;
                    tx.create(&employees, "e-2", employee("Bob", "L-1"))?;
                    tx.create(&employees, "e-3", employee("Cid", "L-1"))
                })
                .commit(),
        );
        assert_eq!((conflict.key(), conflict.holder()), ("e-3", Some("e-2")));
        // Who keeps it in the same transaction, holds it.
        let conflict = refusal(
            store
                .transact(|tx| {
                    tx.put_if(&employees, "e-1", employee("Anna", "L-1"), Precondition::Exists)?;
                    tx.create(&employees, "e-2", employee("Bob", "L-1"))
                })
                .commit(),
        );
        assert_eq!((conflict.key(), conflict.holder()), ("e-2", Some("e-1")));
        assert_eq!(*conflict.current::<Employee>().unwrap(), employee("Ann", "L-1"));
        assert_eq!(employees.len().unwrap(), 1);
        // What is staged last counts.
        let twice = store.transact(|tx| {
            tx.create(&employees, "e-2", employee("Bob", "L-1"))?;
            tx.put(&employees, "e-2", employee("Bob", "L-2"))
        });
        twice.commit().unwrap();
    });
}

#[test]
fn g1_of_many_threads_one_gets_the_index_key() {
    everywhere(|_, store| {
        let employees = employees(&store);
        for round in 0..20 {
            let legacy_id = format!("L-{round}");
            let won: Vec<_> = std::thread::scope(|scope| {
                let create = |thread: usize| {
                    let (employees, legacy_id) = (&employees, &legacy_id);
                    let key = format!("e-{round}-{thread}");
                    scope.spawn(move || {
                        let done = employees.create(&key, employee("", legacy_id)).commit();
                        match done {
                            Ok(_) => Ok(key),
                            Err(error) => {
                                let conflict = error.conflict().expect("a conflict");
                                assert_eq!(conflict.reason(), Reason::Duplicate);
                                let current = conflict.current::<Employee>().unwrap();
                                assert_eq!(current.legacy_id.as_ref(), Some(legacy_id));
                                Err(conflict.holder().unwrap().to_owned())
                            }
                        }
                    })
                };
                let threads: Vec<_> = (0..6).map(create).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let winner = holder(&employees, &legacy_id).unwrap();
            assert_eq!(won.iter().filter(|won| won.is_ok()).count(), 1);
            for told in won {
                assert_eq!(told.unwrap_or_else(|holder| holder), winner);
            }
        }
        assert_eq!(employees.len().unwrap(), 20);
    });
}

fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A store whose syncs wait at the gate, and fail once told to.
fn gated() -> (Store, Employees, Arc<Gate>, Arc<AtomicBool>) {
    let (gate, fails) = (Arc::new(Gate::default()), Arc::new(AtomicBool::new(false)));
    let (at_sync, failing) = (Arc::clone(&gate), Arc::clone(&fails));
    let disk = Hooked::new(MemoryDisk::new(), move |call| {
        if matches!(call, Call::Sync) {
            at_sync.pass();
            if failing.load(Ordering::SeqCst) {
                return Err(std::io::Error::other("bad sector"));
            }
        }
        Ok(())
    });
    let store = Store::builder().open_on(Arc::new(disk)).unwrap();
    let employees = employees(&store);
    // Takes space, so that the next writes wait for the sync alone.
    employees.create("e-1", employee("Ann", "L-1")).commit().unwrap();
    (store, employees, gate, fails)
}

#[test]
fn g3_an_index_key_that_is_not_durably_free_can_be_taken_and_is_not_shown() {
    let (_store, employees, gate, _) = gated();
    gate.set_shut(true);
    let mut delete = employees.delete("e-1").if_exists().into_future();
    let mut create = employees.create("e-2", employee("Bob", "L-1")).into_future();
    let mut third = employees.create("e-3", employee("Cid", "L-1")).into_future();
    assert!(!is_ready(&mut delete) && !is_ready(&mut create) && !is_ready(&mut third));
    gate.until_somebody_waits();
    assert_eq!(holder(&employees, "L-1").as_deref(), Some("e-1"), "the delete is not durable");
    gate.set_shut(false);
    block_on(delete).unwrap();
    block_on(create).unwrap();
    assert_eq!(refusal(block_on(third)).holder(), Some("e-2"));
    assert_eq!(holder(&employees, "L-1").as_deref(), Some("e-2"));
}

#[test]
fn g3_a_refusal_rests_on_the_holder() {
    let (_store, employees, gate, fails) = gated();
    gate.set_shut(true);
    let mut create = employees.create("e-2", employee("Bob", "L-2")).into_future();
    assert!(!is_ready(&mut create));
    let mut refused = employees.create("e-3", employee("Cid", "L-2")).into_future();
    assert!(!is_ready(&mut refused), "the holder may still be lost");
    // The holder is durable, but not as the refusal shows it.
    let mut renamed = employees.put("e-1", employee("Anna", "L-1")).if_exists().into_future();
    assert!(!is_ready(&mut renamed));
    let mut shows_new = employees.create("e-4", employee("Dan", "L-1")).into_future();
    assert!(!is_ready(&mut shows_new), "it would show what may still be lost");
    gate.until_somebody_waits();
    fails.store(true, Ordering::SeqCst);
    gate.set_shut(false);
    for refused in [refused, shows_new] {
        let lost = block_on(refused).unwrap_err();
        assert!(matches!(lost, Error::Poisoned { .. }), "{lost}");
    }
    assert_eq!(holder(&employees, "L-2"), None);
    assert_eq!(holder(&employees, "L-1").as_deref(), Some("e-1"));
}

#[test]
fn g12_an_index_key_is_as_long_as_a_key_may_be() {
    everywhere(|_, store| {
        let employees = employees(&store);
        let long = "x".repeat(513);
        let refused = employees.create("e-1", employee("Ann", &long)).commit().unwrap_err();
        assert!(matches!(refused, Error::Limit { limit: Limit::KeyBytes, .. }));
        assert_eq!(
            refused.to_string(),
            "employees/e-1 in the index legacy_id: 513 bytes of key, where 512 are allowed; \
             make it smaller, or raise the limit in the builder"
        );
        employees.create("e-1", employee("Ann", &long[1..])).commit().unwrap();
        assert_eq!(holder(&employees, &long[1..]).as_deref(), Some("e-1"));
    });
}

#[test]
fn g1_a_function_that_panics_leaves_nothing_behind() {
    everywhere(|_, store| {
        let employees = declare(&store)
            .unique("name", |employee: &Employee| {
                assert_ne!(employee.name, "Zoe", "nobody is called Zoe");
                employee.name.clone()
            })
            .open()
            .unwrap();
        employees.create("e-1", employee("Ann", "L-1")).commit().unwrap();
        let zoe = || employee("Zoe", "L-9");
        let writes: [&dyn Fn(); 3] = [
            &|| drop(employees.put("e-1", zoe()).if_exists().commit()),
            &|| drop(employees.update("e-1", |ann| *ann = zoe()).commit()),
            &|| drop(store.transact(|tx| tx.create(&employees, "e-2", zoe())).commit()),
        ];
        for write in writes {
            assert!(catch_unwind(AssertUnwindSafe(write)).is_err());
        }
        assert_eq!(holder(&employees, "L-9"), None);
        employees.create("e-2", employee("Bob", "L-9")).commit().unwrap();
        employees.delete("e-1").if_exists().commit().unwrap();
        assert_eq!(holder(&employees, "L-9").as_deref(), Some("e-2"));
    });
}
