//! The leases of a store: where they are kept, how many there are, and how they expire.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use crate::alarm::{Alarm, Slot};
use crate::collection::CollectionState;
use crate::entity::Actor;
use crate::error::{Error, Limit, Result};
use crate::group::{Attempt, Group, Verdict};
use crate::lease::hold::{EXPIRY, Hold, collection_of, entry_key};
use crate::log::Ticket;
use crate::map::{KeyBuf, State};
use crate::options::Limits;
use crate::store::Inner;
use crate::sync::{AtomicU64, Level, Mutex, Ordering};

/// Of a store.
pub(crate) struct Leases {
    pub(crate) entries: Arc<CollectionState<Hold>>,
    /// How many there are of each collection, expired ones included until that is written.
    counts: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    /// How many there are, and how many are about to be.
    total: Arc<AtomicU64>,
    /// When the next one expires.
    alarm: Alarm,
}

/// Leases that have expired are written as gone so many at a time.
const PORTION: usize = 128;

/// All leases are looked through no more often than this: who meets one that has expired need not
/// wait for that to be written.
const PAUSE: Duration = Duration::from_millis(200);

/// How long nothing is tried after it could not be written.
const PATIENCE: Duration = Duration::from_secs(1);

impl Leases {
    /// `entries` holds what was stored.
    pub(crate) fn new(entries: Arc<CollectionState<Hold>>) -> Leases {
        let counts = Mutex::new(Level::Alone("counts of leases"), BTreeMap::new());
        let alarm = Alarm::new("alarm of leases");
        let leases = Leases { entries, counts, total: Arc::new(AtomicU64::new(0)), alarm };
        leases.each(|entry, _| {
            leases.count_of(&collection_of(entry)).fetch_add(1, Ordering::Relaxed);
            leases.total.fetch_add(1, Ordering::Relaxed);
        });
        leases
    }

    /// How many leases of this collection there are. Raised while the stripe of the key is locked
    /// that is leased, and lowered while the stripe of the lease is.
    pub(crate) fn count_of(&self, collection: &str) -> Arc<AtomicU64> {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get(collection) {
            return Arc::clone(count);
        }
        Arc::clone(counts.entry(collection.to_owned()).or_default())
    }

    /// Whether there is a lease of the key, expired or not.
    pub(crate) fn has_entry(&self, collection: &str, key: &[u8]) -> bool {
        let (map, entry) = (&self.entries.map, entry_key(collection, key));
        map.newest(map.hash(&entry), &entry).live().is_some()
    }

    /// The right to one lease more. What has expired makes room.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn slot(&self, store: &Inner, place: impl FnOnce() -> String) -> Result<Slot> {
        if let Some(slot) = self.try_slot(&store.limits) {
            return Ok(slot);
        }
        self.sweep(store);
        self.try_slot(&store.limits).ok_or_else(|| {
            let allowed = store.limits.leases as u64;
            Error::Limit { limit: Limit::Leases, allowed, actual: allowed + 1, place: place() }
        })
    }

    fn try_slot(&self, limits: &Limits) -> Option<Slot> {
        let (slot, before) = Slot::take(&self.total);
        (before < limits.leases as u64).then_some(slot)
    }

    /// A lease is gone.
    pub(crate) fn give_back(&self) {
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sees to it that a lease is written as gone when it has expired.
    pub(crate) fn keep_deadline(&self, store: &Arc<Inner>, at: Duration) {
        let waker = || Waker::from(Arc::new(Sweep(Arc::downgrade(store))));
        self.alarm.set(&store.service, at, waker);
    }

    /// Sees to what was stored.
    pub(crate) fn watch(store: Arc<Inner>) -> Arc<Inner> {
        if store.leases.total.load(Ordering::Relaxed) > 0 {
            store.leases.keep_deadline(&store, store.clock.monotonic());
        }
        store
    }

    /// Writes of all leases that have expired that they are gone. Returns when the next one
    /// expires.
    fn sweep(&self, store: &Inner) -> Option<Duration> {
        // No deadline is kept any more.
        store.durable().ok()?;
        let now = store.clock.monotonic();
        let (mut due, mut next) = (Vec::new(), None);
        self.each(|entry, state| {
            let deadline = state.live().map_or(Duration::ZERO, |record| record.value.deadline);
            match deadline <= now {
                true => due.push((entry.clone(), state)),
                false => next = Some(next.map_or(deadline, |next: Duration| next.min(deadline))),
            }
        });
        while !due.is_empty() {
            let rest = due.split_off(PORTION.min(due.len()));
            match self.expire(store, std::mem::replace(&mut due, rest)) {
                Ok(true) => {}
                // One was renewed or taken meanwhile, or there is no room in the log.
                Ok(false) | Err(Error::DiskFull { .. }) => return Some(now + PATIENCE),
                // The store is at its end.
                Err(_) => return None,
            }
        }
        next.map(|next| next.max(now + PAUSE))
    }

    /// Deletes leases, if they are as they were. Waits for nothing. `false` if there was no room,
    /// or one has changed.
    fn expire(&self, store: &Inner, due: Vec<(KeyBuf, State<Hold>)>) -> Result<bool> {
        let (mut group, mut verdict) = (Group::default(), Verdict::default());
        for (entry, state) in due {
            group.leases(store).end(&entry, state);
        }
        let actor = Actor::from(EXPIRY);
        let payload = group.prepare(store, Some(&actor))?;
        let mut ticket = Ticket::default();
        let Poll::Ready(room) = store.journal.poll_reserve(payload, &mut ticket, Waker::noop())
        else {
            return Ok(false);
        };
        let attempt = group.attempt(store, None, Some(&actor), room?, true, &mut verdict)?;
        let Attempt::Landed(Some(stamp)) = attempt else { return Ok(false) };
        // Nobody waits for it: the service thread is to write it.
        let _ = store.journal.poll(stamp.version, &mut Ticket::default(), Waker::noop());
        Ok(true)
    }

    /// Gives each lease to `f`, with nothing locked.
    fn each(&self, mut f: impl FnMut(&KeyBuf, State<Hold>)) {
        let map = &self.entries.map;
        let mut start = Bound::Unbounded;
        loop {
            let after = start.as_ref().map(|key: &KeyBuf| &**key);
            let entries = map.candidates((after, Bound::Unbounded), PORTION);
            let Some(last) = entries.last() else { return };
            start = Bound::Excluded(last.clone());
            for entry in &entries {
                let state = map.newest(map.hash(entry), entry);
                if state.live().is_some() {
                    f(entry, state);
                }
            }
        }
    }
}

/// Woken by the service thread when a lease expires.
struct Sweep(Weak<Inner>);

impl Wake for Sweep {
    fn wake(self: Arc<Self>) {
        let Some(store) = self.0.upgrade() else { return };
        store.leases.alarm.take();
        if let Some(next) = store.leases.sweep(&store) {
            store.leases.keep_deadline(&store, next);
        }
    }
}
