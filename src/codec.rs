//! How values become bytes: codecs, and the only user of bincode 2.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How the values of a collection become bytes on disk, and back.
///
/// Chosen when a collection is [declared](crate::Store::declare). Called with no lock held; a
/// store in memory calls it to merge, and for writes with an operation id, alone.
///
/// ```
/// use ifmatch::{Codec, Store};
///
/// /// Temperatures in two bytes each.
/// struct Tenths;
///
/// impl Codec<f64> for Tenths {
///     fn name(&self) -> &str {
///         "tenths"
///     }
///     fn encode(&self, value: &f64) -> Result<Vec<u8>, String> {
///         let tenths = (value * 10.0).round();
///         match (-32_768.0..=32_767.0).contains(&tenths) {
///             true => Ok((tenths as i16).to_le_bytes().to_vec()),
///             false => Err("out of range".to_owned()),
///         }
///     }
///     fn decode(&self, bytes: &[u8]) -> Result<f64, String> {
///         let bytes = bytes.try_into().map_err(|_| "not two bytes".to_owned())?;
///         Ok(f64::from(i16::from_le_bytes(bytes)) / 10.0)
///     }
/// }
///
/// let store = Store::in_memory();
/// let rooms = store.declare::<String, f64>("rooms").codec(Tenths).open()?;
/// rooms.create("r1", 21.5).commit()?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
pub trait Codec<V>: Send + Sync + 'static {
    /// Stored with the collection, which opens with a codec of the same name only. It stands for
    /// the encoding: change it when the bytes change.
    fn name(&self) -> &str;

    /// Encodes a value.
    ///
    /// # Errors
    /// Says why the value cannot be stored.
    fn encode(&self, value: &V) -> Result<Vec<u8>, String>;

    /// Decodes a value; every byte must belong to it.
    ///
    /// # Errors
    /// Says why the bytes are no such value.
    fn decode(&self, bytes: &[u8]) -> Result<V, String>;

    /// The value as JSON, so that a conflict can tell [what
    /// changed](crate::Conflict::changed) and [merge](crate::Conflict::rebase). `None`, by default,
    /// if it has no such form.
    fn to_json(&self, value: &V) -> Option<Value> {
        let _ = value;
        None
    }

    /// The value of which [`to_json`](Codec::to_json) made this. A value is only merged if it comes
    /// back with the same encoding, in any order of its parts.
    ///
    /// # Errors
    /// Says why it is none.
    fn read_json(&self, json: Value) -> Result<V, String> {
        let _ = json;
        Err("its codec does not read JSON values".to_owned())
    }
}

/// The default codec: bincode 2 with its standard configuration. Compact and quick, but the bytes
/// do not tell their type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bincode;

impl<V: Serialize + DeserializeOwned> Codec<V> for Bincode {
    fn name(&self) -> &str {
        "bincode"
    }

    fn encode(&self, value: &V) -> Result<Vec<u8>, String> {
        bincode::serde::encode_to_vec(value, config()).map_err(|error| error.to_string())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, String> {
        match bytes.len() {
            0..=0x1000 => decode_within::<0x1_0000, V>(bytes),
            0x1001..=0x10_0000 => decode_within::<0x100_0000, V>(bytes),
            _ => decode_within::<{ i32::MAX as usize }, V>(bytes),
        }
    }

    fn to_json(&self, value: &V) -> Option<Value> {
        serde_json::to_value(value).ok()
    }

    fn read_json(&self, json: Value) -> Result<V, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }
}

/// JSON: larger, but any tool can read it, and it keeps the names of fields.
///
/// What JSON writes alike reads back alike: a NaN within an `Option` comes back as `None`, and so
/// does `Some(None)`.
///
/// ```
/// # #[cfg(feature = "json")] {
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Shift {
///     hours: u32,
/// }
///
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.declare::<String, Shift>("shifts").codec(ifmatch::Json).open()?;
/// shifts.create("s-1", Shift { hours: 8 }).commit()?;
/// # }
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl Json {
    pub(crate) const NAME: &str = JSON;
}

#[cfg(feature = "json")]
impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    fn name(&self) -> &str {
        Json::NAME
    }

    fn encode(&self, value: &V) -> Result<Vec<u8>, String> {
        serde_json::to_vec(value).map_err(|error| error.to_string())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    fn to_json(&self, value: &V) -> Option<Value> {
        serde_json::to_value(value).ok()
    }

    fn read_json(&self, json: Value) -> Result<V, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }
}

/// How the values of one collection are stored.
pub(crate) struct Encoding<V> {
    pub(crate) schema: u32,
    /// Kept, because the codec is the caller's code, and the name is needed under locks.
    pub(crate) codec_name: String,
    pub(crate) codec: Arc<dyn Codec<V>>,
    /// Whether values are stored without being read back first.
    trusted: bool,
}

impl<V: 'static> Encoding<V> {
    pub(crate) fn new(schema: u32, codec: Arc<dyn Codec<V>>, trusted: bool) -> Encoding<V> {
        Encoding { schema, codec_name: codec.name().to_owned(), codec, trusted }
    }

    /// # Errors
    /// Says why the value cannot be stored.
    pub(crate) fn encode(&self, value: &V) -> Result<Vec<u8>, String> {
        match self.trusted {
            true => self.codec.encode(value),
            false => encode_checked(&*self.codec, value),
        }
    }
}

/// Encodes a value and makes sure that it reads back: there are types that serde writes and
/// cannot read, such as untagged enums and skipped fields in bincode.
///
/// # Errors
/// Says why the value cannot be stored.
pub(crate) fn encode_checked<V>(
    codec: &(impl Codec<V> + ?Sized),
    value: &V,
) -> Result<Vec<u8>, String> {
    let bytes = codec.encode(value)?;
    let back = codec.decode(&bytes).map_err(|error| format!("it does not read back: {error}"))?;
    let again = codec.encode(&back)?;
    if again == bytes || sorted(&again) == sorted(&bytes) {
        Ok(bytes)
    } else {
        Err("it reads back as something else".to_owned())
    }
}

/// The value as JSON, after making sure that it comes back the same: JSON has neither NaN nor keys
/// that are no strings, and serde has more such types.
///
/// # Errors
/// Says why the value cannot go through JSON.
pub(crate) fn checked_json<V: 'static>(codec: &dyn Codec<V>, value: &V) -> Result<Value, String> {
    let json = codec.to_json(value).ok_or("a value has no JSON form")?;
    let back = codec.read_json(json.clone())?;
    let (bytes, again) = (codec.encode(value)?, codec.encode(&back)?);
    // The text of a document may have been spaced out.
    let is_text = codec.name() == JSON;
    let parts = |mut bytes: Vec<u8>| {
        bytes.retain(|byte| !is_text || !byte.is_ascii_whitespace());
        sorted(&bytes)
    };
    match bytes == again || parts(bytes) == parts(again) {
        true => Ok(json),
        false => Err("a value comes back as something else".to_owned()),
    }
}

/// What all that is JSON is called, whatever it was made from.
const JSON: &str = "json";

/// Hash maps and sets come in another order each time: then the same bytes, shuffled, will do.
fn sorted(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.sort_unstable();
    bytes
}

/// Little-endian, integers of variable length.
fn config() -> bincode::config::Configuration {
    bincode::config::standard()
}

/// Decodes with at most `LIMIT` bytes claimed, so that a length that no bytes follow allocates
/// little. bincode counts numbers at their full width, up to 16 times of what they take encoded.
fn decode_within<const LIMIT: usize, V: DeserializeOwned>(bytes: &[u8]) -> Result<V, String> {
    let config = config().with_limit::<LIMIT>();
    let (value, read) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| error.to_string())?;
    match bytes.len() - read {
        0 => Ok(value),
        rest => Err(format!("{rest} bytes are left over")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    fn encode<V: Serialize + DeserializeOwned>(value: &V) -> Result<Vec<u8>, String> {
        encode_checked(&Bincode, value)
    }

    fn decode<V: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<V, String> {
        Bincode.decode(bytes)
    }

    proptest! {
        #[test]
        fn a_value_reads_back(value: (String, Option<i64>, Vec<(u8, String)>)) {
            let bytes = encode(&value).unwrap();
            prop_assert_eq!(decode(&bytes), Ok(value));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = decode::<(String, Vec<String>, Option<u64>)>(&bytes);
        }
    }

    #[test]
    fn g12_a_length_that_no_bytes_follow_allocates_little() {
        let length = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(decode::<String>(&length).is_err());
        assert!(decode::<(String, Vec<u64>)>(&length).is_err());
        let numbers: Vec<u128> = vec![1; 2_000_000];
        assert_eq!(decode(&encode(&numbers).unwrap()), Ok(numbers));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u64),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Skipping {
        #[serde(skip_serializing_if = "Option::is_none")]
        first: Option<u8>,
        second: u8,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Forgetting {
        #[serde(serialize_with = "as_one")]
        number: u8,
    }

    fn as_one<S: serde::Serializer>(_: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        // Longer each time it is written.
        use std::sync::atomic::{AtomicU8, Ordering};
        static WRITES: AtomicU8 = AtomicU8::new(0);
        serializer.serialize_u8(WRITES.fetch_add(1, Ordering::Relaxed))
    }

    #[test]
    fn a_value_without_an_order_reads_back() {
        let map: std::collections::HashMap<String, u32> =
            (0..50).map(|n| (n.to_string(), n)).collect();
        assert_eq!(decode(&encode(&map).unwrap()), Ok(map));
    }

    #[test]
    fn what_does_not_read_back_is_refused() {
        assert!(encode(&Untagged::Number(1)).unwrap_err().contains("read back"));
        assert!(encode(&Skipping { first: None, second: 1 }).is_err());
        assert!(encode(&Forgetting { number: 7 }).unwrap_err().contains("something else"));
        assert_eq!(decode::<u8>(&[1, 2]), Err("1 bytes are left over".to_owned()));
    }
}
