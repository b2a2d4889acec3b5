//! The keys with the most conflicts, in bounded memory.
//!
//! The Space-Saving sketch (Metwally, Agrawal, El Abbadi, Efficient Computation of Frequent and
//! Top-k Elements in Data Streams, 2005): a key that is not among those counted takes the place
//! of the last one, and its count, as it may have been counted and pushed out before. Old heat
//! fades: at the end of each minute all counts are halved.

use std::sync::Arc;
use std::time::Duration;

use crate::map::KeyBuf;

/// How many keys are counted. A key that has more than one in so many of all conflicts is
/// always among them.
pub(crate) const KEYS: usize = 64;

/// After this time what was counted counts half.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// The same, for the conflicts that count as recent.
const RECENT: Duration = Duration::from_secs(1);

/// The entry of the most conflicts comes first.
#[derive(Default)]
pub(super) struct Sketch {
    entries: Vec<Entry>,
    halved_at: Duration,
}

/// A key, and how often it was in conflict, faded. Halving a float loses nothing.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) collection: Arc<str>,
    pub(super) key: KeyBuf,
    /// Makes text of the key, for those who ask.
    pub(super) text: fn(&[u8]) -> String,
    pub(super) count: f64,
    /// So many of the count may be others'.
    pub(super) error: f64,
    recent: f64,
    recent_at: Duration,
}

/// A key in conflict.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) collection: &'a Arc<str>,
    pub(crate) key: &'a [u8],
    pub(crate) text: fn(&[u8]) -> String,
}

impl Sketch {
    /// Counts a conflict. Returns how many there were lately on the key, this one included;
    /// `comes_back` says whether it counts as one of them.
    pub(super) fn count(&mut self, at: Place<'_>, comes_back: bool, now: Duration) -> f64 {
        self.fade(now);
        let place = self.place_of(at, now);
        let Some(entry) = self.entries.get_mut(place) else { return 0.0 };
        entry.count += 1.0;
        let count = entry.count;
        let passed = now.saturating_sub(entry.recent_at).div_duration_f64(RECENT);
        entry.recent = entry.recent * (-passed).exp2() + f64::from(u8::from(comes_back));
        entry.recent_at = now;
        let recent = entry.recent;
        // Past those that it has overtaken.
        let mut before = self.entries.iter().take(place);
        let ahead = before.position(|other| other.count < count).unwrap_or(place);
        if let Some(overtaken) = self.entries.get_mut(ahead..=place) {
            overtaken.rotate_right(1);
        }
        recent
    }

    /// What was counted, the most first.
    pub(super) fn entries(&mut self, now: Duration) -> Vec<Entry> {
        self.fade(now);
        self.entries.clone()
    }

    /// The place of a key, which takes that of the last if it has none.
    fn place_of(&mut self, at: Place<'_>, now: Duration) -> usize {
        let same = |entry: &Entry| *entry.key == *at.key && entry.collection == *at.collection;
        if let Some(place) = self.entries.iter().position(same) {
            return place;
        }
        let full = self.entries.len() >= KEYS;
        let taken = if full { self.entries.pop().map_or(0.0, |last| last.count) } else { 0.0 };
        self.entries.push(Entry {
            collection: Arc::clone(at.collection),
            key: KeyBuf::from(at.key),
            text: at.text,
            count: taken,
            error: taken,
            recent: 0.0,
            recent_at: now,
        });
        self.entries.len() - 1
    }

    fn fade(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.halved_at).as_secs() / HALF_LIFE.as_secs();
        if passed == 0 {
            return;
        }
        self.halved_at += Duration::from_secs(passed * HALF_LIFE.as_secs());
        let left = (-(passed as f64)).exp2();
        for entry in &mut self.entries {
            entry.count *= left;
            entry.error *= left;
        }
    }
}

#[cfg(all(test, not(ifmatch_loom)))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::key::text_of;

    fn count(sketch: &mut Sketch, key: u16, now: Duration) -> f64 {
        let (collection, key) = (&Arc::from("c"), &key.to_be_bytes());
        sketch.count(Place { collection, key, text: text_of::<u16> }, true, now)
    }

    /// The faded counts of a thousand keys, some hot, in the sketch and exactly.
    #[test]
    fn g12_counts_are_bounded_from_both_sides_in_bounded_memory() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut sketch, mut exact) = (Sketch::default(), BTreeMap::<u16, f64>::new());
        let mut now = Duration::ZERO;
        for step in 0..50_000_u32 {
            if step % 10_000 == 9_999 {
                now += HALF_LIFE;
                exact.values_mut().for_each(|count| *count /= 2.0);
            }
            // Low keys more often than high ones.
            let key = (0..4).fold(999, |most, _| random.u16(0..=most));
            count(&mut sketch, key, now);
            *exact.entry(key).or_default() += 1.0;
        }
        let entries = sketch.entries(now);
        assert_eq!(entries.len(), KEYS);
        assert!(entries.is_sorted_by(|a, b| a.count >= b.count));
        for entry in &entries {
            let key = u16::from_be_bytes(entry.key[..].try_into().unwrap());
            let exact = exact[&key];
            assert!(entry.count - entry.error <= exact && exact <= entry.count, "{key}");
        }
        let all: f64 = exact.values().sum();
        let hot = exact.iter().filter(|(_, count)| **count > all / KEYS as f64);
        let hot: Vec<_> = hot.map(|(key, _)| key.to_be_bytes()).collect();
        assert!(hot.len() > 5, "{} keys are hot", hot.len());
        for key in hot {
            assert!(entries.iter().any(|entry| entry.key[..] == key), "{key:?}");
        }
    }

    #[test]
    fn old_heat_fades() {
        let mut sketch = Sketch::default();
        let start = Duration::from_secs(600);
        for _ in 0..8 {
            count(&mut sketch, 1, start);
        }
        let later = start + 2 * HALF_LIFE;
        assert_eq!(sketch.entries(later)[0].count, 2.0);
        assert_eq!(count(&mut sketch, 2, later), 1.0);
        assert_eq!(count(&mut sketch, 2, later), 2.0);
        assert_eq!(count(&mut sketch, 2, later + RECENT), 2.0);
        assert_eq!(count(&mut sketch, 2, later), 3.0, "a clock that steps back adds no heat");
        assert_eq!(sketch.entries(later)[0].count, 4.0, "the order follows");
    }
}
