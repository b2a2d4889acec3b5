//! A disk that fails: nothing acknowledged is lost, nothing is tried again (G11).

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use common::block_on;
use common::hooked::{Call, Gate, Hooked};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Collection, Error, Outcome, Store};

/// A store with one entity, on a disk whose syncs fail from now on.
struct Failing {
    disk: MemoryDisk,
    gate: Arc<Gate>,
    failed_syncs: Arc<AtomicU64>,
    store: Store,
    map: Collection<u8, Vec<u8>>,
}

fn about_to_fail() -> Failing {
    let disk = MemoryDisk::new();
    let (gate, failed_syncs) = (Arc::new(Gate::default()), Arc::new(AtomicU64::new(0)));
    let broken = Arc::new(AtomicBool::new(false));
    let hooked = {
        let (gate, failed, broken) = (gate.clone(), failed_syncs.clone(), broken.clone());
        Hooked::new(disk.clone(), move |call| {
            if !matches!(call, Call::Sync) || !broken.load(Ordering::Relaxed) {
                return Ok(());
            }
            gate.pass();
            failed.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::other("the disk is on fire"))
        })
    };
    let store = Store::builder().open_on(Arc::new(hooked)).unwrap();
    let map = store.collection("map").unwrap();
    map.create(1, b"kept".to_vec()).commit().unwrap();
    broken.store(true, Ordering::Relaxed);
    Failing { disk, gate, failed_syncs, store, map }
}

fn outcome(result: Result<impl Sized, Error>) -> Outcome {
    match result.map(|_| ()) {
        Err(Error::Poisoned { outcome, source }) => {
            assert_eq!(source.to_string(), "the disk is on fire");
            outcome
        }
        other => panic!("{other:?}"),
    }
}

fn poll_once(future: &mut (impl Future + Unpin)) -> bool {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn g11_after_a_failed_sync_reads_go_on_and_writes_do_not() {
    let Failing { failed_syncs, store, map, .. } = about_to_fail();
    assert_eq!(outcome(map.put(1, b"lost".to_vec()).if_exists().commit()), Outcome::Unknown);
    assert_eq!(*map.get(1).unwrap().unwrap(), b"kept");
    assert_eq!((map.len().unwrap(), map.iter().count()), (1, 1));
    assert_eq!(outcome(map.create(2, Vec::new()).commit()), Outcome::NotApplied);
    assert_eq!(outcome(block_on(map.create(2, Vec::new()))), Outcome::NotApplied);
    let update = map.update(1, |value| value.push(0)).commit();
    assert_eq!(outcome(update), Outcome::NotApplied);
    assert!(!map.contains(2).unwrap());
    outcome(store.close());
    assert_eq!(failed_syncs.load(Ordering::Relaxed), 1, "a sync was tried again");
}

#[test]
fn g11_a_refusal_that_rests_on_a_lost_write_is_not_told() {
    let Failing { map, store: _store, .. } = about_to_fail();
    // Its write is installed, and its sync is led by the service thread, which fails.
    let mut pending = map.create(2, b"lost".to_vec()).into_future();
    assert!(!poll_once(&mut pending));
    let other = || map.create(2, Vec::new());
    assert_eq!(outcome(other().commit()), Outcome::NotApplied);
    assert_eq!(outcome(block_on(other())), Outcome::NotApplied);
    assert_eq!(outcome(block_on(pending)), Outcome::Unknown);
    assert!(!map.contains(2).unwrap());
}

#[test]
fn g11_a_write_that_waited_for_room_knows_that_it_was_not_applied() {
    let Failing { gate, map, store: _store, .. } = about_to_fail();
    gate.set_shut(true);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| map.create(2, Vec::new()).commit());
        gate.until_somebody_waits();
        // Fill the open frame while the leader is at it.
        let fill = |key| map.create(key, vec![7; 1_000_000]).into_future();
        let mut writes: Vec<_> = (10..20).map(fill).collect();
        writes.iter_mut().for_each(|write| assert!(!poll_once(write)));
        gate.set_shut(false);
        assert_eq!(outcome(leader.join().unwrap()), Outcome::Unknown);
        assert_eq!(outcome(map.create(3, Vec::new()).commit()), Outcome::NotApplied);
        assert_eq!(outcome(block_on(map.create(3, Vec::new()))), Outcome::NotApplied);
    });
}

#[test]
fn g11_opening_again_recovers_what_was_acknowledged() {
    let Failing { disk, store, map, .. } = about_to_fail();
    outcome(map.put(1, b"lost".to_vec()).if_exists().commit());
    drop((store, map));
    let store = Store::builder().open_on(Arc::new(disk.power_cut(0))).unwrap();
    let map = store.collection::<u8, Vec<u8>>("map").unwrap();
    assert_eq!(*map.get(1).unwrap().unwrap(), b"kept");
    map.create(2, Vec::new()).commit().unwrap();
}

#[test]
fn g11_a_disk_that_is_full_at_a_new_segment_is_survived() {
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    // Space is wanted for a new file; the rest was taken before.
    let disk = Hooked::new(MemoryDisk::new(), move |call| match call {
        Call::Write(0) if is_full.load(Ordering::Relaxed) => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let open = || Store::builder().segment_bytes(4096).open_on(Arc::new(disk.clone())).unwrap();
    let rows = |store: &Store| store.collection::<u32, String>("rows").unwrap();
    let store = open();
    full.store(true, Ordering::Relaxed);
    let create = |key| rows(&store).create(key, "x".repeat(100)).commit().is_ok();
    let acknowledged = (0..).take_while(|key| create(*key)).count();
    drop(store);
    full.store(false, Ordering::Relaxed);
    // The file without a header is passed over, now and the next time.
    for more in 0..2 {
        let store = open();
        let rows = rows(&store);
        assert_eq!(rows.len().unwrap(), acknowledged + more);
        rows.create(1_000 + more as u32, String::new()).commit().unwrap();
        store.close().unwrap();
    }
}
