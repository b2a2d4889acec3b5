//! What a store tells of contention, and that its advice to those who lost is worth following.

mod common;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{block_on, configurations, everywhere};
use ifmatch::testing::ManualClock;
use ifmatch::{Collection, Compute, Conflict, Error, Reason, Retry, RetryPolicy, Store, Version};

type Counters = Collection<String, u64>;

fn counters(store: &Store) -> Counters {
    store.collection("counters").unwrap()
}

/// A store whose time and pauses are the same in each run.
fn timed(configuration: &common::Configuration) -> (Arc<ManualClock>, Store) {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000_000)));
    let builder = configuration.builder().clock(clock.clone()).seed(1);
    (clock, configuration.open_with(builder))
}

fn conflict<T>(result: ifmatch::Result<T>) -> Box<Conflict> {
    match result {
        Err(Error::Conflict(conflict)) => conflict,
        Err(other) => panic!("no conflict: {other}"),
        Ok(_) => panic!("it landed"),
    }
}

fn pause<T>(result: ifmatch::Result<T>) -> Duration {
    match conflict(result).retry() {
        Retry::Refetch(pause) => pause,
        other => panic!("not to be read again: {other:?}"),
    }
}

#[test]
fn g4_each_conflict_is_counted_once_by_reason_and_by_key() {
    everywhere(|configuration, store| {
        let (counters, rooms) = (counters(&store), store.collection::<u32, u64>("rooms").unwrap());
        let v1 = counters.create("n", 0).commit().unwrap().version();
        counters.put("n", 1).if_match(v1).commit().unwrap();
        assert_eq!(store.contention(), ifmatch::Contention::default(), "nobody has lost");

        conflict(counters.put("n", 2).if_match(v1).commit());
        conflict(block_on(counters.put("n", 2).if_match(v1)));
        conflict(counters.create("n", 2).commit());
        conflict(counters.update("none", |n| *n += 1).commit());
        conflict(rooms.delete(17).unconditional().commit());
        // Overtaken, and tried again by itself.
        let mut losses = 1;
        let update = counters.update("n", |n| {
            *n += 1;
            if losses > 0 {
                losses -= 1;
                counters.put("n", 7).unconditional().commit().unwrap();
            }
        });
        assert_eq!(update.commit().unwrap().attempts(), 2);

        let seen = store.contention();
        let expected = [(Reason::StaleVersion, 3), (Reason::AlreadyExists, 1), (Reason::Absent, 2)];
        assert_eq!(seen.conflicts, BTreeMap::from(expected), "{}", configuration.name);
        assert_eq!(seen.retried, BTreeMap::from([(2, 1)]));
        let hot: Vec<_> = seen
            .hot_keys
            .iter()
            .map(|hot| (&hot.collection[..], &hot.key[..], hot.at_least, hot.at_most))
            .collect();
        let rooms = ("rooms", "17", 1, 1);
        assert_eq!(hot, [("counters", "n", 4, 4), ("counters", "none", 1, 1), rooms]);
        let json = serde_json::to_string(&seen).unwrap();
        let start =
            r#"{"conflicts":{"stale_version":3,"absent":2,"already_exists":1},"retried":{"2":1},"#;
        let first = r#""hot_keys":[{"collection":"counters","key":"n","at_least":4,"at_most":4},"#;
        assert!(json.starts_with(&[start, first].concat()), "{json}");
    });
}

#[test]
fn g7_attempts_are_counted_of_writes_that_were_tried_again() {
    everywhere(|_, store| {
        let counters = counters(&store);
        counters.create("n", 0).commit().unwrap();
        counters.update("n", |n| *n += 1).commit().unwrap();
        assert!(store.contention().retried.is_empty(), "the first attempt landed");

        let overtake = || {
            counters.put("n", 7).unconditional().commit().unwrap();
        };
        let brief = Duration::from_nanos(1);
        let policy =
            |attempts| RetryPolicy { attempts, pause_max: brief, ..RetryPolicy::default() };
        let update = |attempts| {
            let update = counters.update("n", |_| overtake()).retry(policy(attempts));
            conflict(update.commit())
        };
        assert_eq!(update(1).reason(), Reason::Contended);
        assert!(store.contention().retried.is_empty(), "there was one attempt");
        update(3);
        update(10);
        update(12);
        let mut losses = 2;
        let decide = counters.compute("n", |_| {
            if losses > 0 {
                losses -= 1;
                overtake();
            }
            Compute::Delete
        });
        decide.retry(policy(9)).commit().unwrap();
        let seen = store.contention();
        assert_eq!(seen.retried, BTreeMap::from([(3, 2), (10, 2)]));
        // The last attempt of each that gave up counts as that, the others as what they met.
        let expected = [(Reason::Contended, 4), (Reason::StaleVersion, 2 + 9 + 11 + 2)];
        assert_eq!(seen.conflicts, BTreeMap::from(expected));
    });
}

#[test]
fn g12_as_many_keys_are_kept_as_was_said_however_many_are_in_conflict() {
    for configuration in configurations() {
        let (_, store) = timed(&configuration);
        let counters = counters(&store);
        let keys = 300_u64;
        for key in 0..keys {
            conflict(counters.put(format!("cold-{key}"), 1).if_exists().commit());
            conflict(counters.put("hot", 1).if_exists().commit());
        }
        let seen = store.contention();
        assert_eq!(seen.conflicts, BTreeMap::from([(Reason::Absent, 2 * keys)]));
        assert_eq!(seen.hot_keys.len(), 64);
        let hottest = &seen.hot_keys[0];
        assert_eq!((&hottest.key[..], hottest.at_least, hottest.at_most), ("hot", keys, keys));
        for cold in &seen.hot_keys[1..] {
            assert!(cold.at_least <= 1 && cold.at_most >= 1, "{cold:?}");
        }
    }
}

#[test]
fn heat_fades_by_the_clock_of_the_store() {
    for configuration in configurations() {
        let (clock, store) = timed(&configuration);
        let counters = counters(&store);
        for _ in 0..8 {
            conflict(counters.put("n", 1).if_exists().commit());
        }
        let heat = || store.contention().hot_keys.first().map(|hot| hot.at_most);
        assert_eq!(heat(), Some(8));
        clock.advance(Duration::from_secs(60));
        assert_eq!(heat(), Some(4));
        clock.advance(Duration::from_secs(60 * 60));
        assert_eq!(heat(), None);
        assert_eq!(store.contention().conflicts[&Reason::Absent], 8, "what was, stays counted");
    }
}

#[test]
fn g4_the_pause_is_drawn_anew_within_a_time_that_grows_with_the_conflicts_on_the_key() {
    for configuration in configurations() {
        let (clock, store) = timed(&configuration);
        let counters = counters(&store);
        let v1 = counters.create("n", 0).commit().unwrap().version();
        counters.put("n", 1).if_match(v1).commit().unwrap();
        let lose = || pause(counters.put("n", 2).if_match(v1).commit());

        assert_eq!(lose(), Duration::ZERO, "nobody else lost");
        let mut drawn: Vec<_> = (1..1_000).map(|others| (others, lose())).collect();
        for (others, pause) in &drawn {
            let most = Duration::from_millis(5) * *others;
            assert!(*pause <= most.min(Duration::from_secs(2)), "{pause:?} after {others}");
        }
        let hundred = |at: usize| drawn[at..at + 100].iter().map(|(_, pause)| *pause);
        let mean = |at| hundred(at).sum::<Duration>() / 100;
        assert!(mean(100) > 2 * mean(0), "{:?}, then {:?}", mean(0), mean(100));
        let (least, most) = (hundred(800).min().unwrap(), hundred(800).max().unwrap());
        assert!(least < Duration::from_millis(200) && most > Duration::from_millis(1_800));
        drawn.sort_unstable_by_key(|(_, pause)| *pause);
        drawn.dedup_by_key(|(_, pause)| *pause);
        assert!(drawn.len() > 990, "{} differ", drawn.len());

        let other = counters.put("other", 1).if_exists().commit();
        assert_eq!(pause(other), Duration::ZERO, "another key is none of it");
        clock.advance(Duration::from_secs(60));
        assert_eq!(lose(), Duration::ZERO, "that was long ago");
    }
}

#[test]
fn g4_who_is_not_to_come_back_makes_nobody_wait() {
    for configuration in configurations() {
        let (_, store) = timed(&configuration);
        let counters = counters(&store);
        let v1 = counters.create("n", 0).commit().unwrap().version();
        counters.put("n", 1).if_match(v1).commit().unwrap();
        for _ in 0..100 {
            assert_eq!(conflict(counters.create("n", 1).commit()).retry(), Retry::Never);
        }
        assert_eq!(pause(counters.put("n", 2).if_match(v1).commit()), Duration::ZERO);
    }
}

#[test]
fn g4_who_gave_up_is_spread_too() {
    for configuration in configurations() {
        let (clock, store) = timed(&configuration);
        let counters = counters(&store);
        counters.create("n", 0).commit().unwrap();
        let took = Duration::from_millis(5);
        let give_up = || {
            let update = counters.update("n", |_| {
                clock.advance(took);
                counters.put("n", 7).unconditional().commit().unwrap();
            });
            let once = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
            match conflict(update.retry(once).commit()).retry() {
                Retry::After(pause) => pause,
                other => panic!("not after a while: {other:?}"),
            }
        };
        assert_eq!(give_up(), took, "nobody else did");
        let mut pauses: Vec<_> = (0..20).map(|_| give_up()).collect();
        assert!(pauses.iter().all(|pause| *pause >= took));
        pauses.sort_unstable();
        pauses.dedup();
        assert_eq!(pauses.len(), 20);
    }
}

/// What clients of a simulation do next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Read,
    Write(Version),
}

/// Clients add one to a counter, `TIMES` times each: read, then write a while later, and after
/// a loss read again, after the pause advised or at once. Time is the manual clock's. Returns the
/// attempts per success, and the time that it took.
fn simulate(configuration: &common::Configuration, clients: u32, patient: bool) -> (f64, Duration) {
    const TIMES: u32 = 8;
    let (clock, store) = timed(configuration);
    let counters = counters(&store);
    let key = format!("{clients} {patient}");
    counters.create(&key, 0).commit().unwrap();
    let mut random = fastrand::Rng::with_seed(u64::from(clients));
    let mut on_the_way = || Duration::from_micros(random.u64(1_000..5_000));
    // When, who, what.
    let mut due: BinaryHeap<_> =
        (0..clients).map(|client| Reverse((on_the_way(), client, Step::Read))).collect();
    let mut left = vec![TIMES; clients as usize];
    let (mut now, mut attempts) = (Duration::ZERO, 0_u32);
    while let Some(Reverse((at, client, step))) = due.pop() {
        clock.advance(at - now);
        now = at;
        let Step::Write(version) = step else {
            let version = counters.get(&key).unwrap().unwrap().version();
            due.push(Reverse((now + on_the_way(), client, Step::Write(version))));
            continue;
        };
        attempts += 1;
        let then = match counters.put(&key, 1).if_match(version).commit() {
            Ok(_) => {
                left[client as usize] -= 1;
                if left[client as usize] == 0 {
                    continue;
                }
                Duration::ZERO
            }
            lost => {
                let advised = pause(lost);
                if patient { advised } else { Duration::ZERO }
            }
        };
        due.push(Reverse((now + then, client, Step::Read)));
    }
    store.close().unwrap();
    (f64::from(attempts) / f64::from(clients * TIMES), now)
}

#[test]
fn g4_clients_that_follow_the_advice_need_fewer_attempts() {
    for configuration in configurations() {
        for (clients, at_least) in [(2, 1.2), (8, 3.0), (32, 6.0)] {
            let (blind, blindly_took) = simulate(&configuration, clients, false);
            let (advised, took) = simulate(&configuration, clients, true);
            common::report(format_args!(
                "{}, {clients} clients: {blind:.2} attempts per success in {blindly_took:?} when \
                 retried at once, {advised:.2} in {took:?} when advised",
                configuration.name
            ));
            assert!(blind > at_least * advised, "{clients}: {blind} blindly, {advised} advised");
        }
    }
}
