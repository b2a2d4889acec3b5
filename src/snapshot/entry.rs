//! What a snapshot keeps of a key or a collection.
//!
//! FORMAT.md draws the bytes. An entry carries all metadata: the commits that it came from may be
//! gone.

use crate::clock::Timestamp;
use crate::conflict::Deletion;
use crate::entity::{Actor, Metadata};
use crate::log::frame::take;
use crate::record::{
    CatalogEntry, put_actor, put_bytes, put_number, take_actor, take_bytes, take_number,
};
use crate::recovery::Stored;
use crate::version::Version;

const COLLECTION: u8 = 0;
const ENTITY: u8 = 1;
/// An entity that shares its second with an earlier version of its key.
const ENTITY_SHARING: u8 = 2;
const DELETION: u8 = 3;

/// An entry to be written.
pub(crate) enum Entry<'a> {
    Collection { name: &'a str, entry: &'a CatalogEntry },
    Entity { collection: u32, key: &'a [u8], metadata: &'a Metadata, value: &'a [u8] },
    Deletion { collection: u32, key: &'a [u8], deletion: &'a Deletion },
}

impl Entry<'_> {
    pub(crate) fn written_at(&self) -> Timestamp {
        match self {
            Entry::Collection { .. } => Timestamp(0),
            Entry::Entity { metadata, .. } => metadata.written_at,
            Entry::Deletion { deletion, .. } => deletion.deleted_at,
        }
    }

    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Entry::Collection { name, entry } => {
                bytes.push(COLLECTION);
                put_bytes(bytes, name.as_bytes());
                put_bytes(bytes, &entry.encode());
            }
            Entry::Entity { collection, key, metadata, value } => {
                bytes.push(if metadata.shares_second { ENTITY_SHARING } else { ENTITY });
                let (version, actor) = (metadata.version, metadata.written_by.as_ref());
                put_origin(bytes, *collection, key, version, actor);
                let age = metadata.written_at.0.saturating_sub(metadata.created_at.0);
                put_number(bytes, age);
                put_bytes(bytes, value);
            }
            Entry::Deletion { collection, key, deletion } => {
                bytes.push(DELETION);
                let actor = deletion.deleted_by.as_ref();
                put_origin(bytes, *collection, key, deletion.version, actor);
            }
        }
    }
}

fn put_origin(
    bytes: &mut Vec<u8>,
    collection: u32,
    key: &[u8],
    version: Version,
    actor: Option<&Actor>,
) {
    put_number(bytes, collection.into());
    put_bytes(bytes, key);
    put_number(bytes, version.get());
    put_actor(bytes, actor.map(Actor::as_str));
}

/// An entry that was read.
pub(crate) enum Decoded<'a> {
    Collection { name: &'a str, entry: CatalogEntry },
    State { collection: u32, key: &'a [u8], stored: Stored },
}

/// Reads an entry. `None` unless every byte belongs to it. `last_actor` makes
/// neighbours share their name.
pub(crate) fn decode<'a>(
    mut bytes: &'a [u8],
    written_at: Timestamp,
    last_actor: &mut Option<Actor>,
) -> Option<Decoded<'a>> {
    let rest = &mut bytes;
    let [kind] = take(rest)?;
    if kind == COLLECTION {
        let name = std::str::from_utf8(take_bytes(rest)?).ok()?;
        let entry = CatalogEntry::decode(take_bytes(rest)?)?;
        return rest.is_empty().then_some(Decoded::Collection { name, entry });
    }
    let collection = u32::try_from(take_number(rest)?).ok()?;
    let key = take_bytes(rest)?;
    let version = Version::new(take_number(rest)?)?;
    let actor = take_actor(rest)?.map(|name| Actor::shared(last_actor, name));
    let stored = match kind {
        ENTITY | ENTITY_SHARING => {
            let created_at = Timestamp(written_at.0.checked_sub(take_number(rest)?)?);
            let shares_second = kind == ENTITY_SHARING;
            let written_by = actor;
            let metadata = Metadata { version, written_by, written_at, created_at, shares_second };
            Stored::Live { metadata, value: take_bytes(rest)?.into() }
        }
        DELETION => {
            Stored::Deleted(Deletion { version, deleted_by: actor, deleted_at: written_at })
        }
        _ => return None,
    };
    rest.is_empty().then_some(Decoded::State { collection, key, stored })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entity_reads_back(
            (collection, key, value) in any::<(u32, Vec<u8>, Vec<u8>)>(),
            (version, age, created) in (1u64.., 0..1u64 << 50, 0..1u64 << 50),
            (actor, shares_second) in any::<(Option<String>, bool)>(),
        ) {
            let (created_at, written_at) = (Timestamp(created), Timestamp(created + age));
            let version = Version::new(version).unwrap();
            let written_by = actor.map(Actor::from);
            let metadata = Metadata { version, written_by, written_at, created_at, shares_second };
            let mut bytes = Vec::new();
            let (key, value) = (&key[..], &value[..]);
            Entry::Entity { collection, key, metadata: &metadata, value }.encode(&mut bytes);
            let Some(Decoded::State { collection: c, key: k, stored }) =
                decode(&bytes, written_at, &mut None)
            else {
                panic!("it is an entity");
            };
            prop_assert_eq!((c, k), (collection, key));
            let Stored::Live { metadata: m, value: v } = stored else { panic!("it is there") };
            prop_assert_eq!(&*v, value);
            prop_assert_eq!(format!("{m:?}"), format!("{metadata:?}"));
            bytes.push(0);
            prop_assert!(decode(&bytes, written_at, &mut None).is_none());
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>, written_at: u64) {
            let _ = decode(&bytes, Timestamp(written_at), &mut None);
        }
    }
}
