//! The caller's code where it hurts: wakers, destructors and decoders that call back or panic.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::block_on;
use common::hooked::{Call, Gate, Hooked};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Collection, Error, RetryPolicy, Store};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

fn poll(future: &mut (impl Future + Unpin), waker: &Waker) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(waker)).is_ready()
}

/// Writes to the store when it is dropped.
struct WritesWhenDropped(Mutex<Option<Collection<u64, u64>>>);

impl Wake for WritesWhenDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for WritesWhenDropped {
    fn drop(&mut self) {
        if let Some(map) = self.0.lock().unwrap().take() {
            let mut write = map.create(77, 0).into_future();
            let _ = poll(&mut write, Waker::noop());
        }
    }
}

#[test]
fn a_waker_is_never_dropped_under_a_lock() {
    let gate = Arc::new(Gate::default());
    let at_sync = gate.clone();
    let disk = Hooked::new(MemoryDisk::new(), move |call| {
        if matches!(call, Call::Sync) {
            at_sync.pass();
        }
        Ok(())
    });
    let store = Store::builder().open_on(Arc::new(disk)).unwrap();
    let map = store.collection::<u64, u64>("map").unwrap();
    // Takes space, so that the next writes wait for the sync alone.
    map.create(0, 0).commit().unwrap();
    gate.set_shut(true);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| map.create(1, 0).commit());
        gate.until_somebody_waits();
        let mut write = map.create(2, 0).into_future();
        let waker = Arc::new(WritesWhenDropped(Mutex::new(Some(map.clone())))).into();
        assert!(!poll(&mut write, &waker));
        // The queue has the last one, and is told to replace it.
        drop(waker);
        assert!(!poll(&mut write, Waker::noop()));
        gate.set_shut(false);
        leader.join().unwrap().unwrap();
        block_on(write).unwrap();
    });
    block_on(map.create(3, 0)).unwrap();
    assert!(map.contains(77).unwrap());
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics");
    }
}

#[test]
fn a_waker_that_panics_stops_nobody_else() {
    let store = Store::builder().open_on(Arc::new(MemoryDisk::new())).unwrap();
    let map = store.collection::<u64, u64>("map").unwrap();
    let mut write = map.create(1, 0).into_future();
    poll(&mut write, &Arc::new(Panics).into());
    block_on(map.create(2, 0)).unwrap();
    block_on(write).unwrap();
    block_on(map.create(3, 0)).unwrap();
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bomb(u32);

static ARMED: AtomicBool = AtomicBool::new(false);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 == 0 && ARMED.swap(false, Ordering::SeqCst) {
            panic!("a value panics");
        }
    }
}

#[test]
fn g3_a_value_that_panics_when_dropped_leaves_no_write_unsynced() {
    let store = Store::builder().open_on(Arc::new(MemoryDisk::new())).unwrap();
    let map = store.collection::<u64, Bomb>("map").unwrap();
    map.create(1, Bomb(0)).commit().unwrap();
    map.update(1, |bomb| bomb.0 = 1).commit().unwrap();
    // Landing settles the first update, and with that drops what it had replaced.
    let update = catch_unwind(AssertUnwindSafe(|| {
        map.update(1, |bomb| {
            bomb.0 = 2;
            ARMED.store(true, Ordering::SeqCst);
        })
        .commit()
        .unwrap();
    }));
    assert!(update.is_err(), "the bomb did not go off");
    assert_eq!(map.get(1).unwrap().unwrap().0, 2);
    block_on(map.update(1, |bomb| bomb.0 = 3)).unwrap();
}

#[test]
fn a_closure_that_panics_leaves_nothing_locked() {
    let store = Store::in_memory();
    let map = store.collection::<u64, u64>("map").unwrap();
    map.create(1, 0).commit().unwrap();
    let update = catch_unwind(AssertUnwindSafe(|| map.update(1, |_| panic!("no")).commit()));
    assert!(update.is_err());
    map.update(1, |value| *value += 1).commit().unwrap();
    assert_eq!(*map.get(1).unwrap().unwrap(), 1);
}

static STORE: OnceLock<Store> = OnceLock::new();
static BOTH_DECODE: OnceLock<Barrier> = OnceLock::new();

/// Decoded twice at the same time; calls the store when it is dropped.
struct Meets;

impl Serialize for Meets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Meets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Meets, D::Error> {
        u8::deserialize(deserializer)?;
        BOTH_DECODE.get().map(Barrier::wait);
        Ok(Meets)
    }
}

impl Drop for Meets {
    fn drop(&mut self) {
        STORE.get().map(Store::collections);
    }
}

#[test]
fn two_threads_that_open_a_collection_at_once_get_the_same_one() {
    let disk = MemoryDisk::new();
    let open = || Store::builder().open_on(Arc::new(disk.clone())).unwrap();
    let store = open();
    store.collection::<u64, Meets>("meets").unwrap().create(1, Meets).commit().unwrap();
    drop(store);
    let store = STORE.get_or_init(open);
    BOTH_DECODE.get_or_init(|| Barrier::new(2));
    let open = || store.collection::<u64, Meets>("meets").unwrap().len().unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(open);
        assert_eq!((open(), other.join().unwrap()), (1, 1));
    });
}

#[test]
fn closing_wakes_an_update_that_pauses() {
    let store = Store::in_memory();
    let map = store.collection::<u64, u64>("map").unwrap();
    map.create(1, 0).commit().unwrap();
    let (hour, budget) = (Duration::from_secs(3_600), Duration::from_secs(36_000));
    let attempts = u32::MAX;
    let policy = RetryPolicy { pause_min: hour, pause_max: hour, budget, attempts };
    let overtaken = |value: &mut u64| {
        let _ = map.put(1, *value + 1).unconditional().commit();
    };
    let mut update = map.update(1, overtaken).retry(policy).into_future();
    assert!(!poll(&mut update, Waker::noop()), "it pauses for an hour");
    std::thread::scope(|scope| {
        let update = scope.spawn(|| block_on(update));
        store.clone().close().unwrap();
        assert!(matches!(update.join().unwrap(), Err(Error::Closed)));
    });
}

#[test]
fn futures_can_be_sent_to_other_threads() {
    fn is_send<T: Send>(_: T) {}
    let store = Store::in_memory();
    let map = store.collection::<u64, u64>("map").unwrap();
    is_send(map.create(1, 0));
    is_send(map.create(1, 0).into_future());
    is_send(map.update(1, |value| *value += 1).into_future());
    is_send(map.iter());
    is_send(async move {
        map.create(3, 0).await?;
        map.update(3, |value| *value += 1).await?;
        map.iter().try_for_each(|item| item.map(drop))
    });
}
