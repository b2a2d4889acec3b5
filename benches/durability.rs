//! Durable commits by number of writers, beside a bare loop of append and fdatasync.
//!
//! Each commit is a compare-and-swap of a 128-byte value, acknowledged after the sync that covers
//! it. The bare loop writes as many bytes as a commit takes in the log, to a file whose space
//! was taken before, as that of the log is.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ifmatch::{Collection, RetryPolicy, Store};
use support::{race, share};

type Value = [u64; 16];

/// Keys of each writer.
const KEYS: u64 = 100;
const COMMIT_BYTES: usize = 32 + 12 + 8 + 8 + 128;

fn durability(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let mut group = criterion.benchmark_group("durable commits");
    group.throughput(Throughput::Elements(1));
    let file = Mutex::new((raw_file(&directory), 0));
    group.bench_function("append and fdatasync", |bencher| {
        bencher.iter(|| {
            let (file, offset) = &mut *file.lock().unwrap();
            file.write_all_at(&[7; COMMIT_BYTES], *offset).unwrap();
            file.sync_data().unwrap();
            *offset = (*offset + COMMIT_BYTES as u64) % RAW_BYTES;
        });
    });
    let store = Store::open(directory.path().join("store")).unwrap();
    let collection = store.collection::<u64, Value>("bench").unwrap();
    for threads in [1, 8, 64, 256] {
        group.bench_function(
            BenchmarkId::new("ifmatch", format!("{threads} threads")),
            |bencher| {
                bencher.iter_custom(|iterations| {
                    let each = share(iterations, threads);
                    let elapsed = race(threads, |thread| commit(&collection, thread as u64, each));
                    // The last round up of the shares is not counted.
                    elapsed.mul_f64(iterations as f64 / (each * threads as u64) as f64)
                });
            },
        );
    }
    // Everybody adds one to the same counter.
    let counters = store.collection::<u64, Value>("counters").unwrap();
    counters.create(1, [0; 16]).commit().unwrap();
    for threads in [1, 64] {
        let id = BenchmarkId::new("ifmatch, one key, update", format!("{threads} threads"));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|iterations| {
                let each = share(iterations, threads);
                let elapsed = race(threads, |_| add(&counters, each));
                elapsed.mul_f64(iterations as f64 / (each * threads as u64) as f64)
            });
        });
    }
    group.finish();
    println!(
        "{:.0} bytes of log for a key of 8 and an encoded value of 144 bytes",
        bytes_per_commit()
    );
}

fn add(counters: &Collection<u64, Value>, count: u64) {
    // As patient as it takes: what is measured is that nobody has to be.
    let patient = RetryPolicy { attempts: 1_000, ..RetryPolicy::default() };
    for _ in 0..count {
        let add = counters.update(1, |value| value[0] += 1).retry(patient.clone());
        add.commit().unwrap();
    }
}

/// Of a store of its own, whose log ends with its last byte that is not zero.
fn bytes_per_commit() -> f64 {
    const COMMITS: u64 = 10_000;
    let directory = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(directory.path()).unwrap();
    let collection = store.collection::<u64, Value>("bench").unwrap();
    for key in 0..COMMITS {
        collection.create(key, [u64::MAX; 16]).commit().unwrap();
    }
    store.close().unwrap();
    let log = std::fs::read(directory.path().join("00000000000000000001.log")).unwrap();
    let used = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    used as f64 / COMMITS as f64
}

fn commit(collection: &Collection<u64, Value>, thread: u64, count: u64) {
    for turn in 0..count {
        let key = thread * KEYS + turn % KEYS;
        match collection.get(key).unwrap() {
            None => collection.create(key, [turn; 16]).commit().unwrap(),
            Some(entity) => {
                let write = collection.put(key, [turn; 16]);
                write.if_match(entity.version()).commit().unwrap()
            }
        };
    }
}

const RAW_BYTES: u64 = 64 << 20;

fn raw_file(directory: &tempfile::TempDir) -> File {
    let file = File::create(directory.path().join("raw")).unwrap();
    file.write_all_at(&vec![0; RAW_BYTES as usize + COMMIT_BYTES], 0).unwrap();
    file.sync_all().unwrap();
    file
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(2))
        .sample_size(20);
    targets = durability
}
criterion_main!(benches);
