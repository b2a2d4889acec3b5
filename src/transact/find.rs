//! Look-ups by unique indexes within a transaction.

use crate::collection::Collection;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Limit, Result};
use crate::key::{AsKey, Key};
use crate::map::KeyBuf;
use crate::transact::{Seen, Transaction};
use crate::unique::has_key;

impl Transaction<'_> {
    /// The entity that has this key in a unique index; see [`Collection::find_by`]. Another entity
    /// that has it at the commit, or none, is a conflict.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let users = store
    ///     .declare::<u64, String>("users")
    ///     .unique("name", |name: &String| name.clone())
    ///     .open()?;
    /// users.create(7, "ann".to_owned()).commit()?;
    /// let renamed = store.transact(|tx| {
    ///     let Some((id, _)) = tx.find_by(&users, "name", "ann")? else { return Ok(false) };
    ///     tx.put(&users, id, "anna".to_owned())?;
    ///     Ok(true)
    /// });
    /// assert!(renamed.commit()?.into_value());
    /// assert_eq!(users.get(7)?.as_deref().map(String::as_str), Some("anna"));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Index`]; as of [`get`](Transaction::get).
    pub fn find_by<K, V, I>(
        &mut self,
        collection: &Collection<K, V>,
        index: &str,
        key: impl AsKey<I>,
    ) -> Result<Option<(K, Seen<V>)>>
    where
        K: Key,
        V: Clone + Send + Sync + 'static,
        I: Key,
    {
        self.go_on(collection)?;
        let (place, _) = collection.state.unique_index::<I>(index)?;
        let index_key = key.with_bytes(|key| KeyBuf::from(key));
        let holder = match self.staged_holder(collection, place, &index_key)? {
            Some(key) => Some(key),
            None => self.look_up(collection, place, &index_key)?,
        };
        let Some(holder) = holder else { return Ok(None) };
        let item = self.look(collection, &holder)?;
        let Some(item) = item
            .filter(|item| item.view().is_some_and(|record| has_key(record, place, &index_key)))
        else {
            return Ok(None);
        };
        Ok(K::decode(&holder).zip(Seen::of(item)))
    }

    /// The entity that the transaction itself gives the index key to.
    fn staged_holder<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
        place: usize,
        index_key: &KeyBuf,
    ) -> Result<Option<KeyBuf>> {
        let members = self.members(collection)?;
        let mut staged = members.staged();
        let holder = staged.find(|(_, record)| has_key(record, place, index_key));
        Ok(holder.map(|(key, _)| key.clone()))
    }

    /// The entity that has the index key, apart from what the transaction has staged.
    fn look_up<K: Key, V: Send + Sync + 'static>(
        &mut self,
        collection: &Collection<K, V>,
        place: usize,
        index_key: &KeyBuf,
    ) -> Result<Option<KeyBuf>> {
        let lookup = (place, index_key.clone());
        if let Some(seen) = self.members(collection)?.lookups().get(&lookup) {
            return Ok(seen.live().map(|holder| holder.value.clone()));
        }
        let Some(unique) = collection.state.unique.get(place) else { return Ok(None) };
        self.reads += 1;
        let place = || "a transaction".to_owned();
        self.store.limits.check(Limit::TransactionKeys, self.reads, place)?;
        let newest = unique.map.newest(unique.map.hash(index_key), index_key);
        let version = newest.version();
        // What is vacant may have been somebody's before.
        let since = if version == 0 { unique.map.keys().removed_at() } else { version };
        let holder = newest.live().map(|holder| holder.value.clone());
        self.members(collection)?.lookups().insert(lookup, newest);
        self.verdict.rests_on = self.verdict.rests_on.max(version);
        self.see_since(since)?;
        Ok(holder)
    }
}
