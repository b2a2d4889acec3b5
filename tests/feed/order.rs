//! Every commit once and in order: from every place, beside many writers, filtered or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use crate::common::{block_on, everywhere};
use crate::support::{Rows, Told, cursor, delete, drain, fill, put, rows, since, told};
use ifmatch::feed::Feed;
use ifmatch::testing::ManualClock;
use ifmatch::{Durability, Store};

#[test]
fn g9_every_commit_is_told_once_and_in_order_from_every_place() {
    everywhere(|configuration, store| {
        let mut from_now = store.changes().from_now().open().unwrap();
        let start = from_now.cursor().version;
        let expected = fill(&rows(&store));
        assert_eq!(drain(&mut from_now), expected, "{}", configuration.name);
        for version in start..=expected.last().unwrap().0 {
            let rest: Vec<_> = expected.iter().filter(|told| told.0 > version).cloned().collect();
            let mut feed = since(&store, version);
            assert_eq!(drain(&mut feed), rest, "{} after {version}", configuration.name);
            assert_eq!(feed.cursor(), from_now.cursor());
        }
    });
}

/// Writes with four threads, until each has written `writes` times. Returns what they were told.
fn race(store: &Store, writes: u64) -> BTreeMap<u64, Told> {
    let race = |thread: u64| {
        let rows = rows(store);
        let key = move |write: u64| format!("{}-{}", thread % 2, (write + thread) % 5);
        (0..writes).map(move |write| {
            let key = key(write);
            // Another thread may have deleted it.
            match write % 4 == 3 && rows.contains(&*key).unwrap() && thread < 2 {
                true => match rows.delete(&*key).if_exists().by("bob").commit() {
                    Ok(deleted) => (deleted.version().get(), key, None),
                    Err(_) => put(&rows, &key, write),
                },
                false => put(&rows, &key, write),
            }
        })
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..4).map(|n| scope.spawn(move || race(n).collect::<Vec<_>>())).collect();
        let all = writers.into_iter().flat_map(|writer| writer.join().unwrap());
        let all: BTreeMap<_, _> = all.map(|told| (told.0, told)).collect();
        assert_eq!(all.len() as u64, 4 * writes, "a version was given out twice");
        all
    })
}

/// Reads until a write to `stop` is told.
fn until(stop: &str, mut next: impl FnMut() -> Told) -> Vec<Told> {
    let mut all = Vec::new();
    loop {
        let told = next();
        if told.1 == stop {
            return all;
        }
        all.push(told);
    }
}

#[test]
fn g9_readers_beside_many_writers_are_told_what_the_writers_were() {
    everywhere(|configuration, store| {
        // In memory versions are left out when the time moves.
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        drop(store);
        let builder = configuration.builder().feed(true).clock(clock.clone());
        let store = configuration.open_with(builder);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    clock.advance(Duration::from_millis(1));
                    std::thread::yield_now();
                }
            });
            let open = || since(&store, 0);
            let (mut one, mut two, mut three) = (open(), open(), open());
            let one = scope.spawn(move || until("stop", || told(&one.next().unwrap().unwrap())));
            let two =
                scope.spawn(move || until("stop", || told(&block_on(two.next_commit()).unwrap())));
            let three = scope.spawn(move || {
                until("stop", || {
                    loop {
                        if let Some(commit) = three.try_next().unwrap() {
                            return told(&commit);
                        }
                        std::thread::yield_now();
                    }
                })
            });
            let part = store.changes().since(cursor(&store, 0)).collection(&rows(&store));
            let mut part = part.prefix("1-").open().unwrap();
            let expected = race(&store, 200);
            put(&rows(&store), "stop", 0);
            done.store(true, Ordering::Relaxed);
            let expected: Vec<_> = expected.into_values().collect();
            for reader in [one, two, three] {
                assert_eq!(reader.join().unwrap(), expected, "{}", configuration.name);
            }
            let mut some = expected.clone();
            some.retain(|told| told.1.starts_with("1-"));
            assert_eq!(drain(&mut part), some, "{}", configuration.name);
            assert_eq!(drain(&mut open())[..expected.len()], expected);
        });
    });
}

#[test]
fn g9_a_feed_that_is_turned_on_beside_writers_misses_nothing_after_it() {
    everywhere(|configuration, store| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut feed = store.changes().from_now().open().unwrap();
                let start = feed.cursor().version;
                (start, until("stop", || told(&feed.next().unwrap().unwrap())))
            });
            let expected = race(&store, 50);
            done.store(true, Ordering::Relaxed);
            while !reader.is_finished() {
                put(&rows(&store), "stop", 0);
            }
            let (start, found) = reader.join().unwrap();
            let mut found: Vec<_> = found;
            found.retain(|told| told.1 != "stop");
            let expected: Vec<_> = expected.into_values().filter(|told| told.0 > start).collect();
            assert_eq!(found, expected, "{}", configuration.name);
        });
    });
}

#[test]
fn g9_a_filtered_reader_gets_its_part_and_its_cursor_moves_on() {
    everywhere(|configuration, store| {
        let all = store.collection::<String, u64>("rows").unwrap();
        let seats = store.collection::<(String, u32), u64>("seats").unwrap();
        let open = |changes: ifmatch::feed::Changes<'_>| changes.open().unwrap();
        let mut of_rows = open(store.changes().from_now().collection(&all));
        let mut of_a = open(store.changes().from_now().prefix("a-").collection_named("rows"));
        let mut of_hall = open(store.changes().from_now().collection_prefix(&seats, ("a",)));
        let mut of_both = open(store.changes().from_now().collection(&seats).collection(&all));
        let mut of_none = open(store.changes().from_now().collection_named("$leases"));
        let seat = |hall: &str, number| {
            seats.create((hall, number), 1).by("ann").commit().unwrap().version().get()
        };
        let expected = [
            put(&all, "a-1", 1),
            (seat("a", 1), "a/1".to_owned(), Some(1)),
            put(&all, "b-1", 1),
            (seat("ab", 1), "ab/1".to_owned(), Some(1)),
            delete(&all, "a-1"),
        ];
        let seen = |feed: &mut Feed| {
            let mut seen = Vec::new();
            while let Some(commit) = feed.try_next().unwrap() {
                seen.push((commit.version().get(), commit.changes()[0].key()));
            }
            // Whatever it told, it has seen everything.
            assert_eq!(feed.cursor().version, expected[4].0, "{}", configuration.name);
            seen
        };
        let pick = |places: &[usize]| {
            let pick = |place: &usize| (expected[*place].0, expected[*place].1.clone());
            places.iter().map(pick).collect::<Vec<_>>()
        };
        assert_eq!(seen(&mut of_rows), pick(&[0, 2, 4]));
        assert_eq!(seen(&mut of_a), pick(&[0, 4]));
        assert_eq!(seen(&mut of_hall), pick(&[1]));
        assert_eq!(seen(&mut of_both), pick(&[0, 1, 2, 3, 4]));
        assert_eq!(seen(&mut of_none), pick(&[]));
    });
}

#[test]
fn g9_what_is_shown_before_it_is_durable_is_told_before() {
    let hour = Duration::from_secs(3_600);
    for durability in [Durability::Interval(hour), Durability::None] {
        let disk = ifmatch::testing::MemoryDisk::new();
        let builder = || Store::builder().durability(durability).segment_bytes(4096);
        let store = builder().open_on(Arc::new(disk.clone())).unwrap();
        let early = fill(&rows(&store));
        // Not in memory, and perhaps not written yet.
        assert_eq!(drain(&mut store.changes().open().unwrap()), early);
        assert_eq!(drain(&mut since(&store, 0)), early);
        let mut feed = store.changes().from_now().open().unwrap();
        let rows: Rows = rows(&store);
        for value in 0..10 {
            let expected = put(&rows, "a", value);
            assert_eq!(drain(&mut feed), [expected]);
        }
    }
}
