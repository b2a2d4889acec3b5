//! Whoever waits for an operation is woken by all that ends it, and by the end of the store.

use std::sync::Arc;
use std::time::Duration;

use ifmatch::testing::{Call, Fault, MemoryDisk};
use ifmatch::{Error, OnBusy, OperationHandle, OperationInfo, OperationStatus, Operations, Store};

use crate::common::{block_on, everywhere};
use crate::support::{SECOND, timed};

/// What a thread and a future are told that wait for the operation while `end` ends it.
fn while_waiting(
    jobs: &Operations,
    id: &str,
    end: impl FnOnce() + Send,
) -> Vec<ifmatch::Result<Option<OperationInfo>>> {
    std::thread::scope(|threads| {
        let waiting = [
            threads.spawn(|| jobs.wait_for(id).wait()),
            threads.spawn(|| block_on(jobs.wait_for(id))),
            threads.spawn(|| jobs.wait_for(id).within(Duration::from_secs(1 << 40)).wait()),
        ];
        end();
        waiting.map(|thread| thread.join().unwrap()).into_iter().collect()
    })
}

#[test]
fn every_end_wakes_who_waits() {
    timed(|_, clock, store| {
        let jobs = store.operations("job");
        type End<'a> = &'a (dyn Fn(&OperationHandle) + Sync);
        let ends: [(End<'_>, OperationStatus); 4] = [
            (&|job| drop(job.complete("x").commit().unwrap()), OperationStatus::Completed),
            (&|job| drop(job.fail("x").commit().unwrap()), OperationStatus::Failed),
            (&|job| drop(job.cancel().commit().unwrap()), OperationStatus::Cancelled),
            (&|_| clock.advance(61 * SECOND), OperationStatus::Expired),
        ];
        for (end, expected) in ends {
            let job = jobs.begin("disk").commit().unwrap();
            for told in while_waiting(&jobs, job.id(), || end(&job)) {
                assert_eq!(told.unwrap().unwrap().status(), expected);
            }
            // What has ended already is told at once.
            let told = jobs.wait_for(job.id()).wait().unwrap().unwrap();
            assert_eq!(told.status(), expected);
        }
        assert!(jobs.wait_for("never").wait().unwrap().is_none());
    });
}

#[test]
fn whoever_waits_in_a_queue_is_woken_when_its_turn_comes_or_it_is_cancelled() {
    everywhere(|_, store| {
        let jobs = store.operations("job");
        let begin = || jobs.begin("disk").on_busy(OnBusy::Queue).commit().unwrap();
        let [first, second, third] = [0; 3].map(|_| begin());
        let told = while_waiting(&jobs, third.id(), || drop(jobs.cancel(third.id()).commit()));
        for told in told {
            assert_eq!(told.unwrap().unwrap().status(), OperationStatus::Cancelled);
        }
        std::thread::scope(|threads| {
            let waiting = [
                threads.spawn(|| second.wait_for_start().wait()),
                threads.spawn(|| block_on(second.wait_for_start())),
            ];
            first.complete("").commit().unwrap();
            for thread in waiting {
                let told = thread.join().unwrap().unwrap().unwrap();
                assert_eq!(told.status(), OperationStatus::InProgress);
            }
        });
    });
}

#[test]
fn waiting_ends_when_the_time_is_over() {
    timed(|_, clock, store| {
        let jobs = store.operations("job");
        let job = jobs.begin("disk").ttl(3_600 * SECOND).commit().unwrap();
        let at_once = jobs.wait_for(job.id()).within(Duration::ZERO).wait().unwrap().unwrap();
        assert_eq!(at_once.status(), OperationStatus::InProgress);
        std::thread::scope(|threads| {
            let (jobs, id) = (&jobs, job.id());
            let within = move || jobs.wait_for(id).within(5 * SECOND);
            let (thread, future) = (within().into_future(), within().into_future());
            let waiting = [
                threads.spawn(|| block_on(thread)),
                threads.spawn(|| block_on(future)),
                threads.spawn(move || within().wait()),
            ];
            // The last may begin to wait after the clock was moved, and then waits anew.
            while waiting.iter().any(|thread| !thread.is_finished()) {
                clock.advance(6 * SECOND);
                job.heartbeat().commit().unwrap();
                std::thread::yield_now();
            }
            for thread in waiting {
                let told = thread.join().unwrap().unwrap().unwrap();
                assert_eq!(told.status(), OperationStatus::InProgress);
            }
        });
    });
}

#[test]
fn closing_wakes_who_waits() {
    everywhere(|_, store| {
        let jobs = store.operations("job");
        let job = jobs.begin("disk").commit().unwrap();
        let closing = store.clone();
        for told in while_waiting(&jobs, job.id(), || closing.close().unwrap()) {
            assert!(matches!(told, Err(Error::Closed)), "{told:?}");
        }
    });
}

#[test]
fn g11_a_store_that_takes_no_writes_keeps_nobody_waiting() {
    let disk = MemoryDisk::new();
    let store = Store::builder().open_on(Arc::new(disk.clone())).unwrap();
    let jobs = store.operations("job");
    let job = jobs.begin("disk").commit().unwrap();
    let (call, nth) = (Call::Sync, disk.count(Call::Sync) + 1);
    let error = std::io::ErrorKind::Other;
    disk.fail(Fault { call, nth, lasting: true, short: false, error });
    let told = while_waiting(&jobs, job.id(), || {
        assert!(matches!(job.complete("").commit(), Err(Error::Poisoned { .. })));
    });
    for told in told {
        assert!(matches!(told, Err(Error::Poisoned { .. })), "{told:?}");
    }
    // What is durable can be read.
    assert_eq!(jobs.get(job.id()).unwrap().unwrap().status(), OperationStatus::InProgress);
}
