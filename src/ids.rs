//! Operation ids: a write that has landed once is answered, not written again (G5).
//!
//! What is remembered of an id is an entity of the reserved collection `$ids`, written in the
//! record of the write itself. The window is bounded by count and age; what leaves it is
//! forgotten without a record, because remembering for longer does no harm.

use std::collections::VecDeque;
use std::ops::Bound::Unbounded;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::codec::Codec;
use crate::collection::CollectionState;
use crate::commit::{Change, Written};
use crate::entity::{Actor, Entity, Metadata, Record};
use crate::error::{Error, Limit, Result};
use crate::feed;
use crate::log::Stamp;
use crate::log::frame::take;
use crate::map::{Garbage, Install, KeyBuf, Locked, State};
use crate::options::Limits;
use crate::record::{self, LoggedWrite, put_bytes, put_number, take_bytes, take_number};
use crate::sync::{AtomicU64, Level, Mutex, Ordering};
use crate::version::Version;
use crate::write::Deleted;

/// What a write with an operation id leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdRecord {
    /// Of the verb, the target and the caller's bytes.
    fingerprint: u64,
    pub(crate) first: First,
    /// What who asks again does not bring along: what the caller's closure made, encoded, or what a
    /// step came to.
    pub(crate) value: Option<Box<[u8]>>,
}

/// What a write found at its key, as its first answer told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) deleted: bool,
    pub(crate) previous: Option<Version>,
    /// Of what the write went on; `None` if it created the entity.
    pub(crate) created_at: Option<Timestamp>,
}

/// Who takes a step, and with which operation id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) actor: Option<Actor>,
    pub(crate) operation_id: Option<String>,
}

impl Caller {
    pub(crate) fn id(&self) -> &str {
        self.operation_id.as_deref().unwrap_or_default()
    }

    /// The claim of the operation id, if there is one; `target` is as of [`Claim::new`].
    ///
    /// # Errors
    /// [`Error::Limit`], for the name of the actor too.
    pub(crate) fn claim(
        &self,
        limits: &Limits,
        target: &[&[u8]],
        place: impl Fn() -> String,
    ) -> Result<Option<Claim>> {
        let actor = self.actor.as_ref();
        limits.check(Limit::ActorBytes, actor.map_or(0, |it| it.as_str().len()), &place)?;
        let Some(id) = &self.operation_id else { return Ok(None) };
        limits.check(Limit::OperationIdBytes, id.len(), place)?;
        Ok(Some(Claim::new(actor, id, target)))
    }
}

/// Has a builder say who calls, and with which operation id: what is told of either, and where it
/// keeps them.
macro_rules! called {
    (
        $builder:ident, $($place:tt).+;
        $(#[$by:meta])* by;
        $(#[$operation_id:meta])* operation_id;
    ) => {
        impl $builder<'_> {
            $(#[$by])*
            pub fn by(mut self, actor: impl Into<$crate::entity::Actor>) -> Self {
                self.$($place).+.actor = Some(actor.into());
                self
            }

            $(#[$operation_id])*
            pub fn operation_id(mut self, id: impl Into<String>) -> Self {
                self.$($place).+.operation_id = Some(id.into());
                self
            }

            #[cfg(feature = "axum")]
            pub(crate) fn called_by(mut self, caller: $crate::ids::Caller) -> Self {
                self.$($place).+ = caller;
                self
            }
        }
    };
}

pub(crate) use called;

#[cfg(feature = "axum")]
impl crate::store::Store {
    /// Whether something with this operation id has landed, whatever it was.
    pub(crate) fn remembers(&self, caller: &Caller) -> bool {
        let (ids, now) = (&self.inner.ids, self.inner.now());
        let claim = |id: &String| Claim::new(caller.actor.as_ref(), id, &[]);
        caller.operation_id.as_ref().is_some_and(|id| ids.find(&claim(id), now).is_some())
    }
}

/// The id of a write that is about to be tried.
pub(crate) struct Claim {
    key: KeyBuf,
    fingerprint: u64,
    value: Option<Box<[u8]>>,
}

/// The ids that are remembered, by age.
pub(crate) struct Ids {
    pub(crate) collection: Arc<CollectionState<IdRecord>>,
    window: Mutex<VecDeque<Landed>>,
    most: usize,
    longest: Duration,
}

struct Landed {
    key: KeyBuf,
    version: u64,
    written_at: Timestamp,
}

impl Claim {
    /// `target` and `payload` are what a second write with this id has to have as well.
    pub(crate) fn new(actor: Option<&Actor>, id: &str, target: &[&[u8]]) -> Claim {
        let mut key = Vec::new();
        record::put_actor(&mut key, actor.map(Actor::as_str));
        key.extend_from_slice(id.as_bytes());
        let key = KeyBuf::from(&key[..]);
        Claim { key, fingerprint: fingerprint(target), value: None }
    }

    /// With what is to be kept with it.
    pub(crate) fn with_value(self, value: Box<[u8]>) -> Claim {
        Claim { value: Some(value), ..self }
    }

    /// Bytes that it takes in the record at most.
    pub(crate) fn payload(&self, ids: &Ids) -> usize {
        let value = self.value.as_ref().map_or(0, |value| value.len());
        let announcement = ids.collection.name.len() + ids.collection.keys.kind.len();
        self.key.len() + value + announcement + record::NUMBERS_AT_MOST
    }
}

impl Ids {
    /// `collection` holds what is stored.
    pub(crate) fn new(
        collection: Arc<CollectionState<IdRecord>>,
        most: usize,
        longest: Duration,
    ) -> Ids {
        let keys = collection.map.candidates((Unbounded, Unbounded), usize::MAX);
        let landed = |key: KeyBuf| {
            let state = collection.map.newest(collection.map.hash(&key), &key);
            let Metadata { version, written_at, .. } = state.live()?.metadata;
            Some(Landed { key, version: version.get(), written_at })
        };
        let mut window: Vec<_> = keys.into_iter().filter_map(landed).collect();
        window.sort_unstable_by_key(|landed| landed.version);
        let window = Mutex::new(Level::Alone("window of operation ids"), VecDeque::from(window));
        Ids { collection, window, most, longest }
    }

    /// What the write of this id left behind, if it has landed.
    pub(crate) fn find(&self, claim: &Claim, now: Timestamp) -> Option<Arc<Record<IdRecord>>> {
        let map = &self.collection.map;
        self.live(&map.newest(map.hash(&claim.key), &claim.key), now)
    }

    fn live(&self, state: &State<IdRecord>, now: Timestamp) -> Option<Arc<Record<IdRecord>>> {
        let young = |record: &&Arc<Record<_>>| self.is_young(record.metadata.written_at, now);
        state.live().filter(young).cloned()
    }

    fn is_young(&self, written_at: Timestamp, now: Timestamp) -> bool {
        now.since(written_at) <= self.longest
    }

    /// Locks the id, after everything else.
    pub(crate) fn lock<'a>(&'a self, claim: &'a Claim) -> Claimed<'a> {
        let map = &self.collection.map;
        let locked = map.lock(map.hash(&claim.key), &claim.key);
        Claimed { ids: self, claim, locked, record: None, encoded: Vec::new() }
    }

    /// Remembers that a write has landed, and forgets what leaves the window. With nothing locked.
    pub(crate) fn landed(&self, claim: &Claim, stamp: Stamp, durable: &AtomicU64) {
        let Stamp { version, written_at, .. } = stamp;
        let landed = Landed { key: claim.key.clone(), version, written_at };
        self.window.lock().push_back(landed);
        while let Some(oldest) = self.take_surplus(written_at) {
            let map = &self.collection.map;
            if !map.expel(map.hash(&oldest.key), &oldest.key, oldest.version, durable) {
                // Not durable yet: its turn comes with the next write.
                self.window.lock().push_front(oldest);
                break;
            }
        }
    }

    /// The oldest, if the window has no place for it any more.
    fn take_surplus(&self, now: Timestamp) -> Option<Landed> {
        let mut window = self.window.lock();
        let full = window.len() > self.most;
        window.pop_front_if(|oldest| full || !self.is_young(oldest.written_at, now))
    }
}

/// An id, locked.
pub(crate) struct Claimed<'a> {
    ids: &'a Ids,
    claim: &'a Claim,
    locked: Locked<'a, IdRecord>,
    record: Option<Arc<Record<IdRecord>>>,
    encoded: Vec<u8>,
}

impl Claimed<'_> {
    /// As [`Ids::find`].
    pub(crate) fn found(&self, now: Timestamp) -> Option<Arc<Record<IdRecord>>> {
        self.ids.live(self.locked.newest(), now)
    }

    /// What the write is going to leave behind. Before the append.
    pub(crate) fn prepare(&mut self, first: First) {
        let Claim { fingerprint, value, .. } = self.claim;
        let record = IdRecord { fingerprint: *fingerprint, first, value: value.clone() };
        self.encoded = record.to_bytes();
        self.record = Some(Record::unplaced(record));
        if self.locked.newest().live().is_none() {
            self.locked.list();
        }
    }

    /// Whether the log has to be told of the collection. Called under the lock of the log.
    pub(crate) fn announces(&self) -> bool {
        !self.ids.collection.announced.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn announce(&self, bytes: &mut Vec<u8>) {
        self.ids.collection.announce(bytes);
    }

    pub(crate) fn log(&self, bytes: &mut Vec<u8>) {
        let (collection, key) = (self.ids.collection.id, &*self.claim.key);
        LoggedWrite { collection, key, value: Some(&self.encoded) }.encode(bytes);
    }

    /// Returns what the feed tells of it.
    pub(crate) fn install(
        self,
        stamp: Stamp,
        actor: Option<&Actor>,
        at: Install,
    ) -> Option<feed::Change> {
        let record = self.record?;
        let change = Change::Put { record, encoded: Vec::new() };
        let (state, _) = change.land(self.locked.newest(), stamp, actor.cloned());
        let told = feed::Change::new(&self.ids.collection, &self.claim.key, state.live());
        self.locked.install(state, at, &mut Garbage::new());
        Some(told)
    }
}

impl Record<IdRecord> {
    /// # Errors
    /// [`Error::KeyReused`] if the id was used for something else.
    pub(crate) fn check(&self, claim: &Claim, id: &str) -> Result<()> {
        if self.value.fingerprint == claim.fingerprint {
            return Ok(());
        }
        Err(Error::KeyReused { id: id.to_owned(), version: self.metadata.version })
    }

    /// What the write answered when it landed, `value` being what it wrote.
    pub(crate) fn first_result<V>(&self, value: Option<Arc<Record<V>>>) -> Written<V> {
        let Metadata { version, written_at, ref written_by, shares_second, .. } = self.metadata;
        let First { previous, created_at, .. } = self.value.first;
        let Some(mut value) = value else {
            let previous = previous.unwrap_or(version);
            return Written::Deleted(Deleted { version, previous, replayed: true });
        };
        let (written_by, created_at) = (written_by.clone(), created_at.unwrap_or(written_at));
        // Not shared since it was made.
        if let Some(record) = Arc::get_mut(&mut value) {
            let metadata = &mut record.metadata;
            *metadata = Metadata { version, written_by, written_at, created_at, shares_second };
        }
        Written::Put { entity: Entity::new(value), previous }
    }
}

const DELETED: u8 = 1;
const PREVIOUS: u8 = 2;
const CREATED: u8 = 4;
const VALUE: u8 = 8;

impl IdRecord {
    fn to_bytes(&self) -> Vec<u8> {
        let First { deleted, previous, created_at } = self.first;
        let mut flags = if deleted { DELETED } else { 0 };
        flags |= if previous.is_some() { PREVIOUS } else { 0 };
        flags |= if created_at.is_some() { CREATED } else { 0 };
        flags |= if self.value.is_some() { VALUE } else { 0 };
        let mut bytes = vec![flags];
        bytes.extend_from_slice(&self.fingerprint.to_le_bytes());
        previous.into_iter().for_each(|version| put_number(&mut bytes, version.get()));
        created_at.into_iter().for_each(|time| put_number(&mut bytes, time.0));
        self.value.iter().for_each(|value| put_bytes(&mut bytes, value));
        bytes
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<IdRecord> {
        let rest = &mut bytes;
        let [flags] = take(rest)?;
        let fingerprint = u64::from_le_bytes(take(rest)?);
        let has = |flag| flags & flag != 0;
        let previous = match has(PREVIOUS) {
            true => Some(Version::new(take_number(rest)?)?),
            false => None,
        };
        let created_at = match has(CREATED) {
            true => Some(Timestamp::from_micros(take_number(rest)?)),
            false => None,
        };
        let value = if has(VALUE) { Some(take_bytes(rest)?.into()) } else { None };
        let first = First { deleted: has(DELETED), previous, created_at };
        let known = flags <= DELETED | PREVIOUS | CREATED | VALUE;
        (known && rest.is_empty()).then_some(IdRecord { fingerprint, first, value })
    }
}

/// How the records of ids are stored; FORMAT.md draws the bytes.
pub(crate) struct IdCodec;

impl Codec<IdRecord> for IdCodec {
    fn name(&self) -> &str {
        "ids"
    }

    fn encode(&self, record: &IdRecord) -> std::result::Result<Vec<u8>, String> {
        Ok(record.to_bytes())
    }

    fn decode(&self, bytes: &[u8]) -> std::result::Result<IdRecord, String> {
        IdRecord::from_bytes(bytes).ok_or_else(|| "it is no record of an operation id".to_owned())
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo), over the parts and their lengths. It is stored, so it
/// has to be the same for ever; it tells apart what differs by accident, not by intent.
fn fingerprint(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_reads_back(
            (fingerprint, deleted, value) in any::<(u64, bool, Option<Vec<u8>>)>(),
            (previous, created) in (0u64.., prop::option::of(0..1u64 << 50)),
        ) {
            let (previous, created_at) = (Version::new(previous), created.map(Timestamp));
            let first = First { deleted, previous, created_at };
            let record = IdRecord { fingerprint, first, value: value.map(Into::into) };
            let mut bytes = record.to_bytes();
            prop_assert_eq!(IdRecord::from_bytes(&bytes), Some(record));
            bytes.push(0);
            prop_assert_eq!(IdRecord::from_bytes(&bytes), None);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = IdRecord::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_fingerprint_is_the_same_for_ever_and_tells_parts_apart() {
        assert_eq!(fingerprint(&[]), 0xcbf2_9ce4_8422_2325);
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
        // Of the eight bytes of the length and "a", by another implementation.
        assert_eq!(fingerprint(&[b"a"]), FNV_OF_ONE_A);
    }

    const FNV_OF_ONE_A: u64 = 0x529a_4ddc_8ff5_6bbf;
}
