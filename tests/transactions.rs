//! G1 for transactions: the anomalies that have names, one by one, each in all configurations.
//!
//! The names are those of Adya, Weak Consistency (1999), and of Berenson et al., A Critique of ANSI
//! SQL Isolation Levels (1995). The other transaction comes between where it hurts most: from
//! within the closure of the first, when that runs for the first time.

mod common;

use common::{block_on, everywhere};
use ifmatch::feed::ChangeKind;
use ifmatch::{Collection, Error, Once, Precondition, Reason, RetryPolicy, Store, Transaction};

type Accounts = Collection<String, i64>;

fn accounts(store: &Store, balances: &[(&str, i64)]) -> Accounts {
    let accounts = store.collection("accounts").unwrap();
    for (name, balance) in balances {
        accounts.create(*name, *balance).commit().unwrap();
    }
    accounts
}

fn balance(accounts: &Accounts, name: &str) -> i64 {
    *accounts.get(name).unwrap().unwrap()
}

/// Runs `f` at its first call, and nothing at later ones.
fn once(mut f: impl FnMut()) -> impl FnMut() {
    let mut done = false;
    move || {
        if !std::mem::replace(&mut done, true) {
            f();
        }
    }
}

#[test]
fn g1_all_of_a_transaction_has_one_version() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 10), ("b", 0)]);
        let notes = store.collection::<u64, String>("notes").unwrap();
        let done = store
            .transact(|tx| {
                let (a, b) = (tx.require(&accounts, "a")?, tx.require(&accounts, "b")?);
                tx.put(&accounts, "a", *a - 3)?;
                tx.put(&accounts, "b", *b + 3)?;
                tx.create(&notes, 1, "moved 3".to_owned())?;
                Ok(*a)
            })
            .by("bank")
            .commit()
            .unwrap();
        assert_eq!((*done.value(), done.attempts()), (10, 1));
        let (a, b) = (accounts.get("a").unwrap().unwrap(), accounts.get("b").unwrap().unwrap());
        let note = notes.get(1).unwrap().unwrap();
        assert_eq!((*a, *b, &**note), (7, 3, "moved 3"));
        assert_eq!(Some(a.version()), done.version());
        assert_eq!((a.version(), a.written_by()), (b.version(), Some("bank")));
        assert_eq!((a.version(), a.written_at()), (note.version(), note.written_at()));
    });
}

#[test]
fn g1_no_lost_update() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 10)]);
        let mut other = once(|| {
            accounts.update("a", |a| *a += 100).commit().unwrap();
        });
        let done = store.transact(|tx| {
            let a = *tx.require(&accounts, "a")?;
            other();
            tx.put(&accounts, "a", a + 1)
        });
        assert_eq!(done.commit().unwrap().attempts(), 2);
        assert_eq!(balance(&accounts, "a"), 111);
    });
}

#[test]
fn g1_no_write_skew() {
    everywhere(|_, store| {
        // At least one of the two stays on call.
        let accounts = accounts(&store, &[("a", 1), ("b", 1)]);
        let leave = |tx: &mut Transaction<'_>, who: &str, between: &mut dyn FnMut()| {
            let on_call = *tx.require(&accounts, "a")? + *tx.require(&accounts, "b")?;
            between();
            match on_call {
                2 => tx.put(&accounts, who, 0),
                _ => Err(Error::refused("nobody else is on call")),
            }
        };
        let mut other = once(|| {
            store.transact(|tx| leave(tx, "b", &mut || {})).commit().unwrap();
        });
        let refused = store.transact(|tx| leave(tx, "a", &mut other)).commit().unwrap_err();
        assert_eq!(refused.to_string(), "nobody else is on call");
        assert_eq!((balance(&accounts, "a"), balance(&accounts, "b")), (1, 0));
    });
}

#[test]
fn g1_no_read_skew_within_the_closure() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 50), ("b", 50)]);
        let mut other = once(|| {
            let moved = store.transact(|tx| {
                tx.put_if(&accounts, "a", 0, Precondition::Exists)?;
                tx.put_if(&accounts, "b", 100, Precondition::Exists)
            });
            moved.commit().unwrap();
        });
        let sum = store.transact(|tx| {
            let a = *tx.require(&accounts, "a")?;
            other();
            let b = *tx.require(&accounts, "b")?;
            assert_eq!(a + b, 100, "the closure has seen half of a commit");
            Ok(a + b)
        });
        let sum = sum.commit().unwrap();
        assert_eq!((*sum.value(), sum.version()), (100, None));
    });
}

#[test]
fn g1_no_phantoms() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("x-1", 1), ("y-1", 1)]);
        let mut other = once(|| {
            accounts.create("x-2", 5).commit().unwrap();
        });
        let done = store.transact(|tx| {
            let total: i64 = tx.prefix(&accounts, "x-")?.iter().map(|(_, x)| **x).sum();
            other();
            tx.put_if(&accounts, "total", total, Precondition::Unconditional)
        });
        assert_eq!(done.commit().unwrap().attempts(), 2);
        assert_eq!(balance(&accounts, "total"), 6);
        // What goes from the range, and what comes beside it.
        let mut other = once(|| {
            accounts.delete("x-1").if_exists().commit().unwrap();
            accounts.create("y-2", 5).commit().unwrap();
        });
        let done = store.transact(|tx| {
            let total: i64 = tx.prefix(&accounts, "x-")?.iter().map(|(_, x)| **x).sum();
            other();
            tx.put_if(&accounts, "total", total, Precondition::Unconditional)
        });
        assert_eq!(done.commit().unwrap().attempts(), 2);
        assert_eq!(balance(&accounts, "total"), 5);
        let mut other = once(|| {
            accounts.create("y-3", 5).commit().unwrap();
        });
        let done = store.transact(|tx| {
            let count = tx.range(&accounts, "x-".to_owned().."x-~".to_owned())?.len();
            other();
            tx.put_if(&accounts, "total", count as i64, Precondition::Unconditional)
        });
        assert_eq!(done.commit().unwrap().attempts(), 1, "nothing came into the range");
    });
}

#[test]
fn g1_a_scan_is_a_consistent_view() {
    everywhere(|_, store| {
        let accounts = store.collection::<u64, i64>("accounts").unwrap();
        for id in 0..400 {
            accounts.create(id, 1).commit().unwrap();
        }
        // Between two reads one entity goes and another comes: there are 400 at any instant.
        let mut other = once(|| {
            let moved = store.transact(|tx| {
                tx.delete_if(&accounts, 399, Precondition::Exists)?;
                tx.create(&accounts, 1_000, 1)
            });
            moved.commit().unwrap();
        });
        let count = store.transact(|tx| {
            let first = tx.range(&accounts, 0..200)?.len();
            other();
            let second = tx.range(&accounts, 200..)?.len();
            assert_eq!(first + second, 400);
            Ok(())
        });
        count.commit().unwrap();
    });
}

#[test]
fn g1_g0_g1a_g1b_nobody_meets_what_is_not_committed() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 1), ("b", 1)]);
        let refused = store.transact(|tx| {
            tx.require(&accounts, "a")?;
            tx.put(&accounts, "a", 2)?;
            tx.put(&accounts, "a", 3)?;
            assert_eq!(balance(&accounts, "a"), 1, "others see an intermediate value");
            assert_eq!(*tx.require(&accounts, "a")?, 3, "the transaction does not see its own");
            // A write from outside is not lost under what is staged.
            accounts.put("b", 5).if_exists().commit()?;
            Err::<(), _>(Error::refused("changed its mind"))
        });
        assert_eq!(refused.commit().unwrap_err().to_string(), "changed its mind");
        assert_eq!((balance(&accounts, "a"), balance(&accounts, "b")), (1, 5));
    });
}

#[test]
fn g4_every_condition_that_does_not_hold_is_reported() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 1), ("b", 1), ("c", 1)]);
        let v = accounts.get("a").unwrap().unwrap().version();
        accounts.put("a", 2).if_match(v).by("ann").commit().unwrap();
        let refused = store.transact(|tx| {
            tx.put_if(&accounts, "a", 5, Precondition::Matches(v))?;
            tx.create(&accounts, "b", 5)?;
            tx.check(&accounts, "c", Precondition::Exists)?;
            tx.delete_if(&accounts, "d", Precondition::Unconditional)
        });
        let Err(Error::Conflict(conflict)) = refused.commit() else { panic!("it was refused") };
        let told: Vec<_> = conflict.all().map(|one| (one.key(), one.reason())).collect();
        let expected =
            [("a", Reason::StaleVersion), ("b", Reason::AlreadyExists), ("d", Reason::Absent)];
        assert_eq!(told, expected);
        let current = conflict.current::<i64>().unwrap();
        assert_eq!((*current, current.written_by()), (2, Some("ann")));
        let text = conflict.to_string();
        assert!(
            text.contains("accounts/a is at") && text.contains("accounts/d does not"),
            "{text}"
        );
        assert_eq!(balance(&accounts, "c"), 1);
        assert_eq!(conflict.into_proposed::<i64>(), Some(5));
    });
}

#[test]
fn g6_a_transaction_overwrites_nothing_that_it_has_not_seen() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 1)]);
        let refused = store.transact(|tx| tx.put(&accounts, "a", 2)).commit().unwrap_err();
        assert!(matches!(refused, Error::NoCondition { .. }), "{refused}");
        let refused = store.transact(|tx| tx.delete(&accounts, "a")).commit().unwrap_err();
        assert!(matches!(refused, Error::NoCondition { .. }), "{refused}");
        let elsewhere = Store::in_memory();
        let refused = elsewhere.transact(|tx| tx.get(&accounts, "a").map(|_| ())).commit();
        assert!(matches!(refused, Err(Error::OtherStore { .. })));
        assert_eq!(balance(&accounts, "a"), 1);
    });
}

#[test]
fn g7_a_transaction_that_keeps_losing_gives_up() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 0)]);
        let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
        let mut runs = 0;
        let refused = store.transact(|tx| {
            runs += 1;
            let a = *tx.require(&accounts, "a")?;
            accounts.update("a", |a| *a += 1).commit()?;
            tx.put(&accounts, "a", a + 100)
        });
        let Err(Error::Conflict(conflict)) = refused.retry(policy).commit() else {
            panic!("it has lost each time")
        };
        assert_eq!((conflict.reason(), runs), (Reason::Contended, 3));
        assert_eq!(balance(&accounts, "a"), 3);
        // And one that is never consistent while it reads.
        let mut runs = 0;
        let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
        let refused = store.transact(|tx| {
            runs += 1;
            tx.require(&accounts, "a")?;
            accounts.update("a", |a| *a += 1).commit()?;
            accounts.put("b", 1).unconditional().commit()?;
            let swallowed = tx.get(&accounts, "b");
            assert!(matches!(swallowed, Err(Error::Restart)));
            Ok(())
        });
        let refused = refused.retry(policy).commit().unwrap_err();
        assert_eq!(refused.conflict().unwrap().reason(), Reason::Contended);
        assert_eq!(runs, 3);
    });
}

#[test]
fn g12_a_transaction_is_bounded() {
    everywhere(|configuration, _| {
        let limits = ifmatch::Limits {
            transaction_keys: 20,
            transaction_writes: 5,
            transaction_bytes: 4_000,
            ..ifmatch::Limits::default()
        };
        let store = configuration.builder().limits(limits).in_memory();
        let rows = store.collection::<u64, Vec<u8>>("rows").unwrap();
        let many = |writes: u64| {
            store
                .transact(|tx| (0..writes).try_for_each(|id| tx.create(&rows, id, vec![])))
                .commit()
        };
        assert!(many(6).unwrap_err().to_string().contains("6 writes, where 5 are allowed"));
        assert!(rows.is_empty().unwrap());
        many(5).unwrap();
        let reads = store.transact(|tx| (0..21).try_for_each(|id| tx.get(&rows, id).map(|_| ())));
        assert!(reads.commit().unwrap_err().to_string().contains("21 keys, where 20"));
    });
}

#[test]
fn g1_a_transaction_sees_what_it_has_staged() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 1), ("b", 2)]);
        let done = store.transact(|tx| {
            tx.create(&accounts, "aa", 9)?;
            tx.require(&accounts, "b")?;
            tx.delete(&accounts, "b")?;
            assert!(tx.get(&accounts, "b")?.is_none());
            let all = tx.range::<_, _, String>(&accounts, ..)?;
            let seen: Vec<_> = all.iter().map(|(key, value)| (&**key, **value)).collect();
            assert_eq!(seen, [("a", 1), ("aa", 9)]);
            assert!(all[0].1.version().is_some() && all[1].1.version().is_none());
            // What comes and goes within the transaction is not written.
            tx.create(&accounts, "c", 1)?;
            tx.delete(&accounts, "c")?;
            tx.read(&accounts, "aa", |value| assert_eq!(value, Some(&9)))
        });
        done.commit().unwrap();
        let left: Vec<_> = accounts.iter().map(|item| item.unwrap().0).collect();
        assert_eq!(left, ["a", "aa"]);
    });
}

#[test]
fn g1_a_transaction_is_there_again_after_reopening() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let accounts = accounts(&store, &[("a", 10)]);
        let notes = store.collection::<u64, String>("notes").unwrap();
        let done = store.transact(|tx| {
            tx.require(&accounts, "a")?;
            tx.delete(&accounts, "a")?;
            tx.create(&accounts, "b", 10)?;
            tx.create(&notes, 7, "renamed".to_owned())
        });
        let version = block_on(done).unwrap().version();
        drop((accounts, notes));
        store.close().unwrap();
        let store = configuration.open();
        let accounts: Accounts = store.collection("accounts").unwrap();
        let notes = store.collection::<u64, String>("notes").unwrap();
        assert!(accounts.get("a").unwrap().is_none());
        assert_eq!(accounts.get("b").unwrap().map(|b| b.version()), version);
        assert_eq!(notes.get(7).unwrap().map(|note| note.version()), version);
    });
}

#[test]
fn g1_each_write_of_a_batch_is_by_itself() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("a", 1)]);
        let v1 = accounts.get("a").unwrap().unwrap().version();
        let batch = || {
            let first = store.batch().with(accounts.put("a", 2).if_match(v1).by("ann"));
            let second = first.with(accounts.put("a", 3).if_match(v1).by("bob"));
            second.with(accounts.delete("b").if_exists()).with(accounts.create("c", 4))
        };
        let results = batch().commit().unwrap();
        let first = *results[0].as_ref().unwrap();
        let stale = results[1].as_ref().unwrap_err().conflict().unwrap();
        assert_eq!(stale.current_version(), Some(first), "it sees what came before it");
        assert_eq!(stale.current_metadata().unwrap().written_by(), Some("ann"));
        let absent = results[2].as_ref().unwrap_err().conflict().unwrap();
        assert_eq!(absent.reason(), Reason::Absent);
        assert_eq!(
            accounts.get("c").unwrap().map(|c| c.version()),
            results[3].as_ref().ok().copied()
        );
        let results = block_on(batch()).unwrap();
        assert!(results.iter().all(|result| result.as_ref().is_err_and(Error::is_conflict)));
        let elsewhere = Store::in_memory();
        let refused = elsewhere.batch().with(accounts.create("d", 1)).commit().unwrap_err();
        assert!(matches!(refused, Error::OtherStore { .. }) && !accounts.contains("d").unwrap());
        let many = (0..1_001)
            .fold(store.batch(), |batch, n| batch.with(accounts.create(n.to_string(), n)));
        assert!(many.commit().unwrap_err().to_string().contains("1001 writes, where 1000"));
        assert_eq!(accounts.len().unwrap(), 2);
    });
}

#[test]
fn g1_what_comes_again_beside_another_is_found_by_scans() {
    everywhere(|_, store| {
        let accounts = accounts(&store, &[("b", 1)]);
        accounts.delete("b").if_exists().commit().unwrap();
        let done = store.transact(|tx| {
            tx.create(&accounts, "a", 1)?;
            tx.create(&accounts, "b", 2)
        });
        done.commit().unwrap();
        let all: Vec<_> = accounts.iter().map(|item| item.unwrap().0).collect();
        assert_eq!(all, ["a", "b"]);
    });
}

#[test]
fn g1_what_is_forgotten_of_a_transaction_is_nothing_else() {
    for configuration in common::configurations() {
        let limits = ifmatch::Limits { deletions: 1, ..ifmatch::Limits::default() };
        let store = configuration.open_with(configuration.builder().limits(limits));
        let rows = store.collection::<u64, u64>("rows").unwrap();
        for round in 0..10_u64 {
            let (old, new) = (round * 400, (round + 1) * 400);
            // One version for the entities that go and those that come.
            let turned = store.transact(|tx| {
                for id in 0..400 {
                    tx.create(&rows, new + id, id)?;
                    if round > 0 {
                        tx.delete_if(&rows, old + id, Precondition::Exists)?;
                    }
                }
                Ok(())
            });
            turned.commit().unwrap();
            assert_eq!(rows.len().unwrap(), 400);
            for id in 0..400 {
                assert_eq!(rows.get(new + id).unwrap().map(|row| *row), Some(id));
                assert!(!rows.contains(old + id).unwrap());
            }
        }
    }
}

#[test]
fn g9_a_transaction_is_one_commit_of_the_feed_from_memory_and_from_the_log() {
    everywhere(|configuration, store| {
        let mut feed = store.changes().from_now().open().unwrap();
        let accounts = accounts(&store, &[("a", 10)]);
        let notes = store.collection::<u64, String>("notes").unwrap();
        let done = store.transact(|tx| {
            tx.require(&accounts, "a")?;
            tx.delete(&accounts, "a")?;
            tx.create(&accounts, "b", 10)?;
            tx.create(&notes, 7, "renamed".to_owned())
        });
        let Ok(Once::First(done)) = done.by("ann").operation_id("rename").commit() else {
            panic!("it is the first")
        };
        let told = |feed: &mut ifmatch::feed::Feed| {
            let commit = feed.try_next().unwrap().unwrap();
            assert_eq!(
                (Some(commit.version()), commit.written_by()),
                (done.version(), Some("ann"))
            );
            let changes = commit.changes().iter();
            let told = changes.map(|change| {
                (change.collection().to_owned(), change.key().to_string(), change.kind())
            });
            told.collect::<Vec<_>>()
        };
        let expected = [
            ("accounts".to_owned(), "a".to_owned(), ChangeKind::Delete),
            ("accounts".to_owned(), "b".to_owned(), ChangeKind::Put),
            ("notes".to_owned(), "7".to_owned(), ChangeKind::Put),
        ];
        assert_eq!(feed.try_next().unwrap().unwrap().changes().len(), 1);
        assert_eq!(told(&mut feed), expected);
        assert!(feed.try_next().unwrap().is_none());
        if configuration.is_durable() {
            drop((feed, accounts, notes));
            store.close().unwrap();
            let store = configuration.open();
            let mut feed = store.changes().open().unwrap();
            assert_eq!(feed.try_next().unwrap().unwrap().changes().len(), 1);
            assert_eq!(told(&mut feed), expected);
        }
    });
}
