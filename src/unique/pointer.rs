//! Unique indexes of JSON documents, by JSON Pointer.

use std::any::TypeId;

use serde_json::{Map, Number, Value};

use crate::key::KeyType;
use crate::map::KeyBuf;
use crate::unique::Declared;

/// A value that is JSON, so that a JSON Pointer leads into it: `serde_json::Value`, and
/// [`Document`](crate::http::Document) with the feature `http`. Sealed.
pub trait PointedInto: seal::PointedInto {}

impl<V: seal::PointedInto> PointedInto for V {}

mod seal {
    use serde_json::Value;

    pub trait PointedInto {
        #[doc(hidden)]
        fn pointed<R>(&self, pointer: &str, f: impl FnOnce(&Value) -> R) -> Option<R>;
    }
}

impl seal::PointedInto for Value {
    fn pointed<R>(&self, pointer: &str, f: impl FnOnce(&Value) -> R) -> Option<R> {
        self.pointer(pointer).map(f)
    }
}

#[cfg(feature = "http")]
impl seal::PointedInto for crate::http::Document {
    fn pointed<R>(&self, pointer: &str, f: impl FnOnce(&Value) -> R) -> Option<R> {
        serde_json::from_str::<Value>(self.json()).ok()?.pointed(pointer, f)
    }
}

impl<V: PointedInto + 'static> Declared<V> {
    pub(crate) fn at_pointer(pointer: String) -> Declared<V> {
        let flaw = (!is_pointer(&pointer)).then_some("its name is no JSON Pointer (RFC 6901)");
        let extract = move |value: &V| {
            let text =
                value.pointed(&pointer, |value| (!value.is_null()).then(|| canonical(value)));
            Some(KeyBuf::from(text??.as_bytes()))
        };
        Declared {
            keys: KeyType::of::<String>(),
            key_type: TypeId::of::<String>(),
            extract: Box::new(extract),
            flaw,
        }
    }
}

/// Whether every `~` is escaped and the pointer is empty or begins with a slash.
fn is_pointer(pointer: &str) -> bool {
    let mut escapes = pointer.split('~').skip(1);
    (pointer.is_empty() || pointer.starts_with('/'))
        && escapes.all(|rest| rest.starts_with(['0', '1']))
}

/// One text for all that JSON takes for the same: no space, members in order, and numbers without
/// a fraction of nothing.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => canonical_number(number),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => canonical_members(members),
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

fn canonical_members(members: &Map<String, Value>) -> String {
    let mut members: Vec<_> = members.iter().collect();
    // The map may be one that keeps the order of insertion.
    members.sort_unstable_by_key(|(name, _)| *name);
    let member = |(name, value): (&String, &Value)| {
        format!("{}:{}", Value::from(name.as_str()), canonical(value))
    };
    let members: Vec<_> = members.into_iter().map(member).collect();
    format!("{{{}}}", members.join(","))
}

/// Whole numbers are written as such, however they came.
fn canonical_number(number: &Number) -> String {
    /// Numbers from here on are written alike, whole or not.
    const WHOLE_BELOW: f64 = 18_446_744_073_709_551_616.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < WHOLE_BELOW => {
            (float as i128).to_string()
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        canonical(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_json_takes_for_the_same_has_one_text() {
        for (one, other) in [
            ("1", " 1.0 "),
            ("1", "1e0"),
            ("-0.0", "0"),
            ("9223372036854775808", "9223372036854775808.0"),
            ("18446744073709551616", "18446744073709551616.0"),
            (r#""\u0041""#, r#""A""#),
            (r#"{"a": 1, "b": [true, null]}"#, r#"{"b":[true,null],"a":1.0}"#),
        ] {
            assert_eq!(text(one), text(other));
        }
        for (one, other) in [
            ("1", r#""1""#),
            ("true", r#""true""#),
            ("1", "1.5"),
            ("9007199254740993", "9007199254740992"),
            ("[1,2]", "[2,1]"),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
        ] {
            assert_ne!(text(one), text(other));
        }
        assert_eq!(text(r#""L-7""#), r#""L-7""#);
    }

    #[test]
    fn what_is_no_pointer_is_told() {
        for pointer in ["", "/", "/a/b", "/a~1b/~0"] {
            assert!(is_pointer(pointer), "{pointer}");
        }
        for pointer in ["a", "legacy_id", "/a~", "/~2"] {
            assert!(!is_pointer(pointer), "{pointer}");
        }
    }
}
