//! Waiting for an operation to start or to end.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::Ticket;
use crate::operation::{OperationInfo, OperationStatus};
use crate::service::Timer;
use crate::store::Inner;
use crate::sync::{Level, Mutex, parker, wake_all};

/// Waiting for the end of an operation, or for its start; made by
/// [`Operations::wait_for`](crate::Operations::wait_for). Run by
/// [`wait`](WaitForOperation::wait) or awaited.
#[must_use = "nothing waits before `wait` or `.await`"]
pub struct WaitForOperation<'a> {
    store: &'a Inner,
    kind: Arc<str>,
    id: String,
    start: bool,
    within: Option<Duration>,
}

impl<'a> WaitForOperation<'a> {
    pub(crate) fn new(store: &'a Inner, kind: Arc<str>, id: String) -> WaitForOperation<'a> {
        WaitForOperation { store, kind, id, start: false, within: None }
    }

    /// Waits until it is no more queued: it has its scope, or has ended.
    pub fn to_start(mut self) -> WaitForOperation<'a> {
        self.start = true;
        self
    }

    /// How long to wait; as long as it takes, unless said otherwise.
    pub fn within(mut self, wait: Duration) -> WaitForOperation<'a> {
        self.within = Some(wait);
        self
    }

    /// Blocks until the operation has ended, or the time is over. Returns the operation as it is
    /// then; `None` if it is not known, or not any more.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Poisoned`].
    pub fn wait(self) -> Result<Option<OperationInfo>> {
        let parker = parker();
        let mut waiting = self.into_future();
        loop {
            if let Poll::Ready(answer) = waiting.poll(parker.waker()) {
                return answer;
            }
            parker.park(waiting.left());
        }
    }
}

impl<'a> IntoFuture for WaitForOperation<'a> {
    type Output = Result<Option<OperationInfo>>;
    type IntoFuture = WaitForOperationFuture<'a>;

    fn into_future(self) -> WaitForOperationFuture<'a> {
        let now = self.store.clock.monotonic();
        let deadline = self.within.map(|wait| now.saturating_add(wait));
        let place = Place { waiters: Arc::clone(&self.store.operations.waiters), key: None };
        let (timer, found) = (None, None);
        WaitForOperationFuture { wait: self, deadline, place, timer, found }
    }
}

/// An operation being awaited, on any runtime. The time runs from when it is made.
#[must_use = "futures do nothing unless polled"]
pub struct WaitForOperationFuture<'a> {
    wait: WaitForOperation<'a>,
    deadline: Option<Duration>,
    place: Place,
    timer: Option<Timer>,
    /// What was waited for, as soon as it has come about; and what that rests on.
    found: Option<(Option<OperationInfo>, u64, Ticket)>,
}

impl WaitForOperationFuture<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<Result<Option<OperationInfo>>> {
        if self.found.is_none() && self.look()?.is_pending() {
            self.place.enlist(&self.wait.id, waker);
            if let Some(deadline) = self.deadline {
                self.timer = self.wait.store.service.wake_at(deadline, waker.clone());
            }
            // What has come about since is found now.
            ready!(self.look()?);
        }
        let Some((info, rests_on, ticket)) = &mut self.found else { return Poll::Pending };
        let durable = self.wait.store.journal.poll(*rests_on, ticket, waker);
        durable.map(|durable| durable.map_err(Error::nothing_written).map(|()| info.take()))
    }

    fn look(&mut self) -> Result<Poll<()>> {
        let WaitForOperation { store, kind, id, start, .. } = &self.wait;
        let (shown, now) = (store.durable()?, store.clock.monotonic());
        let (mut info, mut rests_on) = store.operations.look(kind, id, None, now);
        let goes_on = |info: &OperationInfo| match info.status() {
            OperationStatus::Queued => true,
            status => !status.is_end() && !start,
        };
        if info.as_ref().is_some_and(goes_on) {
            if !self.left().is_some_and(|left| left.is_zero()) {
                // Nobody will end it any more in a store that takes no writes.
                store.journal.position().map_err(Error::nothing_written)?;
                return Ok(Poll::Pending);
            }
            (info, rests_on) = (store.operations.look(kind, id, Some(shown), now).0, 0);
        }
        self.found = Some((info, rests_on, Ticket::default()));
        Ok(Poll::Ready(()))
    }

    fn left(&self) -> Option<Duration> {
        let now = self.wait.store.clock.monotonic();
        self.deadline.map(|deadline| deadline.saturating_sub(now))
    }
}

impl Future for WaitForOperationFuture<'_> {
    type Output = Result<Option<OperationInfo>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        WaitForOperationFuture::poll(&mut self, context.waker())
    }
}

impl fmt::Debug for WaitForOperation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitForOperation").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for WaitForOperationFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitForOperationFuture").field("id", &self.wait.id).finish_non_exhaustive()
    }
}

/// Who waits, by operation. Locked by itself, and never while a waker runs.
pub(crate) struct Waiters {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    wakers: BTreeMap<(String, u64), Waker>,
    last: u64,
}

impl Waiters {
    pub(crate) fn new() -> Waiters {
        Waiters { list: Mutex::new(Level::Alone("waiters for operations"), List::default()) }
    }

    /// Has who waits for these look again. After they have started or ended: whoever enlists later
    /// finds that.
    pub(crate) fn wake(&self, ids: &[String]) {
        let mut list = self.list.lock();
        let mut woken = Vec::new();
        for id in ids {
            let all = (id.clone(), 0)..=(id.clone(), u64::MAX);
            woken.extend(list.wakers.extract_if(all, |_, _| true).map(|(_, waker)| waker));
        }
        drop(list);
        wake_all(woken);
    }

    /// Has all look again.
    pub(crate) fn wake_all(&self) {
        let wakers = std::mem::take(&mut self.list.lock().wakers);
        wake_all(wakers.into_values());
    }
}

/// A place in the list; given up when dropped.
struct Place {
    waiters: Arc<Waiters>,
    key: Option<(String, u64)>,
}

impl Place {
    /// Has `waker` woken the next time. The caller has to look again after that.
    fn enlist(&mut self, id: &str, waker: &Waker) {
        // Cloning and dropping a waker may run code of the caller's runtime: not under the lock.
        let waker = waker.clone();
        let mut list = self.waiters.list.lock();
        let key = self.key.get_or_insert_with(|| {
            list.last += 1;
            (id.to_owned(), list.last)
        });
        let replaced = list.wakers.insert(key.clone(), waker);
        drop(list);
        drop(replaced);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let waker = self.waiters.list.lock().wakers.remove(&key);
            drop(waker);
        }
    }
}
