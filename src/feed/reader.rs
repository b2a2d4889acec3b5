//! A reader of the feed: from memory where it can, else from the log; for threads and futures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::feed::change::Commit;
use crate::feed::filter::Filter;
use crate::feed::past::{Batch, Past};
use crate::feed::publisher::Publisher;
use crate::feed::ring::Kept;
use crate::log::Log;
use crate::service::Service;
use crate::store::Inner;
use crate::sync::{Level, Mutex, Ordering, parker, spawn};
use crate::version::{Cursor, Lineage};
use crate::watchers::Watch;

/// An open change feed: an iterator that waits for the next commit.
///
/// It does not keep the store open. When the last handle of the store is gone, or the store is
/// closed, it ends with [`Error::Closed`]; after a failure of the disk it tells what is durable
/// and ends with [`Error::Poisoned`]. After [`Error::Gap`] it goes on from the oldest commit that
/// is kept.
///
/// ```
/// use ifmatch::Error;
///
/// let store = ifmatch::Store::in_memory();
/// let feed = store.changes().open()?;
/// let reader = std::thread::spawn(move || {
///     let mut told = 0;
///     for commit in feed {
///         match commit {
///             Ok(_) => told += 1,
///             Err(Error::Gap { .. }) => { /* read the store again, and go on */ }
///             Err(_) => break,
///         }
///     }
///     told
/// });
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.create("s-1", 8).commit()?;
/// store.close()?;
/// assert!(reader.join().unwrap() <= 1);
/// # Ok::<(), Error>(())
/// ```
#[must_use = "a feed tells nothing unless it is read"]
pub struct Feed {
    publisher: Arc<Publisher>,
    /// What is above is in memory, or was.
    since: u64,
    /// Both absent in memory.
    log: Option<Arc<Log>>,
    past: Option<Reading>,
    service: Arc<Service>,
    lineage: Lineage,
    filter: Arc<Filter>,
    /// The last version that was told or passed over.
    at: u64,
    /// What was read of the log and not yet told.
    batch: Batch,
    /// A cursor that is not of this store, or of its future.
    unknown: Option<Cursor>,
    watch: Watch,
    ended: bool,
}

/// Older commits, at hand or being read by a thread.
enum Reading {
    Here(Box<Past>),
    Away(Arc<Mutex<Errand>>),
}

/// What a thread is given, and brings back.
enum Errand {
    Given(Box<Past>),
    UnderWay,
    Done(Box<Past>, Result<Batch>),
}

impl Errand {
    fn take(&mut self) -> Errand {
        std::mem::replace(self, Errand::UnderWay)
    }
}

impl Feed {
    pub(crate) fn new(store: &Inner, filter: Filter) -> Feed {
        let publisher = Arc::clone(&store.feed);
        let past = store.past();
        Feed {
            since: publisher.turn_on(&store.journal),
            log: past.as_ref().map(|past| Arc::clone(past.log())),
            past: past.map(|past| Reading::Here(Box::new(past))),
            service: Arc::clone(&store.service),
            lineage: store.lineage,
            filter: Arc::new(filter),
            at: 0,
            batch: Batch::default(),
            unknown: None,
            watch: Watch::new(Arc::clone(&publisher.watchers)),
            ended: false,
            publisher,
        }
    }

    /// The place up to which all has been told, or passed over because it was not asked for: keep
    /// it to go on from there later.
    pub fn cursor(&self) -> Cursor {
        self.unknown.unwrap_or(Cursor { lineage: self.lineage, version: self.at })
    }

    /// The next commit, if there is one now. May read from the disk, but waits for no writer; nor
    /// for a thread that reads for a [future](Feed::next_commit), if one was dropped before.
    ///
    /// # Errors
    /// [`Error::Gap`], after which it goes on from the oldest commit that is kept;
    /// [`Error::Closed`]; [`Error::Poisoned`]; [`Error::Corrupt`] and [`Error::Io`] of the log.
    pub fn try_next(&mut self) -> Result<Option<Commit>> {
        match self.look(false, true) {
            Poll::Ready(commit) => commit.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// The next commit, if it comes within this time: for long polls.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let store = ifmatch::Store::in_memory();
    /// let mut feed = store.changes().open()?;
    /// assert!(feed.next_within(Duration::from_millis(1))?.is_none());
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`try_next`](Feed::try_next).
    pub fn next_within(&mut self, wait: Duration) -> Result<Option<Commit>> {
        self.block(Some(wait))
    }

    /// The next commit, for any runtime: never blocks on the disk. Dropped before it is done, it
    /// takes nothing with it.
    pub fn next_commit(&mut self) -> NextCommit<'_> {
        NextCommit { feed: self }
    }

    /// As [`try_next`](Feed::try_next), for futures: pending only while a thread reads the disk.
    /// After `None` the caller is woken when there may be more.
    #[cfg(feature = "axum")]
    pub(crate) fn poll_now(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Commit>>> {
        match self.poll(context.waker(), false) {
            Poll::Ready(commit) => Poll::Ready(commit.map(Some)),
            Poll::Pending if matches!(self.past, Some(Reading::Away(_))) => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(None)),
        }
    }

    /// As [`next_commit`](Feed::next_commit), to make a stream of: `None` is its end.
    ///
    /// # Errors
    /// As an item: as [`try_next`](Feed::try_next). All but [`Error::Gap`] are the last.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Commit>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.poll(context.waker(), false).map(|item| Some(self.item(item)))
    }

    pub(crate) fn go_to(&mut self, version: u64) {
        self.at = version;
    }

    pub(crate) fn go_to_oldest(&mut self) {
        self.at = self.oldest();
    }

    pub(crate) fn go_nowhere(&mut self, unknown: Cursor) {
        self.unknown = Some(unknown);
    }

    fn oldest(&self) -> u64 {
        match &self.past {
            Some(Reading::Here(past)) => past.oldest(),
            // While the log is read nobody asks.
            Some(Reading::Away(_)) => self.at,
            None => self.publisher.oldest(self.since),
        }
    }

    fn item(&mut self, item: Result<Commit>) -> Result<Commit> {
        self.ended = matches!(&item, Err(error) if !matches!(error, Error::Gap { .. }));
        item
    }

    fn block(&mut self, at_most: Option<Duration>) -> Result<Option<Commit>> {
        let parker = parker();
        let deadline = at_most.map(|wait| self.service.now().saturating_add(wait));
        let mut timer = None;
        loop {
            if let Poll::Ready(commit) = self.poll(parker.waker(), true) {
                return commit.map(Some);
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(self.service.now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            // The clock may be one that a test moves.
            if let (None, Some(deadline)) = (&timer, deadline) {
                timer = self.service.wake_at(deadline, parker.waker().clone());
            }
            parker.park(left);
        }
    }

    fn poll(&mut self, waker: &Waker, may_block: bool) -> Poll<Result<Commit>> {
        let now = self.look(false, may_block);
        if now.is_ready() {
            return now;
        }
        // What comes about between the two is found by the second look.
        self.watch.enlist(waker);
        self.look(true, may_block)
    }

    /// What there is now. `awaits`: has whoever publishes the next commit wake those who wait.
    fn look(&mut self, awaits: bool, may_block: bool) -> Poll<Result<Commit>> {
        let mut failure = None;
        loop {
            if self.publisher.is_closed() {
                return Poll::Ready(Err(Error::Closed));
            }
            if let Some(commit) = self.batch.commits.pop_front() {
                self.at = commit.version().get();
                return Poll::Ready(Ok(commit));
            }
            self.at = self.at.max(self.batch.upto);
            if self.unknown.is_some() {
                return Poll::Ready(Err(self.gap()));
            }
            let next = self.at + 1;
            let kept = match self.is_shown(next) {
                false => None,
                true if next <= self.since => Some(Kept::Gone),
                true => self.publisher.find(next, awaits),
            };
            match kept {
                Some(Kept::LeftOut) => self.at = next,
                Some(Kept::Commit(commit)) => {
                    self.at = next;
                    if let Some(commit) = commit.filtered(&self.filter) {
                        return Poll::Ready(Ok(commit));
                    }
                }
                // What came before a failure counts: look once more.
                None => match (failure.take(), self.failure()) {
                    (Some(failure), _) => return Poll::Ready(Err(failure)),
                    (None, Some(found)) => failure = Some(found),
                    (None, None) => return Poll::Pending,
                },
                Some(Kept::Gone) => match self.read_past(may_block) {
                    Poll::Ready(Ok(batch)) => self.batch = batch,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn is_shown(&self, version: u64) -> bool {
        self.log.as_ref().is_none_or(|log| log.shown().load(Ordering::Acquire) >= version)
    }

    /// Why no more will be shown.
    fn failure(&self) -> Option<Error> {
        self.log.as_ref().and_then(|log| log.failure())
    }

    /// Commits that are not in memory any more. If it may not block, a thread reads them, and
    /// wakes those who wait.
    fn read_past(&mut self, may_block: bool) -> Poll<Result<Batch>> {
        let (past, batch) = match self.past.take() {
            None => return Poll::Ready(Err(self.gap())),
            Some(Reading::Here(mut past)) if may_block => {
                let batch = past.read(self.at, &self.filter);
                (past, batch)
            }
            Some(Reading::Here(past)) => {
                self.past = Some(Reading::Away(self.send(past)));
                return Poll::Pending;
            }
            Some(Reading::Away(errand)) => {
                let is_done = matches!(*errand.lock(), Errand::Done(..));
                match is_done.then(|| errand.lock().take()) {
                    Some(Errand::Done(past, batch)) => (past, batch),
                    _ => {
                        self.past = Some(Reading::Away(errand));
                        return Poll::Pending;
                    }
                }
            }
        };
        self.past = Some(Reading::Here(past));
        Poll::Ready(match batch {
            Err(Error::Gap { .. }) => Err(self.gap()),
            batch => batch,
        })
    }

    fn send(&self, past: Box<Past>) -> Arc<Mutex<Errand>> {
        let errand = Arc::new(Mutex::new(Level::Alone("errand of a feed"), Errand::Given(past)));
        let work = |errand: &Mutex<Errand>, at: u64, filter: &Filter, publisher: &Publisher| {
            let Errand::Given(mut past) = errand.lock().take() else { return };
            let batch = past.read(at, filter);
            *errand.lock() = Errand::Done(past, batch);
            publisher.watchers.wake();
        };
        let (at, filter) = (self.at, Arc::clone(&self.filter));
        let (publisher, sent) = (Arc::clone(&self.publisher), Arc::clone(&errand));
        let thread = spawn("ifmatch-feed", move || work(&sent, at, &filter, &publisher));
        if thread.is_none() {
            work(&errand, self.at, &self.filter, &self.publisher);
        }
        errand
    }

    /// Goes to the oldest commit that is kept.
    fn gap(&mut self) -> Error {
        let asked_for = self.cursor();
        self.unknown = None;
        self.at = self.at.max(self.oldest());
        Error::Gap { asked_for, oldest: self.cursor() }
    }
}

impl Iterator for Feed {
    type Item = Result<Commit>;

    /// The next commit, as soon as there is one.
    ///
    /// # Errors
    /// As an item: as [`try_next`](Feed::try_next). All but [`Error::Gap`] are the last.
    fn next(&mut self) -> Option<Result<Commit>> {
        if self.ended {
            return None;
        }
        let item = self.block(None).transpose()?;
        Some(self.item(item))
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("cursor", &self.cursor()).finish_non_exhaustive()
    }
}

/// The next commit of a [`Feed`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct NextCommit<'a> {
    feed: &'a mut Feed,
}

impl Future for NextCommit<'_> {
    type Output = Result<Commit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Commit>> {
        self.feed.poll(context.waker(), false)
    }
}
