//! G12: everything is bounded, and what is over is forgotten.

use std::time::Duration;

use ifmatch::{Begun, Error, Limit, Limits, OnBusy, OperationStatus, Operations, Store};

use crate::common::everywhere;
use crate::support::{SECOND, known, reopen, timed};

fn limit<T: std::fmt::Debug>(result: ifmatch::Result<T>) -> Limit {
    match result {
        Err(Error::Limit { limit, .. }) => limit,
        other => panic!("a limit should be exceeded: {other:?}"),
    }
}

#[test]
fn g12_what_is_too_large_is_refused() {
    let limits = Limits {
        key_bytes: 32,
        value_bytes: 200,
        operation_id_bytes: 8,
        operation_ttl: 60 * SECOND,
        ..Limits::default()
    };
    everywhere(|configuration, _| {
        let store = configuration.builder().limits(limits.clone()).in_memory();
        let jobs = store.operations("job");
        let long = "x".repeat(33);
        assert_eq!(limit(jobs.begin(&*long).commit()), Limit::KeyBytes);
        assert_eq!(limit(store.operations(&*long).begin("disk").commit()), Limit::KeyBytes);
        let begin = || jobs.begin("disk");
        assert_eq!(limit(begin().ttl(61 * SECOND).commit()), Limit::OperationMillis);
        assert_eq!(limit(begin().operation_id("123456789").commit()), Limit::OperationIdBytes);
        assert_eq!(limit(begin().input(vec![0; 201]).commit()), Limit::ValueBytes);
        assert_eq!(limit(begin().by("x".repeat(257)).commit()), Limit::ActorBytes);
        // An actor and an operation id may be longer together than a key.
        let begin = begin().by("a".repeat(256)).operation_id("12345678");
        let job = begin.input(vec![0; 200]).commit().unwrap();
        assert_eq!(limit(job.complete(vec![0; 201]).commit()), Limit::ValueBytes);
        job.complete(vec![0; 200]).commit().unwrap();
    });
}

fn begin(jobs: &Operations, scope: usize) -> ifmatch::Result<Begun> {
    jobs.begin(scope.to_string()).operation_id(scope.to_string()).commit()
}

#[test]
fn g12_queues_and_operations_are_bounded() {
    everywhere(|configuration, store| {
        drop(store);
        let limits = Limits { operations: 8, operation_queue: 2, ..Limits::default() };
        let open = || configuration.open_with(configuration.builder().limits(limits.clone()));
        let store = open();
        let jobs = store.operations("job");
        let queue = || jobs.begin("disk").on_busy(OnBusy::Queue).commit();
        let first = queue().unwrap();
        let waiting = [queue().unwrap(), queue().unwrap()];
        assert_eq!(limit(queue()), Limit::OperationQueue);
        for scope in 3..8 {
            begin(&jobs, scope).unwrap();
        }
        assert_eq!(limit(begin(&jobs, 8)), Limit::Operations);
        // What has ended makes room, the oldest first, and its operation id with it.
        first.complete("").commit().unwrap();
        begin(&jobs, 8).unwrap();
        assert!(jobs.get(first.id()).unwrap().is_none(), "it was forgotten");
        assert_eq!(limit(begin(&jobs, 9)), Limit::Operations);
        waiting[0].cancel().commit().unwrap();
        waiting[1].cancel().commit().unwrap();
        // As many at once as there is room for.
        let tried: Vec<_> = std::thread::scope(|threads| {
            let jobs = &jobs;
            let all: Vec<_> =
                (10..14).map(|scope| threads.spawn(move || begin(jobs, scope))).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let begun = tried.iter().filter(|tried| tried.is_ok()).count();
        assert!((1..=2).contains(&begun), "{begun} were begun where there was room for two");
        for refused in tried.into_iter().filter(Result::is_err) {
            assert_eq!(limit(refused), Limit::Operations);
        }
        if configuration.is_durable() {
            store.close().unwrap();
            let store = open();
            let jobs = store.operations("job");
            let begun = (20..30).filter(|scope| begin(&jobs, *scope).is_ok()).count();
            assert!(begun <= 1, "they are counted after a restart too");
        }
    });
}

#[test]
fn g12_what_has_ended_is_forgotten_after_a_time() {
    timed(|configuration, clock, mut store| {
        let day = Duration::from_secs(24 * 3_600);
        let begin =
            |store: &Store| store.operations("job").begin("disk").operation_id("a").commit();
        let job = begin(&store).unwrap();
        job.complete("x").commit().unwrap();
        clock.advance(day / 2);
        let jobs = store.operations("job");
        let later = jobs.begin("tape").ttl(day).commit().unwrap();
        later.complete("y").commit().unwrap();
        assert_eq!(known(&jobs, job.id()).status(), OperationStatus::Completed);
        if configuration.is_durable() {
            store.close().unwrap();
            store = reopen(configuration, clock);
        }
        let jobs = store.operations("job");
        assert_eq!(known(&jobs, job.id()).result(), Some(&b"x"[..]));
        clock.advance(day / 2);
        until(|| jobs.get(job.id()).unwrap().is_none());
        assert_eq!(known(&jobs, later.id()).result(), Some(&b"y"[..]));
        assert!(!begin(&store).unwrap().is_replayed(), "so is its operation id");
        clock.advance(day / 2);
        until(|| jobs.get(later.id()).unwrap().is_none());
        if configuration.is_durable() {
            store.close().unwrap();
            let store = reopen(configuration, clock);
            assert!(store.operations("job").get(job.id()).unwrap().is_none());
        }
    });
}

/// What the store's own thread does in its own time.
fn until(so: impl Fn() -> bool) {
    while !so() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
