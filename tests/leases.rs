//! G8: leases fence, however late a holder wakes up; each test in all configurations.

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Configuration, block_on, configurations};
use ifmatch::testing::{Crash, ManualClock, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{
    Collection, Compute, Conflict, Error, Lease, Limit, Limits, Precondition, Reason, Result,
    Retry, RetryPolicy, Store, StoreBuilder, Version,
};

type Shifts = Collection<String, u32>;

const MINUTE: Duration = Duration::from_secs(60);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn clock_at(time: SystemTime) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(time))
}

fn by(builder: StoreBuilder, clock: &Arc<ManualClock>) -> StoreBuilder {
    builder.clock(Arc::<ManualClock>::clone(clock))
}

/// Runs `test` on a fresh store of each configuration, whose time stands still.
fn everywhere(test: impl Fn(&Configuration, &ManualClock, Store)) {
    for configuration in configurations() {
        let clock = clock_at(start());
        let store = configuration.open_with(by(configuration.builder(), &clock));
        test(&configuration, &clock, store);
    }
}

fn shifts(store: &Store) -> Shifts {
    let shifts = store.collection("shifts").unwrap();
    if !shifts.contains("s-1").unwrap() {
        shifts.create("s-1", 8).by("import").commit().unwrap();
    }
    shifts
}

fn take(shifts: &Shifts, key: &str, by: &str) -> Lease {
    shifts.lease(key).ttl(MINUTE).reason("payroll run").by(by).commit().unwrap()
}

#[track_caller]
fn conflict<T: std::fmt::Debug>(result: Result<T>) -> Conflict {
    match result {
        Err(Error::Conflict(conflict)) => *conflict,
        other => panic!("no conflict: {other:?}"),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, reason: Reason) {
    let conflict = conflict(result);
    assert_eq!(conflict.reason(), reason, "{conflict}");
}

#[test]
fn g8_a_lease_is_taken_renewed_and_given_back() {
    everywhere(|_, clock, store| {
        let shifts = shifts(&store);
        let before = shifts.get("s-1").unwrap().unwrap().version();
        assert!(shifts.lease_of("s-1").unwrap().is_none());
        let lease = take(&shifts, "s-1", "payroll");
        assert_eq!(lease.expires_at(), Some(start() + MINUTE));
        let info = shifts.lease_of("s-1").unwrap().unwrap();
        assert_eq!((info.holder(), info.reason()), (Some("payroll"), Some("payroll run")));
        assert_eq!((info.since(), info.expires_at()), (start(), start() + MINUTE));
        assert_eq!(info.remaining(), MINUTE);
        assert_eq!(shifts.get("s-1").unwrap().unwrap().version(), before);

        refused(shifts.lease("s-1").by("payroll").commit(), Reason::Locked);
        clock.advance(MINUTE / 2);
        let renewed = lease.renew(2 * MINUTE).commit().unwrap();
        assert_eq!(renewed.token(), lease.token());
        let info = shifts.lease_of("s-1").unwrap().unwrap();
        assert_eq!((info.since(), info.remaining()), (start(), 2 * MINUTE));
        assert_eq!((info.holder(), info.reason()), (Some("payroll"), Some("payroll run")));

        clock.advance(MINUTE + MINUTE / 2);
        refused(shifts.delete("s-1").if_exists().commit(), Reason::Locked);
        lease.release().commit().unwrap();
        assert!(shifts.lease_of("s-1").unwrap().is_none());
        refused(lease.release().commit(), Reason::Fenced);
        refused(lease.renew(MINUTE).commit(), Reason::Fenced);
        shifts.delete("s-1").if_match(before).commit().unwrap();
    });
}

#[test]
fn g8_a_holder_whose_lease_has_expired_cannot_write_however_late() {
    everywhere(|_, clock, store| {
        let shifts = shifts(&store);
        for late in [Duration::ZERO, Duration::from_millis(1), 10_000 * MINUTE] {
            let lease = take(&shifts, "s-1", "payroll");
            clock.advance(MINUTE - Duration::from_millis(1));
            shifts.put("s-1", 9).if_exists().holding(&lease).commit().unwrap();
            clock.advance(Duration::from_millis(1) + late);
            let write = || shifts.put("s-1", 10).unconditional().holding(&lease);
            refused(write().commit(), Reason::Fenced);
            refused(block_on(write()), Reason::Fenced);
            refused(lease.renew(MINUTE).commit(), Reason::Fenced);
            refused(block_on(lease.release()), Reason::Fenced);
            // Whoever meets it need not wait for anybody.
            shifts.put("s-1", 11).unconditional().by("alice").commit().unwrap();
            refused(write().commit(), Reason::Fenced);
        }
    });
}

#[test]
fn g8_a_holder_whose_lease_was_taken_over_cannot_write() {
    everywhere(|_, clock, store| {
        let shifts = shifts(&store);
        let first = take(&shifts, "s-1", "payroll");
        clock.advance(MINUTE);
        let second = take(&shifts, "s-1", "payroll");
        assert!(second.token() > first.token(), "the name is the same, the lease is not");
        refused(shifts.put("s-1", 1).if_exists().holding(&first).commit(), Reason::Fenced);
        refused(first.renew(MINUTE).commit(), Reason::Fenced);
        refused(first.release().commit(), Reason::Fenced);
        refused(shifts.put("s-1", 1).if_exists().commit(), Reason::Locked);
        shifts.put("s-1", 2).if_exists().holding(&second).commit().unwrap();
        second.release().commit().unwrap();
        let third = block_on(shifts.lease("s-1")).unwrap();
        refused(shifts.put("s-1", 1).if_exists().holding(&second).commit(), Reason::Fenced);
        assert!(third.token() > second.token());
    });
}

#[test]
fn g8_a_token_is_as_good_as_the_lease_and_of_its_key_alone() {
    everywhere(|_, _, store| {
        let shifts = shifts(&store);
        let token = take(&shifts, "s-1", "payroll").token();
        let lease = shifts.lease_with_token("s-1", token);
        assert_eq!(lease.expires_at(), None);
        shifts.put("s-1", 1).if_exists().holding(&lease).commit().unwrap();
        // Of another key, of another collection, and of no lease at all.
        refused(shifts.create("s-2", 1).holding(&lease).commit(), Reason::Fenced);
        let others = store.collection::<String, u32>("others").unwrap();
        refused(others.create("s-1", 1).holding(&lease).commit(), Reason::Fenced);
        let wrong = shifts.lease_with_token("s-1", Version::new(token.get() + 1).unwrap());
        refused(shifts.put("s-1", 1).if_exists().holding(&wrong).commit(), Reason::Fenced);
        refused(wrong.release().commit(), Reason::Fenced);
        let elsewhere = Store::in_memory();
        let error = self::shifts(&elsewhere).put("s-1", 1).if_exists().holding(&lease).commit();
        assert!(matches!(error, Err(Error::OtherStore { .. })), "{error:?}");
    });
}

#[test]
fn g8_an_absent_key_can_be_leased() {
    everywhere(|_, _, store| {
        let notes = store.collection::<(String, u64), String>("notes").unwrap();
        let lease = notes.lease(("a/\0", 7)).by("ann").commit().unwrap();
        refused(notes.create(("a/\0", 7), "bob's".to_owned()).commit(), Reason::Locked);
        notes.create(("a/\0", 8), "bob's".to_owned()).commit().unwrap();
        notes.create(("a/\0", 7), "ann's".to_owned()).holding(&lease).commit().unwrap();
        notes.delete(("a/\0", 7)).if_exists().holding(&lease).commit().unwrap();
        lease.release().commit().unwrap();
        notes.create(("a/\0", 7), "bob's".to_owned()).commit().unwrap();
    });
}

#[test]
fn g8_no_way_to_write_leads_past_a_lease() {
    everywhere(|_, _, store| {
        let shifts = shifts(&store);
        let held = [take(&shifts, "s-1", "payroll"), take(&shifts, "new", "payroll")];
        let v1 = shifts.get("s-1").unwrap().unwrap().version();
        let locked = Reason::Locked;
        refused(shifts.create("new", 1).commit(), locked);
        refused(block_on(shifts.create("new", 1)), locked);
        refused(shifts.put("s-1", 1).if_match(v1).commit(), locked);
        refused(shifts.put("s-1", 1).unconditional().commit(), locked);
        refused(block_on(shifts.put("new", 1).unconditional()), locked);
        refused(shifts.delete("s-1").if_match(v1).commit(), locked);
        refused(shifts.update("s-1", |hours| *hours += 1).commit(), locked);
        refused(block_on(shifts.update("s-1", |hours| *hours += 1)), locked);
        refused(shifts.try_update("s-1", |_| Ok(())).commit(), locked);
        refused(shifts.compute("new", |_| Compute::Put(1)).commit(), locked);
        refused(shifts.compute("s-1", |_| Compute::Delete).commit(), locked);
        let batch = store.batch().with(shifts.create("new", 1)).with(shifts.create("s-4", 1));
        let [refusal, landed] = batch.commit().unwrap().try_into().unwrap();
        refused(refusal, locked);
        landed.unwrap();
        let patient = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
        let once = conflict(shifts.update("s-1", |_| ()).retry(patient).commit());
        assert_eq!((once.reason(), once.into_proposed()), (locked, Some(8_u32)));
        refused(store.transact(|tx| tx.create(&shifts, "new", 1)).commit(), locked);
        let transaction = store.transact(|tx| {
            let hours = *tx.require(&shifts, "s-1")?;
            tx.create(&shifts, "s-2", hours)?;
            tx.delete(&shifts, "s-1")
        });
        refused(transaction.commit(), locked);
        assert!(!shifts.contains("s-2").unwrap() && !shifts.contains("new").unwrap());
        assert_eq!(shifts.get("s-1").unwrap().unwrap().version(), v1);

        // Reading is free, and so is deciding to write nothing.
        let sum = store.transact(|tx| Ok(*tx.require(&shifts, "s-1")? + 1));
        assert_eq!(*sum.commit().unwrap().value(), 9);
        let relies = store.transact(|tx| {
            tx.check(&shifts, "s-1", Precondition::Matches(v1))?;
            tx.create(&shifts, "s-3", 1)
        });
        relies.commit().unwrap();
        shifts.compute("s-1", |_| Compute::Abort).commit().unwrap();
        for lease in held {
            lease.release().commit().unwrap();
        }
        shifts.create("new", 1).commit().unwrap();
    });
}

#[test]
fn g8_the_holder_writes_by_every_way() {
    everywhere(|_, clock, store| {
        let shifts = shifts(&store);
        let (old, new) = (take(&shifts, "s-1", "payroll"), take(&shifts, "new", "payroll"));
        shifts.create("new", 1).holding(&new).commit().unwrap();
        let version = block_on(shifts.put("s-1", 1).if_exists().holding(&old)).unwrap().version();
        refused(
            shifts.put("s-1", 2).if_match(new.token()).holding(&old).commit(),
            Reason::StaleVersion,
        );
        shifts.put("s-1", 2).if_match(version).holding(&old).commit().unwrap();
        shifts.update("s-1", |hours| *hours += 1).holding(&old).commit().unwrap();
        block_on(shifts.try_update("s-1", |_| Ok(())).holding(&old)).unwrap();
        shifts.compute("new", |_| Compute::Delete).holding(&new).commit().unwrap();
        let both = store.transact(|tx| {
            tx.holding(&old)?;
            tx.holding(&new)?;
            let hours = *tx.require(&shifts, "s-1")?;
            tx.put(&shifts, "s-1", hours + 1)?;
            tx.create(&shifts, "new", hours)
        });
        both.commit().unwrap();
        assert_eq!(*shifts.get("new").unwrap().unwrap(), 3);
        let one = store.transact(|tx| {
            tx.holding(&old)?;
            tx.delete_if(&shifts, "s-1", Precondition::Exists)?;
            tx.delete_if(&shifts, "new", Precondition::Exists)
        });
        refused(one.commit(), Reason::Locked);
        let batch = store.batch().with(shifts.put("new", 5).if_exists().holding(&new));
        assert!(batch.commit().unwrap()[0].is_ok());
        shifts.delete("s-1").if_exists().holding(&old).commit().unwrap();
        clock.advance(MINUTE);
        refused(shifts.update("new", |_| ()).holding(&new).commit(), Reason::Fenced);
    });
}

#[test]
fn g8_a_transaction_relies_on_leases_of_keys_that_it_does_not_write() {
    everywhere(|_, clock, store| {
        let shifts = shifts(&store);
        let lease = take(&shifts, "run", "payroll");
        let write = |key: &str| {
            let transaction = store.transact(|tx| {
                tx.holding(&lease)?;
                tx.create(&shifts, key, 1)
            });
            transaction.commit()
        };
        write("s-2").unwrap();
        clock.advance(MINUTE);
        let fenced = conflict(write("s-3"));
        assert_eq!((fenced.reason(), fenced.key()), (Reason::Fenced, "run"));
        assert!(!shifts.contains("s-3").unwrap());
        // Whatever else it holds, and if it writes nothing.
        let anew = take(&shifts, "run", "payroll");
        let both = store.transact(|tx| {
            tx.holding(&lease)?;
            tx.holding(&anew)?;
            tx.put_if(&shifts, "run", 1, Precondition::Unconditional)
        });
        refused(both.commit(), Reason::Fenced);
        anew.release().commit().unwrap();
        let reads = store.transact(|tx| {
            tx.holding(&lease)?;
            Ok(tx.require(&shifts, "s-1")?.value().to_owned())
        });
        refused(reads.commit(), Reason::Fenced);
        let elsewhere = Store::in_memory();
        let other = elsewhere.transact(|tx| tx.holding(&lease)).commit();
        assert!(matches!(other, Err(Error::OtherStore { .. })), "{other:?}");
    });
}

#[test]
fn g4_a_refusal_says_who_holds_the_key_and_for_how_long() {
    everywhere(|_, clock, store| {
        let shifts = shifts(&store);
        let lease = take(&shifts, "s-1", "payroll");
        clock.advance(Duration::from_secs(2));
        let locked = conflict(shifts.put("s-1", 9).unconditional().commit());
        assert_eq!(
            locked.to_string(),
            "shifts/s-1 is held by payroll (\"payroll run\") for another 58 s, since 2 s ago; \
             try again then, or ask payroll"
        );
        assert_eq!(locked.retry(), Retry::After(Duration::from_secs(58)));
        let info = locked.lease().unwrap();
        assert_eq!((info.holder(), info.expires_at()), (Some("payroll"), start() + MINUTE));
        assert_eq!(*locked.current::<u32>().unwrap(), 8);
        assert_eq!(locked.unmet(), &Precondition::Unconditional);
        assert_eq!(locked.into_proposed(), Some(9_u32));

        clock.advance(MINUTE);
        let write = || shifts.put("s-1", 9).unconditional().holding(&lease).commit();
        let expired = conflict(write());
        let (token, advice) = (lease.token(), "take a new one, and read the key again");
        // It may have been written as gone by now.
        let said = expired.to_string();
        assert!(
            said.starts_with(&format!("shifts/s-1 is not held by lease {token} any more: it "))
        );
        assert!(said.contains("expired") && said.ends_with(advice), "{said}");
        assert!(matches!(expired.retry(), Retry::Refetch(_)));
        take(&shifts, "s-1", "bob");
        clock.advance(Duration::from_secs(5));
        assert_eq!(
            conflict(write()).to_string(),
            format!(
                "shifts/s-1 is not held by lease {token} any more: bob has taken one 5 s ago; \
                 {advice}"
            )
        );
    });
}

#[test]
fn g4_a_transaction_is_told_all_leases_that_are_in_its_way() {
    everywhere(|_, _, store| {
        let shifts = shifts(&store);
        let _held = [take(&shifts, "s-2", "ann"), take(&shifts, "s-4", "bob")];
        let refused = conflict(
            store
                .transact(|tx| {
                    for key in ["s-2", "s-3", "s-4"] {
                        tx.create(&shifts, key, 1)?;
                    }
                    tx.create(&shifts, "s-1", 1)
                })
                .commit(),
        );
        let all: Vec<_> = refused.all().map(|each| (each.key(), each.reason())).collect();
        let exists = Reason::AlreadyExists;
        assert_eq!(all, [("s-1", exists), ("s-2", Reason::Locked), ("s-4", Reason::Locked)]);
        let holders = refused.all().filter_map(|each| each.lease()?.holder().map(str::to_owned));
        assert_eq!(holders.collect::<Vec<_>>(), ["ann", "bob"]);
    });
}

#[test]
fn g8_a_lease_survives_a_restart_for_the_time_that_is_left() {
    for configuration in configurations().into_iter().filter(Configuration::is_durable) {
        let clock = clock_at(start());
        let store = configuration.open_with(by(configuration.builder(), &clock));
        let token = take(&shifts(&store), "s-1", "payroll").token();
        let gone = shifts(&store).lease("gone").ttl(Duration::from_secs(5)).commit().unwrap();
        let gone = gone.token();
        clock.advance(Duration::from_secs(20));
        store.snapshot().unwrap();
        store.close().unwrap();
        // By the clock of another process, 20 s later.
        let clock = clock_at(start() + Duration::from_secs(40));
        let store = configuration.open_with(by(configuration.builder(), &clock));
        let shifts = shifts(&store);
        let info = shifts.lease_of("s-1").unwrap().unwrap();
        assert_eq!((info.holder(), info.remaining()), (Some("payroll"), MINUTE / 3));
        assert_eq!((info.since(), info.expires_at()), (start(), start() + MINUTE));
        let lease = shifts.lease_with_token("s-1", token);
        refused(shifts.put("s-1", 1).if_exists().commit(), Reason::Locked);
        shifts.put("s-1", 1).if_exists().holding(&lease).commit().unwrap();
        let gone = shifts.lease_with_token("gone", gone);
        refused(shifts.create("gone", 1).holding(&gone).commit(), Reason::Fenced);
        shifts.create("gone", 1).commit().unwrap();
        clock.advance(MINUTE / 3);
        refused(shifts.put("s-1", 2).if_exists().holding(&lease).commit(), Reason::Fenced);
        shifts.put("s-1", 2).if_exists().commit().unwrap();
    }
}

#[test]
fn g8_a_clock_that_was_set_back_prolongs_no_lease() {
    for configuration in configurations().into_iter().filter(Configuration::is_durable) {
        let clock = clock_at(start());
        let store = configuration.open_with(by(configuration.builder(), &clock));
        let token = take(&shifts(&store), "s-1", "payroll").token();
        clock.advance(Duration::from_secs(20));
        // The last commit tells how late it is at least.
        shifts(&store).create("s-2", 1).commit().unwrap();
        store.close().unwrap();
        let clock = clock_at(start() - 1_000 * MINUTE);
        let store = configuration.open_with(by(configuration.builder(), &clock));
        let shifts = shifts(&store);
        let remaining = shifts.lease_of("s-1").unwrap().unwrap().remaining();
        assert_eq!(remaining, Duration::from_secs(40));
        clock.advance(remaining);
        let lease = shifts.lease_with_token("s-1", token);
        refused(shifts.put("s-1", 1).if_exists().holding(&lease).commit(), Reason::Fenced);
        shifts.put("s-1", 1).if_exists().commit().unwrap();
    }
}

/// Expiry is a commit of its own, which nobody has to ask for: versions tell.
#[test]
fn g8_an_expired_lease_is_written_as_gone_and_makes_room() {
    everywhere(|configuration, clock, store| {
        let shifts = shifts(&store);
        let mut last = take(&shifts, "s-1", "payroll").token().get();
        clock.advance(MINUTE);
        let expiry_was_written = (0..10_000).any(|probe| {
            std::thread::sleep(Duration::from_millis(2));
            clock.advance(Duration::from_secs(1));
            let landed = shifts.create(format!("probe-{probe}"), 0).commit().unwrap();
            let version = landed.version().get();
            version > std::mem::replace(&mut last, version) + 1
        });
        assert!(expiry_was_written, "{}", configuration.name);
        assert!(shifts.lease_of("s-1").unwrap().is_none());
    });
}

#[test]
fn g12_leases_are_bounded() {
    for configuration in configurations() {
        let clock = clock_at(start());
        let limits = Limits {
            leases: 3,
            lease_ttl: MINUTE,
            lease_reason_bytes: 4,
            key_bytes: 5,
            actor_bytes: 6,
            ..Limits::default()
        };
        let builder = by(configuration.builder(), &clock).limits(limits);
        let store = configuration.open_with(builder);
        let shifts = shifts(&store);
        #[track_caller]
        fn exceeds<T: std::fmt::Debug>(result: Result<T>, exceeded: Limit) {
            match result {
                Err(Error::Limit { limit, .. }) => assert_eq!(limit, exceeded),
                other => panic!("no limit: {other:?}"),
            }
        }
        exceeds(shifts.lease("s-1").ttl(2 * MINUTE).commit(), Limit::LeaseMillis);
        exceeds(shifts.lease("s-1").reason("audit").commit(), Limit::LeaseReasonBytes);
        exceeds(shifts.lease("s-0001").commit(), Limit::KeyBytes);
        exceeds(shifts.lease("s-1").by("payroll").commit(), Limit::ActorBytes);
        let leases = ["a", "b", "c"].map(|key| shifts.lease(key).ttl(MINUTE).commit().unwrap());
        exceeds(shifts.lease("d").commit(), Limit::Leases);
        exceeds(leases[0].renew(2 * MINUTE).commit(), Limit::LeaseMillis);
        leases[0].renew(MINUTE).commit().unwrap();
        leases[0].release().commit().unwrap();
        let d = shifts.lease("d").ttl(MINUTE).commit().unwrap();
        exceeds(block_on(shifts.lease("a")), Limit::Leases);
        refused(shifts.create("b", 1).commit(), Reason::Locked);
        // Those that have expired make room, if only when it is needed.
        clock.advance(MINUTE);
        for key in ["b", "e", "f"] {
            shifts.lease(key).ttl(MINUTE).commit().unwrap();
        }
        exceeds(shifts.lease("d").commit(), Limit::Leases);
        refused(d.release().commit(), Reason::Fenced);
    }
}

/// Four threads count without a condition, each while it holds the lease, as far as it knows:
/// leases expire under their hands, by the clock of the system, and nothing is lost for that.
#[test]
fn g8_late_holders_lose_no_update() {
    for configuration in configurations() {
        let store = configuration.open();
        let shifts = shifts(&store);
        shifts.put("s-1", 0).unconditional().commit().unwrap();
        let worker = |seed: u64| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut landed = 0;
            for _ in 0..60 {
                let ttl = Duration::from_micros(random.u64(0..2_000));
                let Ok(lease) = shifts.lease("s-1").ttl(ttl).commit() else {
                    std::thread::sleep(Duration::from_micros(random.u64(0..500)));
                    continue;
                };
                let count = *shifts.get("s-1").unwrap().unwrap();
                std::thread::sleep(Duration::from_micros(random.u64(0..2_000)));
                let write = shifts.put("s-1", count + 1).unconditional().holding(&lease);
                match write.commit() {
                    Ok(_) => landed += 1,
                    Err(error) => refused(Err::<(), _>(error), Reason::Fenced),
                }
                let _ = lease.release().commit();
            }
            landed
        };
        let landed: u32 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|seed| scope.spawn(move || worker(seed))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(*shifts.get("s-1").unwrap().unwrap(), landed, "{}", configuration.name);
    }
}

/// What a client was told of the lease, once an operation was answered.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Told {
    Free,
    Held(Version),
}

/// The power is cut after each call to the disk: the lease is as somebody was told last, or as the
/// operation under way would have left it; and either its holder can write or others, not both.
#[test]
fn g8_after_a_power_cut_a_key_is_held_or_free() {
    let disk = MemoryDisk::new();
    let clock = clock_at(start());
    let open = |disk: &MemoryDisk| {
        by(Store::builder().stripes(1).segment_bytes(4096), &clock).open_on(Arc::new(disk.clone()))
    };
    let store = open(&disk).unwrap();
    let shifts = shifts(&store);
    let mut told = vec![(disk.calls(), Told::Free)];
    for round in 0..4 {
        let lease = take(&shifts, "s-1", "payroll");
        told.push((disk.calls(), Told::Held(lease.token())));
        shifts.put("s-1", round).if_exists().holding(&lease).commit().unwrap();
        lease.renew(2 * MINUTE).commit().unwrap();
        told.push((disk.calls(), Told::Held(lease.token())));
        lease.release().commit().unwrap();
        told.push((disk.calls(), Told::Free));
    }
    store.close().unwrap();
    let mut seen = [0, 0];
    for calls in told[0].0..=disk.calls() {
        for writes in [Unsynced::First(0), Unsynced::First(1), Unsynced::First(usize::MAX)] {
            let cut = PowerCut { writes, names: Names::Dropped, seed: 1 };
            let left = disk.crash(calls, Crash::Power(cut));
            let store = open(&left).unwrap();
            let shifts = self::shifts(&store);
            let before = told.iter().rposition(|(at, _)| *at <= calls).unwrap();
            let possible = [told[before].1, told.get(before + 1).unwrap_or(&told[before]).1];
            let held = shifts.lease_of("s-1").unwrap().is_some();
            let stranger = shifts.put("s-1", 99).unconditional().commit();
            assert_eq!(stranger.is_ok(), !held);
            let holds = |told: &Told| match told {
                Told::Free => !held,
                Told::Held(token) => {
                    let lease = shifts.lease_with_token("s-1", *token);
                    let write = shifts.put("s-1", 98).unconditional().holding(&lease).commit();
                    assert!(!(write.is_ok() && stranger.is_ok()));
                    write.is_ok()
                }
            };
            assert!(possible.iter().any(holds), "after {calls} calls: {possible:?}");
            seen[usize::from(held)] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}
