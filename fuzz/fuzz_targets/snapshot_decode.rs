//! Whatever a snapshot holds, reading it neither panics nor takes much more memory than it has.

#![no_main]

use ifmatch::testing;
use libfuzzer_sys::fuzz_target;

// The first byte chooses how far behind the checksums the rest of the input is put.
fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => drop(testing::decode_snapshot(rest)),
        1 => drop(testing::decode_snapshot(&testing::snapshot_with(rest))),
        2 => {
            let Some((count, body)) = rest.split_first() else { return };
            let whole = testing::snapshot_with_block((*count).into(), body);
            drop(testing::decode_snapshot(&whole));
        }
        _ => {
            // Payloads end at 0xfe, which no text and few numbers contain.
            let whole = testing::snapshot_with_entries(rest.split(|byte| *byte == 0xfe));
            let read = testing::decode_snapshot(&whole);
            // Nothing of a snapshot counts if not all of it is there.
            let cut = testing::decode_snapshot(&whole[..whole.len() - 1]);
            assert!(cut.is_err(), "{read:?}");
        }
    }
});
