//! Patches of documents: what is applied to what, and what may come of it.

use std::fmt;

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::{Number, Value};

use super::exact::numbers_are_exact;
use crate::axum::path::malformed;
use crate::http::{Document, Problem};

/// What can be done to a document.
pub(super) enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Operations(Vec<PatchOperation>),
}

/// Why a patch does not apply to a document.
pub(super) enum Unpatchable {
    /// To this document, as it is.
    State(String),
    /// What would come of it is too large, or nested too deeply.
    Growth,
    /// The document holds a number that would become another.
    Inexact,
}

const MERGE: &str = "application/merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";

/// The media types, as in `Accept-Patch` (RFC 5789 section 3.1).
pub(in crate::axum) const ACCEPTED: &str =
    "application/merge-patch+json, application/json-patch+json";

/// Operations of one patch: some take time in proportion to the document.
const MOST: usize = 1_000;

/// As many levels can be read back.
const DEPTH: usize = 127;

/// Whether a body of this media type is a patch.
pub(super) fn is_accepted(media_type: &str) -> bool {
    media_type == MERGE || media_type == OPERATIONS
}

impl Patch {
    /// Reads a patch of a media type that is accepted.
    ///
    /// # Errors
    /// 400.
    pub(super) fn parse(media_type: &str, bytes: &[u8]) -> Result<Patch, Problem> {
        let wrong = |error: serde_json::Error| malformed(format!("this is no patch: {error}"));
        if !std::str::from_utf8(bytes).is_ok_and(numbers_are_exact) {
            return Err(malformed("a number in the patch has more digits than would be kept"));
        }
        if media_type == MERGE {
            return serde_json::from_slice(bytes).map(Patch::Merge).map_err(wrong);
        }
        let operations: Vec<_> = serde_json::from_slice(bytes).map_err(wrong)?;
        match operations.len() {
            0..=MOST => Ok(Patch::Operations(operations)),
            more => Err(malformed(format!("{more} operations are more than {MOST}"))),
        }
    }

    /// Whether it says itself on what it relies.
    pub(super) fn tests(&self) -> bool {
        let is_test = |operation: &PatchOperation| matches!(operation, PatchOperation::Test(_));
        matches!(self, Patch::Operations(list) if list.iter().any(is_test))
    }

    /// The document with the patch applied, of at most `most` bytes. It is written anew: without
    /// space, its members in the order of their names.
    pub(super) fn apply(&self, document: &Document, most: usize) -> Result<Document, Unpatchable> {
        if !numbers_are_exact(document.json()) {
            return Err(Unpatchable::Inexact);
        }
        let read = serde_json::from_str(document.json());
        let mut value: Value = read.map_err(|_| Unpatchable::Growth)?;
        match self {
            Patch::Merge(patch) => json_patch::merge(&mut value, patch),
            Patch::Operations(list) => apply_all(&mut value, list, most)?,
        }
        let text = value.to_string();
        if text.len() > most {
            return Err(Unpatchable::Growth);
        }
        Document::parse(text).map_err(|_| Unpatchable::Growth)
    }
}

impl fmt::Display for Unpatchable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unpatchable::State(why) => write!(f, "{why}; read the document again"),
            Unpatchable::Growth => f.write_str("it would be larger, or deeper, than is taken"),
            Unpatchable::Inexact => f.write_str(
                "it has a number with more digits than would be kept; replace it as a whole",
            ),
        }
    }
}

fn apply_all(
    document: &mut Value,
    list: &[PatchOperation],
    most: usize,
) -> Result<(), Unpatchable> {
    let mut copied = 0;
    for (place, operation) in list.iter().enumerate() {
        copied += grown(document, operation)?;
        if copied > most {
            return Err(Unpatchable::Growth);
        }
        apply(document, operation).map_err(|why| {
            let (op, path) = (name(operation), operation.path().as_str());
            Unpatchable::State(format!("operation {place} of the patch, {op} {path:?}: {why}"))
        })?;
    }
    Ok(())
}

/// How many bytes, about, the operation makes of what is there.
///
/// # Errors
/// If what would come of it is nested too deeply to be read, or even to be dropped.
fn grown(document: &Value, operation: &PatchOperation) -> Result<usize, Unpatchable> {
    let (path, value, bytes) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value), 0),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value), 0),
        PatchOperation::Move(taken) => (&taken.path, document.pointer(taken.from.as_str()), 0),
        PatchOperation::Copy(copy) => {
            let value = document.pointer(copy.from.as_str());
            (&copy.path, value, value.map_or(0, |value| value.to_string().len()))
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(0),
    };
    match path.count() + value.map_or(0, depth) <= DEPTH {
        true => Ok(bytes),
        false => Err(Unpatchable::Growth),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn apply(document: &mut Value, operation: &PatchOperation) -> Result<(), String> {
    if let PatchOperation::Test(test) = operation {
        return check(document.pointer(test.path.as_str()), &test.value);
    }
    let applied = json_patch::patch(document, std::slice::from_ref(operation));
    applied.map_err(|error| match error.kind {
        PatchErrorKind::InvalidPointer => "there is nothing at this path".to_owned(),
        kind => kind.to_string(),
    })
}

fn check(found: Option<&Value>, expected: &Value) -> Result<(), String> {
    match found {
        Some(found) if is_equal(found, expected) => Ok(()),
        Some(_) => Err("another value is there".to_owned()),
        None => Err("there is nothing at this path".to_owned()),
    }
}

/// Numbers are equal if they are numerically (RFC 6902 section 4.6).
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || is_same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let is_in_b = |(name, a)| b.get(name).is_some_and(|b| is_equal(a, b));
            a.len() == b.len() && a.iter().all(is_in_b)
        }
        (a, b) => a == b,
    }
}

/// An integer beside a double that is whole.
fn is_same_number(a: &Number, b: &Number) -> bool {
    let integer = |number: &Number| number.as_i128();
    match (integer(a), integer(b)) {
        (Some(integer), None) => is_whole(b, integer),
        (None, Some(integer)) => is_whole(a, integer),
        _ => false,
    }
}

fn is_whole(number: &Number, integer: i128) -> bool {
    // Doubles of this size are converted exactly.
    const LARGEST: f64 = 1e30;
    number.as_f64().is_some_and(|double| {
        double.fract() == 0.0 && double.abs() < LARGEST && double as i128 == integer
    })
}

fn name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}
