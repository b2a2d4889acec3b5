//! The configurations that every guarantee is tested over.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod hooked;

use std::sync::Arc;

use ifmatch::testing::MemoryDisk;
use ifmatch::{Store, StoreBuilder};

/// A place where a store can be opened, closed and opened again.
pub struct Configuration {
    pub name: &'static str,
    stripes: usize,
    place: Place,
}

enum Place {
    Memory,
    Disk(tempfile::TempDir),
    MemoryDisk(MemoryDisk),
}

impl Configuration {
    pub fn builder(&self) -> StoreBuilder {
        Store::builder().stripes(self.stripes)
    }

    pub fn open(&self) -> Store {
        self.open_with(self.builder())
    }

    pub fn open_with(&self, builder: StoreBuilder) -> Store {
        self.try_open_with(builder).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    pub fn try_open(&self) -> ifmatch::Result<Store> {
        self.try_open_with(self.builder())
    }

    fn try_open_with(&self, builder: StoreBuilder) -> ifmatch::Result<Store> {
        match &self.place {
            Place::Memory => Ok(builder.in_memory()),
            Place::Disk(directory) => builder.open(directory.path()),
            Place::MemoryDisk(disk) => builder.open_on(Arc::new(disk.clone())),
        }
    }

    /// Whether what was written is there after closing and opening.
    pub fn is_durable(&self) -> bool {
        !matches!(self.place, Place::Memory)
    }
}

/// Memory, a directory of the file system and a disk in memory; one stripe and many.
pub fn configurations() -> Vec<Configuration> {
    let mut all = Vec::new();
    for stripes in [1, 64] {
        let disk = tempfile::tempdir().unwrap();
        for (name, place) in [
            ("memory", Place::Memory),
            ("disk", Place::Disk(disk)),
            ("memory disk", Place::MemoryDisk(MemoryDisk::new())),
        ] {
            all.push(Configuration { name, stripes, place });
        }
    }
    all
}

/// Runs `test` on a fresh store of each configuration.
pub fn everywhere(test: impl Fn(&Configuration, Store)) {
    for configuration in configurations() {
        let store = configuration.open();
        test(&configuration, store);
    }
}

/// Runs a future on the calling thread: no runtime is needed.
pub fn block_on<F: IntoFuture>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future.into_future());
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// Prints a line in spite of libtest, which keeps what tests print to itself: what was tried is to
/// be seen in CI.
pub fn report(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}
