//! What a write request asks for, read from its headers, its query and its body.

use ::axum::body::Bytes;
use ::axum::extract::{FromRequest, Request};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::request::Parts;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use super::RouterOptions;
use super::path::{malformed, parameters};
use crate::collection::Collection;
use crate::entity::Actor;
use crate::http::{Conditions, Problem, ProblemReason};
use crate::ids::Caller;
use crate::precondition::Precondition;
use crate::version::{Lineage, Version};
use crate::write::Write;

/// How a write is to be done.
pub(super) struct Intent {
    pub(super) conditions: Conditions,
    /// Overwriting is spelled out.
    pub(super) unconditional: bool,
    pub(super) caller: Caller,
    /// The token of the lease that the write relies on.
    pub(super) lease: Option<Version>,
    /// The answer needs no body.
    pub(super) minimal: bool,
}

/// A write of a part would be taken for one of the whole.
const CONTENT_RANGE: &str = "content-range";

impl Intent {
    /// Reads the headers and the query of a write.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of(parts: &Parts) -> Result<Intent, Problem> {
        let headers = &parts.headers;
        if headers.contains_key(CONTENT_RANGE) {
            return Err(malformed("a document is written whole; send it without Content-Range"));
        }
        let [unconditional] = parameters(parts.uri.query(), ["unconditional"])?;
        Ok(Intent {
            conditions: conditions(headers)?,
            unconditional: match unconditional.as_deref() {
                Some("true") => true,
                None | Some("false") => false,
                Some(_) => return Err(malformed("unconditional is true or false")),
            },
            caller: caller(headers)?,
            lease: lease(headers)?,
            minimal: prefers_minimal(headers),
        })
    }

    /// As [`of`](Intent::of), of a request with many writes, which have conditions of their own.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of_many(parts: &Parts) -> Result<Intent, Problem> {
        let intent = Intent::of(parts)?;
        let bare = intent.conditions == Conditions::default() && intent.lease.is_none();
        if bare && !intent.unconditional {
            return Ok(intent);
        }
        Err(malformed("conditions and leases stand in the body here, with each write"))
    }

    /// Adds to a write what does not depend on its kind.
    pub(super) fn apply<'a, V, O>(
        &self,
        write: Write<'a, String, V, O>,
        entities: &Collection<String, V>,
        key: &str,
    ) -> Write<'a, String, V, O>
    where
        V: Send + Sync + 'static,
    {
        let write = called(write, &self.caller);
        match self.lease {
            Some(token) => write.holding(&entities.lease_with_token(key, token)),
            None => write,
        }
    }

    /// What the write relies on; empty if the request does not say. A condition counts even
    /// where overwriting is spelled out.
    pub(super) fn preconditions(&self, lineage: Lineage) -> Vec<Precondition> {
        let mut list = self.conditions.preconditions(lineage);
        if list.is_empty() && self.unconditional {
            list.push(Precondition::Unconditional);
        }
        list
    }
}

/// Says of a write who asks for it, and with which operation id.
pub(super) fn called<'a, K, V, O>(
    mut write: Write<'a, K, V, O>,
    caller: &Caller,
) -> Write<'a, K, V, O> {
    if let Some(actor) = &caller.actor {
        write = write.by(actor.clone());
    }
    match &caller.operation_id {
        Some(id) => write.operation_id(id),
        None => write,
    }
}

/// The conditional headers.
///
/// # Errors
/// 400.
pub(super) fn conditions(headers: &HeaderMap) -> Result<Conditions, Problem> {
    Conditions::parse(headers).map_err(|error| malformed(error.to_string()))
}

/// Refuses a body that does not call itself JSON.
///
/// # Errors
/// 415.
pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let essence = media_type(headers)?;
    // A patch is JSON too, but stored as the document it would replace it.
    let is_patch = essence.ends_with("patch+json");
    if essence == "application/json"
        || (essence.contains('/') && essence.ends_with("+json") && !is_patch)
    {
        return Ok(());
    }
    let detail = "send the document with one Content-Type: application/json";
    Err(Problem::new(ProblemReason::UnsupportedMediaType, detail))
}

/// What the body calls itself, in lower case and without parameters; empty if it does not say.
///
/// # Errors
/// 415 if it is coded.
pub(super) fn media_type(headers: &HeaderMap) -> Result<String, Problem> {
    let is_plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        let detail = "send the body without a content coding";
        return Err(Problem::new(ProblemReason::UnsupportedMediaType, detail));
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let only = types.next().filter(|_| types.next().is_none());
    let media_type = only.and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Takes in members of a JSON object. No body at all is an object without members.
///
/// # Errors
/// 415, 413, 408, and 400 that says what is wrong.
pub(super) async fn json<T: DeserializeOwned>(
    request: Request,
    options: &RouterOptions,
) -> Result<T, Problem> {
    // Who sends nothing need not say what it is.
    if !::axum::body::HttpBody::is_end_stream(request.body()) {
        expect_json(request.headers())?;
    }
    let bytes = body(request, options).await?;
    members(if bytes.is_empty() { b"{}" } else { &bytes })
}

/// Reads members of a JSON object.
///
/// # Errors
/// 400 that says what is wrong.
pub(super) fn members<T: DeserializeOwned>(json: &[u8]) -> Result<T, Problem> {
    // Members would be taken from an array too, in the order in which this program has them.
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(malformed("the body is not as it has to be: it is an array, not an object"));
    }
    serde_json::from_slice(json)
        .map_err(|error| malformed(format!("the body is not as it has to be: {error}")))
}

/// Reads a number that is whole, however it is written: `2.0` is one in JSON.
///
/// # Errors
/// If it is none, or too large.
pub(super) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    let number = Number::deserialize(from)?;
    // Above 2^53 a float names several whole numbers.
    let is_exact = |float: &f64| float.fract() == 0.0 && (0.0..=9e15).contains(float);
    let float = number.as_f64().filter(is_exact).map(|float| float as u64);
    let whole = number.as_u64().or(float).and_then(|number| T::try_from(number).ok());
    whole.ok_or_else(|| D::Error::custom("a whole number is wanted, not below 0 nor too large"))
}

/// As [`whole`], or `null`.
///
/// # Errors
/// As of `whole`.
pub(super) fn whole_or_null<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let number = Option::<Number>::deserialize(from)?;
    number.map(|number| whole(number).map_err(D::Error::custom)).transpose()
}

/// Takes in the body.
///
/// # Errors
/// 413 and 408.
pub(super) async fn body(request: Request, options: &RouterOptions) -> Result<Bytes, Problem> {
    let (most, timeout) = (options.body_limit, options.body_timeout);
    // What announces itself as too large is refused before it is sent.
    if ::axum::body::HttpBody::size_hint(request.body()).lower() > most as u64 {
        let detail = "the body is larger than this server takes";
        return Err(Problem::new(ProblemReason::TooLarge, detail));
    }
    let body = Bytes::from_request(request, &());
    let body = match timeout {
        None => body.await,
        Some(limit) => tokio::time::timeout(limit, body).await.map_err(|_| {
            let detail = format!("the body did not arrive within {} s", limit.as_secs());
            Problem::new(ProblemReason::Timeout, detail)
        })?,
    };
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ProblemReason::TooLarge, "the body is larger than this server takes")
        }
        _ => malformed("the body could not be read to its end"),
    })
}

/// `Ifmatch-Actor`: who writes.
///
/// # Errors
/// 400.
pub(super) fn actor(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let actor = only(headers, "ifmatch-actor")
        .map_err(|()| malformed("Ifmatch-Actor is one name, in UTF-8"))?;
    Ok(actor.map(str::to_owned))
}

/// `Idempotency-Key`: the operation id, as a string (RFC 9651 section 3.3.3) or bare.
///
/// # Errors
/// 400.
pub(super) fn operation_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let wrong = || malformed("Idempotency-Key is one id, as a quoted string or bare");
    let Some(text) = only(headers, "idempotency-key").map_err(|()| wrong())? else {
        return Ok(None);
    };
    let Some(quoted) = text.strip_prefix('"') else { return Ok(Some(text.to_owned())) };
    let mut id = String::new();
    let mut rest = quoted.strip_suffix('"').ok_or_else(wrong)?.chars();
    while let Some(next) = rest.next() {
        id.push(match next {
            '\\' => rest.next().filter(|next| matches!(next, '"' | '\\')).ok_or_else(wrong)?,
            '"' => return Err(wrong()),
            next => next,
        });
    }
    if id.is_empty() { Err(wrong()) } else { Ok(Some(id)) }
}

/// Who asks, and with which operation id.
///
/// # Errors
/// 400.
pub(super) fn caller(headers: &HeaderMap) -> Result<Caller, Problem> {
    let actor = actor(headers)?.map(Actor::from);
    Ok(Caller { actor, operation_id: operation_id(headers)? })
}

/// `Ifmatch-Lease`: the token of a lease.
///
/// # Errors
/// 400.
pub(super) fn lease(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let wrong = || malformed("Ifmatch-Lease is the token of one lease, a number");
    let Some(text) = only(headers, "ifmatch-lease").map_err(|()| wrong())? else {
        return Ok(None);
    };
    text.parse().ok().and_then(Version::new).map(Some).ok_or_else(wrong)
}

/// The value of a header that may be there once. It is text, and not empty.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut lines = headers.get_all(name).into_iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let text = std::str::from_utf8(first.as_bytes()).unwrap_or_default().trim();
    let is_text = !text.is_empty() && !text.chars().any(char::is_control);
    if lines.next().is_none() && is_text { Ok(Some(text)) } else { Err(()) }
}

/// `Prefer: return=minimal` (RFC 7240 section 4.2).
fn prefers_minimal(headers: &HeaderMap) -> bool {
    let lines = headers.get_all("prefer").into_iter().filter_map(|line| line.to_str().ok());
    let mut preferences = lines.flat_map(|line| line.split(','));
    preferences.any(|preference| {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        name.trim().eq_ignore_ascii_case("return")
            && value.trim().trim_matches('"').eq_ignore_ascii_case("minimal")
    })
}
