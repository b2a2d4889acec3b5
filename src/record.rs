//! What the log keeps of a commit: who wrote, and what became of which keys.
//!
//! FORMAT.md draws the bytes. A record holds any number of writes, so that whatever changes
//! together is kept together; collections announce themselves in the record that first uses them.

use crate::log::frame::take;
use crate::options::HISTORY_MAX;

/// The reserved collection whose keys are the names of the others.
pub(crate) const CATALOG: u32 = 0;

/// Bytes that the numbers of a record of two writes take at most, its own and those of the writes.
pub(crate) const NUMBERS_AT_MOST: usize = 128;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One write of a record. `value` is absent for a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoggedWrite<'a> {
    pub(crate) collection: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// Starts a record of `count` writes.
pub(crate) fn begin(bytes: &mut Vec<u8>, actor: Option<&str>, count: u64) {
    put_actor(bytes, actor);
    put_number(bytes, count);
}

/// Zero is nobody; a name is its length plus one.
pub(crate) fn put_actor(bytes: &mut Vec<u8>, actor: Option<&str>) {
    match actor {
        None => put_number(bytes, 0),
        Some(name) => {
            put_number(bytes, name.len() as u64 + 1);
            bytes.extend_from_slice(name.as_bytes());
        }
    }
}

pub(crate) fn take_actor<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a str>> {
    match take_number(bytes)? {
        0 => Some(None),
        more => Some(Some(std::str::from_utf8(take_slice(bytes, more - 1)?).ok()?)),
    }
}

impl LoggedWrite<'_> {
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(if self.value.is_some() { PUT } else { DELETE });
        put_number(bytes, self.collection.into());
        put_bytes(bytes, self.key);
        if let Some(value) = self.value {
            put_bytes(bytes, value);
        }
    }
}

/// The actor of a record and its writes.
pub(crate) struct Decoded<'a> {
    pub(crate) actor: Option<&'a str>,
    pub(crate) writes: Vec<LoggedWrite<'a>>,
}

/// Reads a record. `None` unless every byte belongs to it.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Decoded<'_>> {
    let rest = &mut bytes;
    let actor = take_actor(rest)?;
    let count = take_number(rest)?;
    let writes = (0..count).map(|_| take_write(rest)).collect::<Option<_>>()?;
    rest.is_empty().then_some(Decoded { actor, writes })
}

fn take_write<'a>(bytes: &mut &'a [u8]) -> Option<LoggedWrite<'a>> {
    let [kind] = take(bytes)?;
    let collection = u32::try_from(take_number(bytes)?).ok()?;
    let key = take_bytes(bytes)?;
    let value = match kind {
        PUT => Some(take_bytes(bytes)?),
        DELETE => None,
        _ => return None,
    };
    Some(LoggedWrite { collection, key, value })
}

/// What the catalog says of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogEntry {
    pub(crate) id: u32,
    /// The type of its keys.
    pub(crate) key_kind: String,
    /// Which type of values it holds, by the caller's counting.
    pub(crate) schema: u32,
    /// The name of the codec of its values.
    pub(crate) codec: String,
    /// How many earlier versions of each key it keeps.
    pub(crate) history: u32,
}

impl CatalogEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_number(&mut bytes, self.id.into());
        put_bytes(&mut bytes, self.key_kind.as_bytes());
        put_number(&mut bytes, self.schema.into());
        put_bytes(&mut bytes, self.codec.as_bytes());
        put_number(&mut bytes, self.history.into());
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<CatalogEntry> {
        let rest = &mut bytes;
        let id = u32::try_from(take_number(rest)?).ok()?;
        let key_kind = take_text(rest)?;
        let schema = u32::try_from(take_number(rest)?).ok()?;
        let codec = take_text(rest)?;
        let history = u32::try_from(take_number(rest)?).ok().filter(|kept| *kept <= HISTORY_MAX)?;
        rest.is_empty().then_some(CatalogEntry { id, key_kind, schema, codec, history })
    }

    /// Whether what is stored under one entry reads under the other.
    pub(crate) fn reads_as(&self, other: &CatalogEntry) -> bool {
        let of = |entry: &CatalogEntry| (entry.id, entry.schema);
        of(self) == of(other) && self.key_kind == other.key_kind && self.codec == other.codec
    }
}

/// LEB128: seven bits a byte, the lowest first, the top bit set on all but the last.
pub(crate) fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = take(bytes)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

pub(crate) fn put_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    put_number(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_number(bytes)?;
    take_slice(bytes, len)
}

pub(crate) fn take_text(bytes: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(bytes)?.to_vec()).ok()
}

fn take_slice<'a>(bytes: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (content, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Write = (u32, Vec<u8>, Option<Vec<u8>>);

    proptest! {
        #[test]
        fn a_record_reads_back(actor: Option<String>, writes: Vec<Write>) {
            let mut bytes = Vec::new();
            begin(&mut bytes, actor.as_deref(), writes.len() as u64);
            let writes: Vec<_> = writes
                .iter()
                .map(|(collection, key, value)| LoggedWrite {
                    collection: *collection,
                    key,
                    value: value.as_deref(),
                })
                .collect();
            writes.iter().for_each(|write| write.encode(&mut bytes));
            let decoded = decode(&bytes).unwrap();
            prop_assert_eq!(decoded.actor, actor.as_deref());
            prop_assert_eq!(decoded.writes, writes);
            bytes.push(0);
            prop_assert!(decode(&bytes).is_none());
        }

        #[test]
        fn a_catalog_entry_reads_back(
            (id, key_kind, schema, codec) in any::<(u32, String, u32, String)>(),
            history in 0..=HISTORY_MAX,
        ) {
            let entry = CatalogEntry { id, key_kind, schema, codec, history };
            let mut bytes = entry.encode();
            prop_assert_eq!(CatalogEntry::decode(&bytes), Some(entry.clone()));
            bytes.push(0);
            prop_assert!(CatalogEntry::decode(&bytes).is_none());
            let too_many = CatalogEntry { history: HISTORY_MAX + 1 + history, ..entry };
            prop_assert!(CatalogEntry::decode(&too_many.encode()).is_none());
        }

        #[test]
        fn a_number_reads_back(number: u64) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            prop_assert_eq!(take_number(&mut &bytes[..]), Some(number));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = CatalogEntry::decode(&bytes);
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert_eq!(take_number(&mut &[0xff; 9][..]), None);
        let mut too_large = [0xff; 10];
        too_large[9] = 2;
        assert_eq!(take_number(&mut &too_large[..]), None);
        too_large[9] = 1;
        assert_eq!(take_number(&mut &too_large[..]), Some(u64::MAX));
    }
}
