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
use ifmatch::{Collection, Store};
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
    for threads in [1, 8, 64] {
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
