//! Each guarantee, over every configuration: memory and disk, one stripe and many.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{block_on, everywhere};
use ifmatch::testing::ManualClock;
use ifmatch::{Compute, Computed, Error, Limit, Precondition, Reason, Retry, RetryPolicy, Store};

type Shifts = ifmatch::Collection<String, String>;

fn shifts(store: &Store) -> Shifts {
    store.collection("shifts").unwrap()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn conflict(error: Error) -> Box<ifmatch::Conflict> {
    match error {
        Error::Conflict(conflict) => conflict,
        other => panic!("no conflict: {other}"),
    }
}

#[test]
fn g1_a_write_takes_effect_if_and_only_if_its_condition_holds() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = shifts.create("s", text("a")).commit().unwrap().version();
        assert!(shifts.create("s", text("b")).commit().unwrap_err().is_conflict());
        let v2 = shifts.put("s", text("b")).if_match(v1).commit().unwrap().version();
        assert!(shifts.put("s", text("c")).if_match(v1).commit().unwrap_err().is_conflict());
        assert!(shifts.delete("s").if_match(v1).commit().unwrap_err().is_conflict());
        assert_eq!(*shifts.get("s").unwrap().unwrap(), "b");
        assert!(shifts.put("s", text("c")).if_none_match([v2]).commit().is_err());
        let both = shifts.put("s", text("c")).if_match_any([v1, v2]).if_exists();
        let v3 = both.commit().unwrap().version();
        assert_eq!(shifts.delete("s").if_match(v3).commit().unwrap().previous(), v3);
        assert!(shifts.get("s").unwrap().is_none());
        assert!(shifts.put("s", text("d")).if_exists().commit().unwrap_err().is_conflict());
        shifts.put("s", text("d")).unconditional().commit().unwrap();
        assert_eq!(*shifts.get("s").unwrap().unwrap(), "d");
    });
}

#[test]
fn g1_of_racing_writes_on_one_version_one_lands() {
    everywhere(|configuration, store| {
        let shifts = shifts(&store);
        let mut version = shifts.create("s", text("")).commit().unwrap().version();
        for round in 0..20 {
            let write = |name: String| {
                let landed = shifts.put("s", name).if_match(version).commit();
                landed.map(|landed| landed.version()).ok()
            };
            let winners: Vec<_> = std::thread::scope(|scope| {
                let racers: Vec<_> =
                    (0..4).map(|i| scope.spawn(move || write(format!("{round}/{i}")))).collect();
                racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
            });
            assert_eq!(winners.len(), 1, "{}, round {round}", configuration.name);
            version = winners[0];
        }
    });
}

#[test]
fn g1_no_increment_is_lost() {
    everywhere(|configuration, store| {
        let counters = store.collection::<String, u64>("counters").unwrap();
        counters.create("n", 0).commit().unwrap();
        let budget = Duration::from_secs(600);
        let patient = RetryPolicy { attempts: u32::MAX, budget, ..RetryPolicy::default() };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let update = counters.update("n", |n| *n += 1).retry(patient.clone());
                        update.commit().unwrap();
                    }
                });
            }
        });
        assert_eq!(*counters.get("n").unwrap().unwrap(), 400, "{}", configuration.name);
    });
}

#[test]
fn g2_a_version_is_never_given_out_twice() {
    everywhere(|configuration, store| {
        let mut contents = HashMap::new();
        let mut store = Some(store);
        for life in 0..4 {
            let open = store.take().unwrap_or_else(|| configuration.open());
            let shifts = shifts(&open);
            let lineage = open.lineage();
            for round in 0..5 {
                let content = format!("{life}/{round}");
                let version = shifts.put("s", content.clone()).unconditional().commit().unwrap();
                assert_eq!(contents.insert((lineage, version.version()), content), None);
                let deleted = shifts.delete("s").if_match(version.version()).commit().unwrap();
                assert_eq!(contents.insert((lineage, deleted.version()), text("deleted")), None);
            }
            if life % 2 == 0 {
                open.close().unwrap();
            }
        }
    });
}

#[test]
fn g2_versions_grow_over_the_whole_store_and_time_with_them() {
    everywhere(|_, store| {
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let (store, seen) = (&store, &seen);
                scope.spawn(move || {
                    let collection = store.collection::<u32, u32>(name).unwrap();
                    for key in 0..50 {
                        let entity = collection.create(key, 0).commit().unwrap().into_entity();
                        seen.lock().unwrap().push((entity.version(), entity.written_at()));
                    }
                });
            }
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    });
}

#[test]
fn g2_written_at_never_decreases_when_the_clock_does() {
    let time = |secs| UNIX_EPOCH + Duration::from_secs(secs);
    let clock = Arc::new(ManualClock::new(time(1_000)));
    for configuration in common::configurations() {
        clock.set(time(1_000));
        let builder = || configuration.builder().clock(clock.clone());
        let written_at = |store: &Store| {
            let landed = shifts(store).put("s", text("")).unconditional().commit().unwrap();
            landed.into_entity().written_at()
        };
        let store = configuration.open_with(builder());
        assert_eq!(written_at(&store), time(1_000));
        clock.set(time(500));
        assert_eq!(written_at(&store), time(1_000), "{}", configuration.name);
        store.close().unwrap();
        if configuration.is_durable() {
            let store = configuration.open_with(builder());
            assert_eq!(written_at(&store), time(1_000), "{}", configuration.name);
        }
    }
}

#[test]
fn g3_what_was_acknowledged_is_there_after_reopening() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let first = shifts(&store);
        let kept = first.create("kept", text("k")).by("ann").commit().unwrap();
        first.create("gone", text("g")).commit().unwrap();
        let gone = first.delete("gone").if_exists().by("bob").commit().unwrap();
        let lineage = store.lineage();
        drop((first, store));

        let store = configuration.open();
        assert_eq!(store.lineage(), lineage);
        assert_eq!(store.collections(), ["shifts"]);
        let shifts = shifts(&store);
        let entity = shifts.get("kept").unwrap().unwrap();
        assert_eq!((&**entity, entity.version()), ("k", kept.version()));
        assert_eq!(entity.written_by(), Some("ann"));
        assert_eq!(entity.written_at(), kept.entity().written_at());
        assert_eq!(entity.created_at(), kept.entity().created_at());
        assert_eq!(shifts.len().unwrap(), 1);
        let refused = shifts.put("gone", text("")).if_match(kept.version()).commit();
        let refused = conflict(refused.unwrap_err());
        assert_eq!(refused.reason(), Reason::Deleted);
        let deletion = refused.deletion().unwrap();
        assert_eq!((deletion.version(), deletion.deleted_by()), (gone.version(), Some("bob")));
    });
}

#[test]
fn g4_a_conflict_has_everything_that_the_caller_needs() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = shifts.create("s-17", text("open")).by("import").commit().unwrap().version();
        let edit = shifts.put("s-17", text("approved")).if_match(v1).by("alice");
        let v2 = edit.commit().unwrap().version();
        let refused = shifts.put("s-17", text("cancelled")).if_match(v1).by("bob").commit();
        let refused = conflict(refused.unwrap_err());
        assert_eq!(refused.reason(), Reason::StaleVersion);
        assert_eq!((refused.collection(), refused.key()), ("shifts", "s-17"));
        assert_eq!((refused.expected(), refused.current_version()), (&[v1][..], Some(v2)));
        assert_eq!(refused.unmet(), &Precondition::Matches(v1));
        assert_eq!(refused.current_tag(), Some(store.tag(v2)));
        assert_eq!(refused.current_metadata().unwrap().written_by(), Some("alice"));
        assert_eq!(*refused.current::<String>().unwrap(), "approved");
        assert!(refused.current::<u32>().is_none());
        assert_eq!(refused.retry(), Retry::Refetch(Duration::ZERO), "nobody else lost");
        let said = refused.to_string();
        assert!(said.starts_with("shifts/s-17 is at version"), "{said}");
        assert!(said.contains("alice changed it"), "{said}");
        assert_eq!(refused.into_proposed::<String>().as_deref(), Some("cancelled"));
    });
}

#[test]
fn g4_each_refusal_has_its_reason() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = shifts.create("s", text("")).commit().unwrap().version();
        let reason = |result: ifmatch::Result<_>| conflict(result.unwrap_err()).reason();
        let put = |key| shifts.put(key, text("x"));
        assert_eq!(reason(put("none").if_match(v1).commit()), Reason::Absent);
        assert_eq!(reason(put("none").if_exists().commit()), Reason::Absent);
        assert_eq!(reason(put("s").if_absent().commit()), Reason::AlreadyExists);
        assert_eq!(reason(put("s").if_none_match([v1]).commit()), Reason::AlreadyExists);
        assert_eq!(reason(put("s").if_unmodified_since(UNIX_EPOCH).commit()), Reason::StaleVersion);
        shifts.delete("s").if_exists().commit().unwrap();
        assert_eq!(reason(put("s").if_match(v1).commit()), Reason::Deleted);
        assert_eq!(reason(put("s").if_exists().commit()), Reason::Absent);
        let delete = shifts.delete("s").unconditional().commit();
        assert_eq!(conflict(delete.unwrap_err()).reason(), Reason::Absent);
        put("s").if_absent().commit().unwrap();
        assert_eq!(reason(put("s").if_match(v1).commit()), Reason::StaleVersion);
    });
}

#[test]
fn g7_update_is_bounded_and_tells_what_it_spent() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        shifts.create("s", text("")).commit().unwrap();
        // Each attempt is overtaken by a plain write.
        let overtake = || {
            shifts.put("s", text("other")).unconditional().commit().unwrap();
        };
        let policy = RetryPolicy { attempts: 4, ..RetryPolicy::default() };
        let update = shifts.update("s", |_| overtake()).retry(policy.clone());
        let refused = conflict(update.commit().unwrap_err());
        assert_eq!(refused.reason(), Reason::Contended);
        assert!(refused.to_string().contains("4 attempts"), "{refused}");
        assert!(matches!(refused.retry(), Retry::After(_)));

        let mut losses = 3;
        let landed = shifts.update("s", |value| {
            *value = text("mine");
            if losses > 0 {
                losses -= 1;
                overtake();
            }
        });
        let landed = block_on(landed.retry(policy)).unwrap();
        assert_eq!((landed.attempts(), &***landed.entity()), (4, "mine"));
    });
}

#[test]
fn g7_pauses_as_long_as_time_end_with_the_budget() {
    let longest = Duration::MAX;
    let policy = RetryPolicy { pause_min: longest, pause_max: longest, ..RetryPolicy::default() };
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
    let store = Store::builder().clock(clock).in_memory();
    let counters = store.collection::<u8, u64>("counters").unwrap();
    counters.create(1, 0).commit().unwrap();
    // Somebody else is faster each time.
    let overtaken = |_: &mut u64| drop(counters.put(1, 7).unconditional().commit().unwrap());
    let refused = counters.update(1, overtaken).retry(policy).commit().unwrap_err();
    assert_eq!(refused.conflict().unwrap().reason(), Reason::Contended);
}

#[test]
fn g7_update_is_bounded_in_time() {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    for configuration in common::configurations() {
        let store = configuration.open_with(configuration.builder().clock(clock.clone()));
        let shifts = shifts(&store);
        shifts.create("s", text("")).commit().unwrap();
        let update = shifts.update("s", |_| {
            clock.advance(Duration::from_millis(700));
            shifts.put("s", text("other")).unconditional().commit().unwrap();
        });
        let refused = conflict(update.commit().unwrap_err());
        // 2 s hold three attempts of 0.7 s.
        assert!(refused.to_string().contains("3 attempts"), "{refused}");
    }
}

#[test]
fn update_needs_an_entity_and_may_refuse() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let absent = conflict(shifts.update("s", String::clear).commit().unwrap_err());
        assert_eq!(absent.reason(), Reason::Absent);
        let v1 = shifts.create("s", text("a")).commit().unwrap().version();
        let refused = shifts.try_update("s", |_| Err(Error::refused("not today"))).commit();
        assert!(matches!(refused, Err(Error::Refused(_))));
        assert_eq!(shifts.get("s").unwrap().unwrap().version(), v1);
        let done = block_on(shifts.update("s", |value| value.push('b')).by("ann")).unwrap();
        assert_eq!((&***done.entity(), done.entity().written_by()), ("ab", Some("ann")));
    });
}

#[test]
fn compute_decides_on_presence_and_absence() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let run = |choice: Compute<String>| {
            shifts.compute("s", move |_| choice.clone()).commit().unwrap()
        };
        assert!(matches!(run(Compute::Delete), Computed::Aborted(None)));
        assert!(matches!(run(Compute::Put(text("a"))), Computed::Put(_)));
        let Computed::Aborted(Some(seen)) = run(Compute::Abort) else { panic!("it is there") };
        assert_eq!(*seen, "a");
        assert!(matches!(run(Compute::Delete), Computed::Deleted(_)));
        assert!(!shifts.contains("s").unwrap());
    });
}

#[test]
fn a_write_can_be_awaited_without_a_runtime_and_dropped() {
    everywhere(|configuration, store| {
        let shifts = shifts(&store);
        let v1 = block_on(shifts.create("s", text("a")).by("ann")).unwrap().version();
        assert!(block_on(shifts.create("s", text("b"))).unwrap_err().is_conflict());
        // Polled once and dropped: the write stands.
        let mut write = shifts.put("s", text("b")).if_match(v1).into_future();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = std::pin::Pin::new(&mut write).poll(&mut context);
        drop(write);
        let refused = conflict(block_on(shifts.delete("s").if_match(v1)).unwrap_err());
        assert_eq!(*refused.current::<String>().unwrap(), "b", "{}", configuration.name);
        assert_eq!(*shifts.get("s").unwrap().unwrap(), "b");
        // Never polled: nothing happens.
        drop(shifts.delete("s").unconditional().into_future());
        assert!(shifts.contains("s").unwrap());
    });
}

#[test]
fn g3_futures_and_threads_that_commit_together_are_all_answered() {
    everywhere(|configuration, store| {
        let rows = store.collection::<u32, u32>("rows").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100).for_each(|key| drop(rows.create(key, 0).commit().unwrap())));
            let mut futures: Vec<_> =
                (1_000..2_000).map(|key| Some(rows.create(key, 0).into_future())).collect();
            // Polled in rounds, as an executor would.
            block_on(std::future::poll_fn(|context| {
                for slot in &mut futures {
                    let Some(write) = slot else { continue };
                    if std::pin::Pin::new(write).poll(context).is_ready() {
                        *slot = None;
                    }
                }
                let waiting = futures.iter().any(Option::is_some);
                if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
            }));
        });
        assert_eq!(rows.len().unwrap(), 1_100, "{}", configuration.name);
    });
}

/// bincode writes this, and cannot read it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
}

#[test]
fn a_value_that_does_not_read_back_is_refused_and_nothing_changes() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let odd = store.collection::<String, Untagged>("odd").unwrap();
        let refused = odd.create("s", Untagged::Number(1)).commit().unwrap_err();
        assert!(matches!(refused, Error::Encode { .. }), "{refused}");
        assert!(refused.to_string().contains("odd/s cannot be stored"), "{refused}");
        assert!(block_on(odd.create("s", Untagged::Number(1))).is_err());
        assert!(odd.is_empty().unwrap());
        // What could be stored still can.
        shifts(&store).create("s", text("a")).commit().unwrap();
    });
}

#[test]
fn scans_follow_key_order_and_resume() {
    everywhere(|_, store| {
        let rows = store.collection::<(String, i32), u32>("rows").unwrap();
        for (part, number) in [("b", 1), ("a", 2), ("a", -5), ("a\0", 0), ("", 9)] {
            rows.create((part, number), 0).commit().unwrap();
        }
        rows.delete(("a", 2)).if_exists().commit().unwrap();
        let keys = |range: ifmatch::Range<(String, i32), u32>| -> Vec<(String, i32)> {
            range.map(|item| item.unwrap().0).collect()
        };
        let all = [("", 9), ("a", -5), ("a\0", 0), ("b", 1)].map(|(s, n)| (text(s), n));
        assert_eq!(keys(rows.iter()), all);
        assert_eq!(keys(rows.prefix(("a",))), all[1..2]);
        assert_eq!(keys(rows.range(("a", -5)..("b", 1))), all[1..3]);
        assert_eq!(keys(rows.range(("b", 1)..("a", 0))), []);
        assert_eq!((rows.len().unwrap(), rows.is_empty().unwrap()), (4, false));

        let names = store.collection::<String, u32>("names").unwrap();
        for i in 0..300 {
            names.create(format!("n{i:03}"), i).commit().unwrap();
        }
        assert_eq!(names.prefix("n1").count(), 100);
        let values = names.range(text("n100")..).map(|item| *item.unwrap().1);
        assert!(values.eq(100..300));
    });
}

#[test]
fn g12_limits_are_typed_and_nothing_is_written() {
    everywhere(|configuration, store| {
        let shifts = shifts(&store);
        let limit = |result: ifmatch::Result<_>| match result {
            Err(Error::Limit { limit, allowed, actual, .. }) => (limit, allowed, actual),
            other => panic!("{}: {other:?}", configuration.name),
        };
        let long = "k".repeat(513);
        assert_eq!(limit(shifts.create(&long, text("")).commit()), (Limit::KeyBytes, 512, 513));
        let update = shifts.update(&long, String::clear).commit();
        assert_eq!(limit(update), (Limit::KeyBytes, 512, 513));
        let put = shifts.create("s", text("")).by("a".repeat(257)).commit();
        assert_eq!(limit(put), (Limit::ActorBytes, 256, 257));
        if configuration.is_durable() {
            let put = shifts.create("s", "v".repeat(1 << 20)).commit();
            assert_eq!(limit(put).0, Limit::ValueBytes);
        }
        assert!(shifts.is_empty().unwrap());
        shifts.create("k".repeat(512), text("")).commit().unwrap();
    });
}

#[test]
fn a_collection_has_one_type() {
    everywhere(|configuration, store| {
        let shifts = shifts(&store);
        shifts.create("s", text("a")).commit().unwrap();
        assert!(matches!(
            store.collection::<String, u64>("shifts"),
            Err(Error::CollectionType { .. })
        ));
        assert!(matches!(
            store.collection::<u64, String>("shifts"),
            Err(Error::CollectionType { .. })
        ));
        for name in ["", "Shifts", "a b", "ä", &"n".repeat(65)] {
            let refused = store.collection::<u64, u64>(name);
            assert!(matches!(refused, Err(Error::CollectionName(_))), "{name:?}");
        }
        drop((shifts, store));
        if configuration.is_durable() {
            let store = configuration.open();
            let wrong = store.collection::<u64, String>("shifts").unwrap_err();
            assert!(matches!(wrong, Error::CollectionType { .. }), "{wrong}");
            let wrong = store.collection::<String, u64>("shifts").unwrap_err();
            assert!(matches!(wrong, Error::Decode { .. }), "{wrong}");
            assert!(store.collection::<String, String>("shifts").is_ok());
        }
    });
}

#[test]
fn a_closed_store_says_so() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        shifts.create("s", text("a")).commit().unwrap();
        store.clone().close().unwrap();
        assert!(matches!(shifts.get("s"), Err(Error::Closed)));
        assert!(matches!(shifts.put("s", text("")).if_exists().commit(), Err(Error::Closed)));
        assert!(matches!(block_on(shifts.update("s", String::clear)), Err(Error::Closed)));
        assert!(matches!(shifts.create("s", text("")).commit(), Err(Error::Closed)));
        assert!(matches!(shifts.compute("t", |_| Compute::Abort).commit(), Err(Error::Closed)));
        assert!(matches!(shifts.iter().next(), Some(Err(Error::Closed))));
        store.close().unwrap();
    });
}
