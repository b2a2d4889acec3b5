//! A disk in memory that can lose power: what was not synced is then gone.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::sync::Mutex;

/// A disk in memory, shared by its clones.
///
/// ```
/// use std::sync::Arc;
/// use ifmatch::{Store, testing::MemoryDisk};
///
/// let disk = MemoryDisk::new();
/// let store = Store::builder().open_on(Arc::new(disk.clone()))?;
/// let jobs = store.collection::<u64, String>("jobs")?;
/// jobs.create(1, "paid".to_owned()).commit()?;
///
/// let after = disk.power_cut(0);
/// let store = Store::builder().open_on(Arc::new(after))?;
/// let jobs = store.collection::<u64, String>("jobs")?;
/// assert!(jobs.contains(1)?);
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Node>,
    /// The names as of the last sync of them.
    synced: BTreeMap<String, Node>,
    holder: std::sync::Weak<()>,
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisk").finish_non_exhaustive()
    }
}

type Node = Arc<Mutex<Content>>;

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync: where, what.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// The disk as it would be found after losing power now: only what was synced, and of each
    /// file's later writes the first `survivors`. This disk goes on as if nothing had happened.
    pub fn power_cut(&self, survivors: usize) -> MemoryDisk {
        let state = self.state.lock();
        let names: BTreeMap<String, Node> = state
            .synced
            .iter()
            .map(|(name, node)| (name.clone(), node.lock().after_power_cut(survivors)))
            .collect();
        let synced = names.clone();
        let state = State { names, synced, ..State::default() };
        MemoryDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes a stored file behind the store's back. `false` if there is no such file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(node) = self.state.lock().names.get(name).cloned() else { return false };
        let mut content = node.lock();
        change(&mut content.bytes);
        content.synced = content.bytes.clone();
        content.unsynced.clear();
        true
    }
}

impl Content {
    fn after_power_cut(&self, survivors: usize) -> Node {
        let mut bytes = self.synced.clone();
        for (offset, written) in self.unsynced.iter().take(survivors) {
            write(&mut bytes, *offset, written);
        }
        let synced = bytes.clone();
        Arc::new(Mutex::new(Content { bytes, synced, unsynced: Vec::new() }))
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(offset..end) {
        place.copy_from_slice(written);
    }
}

impl Disk for MemoryDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state.lock();
        if state.holder.strong_count() > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let holder = Arc::new(());
        state.holder = Arc::downgrade(&holder);
        Ok(Box::new(holder))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let node = self.state.lock().names.get(name).cloned();
        Ok(node.ok_or(io::ErrorKind::NotFound)?.lock().bytes.clone())
    }

    fn read_at(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read(name)?;
        let offset = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
        bytes.drain(..offset);
        bytes.truncate(len);
        Ok(bytes)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.read(name).map(|bytes| bytes.len() as u64)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let node = Node::default();
        self.state.lock().names.insert(name.to_owned(), Arc::clone(&node));
        Ok(Box::new(MemoryFile(node)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state.lock().names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.synced = state.names.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("memory:").join(name)
    }
}

struct MemoryFile(Node);

impl DiskFile for MemoryFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut content = self.0.lock();
        write(&mut content.bytes, offset, bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut content = self.0.lock();
        let Content { synced, unsynced, .. } = &mut *content;
        for (offset, written) in unsynced.drain(..) {
            write(synced, offset, &written);
        }
        Ok(())
    }
}
