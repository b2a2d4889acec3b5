//! G4, G8: the keys that an operation leases are its own until it ends, and no longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, SystemTime};

use ifmatch::testing::ManualClock;
use ifmatch::{
    Clock, Collection, Conflict, Error, Limit, Limits, OnBusy, OperationStatus, OperationToken,
    Precondition, Reason, Retry, Store,
};

use crate::common::{block_on, everywhere};
use crate::support::{SECOND, assert_fenced, in_the_way, known, refusal, reopen, start, timed};

type Shifts = Collection<String, u32>;

fn shifts(store: &Store) -> Shifts {
    let shifts = store.collection("shifts").unwrap();
    if !shifts.contains("s-1").unwrap() {
        shifts.create("s-1", 8).by("import").commit().unwrap();
    }
    shifts
}

/// The refusal of whoever meets the lease of this operation.
#[track_caller]
fn locked<T: std::fmt::Debug>(result: ifmatch::Result<T>, operation: &str) -> Conflict {
    let conflict = refusal(result);
    assert_eq!(conflict.reason(), Reason::Locked, "{conflict}");
    assert_eq!(conflict.lease().and_then(|lease| lease.operation()), Some(operation));
    conflict
}

fn operation_of(shifts: &Shifts, key: &str) -> Option<String> {
    shifts.lease_of(key).unwrap().and_then(|lease| lease.operation().map(str::to_owned))
}

#[test]
fn g8_what_an_operation_leases_is_nobody_elses() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let job = jobs.begin("june").by("ann").commit().unwrap();
        let lease = job.lease(&shifts, "s-1").reason("adding up").commit().unwrap();
        let absent = block_on(job.lease(&shifts, "s-2")).unwrap();
        assert_eq!(lease.expires_at(), Some(start() + 60 * SECOND));
        assert!(absent.token() > lease.token());
        let info = shifts.lease_of("s-1").unwrap().unwrap();
        assert_eq!((info.holder(), info.reason()), (Some("ann"), Some("adding up")));
        assert_eq!((info.operation_kind(), info.operation()), (Some("payroll"), Some(job.id())));

        clock.advance(2 * SECOND);
        let conflict = locked(shifts.put("s-1", 9).if_exists().by("bob").commit(), job.id());
        assert_eq!(
            conflict.to_string(),
            format!(
                "shifts/s-1 is held by ann (\"adding up\") during payroll {}, for another 58 s, \
                 since 2 s ago; try again then, or when that has ended",
                job.id()
            )
        );
        assert_eq!(conflict.retry(), Retry::After(58 * SECOND));
        locked(shifts.create("s-2", 1).commit(), job.id());
        locked(shifts.lease("s-1").by("ann").commit(), job.id());
        locked(shifts.update("s-1", |hours| *hours += 1).commit(), job.id());
        let both = store.transact(|tx| {
            tx.delete_if(&shifts, "s-1", Precondition::Exists)?;
            tx.create(&shifts, "s-3", 1)
        });
        locked(both.commit(), job.id());

        shifts.put("s-1", 10).if_exists().holding(&lease).commit().unwrap();
        shifts.create("s-2", 1).holding(&absent).commit().unwrap();
        let token = shifts.lease_with_token("s-1", lease.token());
        shifts.update("s-1", |hours| *hours += 1).holding(&token).commit().unwrap();
        assert_eq!(*shifts.get("s-1").unwrap().unwrap(), 11);
    });
}

#[test]
fn g8_leasing_twice_is_leasing_once() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let job = jobs.begin("june").commit().unwrap();
        let first = job.lease(&shifts, "s-1").reason("adding up").commit().unwrap();
        clock.advance(SECOND);
        let again = job.lease(&shifts, "s-1").reason("something else").commit().unwrap();
        assert_eq!(again.token(), first.token());
        assert_eq!(again.expires_at(), Some(start() + 61 * SECOND));
        let info = shifts.lease_of("s-1").unwrap().unwrap();
        assert_eq!((info.reason(), info.since()), (Some("adding up"), start()));
        shifts.put("s-1", 9).if_exists().holding(&again).commit().unwrap();
    });
}

#[test]
fn g8_every_sign_of_life_renews_the_leases() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let job = jobs.begin("june").by("ann").ttl(10 * SECOND).commit().unwrap();
        let lease = job.lease(&shifts, "s-1").commit().unwrap();
        for round in 0..3 {
            clock.advance(9 * SECOND);
            match round {
                0 => drop(job.heartbeat().commit().unwrap()),
                1 => drop(job.progress(50).commit().unwrap()),
                _ => drop(job.lease(&shifts, "s-2").commit().unwrap()),
            }
            let info = shifts.lease_of("s-1").unwrap().unwrap();
            assert_eq!((info.remaining(), info.since()), (10 * SECOND, start()));
            assert_eq!((info.holder(), info.operation()), (Some("ann"), Some(job.id())));
        }
        shifts.put("s-1", 9).if_exists().holding(&lease).commit().unwrap();
        // And what gives none ends them.
        clock.advance(10 * SECOND);
        shifts.put("s-1", 9).if_exists().by("bob").commit().unwrap();
        assert_fenced(shifts.delete("s-1").if_exists().holding(&lease).commit(), "not held");
        assert_fenced(job.lease(&shifts, "s-1").commit(), "expired");
    });
}

#[test]
fn g8_the_commit_that_ends_an_operation_gives_its_leases_back() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        for round in 0..5 {
            let begin = || jobs.begin("june").ttl(10 * SECOND).on_busy(OnBusy::Queue);
            let [first, next] = [0; 2].map(|_| begin().commit().unwrap());
            let lease = first.lease(&shifts, "s-1").commit().unwrap();
            first.lease(&shifts, "s-2").commit().unwrap();
            let open = |name| store.changes().from_now().collection_named(name).open().unwrap();
            let mut feeds = ["$operations", "$scopes", "$leases"].map(open);
            match round {
                0 => drop(first.complete("").commit().unwrap()),
                1 => drop(first.fail("").commit().unwrap()),
                2 => drop(first.cancel().commit().unwrap()),
                3 => drop(jobs.cancel(first.id()).commit().unwrap()),
                _ => {
                    clock.advance(10 * SECOND);
                    next.wait_for_start().wait().unwrap();
                }
            }
            let [ended, scope, leases] = feeds.each_mut().map(|feed| {
                let commit = feed.next_within(60 * SECOND).unwrap().expect("it was told");
                (commit.version(), commit.changes().len())
            });
            assert_eq!((ended.1, scope.1, leases.1), (1, 1, 2), "round {round}");
            assert!(ended.0 == scope.0 && scope.0 == leases.0, "they are one commit");

            assert!(shifts.lease_of("s-1").unwrap().is_none());
            let taken = next.lease(&shifts, "s-1").commit().unwrap();
            assert!(taken.token() > lease.token());
            // However late its holder wakes up.
            assert_fenced(shifts.put("s-1", 1).if_exists().holding(&lease).commit(), "not held");
            assert_fenced(lease.renew(SECOND).commit(), "not held");
            assert_fenced(first.lease(&shifts, "s-2").commit(), "begin anew");
            shifts.put("s-1", 2).if_exists().holding(&taken).commit().unwrap();
            next.complete("").commit().unwrap();
            shifts.put("s-1", 3).if_exists().by("bob").commit().unwrap();
        }
    });
}

#[test]
fn g8_the_next_one_leases_what_the_one_that_has_expired_held_for_longer() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        for _ in 0..20 {
            let begin = || jobs.begin("june").ttl(10 * SECOND).on_busy(OnBusy::Queue);
            let [first, next] = [0; 2].map(|_| begin().commit().unwrap());
            let lease = first.lease(&shifts, "s-1").commit().unwrap();
            let lease = lease.renew(100 * SECOND).commit().unwrap();
            clock.advance(10 * SECOND);
            // Its step ends the first one, unless the store was faster.
            let taken = next.lease(&shifts, "s-1").commit().unwrap();
            assert_eq!(operation_of(&shifts, "s-1").as_deref(), Some(next.id()));
            assert_fenced(lease.release().commit(), "not held");
            taken.release().commit().unwrap();
            next.complete("").commit().unwrap();
        }
    });
}

#[test]
fn g8_a_key_that_somebody_else_holds_is_not_taken() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let job = jobs.begin("june").by("ann").ttl(10 * SECOND).commit().unwrap();
        let other = jobs.begin("july").by("ann").commit().unwrap();
        let held = shifts.lease("s-1").by("ann").commit().unwrap();
        other.lease(&shifts, "s-2").commit().unwrap();
        clock.advance(SECOND);
        let refused = refusal(job.lease(&shifts, "s-1").commit());
        assert_eq!((refused.reason(), refused.collection()), (Reason::Locked, "shifts"));
        assert_eq!((refused.key(), refused.lease().unwrap().operation()), ("s-1", None));
        locked(block_on(job.lease(&shifts, "s-2")), other.id());
        assert_eq!(known(&jobs, job.id()).remaining(), 9 * SECOND, "no step was taken");
        held.release().commit().unwrap();
        job.lease(&shifts, "s-1").commit().unwrap();
        // What it could not take is not given back with the rest.
        job.complete("").commit().unwrap();
        assert!(shifts.lease_of("s-1").unwrap().is_none());
        assert_eq!(operation_of(&shifts, "s-2").as_deref(), Some(other.id()));
    });
}

#[test]
fn g8_only_the_holder_of_a_running_operation_leases_for_it() {
    everywhere(|_, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let begin = || jobs.begin("june").on_busy(OnBusy::Queue).commit().unwrap();
        let [first, queued] = [begin(), begin()];
        assert_eq!(in_the_way(queued.lease(&shifts, "s-1").commit()).id(), first.id());
        let forged = OperationToken::from_bits(first.token().bits() ^ 1);
        let stranger = jobs.with_token(first.id(), forged);
        assert_fenced(stranger.lease(&shifts, "s-1").commit(), "has another token");
        let others = store.operations("other").with_token(first.id(), first.token());
        assert_fenced(others.lease(&shifts, "s-1").commit(), "is not known");
        let elsewhere = self::shifts(&Store::in_memory());
        let refused = first.lease(&elsewhere, "s-1").commit();
        assert!(matches!(refused, Err(Error::OtherStore { .. })), "{refused:?}");
        assert!(shifts.lease_of("s-1").unwrap().is_none());
    });
}

#[test]
fn g8_a_holder_may_give_a_lease_back_or_let_it_lapse_before_the_end() {
    timed(|_, clock, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let job = jobs.begin("june").ttl(10 * SECOND).commit().unwrap();
        let first = job.lease(&shifts, "s-1").commit().unwrap();
        first.release().commit().unwrap();
        job.heartbeat().commit().unwrap();
        let other = shifts.lease("s-1").by("bob").commit().unwrap();
        job.heartbeat().commit().unwrap();
        assert_eq!(refusal(job.lease(&shifts, "s-1").commit()).reason(), Reason::Locked);
        other.release().commit().unwrap();
        let second = job.lease(&shifts, "s-1").commit().unwrap();
        assert!(second.token() > first.token(), "it is another one");

        // A sign of life sets its time anew, as long as it holds.
        second.renew(2 * SECOND).commit().unwrap();
        clock.advance(SECOND);
        job.heartbeat().commit().unwrap();
        assert_eq!(shifts.lease_of("s-1").unwrap().unwrap().remaining(), 10 * SECOND);
        second.renew(2 * SECOND).commit().unwrap();
        clock.advance(2 * SECOND);
        let info = job.heartbeat().commit().unwrap();
        assert_eq!(info.status(), OperationStatus::InProgress);
        assert!(shifts.lease_of("s-1").unwrap().is_none(), "it has expired for good");
        assert_fenced(shifts.put("s-1", 1).if_exists().holding(&second).commit(), "not held");
        let third = job.lease(&shifts, "s-1").commit().unwrap();
        assert!(third.token() > second.token());
        job.complete("").commit().unwrap();
        assert!(shifts.lease_of("s-1").unwrap().is_none());
    });
}

#[test]
fn g3_leases_of_operations_survive_a_restart() {
    timed(|configuration, clock, store| {
        if !configuration.is_durable() {
            return;
        }
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let begin = || jobs.begin("june").by("ann").ttl(100 * SECOND).on_busy(OnBusy::Queue);
        let [job, next] = [0; 2].map(|_| begin().commit().unwrap());
        let lease = job.lease(&shifts, "s-1").commit().unwrap();
        store.snapshot().unwrap();
        job.lease(&shifts, "s-2").commit().unwrap();
        drop(shifts);
        store.close().unwrap();
        clock.advance(60 * SECOND);

        // Nobody has opened the collection when the holder gives a sign of life.
        let store = reopen(configuration, clock);
        let jobs = store.operations("payroll");
        let job = jobs.with_token(job.id(), job.token());
        job.heartbeat().commit().unwrap();
        clock.advance(60 * SECOND);
        let shifts = self::shifts(&store);
        let info = shifts.lease_of("s-1").unwrap().unwrap();
        assert_eq!((info.remaining(), info.holder()), (40 * SECOND, Some("ann")));
        locked(shifts.put("s-1", 1).if_exists().commit(), job.id());
        let again = job.lease(&shifts, "s-1").commit().unwrap();
        assert_eq!(again.token(), lease.token(), "it need not have been kept");
        shifts.put("s-1", 1).if_exists().holding(&again).commit().unwrap();

        // Nor when it ends.
        drop(shifts);
        store.close().unwrap();
        let store = reopen(configuration, clock);
        let jobs = store.operations("payroll");
        jobs.with_token(job.id(), job.token()).complete("").commit().unwrap();
        let (shifts, next) = (self::shifts(&store), jobs.with_token(next.id(), next.token()));
        assert!(shifts.lease_of("s-2").unwrap().is_none());
        next.lease(&shifts, "s-1").commit().unwrap();

        // While the store is closed all of it runs out.
        store.close().unwrap();
        clock.advance(1_000 * SECOND);
        let store = reopen(configuration, clock);
        self::shifts(&store).put("s-1", 3).if_exists().commit().unwrap();
    });
}

#[test]
fn g12_the_leases_of_an_operation_are_bounded() {
    let limits = Limits {
        operation_leases: 2,
        leases: 3,
        key_bytes: 16,
        lease_reason_bytes: 4,
        lease_ttl: SECOND,
        ..Limits::default()
    };
    everywhere(|configuration, _| {
        let store = configuration.builder().limits(limits.clone()).in_memory();
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let limit = |result: ifmatch::Result<ifmatch::Lease>| match result {
            Err(Error::Limit { limit, .. }) => limit,
            other => panic!("a limit should be exceeded: {other:?}"),
        };
        // Not by the longest time of leases that are taken by themselves.
        let job = jobs.begin("june").ttl(3_600 * SECOND).commit().unwrap();
        let long = job.lease(&shifts, "s".repeat(17)).commit();
        assert_eq!(limit(long), Limit::KeyBytes);
        let reason = job.lease(&shifts, "s-1").reason("12345").commit();
        assert_eq!(limit(reason), Limit::LeaseReasonBytes);
        let lease = job.lease(&shifts, "s-1").commit().unwrap();
        job.lease(&shifts, "s-2").commit().unwrap();
        job.lease(&shifts, "s-1").commit().unwrap();
        assert_eq!(limit(job.lease(&shifts, "s-3").commit()), Limit::OperationLeases);
        // What was given back makes room.
        lease.release().commit().unwrap();
        job.lease(&shifts, "s-3").commit().unwrap();
        let other = jobs.begin("july").commit().unwrap();
        other.lease(&shifts, "s-4").commit().unwrap();
        assert_eq!(limit(other.lease(&shifts, "s-5").commit()), Limit::Leases);
        job.complete("").commit().unwrap();
        other.lease(&shifts, "s-5").commit().unwrap();
        shifts.lease("s-6").ttl(SECOND).commit().unwrap();
    });
}

#[test]
fn g1_of_many_operations_that_lease_a_key_one_has_it() {
    everywhere(|_, store| {
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        std::thread::scope(|threads| {
            for scope in 0..4 {
                let (jobs, shifts) = (&jobs, &shifts);
                threads.spawn(move || {
                    for _ in 0..5 {
                        let job = jobs.begin(scope.to_string()).commit().unwrap();
                        let lease = loop {
                            match job.lease(shifts, "s-1").commit() {
                                Ok(lease) => break lease,
                                refused => _ = refusal(refused),
                            }
                        };
                        // Nobody comes in between.
                        let before = shifts.get("s-1").unwrap().unwrap();
                        job.heartbeat().commit().unwrap();
                        let put = shifts.put("s-1", *before + 1).if_match(before.version());
                        put.holding(&lease).commit().unwrap();
                        job.complete("").commit().unwrap();
                    }
                });
            }
        });
        assert_eq!(*shifts.get("s-1").unwrap().unwrap(), 8 + 20);
        assert!(shifts.lease_of("s-1").unwrap().is_none());
        shifts.lease("s-1").ttl(Duration::from_secs(1)).commit().unwrap();
    });
}

/// A clock that goes five seconds forward when it is read for the nth time by one thread.
struct Leaping {
    clock: ManualClock,
    reader: ThreadId,
    readings: AtomicUsize,
}

impl Clock for Leaping {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        let is_reader = std::thread::current().id() == self.reader;
        if is_reader && self.readings.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.clock.advance(5 * SECOND);
        }
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration);
    }
}

#[test]
fn g8_a_lease_that_expires_during_a_sign_of_life_is_not_revived() {
    let mut lost = 0;
    for readings in 1..100 {
        let (clock, reader) = (ManualClock::new(start()), std::thread::current().id());
        let clock = Arc::new(Leaping { clock, reader, readings: AtomicUsize::new(0) });
        let store = Store::builder().clock(clock.clone()).in_memory();
        let (shifts, jobs) = (shifts(&store), store.operations("payroll"));
        let job = jobs.begin("june").ttl(10 * SECOND).commit().unwrap();
        job.lease(&shifts, "s-1").commit().unwrap().renew(2 * SECOND).commit().unwrap();
        clock.readings.store(readings, Ordering::Relaxed);
        job.heartbeat().commit().unwrap();
        if (1..=readings).contains(&clock.readings.swap(0, Ordering::Relaxed)) {
            assert!(lost > 1, "it expired {lost} times before the step was decided on");
            return;
        }
        match shifts.lease_of("s-1").unwrap() {
            None => lost += 1,
            Some(info) => assert!(info.remaining() <= 5 * SECOND, "{readings}: {info:?}"),
        }
    }
    panic!("the clock is read all the time");
}
