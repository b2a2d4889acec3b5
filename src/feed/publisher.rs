//! Where commits are told to those who read the feed, if anybody does.

use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use crate::feed::change::Commit;
use crate::feed::ring::{Kept, Pushed, Ring};
use crate::journal::Journal;
use crate::log::Stamp;
use crate::options::Limits;
use crate::sync::{AtomicBool, AtomicU64, Level, Mutex, Ordering};
use crate::watchers::Watchers;

/// Off until somebody reads: then commits are kept in memory from some version on.
///
/// A writer looks whether it is on after it has got its version, and whoever turns it on asks for
/// the last version after that. Versions are given out one after the other, under a lock or by
/// read-modify-writes of one word, and asking takes part in that. So either the writer's version
/// is no higher than what the other was told, or the writer finds it on: whatever was not pushed
/// is known to be missing.
pub(crate) struct Publisher {
    /// [`ON`], and [`WAITS`] for each who waits for a version to be given out.
    active: AtomicU64,
    ring: OnceLock<Ring>,
    /// Commits with versions above are pushed.
    since: Mutex<Option<u64>>,
    /// Versions that are no commit's, and have not been told.
    left_out: Mutex<Vec<u64>>,
    pub(crate) watchers: Arc<Watchers>,
    closed: AtomicBool,
    changes: usize,
    bytes: usize,
}

const ON: u64 = 1;
const WAITS: u64 = 2;

/// A commit that has been told. When this is dropped those who wait are woken, and what had to make
/// way is dropped: both may run the caller's code, so nothing may be locked then.
#[must_use = "those who wait are woken when this is dropped"]
pub(crate) struct Published<'a> {
    watchers: &'a Watchers,
    wakes: bool,
    _evicted: SmallVec<[Commit; 1]>,
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        if self.wakes {
            self.watchers.wake();
        }
    }
}

impl Publisher {
    pub(crate) fn new(limits: &Limits) -> Publisher {
        Publisher {
            active: AtomicU64::new(0),
            ring: OnceLock::new(),
            since: Mutex::new(Level::FeedSwitch, None),
            left_out: Mutex::new(Level::FeedLeftOut, Vec::new()),
            watchers: Arc::new(Watchers::new()),
            closed: AtomicBool::new(false),
            changes: limits.feed,
            bytes: limits.feed_bytes,
        }
    }

    /// Tells a commit, all of it, after it was appended; it may be installed after that, but no
    /// panic may come between. To be dropped when no stripe is locked any more.
    pub(crate) fn publish(
        &self,
        stamp: Stamp,
        commit: impl FnOnce() -> Commit,
    ) -> Option<Published<'_>> {
        match self.active.load(Ordering::Relaxed) {
            0 => None,
            _ => Some(self.push(stamp, || Kept::Commit(commit()))),
        }
    }

    /// Tells that the commit with this version has to be read from the log, where it is.
    pub(crate) fn leave_to_log(&self, stamp: Stamp) {
        drop(self.push(stamp, || Kept::Gone));
    }

    #[cold]
    fn push(&self, stamp: Stamp, kept: impl FnOnce() -> Kept) -> Published<'_> {
        let mut pushed = Pushed::default();
        if let Some(ring) = self.ring() {
            if stamp.left_out {
                let left_out = std::mem::take(&mut *self.left_out.lock());
                for version in left_out {
                    ring.push(version, Kept::LeftOut, &mut pushed);
                }
            }
            ring.push(stamp.version, kept(), &mut pushed);
        }
        let Pushed { awaited, evicted } = pushed;
        let wakes = awaited || self.active.load(Ordering::Acquire) >= WAITS;
        Published { watchers: &self.watchers, wakes, _evicted: evicted }
    }

    /// Remembers that a version will be no commit's, to be told with the next commit of whoever
    /// left it out.
    pub(crate) fn leave_out(&self, version: u64) {
        if self.ring().is_some() {
            self.left_out.lock().push(version);
        }
    }

    /// The ring, if it is on.
    fn ring(&self) -> Option<&Ring> {
        let on = self.active.load(Ordering::Acquire) & ON != 0;
        self.ring.get().filter(|_| on)
    }

    /// Turns it on. Returns the version above which commits are pushed.
    pub(crate) fn turn_on(&self, journal: &Journal) -> u64 {
        let mut since = self.since.lock();
        *since.get_or_insert_with(|| {
            self.ring.get_or_init(|| Ring::new(self.changes, self.bytes));
            self.active.fetch_or(ON, Ordering::AcqRel);
            journal.last_version()
        })
    }

    /// What is kept of a version above that from which it was on; `None` if it has not come yet.
    pub(crate) fn find(&self, version: u64, awaits: bool) -> Option<Kept> {
        self.ring().map_or(Some(Kept::Gone), |ring| ring.find(version, awaits))
    }

    /// The version behind which, from `since` on, nothing is gone from memory.
    pub(crate) fn oldest(&self, since: u64) -> u64 {
        self.ring().map_or(since, |ring| ring.oldest(since))
    }

    /// Has all who wait woken by each commit, until the returned guard is dropped.
    pub(crate) fn wake_by_commits(&self) -> WokenByCommits<'_> {
        self.active.fetch_add(WAITS, Ordering::AcqRel);
        WokenByCommits(self)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends all who read and wait.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.watchers.wake();
    }
}

pub(crate) struct WokenByCommits<'a>(&'a Publisher);

impl Drop for WokenByCommits<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(WAITS, Ordering::AcqRel);
    }
}
