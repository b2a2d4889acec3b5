//! Paths and query strings, decoded strictly: what is not plainly right is refused.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::collection::is_collection_name;
use crate::http::{Problem, ProblemReason};

/// The most bytes of a key.
const KEY_BYTES: usize = 512;

/// Items of a page unless the request says otherwise, and at most.
const ITEMS: u64 = 100;
const MOST_ITEMS: u64 = 1_000;

/// The longest that a request waits for something to happen.
const MOST_WAIT_MS: u64 = 60_000;

/// The digits of an operation's id, in base 32.
const OPERATION_ID_DIGITS: usize = 22;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Console,
    Health,
    Metrics,
    OpenApi,
    Batch,
    Transactions,
    Changes,
    Collections,
    Collection(String),
    Document { collection: String, key: String },
    History { collection: String, key: String },
    Lease { collection: String, key: String },
    Operations(String),
    Operation { kind: String, id: String },
    OperationStep { kind: String, id: String, step: Step },
}

/// What is done to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Heartbeat,
    Progress,
    Complete,
    Fail,
    Cancel,
}

impl Resource {
    /// Reads a path as it was sent.
    ///
    /// # Errors
    /// 404 for a path that names nothing, 400 for a name or key that cannot be one.
    pub(super) fn parse(path: &str) -> Result<Resource, Problem> {
        let segments: Vec<_> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        match *segments {
            [""] => Ok(Resource::Console),
            ["changes"] => Ok(Resource::Changes),
            ["healthz"] => Ok(Resource::Health),
            ["metrics"] => Ok(Resource::Metrics),
            ["openapi.json"] => Ok(Resource::OpenApi),
            ["batch"] => Ok(Resource::Batch),
            ["transactions"] => Ok(Resource::Transactions),
            ["collections"] => Ok(Resource::Collections),
            ["collections", name] => Ok(Resource::Collection(named(name)?)),
            ["collections", name, key] => {
                Ok(Resource::Document { collection: named(name)?, key: keyed(key)? })
            }
            ["collections", name, key, "history"] => {
                Ok(Resource::History { collection: named(name)?, key: keyed(key)? })
            }
            ["collections", name, key, "lease"] => {
                Ok(Resource::Lease { collection: named(name)?, key: keyed(key)? })
            }
            ["operations", kind] => Ok(Resource::Operations(kind_of(kind)?)),
            ["operations", kind, id] => {
                Ok(Resource::Operation { kind: kind_of(kind)?, id: identified(id)? })
            }
            ["operations", kind, id, step] => {
                let step = Step::named(step).ok_or_else(nothing_here)?;
                Ok(Resource::OperationStep { kind: kind_of(kind)?, id: identified(id)?, step })
            }
            _ => Err(nothing_here()),
        }
    }

    /// The methods that the resource knows, as in `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Resource::Health | Resource::Changes | Resource::History { .. } => "GET, HEAD, OPTIONS",
            Resource::Console
            | Resource::Metrics
            | Resource::OpenApi
            | Resource::Collections
            | Resource::Operation { .. } => "GET, HEAD, OPTIONS",
            Resource::Batch | Resource::Transactions => "POST, OPTIONS",
            Resource::OperationStep { .. } => "POST, OPTIONS",
            Resource::Collection(_) | Resource::Operations(_) => "GET, HEAD, PUT, POST, OPTIONS",
            Resource::Document { .. } => "GET, HEAD, PUT, PATCH, DELETE, OPTIONS",
            Resource::Lease { .. } => "GET, HEAD, POST, PUT, DELETE, OPTIONS",
        }
    }
}

impl Step {
    fn named(name: &str) -> Option<Step> {
        Some(match name {
            "heartbeat" => Step::Heartbeat,
            "progress" => Step::Progress,
            "complete" => Step::Complete,
            "fail" => Step::Fail,
            "cancel" => Step::Cancel,
            _ => return None,
        })
    }
}

/// The values of the `known` parameters of a query string, in that order.
///
/// # Errors
/// 400 for a parameter that is unknown, repeated, or badly encoded.
pub(super) fn parameters<const N: usize>(
    query: Option<&str>,
    known: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(&name.replace('+', " "))?;
        let place = known.iter().zip(&mut values).find(|(known, _)| **known == name);
        let Some((_, place)) = place else {
            let known = known.join(", ");
            return Err(malformed(format!("{name:?} is no parameter here; use {known}")));
        };
        if place.replace(decode(&value.replace('+', " "))?).is_some() {
            return Err(malformed(format!("the parameter {name} is given twice")));
        }
    }
    Ok(values)
}

/// The value of the parameter `name`, if it is given.
///
/// # Errors
/// 400 for what is no number from `least` to `most`.
fn number(
    value: Option<String>,
    name: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, Problem> {
    let Some(text) = value else { return Ok(None) };
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    let wrong = || malformed(format!("{name} is a number from {least} to {most}"));
    number.map(Some).ok_or_else(wrong)
}

/// How many items a page has at most, as its `limit` says.
///
/// # Errors
/// 400.
pub(super) fn limit_of(value: Option<String>) -> Result<usize, Problem> {
    let limit = number(value, "limit", 1, MOST_ITEMS)?.unwrap_or(ITEMS);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How long a request waits for something to happen, as its `wait_ms` says; by default not.
///
/// # Errors
/// 400.
pub(super) fn wait_of(value: Option<String>) -> Result<Duration, Problem> {
    let millis = number(value, "wait_ms", 0, MOST_WAIT_MS)?;
    Ok(Duration::from_millis(millis.unwrap_or_default()))
}

/// The kind of an operation, which is named as a collection is.
///
/// # Errors
/// 400.
pub(super) fn kind(name: String) -> Result<String, Problem> {
    if is_collection_name(&name) {
        return Ok(name);
    }
    Err(malformed("the kind of an operation is 1 to 64 characters of a-z, 0-9, _ and -"))
}

/// The id of an operation.
///
/// # Errors
/// 400.
pub(super) fn operation_id(id: String) -> Result<String, Problem> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    if id.len() == OPERATION_ID_DIGITS && id.bytes().all(is_digit) {
        return Ok(id);
    }
    let digits = OPERATION_ID_DIGITS;
    Err(malformed(format!("the id of an operation is {digits} digits and capital letters")))
}

/// A 400.
pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemReason::Malformed, detail)
}

/// A 404.
fn nothing_here() -> Problem {
    Problem::new(
        ProblemReason::NotFound,
        "nothing is at this path; documents are at /collections/{collection}/{key}, where a \
         slash within a key is written %2F",
    )
}

/// A collection's name; the characters that it may have are checked before the store sees it,
/// so that reading under a bad name is no mere 404.
fn named(segment: &str) -> Result<String, Problem> {
    collection_name(decode(segment)?)
}

/// # Errors
/// 400, also for the names of the store's own collections.
pub(super) fn collection_name(name: String) -> Result<String, Problem> {
    if is_collection_name(&name) {
        return Ok(name);
    }
    Err(malformed("a collection's name is 1 to 64 characters of a-z, 0-9, _ and -"))
}

fn kind_of(segment: &str) -> Result<String, Problem> {
    kind(decode(segment)?)
}

fn identified(segment: &str) -> Result<String, Problem> {
    operation_id(decode(segment)?)
}

/// A key, as a segment of a path.
///
/// # Errors
/// 400.
pub(super) fn keyed(segment: &str) -> Result<String, Problem> {
    let key = decode(segment)?;
    check_key(&key).map_err(malformed)?;
    Ok(key)
}

/// Whether documents can have this key; else why not.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > KEY_BYTES {
        return Err(format!("a key is 1 to {KEY_BYTES} bytes of UTF-8"));
    }
    if key == "." || key == ".." {
        return Err("the keys . and .. are not allowed: clients resolve them away".to_owned());
    }
    if key.chars().any(char::is_control) {
        return Err("a key has no control characters".to_owned());
    }
    Ok(())
}

/// Percent-decoding (RFC 3986 section 2.1) that takes no `%` for itself and only UTF-8.
fn decode(text: &str) -> Result<String, Problem> {
    let is_triplet = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !text.split('%').skip(1).all(is_triplet) {
        return Err(malformed("a % in the path or query is not followed by two hex digits"));
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(malformed("the path or query is not UTF-8 once percent-decoded")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    fn status(path: &str) -> u16 {
        Resource::parse(path).map_or_else(|problem| problem.status().as_u16(), |_| 200)
    }

    #[test]
    fn paths_are_taken_literally() {
        assert_eq!(Resource::parse("/healthz").unwrap(), Resource::Health);
        let document = Resource::Document { collection: "a-b_1".into(), key: "x/%2F é".into() };
        assert_eq!(Resource::parse("/collections/a-b_1/x%2F%252F%20é").unwrap(), document);
        for path in ["//", "/collections/a/b/c", "/healthz/", "/collections/a/b/", "/Collections/a"]
        {
            assert_eq!(status(path), 404, "{path}");
        }
        for path in ["A", "", "a%", "%E9", "a/", "a/.", "a/%2e%2E", "a/%00", "a/%C2%85", "a/%zz"] {
            assert_eq!(status(&format!("/collections/{path}")), 400, "{path}");
        }
        for path in ["j/lease", "J", "", "j/01", "j/01HF8Y0000000000000000/", "j/a%2Fb/fail"] {
            assert!(status(&format!("/operations/{path}")) >= 400, "{path}");
        }
        let id = "01HF8Y0000000000000000";
        let operation = Resource::Operation { kind: "j".into(), id: id.into() };
        assert_eq!(Resource::parse(&format!("/operations/j/{id}")).unwrap(), operation);
        assert_eq!(status(&format!("/operations/j/{id}/fail")), 200);
        assert_eq!(status(&format!("/operations/j/{id}/begin")), 404);
        assert_eq!(status(&format!("/collections/a/{}", "k".repeat(512))), 200);
        assert_eq!(status(&format!("/collections/a/{}", "k".repeat(513))), 400);
        assert_eq!(status(&format!("/collections/{}", "c".repeat(65))), 400);
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        let [a, b] = parameters(Some("b=x+%2B&"), ["a", "b"]).unwrap();
        assert_eq!((a, b.as_deref()), (None, Some("x +")));
        for query in ["c=1", "a=1&a=2", "a=%", "a=%ff", "%"] {
            assert!(parameters(Some(query), ["a", "b"]).is_err(), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_key_can_be_named(key in "[^\\p{Cc}]{1,100}") {
            prop_assume!(key.len() <= KEY_BYTES && key != "." && key != "..");
            let path = format!("/collections/c/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC));
            let document = Resource::Document { collection: "c".to_owned(), key };
            prop_assert_eq!(Resource::parse(&path).unwrap(), document);
        }

        #[test]
        fn no_path_makes_parsing_panic(path: String, query: String) {
            let _ = Resource::parse(&path);
            let _ = Resource::parse(&format!("/collections/{path}"));
            let _ = Resource::parse(&format!("/operations/{path}"));
            let _ = parameters(Some(&query), ["a"]);
        }
    }
}
