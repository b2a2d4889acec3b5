//! G5: you never conflict with yourself.

mod common;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{block_on, everywhere};
use ifmatch::testing::{Crash, ManualClock, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{Compute, Computed, Error, Limits, Once, Reason, Store, Version};

#[test]
fn g5_a_write_that_has_landed_is_answered_and_not_written_again() {
    everywhere(|_, store| {
        let orders = store.collection::<u64, String>("orders").unwrap();
        let create = |value: &str| orders.create(7, value.to_owned()).by("ann").operation_id("o-1");
        let first = create("two bolts").commit().unwrap();
        assert!(!first.is_replayed());
        let again = create("two bolts").commit().unwrap();
        let async_again = block_on(create("two bolts")).unwrap();
        for again in [again, async_again] {
            assert!(again.is_replayed());
            assert_eq!((again.version(), again.previous()), (first.version(), None));
            let (one, other) = (again.entity(), first.entity());
            assert_eq!((one.value(), one.written_by()), (other.value(), other.written_by()));
            assert_eq!(one.written_at(), other.written_at());
            assert_eq!(one.created_at(), other.created_at());
        }
        // Without the id it would be a conflict; and so is a write that differs.
        let refused = orders.create(7, "two bolts".to_owned()).by("ann").commit().unwrap_err();
        assert_eq!(refused.conflict().unwrap().reason(), Reason::AlreadyExists);
        let reused = create("three bolts").commit().unwrap_err();
        let Error::KeyReused { id, version } = &reused else { panic!("{reused}") };
        assert_eq!((id.as_str(), *version), ("o-1", first.version()));
        // The id is the actor's own.
        let of_bob = orders.put(7, "nuts".to_owned()).if_exists().by("bob").operation_id("o-1");
        assert!(!of_bob.commit().unwrap().is_replayed());
        let of_nobody = orders.put(7, "nuts".to_owned()).if_exists().operation_id("o-1");
        assert!(!of_nobody.commit().unwrap().is_replayed());
    });
}

#[test]
fn g5_replaying_comes_before_any_conflict() {
    everywhere(|_, store| {
        let orders = store.collection::<u64, String>("orders").unwrap();
        let v1 = orders.create(7, "a".to_owned()).commit().unwrap().version();
        let put = || orders.put(7, "b".to_owned()).if_match(v1).operation_id("put");
        let first = put().commit().unwrap();
        orders.put(7, "c".to_owned()).if_exists().commit().unwrap();
        let again = put().commit().unwrap();
        assert!(again.is_replayed());
        assert_eq!((again.version(), again.previous()), (first.version(), Some(v1)));
        assert_eq!(again.value(), "b", "what it wrote then");

        let delete = || orders.delete(7).if_exists().operation_id("delete");
        let first = delete().commit().unwrap();
        orders.create(7, "d".to_owned()).commit().unwrap();
        let again = delete().commit().unwrap();
        assert!(again.is_replayed() && !first.is_replayed());
        assert_eq!((again.version(), again.previous()), (first.version(), first.previous()));
        assert!(orders.contains(7).unwrap(), "the new one was not deleted");
    });
}

#[test]
fn g5_a_refused_write_is_not_remembered() {
    everywhere(|_, store| {
        let orders = store.collection::<u64, String>("orders").unwrap();
        let put = || orders.put(7, "a".to_owned()).if_exists().operation_id("put");
        assert!(put().commit().unwrap_err().is_conflict());
        orders.create(7, "x".to_owned()).commit().unwrap();
        assert!(!put().commit().unwrap().is_replayed());
    });
}

#[test]
fn g5_updates_and_transactions_are_answered_too() {
    everywhere(|_, store| {
        let counters = store.collection::<String, u64>("counters").unwrap();
        counters.create("n", 0).commit().unwrap();
        let add = || counters.update("n", |n| *n += 1).operation_id("add").commit();
        let first = add().unwrap();
        counters.update("n", |n| *n += 10).commit().unwrap();
        let again = add().unwrap();
        assert_eq!((*again.value(), again.version()), (1, first.version()));
        assert!(again.is_replayed());
        assert_eq!(*counters.get("n").unwrap().unwrap(), 11);

        let take = || counters.compute("n", |_| Compute::Delete).operation_id("take");
        let Computed::Deleted(first) = take().commit().unwrap() else { panic!("deleted") };
        counters.create("n", 5).commit().unwrap();
        let Computed::Deleted(again) = block_on(take()).unwrap() else { panic!("deleted") };
        assert_eq!((again.version(), again.is_replayed()), (first.version(), true));

        let mut runs = 0;
        let mut twice = || {
            let double = store.transact(|tx| {
                runs += 1;
                let n = *tx.require(&counters, "n")?;
                tx.put(&counters, "n", 2 * n)
            });
            double.operation_id("twice").commit().unwrap()
        };
        let Once::First(first) = twice() else { panic!("it is the first") };
        let Once::Replayed { version } = twice() else { panic!("it is not the first") };
        assert_eq!((Some(version), runs), (first.version(), 1));
        assert_eq!(*counters.get("n").unwrap().unwrap(), 10);
        // Another verb is another write.
        let reused = counters.update("n", |n| *n += 1).operation_id("twice").commit();
        assert!(matches!(reused, Err(Error::KeyReused { .. })));
    });
}

#[test]
fn g5_of_many_at_once_one_lands_and_all_are_told_so() {
    everywhere(|_, store| {
        let orders = store.collection::<u64, u64>("orders").unwrap();
        for round in 0..20 {
            let id = format!("o-{round}");
            let create = || orders.create(round, round).operation_id(&id).commit().unwrap();
            let done: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(done.iter().filter(|done| !done.is_replayed()).count(), 1);
            assert!(done.iter().all(|other| other.version() == done[0].version()));
        }
    });
}

#[test]
fn g5_a_closure_does_not_object_to_its_own_first_try() {
    everywhere(|_, store| {
        let accounts = store.collection::<String, u64>("accounts").unwrap();
        accounts.create("ann", 10).commit().unwrap();
        // The first try lands while the second one has begun already.
        let spend = |first: &dyn Fn()| {
            let spend = store.transact(|tx| {
                first();
                let left = *tx.require(&accounts, "ann")?;
                tx.put(&accounts, "ann", left.checked_sub(10).ok_or_else(too_little)?)
            });
            spend.operation_id("spend").commit()
        };
        let again = spend(&|| drop(spend(&|| ())));
        assert!(matches!(again, Ok(Once::Replayed { .. })), "{again:?}");
        assert_eq!(*accounts.get("ann").unwrap().unwrap(), 0);

        accounts.put("ann", 10).if_exists().commit().unwrap();
        let spend = |first: &dyn Fn()| {
            let spend = accounts.try_update("ann", |left| {
                first();
                *left = accounts.get("ann")?.map_or(0, |left| *left);
                *left = left.checked_sub(10).ok_or_else(too_little)?;
                Ok(())
            });
            spend.operation_id("once more").commit()
        };
        let again = spend(&|| drop(spend(&|| ())));
        assert!(again.is_ok_and(|again| again.is_replayed()));
        assert_eq!(*accounts.get("ann").unwrap().unwrap(), 0);
    });
}

fn too_little() -> Error {
    Error::refused("too little")
}

#[test]
fn g5_ids_survive_a_restart_and_a_snapshot() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let put = |store: &Store, id: u64| {
            let orders = store.collection::<u64, String>("orders").unwrap();
            orders
                .put(id, format!("order {id}"))
                .if_absent()
                .by("ann")
                .operation_id(id.to_string())
                .commit()
        };
        let first: Vec<_> = (0..10).map(|id| put(&store, id).unwrap().version()).collect();
        store.snapshot().unwrap();
        let more: Vec<_> = (10..20).map(|id| put(&store, id).unwrap().version()).collect();
        store.close().unwrap();
        let store = configuration.open();
        for (id, version) in (0..).zip(first.into_iter().chain(more)) {
            let again = put(&store, id).unwrap();
            assert_eq!((again.version(), again.is_replayed()), (version, true), "{id}");
        }
        assert_eq!(store.collections(), ["orders"], "the crate's own is not shown");
        assert!(store.collection::<u64, u64>("$ids").is_err());
    });
}

#[test]
fn g5_g12_the_window_is_bounded_by_count_and_age() {
    everywhere(|configuration, store| {
        drop(store);
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000_000)));
        let limits = Limits {
            operation_ids: 10,
            operation_id_age: Duration::from_secs(60),
            ..Limits::default()
        };
        let open = || {
            configuration
                .open_with(configuration.builder().limits(limits.clone()).clock(clock.clone()))
        };
        let store = open();
        let orders = store.collection::<u64, u64>("orders").unwrap();
        let put = |id: u64| {
            orders.put(id, id).unconditional().operation_id(id.to_string()).commit().unwrap()
        };
        for id in 0..30 {
            assert!(!put(id).is_replayed());
        }
        assert!(put(29).is_replayed() && put(20).is_replayed());
        assert!(!put(5).is_replayed(), "it was forgotten");
        clock.advance(Duration::from_secs(61));
        assert!(!put(29).is_replayed(), "it is too old");
        if configuration.is_durable() {
            drop(orders);
            store.close().unwrap();
            let store = open();
            let orders = store.collection::<u64, u64>("orders").unwrap();
            let put = |id: u64| {
                orders.put(id, id).unconditional().operation_id(id.to_string()).commit().unwrap()
            };
            assert!(put(29).is_replayed());
            clock.advance(Duration::from_secs(61));
            assert!(!put(29).is_replayed());
        }
        let long = "x".repeat(257);
        let refused = store_limit(&configuration.builder().in_memory(), &long);
        assert!(refused.to_string().contains("257 bytes of operation id"), "{refused}");
    });
}

fn store_limit(store: &Store, id: &str) -> Error {
    let orders = store.collection::<u64, u64>("orders").unwrap();
    orders.put(1, 1).unconditional().operation_id(id).commit().unwrap_err()
}

#[test]
fn g5_g3_a_power_cut_keeps_a_write_and_its_id_together() {
    let disk = MemoryDisk::new();
    let store = Store::builder().segment_bytes(4_096).open_on(Arc::new(disk.clone())).unwrap();
    let mut told = Vec::new();
    for id in 0..12 {
        if id == 6 {
            store.snapshot().unwrap();
        }
        let version = write_once(&store, id).unwrap();
        told.push((disk.calls(), version));
    }
    for calls in 0..=disk.calls() {
        for survivors in [0, 1, 9] {
            let (writes, names) = (Unsynced::First(survivors), Names::Dropped);
            let cut = disk.crash(calls, Crash::Power(PowerCut { writes, names, seed: 1 }));
            let Ok(store) = Store::builder().open_on(Arc::new(cut)) else {
                assert!(calls < told[0].0, "a store that has acknowledged a write opens");
                continue;
            };
            let orders = store.collection::<u64, u64>("orders").unwrap();
            for (id, (acknowledged_at, first)) in (0..).zip(&told) {
                let there = orders.get(id).unwrap().map(|order| order.version());
                let pair = orders.get(100 + id).unwrap().map(|order| order.version());
                assert_eq!(there, pair, "half of a transaction");
                assert!(there.is_some() || calls < *acknowledged_at, "order {id} was lost");
                let again = write_once(&store, id).unwrap();
                if let Some(version) = there {
                    assert_eq!((again, version), (*first, *first), "order {id}");
                }
            }
        }
    }
}

/// Two orders in one transaction, with an id: the version of the first time.
fn write_once(store: &Store, id: u64) -> ifmatch::Result<Version> {
    let orders = store.collection::<u64, u64>("orders")?;
    let pair = store.transact(|tx| {
        tx.create(&orders, id, id)?;
        tx.create(&orders, 100 + id, id)
    });
    Ok(match pair.operation_id(id.to_string()).commit()? {
        Once::First(first) => first.version().expect("something was written"),
        Once::Replayed { version } => version,
    })
}
