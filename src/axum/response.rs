//! Answers: documents with their validators, pages, and refusals.

use ::axum::body::{Body, Bytes};
use ::axum::response::Response;
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::entity::Entity;
use crate::http::{Dialect, Document, Problem};
use crate::version::{EntityTag, Version};

const VERSION: HeaderName = HeaderName::from_static("ifmatch-version");
const WRITTEN_BY: HeaderName = HeaderName::from_static("ifmatch-written-by");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// An entity as it is shown, and all that is known of it; with 304 its tag alone.
pub(super) fn entity<V>(
    status: StatusCode,
    tag: EntityTag,
    entity: &Entity<V>,
    shown: Document,
) -> Response {
    if status == StatusCode::NOT_MODIFIED {
        return not_modified(tag, shown.json().len());
    }
    let body = Bytes::from_owner(shown);
    let mut response = with_metadata(status, tag, entity);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    *response.body_mut() = Body::from(body);
    response
}

/// What is known of an entity, without it: the caller prefers that.
pub(super) fn minimal<V>(status: StatusCode, tag: EntityTag, entity: &Entity<V>) -> Response {
    let mut response = with_metadata(status, tag, entity);
    let applied = HeaderValue::from_static("return=minimal");
    response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    response
}

/// 304: the caller has it already. Without a length axum would say that it is 0.
fn not_modified(tag: EntityTag, length: usize) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    insert_tag(response.headers_mut(), tag);
    revalidate(response.headers_mut());
    response
}

/// 204: the document is deleted, by the commit that the tag names.
pub(super) fn deleted(tag: EntityTag) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    insert_tag(response.headers_mut(), tag);
    insert_version(response.headers_mut(), tag.version);
    response
}

/// 200 with a document of which only the version is known.
pub(super) fn bare(tag: EntityTag, document: &Document) -> Response {
    let mut response = json(Bytes::from_owner(document.clone()));
    insert_tag(response.headers_mut(), tag);
    insert_version(response.headers_mut(), tag.version);
    response
}

/// 200 with JSON that has no validator.
pub(super) fn json(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    revalidate(response.headers_mut());
    response
}

/// Members of JSON that have no validator.
pub(super) fn members(status: StatusCode, members: &impl Serialize) -> Response {
    // Serializing strings and numbers into a string does not fail.
    let mut response = json(serde_json::to_string(members).unwrap_or_default());
    *response.status_mut() = status;
    response
}

/// 204 with the methods of a resource.
pub(super) fn options(methods: &'static str) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// Says which patches a resource takes (RFC 5789 section 3.1).
pub(super) fn accepting(mut response: Response, types: &'static str) -> Response {
    response.headers_mut().insert("accept-patch", HeaderValue::from_static(types));
    response
}

/// A refusal.
pub(super) fn problem(problem: &Problem, dialect: &dyn Dialect) -> Response {
    problem.answer(dialect).map(Body::from)
}

/// Adds where the created document is.
pub(super) fn located(response: Response, path: &str) -> Response {
    with_path(response, header::LOCATION, path)
}

/// Says that the body is what a `GET` of the path would give (RFC 9110 section 8.7).
pub(super) fn content_of(response: Response, path: &str) -> Response {
    with_path(response, header::CONTENT_LOCATION, path)
}

/// Says whether this is the answer of a write that had landed before (G5).
pub(super) fn replayed(mut response: Response, replayed: bool) -> Response {
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// What is known of an entity, without a body.
fn with_metadata<V>(status: StatusCode, tag: EntityTag, entity: &Entity<V>) -> Response {
    let mut response = empty(status);
    let headers = response.headers_mut();
    insert_tag(headers, tag);
    insert_version(headers, tag.version);
    let date = httpdate::fmt_http_date(entity.written_at());
    if let Ok(date) = HeaderValue::from_str(&date) {
        headers.insert(header::LAST_MODIFIED, date);
    }
    // An actor of the embedding program may have a name that no header can carry.
    if let Some(Ok(actor)) = entity.written_by().map(HeaderValue::from_str) {
        headers.insert(WRITTEN_BY, actor);
    }
    revalidate(headers);
    response
}

/// No body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn with_path(mut response: Response, header: HeaderName, path: &str) -> Response {
    // Paths come from a URI or are encoded: they are header values.
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header, path);
    }
    response
}

fn insert_tag(headers: &mut HeaderMap, tag: EntityTag) {
    if let Ok(tag) = HeaderValue::from_str(&tag.to_string()) {
        headers.insert(header::ETAG, tag);
    }
}

fn insert_version(headers: &mut HeaderMap, version: Version) {
    headers.insert(VERSION, version.get().into());
}

/// Without it a cache may guess for how long an answer is fresh (RFC 9111 section 4.2.2), and
/// hand out versions that have long been replaced.
fn revalidate(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}
