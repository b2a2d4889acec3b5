//! How long commits take at half of what the store can do, with and without a snapshot under way.
//!
//! Open loop: each commit has a time at which it is due, whatever became of those before it, and
//! its latency counts from then. So a stall counts for all that it holds up.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ifmatch::{Collection, Durability, Store};
use support::race;

const ENTITIES: u64 = 300_000;
const WRITERS: usize = 8;
const SPAN: Duration = Duration::from_secs(5);

type Rows = Collection<u64, String>;

fn main() {
    let place = tempfile::tempdir_in(".").unwrap();
    let store = fill(place.path());
    let rows: Rows = store.collection("rows").unwrap();
    let capacity = capacity(&rows);
    let each = WRITERS as f64 * 2.0 / capacity;
    println!("{capacity:.0} commits/s with {WRITERS} writers; measured at half of that");
    println!("{:>24} {:>9} {:>9} {:>9} {:>9}", "latency in ms", "p50", "p99", "p99.9", "max");
    let quiet = AtomicBool::new(false);
    for (name, snapshots) in [("no snapshot", false), ("snapshot under way", true)] {
        quiet.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let busy = snapshots.then(|| scope.spawn(|| snapshots_until(&store, &quiet)));
            let latencies = open_loop(&rows, Duration::from_secs_f64(each));
            quiet.store(true, Ordering::Relaxed);
            let taken = busy.map_or(0, |busy| busy.join().unwrap());
            let ms = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e3;
            let (p50, p99, p999, max) = (ms(0.5), ms(0.99), ms(0.999), ms(1.0));
            println!("{name:>24} {p50:>9.2} {p99:>9.2} {p999:>9.2} {max:>9.2}");
            if snapshots {
                println!("{taken} snapshots, one after the other");
            }
        });
    }
}

/// A store that was filled without waiting for the disk.
fn fill(path: &Path) -> Store {
    let builder = || Store::builder().snapshot_after(u64::MAX);
    let store = builder().durability(Durability::None).open(path).unwrap();
    let rows: Rows = store.collection("rows").unwrap();
    for key in 0..ENTITIES {
        rows.create(key, format!("{key:0128}")).commit().unwrap();
    }
    store.close().unwrap();
    builder().open(path).unwrap()
}

fn put(rows: &Rows, random: &mut fastrand::Rng) {
    let key = random.u64(..ENTITIES);
    rows.put(key, format!("{key:0128}")).unconditional().commit().unwrap();
}

/// Commits per second when nobody waits for a due time.
fn capacity(rows: &Rows) -> f64 {
    const EACH: u64 = 500;
    let elapsed = race(WRITERS, |writer| {
        let mut random = fastrand::Rng::with_seed(writer as u64);
        (0..EACH).for_each(|_| put(rows, &mut random));
    });
    (EACH * WRITERS as u64) as f64 / elapsed.as_secs_f64()
}

/// Each writer has a commit due every `each`. Latencies in microseconds.
fn open_loop(rows: &Rows, each: Duration) -> Histogram<u64> {
    let start = Instant::now();
    let one = |writer: usize| {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        let mut random = fastrand::Rng::with_seed(writer as u64);
        let mut due = each.mul_f64(writer as f64 / WRITERS as f64);
        while due < SPAN {
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            put(rows, &mut random);
            latencies.record((start.elapsed() - due).as_micros() as u64).unwrap();
            due += each;
        }
        latencies
    };
    std::thread::scope(|scope| {
        let one = &one;
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || one(n))).collect();
        let mut all = Histogram::<u64>::new(3).unwrap();
        writers.into_iter().for_each(|writer| all.add(writer.join().unwrap()).unwrap());
        all
    })
}

/// Takes snapshots until it is quiet; returns how many.
fn snapshots_until(store: &Store, quiet: &AtomicBool) -> u32 {
    let mut taken = 0;
    while !quiet.load(Ordering::Relaxed) {
        store.snapshot().unwrap();
        taken += 1;
    }
    taken
}
