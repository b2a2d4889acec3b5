//! G5 of leases and operations: a step that has landed once is answered, not taken again.

mod common;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{block_on, everywhere};
use ifmatch::testing::{Crash, ManualClock, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{
    Error, Lease, Limits, OnBusy, OperationHandle, OperationStatus, Reason, Store, StoreBuilder,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A clock that stands still, and the builder of a store that has it.
fn with_clock(builder: StoreBuilder) -> (Arc<ManualClock>, StoreBuilder) {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000_000)));
    (Arc::clone(&clock), builder.clock(clock))
}

#[test]
fn g5_a_lease_is_taken_renewed_and_given_back_once() {
    everywhere(|configuration, store| {
        drop(store);
        let (clock, builder) = with_clock(configuration.builder());
        let store = configuration.open_with(builder);
        let shifts = store.collection::<String, u32>("shifts").unwrap();
        let take = || {
            let lease = shifts.lease("s-1").ttl(MINUTE).reason("june").by("ann");
            lease.operation_id("take").commit().unwrap()
        };
        let first = take();
        assert!(!first.is_replayed());
        clock.advance(MINUTE / 2);
        let same = |again: &Lease, first: &Lease| {
            let told = |lease: &Lease| (lease.token(), lease.expires_at());
            assert!(again.is_replayed());
            assert_eq!(told(again), told(first));
        };
        same(&take(), &first);
        assert_eq!(shifts.lease_of("s-1").unwrap().unwrap().remaining(), MINUTE / 2, "as it was");

        let renew = || first.renew(2 * MINUTE).by("ann").operation_id("renew").commit().unwrap();
        let renewed = renew();
        clock.advance(MINUTE);
        same(&renew(), &renewed);
        same(&take(), &first);
        assert_eq!(shifts.lease_of("s-1").unwrap().unwrap().remaining(), MINUTE);
        shifts.create("s-1", 8).holding(&take()).commit().unwrap();

        let release = || first.release().by("ann").operation_id("release");
        assert!(!release().commit().unwrap().is_replayed());
        let other = shifts.lease("s-1").by("bob").commit().unwrap();
        assert!(block_on(release()).unwrap().is_replayed());
        same(&renew(), &renewed);
        // The answer is that of the first time; the lease has ended, and holds nothing.
        same(&take(), &first);
        let late = shifts.put("s-1", 9).if_exists().holding(&take()).commit().unwrap_err();
        assert_eq!(late.conflict().unwrap().reason(), Reason::Fenced);
        assert_eq!(shifts.lease_of("s-1").unwrap().unwrap().holder(), Some("bob"));
        other.release().commit().unwrap();
    });
}

#[test]
fn g5_an_id_stands_for_one_step_of_a_lease_by_one_actor() {
    everywhere(|_, store| {
        let shifts = store.collection::<String, u32>("shifts").unwrap();
        let take = |key: &str| shifts.lease(key).by("ann").operation_id("a");
        let lease = take("s-1").commit().unwrap();
        let reused = [
            take("s-2").commit().map(drop),
            take("s-1").ttl(MINUTE).commit().map(drop),
            take("s-1").reason("").commit().map(drop),
            lease.renew(30 * MINUTE / 60).by("ann").operation_id("a").commit().map(drop),
            lease.release().by("ann").operation_id("a").commit().map(drop),
            shifts.create("s-1", 1).by("ann").operation_id("a").commit().map(drop),
        ];
        for reused in reused {
            assert!(matches!(reused, Err(Error::KeyReused { .. })), "{reused:?}");
        }
        // Others have ids of their own; and what is refused is not remembered.
        for attempt in [shifts.lease("s-1").operation_id("a"), take("s-1").by("bob")] {
            let refused = attempt.commit().unwrap_err();
            assert_eq!(refused.conflict().unwrap().reason(), Reason::Locked);
        }
        lease.release().commit().unwrap();
        let taken = take("s-1").by("bob").commit().unwrap();
        assert!(!taken.is_replayed());
        let late = || lease.release().operation_id("late").commit();
        assert!(late().unwrap_err().is_conflict() && late().unwrap_err().is_conflict());
        let long = shifts.lease("s-3").operation_id("x".repeat(257)).commit().unwrap_err();
        assert!(long.to_string().contains("257 bytes of operation id"), "{long}");
    });
}

#[test]
fn g5_of_many_who_take_a_lease_with_one_id_all_get_the_same() {
    everywhere(|_, store| {
        let shifts = store.collection::<u64, u32>("shifts").unwrap();
        let jobs = store.operations("job");
        for round in 0..10 {
            let job = jobs.begin(round.to_string()).commit().unwrap();
            let id = format!("a-{round}");
            let take = || shifts.lease(round).operation_id(&id).commit().unwrap();
            let end = || job.complete("done").operation_id(format!("b-{round}")).commit().unwrap();
            let all: Vec<_> = std::thread::scope(|threads| {
                let all = || (take(), end());
                let all: Vec<_> = (0..4).map(|_| threads.spawn(all)).collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(all.iter().filter(|(lease, _)| !lease.is_replayed()).count(), 1);
            assert!(all.iter().all(|(lease, _)| lease.token() == all[0].0.token()));
            assert_eq!(all.iter().filter(|(_, info)| !info.is_replayed()).count(), 1);
            assert!(all.iter().all(|(_, info)| info.result() == Some(b"done")));
        }
    });
}

#[test]
fn g5_a_step_of_an_operation_is_taken_once() {
    everywhere(|configuration, store| {
        drop(store);
        let (clock, builder) = with_clock(configuration.builder());
        let store = configuration.open_with(builder);
        let shifts = store.collection::<String, u32>("shifts").unwrap();
        let jobs = store.operations("job");
        let job = jobs.begin("disk").by("ann").ttl(MINUTE).commit().unwrap();
        let next = jobs.begin("disk").on_busy(OnBusy::Queue).commit().unwrap();
        let beat = || job.heartbeat().operation_id("beat").commit().unwrap();
        let first = beat();
        clock.advance(MINUTE / 2);
        let again = beat();
        assert!(again.is_replayed() && !first.is_replayed());
        assert_eq!(again.expires_at(), first.expires_at(), "it was no sign of life");

        let progress = || job.progress(40).operation_id("progress").commit().unwrap();
        assert!(!progress().is_replayed());
        job.progress(60).commit().unwrap();
        let again = progress();
        assert_eq!((again.progress(), again.is_replayed()), (Some(60), true), "as it is now");

        let lease = || job.lease(&shifts, "s-1").by("ann").operation_id("lease").commit().unwrap();
        let had = || job.lease(&shifts, "s-1").by("ann").operation_id("had").commit().unwrap();
        let (taken, kept) = (lease(), had());
        assert_eq!((lease().token(), kept.token()), (taken.token(), taken.token()));
        assert_eq!((lease().expires_at(), lease().is_replayed()), (taken.expires_at(), true));

        let end = || job.complete("done").by("ann").operation_id("end");
        let first = end().commit().unwrap();
        let again = block_on(end()).unwrap();
        assert!(again.is_replayed() && !first.is_replayed());
        assert_eq!((again.status(), again.ended_at()), (first.status(), first.ended_at()));
        assert_eq!(again.result(), Some(&b"done"[..]));
        let running = jobs.get(next.id()).unwrap().unwrap();
        assert_eq!(running.status(), OperationStatus::InProgress);
        // The lease has ended with it: it is told, and holds nothing.
        for (again, first) in [(lease(), &taken), (had(), &kept)] {
            assert_eq!((again.token(), again.is_replayed()), (first.token(), true));
            let late = shifts.create("s-1", 9).holding(&again).commit().unwrap_err();
            assert_eq!(late.conflict().unwrap().reason(), Reason::Fenced);
        }
        let cancel = || jobs.cancel(next.id()).by("operator").operation_id("end").commit();
        assert!(!cancel().unwrap().is_replayed() && cancel().unwrap().is_replayed());
    });
}

#[test]
fn g5_an_id_stands_for_one_step_of_an_operation_by_one_actor() {
    everywhere(|_, store| {
        let shifts = store.collection::<String, u32>("shifts").unwrap();
        let jobs = store.operations("job");
        let job = jobs.begin("disk").commit().unwrap();
        let other = jobs.begin("tape").commit().unwrap();
        job.progress(1).operation_id("a").commit().unwrap();
        let forged = jobs.with_token(job.id(), other.token());
        let reused = [job.progress(2), job.heartbeat(), job.complete(""), job.fail("")]
            .into_iter()
            .chain([job.cancel(), jobs.cancel(job.id()), forged.progress(1), other.progress(1)])
            .map(|step| step.operation_id("a").commit().map(drop))
            .chain([job.lease(&shifts, "s-1").operation_id("a").commit().map(drop)]);
        for reused in reused {
            assert!(matches!(reused, Err(Error::KeyReused { .. })), "{reused:?}");
        }
        let of_bob = job.progress(3).by("bob").operation_id("a").commit().unwrap();
        assert!(!of_bob.is_replayed());
        let long = job.heartbeat().by("x".repeat(257)).commit().unwrap_err();
        assert!(long.to_string().contains("257 bytes of actor"), "{long}");
    });
}

#[test]
fn g5_an_id_of_a_beginning_is_one_of_all_that_the_actor_has() {
    everywhere(|_, store| {
        let orders = store.collection::<u64, u64>("orders").unwrap();
        let jobs = store.operations("job");
        let begin = |id: &str| jobs.begin("disk").on_busy(OnBusy::Queue).operation_id(id).commit();
        let job = begin("a").unwrap();
        orders.create(1, 1).operation_id("b").commit().unwrap();
        job.heartbeat().operation_id("c").commit().unwrap();
        let reused = [
            begin("b").map(drop),
            begin("c").map(drop),
            job.heartbeat().operation_id("a").commit().map(drop),
            orders.create(2, 1).operation_id("a").commit().map(drop),
        ];
        for reused in reused {
            assert!(matches!(reused, Err(Error::KeyReused { .. })), "{reused:?}");
        }
        assert!(begin("a").unwrap().is_replayed());
    });
}

#[test]
fn g5_whoever_begins_what_is_forgotten_begins_anew() {
    everywhere(|configuration, store| {
        drop(store);
        let limits = Limits { operations: 1, ..Limits::default() };
        let store = configuration.open_with(configuration.builder().limits(limits));
        let jobs = store.operations("job");
        let begin = || jobs.begin("disk").operation_id("a").commit().unwrap();
        let first = begin();
        first.complete("").commit().unwrap();
        jobs.begin("tape").commit().unwrap().complete("").commit().unwrap();
        let anew = begin();
        assert!(!anew.is_replayed() && anew.id() != first.id());
        let again = begin();
        assert_eq!((again.id(), again.is_replayed()), (anew.id(), true));
    });
}

#[test]
fn g5_a_refused_step_is_not_remembered_though_its_commit_ends_what_has_expired() {
    everywhere(|configuration, store| {
        drop(store);
        let (clock, builder) = with_clock(configuration.builder());
        let store = configuration.open_with(builder);
        let jobs = store.operations("job");
        let job = jobs.begin("disk").ttl(MINUTE).commit().unwrap();
        let next = jobs.begin("disk").on_busy(OnBusy::Queue).commit().unwrap();
        let early = || next.heartbeat().operation_id("next").commit();
        assert_eq!(early().unwrap_err().conflict().unwrap().reason(), Reason::InProgress);
        clock.advance(MINUTE);
        let late = || job.complete("done").operation_id("late").commit().unwrap_err();
        for _ in 0..2 {
            assert_eq!(late().conflict().unwrap().reason(), Reason::Fenced);
        }
        let ended = jobs.get(job.id()).unwrap().unwrap();
        assert_eq!(ended.status(), OperationStatus::Expired);
        assert!(!early().unwrap().is_replayed());
    });
}

#[test]
fn g5_steps_are_known_after_a_restart() {
    everywhere(|configuration, store| {
        if !configuration.is_durable() {
            return;
        }
        let shifts = store.collection::<String, u32>("shifts").unwrap();
        let jobs = store.operations("job");
        let job = jobs.begin("disk").commit().unwrap().into_handle();
        let (id, token) = (job.id().to_owned(), job.token());
        let lease = shifts.lease("s-1").operation_id("take").commit().unwrap();
        lease.release().operation_id("release").commit().unwrap();
        job.complete("done").operation_id("end").commit().unwrap();
        let (taken, expires_at) = (lease.token(), lease.expires_at());
        drop((jobs, job, shifts, lease, store));
        for snapshot in [false, true] {
            let store = configuration.open();
            let shifts = store.collection::<String, u32>("shifts").unwrap();
            let lease = shifts.lease("s-1").operation_id("take").commit().unwrap();
            assert_eq!((lease.token(), lease.expires_at()), (taken, expires_at));
            assert!(lease.is_replayed());
            assert!(lease.release().operation_id("release").commit().unwrap().is_replayed());
            assert!(shifts.lease_of("s-1").unwrap().is_none());
            let job = store.operations("job").with_token(&*id, token);
            let ended = job.complete("done").operation_id("end").commit().unwrap();
            assert!(ended.is_replayed());
            if snapshot {
                store.snapshot().unwrap();
            }
        }
    });
}

#[test]
fn g5_g3_a_power_cut_keeps_a_step_and_its_id_together() {
    let disk = MemoryDisk::new();
    let store = Store::builder().segment_bytes(4_096).open_on(Arc::new(disk.clone())).unwrap();
    let mut told = Vec::new();
    for id in 0..8 {
        if id == 4 {
            store.snapshot().unwrap();
        }
        let job = store.operations("job").begin(id.to_string()).commit().unwrap();
        let lease = lease_once(&store, id);
        let leased_at = disk.calls();
        assert!(!end_once(&job));
        told.push((job, leased_at, lease.token(), disk.calls()));
    }
    for calls in 0..=disk.calls() {
        let (writes, names) = (Unsynced::First(1), Names::Dropped);
        let cut = disk.crash(calls, Crash::Power(PowerCut { writes, names, seed: 1 }));
        let Ok(store) = Store::builder().open_on(Arc::new(cut)) else {
            assert!(calls < told[0].1, "a store that has acknowledged a step opens");
            continue;
        };
        let shifts = store.collection::<u64, u64>("shifts").unwrap();
        let jobs = store.operations("job");
        for (id, (job, leased_at, token, ended_at)) in (0..).zip(&told) {
            let there = shifts.lease_of(id).unwrap().is_some();
            assert!(there || calls < *leased_at, "lease {id} was lost");
            let again = lease_once(&store, id);
            assert_eq!(again.is_replayed(), there, "lease {id}");
            assert!(!there || again.token() == *token);
            if let Some(info) = jobs.get(job.id()).unwrap() {
                let ended = info.status() == OperationStatus::Completed;
                assert!(ended || calls < *ended_at, "operation {id} goes on");
                assert_eq!(end_once(&jobs.with_token(job.id(), job.token())), ended, "{id}");
            }
        }
    }
}

fn lease_once(store: &Store, id: u64) -> Lease {
    let shifts = store.collection::<u64, u64>("shifts").unwrap();
    let lease = shifts.lease(id).ttl(60 * MINUTE);
    lease.operation_id(format!("lease {id}")).commit().unwrap()
}

/// Whether it had ended before.
fn end_once(job: &OperationHandle) -> bool {
    let end = job.complete("done").operation_id(job.id());
    end.commit().unwrap().is_replayed()
}
