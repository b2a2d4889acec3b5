//! Whether a document can be taken apart and written anew without a number becoming another.

use serde_json::Number;

/// `false` if a number of this JSON text is not what it is read as: one that has more digits than
/// a binary double keeps, or is beyond its range.
pub(super) fn numbers_are_exact(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'"' => after_string(after),
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let len = rest.iter().take_while(|byte| is_part(byte)).count();
                let (number, after) = rest.split_at(len);
                if !is_exact(number) {
                    return false;
                }
                after
            }
            _ => after,
        };
    }
    true
}

/// What follows the end of a string.
fn after_string(mut text: &[u8]) -> &[u8] {
    loop {
        match text {
            [b'\\', _, rest @ ..] => text = rest,
            [b'"', rest @ ..] => return rest,
            [_, rest @ ..] => text = rest,
            [] => return text,
        }
    }
}

fn is_exact(number: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(number) else { return false };
    if text.parse::<u64>().is_ok() || text.parse::<i64>().is_ok() {
        return true;
    }
    // Of two shortest texts of a double the standard library may choose the other one.
    let written = text.parse().ok().and_then(Number::from_f64);
    written.is_some_and(|number| decimal(text) == decimal(&number.to_string()))
}

/// The significant digits of a number, and the power of ten of the last one.
fn decimal(number: &str) -> Option<(String, i64)> {
    let number = number.trim_start_matches('-').to_ascii_lowercase();
    let (mantissa, exponent) = number.split_once('e').unwrap_or((&number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let places = i64::try_from(fraction.len()).ok()?;
    match kept.trim_start_matches('0') {
        "" => Some((String::new(), 0)),
        kept => Some((kept.to_owned(), exponent.parse::<i64>().ok()? - places + dropped)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_double_or_an_integer_holds_is_exact() {
        for json in [
            "0",
            "-0",
            "-0.0",
            "1.50",
            "1e3",
            "1E+2",
            "100e-2",
            "0.1",
            "18446744073709551615",
            "-9223372036854775808",
            "1.7976931348623157e308",
            "5e-324",
            "1e22",
            "12e20",
            "563000000000000.2",
            "0e999",
            r#"{"a": [1, {"b\"1e999": "1e999"}], "\\": 2.5}"#,
            "[]",
            "\"\"",
        ] {
            assert!(numbers_are_exact(json), "{json}");
        }
        for json in [
            "0.10000000000000000001",
            "563000000000000.3",
            "18446744073709551616",
            "-9223372036854775809",
            "1e400",
            "1e-400",
            "9007199254740993.0",
            "[0, \"\\\\\", 123456789012345678901234567890]",
            "1e99999999999999999999",
        ] {
            assert!(!numbers_are_exact(json), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_exact(number in any::<f64>(), integer: i64, text: String) {
            let json = serde_json::json!({ "n": [number, integer], "t": text }).to_string();
            prop_assert!(numbers_are_exact(&json));
        }

        #[test]
        fn a_number_is_exact_if_it_comes_back_the_same(
            whole in 0u64..100, fraction in "[0-9]{1,25}", exponent in -30i32..30,
        ) {
            let text = format!("{whole}.{fraction}e{exponent}");
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let again = decimal(&value.to_string());
            prop_assert_eq!(numbers_are_exact(&text), again == decimal(&text), "{}", text);
        }
    }
}
