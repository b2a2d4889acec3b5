//! A disk in memory whose calls a test can hold up or fail.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ifmatch::testing::{Disk, DiskFile, MemoryDisk};

/// A call that a hook may refuse, before it is done.
pub enum Call<'a> {
    Create(&'a str),
    /// At this offset.
    Write(u64),
    Sync,
}

type Hook = dyn Fn(Call<'_>) -> io::Result<()> + Send + Sync;

#[derive(Clone)]
pub struct Hooked {
    pub disk: MemoryDisk,
    hook: Arc<Hook>,
}

impl Hooked {
    pub fn new(
        disk: MemoryDisk,
        hook: impl Fn(Call<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Hooked {
        Hooked { disk, hook: Arc::new(hook) }
    }
}

impl Disk for Hooked {
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
        (self.hook)(Call::Create(name))?;
        Ok(Box::new(HookedFile { file: self.disk.create(name)?, hook: Arc::clone(&self.hook) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct HookedFile {
    file: Box<dyn DiskFile>,
    hook: Arc<Hook>,
}

impl DiskFile for HookedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.hook)(Call::Write(offset))?;
        self.file.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.hook)(Call::Sync)?;
        self.file.sync()
    }
}

/// Where syncs can be made to wait.
#[derive(Default)]
pub struct Gate {
    state: std::sync::Mutex<(bool, usize)>,
    changed: std::sync::Condvar,
}

impl Gate {
    pub fn set_shut(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.changed.notify_all();
    }

    /// Waits while it is shut.
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(shut, _)| *shut).unwrap());
        self.state.lock().unwrap().1 -= 1;
    }

    /// Returns when somebody waits at the gate.
    pub fn until_somebody_waits(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |(shut, waiting)| !*shut || *waiting == 0).unwrap());
    }
}
