//! Whatever a disk holds, reading it back neither panics nor takes much more memory than it read.

#![no_main]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use ifmatch::testing;
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One of each shape that serde knows, so that every path of the codec is taken.
#[derive(Serialize, Deserialize)]
#[allow(dead_code, reason = "only decoding it matters")]
enum Value {
    Unit,
    Text(String),
    Numbers(u8, i16, u32, i64, u128, f64, char, bool),
    Lists { bytes: Vec<u8>, texts: Vec<String>, wide: Vec<[u64; 4]> },
    Maps(BTreeMap<String, Option<u64>>),
    Boxed(Box<(String, std::time::Duration)>),
}

// The first byte chooses how far behind the checksums the rest of the input is put.
fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 6 {
        0 => drop(testing::decode_segment(rest)),
        1 => drop(testing::decode_segment(&testing::segment_with(rest))),
        2 => {
            let Some((count, body)) = rest.split_first() else { return };
            let whole = testing::segment_with_frame((*count).into(), body);
            drop(testing::decode_segment(&whole));
        }
        3 => {
            // Payloads end at 0xfe, which no text and few numbers contain.
            let payloads = || rest.split(|byte| *byte == 0xfe);
            // A frame that was cut short is no damage, and nothing of it is read.
            let cut = |salt| {
                let whole = testing::segment_with_records(salt, payloads());
                drop(testing::decode_segment(&whole));
                testing::decode_segment(&whole[..whole.len() - 1])
            };
            // A fuzzer that knows the salt puts whole frames into payloads, which proves that the
            // cut one had been synced. None fits both of two salts that follow from the payloads.
            let salt = hash(rest);
            let read = cut(salt);
            assert!(read == Ok(0) || cut(!salt) == Ok(0), "{read:?}");
        }
        4 => drop(testing::decode_value::<Value>(rest)),
        _ => {
            testing::decode_key::<String>(rest);
            testing::decode_key::<(String, i64)>(rest);
            testing::decode_key::<(Vec<u8>, Uuid, u16)>(rest);
        }
    }
});

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
