//! Reads: one document, or a page of them.

use std::ops::Bound;

use ::axum::response::Response;
use ::http::StatusCode;
use ::http::request::Parts;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::path::{limit_of, parameters};
use super::request::conditions;
use super::response;
use super::service::{Service, Steady, no_document};
use crate::entity::Entity;
use crate::http::{Document, Problem, Verdict};

/// A page ends after the item that takes it past this many bytes of values, so that large
/// documents do not add up to an answer that nobody can hold.
pub(super) const PAGE_BYTES: usize = 4 << 20;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Documents")]
pub(super) struct Page<'a> {
    items: Vec<Item<'a>>,
    /// Where the next page starts: after this key.
    next: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Document")]
struct Item<'a> {
    key: &'a str,
    version: u64,
    etag: String,
    written_by: Option<&'a str>,
    written_at: String,
    value: Option<&'a RawValue>,
}

impl Service {
    /// `GET /collections/{collection}/{key}`.
    pub(super) fn get(
        &self,
        steady: &Steady<'_>,
        collection: &str,
        key: &str,
        request: &Parts,
    ) -> Result<Response, Problem> {
        let conditions = conditions(&request.headers)?;
        let documents = self.existing(steady, collection)?;
        let found = documents.get(key).map_err(|error| self.failure(&error, &conditions))?;
        let entity = found.ok_or_else(|| no_document(collection, key))?;
        let (lineage, current) = (self.store.lineage(), entity.metadata());
        let tag = self.tag(entity.version());
        match conditions.evaluate(&request.method, lineage, Some(current)) {
            Verdict::Proceed => Ok(response::document(StatusCode::OK, tag, &entity)),
            Verdict::NotModified => Ok(response::not_modified(tag, &entity)),
            Verdict::PreconditionFailed => {
                Err(Problem::failed_read(&conditions, lineage, current).on(collection, key))
            }
        }
    }

    /// `GET /collections/{collection}?prefix=&after=&limit=`.
    pub(super) fn list(
        &self,
        steady: &Steady<'_>,
        collection: &str,
        query: Option<&str>,
    ) -> Result<Response, Problem> {
        let [prefix, after, limit] = parameters(query, ["prefix", "after", "limit"])?;
        let prefix = prefix.unwrap_or_default();
        let limit = limit_of(limit)?;
        let documents = self.existing(steady, collection)?;
        let start = match &after {
            Some(after) if *after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(&prefix),
        };
        let (mut found, mut bytes, mut more) = (Vec::new(), 0_usize, false);
        for item in documents.range::<String>((start, Bound::Unbounded)) {
            let (key, entity) = item.map_err(|error| self.refusal(&error))?;
            if !key.starts_with(&prefix) {
                break;
            }
            if found.len() == limit || bytes > PAGE_BYTES {
                more = true;
                break;
            }
            bytes = bytes.saturating_add(entity.json().len());
            found.push((key, entity));
        }
        let items: Vec<_> = found.iter().map(|(key, entity)| self.item(key, entity)).collect();
        let next = items.last().map(|item| item.key).filter(|_| more);
        // Serializing strings and numbers into a string does not fail.
        Ok(response::json(serde_json::to_string(&Page { items, next }).unwrap_or_default()))
    }

    fn item<'a>(&self, key: &'a str, entity: &'a Entity<Document>) -> Item<'a> {
        Item {
            key,
            version: entity.version().get(),
            etag: self.tag(entity.version()).to_string(),
            written_by: entity.written_by(),
            written_at: humantime::format_rfc3339_millis(entity.written_at()).to_string(),
            value: entity.raw(),
        }
    }
}
