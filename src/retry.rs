//! Attempts that are repeated within bounds (G7), as steps that threads and futures drive alike.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::conflict::Effort;
use crate::error::Result;
use crate::log::{Room, Ticket};
use crate::options::RetryPolicy;
use crate::service::Timer;
use crate::store::Inner;
use crate::sync::{UserCode, parker};
use crate::turns::{PATIENCE, Place, Turn};

/// After so many losses a caller queues up for its turn.
const LOSSES_BEFORE_TURN: u32 = 3;

/// A write that is computed and attempted until it lands, is refused, or has spent its bounds.
pub(crate) trait Task: Sized {
    /// What an attempt lost to, where the next one can begin with that.
    type Seen;
    /// A change that is ready to be attempted.
    type Prepared;
    type Answer;
    /// What is left of a landed change: dropped when it is answered, because dropping runs the
    /// caller's code.
    type Left;

    /// Whether time is taken from the start; else from the first loss on.
    const TIMED: bool = true;

    /// Where callers queue up who are about to do the same, if that is known already.
    fn place(&self) -> Option<Place>;

    /// Computes the change.
    ///
    /// # Errors
    /// What keeps the change from being tried at all.
    fn compute(
        &mut self,
        seen: Option<Self::Seen>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>>;

    /// Tries to write the change, for which there is room.
    ///
    /// # Errors
    /// What keeps the change from being tried at all.
    fn attempt(
        &mut self,
        prepared: Self::Prepared,
        room: Room<'_>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>>;
}

/// What is to be done next.
pub(crate) enum Phase<T: Task> {
    /// Wait for the turn, but no longer than `until`.
    Turn { until: Duration },
    /// Wait `until` then, to let others pass.
    Pause { until: Duration },
    /// Compute the change, on what the last attempt lost to if that is given.
    Try(Option<T::Seen>),
    /// Get room for a record with this payload, then attempt it.
    Write { prepared: T::Prepared, payload: usize },
    /// Answer, as soon as what it rests on is durable.
    Answer(Settled<T>),
}

/// A task whose outcome is certain, but may not be told yet.
pub(crate) struct Settled<T: Task> {
    pub(crate) answer: Result<T::Answer>,
    pub(crate) rests_on: u64,
    /// Something landed if something is left.
    pub(crate) left: Option<T::Left>,
}

impl<T: Task> Settled<T> {
    /// The answer, if what it rests on is durable.
    ///
    /// # Errors
    /// The task's; [`Error::Poisoned`](crate::Error::Poisoned).
    pub(crate) fn tell(self, durable: Result<()>) -> Result<T::Answer> {
        durable.map_err(|error| match self.left {
            Some(_) => error,
            None => error.nothing_written(),
        })?;
        self.answer
    }
}

impl<T: Task> Phase<T> {
    /// The answer of a change that wrote nothing.
    pub(crate) fn nothing(answer: Result<T::Answer>, rests_on: u64) -> Phase<T> {
        Phase::Answer(Settled { answer, rests_on, left: None })
    }
}

/// Runs a task and blocks until its answer is durable (G3).
///
/// # Errors
/// The task's; [`Error::Poisoned`](crate::Error::Poisoned).
pub(crate) fn run<T: Task>(store: &Inner, task: T, policy: RetryPolicy) -> Result<T::Answer> {
    let settled = settle(store, task, policy)?;
    let durable = store.journal.wait(settled.rests_on);
    settled.tell(durable)
}

/// Runs a task until its outcome is certain.
///
/// # Errors
/// What kept it from being tried at all.
pub(crate) fn settle<T: Task>(
    store: &Inner,
    mut task: T,
    policy: RetryPolicy,
) -> Result<Settled<T>> {
    let clock = &store.clock;
    let mut retrying = Retrying::new::<T>(store, policy, false);
    let mut phase = retrying.first_phase(&task);
    loop {
        phase = match phase {
            Phase::Turn { until } => {
                let parker = parker();
                while !retrying.has_turn(parker.waker(), until) {
                    parker.park(Some(until.saturating_sub(clock.monotonic())));
                }
                Phase::Try(None)
            }
            Phase::Pause { until } => {
                clock.sleep(until.saturating_sub(clock.monotonic()));
                Phase::Try(None)
            }
            Phase::Try(seen) => retrying.compute(&mut task, seen)?,
            Phase::Write { prepared, payload } => {
                let room = store.journal.reserve(payload)?;
                task.attempt(prepared, room, &mut retrying)?
            }
            Phase::Answer(settled) => return Ok(settled),
        }
    }
}

/// A task that is polled. Begins when it is polled first.
pub(crate) struct Driven<'a, T: Task> {
    state: State<'a, T>,
    ticket: Ticket,
    timer: Option<Timer>,
}

#[allow(clippy::large_enum_variant, reason = "a box would cost each task an allocation")]
enum State<'a, T: Task> {
    Start(&'a Inner, T, RetryPolicy),
    Running(Retrying<'a>, T, Phase<T>),
    Settled(&'a Inner, Settled<T>),
    Done,
}

/// How far a poll has come.
enum Advance<T: Task> {
    Next(Phase<T>),
    Wait(Phase<T>),
    Settled(Settled<T>),
}

impl<'a, T: Task> Driven<'a, T> {
    pub(crate) fn new(store: &'a Inner, task: T, policy: RetryPolicy) -> Driven<'a, T> {
        let state = State::Start(store, task, policy);
        Driven { state, ticket: Ticket::default(), timer: None }
    }

    /// # Errors
    /// As [`run`].
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T::Answer>> {
        let Poll::Ready(rests_on) = self.poll_settled(context)? else { return Poll::Pending };
        let State::Settled(store, _) = &self.state else { return Poll::Pending };
        let durable = store.journal.poll(rests_on, &mut self.ticket, context.waker());
        durable.map(|durable| self.tell(durable))
    }

    /// As [`poll_settled`](Driven::poll_settled) of a task that has not begun, for a thread.
    ///
    /// # Errors
    /// As [`settle`].
    pub(crate) fn settle(&mut self) -> Result<u64> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Start(store, task, policy) => {
                let settled = settle(store, task, policy)?;
                let rests_on = settled.rests_on;
                self.state = State::Settled(store, settled);
                Ok(rests_on)
            }
            _ => unreachable!("it has begun"),
        }
    }

    /// Runs until the outcome is certain. Returns what has to be durable before it may be told.
    ///
    /// # Errors
    /// As [`settle`].
    pub(crate) fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<Result<u64>> {
        loop {
            let next = match std::mem::replace(&mut self.state, State::Done) {
                State::Start(store, task, policy) => {
                    let mut retrying = Retrying::new::<T>(store, policy, true);
                    let phase = retrying.first_phase(&task);
                    State::Running(retrying, task, phase)
                }
                State::Running(mut retrying, mut task, phase) => {
                    match self.advance(&mut retrying, &mut task, phase, context)? {
                        Advance::Next(phase) => State::Running(retrying, task, phase),
                        Advance::Settled(settled) => State::Settled(retrying.store, settled),
                        Advance::Wait(phase) => {
                            self.state = State::Running(retrying, task, phase);
                            return Poll::Pending;
                        }
                    }
                }
                State::Settled(store, settled) => {
                    let rests_on = settled.rests_on;
                    self.state = State::Settled(store, settled);
                    return Poll::Ready(Ok(rests_on));
                }
                // As a future may after its end; the answer has been given.
                State::Done => return Poll::Pending,
            };
            self.state = next;
        }
    }

    /// The answer, once it is settled; see [`Settled::tell`].
    ///
    /// # Errors
    /// As of `tell`.
    pub(crate) fn tell(&mut self, durable: Result<()>) -> Result<T::Answer> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Settled(_, settled) => settled.tell(durable),
            _ => unreachable!("it is settled"),
        }
    }

    fn advance(
        &mut self,
        retrying: &mut Retrying<'a>,
        task: &mut T,
        phase: Phase<T>,
        context: &mut Context<'_>,
    ) -> Result<Advance<T>> {
        let store = retrying.store;
        // The service thread wakes the task at a deadline; a new deadline replaces the last.
        let mut wake_at = |deadline| {
            self.timer = store.service.wake_at(deadline, context.waker().clone());
        };
        Ok(match phase {
            // Nobody keeps a deadline any more; the attempt will say so.
            Phase::Turn { .. } | Phase::Pause { .. } if store.durable().is_err() => {
                Advance::Next(Phase::Try(None))
            }
            Phase::Turn { until } if retrying.has_turn(context.waker(), until) => {
                Advance::Next(Phase::Try(None))
            }
            Phase::Turn { until } => {
                wake_at(until);
                Advance::Wait(phase)
            }
            Phase::Pause { until } if store.clock.monotonic() >= until => {
                Advance::Next(Phase::Try(None))
            }
            Phase::Pause { until } => {
                wake_at(until);
                Advance::Wait(phase)
            }
            Phase::Try(seen) => {
                self.timer = None;
                Advance::Next(retrying.compute(task, seen)?)
            }
            Phase::Write { prepared, payload } => {
                match store.journal.poll_reserve(payload, &mut self.ticket, context.waker()) {
                    Poll::Ready(room) => {
                        let next = task.attempt(prepared, room?, retrying)?;
                        self.ticket = Ticket::default();
                        Advance::Next(next)
                    }
                    Poll::Pending => Advance::Wait(Phase::Write { prepared, payload }),
                }
            }
            Phase::Answer(settled) => Advance::Settled(settled),
        })
    }
}

/// How much of a retry policy has been spent, and the place in a queue.
pub(crate) struct Retrying<'a> {
    pub(crate) store: &'a Inner,
    pub(crate) by_future: bool,
    policy: RetryPolicy,
    started: Option<Duration>,
    attempts: u32,
    last_pause: Duration,
    turn: Option<Turn>,
}

impl<'a> Retrying<'a> {
    fn new<T: Task>(store: &'a Inner, policy: RetryPolicy, by_future: bool) -> Retrying<'a> {
        let started = T::TIMED.then(|| store.clock.monotonic());
        let last_pause = policy.pause_min;
        Retrying { store, by_future, policy, started, attempts: 0, last_pause, turn: None }
    }

    /// Queues up at once where others do already: newcomers do not overtake.
    fn first_phase<T: Task>(&mut self, task: &T) -> Phase<T> {
        match task.place().filter(|place| self.store.turns.is_contended(*place)) {
            Some(place) if !UserCode::is_running() => self.queue_up(place),
            _ => Phase::Try(None),
        }
    }

    fn compute<T: Task>(&mut self, task: &mut T, seen: Option<T::Seen>) -> Result<Phase<T>> {
        self.store.durable()?;
        self.attempts += 1;
        task.compute(seen, self)
    }

    /// Goes on after a loss at `place`, if the bounds are not spent: the first retry goes out at
    /// once, from what won; then pauses; then turns.
    pub(crate) fn after_loss<T: Task>(
        &mut self,
        place: Place,
        seen: Option<T::Seen>,
    ) -> Option<Phase<T>> {
        let clock = &self.store.clock;
        self.started.get_or_insert_with(|| clock.monotonic());
        if self.attempts >= self.policy.attempts || self.left().is_zero() {
            return None;
        }
        if self.attempts == 1 {
            return Some(Phase::Try(seen));
        }
        let queues = self.attempts >= LOSSES_BEFORE_TURN && self.turn.is_none();
        if queues && !UserCode::is_running() {
            return Some(self.queue_up(place));
        }
        Some(Phase::Pause { until: self.pause() })
    }

    /// What has been spent by a write that ends with this: it is counted if it was tried again.
    pub(crate) fn finish(&self) -> Effort {
        if self.attempts > 1 {
            self.store.contention.retried(self.attempts);
        }
        Effort { attempts: self.attempts, elapsed: self.elapsed() }
    }

    /// Whether to go ahead: it is the caller's turn, or it has waited long enough.
    fn has_turn(&mut self, waker: &Waker, until: Duration) -> bool {
        if self.turn.as_ref().is_none_or(|turn| turn.poll(waker).is_ready()) {
            return true;
        }
        let out_of_patience = self.store.clock.monotonic() >= until;
        if out_of_patience && let Some(turn) = self.turn.take() {
            turn.give_up();
        }
        out_of_patience
    }

    fn queue_up<T: Task>(&mut self, place: Place) -> Phase<T> {
        self.turn = Some(self.store.turns.join(place));
        let until = self.store.clock.monotonic() + PATIENCE.min(self.left());
        Phase::Turn { until }
    }

    fn elapsed(&self) -> Duration {
        let since = |started| self.store.clock.monotonic().saturating_sub(started);
        self.started.map_or(Duration::ZERO, since)
    }

    fn left(&self) -> Duration {
        self.policy.budget.saturating_sub(self.elapsed())
    }

    /// Decorrelated jitter (Brooker, Exponential Backoff And Jitter, 2015): each pause is drawn
    /// between the shortest and three times the last one. Returns when it is over.
    fn pause(&mut self) -> Duration {
        let RetryPolicy { pause_min, pause_max, .. } = self.policy;
        let most = self.last_pause.saturating_mul(3).clamp(pause_min, pause_max.max(pause_min));
        let spread = (most - pause_min).as_nanos() as u64;
        let drawn = Duration::from_nanos(self.store.random.lock().u64(0..=spread));
        self.last_pause = pause_min.saturating_add(drawn);
        let wait = self.last_pause.min(self.left());
        self.store.clock.monotonic().saturating_add(wait)
    }
}
