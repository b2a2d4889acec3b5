//! Group commit: many commits share one sync, and nobody waits with a lock held.
//!
//! Commits are appended to the open frame in memory. Whoever waits and finds no leader becomes
//! the leader: takes the open frame, writes and syncs it with no lock held, publishes `durable`
//! and wakes everyone it covers. Then it hands over to a thread that waits for the next frame, or
//! to the service thread if only futures do. (DeWitt et al., Implementation Techniques for Main
//! Memory Database Systems, 1984, section 5.2.)

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use crossbeam_utils::CachePadded;

use crate::clock::Timestamp;
use crate::error::{Error, Outcome, Result};
use crate::log::frame::{FrameBuilder, Seal};
use crate::log::room::{Budget, Room, charge};
use crate::log::waiters::{NEXT, Ticket, Waiters};
use crate::log::writer::{SEAL, SegmentWriter};
use crate::options::Durability;
use crate::service::Service;
use crate::sync::{AtomicU64, Level, Mutex, MutexGuard, Ordering, Parker, parker, wake_all};
use crate::watchers::Watchers;

pub(crate) struct Log {
    pub(super) open: CachePadded<Mutex<Open>>,
    /// The highest version that no power cut can take back.
    pub(super) durable: CachePadded<AtomicU64>,
    /// What readers see where nothing waits to be durable.
    everything: AtomicU64,
    pub(super) queue: CachePadded<Mutex<Queue>>,
    /// Whoever waits for more to be shown, and leads nothing.
    pub(super) watchers: Arc<Watchers>,
    pub(super) service: Arc<Service>,
    pub(super) durability: Durability,
    /// The directory, for messages.
    path: PathBuf,
    pub(super) this: Weak<Log>,
}

/// The frame that commits are appended to. Locked under the lock of a stripe.
pub(super) struct Open {
    pub(super) frame: FrameBuilder,
    pub(super) budget: Budget,
    last_time: Timestamp,
    /// The service thread has to lead: a future appended to the frame, or the thread was asked to
    /// while somebody else led.
    pub(super) for_service: bool,
    /// The service thread has been asked to lead when the interval is over.
    pub(super) lead_due: bool,
    /// Whoever leads next has to sync, whatever the durability.
    pub(super) flush: bool,
    pub(super) refusal: Option<Refusal>,
}

/// Why nothing can be appended any more.
#[derive(Clone)]
pub(super) enum Refusal {
    Closed,
    Poisoned(Arc<io::Error>),
}

/// Who leads and who waits. Locked before `open`, and never while a stripe is locked.
#[derive(Default)]
pub(super) struct Queue {
    /// Absent while somebody leads, and for ever after a failure or the end.
    pub(super) writer: Option<SegmentWriter>,
    pub(super) waiters: Waiters,
    pub(super) poison: Option<Arc<io::Error>>,
    /// Somebody has taken the writer to close the log.
    closed: bool,
    /// The log is closed: nothing is written any more.
    sealed: bool,
    /// How often space was asked for in vain, and the last time.
    pub(super) shortages: u64,
    pub(super) shortage: Option<Shortage>,
    /// Whether a seal has been asked for, for when the log is idle.
    pub(super) seal_due: bool,
    /// When a frame was written last.
    pub(super) written_at: std::time::Duration,
    /// The buffer of the last frame, to be used again.
    pub(super) spare: Vec<u8>,
}

/// There was less space than was wanted.
pub(super) struct Shortage {
    /// What the system said.
    pub(super) source: Arc<io::Error>,
    /// Bytes that a frame may have all the same: what needs no more just has to wait.
    pub(super) room: u64,
}

impl Queue {
    /// Whether nothing will be written any more.
    pub(super) fn is_over(&self) -> bool {
        self.closed || self.poison.is_some()
    }
}

/// What an append got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) version: u64,
    /// Never decreases in version order.
    pub(crate) written_at: Timestamp,
    /// The first version of the frame that it lies in.
    pub(crate) open_from: u64,
    /// Nobody waits for it, and the service thread has not been asked yet.
    asks: bool,
    /// Versions before it are no commit's.
    pub(crate) left_out: bool,
}

impl Stamp {
    /// In memory each commit stands for itself.
    pub(crate) fn alone(version: u64, written_at: Timestamp, left_out: bool) -> Stamp {
        Stamp { version, written_at, open_from: version, asks: false, left_out }
    }

    /// The place in the order of commits.
    pub(crate) fn place(&self) -> (u64, Timestamp) {
        (self.version, self.written_at)
    }
}

impl Log {
    /// Continues after what was recovered: `next_version` is the first to be given out.
    pub(crate) fn new(
        writer: SegmentWriter,
        next_version: u64,
        last_time: Timestamp,
        service: Arc<Service>,
        durability: Durability,
        path: PathBuf,
        watchers: Arc<Watchers>,
    ) -> Arc<Log> {
        let budget = Budget::new(writer.room_after(0, next_version), writer.ceiling());
        let frame = FrameBuilder::new(next_version, Vec::new());
        let (for_service, lead_due, flush, refusal) = (false, false, false, None);
        let open = Open { frame, budget, last_time, for_service, lead_due, flush, refusal };
        let queue = Queue { writer: Some(writer), ..Queue::default() };
        Arc::new_cyclic(|this| Log {
            open: CachePadded::new(Mutex::new(Level::OpenFrame, open)),
            durable: CachePadded::new(AtomicU64::new(next_version - 1)),
            everything: AtomicU64::new(u64::MAX),
            queue: CachePadded::new(Mutex::new(Level::LogQueue, queue)),
            watchers,
            service,
            durability,
            path,
            this: Weak::clone(this),
        })
    }

    /// The highest version that no power cut can take back.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The highest version that may be shown.
    pub(crate) fn shown(&self) -> &AtomicU64 {
        match self.durability {
            Durability::Sync => &self.durable,
            Durability::Interval(_) | Durability::None => &self.everything,
        }
    }

    /// Blocks until there is room for a record with a payload of so many bytes.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Poisoned`] and [`Error::Limit`]; nothing was written.
    pub(crate) fn reserve(&self, payload: usize) -> Result<Room<'_>> {
        let parker = parker();
        let mut ticket = Ticket::default();
        loop {
            if let Some(room) = self.try_reserve(payload)? {
                return Ok(room);
            }
            let queue = self.queue.lock();
            self.check_room(&queue, &mut ticket, payload)?;
            self.lead_or_wait(queue, &mut ticket, NEXT, &parker);
        }
    }

    /// As [`reserve`](Log::reserve), for a future: never blocks on the disk.
    pub(crate) fn poll_reserve(
        &self,
        payload: usize,
        ticket: &mut Ticket,
        waker: &Waker,
    ) -> Poll<Result<Room<'_>>> {
        if let Some(room) = self.try_reserve(payload)? {
            return Poll::Ready(Ok(room));
        }
        // Cloning and dropping a waker may run code of the caller's runtime: not under the lock.
        let waker = waker.clone();
        let queue = self.queue.lock();
        // A leader may have been done meanwhile, and asks once what is wanted.
        if let Some(room) = self.try_reserve(payload)? {
            return Poll::Ready(Ok(room));
        }
        self.check_room(&queue, ticket, payload)?;
        self.wake_later(queue, ticket, NEXT, waker);
        Poll::Pending
    }

    fn try_reserve(&self, payload: usize) -> Result<Option<Room<'_>>> {
        let mut open = self.open.lock();
        let Open { frame, budget, .. } = &mut *open;
        Ok(budget.take(frame, payload)?.map(|charge| Room::new(self, charge)))
    }

    pub(super) fn give_back(&self, charge: u64) {
        self.open.lock().budget.give_back(charge);
    }

    /// Whether waiting for room is of any use.
    fn check_room(&self, queue: &Queue, ticket: &mut Ticket, payload: usize) -> Result<()> {
        if let Some(source) = &queue.poison {
            let (outcome, source) = (Outcome::NotApplied, Arc::clone(source));
            return Err(Error::Poisoned { outcome, source });
        }
        if queue.closed {
            return Err(Error::Closed);
        }
        let before = *ticket.shortages.get_or_insert(queue.shortages);
        match &queue.shortage {
            Some(Shortage { source, room })
                if queue.shortages > before && charge(payload) > *room =>
            {
                let (path, source) = (self.path.clone(), Arc::clone(source));
                Err(Error::DiskFull { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Appends a commit for which there is room. Its place in the log is its version. It is
    /// written sooner or later, whether anybody waits or not.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Poisoned`]; nothing was appended then.
    pub(crate) fn append(
        &self,
        now: Timestamp,
        by_future: bool,
        room: Room<'_>,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Stamp> {
        let charge = room.spend();
        let mut open = self.open.lock();
        open.budget.give_back(charge);
        open.refuse()?;
        let written_at = open.last_time.max(now);
        open.last_time = written_at;
        open.for_service |= by_future && matches!(self.durability, Durability::Sync);
        let asks = open.frame.is_empty()
            && match self.durability {
                Durability::Sync => false,
                Durability::Interval(_) => !std::mem::replace(&mut open.lead_due, true),
                Durability::None => true,
            };
        let (version, open_from) = (open.frame.next_version(), open.frame.first_version());
        open.frame.push(written_at, payload);
        Ok(Stamp { version, written_at, open_from, asks, left_out: false })
    }

    /// Sees to it that what was appended is written although nobody waits. To be called when no
    /// stripe is locked any more.
    pub(crate) fn appended(&self, stamp: Stamp) {
        match self.durability {
            Durability::Interval(interval) if stamp.asks => self.lead_after(interval),
            Durability::None if stamp.asks => self.service.lead(),
            _ => {}
        }
    }

    /// The last version that was appended, durable or not, and its time.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Poisoned`].
    pub(crate) fn position(&self) -> Result<(u64, Timestamp)> {
        let open = self.open.lock();
        open.refuse()?;
        Ok((open.frame.next_version() - 1, open.last_time))
    }

    /// The last version that was appended, after the end too.
    pub(crate) fn last_version(&self) -> u64 {
        self.open.lock().frame.next_version() - 1
    }

    /// The highest version that is shown, of those that were given out.
    pub(crate) fn last_shown(&self) -> u64 {
        match self.durability {
            Durability::Sync => self.durable(),
            Durability::Interval(_) | Durability::None => self.last_version(),
        }
    }

    /// Why no more will be shown.
    pub(crate) fn failure(&self) -> Option<Error> {
        let source = self.queue.lock().poison.clone()?;
        Some(Error::Poisoned { outcome: Outcome::NotApplied, source })
    }

    /// Blocks until `version` may be shown. Leads where nobody does.
    ///
    /// # Errors
    /// [`Error::Poisoned`], the outcome unknown: the sync that should have covered it failed.
    pub(crate) fn wait(&self, version: u64) -> Result<()> {
        self.wait_until(self.shown(), version)
    }

    /// Makes durable what was appended so far, whatever the durability.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub(crate) fn flush(&self) -> Result<()> {
        let last = {
            let mut open = self.open.lock();
            let last = open.frame.next_version() - 1;
            open.flush |= self.durable() < last;
            last
        };
        self.wait_until(&self.durable, last)
    }

    fn wait_until(&self, reached: &AtomicU64, version: u64) -> Result<()> {
        let parker = parker();
        let mut ticket = Ticket::default();
        while reached.load(Ordering::Acquire) < version {
            let queue = self.queue.lock();
            if let Poll::Ready(answer) = answer(&queue, reached, version) {
                return answer;
            }
            self.lead_or_wait(queue, &mut ticket, version, &parker);
        }
        Ok(())
    }

    /// Leads if nobody does; else sleeps until woken.
    fn lead_or_wait(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        ticket: &mut Ticket,
        version: u64,
        parker: &Parker,
    ) {
        if let Some(writer) = queue.writer.take() {
            drop(queue);
            self.lead(writer);
        } else {
            queue.waiters.enlist(ticket, version, parker.waker().clone(), true);
            drop(queue);
            parker.park(None);
        }
    }

    /// Has the future woken, and the service thread lead if nobody does.
    fn wake_later(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        ticket: &mut Ticket,
        version: u64,
        waker: Waker,
    ) {
        let replaced = queue.waiters.enlist(ticket, version, waker, false);
        // A leader that is at work sees `for_service` when it is done.
        let nobody_leads = queue.writer.is_some();
        drop(queue);
        drop(replaced);
        if nobody_leads {
            self.service.lead();
        }
    }

    /// As [`wait`](Log::wait), for a future: never blocks on the disk.
    pub(crate) fn poll_shown(
        &self,
        version: u64,
        ticket: &mut Ticket,
        waker: &Waker,
    ) -> Poll<Result<()>> {
        if self.shown().load(Ordering::Acquire) >= version {
            return Poll::Ready(Ok(()));
        }
        let waker = waker.clone();
        let queue = self.queue.lock();
        let answer = answer(&queue, self.shown(), version);
        if answer.is_pending() {
            self.wake_later(queue, ticket, version, waker);
        }
        answer
    }

    /// Refuses further appends, makes durable what was appended, and seals the log.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a sync failed, now or before. What was acknowledged is durable.
    pub(crate) fn close(&self) -> Result<()> {
        self.open.lock().refusal.get_or_insert(Refusal::Closed);
        self.flush().map_err(Error::nothing_written)?;
        let Some(mut writer) = self.take_writer()? else { return Ok(()) };
        let next_version = self.open.lock().frame.first_version();
        // Where nothing was written, what was there before is closed already.
        let sealed = match writer.has_segment() {
            true => {
                let placed = writer.place(SEAL, next_version);
                placed.and_then(|()| writer.seal(next_version, Seal::Closed))
            }
            false => Ok(()),
        };
        writer.discard_spare();
        sealed.map_err(|source| self.poison(source))?;
        let mut queue = self.queue.lock();
        queue.sealed = true;
        let closing = queue.waiters.covered(u64::MAX);
        drop(queue);
        wake_all(closing);
        Ok(())
    }

    /// Waits for the writer and keeps it, so that nobody leads any more. `None` if somebody else
    /// has done so, and is done with it.
    fn take_writer(&self) -> Result<Option<SegmentWriter>> {
        let parker = parker();
        let mut ticket = Ticket::default();
        loop {
            let mut queue = self.queue.lock();
            if let Some(source) = &queue.poison {
                let (outcome, source) = (Outcome::NotApplied, Arc::clone(source));
                return Err(Error::Poisoned { outcome, source });
            }
            if queue.sealed {
                return Ok(None);
            }
            if let Some(writer) = queue.writer.take() {
                queue.closed = true;
                // Whoever waits for room finds the store closed.
                let waiting = queue.waiters.covered(u64::MAX);
                drop(queue);
                wake_all(waiting);
                return Ok(Some(writer));
            }
            queue.waiters.enlist(&mut ticket, NEXT, parker.waker().clone(), true);
            drop(queue);
            parker.park(None);
        }
    }
}

impl Open {
    fn refuse(&self) -> Result<()> {
        match &self.refusal {
            None => Ok(()),
            Some(Refusal::Closed) => Err(Error::Closed),
            Some(Refusal::Poisoned(source)) => {
                let (outcome, source) = (Outcome::NotApplied, Arc::clone(source));
                Err(Error::Poisoned { outcome, source })
            }
        }
    }
}

/// What there is to answer to whoever waits for `version`.
fn answer(queue: &Queue, reached: &AtomicU64, version: u64) -> Poll<Result<()>> {
    if reached.load(Ordering::Acquire) >= version {
        return Poll::Ready(Ok(()));
    }
    match &queue.poison {
        None => Poll::Pending,
        Some(source) => {
            let (outcome, source) = (Outcome::Unknown, Arc::clone(source));
            Poll::Ready(Err(Error::Poisoned { outcome, source }))
        }
    }
}
