//! The refusal that explains itself: why, against what, who won and what to do next (G4).

mod sentence;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Timestamp;
use crate::entity::{Entity, Metadata, Record};
use crate::lease::{Barred, LeaseInfo};
use crate::operation::OperationInfo;
use crate::precondition::Precondition;
use crate::rebase::Basis;
use crate::version::{EntityTag, Lineage, Version};

/// Why a write was refused. A closed set; what a caller should do differs for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The entity is there, but not as the caller knew it.
    StaleVersion,
    /// The entity that the caller knew has been deleted.
    Deleted,
    /// The caller relied on an entity that is not there.
    Absent,
    /// The caller relied on no entity being there, or not one of these versions.
    AlreadyExists,
    /// A retrying write used up its attempts or its time; see [`RetryPolicy`](crate::RetryPolicy).
    Contended,
    /// The entity is not in the state that the caller relied on; see
    /// [`if_state`](crate::Write::if_state).
    WrongState,
    /// Another entity holds a key of a [unique index](crate::CollectionBuilder::unique).
    Duplicate,
    /// Somebody else holds a lease of the key; see [`Conflict::lease`].
    Locked,
    /// An operation has the scope; see [`operation`](Conflict::operation).
    InProgress,
    /// The lease that the caller relied on, or the operation that it takes a step of, is not its
    /// own any more: it has expired, ended, or was taken over (G8).
    Fenced,
}

impl Reason {
    /// The reason as it stands on the wire: `stale_version`, `deleted`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::StaleVersion => "stale_version",
            Reason::Deleted => "deleted",
            Reason::Absent => "absent",
            Reason::AlreadyExists => "already_exists",
            Reason::Contended => "contended",
            Reason::WrongState => "wrong_state",
            Reason::Duplicate => "duplicate",
            Reason::Locked => "locked",
            Reason::InProgress => "in_progress",
            Reason::Fenced => "fenced",
        }
    }

    /// The reason for which `unmet` fails on `current`. `deleted` says whether a deletion of
    /// the key is remembered.
    pub(crate) fn of(unmet: &Precondition, current: Option<&Metadata>, deleted: bool) -> Reason {
        match unmet {
            Precondition::Absent | Precondition::MatchesNone(_) => Reason::AlreadyExists,
            Precondition::State(_) if current.is_some() => Reason::WrongState,
            _ if current.is_some() => Reason::StaleVersion,
            Precondition::Exists => Reason::Absent,
            // Names no version of this lineage, so none that was deleted.
            Precondition::MatchesAny(versions) if versions.is_empty() => Reason::Absent,
            _ if deleted => Reason::Deleted,
            _ => Reason::Absent,
        }
    }
}

#[cfg(feature = "json")]
impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the caller of a refused write should do.
///
/// The pauses are drawn anew for each refusal, from a time that grows with the conflicts that
/// there were on the key lately: callers who lost together do not come back together.
/// [`update`](crate::Collection::update) does all this by itself; whoever reads and writes in two
/// steps follows the advice:
///
/// ```
/// use ifmatch::{Collection, Error, Result, Retry, Store};
///
/// fn add(counters: &Collection<String, u64>, key: &str, n: u64) -> Result<u64> {
///     loop {
///         let seen = counters.get(key)?.ok_or_else(|| Error::refused("no such counter"))?;
///         let write = counters.put(key, *seen + n).if_match(seen.version());
///         match write.commit() {
///             Ok(done) => return Ok(*done.value()),
///             Err(Error::Conflict(conflict)) => match conflict.retry() {
///                 Retry::Refetch(pause) => std::thread::sleep(pause),
///                 Retry::Never | Retry::After(_) => return Err(Error::Conflict(conflict)),
///             },
///             Err(error) => return Err(error),
///         }
///     }
/// }
///
/// let store = Store::in_memory();
/// let counters = store.collection::<String, u64>("counters")?;
/// counters.create("visits", 1).commit()?;
/// assert_eq!(add(&counters, "visits", 2)?, 3);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same write cannot succeed; a person or the program has to decide anew.
    Never,
    /// After this long, read the entity again, apply the change to what is there, and write that.
    /// Zero for whoever lost alone; at most 2 s.
    Refetch(Duration),
    /// The same write may succeed after this long.
    After(Duration),
}

/// A deletion that the store still remembers.
#[derive(Clone, Debug)]
pub struct Deletion {
    pub(crate) version: Version,
    pub(crate) deleted_by: Option<crate::Actor>,
    pub(crate) deleted_at: Timestamp,
}

impl Deletion {
    /// The number of the commit that deleted the entity.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who deleted it, if the delete said so.
    pub fn deleted_by(&self) -> Option<&str> {
        self.deleted_by.as_ref().map(crate::Actor::as_str)
    }

    /// When it was deleted.
    pub fn deleted_at(&self) -> SystemTime {
        self.deleted_at.into()
    }
}

/// A refused write: what happened, who won, when, and what to do next (G4).
///
/// Nothing was written. The current entity was taken in the same critical section as the
/// decision, so it is the one that the write lost against. Prints as one sentence.
///
/// ```
/// use ifmatch::{Error, Reason, Store};
///
/// let store = Store::in_memory();
/// let shifts = store.collection::<String, String>("shifts")?;
/// let v1 = shifts.create("s-17", "open".to_owned()).commit()?.version();
/// shifts.put("s-17", "approved".to_owned()).if_match(v1).by("alice").commit()?;
///
/// let Err(Error::Conflict(conflict)) =
///     shifts.put("s-17", "cancelled".to_owned()).if_match(v1).by("bob").commit()
/// else {
///     panic!("version 1 is gone");
/// };
/// assert_eq!(conflict.reason(), Reason::StaleVersion);
/// assert_eq!(*conflict.current::<String>().expect("it is there"), "approved");
/// assert_eq!(conflict.into_proposed::<String>().as_deref(), Some("cancelled"));
/// # Ok::<(), Error>(())
/// ```
pub struct Conflict {
    pub(crate) reason: Reason,
    pub(crate) collection: Arc<str>,
    pub(crate) key: String,
    pub(crate) lineage: Lineage,
    pub(crate) unmet: Precondition,
    pub(crate) current: Option<Current>,
    pub(crate) deletion: Option<Deletion>,
    pub(crate) decided_at: Timestamp,
    pub(crate) proposed: Option<Box<dyn Any + Send + Sync>>,
    pub(crate) effort: Option<Effort>,
    /// The lease that was in the way, or was missed.
    pub(crate) barred: Option<Box<Barred>>,
    pub(crate) operation: Option<Box<OperationInfo>>,
    /// Of a transaction: what else was refused.
    pub(crate) others: Vec<Conflict>,
    /// Drawn for this refusal, so that those who lost together do not come back together.
    pub(crate) pause: Duration,
    /// What the write was based on, if that is known, beside what is there.
    pub(crate) basis: Option<Box<dyn Basis>>,
    pub(crate) duplicate: Option<HeldKey>,
}

/// The key of a unique index that another entity holds.
#[derive(Debug)]
pub(crate) struct HeldKey {
    pub(crate) index: Arc<str>,
    /// The key of the entity, as text.
    pub(crate) holder: String,
    /// Whether the holder was to get it by the same transaction.
    pub(crate) within: bool,
}

/// The current entity without its type.
pub(crate) struct Current {
    pub(crate) metadata: Metadata,
    /// An `Arc<Record<V>>`.
    pub(crate) record: Arc<dyn Any + Send + Sync>,
}

/// What a retrying write spent before it gave up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
}

impl Conflict {
    /// The refusal of what relies on a lease of a key, but does not write the key.
    pub(crate) fn barred(
        barred: Box<Barred>,
        collection: Arc<str>,
        key: String,
        lineage: Lineage,
        decided_at: Timestamp,
    ) -> Conflict {
        let place = (collection, key);
        let reason = barred.reason();
        let conflict =
            Conflict::bare(reason, Precondition::Unconditional, place, lineage, decided_at);
        Conflict { barred: Some(barred), ..conflict }
    }

    /// A step of an operation that is not its caller's to take. `operation` is the one in the way.
    pub(crate) fn of_operation(
        reason: Reason,
        collection: Arc<str>,
        id: &str,
        operation: Option<Box<OperationInfo>>,
        lineage: Lineage,
        decided_at: Timestamp,
    ) -> Conflict {
        let place = (collection, id.to_owned());
        let conflict = Conflict::bare(reason, Precondition::Exists, place, lineage, decided_at);
        Conflict { operation, ..conflict }
    }

    /// One that is about no entity.
    fn bare(
        reason: Reason,
        unmet: Precondition,
        (collection, key): (Arc<str>, String),
        lineage: Lineage,
        decided_at: Timestamp,
    ) -> Conflict {
        Conflict {
            reason,
            collection,
            key,
            lineage,
            unmet,
            current: None,
            deletion: None,
            decided_at,
            proposed: None,
            effort: None,
            barred: None,
            operation: None,
            others: Vec::new(),
            pause: Duration::ZERO,
            basis: None,
            duplicate: None,
        }
    }

    pub(crate) fn with_others(self, others: Vec<Conflict>) -> Conflict {
        Conflict { others, ..self }
    }

    /// This conflict and, if a transaction was refused for more than one key, those of the other
    /// keys: by collection and key.
    pub fn all(&self) -> impl Iterator<Item = &Conflict> {
        std::iter::once(self).chain(&self.others)
    }

    /// The same, each by itself.
    #[cfg(feature = "axum")]
    pub(crate) fn into_all(mut self) -> impl Iterator<Item = Conflict> {
        let others = std::mem::take(&mut self.others);
        std::iter::once(self).chain(others)
    }

    /// Why the write was refused.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The collection of the key.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The key, as text.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Of a duplicate: the unique index.
    pub fn index(&self) -> Option<&str> {
        self.duplicate.as_ref().map(|held| &*held.index)
    }

    /// Of a duplicate: the key of the entity that holds the index key, as text. That entity is
    /// what [`current`](Conflict::current) returns.
    pub fn holder(&self) -> Option<&str> {
        self.duplicate.as_ref().map(|held| &*held.holder)
    }

    /// The condition that did not hold: the first one of the write's list. `Unconditional` if none
    /// is to blame, but a lease or a unique index.
    pub fn unmet(&self) -> &Precondition {
        &self.unmet
    }

    /// The versions that the caller relied on; empty if the condition names none.
    pub fn expected(&self) -> &[Version] {
        self.unmet.versions()
    }

    /// The version of the current entity; `None` if there is none.
    pub fn current_version(&self) -> Option<Version> {
        self.current_metadata().map(Metadata::version)
    }

    /// The tag of the current entity.
    pub fn current_tag(&self) -> Option<EntityTag> {
        let version = self.current_version()?;
        Some(EntityTag { lineage: self.lineage, version })
    }

    /// Who wrote the current entity and when.
    pub fn current_metadata(&self) -> Option<&Metadata> {
        self.current.as_ref().map(|current| &current.metadata)
    }

    /// The current entity. `None` if there is none, or `V` is not the collection's value type.
    pub fn current<V: Send + Sync + 'static>(&self) -> Option<Entity<V>> {
        let record = Arc::clone(&self.current.as_ref()?.record);
        record.downcast::<Record<V>>().ok().map(Entity::new)
    }

    /// The deletion of the entity, while the store remembers it.
    pub fn deletion(&self) -> Option<&Deletion> {
        self.deletion.as_ref()
    }

    /// The lease that the key has, if one was in the way: whoever waits for its holder is told
    /// who that is, and for how long. Of the reason `fenced` the lease may have expired.
    pub fn lease(&self) -> Option<&LeaseInfo> {
        self.barred.as_ref()?.lease.as_ref()
    }

    /// The value that the caller wanted to write, handed back; of a retrying write that of its
    /// last attempt. `None` for a delete, or if `V` is not the collection's value type.
    pub fn into_proposed<V: 'static>(self) -> Option<V> {
        let proposed: Box<dyn Any> = self.proposed?;
        proposed.downcast::<V>().ok().map(|value| *value)
    }

    /// The operation that has the scope, of the reason [`InProgress`](Reason::InProgress); the one
    /// whose holder the caller is not, of the reason [`Fenced`](Reason::Fenced). See
    /// [`Store::operations`](crate::Store::operations).
    pub fn operation(&self) -> Option<&OperationInfo> {
        self.operation.as_deref()
    }

    /// When the write was refused.
    pub fn decided_at(&self) -> SystemTime {
        self.decided_at.into()
    }

    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self.reason {
            Reason::StaleVersion
            | Reason::Deleted
            | Reason::Absent
            | Reason::WrongState
            | Reason::Fenced => Retry::Refetch(self.pause),
            Reason::Locked => {
                Retry::After(self.lease().map_or(Duration::ZERO, LeaseInfo::remaining))
            }
            // When the rest is done at the pace so far, or when it expires.
            Reason::InProgress => {
                let after = self.operation.as_ref().map(|it| it.retry_after(self.decided_at));
                Retry::After(after.unwrap_or(Duration::from_secs(1)).saturating_add(self.pause))
            }
            Reason::AlreadyExists | Reason::Duplicate => Retry::Never,
            // As long as the caller has already tried, and spread: the load has to fall first.
            Reason::Contended => {
                let tried = self.effort.map_or(Duration::from_secs(1), |effort| effort.elapsed);
                Retry::After(tried.saturating_add(self.pause))
            }
        }
    }
}

impl fmt::Debug for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conflict")
            .field("reason", &self.reason)
            .field("collection", &self.collection)
            .field("key", &self.key)
            .field("unmet", &self.unmet)
            .field("current", &self.current_metadata())
            .field("deletion", &self.deletion)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stale(unmet: Precondition, reason: Reason) -> Conflict {
        let metadata = Metadata {
            version: Version::new(2).unwrap(),
            written_by: Some("alice".into()),
            written_at: Timestamp(1_000_000),
            created_at: Timestamp(0),
            shares_second: false,
        };
        Conflict {
            reason,
            collection: "shifts".into(),
            key: "s-17".to_owned(),
            lineage: Lineage::from_bits(1),
            unmet,
            current: Some(Current { metadata, record: Arc::new(()) }),
            deletion: None,
            decided_at: Timestamp(1_003_000),
            proposed: None,
            effort: None,
            barred: None,
            operation: None,
            others: Vec::new(),
            pause: Duration::ZERO,
            basis: None,
            duplicate: None,
        }
    }

    #[test]
    fn g4_a_conflict_says_what_happened_and_what_to_do() {
        let one = Precondition::Matches(Version::FIRST);
        assert_eq!(
            stale(one, Reason::StaleVersion).to_string(),
            "shifts/s-17 is at version 2, not 1: alice changed it 3 ms ago; \
             read it again and retry"
        );
        assert_eq!(
            stale(Precondition::Absent, Reason::AlreadyExists).to_string(),
            "shifts/s-17 exists already, at version 2: alice wrote it 3 ms ago; \
             choose another key, or replace that version"
        );
    }

    #[test]
    fn g4_the_reason_follows_from_the_condition_and_what_is_known() {
        let v1 = Precondition::Matches(Version::FIRST);
        let current = stale(Precondition::Absent, Reason::Absent);
        let current = current.current_metadata();
        assert_eq!(Reason::of(&v1, current, false), Reason::StaleVersion);
        assert_eq!(Reason::of(&v1, None, true), Reason::Deleted);
        assert_eq!(Reason::of(&v1, None, false), Reason::Absent);
        assert_eq!(Reason::of(&Precondition::Exists, None, true), Reason::Absent);
        assert_eq!(Reason::of(&Precondition::MatchesAny(vec![]), None, true), Reason::Absent);
        assert_eq!(Reason::of(&Precondition::Absent, current, false), Reason::AlreadyExists);
    }
}
