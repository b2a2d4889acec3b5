//! What the fuzz targets call: the decoders that read what a disk may hold, on bytes of any kind.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::codec::{Bincode, Codec};
use crate::key::Key;
use crate::log::frame::FrameBuilder;
use crate::log::reader::{Damage, Segment};
use crate::log::segment::{self, Header};
use crate::record::{self, CATALOG, CatalogEntry};
use crate::snapshot;
use crate::version::Lineage;

/// The header of the images: nothing in it is random, so that a seed stays a seed.
const IMAGE: Header =
    Header { lineage: Lineage::from_bits(1), number: 1, salt: 0, first_version: 1, ceiling: 1_000 };

/// Reads `bytes` as one segment of the log, down to each write and each entry of the catalog, as
/// opening a store does. Returns how many writes there are.
///
/// # Errors
/// Says what is damaged.
pub fn decode_segment(bytes: &[u8]) -> Result<usize, String> {
    let explain = |damage: Damage| format!("at byte {}: {}", damage.offset, damage.detail);
    let segment = Segment::read(bytes).map_err(explain)?;
    let mut writes = 0;
    for logged in segment.records() {
        let logged = logged.map_err(explain)?;
        let unreadable = || format!("the record of version {} cannot be read", logged.version);
        let record = record::decode(logged.payload).ok_or_else(unreadable)?;
        for write in record.writes.iter().filter(|write| write.collection == CATALOG) {
            let name = std::str::from_utf8(write.key);
            let entry = write.value.and_then(CatalogEntry::decode);
            name.ok().zip(entry).ok_or_else(unreadable)?;
        }
        writes += record.writes.len();
    }
    Ok(writes)
}

/// Reads `bytes` as a stored value of type `V`.
///
/// # Errors
/// Says why they are none.
pub fn decode_value<V: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<V, String> {
    Bincode.decode(bytes)
}

/// Reads `bytes` as a stored key of type `K`, and gives its text form.
pub fn decode_key<K: Key>(bytes: &[u8]) -> Option<String> {
    K::decode(bytes).map(|key| key.text())
}

/// A segment with a valid header and `rest` after it.
pub fn segment_with(rest: &[u8]) -> Vec<u8> {
    image_of(&IMAGE, rest)
}

fn image_of(header: &Header, rest: &[u8]) -> Vec<u8> {
    let mut image = header.encode().to_vec();
    image.extend_from_slice(rest);
    image
}

/// A segment of one frame whose checksum is right, whatever its `body` and `count` are. Random
/// bytes next to never have a right checksum, so a fuzzer gets no further than that without it.
pub fn segment_with_frame(count: u32, body: &[u8]) -> Vec<u8> {
    let frame = FrameBuilder::of_anything(IMAGE.first_version, count, body);
    segment_with(&frame.finish(IMAGE.place(segment::HEADER), 0))
}

/// A segment of one valid frame that holds a record of each payload. Who writes the payloads of
/// a store does not know its salt; here it is given.
pub fn segment_with_records<'a>(
    salt: u64,
    payloads: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let header = Header { salt, ..IMAGE };
    let mut frame = FrameBuilder::new(IMAGE.first_version, Vec::new());
    for payload in payloads {
        frame.push(Timestamp::default(), |bytes| bytes.extend_from_slice(payload));
    }
    image_of(&header, &frame.finish(header.place(segment::HEADER), 0))
}

/// The header of the images of snapshots.
const SNAPSHOT: snapshot::header::Header =
    snapshot::header::Header { lineage: IMAGE.lineage, salt: 0, start: 9, time: Timestamp(7) };

/// Reads `bytes` as a snapshot, down to each entry, as opening a store does. Returns how many keys
/// it holds.
///
/// # Errors
/// Says what is damaged.
pub fn decode_snapshot(bytes: &[u8]) -> Result<usize, String> {
    let contents = snapshot::load::decode(bytes)
        .map_err(|damage| format!("at byte {}: {}", damage.offset, damage.detail))?;
    Ok(contents.collections.values().map(|collection| collection.len()).sum())
}

/// A snapshot with a valid header and `rest` after it.
pub fn snapshot_with(rest: &[u8]) -> Vec<u8> {
    let mut image = SNAPSHOT.encode().to_vec();
    image.extend_from_slice(rest);
    image
}

/// A snapshot of one block and a seal whose checksums are right, whatever is in the block.
pub fn snapshot_with_block(count: u32, body: &[u8]) -> Vec<u8> {
    sealed(FrameBuilder::of_anything(1, count, body))
}

/// A snapshot of one block that holds an entry of each payload, and a seal.
pub fn snapshot_with_entries<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut block = FrameBuilder::new(1, Vec::new());
    for payload in payloads {
        block.push(SNAPSHOT.time, |bytes| bytes.extend_from_slice(payload));
    }
    sealed(block)
}

fn sealed(block: FrameBuilder) -> Vec<u8> {
    let (mut image, next) = (snapshot_with(&[]), block.next_version());
    let at = |image: &Vec<u8>| SNAPSHOT.place(image.len() as u64);
    image.extend(block.finish(at(&image), SNAPSHOT.start));
    let seal = FrameBuilder::new(next, Vec::new()).finish(at(&image), SNAPSHOT.start);
    image.extend(seal);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{LoggedWrite, begin};
    use crate::snapshot::entry::Entry;

    fn entry() -> CatalogEntry {
        let (key_kind, codec) = ("string".to_owned(), "json".to_owned());
        CatalogEntry { id: 1, key_kind, schema: 1, codec, history: 2 }
    }

    #[test]
    fn the_images_of_snapshots_get_past_every_checksum() {
        let entry = entry();
        let version = crate::Version::new(3).unwrap();
        let time = SNAPSHOT.time;
        let deletion = crate::Deletion { version, deleted_by: None, deleted_at: time };
        let encoded = |entry: Entry<'_>| {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            bytes
        };
        let named = encoded(Entry::Collection { name: "a", entry: &entry });
        let gone = encoded(Entry::Deletion { collection: 1, key: b"k", deletion: &deletion });
        assert_eq!(decode_snapshot(&snapshot_with_entries([&*named, &*gone])), Ok(1));
        let unnamed = decode_snapshot(&snapshot_with_entries([&*gone]));
        assert!(unnamed.unwrap_err().contains("collection 1 has no name"));
        let short = decode_snapshot(&snapshot_with_block(1, &[0xff; 12]));
        assert!(short.unwrap_err().contains("longer than its block"));
        assert!(decode_snapshot(&snapshot_with(&[])).unwrap_err().contains("no valid block"));
    }

    fn record(writes: &[LoggedWrite<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        begin(&mut bytes, Some("ann"), writes.len() as u64);
        writes.iter().for_each(|write| write.encode(&mut bytes));
        bytes
    }

    #[test]
    fn the_images_get_past_every_checksum() {
        assert_eq!(decode_segment(&segment_with(&[])), Ok(0));
        let entry = entry().encode();
        let announced = LoggedWrite { collection: CATALOG, key: b"a", value: Some(&entry) };
        let put = LoggedWrite { collection: 1, key: b"k", value: Some(b"v") };
        let delete = LoggedWrite { value: None, ..put };
        let (first, second) = (record(&[announced, put]), record(&[delete]));
        assert_eq!(decode_segment(&segment_with_records(7, [&*first, &*second])), Ok(3));
    }

    #[test]
    fn what_is_wrong_behind_the_checksums_is_found() {
        let torn = segment_with_frame(1, &[0xff; 12]);
        assert!(decode_segment(&torn).unwrap_err().contains("longer than its frame"));
        let bad = segment_with_records(7, [b"\x09".as_slice()]);
        assert!(decode_segment(&bad).unwrap_err().contains("version 1 cannot be read"));
        let unnamed = LoggedWrite { collection: CATALOG, key: b"\xff", value: None };
        let bad = segment_with_records(7, [&*record(&[unnamed])]);
        assert!(decode_segment(&bad).is_err());
    }
}
