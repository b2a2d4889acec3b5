//! The operations of a store: where they are kept, how many there are, and how they expire and are
//! forgotten.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::alarm::{Alarm, Slot};
use crate::collection::CollectionState;
use crate::entity::Actor;
use crate::error::{Error, Result};
use crate::ids::Caller;
use crate::key::{key_buf, sealed::Key};
use crate::log::Ticket;
use crate::map::{KeyBuf, Map, State};
use crate::operation::OperationInfo;
use crate::operation::record::{BegunRecord, Now, OperationRecord, ScopeKey, ScopeRecord};
use crate::operation::step::{self, Done, Ended, Step};
use crate::operation::wait::Waiters;
use crate::options::Limits;
use crate::retry::Driven;
use crate::service::Service;
use crate::store::Inner;
use crate::sync::{AtomicU64, Level, Mutex, Ordering};

/// Of a store.
pub(crate) struct OperationTable {
    pub(crate) records: Arc<CollectionState<OperationRecord>>,
    pub(crate) scopes: Arc<CollectionState<ScopeRecord>>,
    pub(crate) begun: Arc<CollectionState<BegunRecord>>,
    pub(crate) waiters: Arc<Waiters>,
    /// How many there are, and how many are about to be.
    total: Arc<AtomicU64>,
    /// Those that have ended, the oldest first.
    ended: Mutex<BTreeSet<Ended>>,
    /// When the next one expires or is forgotten.
    alarm: Alarm,
}

/// Keys are looked at, and operations forgotten, so many at a time.
const PORTION: usize = 128;

/// All scopes are looked through no more often than this: who meets an operation that has expired
/// need not wait for that.
const PAUSE: Duration = Duration::from_millis(200);

/// How long nothing is tried after it could not be written.
const PATIENCE: Duration = Duration::from_secs(1);

impl OperationTable {
    /// The collections hold what was stored.
    pub(crate) fn new(
        records: Arc<CollectionState<OperationRecord>>,
        scopes: Arc<CollectionState<ScopeRecord>>,
        begun: Arc<CollectionState<BegunRecord>>,
    ) -> OperationTable {
        let (mut total, mut ended) = (0, BTreeSet::new());
        each::<String, _>(&records.map, |id, record: &OperationRecord| {
            total += 1;
            ended.extend(record.end.as_ref().map(|end| (end.ended_at, id)));
        });
        OperationTable {
            records,
            scopes,
            begun,
            waiters: Arc::new(Waiters::new()),
            total: Arc::new(AtomicU64::new(total)),
            ended: Mutex::new(Level::Alone("operations that have ended"), ended),
            alarm: Alarm::new("alarm of operations"),
        }
    }

    /// Sees to what was stored.
    pub(crate) fn watch(&self, store: &Arc<Inner>) {
        if self.total.load(Ordering::Relaxed) > 0 {
            self.keep_deadline(store, store.clock.monotonic());
        }
    }

    /// Who waits looks again: the store is at its end.
    pub(crate) fn wake_all(&self) {
        self.waiters.wake_all();
    }

    /// The right to one more, and how many have to be forgotten for it.
    pub(crate) fn slot(&self, limits: &Limits) -> (Slot, usize) {
        let (slot, before) = Slot::take(&self.total);
        let surplus = (before + 1).saturating_sub(limits.operations as u64);
        (slot, usize::try_from(surplus).unwrap_or(usize::MAX))
    }

    /// Those that ended first, up to `count`.
    pub(crate) fn oldest(&self, count: usize) -> Vec<Ended> {
        self.ended.lock().iter().take(count).cloned().collect()
    }

    /// Who began an operation.
    pub(crate) fn started_by(&self, id: &str) -> Option<Actor> {
        let state = state_at(&self.records.map, &key_buf::<String>(id), None);
        state.live()?.value.started_by.clone()
    }

    /// A step has landed. With nothing locked.
    pub(crate) fn note(&self, store: &Arc<Inner>, done: &mut Done) {
        if let Some(slot) = done.slot.take() {
            slot.keep();
        }
        self.total.fetch_sub(done.forgotten.len() as u64, Ordering::Relaxed);
        let mut ended = self.ended.lock();
        ended.extend(done.ended.iter().cloned());
        done.forgotten.iter().for_each(|forgotten| _ = ended.remove(forgotten));
        drop(ended);
        if !done.ended.is_empty() {
            let now = store.clock.monotonic();
            self.keep_deadline(store, now.saturating_add(store.limits.operation_results));
        }
        if let Some(deadline) = done.deadline {
            self.keep_deadline(store, deadline);
            if done.leases {
                store.leases.keep_deadline(store, deadline);
            }
        }
        self.waiters.wake(&done.moved);
    }

    /// An operation as readers see it at `shown`, or else as the next step would meet it; and the
    /// highest version that this was told by.
    pub(crate) fn look(
        &self,
        kind: &str,
        id: &str,
        shown: Option<&AtomicU64>,
        monotonic: Duration,
    ) -> (Option<OperationInfo>, u64) {
        let id_key = key_buf::<String>(id);
        loop {
            let state = state_at(&self.records.map, &id_key, shown);
            let known = state.live().filter(|record| record.value.kind == kind);
            let Some(record) = known else { return (None, state.version()) };
            let (owner, scope) = record.value.scope_key();
            let scope = key_buf::<ScopeKey>((owner, scope));
            let scope = state_at(&self.scopes.map, &scope, shown);
            let version = state.version().max(scope.version());
            let scope = scope.live().map(|scope| &scope.value);
            let info = OperationInfo::of(id, &record.value, scope, monotonic);
            // If it has lost its place in between, it has ended by now.
            if info.is_some() {
                return (info, version);
            }
        }
    }

    /// Sees to it that what expires or is forgotten then does so.
    fn keep_deadline(&self, store: &Arc<Inner>, at: Duration) {
        let waker = || Waker::from(Arc::new(Sweep(Arc::downgrade(store))));
        self.alarm.set(&store.service, at, waker);
    }

    /// Ends what has expired, and forgets what is too old. Returns when to look again.
    fn sweep(&self, store: &Arc<Inner>) -> Option<Duration> {
        self.alarm.take();
        let now = Now::of(&*store.clock);
        let (mut due, mut next) = (Vec::new(), Duration::MAX);
        each(&self.scopes.map, |key: ScopeKey, scope: &ScopeRecord| {
            match scope.running.deadline <= now.monotonic {
                true => due.push(key),
                false => next = next.min(scope.running.deadline),
            }
        });
        let age = store.limits.operation_results;
        let mut steps: Vec<_> = due.into_iter().map(Step::Expire).collect();
        let old: Vec<_> = {
            let ended = self.ended.lock();
            let old = ended.iter().take_while(|(ended, _)| now.time.since(*ended) >= age);
            let old: Vec<_> = old.cloned().collect();
            if let Some((first, _)) = ended.iter().nth(old.len()) {
                let left = age.saturating_sub(now.time.since(*first));
                next = next.min(now.monotonic.saturating_add(left));
            }
            old
        };
        steps.extend(old.chunks(PORTION).map(|old| Step::Forget(old.to_vec())));
        for step in steps {
            match take_now(store, step) {
                Ok(true) => {}
                // Somebody else was faster, or there is no room in the log yet: nor for the others.
                Ok(false) | Err(Error::DiskFull { .. }) => {
                    next = next.min(now.monotonic + PATIENCE);
                    break;
                }
                Err(_) => {
                    self.wake_all();
                    return None;
                }
            }
        }
        (next < Duration::MAX).then(|| next.max(now.monotonic + PAUSE))
    }
}

/// Takes a step without waiting for anything. `false` if it would have to.
fn take_now(store: &Arc<Inner>, step: Step) -> Result<bool> {
    let mut driven =
        Driven::new(store, step::run(store, step, Caller::default()), store.retry.clone());
    let (service, sweep) = (Arc::clone(&store.service), Arc::new(Sweep(Arc::downgrade(store))));
    let again = Waker::from(Arc::new(Again { service, sweep }));
    let Poll::Ready(settled) = driven.poll_settled(&mut Context::from_waker(&again)) else {
        return Ok(false);
    };
    // Nobody waits for it: the service thread is to write it.
    let _ = store.journal.poll(settled?, &mut Ticket::default(), Waker::noop());
    Ok(true)
}

fn state_at<V>(map: &Map<V>, key: &KeyBuf, shown: Option<&AtomicU64>) -> State<V> {
    let hash = map.hash(key);
    match shown {
        Some(shown) => map.visible(hash, key, shown).map_or(State::Vacant, State::Live),
        None => map.newest(hash, key),
    }
}

/// Gives each entity to `f`, with nothing locked.
fn each<K: Key, V>(map: &Map<V>, mut f: impl FnMut(K, &V)) {
    let mut start = Bound::Unbounded;
    loop {
        let after = start.as_ref().map(|key: &KeyBuf| &**key);
        let keys = map.candidates((after, Bound::Unbounded), PORTION);
        let Some(last) = keys.last() else { return };
        start = Bound::Excluded(last.clone());
        for key in &keys {
            let state = map.newest(map.hash(key), key);
            if let Some((key, record)) = K::decode(key).zip(state.live()) {
                f(key, &record.value);
            }
        }
    }
}

/// Has the service thread sweep again, when there is room in the log. Woken by whoever made it, in
/// the middle of that: the store must not be held here, or it might be closed here.
struct Again {
    service: Arc<Service>,
    sweep: Arc<Sweep>,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.service.after(Duration::ZERO, Waker::from(Arc::clone(&self.sweep)));
    }
}

/// Woken by the service thread.
struct Sweep(Weak<Inner>);

impl Wake for Sweep {
    fn wake(self: Arc<Self>) {
        let Some(store) = self.0.upgrade() else { return };
        if store.durable().is_ok()
            && let Some(next) = store.operations.sweep(&store)
        {
            store.operations.keep_deadline(&store, next);
        }
    }
}
