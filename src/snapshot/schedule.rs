//! When a snapshot is taken, by whom, and what may be removed after it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::feed::{Catalog, Past};
use crate::log::{LiveSegments, Log, segment};
use crate::snapshot::header::{Header, file_name, start_of};
use crate::snapshot::write::{self, Target, io_error};
use crate::snapshot::{Collected, Sources};
use crate::sync::{AtomicBool, Condvar, Level, Mutex, Ordering, spawn};
use crate::version::Lineage;

/// How many snapshots are kept: should the newest be damaged, there is the one before.
const KEPT: usize = 2;

/// Takes the snapshots of a store, one at a time. Does not keep the store open.
pub(crate) struct Snapshots {
    settings: Settings,
    disk: Arc<dyn Disk>,
    log: Arc<Log>,
    live: Arc<LiveSegments>,
    sources: Arc<dyn Sources>,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

pub(crate) struct Settings {
    pub(crate) lineage: Lineage,
    pub(crate) clock: Arc<dyn Clock>,
    /// Bytes per second.
    pub(crate) rate: u64,
    /// Bytes of log after which one is taken unasked.
    pub(crate) after: u64,
    /// Bytes of log that are kept, needed or not.
    pub(crate) keep: u64,
}

/// A snapshot that is known to be whole: it was written or read in this process.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct State {
    busy: bool,
    closed: bool,
    /// Oldest first, at most [`KEPT`].
    known: VecDeque<Known>,
}

impl Snapshots {
    /// `known` is the snapshot that the store was opened from.
    pub(crate) fn new(
        settings: Settings,
        disk: Arc<dyn Disk>,
        log: Arc<Log>,
        live: Arc<LiveSegments>,
        sources: Arc<dyn Sources>,
        known: Option<Known>,
    ) -> Arc<Snapshots> {
        let state = State { known: known.into_iter().collect(), ..State::default() };
        let snapshots = Arc::new(Snapshots {
            settings,
            disk,
            log,
            live: Arc::clone(&live),
            sources,
            state: Mutex::new(Level::Snapshots, state),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&snapshots);
        live.on_start(move || {
            if let Some(snapshots) = weak.upgrade() {
                snapshots.start_if_due();
            }
        });
        snapshots
    }

    /// Where the store is.
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The log, to be read for the feed.
    pub(crate) fn past(&self, catalog: Weak<dyn Catalog>) -> Past {
        let (disk, log, live) = (&self.disk, &self.log, &self.live);
        let lineage = self.settings.lineage;
        Past::new(Arc::clone(disk), Arc::clone(log), Arc::clone(live), catalog, lineage)
    }

    /// Takes a snapshot on the calling thread, after the one that is under way.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Poisoned`], [`Error::Encode`] and [`Error::Io`].
    pub(crate) fn take(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.busy && !state.closed {
            state = self.changed.wait(state, None);
        }
        if state.closed {
            return Err(Error::Closed);
        }
        state.busy = true;
        drop(state);
        Turn(self).run().map(|_taken| ())
    }

    /// Starts a thread that takes one, if the log has grown enough.
    pub(crate) fn start_if_due(self: &Arc<Self>) {
        if !self.begin_if_due() {
            return;
        }
        let this = Arc::clone(self);
        // One that fails is given up; the next segment brings the next attempt. After one that was
        // taken the log may have grown enough already.
        let work = move || while matches!(Turn(&this).run(), Ok(true)) && this.begin_if_due() {};
        if spawn("ifmatch-snapshot", work).is_none() {
            drop(Turn(self));
        }
    }

    /// Whether one is due, and nobody else is at it; then a [`Turn`] has begun.
    fn begin_if_due(&self) -> bool {
        let mut state = self.state.lock();
        let (start, bytes) = state.known.back().map_or((0, 0), |known| (known.start, known.bytes));
        let behind = self.live.bytes_behind(start);
        let due = behind > self.settings.after && behind > bytes;
        let begins = due && !state.busy && !state.closed;
        state.busy |= begins;
        begins
    }

    /// Ends what is under way, soon, and refuses more.
    pub(crate) fn stop(&self) {
        self.state.lock().closed = true;
        self.stop.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Blocks until nothing is under way.
    pub(crate) fn wait(&self) {
        let mut state = self.state.lock();
        while state.busy {
            state = self.changed.wait(state, None);
        }
    }
}

/// The right to take a snapshot. Given back when dropped, by a panic of the caller's code too.
struct Turn<'a>(&'a Snapshots);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
        self.0.changed.notify_all();
    }
}

impl Turn<'_> {
    /// Takes a snapshot. `false` if there was nothing new.
    fn run(self) -> Result<bool> {
        let log = &self.0.log;
        // Without sync, what there is to be kept need not be durable yet.
        log.flush().map_err(Error::nothing_written)?;
        // In this order: whatever is durable by now has its collection's name in the log, and
        // whoever got a name into the log has appended by then.
        let durable = log.durable();
        let Collected { collections, unmoved } = self.0.sources.collect();
        let start = unmoved.map_or(durable, |unmoved| unmoved.min(durable));
        let newest = self.0.state.lock().known.back().map_or(0, |known| known.start);
        if start <= newest {
            return Ok(false);
        }
        let (appended, time) = log.position()?;

        let Settings { lineage, clock, rate, .. } = &self.0.settings;
        let (disk, stop) = (&*self.0.disk, &self.0.stop);
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(|source| {
            io_error(disk, "create", &file_name(start), io::Error::other(source))
        })?;
        let header = Header { lineage: *lineage, salt: u64::from_le_bytes(salt), start, time };
        let target = Target { disk, clock: &**clock, rate: *rate, stop };
        let unnamed = write::write(&target, header, &collections, log.shown(), || {
            // The snapshot says that the log goes up to all that it has seen.
            log.flush().map_err(Error::nothing_written)?;
            Ok(log.durable().max(appended))
        })?;
        let known = Known { start, bytes: unnamed.bytes };
        unnamed.name()?;
        let mut state = self.0.state.lock();
        state.known.push_back(known);
        if state.known.len() > KEPT {
            state.known.pop_front();
        }
        let older = state.known.front().filter(|_| state.known.len() == KEPT).copied();
        drop(state);
        older.map_or(Ok(()), |older| self.prune(older.start))?;
        Ok(true)
    }

    /// Removes what only snapshots before the older of those kept would need. A snapshot that
    /// nobody has read may be damaged: it goes when it is old, but lets nothing else go.
    fn prune(&self, start: u64) -> Result<()> {
        let (disk, live) = (&*self.0.disk, &self.0.live);
        let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
        let old = names.iter().filter(|name| start_of(name).is_some_and(|found| found < start));
        for name in old {
            self.remove(name)?;
        }
        while let Some(number) = live.oldest_up_to(start, self.0.settings.keep) {
            self.remove(&segment::file_name(number))?;
            live.removed(number);
        }
        Ok(())
    }

    /// Durably, so that no power cut brings back a file whose successor is gone.
    fn remove(&self, name: &str) -> Result<()> {
        let disk = &*self.0.disk;
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let removed = match disk.remove(name) {
            Err(error) if !gone(&error) => Err(error),
            _ => disk.sync_names(),
        };
        removed.map_err(|source| io_error(disk, "remove", name, source))
    }
}
