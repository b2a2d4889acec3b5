//! How feeds end: the store is closed, dropped, or its disk fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::hooked::{Call, Gate, Hooked};
use crate::common::{block_on, everywhere};
use crate::support::{drain, put, rows, told};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Durability, Error, Store};

#[test]
fn g9_closing_ends_those_who_wait() {
    everywhere(|configuration, store| {
        let next =
            ifmatch::Version::new(store.changes().from_now().open().unwrap().cursor().version + 1);
        let mut one = store.changes().from_now().open().unwrap();
        let mut two = store.changes().from_now().open().unwrap();
        std::thread::scope(|scope| {
            let one = scope.spawn(move || (one.next().unwrap().map(drop), one.next().is_none()));
            let two = scope.spawn(move || block_on(two.next_commit()).map(drop));
            let (waits, asks) = (store.clone(), store.clone());
            let three = scope.spawn(move || waits.wait_for(next.unwrap()).wait());
            store.close().unwrap();
            let (ended, is_over) = one.join().unwrap();
            assert!(is_over, "{}", configuration.name);
            for answer in [ended, two.join().unwrap(), three.join().unwrap()] {
                assert!(matches!(answer, Err(Error::Closed)), "{answer:?}");
            }
            assert!(matches!(asks.changes().open(), Err(Error::Closed)));
        });
    });
}

#[test]
fn g9_a_feed_keeps_no_store_open() {
    everywhere(|configuration, store| {
        let feed = store.changes().from_now().open().unwrap();
        let expected = put(&rows(&store), "a", 1);
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for commit in feed {
                match commit {
                    Ok(commit) => seen.push(told(&commit)),
                    Err(error) => return (seen, error),
                }
            }
            panic!("it ends with the reason")
        });
        // Not before it was told: closing ends a feed wherever it is.
        let mut watch = store.changes().from_now().open().unwrap();
        assert_eq!(drain(&mut watch), []);
        drop(store);
        let (seen, error) = reader.join().unwrap();
        assert!(matches!(error, Error::Closed), "{error}");
        assert!(seen.is_empty() || seen == [expected], "{}", configuration.name);
        if configuration.is_durable() {
            configuration.open().close().unwrap();
        }
    });
}

/// A store whose syncs fail once it has been broken.
fn breakable(durability: Durability, gate: &Arc<Gate>) -> (Store, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let (fails, held) = (broken.clone(), gate.clone());
    let disk = Hooked::new(MemoryDisk::new(), move |call| match call {
        Call::Sync if fails.load(Ordering::Relaxed) => {
            held.pass();
            Err(io::Error::other("it is on fire"))
        }
        _ => Ok(()),
    });
    let builder = Store::builder().durability(durability);
    (builder.open_on(Arc::new(disk)).unwrap(), broken)
}

#[test]
fn g11_a_poisoned_store_tells_what_is_durable_and_then_why_it_ends() {
    let gate = Arc::new(Gate::default());
    let (store, broken) = breakable(Durability::Sync, &gate);
    let rows = rows(&store);
    let open = || store.changes().from_now().open().unwrap();
    let (mut behind, mut waits, mut awaits) = (open(), open(), open());
    let expected: Vec<_> = (0..3).map(|value| put(&rows, "a", value)).collect();
    assert_eq!(drain(&mut waits), expected);
    assert_eq!(drain(&mut awaits), expected);
    broken.store(true, Ordering::Relaxed);
    gate.set_shut(true);
    let next = ifmatch::Version::new(expected[2].0 + 1).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || waits.next().unwrap().map(drop));
        let awaits = scope.spawn(move || block_on(awaits.next_commit()).map(drop));
        let asks = scope.spawn(|| store.wait_for(next).wait());
        let lost = scope.spawn(|| rows.put("a", 9).unconditional().commit().map(drop));
        gate.until_somebody_waits();
        gate.set_shut(false);
        for end in [waits, awaits, lost] {
            let end = end.join().unwrap();
            assert!(matches!(end, Err(Error::Poisoned { .. })), "{end:?}");
        }
        assert!(matches!(asks.join().unwrap(), Err(Error::Poisoned { .. })));
    });
    let seen: Vec<_> = (0..3).map(|_| told(&behind.next().unwrap().unwrap())).collect();
    assert_eq!(seen, expected);
    assert!(matches!(behind.next(), Some(Err(Error::Poisoned { .. }))));
    assert!(behind.next().is_none());
    // The log can be read all the same.
    let mut all = store.changes().open().unwrap();
    let seen: Vec<_> = (0..3).map(|_| told(&all.next().unwrap().unwrap())).collect();
    assert_eq!(seen, expected);
    assert!(matches!(all.try_next(), Err(Error::Poisoned { .. })));
}

#[test]
fn g11_without_sync_a_poisoned_store_tells_what_readers_see() {
    let gate = Arc::new(Gate::default());
    let (store, broken) = breakable(Durability::Interval(std::time::Duration::MAX), &gate);
    let rows = rows(&store);
    let mut feed = store.changes().from_now().open().unwrap();
    let expected: Vec<_> = (0..3).map(|value| put(&rows, "a", value)).collect();
    broken.store(true, Ordering::Relaxed);
    assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
    let seen: Vec<_> = (0..3).map(|_| told(&feed.next().unwrap().unwrap())).collect();
    assert_eq!(seen, expected);
    assert!(matches!(feed.next(), Some(Err(Error::Poisoned { .. }))));
}
