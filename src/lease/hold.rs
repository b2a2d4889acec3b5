//! What is stored of a lease, and what others are told of it.

use std::time::{Duration, SystemTime};

use crate::clock::{Clock, Timestamp};
use crate::codec::Codec;
use crate::conflict::{Deletion, Reason};
use crate::entity::{Actor, Metadata, Record};
use crate::key::sealed::{Bytes, Key};
use crate::map::{KeyBuf, State};
use crate::record::{put_actor, put_bytes, put_number, take_actor, take_number, take_text};
use crate::version::Version;

/// A lease, as an entity of the reserved collection `$leases`. Its holder wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) ttl: Duration,
    pub(crate) reason: Option<String>,
    /// Of a lease that was renewed: its token, and when it was taken.
    pub(crate) taken: Option<(Version, Timestamp)>,
    /// The kind and the id of the operation that it is taken for: it ends with that.
    pub(crate) operation: Option<(String, String)>,
    /// When it expires, by the clock of this process. Set under the lock that it is decided
    /// under; not stored.
    pub(crate) deadline: Duration,
}

/// What everybody may know of a lease.
///
/// ```
/// use std::time::Duration;
///
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.collection::<String, u32>("shifts")?;
/// shifts.lease("s-17").ttl(Duration::from_secs(60)).by("payroll").commit()?;
/// let lease = shifts.lease_of("s-17")?.expect("it was just taken");
/// assert_eq!(lease.holder(), Some("payroll"));
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LeaseInfo {
    holder: Option<Actor>,
    operation: Option<(String, String)>,
    reason: Option<String>,
    since: Timestamp,
    expires_at: Timestamp,
    remaining: Duration,
}

/// How a lease stands in the way of a commit.
#[derive(Clone, Debug)]
pub(crate) struct Barred {
    /// Of the lease that the commit relies on; `None` if it relies on none.
    pub(crate) token: Option<Version>,
    /// The lease that there is, expired or not.
    pub(crate) lease: Option<LeaseInfo>,
    /// Whether that is the one that the commit relies on: it has expired then.
    pub(crate) own: bool,
    /// How the lease that there was has ended, while that is remembered.
    pub(crate) ended: Option<Deletion>,
}

/// Who writes that a lease has expired.
pub(crate) const EXPIRY: &str = "expiry";

impl LeaseInfo {
    /// Who holds it, if the holder said so.
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_ref().map(Actor::as_str)
    }

    /// What for, if the holder said so.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The id of the operation that it was taken for, if it was: it ends with that.
    pub fn operation(&self) -> Option<&str> {
        self.operation.as_ref().map(|(_, id)| &**id)
    }

    /// What kind of work that operation is.
    pub fn operation_kind(&self) -> Option<&str> {
        self.operation.as_ref().map(|(kind, _)| &**kind)
    }

    /// When it was taken.
    pub fn since(&self) -> SystemTime {
        self.since.into()
    }

    /// When it expires, by the time of day. What counts is [`remaining`](LeaseInfo::remaining),
    /// which a clock that is set does not change.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at.into()
    }

    /// For how long it was still held when this was read. Zero if it had expired.
    pub fn remaining(&self) -> Duration {
        self.remaining
    }

    pub(crate) fn of(record: &Record<Hold>, now: Duration) -> LeaseInfo {
        let Record { metadata, value, .. } = record;
        LeaseInfo {
            holder: metadata.written_by.clone(),
            operation: value.operation.clone(),
            reason: value.reason.clone(),
            since: value.taken.map_or(metadata.written_at, |(_, since)| since),
            expires_at: metadata.written_at.after(value.ttl),
            remaining: value.deadline.saturating_sub(now),
        }
    }
}

impl Hold {
    /// Whether it was taken for the operation with this id.
    pub(crate) fn is_of(&self, id: &str) -> bool {
        self.operation.as_ref().is_some_and(|(_, operation)| operation == id)
    }

    /// When a stored lease expires by the clock of this process. What is left of it is reckoned by
    /// the time of day, which is `last_commit` at least: a clock that was set back prolongs none
    /// beyond its time to live.
    pub(crate) fn lasting_from(
        clock: &dyn Clock,
        last_commit: Timestamp,
    ) -> impl Fn(&Metadata, &mut Hold) + Sync {
        let (now, monotonic) = (last_commit.max(clock.now().into()), clock.monotonic());
        move |metadata, hold| {
            let left = metadata.written_at.after(hold.ttl).since(now).min(hold.ttl);
            hold.deadline = monotonic.saturating_add(left);
        }
    }
}

impl Record<Hold> {
    /// The version of the commit that took the lease.
    pub(crate) fn token(&self) -> Version {
        self.value.taken.map_or(self.metadata.version, |(token, _)| token)
    }

    pub(crate) fn has_expired(&self, now: Duration) -> bool {
        self.value.deadline <= now
    }

    /// The same lease for longer, or shorter.
    pub(crate) fn renewed(&self, ttl: Duration) -> Hold {
        let since = self.value.taken.map_or(self.metadata.written_at, |(_, since)| since);
        let taken = Some((self.token(), since));
        Hold { ttl, taken, deadline: Duration::ZERO, ..self.value.clone() }
    }
}

impl Barred {
    /// Whether what is there keeps out whoever relies on the lease with this token, or on none.
    pub(crate) fn by(
        state: &State<Hold>,
        token: Option<Version>,
        now: Duration,
    ) -> Option<Box<Barred>> {
        let record = state.live();
        let held = record.filter(|record| !record.has_expired(now));
        match (held, token) {
            (None, None) => return None,
            (Some(held), Some(token)) if held.token() == token => return None,
            _ => {}
        }
        let ended = match state {
            State::Deleted(deletion) => Some(Deletion::clone(deletion)),
            State::Live(_) | State::Vacant => None,
        };
        let own = record.is_some_and(|record| Some(record.token()) == token);
        let lease = record.map(|record| LeaseInfo::of(record, now));
        Some(Box::new(Barred { token, lease, own, ended }))
    }

    pub(crate) fn reason(&self) -> Reason {
        if self.token.is_some() { Reason::Fenced } else { Reason::Locked }
    }
}

/// The key of a lease: the name of the collection and the key that it holds.
pub(crate) type EntryKey = (String, Vec<u8>);

pub(crate) fn entry_key(collection: &str, key: &[u8]) -> KeyBuf {
    Bytes::<EntryKey>::with_bytes(&(collection, key), |bytes| KeyBuf::from(bytes))
}

/// The collection of the key that a lease holds.
pub(crate) fn collection_of(entry: &[u8]) -> String {
    EntryKey::decode(entry).map(|(collection, _)| collection).unwrap_or_default()
}

/// How leases are stored; FORMAT.md draws the bytes.
pub(crate) struct HoldCodec;

impl Codec<Hold> for HoldCodec {
    fn name(&self) -> &str {
        "leases"
    }

    fn encode(&self, hold: &Hold) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let (token, since) = hold.taken.map_or((0, 0), |(token, since)| (token.get(), since.0));
        put_number(&mut bytes, micros(hold.ttl));
        put_number(&mut bytes, token);
        put_number(&mut bytes, since);
        put_actor(&mut bytes, hold.reason.as_deref());
        if let Some((kind, id)) = &hold.operation {
            put_bytes(&mut bytes, kind.as_bytes());
            put_bytes(&mut bytes, id.as_bytes());
        }
        Ok(bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Hold, String> {
        decode(bytes).ok_or_else(|| "it is no lease".to_owned())
    }
}

fn decode(mut bytes: &[u8]) -> Option<Hold> {
    let rest = &mut bytes;
    let ttl = Duration::from_micros(take_number(rest)?);
    let (token, since) = (take_number(rest)?, Timestamp::from_micros(take_number(rest)?));
    let taken = Version::new(token).map(|token| (token, since));
    let reason = take_actor(rest)?.map(str::to_owned);
    let operation = match rest.is_empty() {
        true => None,
        false => Some((take_text(rest)?, take_text(rest)?)),
    };
    rest.is_empty().then_some(Hold { ttl, reason, taken, operation, deadline: Duration::ZERO })
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lease_reads_back(
            ttl in 0..1u64 << 60,
            taken in prop::option::of((1..u64::MAX, 0..1u64 << 50)),
            reason: Option<String>,
            operation: Option<(String, String)>,
        ) {
            let version = |token| Version::new(token).unwrap();
            let taken = taken.map(|(token, since)| (version(token), Timestamp(since)));
            let ttl = Duration::from_micros(ttl);
            let hold = Hold { ttl, reason, taken, operation, deadline: Duration::ZERO };
            let mut bytes = HoldCodec.encode(&hold).unwrap();
            prop_assert_eq!(HoldCodec.decode(&bytes), Ok(hold));
            bytes.push(0);
            prop_assert!(HoldCodec.decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = HoldCodec.decode(&bytes);
            let _ = collection_of(&bytes);
        }

        #[test]
        fn the_key_of_a_lease_names_its_collection(key: Vec<u8>) {
            let entry = entry_key("shifts", &key);
            prop_assert_eq!(collection_of(&entry), "shifts");
            prop_assert_ne!(entry, entry_key("shift", &key));
        }
    }
}
