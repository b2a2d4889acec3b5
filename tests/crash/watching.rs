//! A disk that tells calls for snapshots from all others.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ifmatch::testing::{Disk, DiskFile};

/// What was asked of a disk, but for snapshots: those may fail, and go on when the log has.
#[derive(Default)]
pub struct Seen {
    syncs: AtomicU64,
    failed: AtomicBool,
}

impl Seen {
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn note<T>(&self, name: &str, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() && !name.contains(".snapshot") {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }
}

pub struct Watching {
    pub disk: Arc<dyn Disk>,
    pub seen: Arc<Seen>,
}

impl Disk for Watching {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.disk.read(name)
    }

    fn read_at(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk.read_at(name, offset, len)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.disk.len(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.seen.note(name, self.disk.create(name))?;
        Ok(Box::new(WatchingFile { file, name: name.to_owned(), seen: Arc::clone(&self.seen) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.seen.note(to, self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // The log removes nothing that it needs: what snapshots let go, and its spare.
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        // For whom cannot be told.
        self.seen.note("", self.disk.sync_names())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct WatchingFile {
    file: Box<dyn DiskFile>,
    name: String,
    seen: Arc<Seen>,
}

impl DiskFile for WatchingFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seen.note(&self.name, self.file.write_at(offset, bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        let ours = u64::from(!self.name.contains(".snapshot"));
        self.seen.syncs.fetch_add(ours, Ordering::Relaxed);
        self.seen.note(&self.name, self.file.sync())
    }
}
