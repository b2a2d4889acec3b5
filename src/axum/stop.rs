//! How what waits is told that the server stops.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::sync::{AtomicBool, Ordering};
use crate::watchers::{Watch, Watchers};

/// Ends what waits: long polls are answered with what there is, and streams of changes end.
///
/// A server that stops waits for its answers to end, and a stream does not end by itself.
///
/// ```
/// use ifmatch::axum::{RouterOptions, Stop};
///
/// let stop = Stop::default();
/// let router = RouterOptions::default().stop(&stop).router(ifmatch::Store::in_memory());
/// stop.stop();
/// # let _: axum::Router = router;
/// ```
#[derive(Clone)]
pub struct Stop(Arc<State>);

struct State {
    stopped: AtomicBool,
    watchers: Arc<Watchers>,
}

impl Stop {
    /// From now on nothing waits.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.watchers.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// What `work` gives, or nothing if this stops before.
    pub(super) async fn unless_stopped<F: IntoFuture>(&self, work: F) -> Option<F::Output> {
        let (mut work, mut watch) = (pin!(work.into_future()), self.watch());
        poll_fn(|context| {
            watch.enlist(context.waker());
            match work.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.is_stopped() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Look at [`is_stopped`](Stop::is_stopped) after enlisting.
    pub(super) fn watch(&self) -> Watch {
        Watch::new(Arc::clone(&self.0.watchers))
    }
}

impl Default for Stop {
    fn default() -> Stop {
        let (stopped, watchers) = (AtomicBool::new(false), Arc::new(Watchers::new()));
        Stop(Arc::new(State { stopped, watchers }))
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("stopped", &self.is_stopped()).finish()
    }
}
