//! G3, G8: what expires, when, and what outlives a restart.

use std::time::Duration;

use ifmatch::{OnBusy, OperationStatus};

use crate::support::{SECOND, assert_fenced, in_the_way, known, refusal, reopen, start, timed};

#[test]
fn g8_whoever_gives_no_sign_of_life_loses_the_scope_however_late_it_wakes_up() {
    timed(|_, clock, store| {
        let jobs = store.operations("job");
        let begin = |ttl: u32| jobs.begin("disk").ttl(ttl * SECOND);
        let late = begin(10).commit().unwrap();
        clock.advance(9 * SECOND);
        late.heartbeat().commit().unwrap();
        clock.advance(9 * SECOND);
        late.progress(5).commit().unwrap();
        clock.advance(9 * SECOND);
        in_the_way(begin(10).commit());
        clock.advance(SECOND);
        // Met by who comes next, unless the store has seen to it.
        let next = begin(10).commit().unwrap();
        for step in [late.heartbeat(), late.progress(6), late.complete("x"), late.cancel()] {
            assert_fenced(step.commit(), "expired");
        }
        let expired = known(&jobs, late.id());
        assert_eq!((expired.status(), expired.progress()), (OperationStatus::Expired, Some(5)));
        assert_eq!(expired.ended_at(), Some(start() + 28 * SECOND));
        // Met by its own holder.
        clock.advance(11 * SECOND);
        assert_fenced(next.complete("x").commit(), "expired");
        assert_eq!(known(&jobs, next.id()).status(), OperationStatus::Expired);
        begin(10).commit().unwrap();
    });
}

#[test]
fn the_next_starts_when_the_one_before_expires() {
    timed(|_, clock, store| {
        let jobs = store.operations("job");
        let begin = || jobs.begin("disk").ttl(10 * SECOND).on_busy(OnBusy::Queue);
        let [first, second, third] = [0; 3].map(|_| begin().commit().unwrap());
        clock.advance(10 * SECOND);
        // Nobody does anything: the store sees to it.
        let started = second.wait_for_start().wait().unwrap().unwrap();
        assert_eq!(started.status(), OperationStatus::InProgress);
        assert_eq!(started.started_at(), Some(start() + 10 * SECOND));
        assert_eq!(started.remaining(), 10 * SECOND, "its time begins when it starts");
        assert_eq!(known(&jobs, first.id()).status(), OperationStatus::Expired);
        second.heartbeat().commit().unwrap();
        clock.advance(10 * SECOND);
        third.wait_for_start().wait().unwrap();
        assert_fenced(second.complete("").commit(), "expired");
        third.complete("").commit().unwrap();
    });
}

#[test]
fn whoever_meets_an_expired_one_lets_the_next_start_and_waits_behind_it() {
    timed(|_, clock, store| {
        let jobs = store.operations("job");
        let begin = || jobs.begin("disk").ttl(10 * SECOND).on_busy(OnBusy::Queue);
        let [first, second] = [0; 2].map(|_| begin().commit().unwrap());
        clock.advance(10 * SECOND);
        let refused = refusal(jobs.begin("disk").commit());
        assert_eq!(refused.operation().unwrap().id(), second.id());
        assert_eq!(begin().commit().unwrap().info().position(), Some(1));
        assert_eq!(known(&jobs, first.id()).status(), OperationStatus::Expired);
    });
}

#[test]
fn g3_operations_survive_a_restart() {
    timed(|configuration, clock, store| {
        if !configuration.is_durable() {
            return;
        }
        let jobs = store.operations("job");
        let begin = |scope: &str| jobs.begin(scope).ttl(100 * SECOND).on_busy(OnBusy::Queue);
        let ended = begin("tape").operation_id("one").commit().unwrap();
        ended.complete("reels").commit().unwrap();
        let [running, queued] = [0; 2].map(|_| begin("disk").by("ann").commit().unwrap());
        running.progress(7).commit().unwrap();
        store.snapshot().unwrap();
        let more = begin("disk").commit().unwrap();
        store.close().unwrap();
        clock.advance(60 * SECOND);
        let store = reopen(configuration, clock);
        let jobs = store.operations("job");
        let info = known(&jobs, running.id());
        assert_eq!((info.status(), info.progress()), (OperationStatus::InProgress, Some(7)));
        assert_eq!((info.started_by(), info.remaining()), (Some("ann"), 40 * SECOND));
        assert_eq!(known(&jobs, ended.id()).result(), Some(&b"reels"[..]));
        assert_eq!(known(&jobs, more.id()).position(), Some(2));
        let again = jobs.begin("tape").operation_id("one").commit().unwrap();
        assert_eq!((again.id(), again.is_replayed()), (ended.id(), true));
        // The handles of before are of the store that was closed.
        assert!(running.heartbeat().commit().is_err());
        jobs.with_token(running.id(), running.token()).complete("").commit().unwrap();
        jobs.with_token(queued.id(), queued.token()).heartbeat().commit().unwrap();
        assert!(store.collections().is_empty(), "the crate's own are not shown");
        // While it is closed all of it runs out: the next one starts when it is open.
        store.close().unwrap();
        clock.advance(1_000 * SECOND);
        let store = reopen(configuration, clock);
        let jobs = store.operations("job");
        let started = jobs.wait_for(more.id()).to_start().wait().unwrap().unwrap();
        assert_eq!(started.started_at(), Some(start() + 1_060 * SECOND));
        assert_eq!(known(&jobs, queued.id()).status(), OperationStatus::Expired);
    });
}

#[test]
fn a_clock_that_is_set_back_prolongs_nothing_beyond_the_time_to_live() {
    timed(|configuration, clock, store| {
        if !configuration.is_durable() {
            return;
        }
        let job = store.operations("job").begin("disk").ttl(100 * SECOND).commit().unwrap();
        store.close().unwrap();
        clock.set(start() - Duration::from_secs(3_600));
        let store = reopen(configuration, clock);
        let jobs = store.operations("job");
        assert_eq!(known(&jobs, job.id()).remaining(), 100 * SECOND);
        clock.advance(100 * SECOND);
        jobs.begin("disk").commit().unwrap();
        assert_eq!(known(&jobs, job.id()).status(), OperationStatus::Expired);
    });
}
