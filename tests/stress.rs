//! Many threads on one key: slow for a test, because the claim is about 640,000 increments.

mod common;

use std::time::{Duration, Instant};

use ifmatch::{RetryPolicy, Store};

/// The default budget is for callers who would rather give up; here all must land.
fn patient() -> RetryPolicy {
    let budget = Duration::from_secs(3_600);
    RetryPolicy { attempts: u32::MAX, budget, ..RetryPolicy::default() }
}

fn increments(name: &str, store: &Store, threads: u64, each: u64) {
    let counters = store.collection::<String, u64>("counters").unwrap();
    counters.create("n", 0).commit().unwrap();
    let started = Instant::now();
    let attempts: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let one = || counters.update("n", |n| *n += 1).retry(patient()).commit();
                    (0..each).map(|_| u64::from(one().unwrap().attempts())).sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let (total, elapsed) = (threads * each, started.elapsed());
    assert_eq!(*counters.get("n").unwrap().unwrap(), total);
    let per_commit = attempts as f64 / total as f64;
    println!("{name}: {total} increments, {per_commit:.2} attempts each, {elapsed:.1?}");
}

#[test]
fn g1_64_threads_of_10_000_increments_lose_none_in_memory() {
    increments("memory", &Store::in_memory(), 64, 10_000);
}

#[test]
fn g1_64_threads_of_10_000_increments_lose_none_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    increments("disk", &Store::open(directory.path()).unwrap(), 64, 10_000);
}
