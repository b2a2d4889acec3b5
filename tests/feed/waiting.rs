//! Waiting for the next commit and for a version: by threads and futures, with time limits.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::common::hooked::{Call, Gate, Hooked};
use crate::common::{block_on, everywhere};
use crate::support::{drain, put, rows, told};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Durability, Error, Store, Version};

const SOON: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(600);

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

#[test]
fn g9_a_reader_that_waits_is_told_the_next_commit() {
    everywhere(|configuration, store| {
        let rows = rows(&store);
        let open = || store.changes().from_now().open().unwrap();
        let (mut one, mut two, mut three) = (open(), open(), open());
        assert!(one.next_within(SOON).unwrap().is_none());
        assert!(one.next_within(Duration::ZERO).unwrap().is_none());
        std::thread::scope(|scope| {
            let one = scope.spawn(move || told(&one.next().unwrap().unwrap()));
            let two = scope.spawn(move || told(&block_on(two.next_commit()).unwrap()));
            let three = scope.spawn(move || told(&three.next_within(LONG).unwrap().unwrap()));
            let expected = put(&rows, "a", 1);
            for reader in [one, two, three] {
                assert_eq!(reader.join().unwrap(), expected, "{}", configuration.name);
            }
        });
    });
}

#[test]
fn g9_a_future_that_is_dropped_takes_nothing_with_it() {
    everywhere(|_, store| {
        let rows = rows(&store);
        let mut feed = store.changes().from_now().open().unwrap();
        let mut poll = || {
            let mut next = pin!(feed.next_commit());
            next.as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .map(|one| told(&one.unwrap()))
        };
        assert!(poll().is_pending());
        let expected = put(&rows, "a", 1);
        assert_eq!(poll(), Poll::Ready(expected));
        assert!(poll().is_pending());
    });
}

#[test]
fn g9_a_waker_may_use_the_store_when_it_is_woken_cloned_and_dropped() {
    struct Nosy(Store);
    impl Wake for Nosy {
        fn wake(self: Arc<Self>) {
            let rows = rows(&self.0);
            if !rows.contains("woken").unwrap() {
                let _ = rows.create("woken", 1).by("ann").commit();
            }
        }
    }
    impl Drop for Nosy {
        fn drop(&mut self) {
            drop(self.0.changes().open().unwrap());
        }
    }
    everywhere(|configuration, store| {
        let mut feed = store.changes().from_now().open().unwrap();
        let waker = Waker::from(Arc::new(Nosy(store.clone())));
        assert!(feed.poll_next(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        let mut expected = vec![put(&rows(&store), "a", 1)];
        let woken = || rows(&store).get("woken").unwrap();
        while woken().is_none() {
            std::thread::yield_now();
        }
        expected.push((woken().unwrap().version().get(), "woken".to_owned(), Some(1)));
        assert_eq!(drain(&mut feed), expected, "{}", configuration.name);
    });
}

/// Whatever was there before was given up, and the list of those who wait does not grow: each long
/// poll takes the same place.
#[test]
fn g9_long_polls_that_end_in_vain_leave_nothing_behind() {
    struct Idle;
    impl Wake for Idle {
        fn wake(self: Arc<Self>) {}
    }
    let store = Store::in_memory();
    let idle = Arc::new(Idle);
    for _ in 0..10 {
        let mut feed = store.changes().from_now().open().unwrap();
        for _ in 0..10 {
            let waker = Waker::from(idle.clone());
            assert!(feed.poll_next(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            assert_eq!(Arc::strong_count(&idle), 2);
        }
    }
    assert_eq!(Arc::strong_count(&idle), 1);
}

#[test]
fn g9_wait_for_returns_when_the_version_is_shown() {
    everywhere(|configuration, store| {
        let rows = rows(&store);
        let landed = version(put(&rows, "a", 1).0);
        store.wait_for(landed).within(Duration::ZERO).wait().unwrap();
        block_on(store.wait_for(landed)).unwrap();
        let next = version(landed.get() + 1);
        let early = store.wait_for(next).within(SOON).wait();
        assert!(matches!(early, Err(Error::NotYet { .. })), "{early:?}");
        let early = block_on(store.wait_for(next).within(SOON));
        assert!(matches!(early, Err(Error::NotYet { .. })), "{early:?}");
        let shown = |waited: ifmatch::Result<()>| {
            waited.unwrap();
            assert!(rows.contains("b").unwrap(), "{}", configuration.name);
        };
        std::thread::scope(|scope| {
            let one = scope.spawn(|| shown(store.wait_for(next).within(LONG).wait()));
            let two = scope.spawn(|| shown(block_on(store.wait_for(next).within(LONG))));
            put(&rows, "b", 1);
            one.join().unwrap();
            two.join().unwrap();
        });
    });
}

#[test]
fn g9_neither_the_feed_nor_wait_for_runs_ahead_of_the_sync() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let disk = Hooked::new(MemoryDisk::new(), move |call| {
        if let Call::Sync = call {
            held.pass();
        }
        Ok(())
    });
    let store = Store::builder().open_on(Arc::new(disk.clone())).unwrap();
    let rows = rows(&store);
    let first = version(put(&rows, "a", 1).0);
    let mut feed = store.changes().from_now().open().unwrap();
    gate.set_shut(true);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| put(&rows, "b", 2));
        gate.until_somebody_waits();
        // Appended, installed and pushed, but a power cut could take it back.
        assert!(feed.try_next().unwrap().is_none());
        let next = version(first.get() + 1);
        let waited = store.wait_for(next).within(SOON).wait();
        assert!(matches!(waited, Err(Error::NotYet { .. })), "{waited:?}");
        assert!(store.changes().from_now().open().unwrap().try_next().unwrap().is_none());
        let reader = scope.spawn(move || told(&feed.next().unwrap().unwrap()));
        gate.set_shut(false);
        store.wait_for(next).within(LONG).wait().unwrap();
        assert_eq!(reader.join().unwrap(), writer.join().unwrap());
    });
    let after = Store::builder().open_on(Arc::new(disk.disk.power_cut(0))).unwrap();
    assert!(super::support::rows(&after).contains("b").unwrap());
}

#[test]
fn g9_what_the_feed_tells_survives_a_power_cut_at_that_moment() {
    let disk = MemoryDisk::new();
    let store = Store::builder().segment_bytes(4096).open_on(Arc::new(disk.clone())).unwrap();
    let mut feed = store.changes().open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let rows = rows(&store);
            scope
                .spawn(move || (0..20).for_each(|n| drop(put(&rows, &format!("{thread}-{n}"), n))));
        }
        for _ in 0..60 {
            let (version, key, _) = told(&feed.next().unwrap().unwrap());
            let image = disk.power_cut(0);
            let after = Store::builder().open_on(Arc::new(image)).unwrap();
            let found = rows(&after).get(&*key).unwrap().expect("it was told").version().get();
            assert_eq!(found, version);
        }
    });
}

#[test]
fn g9_wait_for_without_sync_returns_when_it_was_appended() {
    let builder = Store::builder().durability(Durability::Interval(LONG));
    let store = builder.open_on(Arc::new(MemoryDisk::new())).unwrap();
    let rows = rows(&store);
    let next = version(put(&rows, "a", 1).0 + 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait_for(next).within(LONG).wait());
        put(&rows, "a", 2);
        waiting.join().unwrap().unwrap();
    });
}
