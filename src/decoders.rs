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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{LoggedWrite, begin};

    fn record(writes: &[LoggedWrite<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        begin(&mut bytes, Some("ann"), writes.len() as u64);
        writes.iter().for_each(|write| write.encode(&mut bytes));
        bytes
    }

    #[test]
    fn the_images_get_past_every_checksum() {
        assert_eq!(decode_segment(&segment_with(&[])), Ok(0));
        let (key_kind, codec) = ("string".to_owned(), "json".to_owned());
        let entry = CatalogEntry { id: 1, key_kind, schema: 1, codec }.encode();
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
