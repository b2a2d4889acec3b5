//! Waiting until a version is shown to readers.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::feed::publisher::WokenByCommits;
use crate::service::Timer;
use crate::store::Inner;
use crate::sync::parker;
use crate::version::Version;
use crate::watchers::Watch;

/// How long is waited unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waiting for a version, made by [`Store::wait_for`](crate::Store::wait_for): run by
/// [`wait`](WaitFor::wait) or awaited.
#[must_use = "nothing waits before `wait` or `.await`"]
pub struct WaitFor<'a> {
    store: &'a Inner,
    version: Version,
    within: Duration,
}

impl<'a> WaitFor<'a> {
    pub(crate) fn new(store: &'a Inner, version: Version) -> WaitFor<'a> {
        WaitFor { store, version, within: PATIENCE }
    }

    /// How long to wait; 30 s unless said otherwise.
    pub fn within(mut self, wait: Duration) -> WaitFor<'a> {
        self.within = wait;
        self
    }

    /// Blocks until readers are shown the version, or all that was written up to it.
    ///
    /// # Errors
    /// [`Error::NotYet`] when the time is over; [`Error::Closed`]; [`Error::Poisoned`].
    pub fn wait(self) -> Result<()> {
        let parker = parker();
        let mut waiting = self.into_future();
        loop {
            if let Poll::Ready(answer) = waiting.poll(parker.waker()) {
                return answer;
            }
            parker.park(Some(waiting.left()));
        }
    }
}

impl<'a> IntoFuture for WaitFor<'a> {
    type Output = Result<()>;
    type IntoFuture = WaitForFuture<'a>;

    fn into_future(self) -> WaitForFuture<'a> {
        let WaitFor { store, version, within } = self;
        let deadline = store.clock.monotonic().saturating_add(within);
        WaitForFuture { store, version, within, deadline, waiting: None }
    }
}

impl fmt::Debug for WaitFor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitFor").field("version", &self.version).finish_non_exhaustive()
    }
}

/// A version being awaited, on any runtime. The time runs from when it is made.
#[must_use = "futures do nothing unless polled"]
pub struct WaitForFuture<'a> {
    store: &'a Inner,
    version: Version,
    within: Duration,
    deadline: Duration,
    waiting: Option<Waiting<'a>>,
}

struct Waiting<'a> {
    watch: Watch,
    timer: Option<Timer>,
    _woken: Option<WokenByCommits<'a>>,
}

impl WaitForFuture<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<Result<()>> {
        let now = self.look();
        if now.is_ready() {
            return now;
        }
        let WaitForFuture { store, deadline, .. } = *self;
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            watch: Watch::new(Arc::clone(&store.feed.watchers)),
            timer: None,
            _woken: store.journal.shows_at_once().then(|| store.feed.wake_by_commits()),
        });
        waiting.watch.enlist(waker);
        waiting.timer = store.service.wake_at(deadline, waker.clone());
        // What has come about since is found now.
        self.look()
    }

    fn look(&self) -> Poll<Result<()>> {
        let WaitForFuture { store, version, within, .. } = *self;
        // A failure comes after what is shown.
        let failure = store.journal.failure();
        Poll::Ready(match store.durable() {
            Err(closed) => Err(closed),
            Ok(_) if store.journal.last_shown() >= version.get() => Ok(()),
            Ok(_) => match failure {
                Some(failure) => Err(failure),
                None if self.left().is_zero() => Err(Error::NotYet { version, within }),
                None => return Poll::Pending,
            },
        })
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.store.clock.monotonic())
    }
}

impl Future for WaitForFuture<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        WaitForFuture::poll(&mut self, context.waker())
    }
}

impl fmt::Debug for WaitForFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitForFuture").field("version", &self.version).finish_non_exhaustive()
    }
}
