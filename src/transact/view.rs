//! What a transaction sees and stages.

use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};
use std::sync::Arc;

use crate::collection::{Collection, after_prefix};
use crate::commit::{Change, Refused};
use crate::entity::{Entity, Record};
use crate::error::{Error, Limit, Result};
use crate::group::{Group, Item, Members, Scan, Verdict};
use crate::ids::IdRecord;
use crate::key::{AsKey, AsPrefix, Key, key_buf};
use crate::lease::Lease;
use crate::map::{KeyBuf, State};
use crate::precondition::Precondition;
use crate::reserved::is_reserved;
use crate::store::Inner;
use crate::version::Version;

/// A transaction that runs: what its closure reads and writes through.
///
/// It sees what it has staged itself. Everything else that it sees was so at one instant, which
/// moves forward as long as nothing that was read has changed; else a call fails with
/// [`Error::Restart`], and the closure runs again from the start.
pub struct Transaction<'s> {
    pub(super) store: &'s Inner,
    pub(crate) group: Group,
    pub(super) verdict: Verdict,
    /// The version as of which all that was read is so.
    as_of: u64,
    pub(super) reads: usize,
    writes: usize,
    /// What a step of the crate's own has left behind that had landed before.
    pub(crate) before: Option<Arc<Record<IdRecord>>>,
}

/// An entity as a transaction sees it. Dereferences to the value.
pub struct Seen<V> {
    record: Arc<Record<V>>,
    staged: bool,
}

/// Keys are taken from the index in portions of this size.
const PORTION: usize = 128;

/// Moving forward is tried so often before the transaction starts anew.
const EXTENSIONS: usize = 3;

impl<'s> Transaction<'s> {
    pub(super) fn begin(store: &'s Inner) -> Result<Transaction<'s>> {
        let as_of = store.journal.position()?;
        let (group, verdict) = (Group::default(), Verdict::default());
        let (reads, writes, before) = (0, 0, None);
        Ok(Transaction { store, group, verdict, as_of, reads, writes, before })
    }

    /// The entity at `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Restart`]; [`Error::Limit`]; [`Error::Closed`]; [`Error::OtherStore`].
    pub fn get<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
    ) -> Result<Option<Seen<V>>>
    where
        K: Key,
        V: Clone + Send + Sync + 'static,
    {
        let key = key_buf(key);
        Ok(self.look(collection, &key)?.and_then(Seen::of))
    }

    /// As [`get`](Transaction::get), where the transaction has no sense without the entity.
    ///
    /// # Errors
    /// As of `get`; a conflict of the reason `absent` or `deleted` if there is none.
    pub fn require<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
    ) -> Result<Seen<V>>
    where
        K: Key,
        V: Clone + Send + Sync + 'static,
    {
        let key = key_buf(key);
        let item = self.look(collection, &key)?;
        let newest = item.and_then(|item| item.seen.clone()).unwrap_or(State::Vacant);
        if let Some(seen) = item.and_then(Seen::of) {
            return Ok(seen);
        }
        let refused = Refused::absent(newest, self.store.now());
        Err(refused.into_conflict(self.store, &collection.state, &key, None, None).into())
    }

    /// Runs `f` on the value at `key`, if there is one: what was staged need not be copied.
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn read<K, V, T>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
        f: impl FnOnce(Option<&V>) -> T,
    ) -> Result<T>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        let key = key_buf(key);
        let record = self.look(collection, &key)?.and_then(Item::view);
        Ok(f(record.map(|record| &record.value)))
    }

    /// The entities whose keys lie within the bounds, in key order. A key that comes into the
    /// range before the commit is a conflict too.
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn range<K, V, Q>(
        &mut self,
        collection: &Collection<K, V>,
        bounds: impl RangeBounds<Q>,
    ) -> Result<Vec<(K, Seen<V>)>>
    where
        K: Key,
        V: Clone + Send + Sync + 'static,
        Q: AsKey<K>,
    {
        let bound = |bound: Bound<&Q>| bound.map(key_buf);
        self.scan(collection, bound(bounds.start_bound()), bound(bounds.end_bound()))
    }

    /// The entities whose keys begin with `prefix`; see [`range`](Transaction::range).
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn prefix<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        prefix: impl AsPrefix<K>,
    ) -> Result<Vec<(K, Seen<V>)>>
    where
        K: Key,
        V: Clone + Send + Sync + 'static,
    {
        let (start, end) = prefix.with_prefix(|prefix| {
            let end = after_prefix(prefix).map(|end| Bound::Excluded(KeyBuf::from(&end[..])));
            (Bound::Included(KeyBuf::from(prefix)), end.unwrap_or(Bound::Unbounded))
        });
        self.scan(collection, start, end)
    }

    /// Writes a value at a key that the transaction has read or written: if it is unchanged at the
    /// commit.
    ///
    /// # Errors
    /// [`Error::NoCondition`] if it has neither; as of [`get`](Transaction::get).
    pub fn put<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
        value: V,
    ) -> Result<()>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        let key = key_buf(key);
        self.check_known(collection, &key)?;
        self.stage(collection, &key, Some(value), None)
    }

    /// Deletes the entity at a key that the transaction has read or written: if it is unchanged
    /// at the commit, and there.
    ///
    /// # Errors
    /// As of [`put`](Transaction::put).
    pub fn delete<K, V>(&mut self, collection: &Collection<K, V>, key: impl AsKey<K>) -> Result<()>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        let key = key_buf(key);
        self.check_known(collection, &key)?;
        self.stage(collection, &key, None, None)
    }

    /// Writes a value where there is no entity at the commit, apart from what the transaction has
    /// staged itself. See [`put_if`](Transaction::put_if).
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn create<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
        value: V,
    ) -> Result<()>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        self.put_if(collection, key, value, Precondition::Absent)
    }

    /// Writes a value if `condition` holds at the commit, of what was there before the
    /// transaction. If it does not, and nothing that was read has changed, the transaction is
    /// refused.
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn put_if<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
        value: V,
        condition: Precondition,
    ) -> Result<()>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        let key = key_buf(key);
        self.stage(collection, &key, Some(value), Some(condition))
    }

    /// Deletes the entity if `condition` holds at the commit; see
    /// [`put_if`](Transaction::put_if).
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn delete_if<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
        condition: Precondition,
    ) -> Result<()>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        let key = key_buf(key);
        self.stage(collection, &key, None, Some(condition))
    }

    /// Makes the commit depend on a condition of a key that it does not write; see
    /// [`put_if`](Transaction::put_if).
    ///
    /// # Errors
    /// As of [`get`](Transaction::get).
    pub fn check<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        key: impl AsKey<K>,
        condition: Precondition,
    ) -> Result<()>
    where
        K: Key,
        V: Send + Sync + 'static,
    {
        let key = key_buf(key);
        self.take_up(collection, &key)?.conditions.push(condition);
        Ok(())
    }
}

impl Transaction<'_> {
    /// Relies on a lease: the transaction is refused as [`Fenced`](crate::Reason::Fenced) if that
    /// has ended at the commit. Its key may be written then; it need not be. See
    /// [`Write::holding`](crate::Write::holding).
    ///
    /// # Errors
    /// [`Error::OtherStore`] and [`Error::Limit`].
    pub fn holding(&mut self, lease: &Lease) -> Result<()> {
        self.reads += 1;
        let place = || "a transaction".to_owned();
        self.store.limits.check(Limit::TransactionKeys, self.reads, place)?;
        self.group.leases(self.store).rely_on(lease.held_in(self.store)?);
        Ok(())
    }

    /// Whether the closure may go on.
    pub(super) fn go_on<K, V>(&self, collection: &Collection<K, V>) -> Result<()> {
        self.store.durable()?;
        if !std::ptr::eq(self.store, &*collection.store) {
            return Err(Error::OtherStore { collection: Arc::clone(&collection.state.name) });
        }
        if self.verdict.moved { Err(Error::Restart) } else { Ok(()) }
    }

    pub(super) fn members<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
    ) -> Result<&mut Members<V>> {
        self.group.members(&collection.state).ok_or(Error::Restart)
    }

    fn take_up<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
        key: &KeyBuf,
    ) -> Result<&mut Item<V>> {
        self.go_on(collection)?;
        if !is_reserved(collection.state.id) {
            let place = || collection.name().to_owned();
            self.store.limits.check(Limit::KeyBytes, key.len(), place)?;
        }
        if self.members(collection)?.get(key).is_none() {
            self.reads += 1;
            let place = || "a transaction".to_owned();
            self.store.limits.check(Limit::TransactionKeys, self.reads, place)?;
        }
        Ok(self.members(collection)?.item(key))
    }

    /// Reads a key, unless that has been done. `None` if it was not in the end.
    pub(super) fn look<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
        key: &KeyBuf,
    ) -> Result<Option<&Item<V>>> {
        let item = self.take_up(collection, key)?;
        if item.seen.is_none() && item.change.is_none() {
            let map = &collection.state.map;
            let newest = map.newest(item.hash, key);
            let version = newest.version();
            // What was vacant just now may have had an entity before.
            let since = if version == 0 { map.keys().removed_at() } else { version };
            item.seen = Some(newest);
            self.verdict.rests_on = self.verdict.rests_on.max(version);
            self.see_since(since)?;
        }
        Ok(self.members(collection)?.get(key))
    }

    /// Something was read that is so from this version on at the latest.
    pub(super) fn see_since(&mut self, since: u64) -> Result<()> {
        if since <= self.as_of {
            return Ok(());
        }
        for _ in 0..EXTENSIONS {
            // Whatever has a version up to here is installed, or its stripe is locked until it is.
            let position = self.store.journal.position()?;
            match self.group.unchanged() {
                None => {
                    self.verdict.moved = true;
                    return Err(Error::Restart);
                }
                Some(from) if from <= position => {
                    self.as_of = position;
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        // Deletions settle too fast to tell which key it is.
        self.group.blame();
        self.verdict.moved = true;
        Err(Error::Restart)
    }

    fn scan<K, V>(
        &mut self,
        collection: &Collection<K, V>,
        start: Bound<KeyBuf>,
        end: Bound<KeyBuf>,
    ) -> Result<Vec<(K, Seen<V>)>>
    where
        K: Key,
        V: Clone + Send + Sync + 'static,
    {
        self.go_on(collection)?;
        let keys = collection.state.map.keys();
        let mut from = start.clone();
        loop {
            let (low, high) = (from.as_ref().map(|key| &**key), end.as_ref().map(|key| &**key));
            let portion: Vec<_> = keys.read().range((low, high)).take(PORTION).cloned().collect();
            for key in &portion {
                self.look(collection, key)?;
            }
            let whole = portion.len() < PORTION;
            let upto = match portion.last() {
                Some(last) if !whole => Bound::Included(last.clone()),
                _ => end.clone(),
            };
            // As far as it was scanned: what lies behind has not been looked at.
            let scans = self.members(collection)?.scans();
            scans.push(Scan { start: from, end: upto.clone() });
            // What is not in the index any more may have been there before.
            self.see_since(keys.removed_at())?;
            if whole {
                break;
            }
            from = match upto {
                Bound::Included(last) => Bound::Excluded(last),
                other => other,
            };
        }
        let items = self.members(collection)?.range((start, end));
        let seen = items.filter_map(|(key, item)| Some((K::decode(key)?, Seen::of(item)?)));
        Ok(seen.collect())
    }

    fn check_known<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
        key: &KeyBuf,
    ) -> Result<()> {
        self.go_on(collection)?;
        let item = self.members(collection)?.get(key);
        if item.is_some_and(|item| item.seen.is_some() || item.change.is_some()) {
            return Ok(());
        }
        let (collection, key) = (&collection.state, collection.state.text(key));
        Err(Error::NoCondition { collection: Arc::clone(&collection.name), key })
    }

    fn stage<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
        key: &KeyBuf,
        value: Option<V>,
        condition: Option<Precondition>,
    ) -> Result<()> {
        let (state, store) = (&collection.state, self.store);
        let record = value.map(|value| state.record(&store.limits, key, value)).transpose()?;
        let item = self.take_up(collection, key)?;
        // A condition is on what was there before: what was staged since is the caller's own.
        let own = matches!(&item.change, Some(Change::Delete)) && item.seen.is_some();
        if !(own && condition == Some(Precondition::Absent)) {
            item.conditions.extend(condition);
        }
        let staged = item.change.is_some();
        let created = item.seen.as_ref().is_some_and(|seen| seen.live().is_none());
        let created = created || item.conditions.contains(&Precondition::Absent);
        let change = match record {
            Some(record) => Some(Change::Put { record, encoded: Vec::new() }),
            // What comes and goes within the transaction was never there.
            None if staged && created => None,
            None => Some(Change::Delete),
        };
        let replaced = std::mem::replace(&mut item.change, change);
        self.writes += usize::from(!staged);
        drop(replaced);
        let place = || "a transaction".to_owned();
        self.store.limits.check(Limit::TransactionWrites, self.writes, place)
    }
}

impl<V> Seen<V> {
    /// The value.
    pub fn value(&self) -> &V {
        &self.record.value
    }

    /// The version; `None` if the transaction itself has staged the value.
    pub fn version(&self) -> Option<Version> {
        (!self.staged).then_some(self.record.metadata.version)
    }

    /// The entity with its metadata; `None` if the transaction itself has staged the value.
    pub fn entity(&self) -> Option<Entity<V>> {
        (!self.staged).then(|| Entity::new(Arc::clone(&self.record)))
    }

    /// A staged value is copied: its record is nobody else's until it has its place.
    pub(super) fn of(item: &Item<V>) -> Option<Seen<V>>
    where
        V: Clone,
    {
        let (record, staged) = (item.view()?, item.change.is_some());
        let record = match staged {
            true => Record::unplaced(record.value.clone()),
            false => Arc::clone(record),
        };
        Some(Seen { record, staged })
    }
}

impl<V> Clone for Seen<V> {
    fn clone(&self) -> Self {
        Seen { record: Arc::clone(&self.record), staged: self.staged }
    }
}

impl<V> Deref for Seen<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.value()
    }
}

impl<V: fmt::Debug> fmt::Debug for Seen<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen")
            .field("value", self.value())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("as_of", &self.as_of).finish_non_exhaustive()
    }
}
