//! What a leader does: takes the open frame, writes and syncs it, and hands over.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::error::{Error, Outcome};
use crate::log::Log;
use crate::log::due::{Due, IDLE, Task};
use crate::log::frame::{FrameBuilder, Seal};
use crate::log::group_commit::{Refusal, Shortage};
use crate::log::room::Wanted;
use crate::log::waiters::NEXT;
use crate::log::writer::{SEAL, SegmentWriter};
use crate::options::Durability;
use crate::sync::{Ordering, wake_all};

/// Room that is kept ahead for the next frame grows with the frames, up to this.
const ROOM_AHEAD_MAX: u64 = 8 << 20;

/// What a leader takes out of the log.
struct Taken {
    /// Absent if nothing was appended.
    frame: Option<FrameBuilder>,
    first_version: u64,
    /// The version that the next frame starts with.
    next_version: u64,
    wanted: Wanted,
    sync: bool,
}

/// What a leader has achieved.
struct Done {
    durable: Option<u64>,
    wrote: bool,
    /// Why there is no more room.
    shortage: Option<Shortage>,
    spare: Vec<u8>,
}

impl Log {
    /// Writes and syncs the open frame and makes room for the next one, with no lock held.
    pub(super) fn lead(&self, mut writer: SegmentWriter) {
        let taken = self.take(&writer);
        match self.work(&mut writer, taken) {
            Ok(done) => self.hand_over(writer, done),
            Err(source) => drop(self.poison(source)),
        }
    }

    /// Leads if there is anything to do; if somebody leads, once that one is done. For the service
    /// thread.
    pub(crate) fn lead_once(&self) {
        let mut queue = self.queue.lock();
        {
            let mut open = self.open.lock();
            if open.frame.is_empty() && !open.budget.is_wanted() && !open.flush {
                return;
            }
            // A leader that has not taken the frame yet takes this back with it.
            open.for_service |= queue.writer.is_none();
        }
        if let Some(writer) = queue.writer.take() {
            drop(queue);
            self.lead(writer);
        }
    }

    /// Leads at the end of an interval. For the service thread.
    pub(super) fn lead_when_due(&self) {
        self.open.lock().lead_due = false;
        self.lead_once();
    }

    /// Has the service thread lead after this time.
    pub(super) fn lead_after(&self, wait: Duration) {
        self.ask(wait, Task::Lead);
    }

    fn ask(&self, wait: Duration, task: Task) {
        let due = Due { log: self.this.clone(), task };
        self.service.after(wait, Waker::from(Arc::new(due)));
    }

    fn take(&self, writer: &SegmentWriter) -> Taken {
        let spare = std::mem::take(&mut self.queue.lock().spare);
        let mut open = self.open.lock();
        open.for_service = false;
        let flush = std::mem::take(&mut open.flush);
        let sync = flush || !matches!(self.durability, Durability::None);
        let first_version = open.frame.first_version();
        let next_version = open.frame.next_version();
        let frame = (!open.frame.is_empty()).then(|| {
            let next = FrameBuilder::new(next_version, spare);
            std::mem::replace(&mut open.frame, next)
        });
        let len = frame.as_ref().map_or(0, |frame| frame.len() as u64);
        open.budget.set(writer.room_after(len, next_version), writer.ceiling());
        let wanted = open.budget.take_wanted();
        Taken { frame, first_version, next_version, wanted, sync }
    }

    /// # Errors
    /// What makes the log of no more use.
    fn work(&self, writer: &mut SegmentWriter, taken: Taken) -> io::Result<Done> {
        let Taken { frame, first_version, next_version, wanted, sync } = taken;
        let len = frame.as_ref().map_or(0, |frame| frame.len() as u64);
        writer.place(len, first_version)?;
        let ahead = writer.room_ahead().max(2 * len).min(ROOM_AHEAD_MAX);
        let mut made = writer.make_room(len, next_version, ahead.max(wanted.most));
        if made.as_ref().is_err_and(is_no_space) && wanted.least > 0 {
            made = writer.make_room(len, next_version, wanted.least).and(made);
        }
        let shortage = match made {
            Err(error) if !is_no_space(&error) => return Err(error),
            made => made.err().map(Arc::new),
        };
        // Early, so that those who wait for room can go on while this frame is synced.
        let room = writer.room_after(len, next_version);
        self.open.lock().budget.set(room, writer.ceiling());
        let shortage = shortage.map(|source| Shortage { source, room });
        if wanted.most > 0 {
            let waiting = self.queue.lock().waiters.covered(NEXT);
            wake_all(waiting);
        }
        let wrote = frame.is_some();
        let spare = match frame {
            Some(frame) => writer.write(frame, self.durable.load(Ordering::Acquire))?,
            None => Vec::new(),
        };
        if sync {
            writer.sync()?;
        }
        let durable = sync.then_some(next_version - 1);
        Ok(Done { durable, wrote, shortage, spare })
    }

    /// Publishes what the sync covered, wakes who waits for it, and finds the next leader.
    fn hand_over(&self, writer: SegmentWriter, done: Done) {
        let mut queue = self.queue.lock();
        queue.writer = Some(writer);
        if done.spare.capacity() as u64 <= 2 * ROOM_AHEAD_MAX {
            queue.spare = done.spare;
        }
        let mut moved = done.wrote;
        if let Some(durable) = done.durable {
            moved |= durable > self.durable.load(Ordering::Acquire);
            self.durable.store(durable, Ordering::Release);
        }
        if let Some(shortage) = done.shortage {
            queue.shortages += 1;
            queue.shortage = Some(shortage);
        }
        let mut covered = queue.waiters.covered(self.durable.load(Ordering::Acquire));
        let orphaned = match queue.waiters.next_leader() {
            Some(waker) => {
                covered.push(waker.clone());
                false
            }
            // A thread that appended but does not wait yet will find the writer by itself.
            None => self.open.lock().for_service,
        };
        let seal = moved && !std::mem::replace(&mut queue.seal_due, true);
        // Under loom no time passes.
        let timed = cfg!(not(ifmatch_loom));
        if timed && done.wrote {
            queue.written_at = self.service.now();
        }
        drop(queue);
        if orphaned {
            self.service.lead();
        }
        if timed && seal {
            self.ask(IDLE, Task::Seal);
        }
        wake_all(covered);
        if moved {
            self.watchers.wake();
        }
    }

    /// Seals the log if nothing was written for a while. For the service thread.
    pub(super) fn seal_if_idle(&self) {
        let mut queue = self.queue.lock();
        if queue.is_over() {
            return;
        }
        let idle = self.service.now().saturating_sub(queue.written_at);
        let writer = if idle >= IDLE { queue.writer.take() } else { None };
        let Some(mut writer) = writer else {
            drop(queue);
            self.ask(IDLE.saturating_sub(idle).max(IDLE / 10), Task::Seal);
            return;
        };
        // Whoever writes or syncs next asks again.
        queue.seal_due = false;
        let Some(next_version) = self.take_place_of_seal(&writer) else {
            queue.writer = Some(writer);
            return;
        };
        drop(queue);
        match writer.seal(next_version, Seal::Idle) {
            Ok(()) => {
                let (durable, spare) = (Some(next_version - 1), Vec::new());
                self.hand_over(writer, Done { durable, wrote: false, shortage: None, spare });
            }
            Err(source) => drop(self.poison(source)),
        }
    }

    /// Takes the place of a seal from the room there is. `None` if something is under way or not
    /// synced, or there is no place.
    fn take_place_of_seal(&self, writer: &SegmentWriter) -> Option<u64> {
        let mut open = self.open.lock();
        let next_version = open.frame.first_version();
        // A flush that was asked for is done if all is synced.
        let busy = !open.frame.is_empty() || open.budget.is_reserved();
        let synced = self.durable.load(Ordering::Acquire) + 1 >= next_version;
        if busy || !synced || writer.free() < SEAL {
            return None;
        }
        open.budget.set(writer.room_after(SEAL, next_version), writer.ceiling());
        Some(next_version)
    }

    /// Nothing is written any more, and the sync is not tried again: after a failed one the
    /// system may have dropped the pages and yet report success the next time.
    /// (Rebello et al., Can Applications Recover from fsync Failures?, 2020.)
    pub(super) fn poison(&self, source: io::Error) -> Error {
        let source = Arc::new(source);
        self.open.lock().refusal = Some(Refusal::Poisoned(Arc::clone(&source)));
        let mut queue = self.queue.lock();
        queue.poison = Some(Arc::clone(&source));
        let all = queue.waiters.covered(u64::MAX);
        drop(queue);
        wake_all(all);
        self.watchers.wake();
        Error::Poisoned { outcome: Outcome::NotApplied, source }
    }
}

/// Whether the system has no space to give: what is there can be used all the same.
fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
