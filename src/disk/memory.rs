//! A disk in memory that loses power at any call, fails when told to, and runs full.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use crate::disk::fault::{Call, Crash, Fault, Names, PowerCut, Unsynced};
use crate::disk::medium::{Change, Medium};
use crate::disk::{Disk, DiskFile};
use crate::sync::{Level, Mutex};

/// A disk in memory, shared by its clones. It keeps a log of the calls that change it, so that
/// it can be had as it was found after a crash at any of them.
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
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    /// As the disk was when its life began.
    start: Medium,
    now: Medium,
    calls: Vec<Change>,
    counts: [u64; Call::ALL.len()],
    faults: Vec<Fault>,
    injected: u64,
    capacity: usize,
    holder: Weak<()>,
}

impl Default for MemoryDisk {
    fn default() -> MemoryDisk {
        MemoryDisk::starting_with(Medium::default())
    }
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisk").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    fn starting_with(medium: Medium) -> MemoryDisk {
        // By itself: so it is an offence to use the disk with a lock of the store held.
        let level = Level::Alone("disk in memory");
        MemoryDisk { state: Arc::new(Mutex::new(level, State::starting_with(medium))) }
    }

    /// How many calls have changed it, or failed to.
    pub fn calls(&self) -> usize {
        self.state.lock().calls.len()
    }

    /// How many calls of a kind there were.
    pub fn count(&self, call: Call) -> u64 {
        self.state.lock().counts.get(call as usize).copied().unwrap_or_default()
    }

    /// The disk as it would be found after a crash after the first `calls` calls. This disk goes
    /// on as if nothing had happened. The new one counts from zero, and has no faults.
    pub fn crash(&self, calls: usize, crash: Crash) -> MemoryDisk {
        let state = self.state.lock();
        let mut medium = state.start.clone();
        state.calls.iter().take(calls).for_each(|call| medium.apply(call));
        drop(state);
        if let Crash::Power(cut) = crash {
            medium = medium.after_power_cut(&cut);
        }
        MemoryDisk::starting_with(medium)
    }

    /// The disk as it would be found after losing power now: only what was synced, and of each
    /// file's later writes the first `survivors`. This disk goes on as if nothing had happened.
    pub fn power_cut(&self, survivors: usize) -> MemoryDisk {
        let (writes, names) = (Unsynced::First(survivors), Names::Dropped);
        self.crash(usize::MAX, Crash::Power(PowerCut { writes, names, seed: 0 }))
    }

    /// Makes calls fail.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// How many calls failed because of a fault or for want of space.
    pub fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    /// Bytes that all files together may have. A write beyond it writes what fits, and fails.
    pub fn set_capacity(&self, bytes: usize) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> usize {
        self.state.lock().now.used()
    }

    /// Changes a stored file behind the store's back. `false` if there is no such file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.lock();
        let Some(node) = state.now.node(name) else { return false };
        let mut bytes = state.now.bytes(node).to_vec();
        change(&mut bytes);
        state.record(Change::Damage { node, bytes: bytes.into() });
        true
    }

    fn read_with<T>(&self, read: impl FnOnce(&Medium) -> Option<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        state.enter(Call::Read)?;
        read(&state.now).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl State {
    fn starting_with(medium: Medium) -> State {
        State {
            start: medium.clone(),
            now: medium,
            calls: Vec::new(),
            counts: [0; Call::ALL.len()],
            faults: Vec::new(),
            injected: 0,
            capacity: usize::MAX,
            holder: Weak::new(),
        }
    }

    fn record(&mut self, change: Change) {
        self.now.apply(&change);
        self.calls.push(change);
    }

    /// Counts the call. `Some` if it is to fail.
    fn fault(&mut self, call: Call) -> Option<Fault> {
        let count = self.counts.get_mut(call as usize)?;
        *count += 1;
        let now = *count;
        let due = |fault: &&Fault| fault.nth == now || (fault.lasting && fault.nth < now);
        let fault = self.faults.iter().filter(|fault| fault.call == call).find(due).copied();
        self.injected += u64::from(fault.is_some());
        fault
    }

    /// Counts a call that does nothing if it is to fail.
    fn enter(&mut self, call: Call) -> io::Result<()> {
        let Some(fault) = self.fault(call) else { return Ok(()) };
        if call != Call::Read {
            self.record(Change::Nothing);
        }
        Err(fault.error.into())
    }

    fn write(&mut self, node: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut fits = bytes.len();
        let mut failure = None;
        if let Some(fault) = self.fault(Call::Write) {
            fits = if fault.short { fits / 2 } else { 0 };
            failure = Some(fault.error);
        }
        let end = self.now.bytes(node).len();
        let grows = (offset + fits).saturating_sub(end);
        let room = self.capacity.saturating_sub(self.now.used());
        if grows > room {
            fits = fits.saturating_sub(grows - room);
            failure = Some(io::ErrorKind::StorageFull);
            self.injected += 1;
        }
        self.record(match bytes.get(..fits) {
            Some(bytes @ [_, ..]) => Change::Write { node, offset, bytes: bytes.into() },
            _ => Change::Nothing,
        });
        failure.map_or(Ok(()), |kind| Err(kind.into()))
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
        self.read_with(|now| Some(now.names().cloned().collect()))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.read_with(|now| Some(now.bytes(now.node(name)?).to_vec()))
    }

    fn read_at(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.read_with(|now| {
            let bytes = now.bytes(now.node(name)?);
            let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
            Some(rest.unwrap_or_default().iter().take(len).copied().collect())
        })
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.read_with(|now| Some(now.bytes(now.node(name)?).len() as u64))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.enter(Call::Create)?;
        state.record(Change::Create { name: name.to_owned() });
        let node = state.now.node(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), node }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(Call::Rename)?;
        state.now.node(from).ok_or(io::ErrorKind::NotFound)?;
        state.record(Change::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(Call::Remove)?;
        state.now.node(name).ok_or(io::ErrorKind::NotFound)?;
        state.record(Change::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(Call::SyncNames)?;
        state.record(Change::SyncNames);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("memory:").join(name)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    node: usize,
}

impl DiskFile for MemoryFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.state.lock().write(self.node, offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let node = self.node;
        let mut state = self.disk.state.lock();
        match state.fault(Call::Sync) {
            None => state.record(Change::Sync { node }),
            Some(fault) => {
                state.record(Change::FailedSync { node });
                return Err(fault.error.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(disk: &MemoryDisk, writes: Unsynced) -> Vec<u8> {
        let cut = PowerCut { writes, names: Names::Kept, seed: 3 };
        disk.crash(disk.calls(), Crash::Power(cut)).read("file").unwrap()
    }

    #[test]
    fn a_power_cut_drops_what_was_not_synced() {
        let disk = MemoryDisk::new();
        let mut file = disk.create("file").unwrap();
        assert!(disk.power_cut(0).list().unwrap().is_empty(), "the name was not synced");
        file.write_at(0, b"abc").unwrap();
        file.sync().unwrap();
        file.write_at(1, b"xyz").unwrap();
        assert_eq!(disk.read_at("file", 1, 2).unwrap(), b"xy");
        assert_eq!(cut(&disk, Unsynced::Dropped), b"abc");
        assert_eq!(cut(&disk, Unsynced::Kept), b"axyz");
        let earlier = disk.crash(2, Crash::Process);
        assert_eq!(earlier.read("file").unwrap(), b"abc");
        assert_eq!(cut(&earlier, Unsynced::Dropped), b"");
    }

    #[test]
    fn a_sync_after_one_that_failed_does_not_bring_the_pages_back() {
        let disk = MemoryDisk::new();
        let mut file = disk.create("file").unwrap();
        file.write_at(0, b"lost").unwrap();
        let error = io::ErrorKind::Other;
        disk.fail(Fault { call: Call::Sync, nth: 1, lasting: false, short: false, error });
        assert_eq!(file.sync().unwrap_err().kind(), error);
        file.write_at(4, b"kept").unwrap();
        file.sync().unwrap();
        assert_eq!(disk.read("file").unwrap(), b"lostkept");
        assert_eq!(cut(&disk, Unsynced::Dropped), b"\0\0\0\0kept");
        assert_eq!((disk.count(Call::Sync), disk.injected()), (2, 1));
    }

    #[test]
    fn any_of_the_sectors_survive_and_any_length() {
        let disk = MemoryDisk::new();
        let mut file = disk.create("file").unwrap();
        file.write_at(0, &[1; 2000]).unwrap();
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..2_000 {
            let cut = PowerCut { writes: Unsynced::Torn, names: Names::Prefix, seed };
            let after = disk.crash(2, Crash::Power(cut));
            let Ok(bytes) = after.read("file") else { continue };
            found.insert(bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>());
        }
        assert_eq!(found.len(), 1 + 16, "no length, or any of four sectors: {found:?}");
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = MemoryDisk::new();
        let mut file = disk.create("file").unwrap();
        disk.set_capacity(5);
        file.write_at(0, b"abc").unwrap();
        let error = file.write_at(2, b"CDEF").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read("file").unwrap(), b"abCDE");
        disk.set_capacity(6);
        file.write_at(2, b"CDEF").unwrap();
        assert_eq!(disk.used(), 6);
    }
}
