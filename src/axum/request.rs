//! What a write request asks for, read from its headers, its query and its body.

use ::axum::body::Bytes;
use ::axum::extract::{FromRequest, Request};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::request::Parts;

use super::RouterOptions;
use super::path::{malformed, parameters};
use crate::http::{Conditions, Document, Problem, ProblemReason};
use crate::precondition::Precondition;
use crate::version::Lineage;

/// How a write is to be done.
pub(super) struct Intent {
    pub(super) conditions: Conditions,
    /// Overwriting is spelled out.
    pub(super) unconditional: bool,
    pub(super) actor: Option<String>,
    /// The answer needs no body.
    pub(super) minimal: bool,
}

/// Headers that promise the caller something that this server would not keep. Ignoring one
/// would lose the protection that it asks for.
const UNSUPPORTED: [&str; 3] = ["idempotency-key", "ifmatch-lease", "content-range"];

impl Intent {
    /// Reads the headers and the query of a write.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of(parts: &Parts) -> Result<Intent, Problem> {
        let headers = &parts.headers;
        if let Some(name) = UNSUPPORTED.iter().find(|name| headers.contains_key(**name)) {
            return Err(malformed(format!(
                "this server does not support the header {name}, and will not write without \
                 what it asks for; send the request without it"
            )));
        }
        let [unconditional] = parameters(parts.uri.query(), ["unconditional"])?;
        Ok(Intent {
            conditions: conditions(headers)?,
            unconditional: match unconditional.as_deref() {
                Some("true") => true,
                None | Some("false") => false,
                Some(_) => return Err(malformed("unconditional is true or false")),
            },
            actor: actor(headers)?,
            minimal: prefers_minimal(headers),
        })
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
    let is_plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        let detail = "send the body without a content coding";
        return Err(Problem::new(ProblemReason::UnsupportedMediaType, detail));
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let only = types.next().filter(|_| types.next().is_none());
    let media_type = only.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
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

/// Takes in the body.
///
/// # Errors
/// 413, 408, and 400 if it is no JSON.
pub(super) async fn document(
    request: Request,
    options: &RouterOptions,
) -> Result<Document, Problem> {
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
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ProblemReason::TooLarge, "the body is larger than this server takes")
        }
        _ => malformed("the body could not be read to its end"),
    })?;
    Document::from_bytes(bytes.into()).map_err(|error| malformed(error.to_string()))
}

/// `Ifmatch-Actor`: who writes.
fn actor(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut lines = headers.get_all("ifmatch-actor").into_iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let actor = std::str::from_utf8(first.as_bytes()).unwrap_or_default().trim();
    if lines.next().is_some() || actor.is_empty() || actor.chars().any(char::is_control) {
        return Err(malformed("Ifmatch-Actor is one name, in UTF-8"));
    }
    Ok(Some(actor.to_owned()))
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
