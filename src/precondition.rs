//! What a write relies on, and the one function that decides whether it holds.

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Timestamp;
use crate::entity::Metadata;
use crate::version::Version;

/// A condition on the entity that a write is about to replace or delete.
///
/// It is decided at the instant the write takes effect (G1). Every write names at least one,
/// if only [`Unconditional`](Precondition::Unconditional) (G6).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precondition {
    /// No entity is there.
    Absent,
    /// An entity is there, whatever its version.
    Exists,
    /// The entity is at this version.
    Matches(Version),
    /// The entity is at one of these versions. An empty list never holds.
    MatchesAny(Vec<Version>),
    /// The entity is absent, or at none of these versions.
    MatchesNone(Vec<Version>),
    /// The entity is there and was not written after this time, which is cut to whole seconds
    /// as HTTP dates are. If it was written within that very second, an earlier version written
    /// in the same second makes the condition fail: the caller may have read that one.
    UnmodifiedSince(SystemTime),
    /// Always holds: the write overwrites whatever is there.
    Unconditional,
    /// An entity is there, and its value is in this state: made by
    /// [`if_state`](crate::Write::if_state).
    State(Predicate),
}

/// A named predicate on a value, and what it said of which version.
///
/// It is the caller's code, so it is tried with nothing locked; when the write is decided, the
/// entity has to be at the version that it was tried on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicate {
    name: Arc<str>,
    tried: Option<(Version, bool)>,
}

impl Predicate {
    pub(crate) fn untried(name: Arc<str>) -> Predicate {
        Predicate { name, tried: None }
    }

    /// Takes down what it said of the newest entity, if there is one.
    pub(crate) fn tried(&mut self, said: Option<(Version, bool)>) {
        self.tried = said;
    }

    /// The name of the state.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn holds(&self, at: Version) -> bool {
        self.tried == Some((at, true))
    }

    /// Whether it would have to be tried again: `current` is another version than it was tried on.
    pub(crate) fn is_outdated(&self, current: Option<Version>) -> bool {
        self.tried.map(|(version, _)| version) != current
    }
}

impl Precondition {
    /// Whether the condition holds for `current`, where `None` is an absent entity.
    ///
    /// ```
    /// use ifmatch::Precondition;
    ///
    /// assert!(Precondition::Absent.holds(None));
    /// assert!(!Precondition::Exists.holds(None));
    /// ```
    pub fn holds(&self, current: Option<&Metadata>) -> bool {
        match (self, current) {
            (Precondition::Unconditional, _) => true,
            (Precondition::Absent, current) => current.is_none(),
            (Precondition::MatchesNone(_), None) => true,
            (Precondition::MatchesNone(versions), Some(at)) => !versions.contains(&at.version),
            (_, None) => false,
            (Precondition::Exists, Some(_)) => true,
            (Precondition::Matches(version), Some(at)) => at.version == *version,
            (Precondition::MatchesAny(versions), Some(at)) => versions.contains(&at.version),
            (Precondition::UnmodifiedSince(time), Some(at)) => unmodified_since(*time, at),
            (Precondition::State(predicate), Some(at)) => predicate.holds(at.version),
        }
    }

    /// The versions that the condition names.
    pub fn versions(&self) -> &[Version] {
        match self {
            Precondition::Matches(version) => std::slice::from_ref(version),
            Precondition::MatchesAny(versions) | Precondition::MatchesNone(versions) => versions,
            _ => &[],
        }
    }
}

/// Decides a list: all must hold; otherwise the first that does not is returned.
///
/// # Errors
/// The first condition that does not hold.
///
/// ```
/// use ifmatch::{Precondition, decide};
///
/// let list = [Precondition::Unconditional, Precondition::Exists];
/// assert_eq!(decide(&list, None), Err(&Precondition::Exists));
/// ```
pub fn decide<'a>(
    preconditions: &'a [Precondition],
    current: Option<&Metadata>,
) -> Result<(), &'a Precondition> {
    match preconditions.iter().find(|precondition| !precondition.holds(current)) {
        None => Ok(()),
        Some(unmet) => Err(unmet),
    }
}

fn unmodified_since(time: SystemTime, at: &Metadata) -> bool {
    let (named, written) = (Timestamp::from(time).second(), at.written_at.second());
    written < named || (written == named && !at.shares_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn v(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    fn entity(version: u64, written_at_micros: u64, shares_second: bool) -> Metadata {
        Metadata {
            version: v(version),
            written_by: None,
            written_at: Timestamp(written_at_micros),
            created_at: Timestamp(0),
            shares_second,
        }
    }

    #[test]
    fn g1_each_condition_holds_exactly_where_it_says() {
        use Precondition::*;
        let at_3 = entity(3, 10_500_000, false);
        let second = |s: u64| UnmodifiedSince(UNIX_EPOCH + Duration::from_millis(s * 1_000 + 7));
        for (condition, present, absent) in [
            (Absent, false, true),
            (Exists, true, false),
            (Matches(v(3)), true, false),
            (Matches(v(2)), false, false),
            (MatchesAny(vec![v(1), v(3)]), true, false),
            (MatchesAny(vec![]), false, false),
            (MatchesNone(vec![v(3)]), false, true),
            (MatchesNone(vec![v(2)]), true, true),
            (MatchesNone(vec![]), true, true),
            (second(9), false, false),
            (second(10), true, false),
            (second(11), true, false),
            (Unconditional, true, true),
        ] {
            assert_eq!(condition.holds(Some(&at_3)), present, "{condition:?} on version 3");
            assert_eq!(condition.holds(None), absent, "{condition:?} on nothing");
        }
    }

    #[test]
    fn g1_a_second_with_two_versions_is_not_trusted() {
        let condition = Precondition::UnmodifiedSince(UNIX_EPOCH + Duration::from_secs(10));
        assert!(!condition.holds(Some(&entity(3, 10_500_000, true))));
        let later = Precondition::UnmodifiedSince(UNIX_EPOCH + Duration::from_secs(11));
        assert!(later.holds(Some(&entity(3, 10_500_000, true))));
    }

    #[test]
    fn g1_the_first_condition_that_fails_is_reported() {
        let list = [Precondition::Exists, Precondition::Matches(v(2)), Precondition::Absent];
        let unmet = decide(&list, Some(&entity(3, 0, false)));
        assert_eq!(unmet, Err(&Precondition::Matches(v(2))));
        assert_eq!(decide(&[], None), Ok(()));
    }
}
