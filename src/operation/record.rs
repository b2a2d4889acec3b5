//! What is stored of operations: the operations themselves, and who is in progress in which scope.
//!
//! What changes with every sign of life stands with the scope, which is small; what may be large
//! stands with the operation, which is written twice: at its beginning and at its end.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::codec::Codec;
use crate::entity::{Actor, Metadata};
use crate::log::frame::take;
use crate::map::KeyBuf;
use crate::operation::{OperationStatus, OperationToken};
use crate::record::{put_bytes, put_number, take_bytes, take_number, take_text};

/// An operation, as an entity of the reserved collection `$operations`, whose key is its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperationRecord {
    pub(crate) kind: String,
    pub(crate) scope: String,
    /// The scope is the kind's own.
    pub(crate) own_scope: bool,
    pub(crate) token: OperationToken,
    pub(crate) ttl: Duration,
    pub(crate) created_at: Timestamp,
    pub(crate) started_by: Option<Actor>,
    /// With which it was begun.
    pub(crate) operation_id: Option<String>,
    pub(crate) input: Option<Arc<[u8]>>,
    pub(crate) end: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) status: OperationStatus,
    pub(crate) ended_at: Timestamp,
    /// Absent if it was cancelled in the queue.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) progress: Option<u8>,
    /// Its result or error.
    pub(crate) output: Option<Arc<[u8]>>,
}

/// The kind, if the scope is its own, else nothing; and the scope.
pub(crate) type ScopeKey = (String, String);

/// A scope that is taken, as an entity of the reserved collection `$scopes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeRecord {
    pub(crate) running: Running,
    /// The first is the next.
    pub(crate) queue: VecDeque<Queued>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) ttl: Duration,
    pub(crate) started_at: Timestamp,
    /// By the time of day: for people, and after a restart.
    pub(crate) expires_at: Timestamp,
    pub(crate) progress: Option<u8>,
    /// The keys that it leases, as those of the leases. Some may be others' by now.
    pub(crate) leased: BTreeSet<KeyBuf>,
    /// When it expires by the clock of this process; not stored.
    pub(crate) deadline: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) id: String,
    pub(crate) ttl: Duration,
}

/// Which operation was begun with an operation id, in the reserved collection `$begun`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BegunRecord(pub(crate) String);

/// A moment: by the time of day, and by the clock of this process.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) time: Timestamp,
    pub(crate) monotonic: Duration,
}

impl Now {
    pub(crate) fn of(clock: &dyn Clock) -> Now {
        Now { time: clock.now().into(), monotonic: clock.monotonic() }
    }
}

impl OperationRecord {
    pub(crate) fn scope_key(&self) -> ScopeKey {
        scope_key(self.own_scope.then_some(&*self.kind), &self.scope)
    }
}

pub(crate) fn scope_key(owner: Option<&str>, scope: &str) -> ScopeKey {
    (owner.unwrap_or_default().to_owned(), scope.to_owned())
}

impl Running {
    pub(crate) fn start(queued: Queued, now: Now) -> Running {
        let Queued { id, ttl } = queued;
        let (started_at, deadline) = (now.time, Duration::ZERO);
        let (expires_at, progress, leased) = (now.time, None, BTreeSet::new());
        let mut running = Running { id, ttl, started_at, expires_at, progress, leased, deadline };
        running.prolong(now);
        running
    }

    /// It has given a sign of life.
    pub(crate) fn prolong(&mut self, now: Now) {
        self.expires_at = now.time.after(self.ttl);
        self.deadline = now.monotonic.saturating_add(self.ttl);
    }
}

impl ScopeRecord {
    /// When a stored operation expires by the clock of this process. What is left of it is reckoned
    /// by the time of day, which is `last_commit` at least: a clock that was set back prolongs none
    /// beyond its time to live.
    pub(crate) fn lasting_from(
        clock: &dyn Clock,
        last_commit: Timestamp,
    ) -> impl Fn(&Metadata, &mut ScopeRecord) + Sync {
        let (now, monotonic) = (last_commit.max(clock.now().into()), clock.monotonic());
        move |_, scope| {
            let running = &mut scope.running;
            let left = running.expires_at.since(now).min(running.ttl);
            running.deadline = monotonic.saturating_add(left);
        }
    }

    /// The place in the queue: 1 is the next, 0 is in progress.
    pub(crate) fn place_of(&self, id: &str) -> Option<usize> {
        if self.running.id == id {
            return Some(0);
        }
        self.queue.iter().position(|queued| queued.id == id).map(|place| place + 1)
    }
}

/// How operations are stored; FORMAT.md draws the bytes.
pub(crate) struct OperationCodec;

impl Codec<OperationRecord> for OperationCodec {
    fn name(&self) -> &str {
        "operations"
    }

    fn encode(&self, record: &OperationRecord) -> Result<Vec<u8>, String> {
        let end = record.end.as_ref();
        let mut bytes = vec![end.map_or(0, |end| end.status.number()), record.own_scope.into()];
        bytes.extend_from_slice(&record.token.bits().to_le_bytes());
        put_bytes(&mut bytes, record.kind.as_bytes());
        put_bytes(&mut bytes, record.scope.as_bytes());
        put_number(&mut bytes, micros(record.ttl));
        put_number(&mut bytes, record.created_at.0);
        put_maybe(&mut bytes, record.started_by.as_ref().map(|actor| actor.as_str().as_bytes()));
        put_maybe(&mut bytes, record.operation_id.as_ref().map(String::as_bytes));
        put_maybe(&mut bytes, record.input.as_deref());
        if let Some(end) = end {
            put_number(&mut bytes, end.ended_at.0);
            put_maybe_number(&mut bytes, end.started_at.map(|time| time.0));
            put_maybe_number(&mut bytes, end.progress.map(u64::from));
            put_maybe(&mut bytes, end.output.as_deref());
        }
        Ok(bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<OperationRecord, String> {
        decode_operation(bytes).ok_or_else(|| "it is no operation".to_owned())
    }
}

fn decode_operation(mut bytes: &[u8]) -> Option<OperationRecord> {
    let rest = &mut bytes;
    let [status, own_scope] = take(rest)?;
    let mut record = OperationRecord {
        own_scope: own_scope != 0,
        token: OperationToken::from_bits(u64::from_le_bytes(take(rest)?)),
        kind: take_text(rest)?,
        scope: take_text(rest)?,
        ttl: Duration::from_micros(take_number(rest)?),
        created_at: Timestamp::from_micros(take_number(rest)?),
        started_by: take_maybe_text(rest)?.map(Actor::from),
        operation_id: take_maybe_text(rest)?,
        input: take_maybe(rest)?.map(Into::into),
        end: None,
    };
    if status != 0 {
        record.end = Some(End {
            status: OperationStatus::of_number(status)?,
            ended_at: Timestamp::from_micros(take_number(rest)?),
            started_at: take_maybe_number(rest)?.map(Timestamp::from_micros),
            progress: take_progress(rest)?,
            output: take_maybe(rest)?.map(Into::into),
        });
    }
    (own_scope < 2 && rest.is_empty()).then_some(record)
}

/// How scopes are stored; FORMAT.md draws the bytes.
pub(crate) struct ScopeCodec;

impl Codec<ScopeRecord> for ScopeCodec {
    fn name(&self) -> &str {
        "scopes"
    }

    fn encode(&self, scope: &ScopeRecord) -> Result<Vec<u8>, String> {
        let (mut bytes, running) = (Vec::new(), &scope.running);
        put_bytes(&mut bytes, running.id.as_bytes());
        put_number(&mut bytes, micros(running.ttl));
        put_number(&mut bytes, running.started_at.0);
        put_number(&mut bytes, running.expires_at.0);
        put_maybe_number(&mut bytes, running.progress.map(u64::from));
        put_number(&mut bytes, scope.queue.len() as u64);
        for queued in &scope.queue {
            put_bytes(&mut bytes, queued.id.as_bytes());
            put_number(&mut bytes, micros(queued.ttl));
        }
        running.leased.iter().for_each(|entry| put_bytes(&mut bytes, entry));
        Ok(bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<ScopeRecord, String> {
        decode_scope(bytes).ok_or_else(|| "it is no scope of operations".to_owned())
    }
}

fn decode_scope(mut bytes: &[u8]) -> Option<ScopeRecord> {
    let rest = &mut bytes;
    let mut running = Running {
        id: take_text(rest)?,
        ttl: Duration::from_micros(take_number(rest)?),
        started_at: Timestamp::from_micros(take_number(rest)?),
        expires_at: Timestamp::from_micros(take_number(rest)?),
        progress: take_progress(rest)?,
        leased: BTreeSet::new(),
        deadline: Duration::ZERO,
    };
    let count = take_number(rest)?;
    let queued = |_| {
        let (id, ttl) = (take_text(rest)?, Duration::from_micros(take_number(rest)?));
        Some(Queued { id, ttl })
    };
    let queue = (0..count).map(queued).collect::<Option<_>>()?;
    while !rest.is_empty() {
        let entry = KeyBuf::from(take_bytes(rest)?);
        // In order, so that nothing is written in two ways.
        if entry.is_empty() || running.leased.last().is_some_and(|last| *last >= entry) {
            return None;
        }
        running.leased.insert(entry);
    }
    Some(ScopeRecord { running, queue })
}

/// How operation ids of operations are stored: as the id of the operation.
pub(crate) struct BegunCodec;

impl Codec<BegunRecord> for BegunCodec {
    fn name(&self) -> &str {
        "begun"
    }

    fn encode(&self, begun: &BegunRecord) -> Result<Vec<u8>, String> {
        Ok(begun.0.as_bytes().to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<BegunRecord, String> {
        let id = String::from_utf8(bytes.to_vec());
        id.map(BegunRecord).map_err(|_| "it is no id of an operation".to_owned())
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Zero is nothing; else the length plus one.
fn put_maybe(bytes: &mut Vec<u8>, content: Option<&[u8]>) {
    put_number(bytes, content.map_or(0, |content| content.len() as u64 + 1));
    bytes.extend_from_slice(content.unwrap_or_default());
}

fn take_maybe<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let Some(len) = take_maybe_number(bytes)? else { return Some(None) };
    let (content, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(Some(content))
}

fn take_maybe_text(bytes: &mut &[u8]) -> Option<Option<String>> {
    match take_maybe(bytes)? {
        Some(text) => Some(Some(String::from_utf8(text.to_vec()).ok()?)),
        None => Some(None),
    }
}

/// Zero is nothing; else the number plus one.
fn put_maybe_number(bytes: &mut Vec<u8>, number: Option<u64>) {
    put_number(bytes, number.map_or(0, |number| number + 1));
}

fn take_maybe_number(bytes: &mut &[u8]) -> Option<Option<u64>> {
    Some(take_number(bytes)?.checked_sub(1))
}

/// In per cent.
fn take_progress(bytes: &mut &[u8]) -> Option<Option<u8>> {
    match take_maybe_number(bytes)? {
        Some(percent) => u8::try_from(percent).ok().filter(|percent| *percent <= 100).map(Some),
        None => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const YEARS: u64 = 1 << 50;

    fn bytes() -> impl Strategy<Value = Option<Arc<[u8]>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..40).prop_map(Into::into))
    }

    fn end() -> impl Strategy<Value = End> {
        let times = (0..YEARS, prop::option::of(0..YEARS));
        (1u8..5, times, prop::option::of(0u8..101), bytes()).prop_map(
            |(status, (ended_at, started_at), progress, output)| End {
                status: OperationStatus::of_number(status).unwrap(),
                ended_at: Timestamp(ended_at),
                started_at: started_at.map(Timestamp),
                progress,
                output,
            },
        )
    }

    proptest! {
        #[test]
        fn an_operation_reads_back(
            (kind, scope, own_scope, token) in any::<(String, String, bool, u64)>(),
            (ttl, created_at) in (0..YEARS, 0..YEARS),
            (actor, operation_id) in any::<(Option<String>, Option<String>)>(),
            input in bytes(),
            end in prop::option::of(end()),
        ) {
            let (started_by, token) = (actor.map(Actor::from), OperationToken::from_bits(token));
            let (ttl, created_at) = (Duration::from_micros(ttl), Timestamp(created_at));
            let record = OperationRecord {
                kind, scope, own_scope, token, ttl, created_at, started_by, operation_id, input,
                end,
            };
            let mut bytes = OperationCodec.encode(&record).unwrap();
            prop_assert_eq!(OperationCodec.decode(&bytes), Ok(record));
            bytes.push(0);
            prop_assert!(OperationCodec.decode(&bytes).is_err());
        }

        #[test]
        fn a_scope_reads_back(
            (id, own) in any::<(String, u32)>(),
            (started_at, expires_at) in (0..YEARS, 0..YEARS),
            progress in prop::option::of(0u8..101),
            queue in any::<Vec<(String, u32)>>(),
            leased in prop::collection::btree_set(".{1,9}", 0..9),
        ) {
            let ttl = |ttl: u32| Duration::from_micros(ttl.into());
            let queue = queue.into_iter().map(|(id, left)| Queued { id, ttl: ttl(left) });
            let running = Running {
                id,
                ttl: ttl(own),
                started_at: Timestamp(started_at),
                expires_at: Timestamp(expires_at),
                progress,
                leased: leased.iter().map(|entry| KeyBuf::from(entry.as_bytes())).collect(),
                deadline: Duration::ZERO,
            };
            let scope = ScopeRecord { running, queue: queue.collect() };
            let mut bytes = ScopeCodec.encode(&scope).unwrap();
            prop_assert_eq!(ScopeCodec.decode(&bytes), Ok(scope));
            bytes.push(0);
            prop_assert!(ScopeCodec.decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = OperationCodec.decode(&bytes);
            let _ = ScopeCodec.decode(&bytes);
            let _ = BegunCodec.decode(&bytes);
        }
    }
}
