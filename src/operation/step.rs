//! The steps of operations. Each is one transaction: what it decides on, it decides alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::alarm::Slot;
use crate::clock::Timestamp;
use crate::collection::Collection;
use crate::conflict::{Conflict, Reason};
use crate::entity::{Actor, Record};
use crate::error::{Error, Limit, Result};
use crate::ids::{Caller, IdRecord};
use crate::lease::EXPIRY;
use crate::operation::lease::Leasing;
use crate::operation::record::{
    BegunRecord, End, Now, OperationRecord, Queued, Running, ScopeKey, ScopeRecord, scope_key,
};
use crate::operation::{OnBusy, OperationInfo, OperationStatus, OperationToken};
use crate::record::{put_actor, put_bytes};
use crate::store::Inner;
use crate::transact::{Own, Run, Seen, Transaction};
use crate::version::Version;

pub(crate) enum Step {
    Begin(Box<Ask>),
    /// What the holder does; without a token, what an operator does.
    Hold {
        kind: Arc<str>,
        id: String,
        token: Option<OperationToken>,
        verb: Verb,
    },
    /// Ends what has expired in a scope.
    Expire(ScopeKey),
    /// Deletes operations that have ended.
    Forget(Vec<Ended>),
}

/// What is to be begun.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) kind: Arc<str>,
    pub(crate) own_scope: bool,
    pub(crate) scope: String,
    pub(crate) input: Option<Arc<[u8]>>,
    pub(crate) ttl: Duration,
    pub(crate) on_busy: OnBusy,
    pub(crate) caller: Caller,
}

pub(crate) enum Verb {
    Heartbeat,
    Progress(u8),
    Lease(Box<Leasing>),
    End(OperationStatus, Option<Arc<[u8]>>),
}

/// What a step came to, and what is to be noted of it once it has landed.
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    pub(crate) store: Arc<Inner>,
    /// Operations that have started or ended.
    pub(crate) moved: Vec<String>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) forgotten: Vec<Ended>,
    /// When what is in progress now expires.
    pub(crate) deadline: Option<Duration>,
    pub(crate) slot: Option<Slot>,
    /// It has leases that have to expire.
    pub(crate) leases: bool,
    /// The token of a lease that it had, if that was asked for; else that is the version.
    pub(crate) lease: Option<Version>,
    /// Of the commit.
    pub(crate) version: Option<Version>,
}

/// When an operation ended, and its id.
pub(crate) type Ended = (Timestamp, String);

pub(crate) enum Outcome {
    Stands { info: Box<OperationInfo>, token: OperationToken, replayed: bool },
    Refused(Box<Conflict>),
    Swept,
}

pub(crate) type Body = Box<dyn FnMut(&mut Transaction<'_>) -> Result<Done> + Send>;

/// A step as a transaction.
pub(crate) fn run(store: &Arc<Inner>, step: Step, caller: Caller) -> Run<Body, Done> {
    let actor = match &step {
        Step::Begin(ask) => ask.caller.actor.clone(),
        // What it leases is its holder's.
        Step::Hold { id, token: Some(_), .. } => store.operations.started_by(id),
        Step::Expire(_) => Some(Actor::from(EXPIRY)),
        Step::Hold { .. } | Step::Forget(_) => None,
    };
    let (data, payload) = (Data::of(store), step.payload());
    let body = move |tx: &mut Transaction<'_>| Steps::new(tx, &data).take(&step);
    Run::step(Box::new(body), Own { landed: note, kept }, actor, caller, payload)
}

fn note(done: &mut Done) {
    let store = Arc::clone(&done.store);
    store.operations.note(&store, done);
}

/// Of a lease, the token if it is not the version of the commit.
fn kept(done: &Done) -> Option<Box<[u8]>> {
    match done.outcome {
        Outcome::Refused(_) => None,
        Outcome::Stands { .. } | Outcome::Swept => {
            let token = done.lease.map(|token| token.get().to_le_bytes());
            Some(token.iter().flatten().copied().collect())
        }
    }
}

impl Step {
    /// All that the caller says of it, as what an operation id stands for.
    fn payload(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |part: &[u8]| put_bytes(&mut bytes, part);
        match self {
            Step::Begin(ask) => {
                let Ask { kind, own_scope, scope, input, .. } = &**ask;
                put(b"begin");
                put(kind.as_bytes());
                put(&[u8::from(*own_scope)]);
                put(scope.as_bytes());
                input.iter().for_each(|input| put(input));
            }
            Step::Hold { kind, id, token, verb } => {
                put(b"hold");
                put(kind.as_bytes());
                put(id.as_bytes());
                // Without one it is an operator's.
                put(token.map(|token| token.bits().to_le_bytes()).as_ref().map_or(&[], |it| it));
                verb.put(put);
            }
            Step::Expire(_) | Step::Forget(_) => {}
        }
        bytes
    }
}

impl Verb {
    fn put(&self, mut put: impl FnMut(&[u8])) {
        match self {
            Verb::Heartbeat => put(b"heartbeat"),
            Verb::Progress(percent) => {
                put(b"progress");
                put(&[*percent]);
            }
            Verb::Lease(leasing) => {
                put(b"lease");
                leasing.parts().for_each(put);
            }
            Verb::End(status, output) => {
                put(status.as_str().as_bytes());
                output.iter().for_each(|output| put(output));
            }
        }
    }
}

/// Where operations are stored.
struct Data {
    records: Collection<String, OperationRecord>,
    scopes: Collection<ScopeKey, ScopeRecord>,
    begun: Collection<Vec<u8>, BegunRecord>,
}

impl Data {
    fn of(store: &Arc<Inner>) -> Data {
        let table = &store.operations;
        Data {
            records: Collection::new(Arc::clone(store), Arc::clone(&table.records)),
            scopes: Collection::new(Arc::clone(store), Arc::clone(&table.scopes)),
            begun: Collection::new(Arc::clone(store), Arc::clone(&table.begun)),
        }
    }
}

/// One run of a step.
pub(super) struct Steps<'t, 's> {
    pub(super) tx: &'t mut Transaction<'s>,
    data: &'t Data,
    pub(super) store: &'t Arc<Inner>,
    pub(super) now: Now,
    pub(super) done: Done,
}

impl<'t, 's> Steps<'t, 's> {
    fn new(tx: &'t mut Transaction<'s>, data: &'t Data) -> Steps<'t, 's> {
        let store = &data.records.store;
        let done = Done {
            outcome: Outcome::Swept,
            store: Arc::clone(store),
            moved: Vec::new(),
            ended: Vec::new(),
            forgotten: Vec::new(),
            deadline: None,
            slot: None,
            leases: false,
            lease: None,
            version: None,
        };
        Steps { tx, data, store, now: Now::of(&*store.clock), done }
    }

    fn take(mut self, step: &Step) -> Result<Done> {
        self.done.outcome = match step {
            Step::Begin(ask) => self.begin(ask)?,
            Step::Hold { kind, id, token, verb } => match self.tx.before.clone() {
                Some(before) => self.hold_again(kind, id, &before)?,
                None => self.hold(kind, id, *token, verb)?,
            },
            Step::Expire(key) => {
                self.scope(key)?;
                Outcome::Swept
            }
            Step::Forget(ended) => {
                ended.iter().try_for_each(|ended| self.forget(ended).map(drop))?;
                Outcome::Swept
            }
        };
        Ok(self.done)
    }

    fn begin(&mut self, ask: &Ask) -> Result<Outcome> {
        self.check(ask)?;
        let Caller { actor, operation_id } = &ask.caller;
        let claim = operation_id.as_ref().map(|id| claim(actor.as_ref(), id));
        if let Some(claim) = &claim
            && let Some(begun) = self.tx.get(&self.data.begun, claim)?
        {
            return self.replay(ask, &begun.0);
        }
        let key = scope_key(ask.own_scope.then_some(&*ask.kind), &ask.scope);
        let taken = self.scope(&key)?;
        if let (Some(scope), OnBusy::Reject) = (&taken, ask.on_busy) {
            return self.refuse_for(scope);
        }
        let waiting = taken.as_ref().map_or(0, |scope| scope.queue.len() + 1);
        let place = || format!("the queue of scope {}", ask.scope);
        self.store.limits.check(Limit::OperationQueue, waiting, place)?;
        self.make_room()?;
        let (id, token) = self.draw()?;
        let record = OperationRecord {
            kind: ask.kind.as_ref().to_owned(),
            scope: ask.scope.clone(),
            own_scope: ask.own_scope,
            token,
            ttl: ask.ttl,
            created_at: self.now.time,
            started_by: actor.clone(),
            operation_id: operation_id.clone(),
            input: ask.input.clone(),
            end: None,
        };
        let queued = Queued { id: id.clone(), ttl: ask.ttl };
        let scope = match taken {
            Some(mut scope) => {
                scope.queue.push_back(queued);
                scope
            }
            None => self.start(queued, VecDeque::new()),
        };
        let info = self.info(&id, &record, Some(&scope))?;
        self.tx.put(&self.data.records, &id, record)?;
        self.tx.put(&self.data.scopes, &key, scope)?;
        if let Some(claim) = claim {
            self.tx.put(&self.data.begun, claim, BegunRecord(id))?;
        }
        Ok(Outcome::Stands { info, token, replayed: false })
    }

    /// # Errors
    /// [`Error::Limit`].
    fn check(&self, ask: &Ask) -> Result<()> {
        let limits = &self.store.limits;
        let millis = usize::try_from(ask.ttl.as_millis()).unwrap_or(usize::MAX);
        let input = ask.input.as_ref().map_or(0, |input| input.len());
        let place = || "the kind of an operation".to_owned();
        limits.check(Limit::KeyBytes, ask.kind.len(), place)?;
        limits
            .check(Limit::KeyBytes, ask.scope.len(), || "the scope of an operation".to_owned())?;
        let place = || format!("{} in scope {}", ask.kind, ask.scope);
        limits.check(Limit::ValueBytes, input, place)?;
        limits.check(Limit::OperationMillis, millis, place)
    }

    /// What was begun with this operation id before.
    ///
    /// # Errors
    /// [`Error::KeyReused`] if that was something else.
    fn replay(&mut self, ask: &Ask, id: &str) -> Result<Outcome> {
        let record = self.tx.get(&self.data.records, id)?.ok_or(Error::Restart)?;
        let asked = (&*ask.kind, ask.own_scope, &ask.scope, &ask.input);
        if asked != (&*record.kind, record.own_scope, &record.scope, &record.input) {
            let id = ask.caller.id().to_owned();
            let version = record.version().ok_or(Error::Restart)?;
            return Err(Error::KeyReused { id, version });
        }
        self.stands(id, &record)
    }

    /// An operation as it is now, of which nothing is to be written.
    fn stands(&mut self, id: &str, record: &OperationRecord) -> Result<Outcome> {
        let scope = self.tx.get(&self.data.scopes, record.scope_key())?;
        let info = self.info(id, record, scope.as_deref())?;
        Ok(Outcome::Stands { info, token: record.token, replayed: true })
    }

    fn hold(
        &mut self,
        kind: &str,
        id: &str,
        token: Option<OperationToken>,
        verb: &Verb,
    ) -> Result<Outcome> {
        let known = self.tx.get(&self.data.records, id)?.filter(|record| record.kind == kind);
        let Some(known) = known else { return Ok(self.refuse(Reason::Fenced, id, None)) };
        let key = known.scope_key();
        let taken = self.scope(&key)?;
        // It may have expired just now.
        let record = self.tx.get(&self.data.records, id)?.ok_or(Error::Restart)?;
        let fenced = record.end.is_some() || token.is_some_and(|token| token != record.token);
        let (Some(mut scope), false) = (taken.clone(), fenced) else {
            let info = self.info(id, &record, taken.as_ref())?;
            return Ok(self.refuse(Reason::Fenced, id, Some(info)));
        };
        let left = match verb {
            Verb::End(OperationStatus::Cancelled, _) if scope.running.id != id => {
                scope.queue.retain(|queued| queued.id != id);
                self.end(id, None, OperationStatus::Cancelled, None)?;
                Some(scope)
            }
            _ if scope.running.id != id => return self.refuse_for(&scope),
            Verb::End(status, output) => {
                self.end(id, Some(&scope.running), *status, output.clone())?;
                self.pass_on(scope)
            }
            Verb::Heartbeat | Verb::Progress(_) | Verb::Lease(_) => {
                scope.running.prolong(self.now);
                self.done.deadline = Some(scope.running.deadline);
                self.prolong_leases(&mut scope.running);
                match verb {
                    Verb::Progress(percent) => scope.running.progress = Some(*percent),
                    Verb::Lease(leasing) => self.lease(kind, &mut scope.running, leasing)?,
                    _ => {}
                }
                Some(scope)
            }
        };
        self.put_scope(&key, left.clone())?;
        let record = self.tx.get(&self.data.records, id)?.ok_or(Error::Restart)?;
        let info = self.info(id, &record, left.as_ref())?;
        Ok(Outcome::Stands { info, token: record.token, replayed: false })
    }

    /// The operation as it is now, of a step that had been taken before.
    fn hold_again(&mut self, kind: &str, id: &str, before: &Record<IdRecord>) -> Result<Outcome> {
        let kept = before.value.value.as_deref().and_then(|kept| kept.try_into().ok());
        let lease = kept.and_then(|token| Version::new(u64::from_le_bytes(token)));
        self.done.lease = lease.or(Some(before.metadata.version));
        let known = self.tx.get(&self.data.records, id)?.filter(|record| record.kind == kind);
        let Some(record) = known else { return Ok(self.refuse(Reason::Fenced, id, None)) };
        self.stands(id, &record)
    }

    /// A scope as it is now: what has expired in it has ended, and the next one has started.
    fn scope(&mut self, key: &ScopeKey) -> Result<Option<ScopeRecord>> {
        let Some(scope) = self.tx.get(&self.data.scopes, key)? else { return Ok(None) };
        let scope = scope.value().clone();
        if scope.running.deadline > self.now.monotonic {
            return Ok(Some(scope));
        }
        self.end(&scope.running.id, Some(&scope.running), OperationStatus::Expired, None)?;
        let left = self.pass_on(scope);
        self.put_scope(key, left.clone())?;
        Ok(left)
    }

    fn put_scope(&mut self, key: &ScopeKey, scope: Option<ScopeRecord>) -> Result<()> {
        match scope {
            Some(scope) => self.tx.put(&self.data.scopes, key, scope),
            None => self.tx.delete(&self.data.scopes, key),
        }
    }

    /// Has the next of the queue start.
    fn pass_on(&mut self, scope: ScopeRecord) -> Option<ScopeRecord> {
        let mut queue = scope.queue;
        let next = queue.pop_front()?;
        self.done.moved.push(next.id.clone());
        Some(self.start(next, queue))
    }

    fn start(&mut self, queued: Queued, queue: VecDeque<Queued>) -> ScopeRecord {
        let running = Running::start(queued, self.now);
        self.done.deadline = Some(running.deadline);
        ScopeRecord { running, queue }
    }

    /// Writes that an operation has ended; `running` if it had started.
    fn end(
        &mut self,
        id: &str,
        running: Option<&Running>,
        status: OperationStatus,
        output: Option<Arc<[u8]>>,
    ) -> Result<()> {
        let Some(record) = self.tx.get(&self.data.records, id)? else { return Ok(()) };
        if let Some(running) = running {
            self.end_leases(running);
        }
        let bytes = output.as_ref().map_or(0, |output| output.len());
        let place = || format!("{} {id}", record.kind);
        self.store.limits.check(Limit::ValueBytes, bytes, place)?;
        let end = End {
            status,
            ended_at: self.now.time,
            started_at: running.map(|running| running.started_at),
            progress: running.and_then(|running| running.progress),
            output,
        };
        let record = OperationRecord { end: Some(end), ..record.value().clone() };
        self.done.moved.push(id.to_owned());
        self.done.ended.push((self.now.time, id.to_owned()));
        self.tx.put(&self.data.records, id, record)
    }

    /// Sees to it that there are not too many: what has ended first is forgotten first.
    fn make_room(&mut self) -> Result<()> {
        let (slot, surplus) = self.store.operations.slot(&self.store.limits);
        self.done.slot = Some(slot);
        let mut missing = surplus.min(FORGOTTEN_PER_BEGIN);
        for ended in self.store.operations.oldest(missing) {
            missing -= usize::from(self.forget(&ended)?);
        }
        match missing {
            0 => Ok(()),
            _ => {
                let (limit, allowed) = (Limit::Operations, self.store.limits.operations);
                let (allowed, actual) = (allowed as u64, (allowed + missing) as u64);
                Err(Error::Limit { limit, allowed, actual, place: "the store".to_owned() })
            }
        }
    }

    /// `false` if it is forgotten already.
    fn forget(&mut self, ended: &Ended) -> Result<bool> {
        let Some(record) = self.tx.get(&self.data.records, &ended.1)? else { return Ok(false) };
        if let Some(id) = &record.operation_id {
            let claim = claim(record.started_by.as_ref(), id);
            if self.tx.get(&self.data.begun, &claim)?.is_some() {
                self.tx.delete(&self.data.begun, &claim)?;
            }
        }
        self.tx.delete(&self.data.records, &ended.1)?;
        self.done.forgotten.push(ended.clone());
        Ok(true)
    }

    /// An id that nothing has, and a token.
    fn draw(&mut self) -> Result<(String, OperationToken)> {
        loop {
            let (bits, token) = {
                let mut random = self.store.random.lock();
                (random.u64(..), OperationToken::from_bits(random.u64(..)))
            };
            let id = id_of(self.now.time, bits);
            if self.tx.get(&self.data.records, &id)?.is_none() {
                return Ok((id, token));
            }
        }
    }

    fn info(
        &self,
        id: &str,
        record: &OperationRecord,
        scope: Option<&ScopeRecord>,
    ) -> Result<Box<OperationInfo>> {
        let info = OperationInfo::of(id, record, scope, self.now.monotonic);
        info.map(Box::new).ok_or(Error::Restart)
    }

    /// The scope is taken.
    fn refuse_for(&mut self, scope: &ScopeRecord) -> Result<Outcome> {
        let id = &scope.running.id;
        let record: Seen<_> = self.tx.get(&self.data.records, id)?.ok_or(Error::Restart)?;
        let info = self.info(id, &record, Some(scope))?;
        Ok(self.refuse(Reason::InProgress, id, Some(info)))
    }

    fn refuse(&self, reason: Reason, id: &str, info: Option<Box<OperationInfo>>) -> Outcome {
        let (name, lineage) = (Arc::clone(&self.data.records.state.name), self.store.lineage);
        let conflict = Conflict::of_operation(reason, name, id, info, lineage, self.now.time);
        Outcome::Refused(Box::new(conflict))
    }
}

/// Where there were more operations than are allowed now, each that is begun makes for fewer.
const FORGOTTEN_PER_BEGIN: usize = 16;

/// The key of an operation id, which is its actor's own.
fn claim(actor: Option<&Actor>, id: &str) -> Vec<u8> {
    let mut key = Vec::new();
    put_actor(&mut key, actor.map(Actor::as_str));
    key.extend_from_slice(id.as_bytes());
    key
}

/// As of a ULID (github.com/ulid/spec), four digits shorter so that it lies in the map itself: 48
/// bits of milliseconds and 62 of chance, in Crockford's base 32.
fn id_of(time: Timestamp, chance: u64) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const CHANCE: u32 = 62;
    let bits = u128::from(time.0 / 1_000) << CHANCE | u128::from(chance >> (64 - CHANCE));
    let digit = |place: u32| DIGITS.get((bits >> (5 * place)) as usize % DIGITS.len());
    (0..22).rev().filter_map(digit).map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_sorts_by_time_and_stands_in_a_path() {
        let ids = [(0, 0), (999, 7), (1_000, 0), (1_700_000_000_000_000, 4), (u64::MAX, u64::MAX)];
        let ids = ids.map(|(time, chance)| id_of(Timestamp::from_micros(time), chance));
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(ids[0], "0".repeat(22));
        assert!(ids.iter().all(|id| id.len() == 22));
        assert!(ids.iter().flat_map(|id| id.chars()).all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(ids[3], id_of(Timestamp(1_700_000_000_000_000), 8));
    }
}
