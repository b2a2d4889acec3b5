//! A disk in memory that tells a test of every call that changes it, before it is done.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ifmatch::testing::{Disk, DiskFile, MemoryDisk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncNames,
}

/// Gets the call and the name of the file, of a renamed one the new name.
type Hook = dyn Fn(Call, &str) -> io::Result<()> + Send + Sync;

#[derive(Clone)]
pub struct Watched {
    pub disk: MemoryDisk,
    hook: Arc<Hook>,
}

impl Watched {
    pub fn new(
        disk: MemoryDisk,
        hook: impl Fn(Call, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Watched {
        Watched { disk, hook: Arc::new(hook) }
    }
}

impl Disk for Watched {
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
        (self.hook)(Call::Create, name)?;
        let file = self.disk.create(name)?;
        Ok(Box::new(WatchedFile { file, name: name.to_owned(), hook: Arc::clone(&self.hook) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)(Call::Rename, to)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)(Call::Remove, name)?;
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        (self.hook)(Call::SyncNames, "")?;
        self.disk.sync_names()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct WatchedFile {
    file: Box<dyn DiskFile>,
    name: String,
    hook: Arc<Hook>,
}

impl DiskFile for WatchedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.hook)(Call::Write, &self.name)?;
        self.file.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.hook)(Call::Sync, &self.name)?;
        self.file.sync()
    }
}
