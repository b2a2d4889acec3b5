//! What opening a store costs: from the log alone, and from a snapshot.
//!
//! A million entities of 128 bytes (`ENTITIES` says otherwise). Each run opens the directory, opens
//! the collection, and reads every entity once in random order.

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use ifmatch::{Collection, Durability, Store};

fn rows(store: &Store) -> Collection<u64, String> {
    store.collection("rows").unwrap()
}

fn entities() -> u64 {
    std::env::var("ENTITIES").map_or(1_000_000, |text| text.parse().unwrap())
}

/// Fills a store, without waiting for the disk.
fn fill(path: &Path) -> Store {
    // Created in random order, as things are.
    let mut order: Vec<u64> = (0..entities()).collect();
    fastrand::Rng::with_seed(2).shuffle(&mut order);
    let store = Store::builder().durability(Durability::None).open(path).unwrap();
    let rows = rows(&store);
    for key in order {
        rows.create(key, format!("{key:0128}")).by("import").commit().unwrap();
    }
    store
}

fn open_and_read(path: &Path, order: &[u64]) {
    let store = Store::open(path).unwrap();
    let rows = rows(&store);
    for key in order {
        assert!(rows.read(*key, |row| row.len() == 128).unwrap().unwrap());
    }
    store.close().unwrap();
}

fn recovery(criterion: &mut Criterion) {
    let mut order: Vec<u64> = (0..entities()).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let mut group = criterion.benchmark_group("open and read");
    let place = tempfile::tempdir_in(".").unwrap();
    fill(place.path()).close().unwrap();
    for (name, snapshot) in [("log", false), ("snapshot", true)] {
        if snapshot {
            let store = Store::builder().snapshot_rate(u64::MAX).open(place.path()).unwrap();
            store.snapshot().unwrap();
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| open_and_read(place.path(), &order));
        });
        group.bench_function(format!("open alone, {name}"), |bencher| {
            bencher.iter(|| Store::open(place.path()).unwrap());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = recovery
}
criterion_main!(benches);
