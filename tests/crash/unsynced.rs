//! Lives without sync: a crash takes back a suffix of the commits, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ifmatch::testing::{Crash, MemoryDisk, PowerCut};
use ifmatch::{Collection, Durability, Store, Version};

use crate::campaign::{power_cuts, rounds};
use crate::common::report;

const COLLECTIONS: usize = 2;
const KEYS: u64 = 5;

type Place = (usize, u64);
type Value = (u64, Vec<u8>);

/// The newest state of a place: its version, and its value unless it was deleted.
type States = BTreeMap<Place, (u64, Option<u64>)>;

/// What a life did, each with the number of calls that its disk had taken by then.
struct Record {
    disk: MemoryDisk,
    /// What was there when it began.
    base: States,
    commits: Vec<(usize, u64, Place, Option<u64>)>,
    /// Versions up to here are durable, whatever comes.
    flushed: Vec<(usize, u64)>,
    /// The highest version that an earlier life gave out.
    highest_before: u64,
}

impl Record {
    /// The highest version that somebody was told of.
    fn highest_at(&self, calls: usize) -> u64 {
        let told = self.commits.iter().filter(|(at, ..)| *at <= calls);
        told.map(|(_, version, ..)| *version).max().unwrap_or(0).max(self.highest_before)
    }

    fn flushed_at(&self, calls: usize) -> u64 {
        let flushed = self.flushed.iter().filter(|(at, _)| *at <= calls);
        flushed.map(|(_, version)| *version).max().unwrap_or(0)
    }

    /// What a store has that has all commits up to this one.
    fn state_at(&self, version: u64) -> States {
        let mut states = self.base.clone();
        for (_, version, place, value) in self.commits.iter().filter(|commit| commit.1 <= version) {
            states.insert(*place, (*version, *value));
        }
        states
    }
}

fn open(disk: &MemoryDisk, durability: Durability) -> (Store, Vec<Collection<u64, Value>>) {
    let builder = Store::builder().stripes(2).segment_bytes(4096).segment_versions(40);
    // A snapshot syncs: without those that nobody asks for, more stays unsynced.
    let after = if durability == Durability::None { u64::MAX } else { 0 };
    let builder = builder.durability(durability).snapshot_after(after).snapshot_rate(u64::MAX);
    let store = builder.open_on(Arc::new(disk.clone())).unwrap();
    let maps = (0..COLLECTIONS).map(|number| store.collection(&format!("c{number}")).unwrap());
    let maps = maps.collect();
    (store, maps)
}

/// All that a store has, deletions included.
fn look(maps: &[Collection<u64, Value>]) -> States {
    let mut states = States::new();
    for (number, map) in maps.iter().enumerate() {
        for key in 0..KEYS {
            if let Some(entity) = map.get(key).unwrap() {
                let (write, filler) = entity.value();
                assert_eq!(*filler, filler_of(*write));
                states.insert((number, key), (entity.version().get(), Some(*write)));
                continue;
            }
            // Nothing to delete: it is refused, and tells of the deletion.
            let refused = map.delete(key).unconditional().commit().unwrap_err();
            if let Some(deletion) = refused.conflict().unwrap().deletion() {
                states.insert((number, key), (deletion.version().get(), None));
            }
        }
    }
    states
}

fn filler_of(write: u64) -> Vec<u8> {
    vec![write as u8; (write * 137 % 1_500) as usize]
}

/// Writes, flushes, takes snapshots, closes and opens again, by the seed.
fn live(disk: &MemoryDisk, durability: Durability, seed: u64, steps: usize, before: u64) -> Record {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut store, mut maps) = open(disk, durability);
    let mut record = Record {
        disk: disk.clone(),
        base: look(&maps),
        commits: Vec::new(),
        flushed: Vec::new(),
        highest_before: before,
    };
    // What was read when opening has been made durable.
    let newest = record.base.values().map(|(version, _)| *version).max().unwrap_or(0);
    record.flushed.push((disk.calls(), newest));
    for step in 0..steps as u64 {
        let place = (random.usize(..COLLECTIONS), random.u64(..KEYS));
        let map = &maps[place.0];
        let write = seed << 32 | step;
        let highest = record.highest_at(usize::MAX);
        match random.u8(..40) {
            0 => store.flush().unwrap(),
            1 => store.snapshot().unwrap(),
            2 => {
                store.close().unwrap();
                (store, maps) = open(disk, durability);
            }
            3..9 => {
                if let Ok(done) = map.delete(place.1).if_exists().commit() {
                    assert_new(done.version(), highest);
                    record.commits.push((disk.calls(), done.version().get(), place, None));
                }
                continue;
            }
            _ => {
                let value = (write, filler_of(write));
                let done = map.put(place.1, value).unconditional().commit().unwrap();
                assert_new(done.version(), highest);
                record.commits.push((disk.calls(), done.version().get(), place, Some(write)));
                continue;
            }
        }
        record.flushed.push((disk.calls(), highest));
    }
    drop(maps);
    // A clean end is one more promise.
    store.close().unwrap();
    record.flushed.push((disk.calls(), record.highest_at(usize::MAX)));
    record
}

fn assert_new(version: Version, highest: u64) {
    assert!(
        version.get() > highest,
        "version {version} was given out, up to {highest} were before"
    );
}

/// What is there after a crash is what was there after one of the commits, and that is none
/// before the last flush. Returns which.
fn check(record: &Record, found: &States, calls: usize, story: &str) -> u64 {
    let last = found.values().map(|(version, _)| *version).max().unwrap_or(0);
    let flushed = record.flushed_at(calls);
    let base = record.base.values().map(|(version, _)| *version).max().unwrap_or(0);
    assert!(last >= flushed, "{story}: up to {last} is there, {flushed} was flushed");
    assert_eq!(*found, record.state_at(last.max(base)), "{story}: not as after commit {last}");
    last
}

/// Crashes at each call of a life, and again at some of what comes after it.
fn crashes(durability: Durability, seed: u64, steps: usize) -> usize {
    let record = live(&MemoryDisk::new(), durability, seed, steps, 0);
    let mut kept_before = 0;
    let mut count = 0;
    for first in 0..=record.disk.calls() {
        let calls = first;
        let mut all = vec![Crash::Process];
        all.extend(power_cuts(seed ^ (calls as u64) << 8).into_iter().map(Crash::Power));
        for (place, crash) in all.into_iter().enumerate() {
            let disk = record.disk.crash(calls, crash);
            let story = format!("{durability:?}, seed {seed}, {crash:?} after {calls}");
            let highest = record.highest_at(calls);
            let (store, maps) = open(&disk, durability);
            let kept = check(&record, &look(&maps), calls, &story);
            drop((store, maps));
            if matches!(crash, Crash::Process) {
                // The system keeps what it was given: only the latest commits are lost.
                assert!(kept >= kept_before, "{story}: {kept} is there, {kept_before} was written");
                kept_before = kept;
            }
            count += 1;
            if (calls + place) % 9 > 0 {
                continue;
            }
            let again = live(&disk, durability, 100 + seed, 8, highest);
            for calls in (0..=again.disk.calls()).step_by(3) {
                // Until it was open, nothing was durable that had not been before.
                let opened = again.flushed.first().is_some_and(|(at, _)| *at <= calls);
                let (record, known_at) = if opened { (&again, calls) } else { (&record, first) };
                for crash in [Crash::Process, Crash::Power(PowerCut::default())] {
                    let disk = again.disk.crash(calls, crash);
                    let (_store, maps) = open(&disk, durability);
                    let story = format!("{story}, {crash:?} after {calls}");
                    check(record, &look(&maps), known_at, &story);
                    let written = maps[0].put(0, (0, Vec::new())).unconditional().commit();
                    assert_new(written.unwrap().version(), again.highest_at(calls));
                    count += 1;
                }
            }
        }
    }
    count
}

#[test]
fn g2_g3_without_sync_a_crash_takes_back_the_latest_commits_alone() {
    let never = Durability::Interval(Duration::MAX);
    let often = Durability::Interval(Duration::ZERO);
    let mut count = 0;
    for seed in 0..rounds() {
        for durability in [Durability::None, never, often] {
            count += crashes(durability, seed, 40);
        }
    }
    report(format_args!("without sync: {count} crashes"));
    assert!(count > 5_000);
}
