//! How the map bears contention: threads × access pattern × share of reads.
//!
//! Beside it a mutex over a hash map and dashmap, which keep the same record under the same
//! hasher. A read returns the entity, owned. A write reads the version, then swaps if it still
//! is that one.

mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ifmatch::{Actor, Collection, Store};
use support::{ACCESS, KEYS, race, share};

type Hasher = foldhash::fast::FixedState;
/// 128 bytes.
type Value = [u64; 16];

const THREADS: [usize; 2] = [1, 2];
const READ_PERCENT: [usize; 3] = [100, 95, 0];

/// What the others keep of an entity, to be worth as much as ours.
struct Record {
    version: u64,
    #[allow(dead_code, reason = "kept, as ours is")]
    kept: (SystemTime, Arc<str>, Value),
}

trait Contestant: Sync {
    fn get(&self, key: &str);
    fn swap(&self, key: &str, value: Value);
}

struct Ours {
    collection: Collection<String, Value>,
    actor: Actor,
}

impl Contestant for Ours {
    fn get(&self, key: &str) {
        black_box(self.collection.get(key).unwrap());
    }

    fn swap(&self, key: &str, value: Value) {
        let version = self.collection.get(key).unwrap().unwrap().version();
        let write = self.collection.put(key, value).if_match(version).by(&self.actor);
        let _ = black_box(write.commit());
    }
}

struct Theirs<M> {
    map: M,
    last_version: AtomicU64,
    actor: Arc<str>,
}

impl<M: FromIterator<(String, Arc<Record>)>> Theirs<M> {
    fn new() -> Theirs<M> {
        let actor = Arc::<str>::from("bench");
        let empty = Record { version: 0, kept: (SystemTime::now(), actor.clone(), [0; 16]) };
        let empty = Arc::new(empty);
        let map = (0..KEYS).map(|key| (key_of(key), Arc::clone(&empty))).collect();
        Theirs { map, last_version: AtomicU64::new(0), actor }
    }
}

impl<M> Theirs<M> {
    fn record(&self, value: Value) -> Record {
        let version = self.last_version.fetch_add(1, Ordering::Relaxed);
        Record { version, kept: (SystemTime::now(), Arc::clone(&self.actor), value) }
    }
}

impl Contestant for Theirs<dashmap::DashMap<String, Arc<Record>, Hasher>> {
    fn get(&self, key: &str) {
        black_box(Arc::clone(&self.map.get(key).unwrap()));
    }

    fn swap(&self, key: &str, value: Value) {
        let version = Arc::clone(&self.map.get(key).unwrap()).version;
        let mut new = Arc::new(self.record(value));
        let mut current = self.map.get_mut(key).unwrap();
        if current.version == version {
            std::mem::swap(&mut *current, &mut new);
        }
        drop(current);
        black_box(new);
    }
}

impl Contestant for Theirs<Mutexed> {
    fn get(&self, key: &str) {
        black_box(Arc::clone(&self.map.0.lock().unwrap()[key]));
    }

    fn swap(&self, key: &str, value: Value) {
        let version = Arc::clone(&self.map.0.lock().unwrap()[key]).version;
        let mut new = Arc::new(self.record(value));
        let mut map = self.map.0.lock().unwrap();
        let current = map.get_mut(key).unwrap();
        if current.version == version {
            std::mem::swap(current, &mut new);
        }
        drop(map);
        black_box(new);
    }
}

struct Mutexed(Mutex<HashMap<String, Arc<Record>, Hasher>>);

impl FromIterator<(String, Arc<Record>)> for Mutexed {
    fn from_iter<I: IntoIterator<Item = (String, Arc<Record>)>>(records: I) -> Mutexed {
        Mutexed(Mutex::new(records.into_iter().collect()))
    }
}

fn key_of(key: usize) -> String {
    format!("key-{key:08}")
}

fn ours() -> Ours {
    let collection: Collection<_, _> = Store::in_memory().collection("bench").unwrap();
    for key in 0..KEYS {
        collection.create(key_of(key), [0; 16]).commit().unwrap();
    }
    Ours { collection, actor: Actor::from("bench") }
}

/// Of each hundred operations the first `reads` are reads.
fn run(contestant: &dyn Contestant, keys: &[Vec<String>], reads: usize, each: u64) -> Duration {
    race(keys.len(), |thread| {
        for (turn, key) in (0..each as usize).zip(keys[thread].iter().cycle()) {
            if turn % 100 < reads {
                contestant.get(key);
            } else {
                contestant.swap(key, [turn as u64; 16]);
            }
        }
    })
}

fn contention(criterion: &mut Criterion) {
    let contestants: [(&str, Box<dyn Contestant>); 3] = [
        ("ifmatch", Box::new(ours())),
        ("dashmap", Box::new(Theirs::<dashmap::DashMap<_, _, Hasher>>::new())),
        ("mutex", Box::new(Theirs::<Mutexed>::new())),
    ];
    for access in &ACCESS {
        let keys: Vec<Vec<String>> = (0..2)
            .map(|seed| access.draw(KEYS, 10_000, seed).into_iter().map(key_of).collect())
            .collect();
        for reads in READ_PERCENT {
            let name = format!("{}, {reads} % reads", access.name);
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(1));
            for threads in THREADS {
                for (name, contestant) in &contestants {
                    let id = BenchmarkId::new(*name, format!("{threads} threads"));
                    group.bench_function(id, |bencher| {
                        bencher.iter_custom(|iterations| {
                            let each = share(iterations, threads);
                            run(&**contestant, &keys[..threads], reads, each)
                                .mul_f64(iterations as f64 / (each * threads as u64) as f64)
                        });
                    });
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = contention
}
criterion_main!(benches);
