//! How values become bytes: bincode 2, of which this file is the only user.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Little-endian, integers of variable length.
fn config() -> bincode::config::Configuration {
    bincode::config::standard()
}

/// Encodes a value and makes sure that it reads back: bincode encodes some types that it cannot
/// decode, such as untagged enums and skipped fields.
///
/// # Errors
/// Says why the value cannot be stored.
pub(crate) fn encode<V: Serialize + DeserializeOwned>(value: &V) -> Result<Vec<u8>, String> {
    let bytes = encode_unchecked(value)?;
    let back: V = decode(&bytes).map_err(|error| format!("it does not read back: {error}"))?;
    let again = encode_unchecked(&back)?;
    if again == bytes || sorted(&again) == sorted(&bytes) {
        Ok(bytes)
    } else {
        Err("it reads back as something else".to_owned())
    }
}

/// Hash maps and sets come in another order each time: then the same bytes, shuffled, will do.
fn sorted(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.sort_unstable();
    bytes
}

/// Decodes a value; every byte must belong to it.
///
/// # Errors
/// Says why the bytes are no such value.
pub(crate) fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, String> {
    match bytes.len() {
        0..=0x1000 => decode_within::<0x1_0000, V>(bytes),
        0x1001..=0x10_0000 => decode_within::<0x100_0000, V>(bytes),
        _ => decode_within::<{ i32::MAX as usize }, V>(bytes),
    }
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

fn encode_unchecked<V: Serialize>(value: &V) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(value, config()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

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
