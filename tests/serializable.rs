//! G1 for transactions under load: what they read and wrote is told to a checker, which runs them
//! one after the other in the order of their versions.

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;

use common::{everywhere, report};
use ifmatch::{Collection, Error, Result, RetryPolicy, Store, Transaction, Version};

const THREADS: u64 = 4;
const ROUNDS: u64 = 150;
const KEYS: u64 = 12;

type Cells = Collection<u64, u64>;

/// What one transaction saw and did.
#[derive(Clone, Default)]
struct Deed {
    /// Absent for one that only read.
    version: Option<Version>,
    /// As of each read: the version that was there.
    reads: Vec<(u64, Option<Version>)>,
    /// Ranges, with all that was in them.
    scans: Vec<Scan>,
    /// Put or deleted.
    writes: Vec<(u64, bool)>,
}

/// From, to (excluded), and what was found.
type Scan = (u64, u64, Vec<(u64, Version)>);

#[test]
fn g1_transactions_are_as_if_one_came_after_the_other() {
    everywhere(|configuration, store| {
        let cells: Cells = store.collection("cells").unwrap();
        let deeds = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, cells, deeds) = (&store, &cells, &deeds);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    for _ in 0..ROUNDS {
                        deeds.lock().unwrap().extend(act(store, cells, &mut random));
                    }
                });
            }
        });
        let deeds = deeds.into_inner().unwrap();
        let (writing, reading): (Vec<_>, Vec<_>) =
            deeds.into_iter().partition(|deed| deed.version.is_some());
        let name = configuration.name;
        report(format_args!("{name}: {} wrote, {} only read", writing.len(), reading.len()));
        assert!(writing.len() as u64 > THREADS * ROUNDS / 4 && !reading.is_empty());
        check(writing, &reading);
    });
}

/// Runs one transaction, or one write by itself. `None` if it gave up.
fn act(store: &Store, cells: &Cells, random: &mut fastrand::Rng) -> Option<Deed> {
    let seed = random.u64(..);
    if random.u8(..) < 50 {
        let key = random.u64(0..KEYS);
        let version = match cells.put(key, seed).unconditional().commit() {
            Ok(committed) => committed.version(),
            Err(error) => panic!("{error}"),
        };
        return Some(Deed { version: Some(version), writes: vec![(key, true)], ..Deed::default() });
    }
    let mut deed = Deed::default();
    let patient = RetryPolicy { attempts: 50, ..RetryPolicy::default() };
    let done = store.transact(|tx| {
        deed = run(tx, cells, &mut fastrand::Rng::with_seed(seed))?;
        Ok(())
    });
    match done.retry(patient).commit() {
        Ok(done) => Some(Deed { version: done.version(), ..deed }),
        Err(Error::Conflict(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

fn run(tx: &mut Transaction<'_>, cells: &Cells, random: &mut fastrand::Rng) -> Result<Deed> {
    let mut deed = Deed::default();
    for _ in 0..random.usize(1..4) {
        // Others come in between, on few cores too.
        std::thread::yield_now();
        let key = random.u64(0..KEYS);
        let seen = tx.get(cells, key)?.map(|seen| seen.version());
        // Its own writes are not what it is checked for.
        if !deed.writes.iter().any(|(written, _)| *written == key) {
            deed.reads.push((key, seen.flatten()));
        }
        match random.u8(0..6) {
            0 | 1 => {
                tx.put(cells, key, random.u64(..))?;
                deed.writes.push((key, true));
            }
            2 if seen.is_some() => {
                tx.delete(cells, key)?;
                deed.writes.push((key, false));
            }
            3 if deed.writes.is_empty() => {
                let from = random.u64(0..KEYS);
                let to = random.u64(from..=KEYS);
                let found = tx.range(cells, from..to)?;
                let found = found.iter().map(|(key, seen)| (*key, seen.version().unwrap()));
                deed.scans.push((from, to, found.collect()));
            }
            _ => {}
        }
    }
    // The last write of a key counts; one that came and went was never there.
    let last: BTreeMap<_, _> = deed.writes.iter().copied().collect();
    let was_there = |key: &u64| deed.reads.iter().any(|(read, seen)| read == key && seen.is_some());
    deed.writes = last.into_iter().filter(|(key, put)| *put || was_there(key)).collect();
    Ok(deed)
}

/// Each must have seen what the ones before it left; one that only read, what some left.
fn check(mut writing: Vec<Deed>, reading: &[Deed]) {
    writing.sort_unstable_by_key(|deed| deed.version);
    let mut state = BTreeMap::new();
    let mut consistent = vec![false; reading.len()];
    let mut look = |state: &BTreeMap<u64, Version>| {
        for (deed, consistent) in reading.iter().zip(&mut consistent) {
            *consistent = *consistent || agrees(deed, state);
        }
    };
    look(&state);
    for deed in &writing {
        assert!(agrees(deed, &state), "{:?} is not as if it ran alone", deed.version);
        for (key, put) in &deed.writes {
            match (put, deed.version) {
                (true, Some(version)) => drop(state.insert(*key, version)),
                _ => drop(state.remove(key)),
            }
        }
        look(&state);
    }
    let odd = consistent.iter().filter(|consistent| !**consistent).count();
    assert_eq!(odd, 0, "transactions that saw what was never there at one instant");
}

fn agrees(deed: &Deed, state: &BTreeMap<u64, Version>) -> bool {
    let reads = deed.reads.iter().all(|(key, seen)| state.get(key) == seen.as_ref());
    let scan = |(from, to, found): &Scan| {
        state.range(*from..*to).map(|(key, version)| (*key, *version)).eq(found.iter().copied())
    };
    reads && deed.scans.iter().all(scan)
}
