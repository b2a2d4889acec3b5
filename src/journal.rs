//! The one order of a store's commits: a counter in memory, or the write-ahead log on disk.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crossbeam_utils::CachePadded;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Result};
use crate::feed::Publisher;
use crate::log::{Log, Room, Stamp, Ticket};
use crate::sync::{AtomicBool, AtomicU64, Ordering};

#[allow(clippy::large_enum_variant, reason = "there is one per store")]
pub(crate) enum Journal {
    Memory(Counter),
    Log(Arc<Log>),
}

impl Journal {
    /// The next place in the order. `payload` writes the record, where one is kept.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Poisoned`]; nothing was appended then.
    pub(crate) fn append(
        &self,
        clock: &dyn Clock,
        by_future: bool,
        room: Room<'_>,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Stamp> {
        match self {
            Journal::Memory(counter) => counter.next(clock),
            Journal::Log(log) => log.append(clock.now().into(), by_future, room, payload),
        }
    }

    /// The last version that was given out.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Poisoned`].
    pub(crate) fn position(&self) -> Result<u64> {
        match self {
            Journal::Memory(counter) => counter.last(),
            Journal::Log(log) => log.position().map(|(version, _)| version),
        }
    }

    /// What has to be done after an append, when no stripe is locked any more.
    pub(crate) fn appended(&self, stamp: Stamp) {
        if let Journal::Log(log) = self {
            log.appended(stamp);
        }
    }

    /// The highest version that readers may see.
    pub(crate) fn shown(&self) -> &AtomicU64 {
        match self {
            Journal::Memory(counter) => &counter.everything,
            Journal::Log(log) => log.shown(),
        }
    }

    /// The last version that was given out. Whoever gets one after this has been asked sees what
    /// was done before.
    pub(crate) fn last_version(&self) -> u64 {
        match self {
            // A read-modify-write takes its place among those that give versions out.
            Journal::Memory(counter) => counter.last.fetch_add(0, Ordering::AcqRel),
            Journal::Log(log) => log.last_version(),
        }
    }

    /// The highest version that readers see, of those that were given out. In memory its entities
    /// may be about to be installed, with their stripes locked.
    pub(crate) fn last_shown(&self) -> u64 {
        match self {
            Journal::Memory(_) => self.last_version(),
            Journal::Log(log) => log.last_shown(),
        }
    }

    /// Whether readers see what was appended, durable or not: then no leader tells of it.
    pub(crate) fn shows_at_once(&self) -> bool {
        self.shown().load(Ordering::Acquire) == u64::MAX
    }

    /// Why no more will be shown, if that is so.
    pub(crate) fn failure(&self) -> Option<Error> {
        match self {
            Journal::Memory(_) => None,
            Journal::Log(log) => log.failure(),
        }
    }

    /// The highest version that no power cut can take back; in memory there is none.
    pub(crate) fn durable(&self) -> u64 {
        match self {
            Journal::Memory(_) => 0,
            Journal::Log(log) => log.durable(),
        }
    }

    /// Whether records are kept, so that values have to be encoded.
    pub(crate) fn keeps_records(&self) -> bool {
        matches!(self, Journal::Log(_))
    }

    /// Blocks until there is room for a record with a payload of so many bytes.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Poisoned`], [`Error::Closed`] and [`Error::Limit`]; nothing
    /// was written then.
    pub(crate) fn reserve(&self, payload: usize) -> Result<Room<'_>> {
        match self {
            Journal::Memory(_) => Ok(Room::default()),
            Journal::Log(log) => log.reserve(payload),
        }
    }

    /// As [`reserve`](Journal::reserve), for a future.
    pub(crate) fn poll_reserve(
        &self,
        payload: usize,
        ticket: &mut Ticket,
        waker: &Waker,
    ) -> Poll<Result<Room<'_>>> {
        match self {
            Journal::Memory(_) => Poll::Ready(Ok(Room::default())),
            Journal::Log(log) => log.poll_reserve(payload, ticket, waker),
        }
    }

    /// Blocks until what rests on `version` may be told.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub(crate) fn wait(&self, version: u64) -> Result<()> {
        match self {
            Journal::Memory(_) => Ok(()),
            Journal::Log(log) => log.wait(version),
        }
    }

    /// As [`wait`](Journal::wait), for a future.
    pub(crate) fn poll(
        &self,
        version: u64,
        ticket: &mut Ticket,
        waker: &Waker,
    ) -> Poll<Result<()>> {
        match self {
            Journal::Memory(_) => Poll::Ready(Ok(())),
            Journal::Log(log) => log.poll_shown(version, ticket, waker),
        }
    }

    /// Makes durable what was committed so far.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub(crate) fn flush(&self) -> Result<()> {
        match self {
            Journal::Memory(_) => Ok(()),
            Journal::Log(log) => log.flush(),
        }
    }

    /// Refuses further commits, and seals the log.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub(crate) fn close(&self) -> Result<()> {
        match self {
            Journal::Memory(counter) => {
                counter.closed.store(true, Ordering::Release);
                Ok(())
            }
            Journal::Log(log) => log.close(),
        }
    }
}

/// Versions for a store in memory, where everything counts as durable at once.
pub(crate) struct Counter {
    last: CachePadded<AtomicU64>,
    /// Microseconds; moves in steps of at least [`TICK`].
    time: CachePadded<AtomicU64>,
    /// What readers may see.
    everything: AtomicU64,
    closed: AtomicBool,
    feed: Arc<Publisher>,
}

/// The time is a word that all writers share: moving it for each would cost more than the write.
const TICK: u64 = 1_000;

impl Counter {
    pub(crate) fn new(feed: Arc<Publisher>) -> Counter {
        Counter {
            last: CachePadded::new(AtomicU64::new(0)),
            time: CachePadded::new(AtomicU64::new(0)),
            everything: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
            feed,
        }
    }

    fn last(&self) -> Result<u64> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(self.last.load(Ordering::Acquire))
    }

    /// A version, and a time that never decreases in version order.
    ///
    /// The time must be the same before and after the version is drawn; else the version is
    /// left out and another drawn. Whoever draws a lower version and sees an unmoved time
    /// afterwards drew before whoever saw the moved time beforehand: the read-modify-writes of
    /// `last` order the two, and coherence of `time` does the rest.
    fn next(&self, clock: &dyn Clock) -> Result<Stamp> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let now = Timestamp::from(clock.now()).0;
        if now >= self.time.load(Ordering::Relaxed) + TICK {
            self.time.fetch_max(now, Ordering::AcqRel);
        }
        let mut left_out = false;
        loop {
            let time = self.time.load(Ordering::Relaxed);
            let version = self.last.fetch_add(1, Ordering::AcqRel) + 1;
            if self.time.load(Ordering::Relaxed) == time {
                let written_at = Timestamp(time);
                return Ok(Stamp::alone(version, written_at, left_out));
            }
            left_out = true;
            self.feed.leave_out(version);
        }
    }
}
