//! The seam to the operating system: one directory of files, and what may be done with it.

#![allow(unreachable_pub, reason = "public with the feature `testing` alone")]

#[cfg(any(test, feature = "testing", ifmatch_loom))]
mod fault;
mod file;
#[cfg(any(test, feature = "testing", ifmatch_loom))]
mod medium;
#[cfg(any(test, feature = "testing", ifmatch_loom))]
mod memory;

use std::io;
use std::path::PathBuf;

#[cfg(any(test, feature = "testing", ifmatch_loom))]
pub use fault::{Call, Crash, Fault, Names, PowerCut, Unsynced};
pub(crate) use file::Directory;
#[cfg(any(test, feature = "testing", ifmatch_loom))]
pub use memory::MemoryDisk;

/// A directory of files. Everything a store does to its directory goes through here, so that
/// tests can put another one in its place.
pub trait Disk: Send + Sync + 'static {
    /// Creates the directory where there is none.
    ///
    /// # Errors
    /// What the system says.
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }

    /// Keeps everybody else out for as long as the returned guard lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if somebody else has the lock.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// The names of the files.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A whole file.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::NotFound`] if there is no such file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Up to `len` bytes of a file from `offset` on; fewer where it ends.
    ///
    /// # Errors
    /// As [`read`](Disk::read).
    fn read_at(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Bytes of a file.
    ///
    /// # Errors
    /// As [`read`](Disk::read).
    fn len(&self, name: &str) -> io::Result<u64>;

    /// Creates a file, or empties it.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As [`read`](Disk::read).
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_names(&self) -> io::Result<()>;

    /// Where a file lies, for messages; with an empty name, the directory.
    fn path(&self, name: &str) -> PathBuf;
}

/// A file open for writing.
pub trait DiskFile: Send + 'static {
    /// Writes all of `bytes` at `offset`, growing the file where needed.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// What the system says. What was written may be lost then, and a later sync that succeeds
    /// does not bring it back.
    fn sync(&mut self) -> io::Result<()>;
}
