//! The one background thread of a store, started on need: leads syncs for futures, keeps deadlines.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::clock::Clock;
use crate::log::Log;
use crate::sync::{Condvar, Level, Mutex, spawn, wake_all};

/// An injected clock may jump while the thread sleeps by the system's: look again this often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) struct Service {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    stopped: bool,
    lead: bool,
    log: Weak<Log>,
    timers: BTreeMap<Due, Waker>,
    timers_set: u64,
}

/// A deadline that is being kept. Forgotten when dropped.
pub(crate) struct Timer {
    shared: Arc<Shared>,
    due: Due,
}

/// A deadline; the number tells apart what is due at the same moment.
type Due = (Duration, u64);

impl Service {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Service {
        let state = Mutex::new(Level::Alone("service"), State::default());
        let shared = Shared { state, changed: Condvar::new() };
        Service { shared: Arc::new(shared), clock }
    }

    /// The log whose syncs it leads.
    pub(crate) fn attach(&self, log: &Arc<Log>) {
        self.shared.state.lock().log = Arc::downgrade(log);
    }

    /// Leads one sync soon. If the system gives no thread, at once, on the caller's.
    pub(crate) fn lead(&self) {
        let mut state = self.shared.state.lock();
        state.lead = true;
        self.start(&mut state);
        let log = if state.running { None } else { state.log.upgrade() };
        drop(state);
        self.shared.changed.notify_one();
        if let Some(log) = log {
            log.lead_once();
        }
    }

    /// Monotonic time.
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Wakes `waker` after this time, unless the store is closed before.
    pub(crate) fn after(&self, wait: Duration, waker: Waker) {
        let deadline = self.now().saturating_add(wait);
        drop(self.enter(deadline, waker));
    }

    /// Wakes `waker` when the monotonic clock shows `deadline`, or at once if the store is
    /// closed: `None` then.
    pub(crate) fn wake_at(&self, deadline: Duration, waker: Waker) -> Option<Timer> {
        match self.enter(deadline, waker) {
            Ok(due) => Some(Timer { shared: Arc::clone(&self.shared), due }),
            Err(waker) => {
                wake_all([waker]);
                None
            }
        }
    }

    /// Gives the waker back if no deadline is kept any more.
    fn enter(&self, deadline: Duration, waker: Waker) -> Result<Due, Waker> {
        let mut state = self.shared.state.lock();
        if state.stopped {
            return Err(waker);
        }
        state.timers_set += 1;
        let due = (deadline, state.timers_set);
        state.timers.insert(due, waker);
        self.start(&mut state);
        drop(state);
        self.shared.changed.notify_one();
        Ok(due)
    }

    /// Ends the thread when it has led what it was asked to. No deadline is kept any more: who
    /// waits for one is woken, and finds the store closed.
    pub(crate) fn stop(&self) {
        let mut state = self.shared.state.lock();
        state.stopped = true;
        let timers = std::mem::take(&mut state.timers);
        drop(state);
        self.shared.changed.notify_one();
        wake_all(timers.into_values());
    }

    fn start(&self, state: &mut State) {
        if state.running || state.stopped {
            return;
        }
        let (shared, clock) = (Arc::clone(&self.shared), Arc::clone(&self.clock));
        state.running = spawn("ifmatch", move || shared.run(&*clock)).is_some();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let waker = self.shared.state.lock().timers.remove(&self.due);
        // Dropping a waker may run code of the caller's runtime: not under the lock.
        drop(waker);
    }
}

impl Shared {
    fn run(&self, clock: &dyn Clock) {
        let mut state = self.state.lock();
        loop {
            if std::mem::take(&mut state.lead) {
                let log = state.log.upgrade();
                drop(state);
                if let Some(log) = log {
                    log.lead_once();
                }
                state = self.state.lock();
                continue;
            }
            let now = clock.monotonic();
            let later = state.timers.split_off(&(now, u64::MAX));
            let due = std::mem::replace(&mut state.timers, later);
            if !due.is_empty() {
                drop(state);
                wake_all(due.into_values());
                state = self.state.lock();
                continue;
            }
            if state.stopped {
                return;
            }
            let next = state.timers.first_key_value().map(|((deadline, _), _)| *deadline);
            let at_most = next.map(|deadline| deadline.saturating_sub(now).min(LOOK_AGAIN));
            state = self.changed.wait(state, at_most);
        }
    }
}
