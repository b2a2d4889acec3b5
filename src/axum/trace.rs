//! What is told of a request while it goes on: a span for each, an event for each conflict.
//!
//! Whatever a client chose is told escaped: it cannot forge a line of a log.

use std::time::Duration;

use ::http::header::HeaderMap;
use ::http::{Method, StatusCode};
use tracing::Span;
use tracing::field::Empty;

use crate::conflict::Conflict;
use crate::version::Version;

/// The span of a request.
pub(super) fn request(method: &Method, path: &str) -> Span {
    tracing::info_span!(
        "request",
        %method,
        ?path,
        actor = Empty,
        status = Empty,
        elapsed_us = Empty
    )
}

/// Says in the current span who sends the request.
pub(super) fn actor(headers: &HeaderMap) {
    if let Some(actor) = headers.get("ifmatch-actor") {
        let actor = String::from_utf8_lossy(actor.as_bytes());
        Span::current().record("actor", tracing::field::debug(actor));
    }
}

pub(super) fn answered(span: &Span, status: StatusCode, elapsed: Duration) {
    span.record("status", status.as_u16());
    span.record("elapsed_us", u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
}

pub(super) fn conflict(conflict: &Conflict) {
    let expected: Vec<u64> = conflict.expected().iter().map(|version| version.get()).collect();
    tracing::debug!(
        reason = conflict.reason().as_str(),
        collection = ?conflict.collection(),
        key = ?conflict.key(),
        ?expected,
        current = conflict.current_version().map(Version::get),
        "conflict"
    );
}

/// As [`conflict`], of an entity that has never been there.
pub(super) fn absent(collection: &str, key: &str) {
    tracing::debug!(reason = "absent", ?collection, ?key, "conflict");
}
