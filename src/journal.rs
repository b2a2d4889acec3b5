//! The one order of a store's commits: a counter in memory, or the write-ahead log on disk.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crossbeam_utils::CachePadded;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Result};
use crate::log::{Log, Stamp, Ticket};
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
    /// [`Error::Closed`] and [`Error::Poisoned`], and what `check` says to the bytes that are
    /// pending already; nothing was appended then.
    pub(crate) fn append(
        &self,
        clock: &dyn Clock,
        by_future: bool,
        check: impl FnOnce(usize) -> Result<()>,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Stamp> {
        match self {
            Journal::Memory(counter) => counter.next(clock),
            Journal::Log(log) => log.append(clock.now().into(), by_future, check, payload),
        }
    }

    pub(crate) fn durable(&self) -> &AtomicU64 {
        match self {
            Journal::Memory(counter) => &counter.durable,
            Journal::Log(log) => log.durable(),
        }
    }

    /// Whether records are kept, so that values have to be encoded.
    pub(crate) fn keeps_records(&self) -> bool {
        matches!(self, Journal::Log(_))
    }

    /// Blocks until there is room for one more record.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub(crate) fn make_room(&self) -> Result<()> {
        match self {
            Journal::Memory(_) => Ok(()),
            Journal::Log(log) => match log.full() {
                None => Ok(()),
                Some(version) => log.wait(version).map_err(Error::nothing_written),
            },
        }
    }

    /// As [`make_room`](Journal::make_room), for a future.
    pub(crate) fn poll_room(&self, ticket: &mut Ticket, waker: &Waker) -> Poll<Result<()>> {
        match self {
            Journal::Memory(_) => Poll::Ready(Ok(())),
            Journal::Log(log) => match log.full() {
                None => Poll::Ready(Ok(())),
                Some(version) => {
                    log.poll_durable(version, ticket, waker).map_err(Error::nothing_written)
                }
            },
        }
    }

    /// Blocks until no power cut can take back what rests on `version`.
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
            Journal::Log(log) => log.poll_durable(version, ticket, waker),
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
    durable: AtomicU64,
    closed: AtomicBool,
}

/// The time is a word that all writers share: moving it for each would cost more than the write.
const TICK: u64 = 1_000;

impl Counter {
    pub(crate) fn new() -> Counter {
        Counter {
            last: CachePadded::new(AtomicU64::new(0)),
            time: CachePadded::new(AtomicU64::new(0)),
            durable: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
        }
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
        loop {
            let time = self.time.load(Ordering::Relaxed);
            let version = self.last.fetch_add(1, Ordering::AcqRel) + 1;
            if self.time.load(Ordering::Relaxed) == time {
                let written_at = Timestamp(time);
                return Ok(Stamp { version, written_at, open_from: version });
            }
        }
    }
}
