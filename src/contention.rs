//! What a store has seen of conflicts, and how those who lost are told to spread.
//!
//! Refusals alone come here: a write that meets no conflict pays nothing.

mod sketch;

use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use self::sketch::Place;
use self::sketch::Sketch;
use crate::conflict::Reason;
use crate::sync::{Level, Mutex};

/// What a store has seen of contention since it was opened; see
/// [`Store::contention`](crate::Store::contention).
///
/// Only conflicts are counted, and writes that were tried again: whoever wants a rate counts
/// commits beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Contention {
    /// Refusals by reason, as far as there were any. Each counts once: those that callers got,
    /// and those after which `update` and its kin tried again by themselves.
    pub conflicts: BTreeMap<Reason, u64>,
    /// Of `update` and its kin, the writes that landed or gave up after more than one attempt, by
    /// the number of attempts; 10 stands for 10 and more.
    pub retried: BTreeMap<u32, u64>,
    /// The keys with the most conflicts, the hottest first; at most 64. A key with more than one
    /// in 64 of all conflicts is always among them.
    pub hot_keys: Vec<HotKey>,
}

/// A key that writers met on. Old heat fades: every minute, what was counted is halved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HotKey {
    /// The collection of the key.
    pub collection: String,
    /// The key, as text.
    pub key: String,
    /// There were at least as many conflicts on it.
    pub at_least: u64,
    /// There were at most as many. The two are apart where the key was too cold for a place among
    /// those that are counted, and has made it since.
    pub at_most: u64,
}

/// Writes with this many attempts or more are counted together.
const MANY_ATTEMPTS: u32 = 10;

/// Each recent conflict on a key makes the time within which losers spread so much longer.
const SPREAD_PER_CONFLICT: Duration = Duration::from_millis(5);

/// The longest pause that is advised, unless the caller has spent more time itself.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Counts the conflicts of a store.
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    conflicts: BTreeMap<Reason, u64>,
    retried: BTreeMap<u32, u64>,
    keys: Sketch,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally(Mutex::new(Level::Alone("conflicts"), Counts::default()))
    }

    /// Counts a refusal. Returns the time within which its caller should come back, at random, if
    /// `comes_back` says that it will.
    pub(crate) fn refused(
        &self,
        place: Place<'_>,
        reason: Reason,
        comes_back: bool,
        now: Duration,
    ) -> Duration {
        let mut counts = self.0.lock();
        *counts.conflicts.entry(reason).or_default() += 1;
        let recent = counts.keys.count(place, comes_back, now);
        drop(counts);
        if comes_back { spread(recent) } else { Duration::ZERO }
    }

    /// Counts a write that has ended after more than one attempt.
    pub(crate) fn retried(&self, attempts: u32) {
        let attempts = attempts.min(MANY_ATTEMPTS);
        *self.0.lock().retried.entry(attempts).or_default() += 1;
    }

    pub(crate) fn report(&self, now: Duration) -> Contention {
        let mut counts = self.0.lock();
        let (conflicts, retried) = (counts.conflicts.clone(), counts.retried.clone());
        let entries = counts.keys.entries(now);
        drop(counts);
        // What is less than half a conflict has gone cold.
        let hot = entries.into_iter().filter(|entry| entry.count >= 0.5);
        let hot_keys = hot.map(|entry| HotKey {
            collection: entry.collection.as_ref().to_owned(),
            key: (entry.text)(&entry.key),
            at_least: (entry.count - entry.error).floor() as u64,
            at_most: entry.count.ceil() as u64,
        });
        Contention { conflicts, retried, hot_keys: hot_keys.collect() }
    }
}

/// A pause of at most `spread`, drawn anew each time so that those who lost together do not meet
/// again.
pub(crate) fn draw(random: &Mutex<fastrand::Rng>, spread: Duration) -> Duration {
    if spread.is_zero() {
        return spread;
    }
    let most = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random.lock().u64(0..=most))
}

/// Wide enough for all who lost lately to come back one by one; nothing for who lost alone.
fn spread(recent: f64) -> Duration {
    let most = PAUSE_MAX.div_duration_f64(SPREAD_PER_CONFLICT);
    SPREAD_PER_CONFLICT.mul_f64((recent - 1.0).clamp(0.0, most))
}
