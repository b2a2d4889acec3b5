//! A disk that fails: nothing acknowledged is lost, nothing is tried again (G11).

mod common;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::block_on;
use ifmatch::testing::{Disk, DiskFile, MemoryDisk};
use ifmatch::{Collection, Error, Outcome, Store};

/// A disk whose syncs fail once `left` more have succeeded.
#[derive(Clone)]
struct Failing {
    disk: MemoryDisk,
    left: Arc<AtomicU64>,
    calls_after_failure: Arc<AtomicU64>,
}

struct FailingFile {
    file: Box<dyn DiskFile>,
    disk: Failing,
}

impl Disk for Failing {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.disk.read(name)
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile { file: self.disk.create(name)?, disk: self.clone() }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl DiskFile for FailingFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let left = self.disk.left.load(Ordering::Relaxed);
        if left > 0 {
            self.disk.left.store(left - 1, Ordering::Relaxed);
            return self.file.sync();
        }
        self.disk.calls_after_failure.fetch_add(1, Ordering::Relaxed);
        Err(io::Error::other("the disk is on fire"))
    }
}

/// A store with one entity, on a disk whose next sync fails.
fn about_to_fail() -> (Failing, Store, Collection<u8, String>) {
    let disk = Failing {
        disk: MemoryDisk::new(),
        left: Arc::new(AtomicU64::new(u64::MAX)),
        calls_after_failure: Arc::default(),
    };
    let store = Store::builder().open_on(Arc::new(disk.clone())).unwrap();
    let map = store.collection("map").unwrap();
    map.create(1, "kept".to_owned()).commit().unwrap();
    disk.left.store(0, Ordering::Relaxed);
    (disk, store, map)
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

#[test]
fn g11_after_a_failed_sync_reads_go_on_and_writes_do_not() {
    let (disk, store, map) = about_to_fail();
    assert_eq!(outcome(map.put(1, "lost".to_owned()).if_exists().commit()), Outcome::Unknown);
    assert_eq!(*map.get(1).unwrap().unwrap(), "kept");
    assert_eq!((map.len().unwrap(), map.iter().count()), (1, 1));
    assert_eq!(outcome(map.create(2, String::new()).commit()), Outcome::NotApplied);
    assert_eq!(outcome(block_on(map.create(2, String::new()))), Outcome::NotApplied);
    let update = map.update(1, |value| value.push('!')).commit();
    assert_eq!(outcome(update), Outcome::NotApplied);
    assert!(!map.contains(2).unwrap());
    outcome(store.close());
    assert_eq!(disk.calls_after_failure.load(Ordering::Relaxed), 1, "a sync was tried again");
}

#[test]
fn g11_a_refusal_that_rests_on_a_lost_write_is_not_told() {
    let (_, _store, map) = about_to_fail();
    let mut pending = map.create(2, "lost".to_owned()).into_future();
    // Its write is installed, and its sync is led by the service thread, which fails.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::pin::Pin::new(&mut pending).poll(&mut context);
    let other = || map.create(2, String::new());
    assert_eq!(outcome(other().commit()), Outcome::NotApplied);
    assert_eq!(outcome(block_on(other())), Outcome::NotApplied);
    assert_eq!(outcome(block_on(pending)), Outcome::Unknown);
    assert!(!map.contains(2).unwrap());
}

#[test]
fn g11_opening_again_recovers_what_was_acknowledged() {
    let (disk, store, map) = about_to_fail();
    outcome(map.put(1, "lost".to_owned()).if_exists().commit());
    drop((store, map));
    let store = Store::builder().open_on(Arc::new(disk.disk.power_cut(0))).unwrap();
    let map = store.collection::<u8, String>("map").unwrap();
    assert_eq!(*map.get(1).unwrap().unwrap(), "kept");
    map.create(2, String::new()).commit().unwrap();
}
