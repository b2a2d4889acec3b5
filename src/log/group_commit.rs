//! Group commit: many commits share one sync, and nobody waits with a lock held.
//!
//! Commits are appended to the open frame in memory. Whoever waits and finds no leader becomes
//! the leader: takes the open frame, writes and syncs it with no lock held, publishes `durable`
//! and wakes everyone it covers. Then it hands over to a thread that waits for the next frame, or
//! to the service thread if only futures do. (DeWitt et al., Implementation Techniques for Main
//! Memory Database Systems, 1984, section 5.2.)

use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crossbeam_utils::CachePadded;

use crate::clock::Timestamp;
use crate::error::{Error, Outcome, Result};
use crate::log::frame::FrameBuilder;
use crate::log::segment::SegmentWriter;
use crate::service::Service;
use crate::sync::{AtomicU64, Mutex, Ordering, parker, wake_all};

/// Whoever wants to append while the open frame is this long waits for the next one.
const FRAME_BYTES: usize = 8 << 20;

pub(crate) struct Log {
    open: CachePadded<Mutex<Open>>,
    /// The highest version that no power cut can take back.
    durable: CachePadded<AtomicU64>,
    queue: CachePadded<Mutex<Queue>>,
    service: Arc<Service>,
}

/// The frame that commits are appended to. Locked under the lock of a stripe.
struct Open {
    frame: FrameBuilder,
    last_time: Timestamp,
    /// A future appended to the frame: it does not lead, so the service thread has to.
    by_future: bool,
    refusal: Option<Refusal>,
}

/// Why nothing can be appended any more.
#[derive(Clone)]
enum Refusal {
    Closed,
    Poisoned(Arc<io::Error>),
}

/// Who waits. Locked before `open`, and never while a stripe is locked.
struct Queue {
    /// Absent while somebody leads, and for ever after a failure.
    writer: Option<SegmentWriter>,
    waiters: Vec<Waiter>,
    /// Counts the times that `waiters` was thinned out, which moves them.
    epoch: u64,
    poison: Option<Arc<io::Error>>,
    /// The buffer of the last frame, to be used again.
    spare: Vec<u8>,
}

struct Waiter {
    version: u64,
    waker: Waker,
    /// A thread can lead; a future must not block.
    can_lead: bool,
}

/// A waiter's place in the queue, so that asking again does not queue twice.
#[derive(Default)]
pub(crate) struct Ticket(Option<(u64, usize)>);

/// What an append got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) version: u64,
    /// Never decreases in version order.
    pub(crate) written_at: Timestamp,
    /// The first version of the frame that it lies in.
    pub(crate) open_from: u64,
}

impl Log {
    /// Continues after what was recovered: `next_version` is the first to be given out.
    pub(crate) fn new(
        writer: SegmentWriter,
        next_version: u64,
        last_time: Timestamp,
        service: Arc<Service>,
    ) -> Log {
        let frame = FrameBuilder::new(next_version, Vec::new());
        let open = Open { frame, last_time, by_future: false, refusal: None };
        let queue = Queue {
            writer: Some(writer),
            waiters: Vec::new(),
            epoch: 0,
            poison: None,
            spare: Vec::new(),
        };
        Log {
            open: CachePadded::new(Mutex::new(open)),
            durable: CachePadded::new(AtomicU64::new(next_version - 1)),
            queue: CachePadded::new(Mutex::new(queue)),
            service,
        }
    }

    pub(crate) fn durable(&self) -> &AtomicU64 {
        &self.durable
    }

    /// Appends a commit. Its place in the log is its version. It is synced sooner or later,
    /// whether anybody waits or not.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Poisoned`], and what `check` says to the bytes that are
    /// pending already; nothing was appended then.
    pub(crate) fn append(
        &self,
        now: Timestamp,
        by_future: bool,
        check: impl FnOnce(usize) -> Result<()>,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Stamp> {
        let mut open = self.open.lock();
        check(open.frame.len())?;
        match &open.refusal {
            None => {}
            Some(Refusal::Closed) => return Err(Error::Closed),
            Some(Refusal::Poisoned(source)) => {
                let (outcome, source) = (Outcome::NotApplied, Arc::clone(source));
                return Err(Error::Poisoned { outcome, source });
            }
        }
        let written_at = open.last_time.max(now);
        open.last_time = written_at;
        open.by_future |= by_future;
        let (version, open_from) = (open.frame.next_version(), open.frame.first_version());
        open.frame.push(written_at, payload);
        Ok(Stamp { version, written_at, open_from })
    }

    /// The version to wait for before appending more: the frame is full. `None` if there is room.
    pub(crate) fn full(&self) -> Option<u64> {
        let open = self.open.lock();
        (open.frame.len() >= FRAME_BYTES).then(|| open.frame.next_version() - 1)
    }

    /// Blocks until `version` is durable. Leads where nobody does.
    ///
    /// # Errors
    /// [`Error::Poisoned`], the outcome unknown: the sync that should have covered it failed.
    pub(crate) fn wait(&self, version: u64) -> Result<()> {
        let parker = parker();
        let mut ticket = Ticket::default();
        while self.durable.load(Ordering::Acquire) < version {
            let mut queue = self.queue.lock();
            if let Poll::Ready(answer) = self.answer(&queue, version) {
                return answer;
            }
            if let Some(writer) = queue.writer.take() {
                drop(queue);
                self.lead(writer);
            } else {
                queue.enlist(&mut ticket, version, parker.waker().clone(), true);
                drop(queue);
                parker.park(None);
            }
        }
        Ok(())
    }

    /// As [`wait`](Log::wait), for a future: never blocks on the disk.
    pub(crate) fn poll_durable(
        &self,
        version: u64,
        ticket: &mut Ticket,
        waker: &Waker,
    ) -> Poll<Result<()>> {
        if self.durable.load(Ordering::Acquire) >= version {
            return Poll::Ready(Ok(()));
        }
        // Cloning and dropping a waker may run code of the caller's runtime: not under the lock.
        let waker = waker.clone();
        let mut queue = self.queue.lock();
        let answer = self.answer(&queue, version);
        if answer.is_pending() {
            let replaced = queue.enlist(ticket, version, waker, false);
            // A leader that is at work sees `by_future` when it is done.
            let nobody_leads = queue.writer.is_some();
            drop(queue);
            drop(replaced);
            if nobody_leads {
                self.service.lead();
            }
        }
        answer
    }

    /// Leads one sync if one is due and nobody leads. For the service thread.
    pub(crate) fn lead_once(&self) {
        let mut queue = self.queue.lock();
        if self.open.lock().frame.is_empty() {
            return;
        }
        if let Some(writer) = queue.writer.take() {
            drop(queue);
            self.lead(writer);
        }
    }

    /// Refuses further appends, makes durable what was appended, and seals the log.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a sync failed, now or before. What was acknowledged is durable.
    pub(crate) fn close(&self) -> Result<()> {
        let last = {
            let mut open = self.open.lock();
            open.refusal.get_or_insert(Refusal::Closed);
            open.frame.next_version() - 1
        };
        self.wait(last).map_err(Error::nothing_written)?;
        // `durable` is published under the lock of the queue, together with the writer's return;
        // and nobody leads when nothing is left to sync. Who closes first takes the writer.
        let writer = self.queue.lock().writer.take();
        let Some(mut writer) = writer else { return Ok(()) };
        match writer.append(FrameBuilder::new(last + 1, Vec::new()), last) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.poison(source)),
        }
    }

    /// What there is to answer to whoever waits for `version`.
    fn answer(&self, queue: &Queue, version: u64) -> Poll<Result<()>> {
        if self.durable.load(Ordering::Acquire) >= version {
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

    /// Writes and syncs the open frame, with no lock held.
    fn lead(&self, mut writer: SegmentWriter) {
        let spare = std::mem::take(&mut self.queue.lock().spare);
        let frame = {
            let mut open = self.open.lock();
            open.by_future = false;
            let next = FrameBuilder::new(open.frame.next_version(), spare);
            std::mem::replace(&mut open.frame, next)
        };
        let last_version = frame.next_version() - 1;
        match writer.append(frame, self.durable.load(Ordering::Acquire)) {
            Ok(spare) => self.hand_over(writer, last_version, spare),
            Err(source) => drop(self.poison(source)),
        }
    }

    /// Publishes what the sync covered, wakes who waits for it, and finds the next leader.
    fn hand_over(&self, writer: SegmentWriter, durable: u64, spare: Vec<u8>) {
        let mut queue = self.queue.lock();
        queue.writer = Some(writer);
        if spare.capacity() <= 2 * FRAME_BYTES {
            queue.spare = spare;
        }
        self.durable.store(durable, Ordering::Release);
        let mut covered = queue.thin_out(|waiter| waiter.version <= durable);
        let next_leader = queue.waiters.iter().find(|waiter| waiter.can_lead);
        let orphaned = match next_leader {
            Some(waiter) => {
                covered.push(waiter.waker.clone());
                false
            }
            // A thread that appended but does not wait yet will find the writer by itself.
            None => self.open.lock().by_future,
        };
        drop(queue);
        if orphaned {
            self.service.lead();
        }
        wake_all(covered);
    }

    /// Nothing is written any more, and the sync is not tried again: after a failed one the
    /// system may have dropped the pages and yet report success the next time.
    /// (Rebello et al., Can Applications Recover from fsync Failures?, 2020.)
    fn poison(&self, source: io::Error) -> Error {
        let source = Arc::new(source);
        self.open.lock().refusal = Some(Refusal::Poisoned(Arc::clone(&source)));
        let mut queue = self.queue.lock();
        queue.poison = Some(Arc::clone(&source));
        let all = queue.thin_out(|_| true);
        drop(queue);
        wake_all(all);
        Error::Poisoned { outcome: Outcome::NotApplied, source }
    }
}

impl Queue {
    /// Returns the waker that `waker` replaces, to be dropped when the lock is released.
    fn enlist(
        &mut self,
        ticket: &mut Ticket,
        version: u64,
        waker: Waker,
        can_lead: bool,
    ) -> Option<Waker> {
        if let Some((epoch, place)) = ticket.0
            && epoch == self.epoch
            && let Some(waiter) = self.waiters.get_mut(place)
        {
            return Some(std::mem::replace(&mut waiter.waker, waker));
        }
        ticket.0 = Some((self.epoch, self.waiters.len()));
        self.waiters.push(Waiter { version, waker, can_lead });
        None
    }

    /// Removes waiters and returns their wakers, to be woken when the lock is released.
    fn thin_out(&mut self, leaves: impl Fn(&Waiter) -> bool) -> Vec<Waker> {
        self.epoch += 1;
        self.waiters.extract_if(.., |waiter| leaves(waiter)).map(|waiter| waiter.waker).collect()
    }
}
