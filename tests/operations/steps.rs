//! G1, G4, G5, G8: who gets the scope, what the others are told, and whose steps count.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ifmatch::{Error, OnBusy, OperationStatus, OperationToken, Reason, Retry};

use crate::common::{block_on, everywhere};
use crate::support::{SECOND, assert_fenced, in_the_way, known, refusal, start, timed};

#[test]
fn g1_of_many_who_begin_at_once_one_gets_the_scope() {
    everywhere(|_, store| {
        let kinds = ["transfer", "export", "import", "purge"].map(|kind| store.operations(kind));
        for round in 0..10 {
            let scope = format!("user/{round}");
            let tried: Vec<_> = std::thread::scope(|threads| {
                let begin = |kind: usize| kinds[kind].begin(&*scope).commit();
                let all: Vec<_> = (0..4).map(|kind| threads.spawn(move || begin(kind))).collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (begun, refused): (Vec<_>, Vec<_>) = tried.into_iter().partition(Result::is_ok);
            let [Ok(winner)] = &begun[..] else { panic!("{} got the scope", begun.len()) };
            assert_eq!(winner.info().status(), OperationStatus::InProgress);
            for refused in refused {
                assert_eq!(in_the_way(refused).id(), winner.id());
            }
        }
    });
}

#[test]
fn g1_whoever_queues_gets_its_turn_and_has_the_scope_for_itself() {
    everywhere(|_, store| {
        let jobs = store.operations("job");
        let (taken, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..5 {
                        let job = jobs.begin("disk").on_busy(OnBusy::Queue).commit().unwrap();
                        let started = job.wait_for_start().wait().unwrap().unwrap();
                        assert_eq!(started.status(), OperationStatus::InProgress);
                        assert!(!taken.swap(true, Ordering::SeqCst), "two have the scope");
                        done.fetch_add(1, Ordering::SeqCst);
                        assert!(taken.swap(false, Ordering::SeqCst));
                        job.complete("").commit().unwrap();
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 20);
        jobs.begin("disk").commit().unwrap();
    });
}

#[test]
fn g4_a_refusal_tells_which_one_is_running_and_when_to_come_back() {
    timed(|_, clock, store| {
        let (transfers, exports) = (store.operations("transfer"), store.operations("export"));
        let ttl = Duration::from_secs(600);
        let first = transfers.begin("user/42").by("photos").ttl(ttl).input("{}").commit().unwrap();
        clock.advance(60 * SECOND);
        let conflict = refusal(exports.begin("user/42").by("mail").commit());
        assert_eq!(conflict.reason(), Reason::InProgress);
        assert_eq!(advised(&conflict), 540, "when it would expire");
        first.progress(40).commit().unwrap();
        clock.advance(60 * SECOND);
        let conflict = refusal(exports.begin("user/42").commit());
        // At the pace so far: 120 s for 40 %, so 180 s for the rest.
        assert_eq!(advised(&conflict), 180);
        let id = first.id();
        assert_eq!(
            conflict.to_string(),
            format!(
                "scope user/42 is taken: transfer {id} has been in progress for 2 min, at 40 %, \
                 started by photos; wait for it, or queue behind it"
            )
        );
        let running = conflict.operation().unwrap();
        assert_eq!((running.id(), running.kind(), running.scope()), (id, "transfer", "user/42"));
        assert_eq!((running.progress(), running.started_by()), (Some(40), Some("photos")));
        assert_eq!((running.started_at(), running.input()), (Some(start()), Some(&b"{}"[..])));
        assert_eq!(running.expires_at(), Some(start() + 660 * SECOND));
        assert_eq!((running.remaining(), running.ended_at()), (540 * SECOND, None));
        assert!(!format!("{conflict:?}{running:?}").contains(&first.token().to_string()));
        // Another scope is free, and so is the same one of a kind that has its own.
        exports.begin("user/43").commit().unwrap();
        let reindex = store.operations("reindex").own_scope();
        reindex.begin("user/42").commit().unwrap();
        assert_eq!(in_the_way(reindex.begin("user/42").commit()).kind(), "reindex");
    });
}

/// In seconds: those who lose are spread by less.
fn advised(conflict: &ifmatch::Conflict) -> u64 {
    match conflict.retry() {
        Retry::After(wait) => wait.as_secs(),
        other => panic!("it tells when to come back: {other:?}"),
    }
}

#[test]
fn an_operation_is_told_from_its_beginning_to_its_end() {
    timed(|_, clock, store| {
        let transfers = store.operations("transfer");
        let begin = || transfers.begin("user/42").by("photos").input(vec![1, 2]).commit().unwrap();
        let first = begin();
        assert_eq!(first.id().len(), 22);
        let info = known(&transfers, first.id());
        assert_eq!(info.status(), OperationStatus::InProgress);
        assert_eq!((info.progress(), info.position(), info.result()), (None, None, None));
        clock.advance(5 * SECOND);
        let info = first.progress(250).commit().unwrap();
        assert_eq!((info.progress(), info.remaining()), (Some(100), 60 * SECOND));
        clock.advance(5 * SECOND);
        let completed = first.complete("12 albums").commit().unwrap();
        assert_eq!(completed.status(), OperationStatus::Completed);
        for info in [completed, known(&transfers, first.id())] {
            assert_eq!((info.result(), info.error()), (Some(&b"12 albums"[..]), None));
            assert_eq!((info.created_at(), info.started_at()), (start(), Some(start())));
            assert_eq!((info.expires_at(), info.remaining()), (None, Duration::ZERO));
            assert_eq!(info.ended_at(), Some(start() + 10 * SECOND));
            assert_eq!((info.input(), info.started_by()), (Some(&[1, 2][..]), Some("photos")));
            assert_eq!(info.progress(), Some(100));
        }
        let second = block_on(transfers.begin("user/42")).unwrap();
        assert!(second.id() > first.id(), "ids sort by time");
        let failed = block_on(second.fail("no space")).unwrap();
        assert_eq!(
            (failed.status(), failed.error()),
            (OperationStatus::Failed, Some(&b"no space"[..]))
        );
        assert_eq!((failed.result(), failed.input()), (None, None));
        let third = begin();
        let cancelled = third.cancel().commit().unwrap();
        assert_eq!(cancelled.status(), OperationStatus::Cancelled);
        assert!(transfers.get("never").unwrap().is_none());
        let exports = store.operations("export");
        assert!(exports.get(first.id()).unwrap().is_none(), "it is of another kind");
    });
}

#[test]
fn a_scope_passes_on_in_order_of_arrival() {
    everywhere(|_, store| {
        let (jobs, other) = (store.operations("job"), store.operations("other"));
        let queue = |operations: &ifmatch::Operations, expected: Option<usize>| {
            let queued = operations.begin("disk").on_busy(OnBusy::Queue).commit().unwrap();
            assert_eq!(queued.info().position(), expected);
            queued
        };
        let [first, second, third, fourth] = [
            queue(&jobs, None),
            queue(&other, Some(1)),
            queue(&jobs, Some(2)),
            queue(&jobs, Some(3)),
        ];
        assert_eq!(in_the_way(jobs.begin("disk").commit()).id(), first.id());
        // Who waits can do nothing but give up.
        assert_eq!(in_the_way(second.heartbeat().commit()).id(), first.id());
        assert_eq!(in_the_way(third.complete("").commit()).id(), first.id());
        let cancelled = third.cancel().commit().unwrap();
        assert_eq!(
            (cancelled.status(), cancelled.started_at()),
            (OperationStatus::Cancelled, None)
        );
        assert_fenced(third.heartbeat().commit(), "was cancelled");
        assert_eq!(known(&jobs, fourth.id()).position(), Some(2));
        first.complete("").commit().unwrap();
        assert_eq!(known(&other, second.id()).status(), OperationStatus::InProgress);
        assert_eq!(known(&jobs, fourth.id()).position(), Some(1));
        second.fail("").commit().unwrap();
        fourth.progress(1).commit().unwrap();
        fourth.cancel().commit().unwrap();
        jobs.begin("disk").commit().unwrap();
    });
}

#[test]
fn g5_beginning_twice_is_beginning_once() {
    everywhere(|_, store| {
        let jobs = store.operations("job");
        let begin = |scope: &str, id: &str| {
            let begin = jobs.begin(scope).by("ann").input("x").operation_id(id);
            begin.on_busy(OnBusy::Queue).commit().unwrap()
        };
        let (first, again) = (begin("disk", "a"), begin("disk", "a"));
        assert!(again.is_replayed() && !first.is_replayed());
        assert_eq!((again.id(), again.token()), (first.id(), first.token()));
        assert_eq!(again.info().status(), OperationStatus::InProgress);
        let (queued, again) = (begin("disk", "b"), begin("disk", "b"));
        assert_eq!((again.id(), again.info().position()), (queued.id(), Some(1)));
        first.complete("done").commit().unwrap();
        let again = begin("disk", "a");
        assert_eq!((again.id(), again.info().result()), (first.id(), Some(&b"done"[..])));
        // Another payload is an error of its own; another actor is another.
        for reused in [
            jobs.begin("disk").by("ann").input("y").operation_id("a").commit(),
            jobs.begin("tape").by("ann").input("x").operation_id("a").commit(),
            store.operations("other").begin("disk").by("ann").input("x").operation_id("a").commit(),
        ] {
            assert!(matches!(reused, Err(Error::KeyReused { id, .. }) if id == "a"));
        }
        in_the_way(jobs.begin("disk").by("bob").input("x").operation_id("a").commit());
        in_the_way(jobs.begin("disk").input("x").operation_id("a").commit());
    });
}

#[test]
fn g5_of_many_who_begin_with_one_id_all_get_the_same_operation() {
    everywhere(|_, store| {
        let jobs = store.operations("job");
        for round in 0..5 {
            let id = round.to_string();
            let begin = || jobs.begin(&*id).operation_id(&*id).commit().unwrap();
            let all: Vec<_> = std::thread::scope(|threads| {
                let all: Vec<_> = (0..4).map(|_| threads.spawn(begin)).collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(all.iter().filter(|begun| !begun.is_replayed()).count(), 1);
            assert!(all.iter().all(|begun| begun.token() == all[0].token()));
        }
    });
}

#[test]
fn g8_the_steps_of_others_are_fenced() {
    everywhere(|_, store| {
        let jobs = store.operations("job");
        let job = jobs.begin("disk").commit().unwrap();
        let forged = OperationToken::from_bits(job.token().bits() ^ 1);
        let stranger = jobs.with_token(job.id(), forged);
        assert_fenced(stranger.complete("").commit(), "has another token");
        assert_fenced(stranger.cancel().commit(), "has another token");
        assert_fenced(jobs.with_token("never", job.token()).heartbeat().commit(), "is not known");
        let other = store.operations("other").with_token(job.id(), job.token());
        assert_fenced(other.heartbeat().commit(), "is not known");
        // Whoever has kept the token, as text even, is the holder.
        let token = job.token().to_string().parse().unwrap();
        jobs.with_token(job.id(), token).heartbeat().commit().unwrap();
        // An operator needs none.
        let cancelled = jobs.cancel(job.id()).commit().unwrap();
        assert_eq!(cancelled.status(), OperationStatus::Cancelled);
        for late in [job.heartbeat(), job.progress(3), job.complete("x"), job.fail("y")] {
            assert_fenced(late.commit(), "was cancelled");
        }
        assert_fenced(jobs.cancel(job.id()).commit(), "was cancelled");
        assert_eq!(known(&jobs, job.id()).status(), OperationStatus::Cancelled);
        let next = jobs.begin("disk").commit().unwrap();
        assert_fenced(job.complete("x").commit(), "was cancelled");
        assert_eq!(known(&jobs, next.id()).status(), OperationStatus::InProgress);
    });
}
