//! From one schema of a collection to the next: all of its entities, in one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{Codec, Encoding};
use crate::collection::CollectionState;
use crate::entity::{Actor, Metadata, Previous, Record};
use crate::error::{Error, Limit, Result};
use crate::map::KeyBuf;
use crate::record::{self, CatalogEntry, LoggedWrite};
use crate::recovery::StoredCollection;
use crate::store::Inner;
use crate::sync::{Ordering, UserCode};
use crate::version::Version;

/// Who has written the entities that a migration wrote. Who wrote them before is history: a
/// record has one actor, and a reader whose version is gone is told what took it away.
const ACTOR: &str = "migration";

/// How to get from the stored values of one schema to those of another.
pub(crate) struct Migration<'a, V> {
    codec_name: String,
    convert: Box<Convert<'a, V>>,
}

type Migrated<V> = Vec<(KeyBuf, Arc<Record<V>>)>;

type Convert<'a, V> = dyn FnMut(&[u8]) -> std::result::Result<V, String> + 'a;

impl<'a, V: 'static> Migration<'a, V> {
    pub(crate) fn new<Old, C: Codec<Old>>(
        codec: Arc<C>,
        mut f: impl FnMut(Old) -> V + 'a,
    ) -> Migration<'a, V> {
        let codec_name = codec.name().to_owned();
        Migration { codec_name, convert: Box::new(move |bytes| Ok(f(codec.decode(bytes)?))) }
    }

    /// The one that leads from what is stored to what is asked for; `None` if they are the same.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::CollectionType`].
    pub(crate) fn choose<'m>(
        migrations: &'m mut BTreeMap<u32, Migration<'a, V>>,
        collection: &str,
        stored: &CatalogEntry,
        wanted: &Encoding<V>,
    ) -> Result<Option<&'m mut Migration<'a, V>>> {
        if stored.schema == wanted.schema {
            check_codec(collection, &stored.codec, &wanted.codec_name)?;
            return Ok(None);
        }
        let Some(migration) = migrations.get_mut(&stored.schema) else {
            let (stored, asked_for) = (stored.schema, wanted.schema);
            return Err(Error::Schema { collection: collection.to_owned(), stored, asked_for });
        };
        check_codec(collection, &stored.codec, &migration.codec_name)?;
        Ok(Some(migration))
    }

    /// Migrates what is stored into `state`, which is empty, and waits until that is durable.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::Encode`], [`Error::Limit`], [`Error::Duplicates`],
    /// [`Error::Closed`] and [`Error::Poisoned`]. Nothing has been written then, unless
    /// the last says otherwise.
    pub(crate) fn run(
        &mut self,
        store: &Inner,
        state: &CollectionState<V>,
        stored: &StoredCollection,
    ) -> Result<()>
    where
        V: Send + Sync,
    {
        let (payload, mut migrated) = self.convert_all(store, state, stored)?;
        state.fill_indexes(&migrated)?;
        let room = store.journal.reserve(payload.len())?;
        let write = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&payload);
        let stamp = store.journal.append(&*store.clock, false, room, write)?;
        state.announced.store(true, Ordering::Relaxed);
        // Whatever the durability: nothing of the new schema is shown before.
        store.journal.flush()?;
        store.feed.leave_to_log(stamp);
        let (version, actor) = (Version::new(stamp.version), Actor::from(ACTOR));
        for record in migrated.iter_mut().filter_map(|(_, record)| Arc::get_mut(record)) {
            let version = version.unwrap_or(record.metadata.version);
            let (previous, actor) = (Previous::Live(&record.metadata), Some(actor.clone()));
            record.metadata = Metadata::after(previous, version, stamp.written_at, actor);
        }
        state.fill(migrated, stored);
        Ok(())
    }

    /// The record of the migration, and the new values, which nobody else has yet, with the
    /// metadata of the old ones.
    fn convert_all(
        &mut self,
        store: &Inner,
        state: &CollectionState<V>,
        stored: &StoredCollection,
    ) -> Result<(Vec<u8>, Migrated<V>)> {
        // A closure of the caller's that opens this collection must not wait for itself.
        let _running = UserCode::enter();
        let mut live: Vec<_> = stored.live().collect();
        live.sort_unstable_by_key(|(key, ..)| *key);
        let mut payload = Vec::new();
        record::begin(&mut payload, Some(ACTOR), live.len() as u64 + 1);
        state.announce(&mut payload);
        let mut migrated = Vec::with_capacity(live.len());
        for (key, metadata, bytes) in live {
            let (collection, text) = (|| Arc::clone(&state.name), || state.text(key));
            let value = (self.convert)(bytes).map_err(|detail| Error::Decode {
                collection: collection(),
                key: text(),
                detail,
            })?;
            let encoded = state.encode(&store.limits, key, &value)?;
            LoggedWrite { collection: state.id, key, value: Some(&encoded) }.encode(&mut payload);
            let place = || state.name.as_ref().to_owned();
            store.limits.check(Limit::MigrationBytes, payload.len(), place)?;
            let index_keys = state.index_keys(&store.limits, key, &value)?;
            let metadata = Metadata::clone(metadata);
            migrated.push((key.clone(), Arc::new(Record { metadata, index_keys, value })));
        }
        Ok((payload, migrated))
    }
}

/// # Errors
/// [`Error::CollectionType`].
pub(crate) fn check_codec(collection: &str, stored: &str, asked_for: &str) -> Result<()> {
    if stored == asked_for {
        return Ok(());
    }
    Err(Error::CollectionType {
        collection: collection.to_owned(),
        opened_as: format!("values in the codec {stored}"),
        asked_for: format!("values in the codec {asked_for}"),
    })
}
