//! Reads: one document, or a page of them.

use std::ops::Bound;

use ::axum::response::Response;
use ::http::request::Parts;
use ::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::path::{limit_of, parameters};
use super::representation::Representation;
use super::request::conditions;
use super::response;
use super::served::Served;
use super::service::{Service, Steady};
use crate::collection::Collection;
use crate::entity::Entity;
use crate::http::{Conditions, Document, Problem, Verdict};

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

/// What a page is asked for.
pub(super) struct Asked {
    prefix: String,
    after: Option<String>,
    limit: usize,
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
        self.served(self.existing(steady, collection)?).get(key, &conditions)
    }

    /// `GET /collections/{collection}?prefix=&after=&limit=`.
    pub(super) fn list(
        &self,
        steady: &Steady<'_>,
        collection: &str,
        query: Option<&str>,
    ) -> Result<Response, Problem> {
        let page = Asked::of(query)?;
        self.served(self.existing(steady, collection)?).list(&page)
    }
}

impl Asked {
    /// # Errors
    /// 400.
    pub(super) fn of(query: Option<&str>) -> Result<Asked, Problem> {
        let [prefix, after, limit] = parameters(query, ["prefix", "after", "limit"])?;
        Ok(Asked { prefix: prefix.unwrap_or_default(), after, limit: limit_of(limit)? })
    }
}

/// The status of the answer to who reads an entity: 200, or 304 if the conditions say that it is
/// there already.
///
/// # Errors
/// 412.
pub(super) fn status<V: Send + Sync + 'static>(
    collection: &Collection<String, V>,
    key: &str,
    conditions: &Conditions,
    entity: &Entity<V>,
) -> Result<StatusCode, Problem> {
    let (lineage, current) = (collection.store.lineage, entity.metadata());
    match conditions.evaluate(&Method::GET, lineage, Some(current)) {
        Verdict::Proceed => Ok(StatusCode::OK),
        Verdict::NotModified => Ok(StatusCode::NOT_MODIFIED),
        Verdict::PreconditionFailed => {
            let problem = Problem::failed_read(conditions, lineage, current);
            Err(problem.on(collection.name(), key))
        }
    }
}

impl<V: Representation> Served<'_, V> {
    /// The entity, unless the caller has it.
    ///
    /// # Errors
    /// 404, 412, and if the store cannot be read.
    pub(super) fn get(&self, key: &str, conditions: &Conditions) -> Result<Response, Problem> {
        let found = self.entities.get(key).map_err(|error| self.failure(&error, conditions))?;
        let entity = found.ok_or_else(|| self.no_document(key))?;
        let status = status(&self.entities, key, conditions, &entity)?;
        Ok(response::entity(status, self.tag(entity.version()), &entity, entity.show()?))
    }

    /// A page of entities in the order of their keys.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn list(&self, page: &Asked) -> Result<Response, Problem> {
        let Asked { prefix, after, limit } = page;
        let start = match &after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let (mut found, mut bytes, mut more) = (Vec::new(), 0_usize, false);
        for item in self.entities.range::<String>((start, Bound::Unbounded)) {
            let (key, entity) =
                item.map_err(|error| self.failure(&error, &Conditions::default()))?;
            if !key.starts_with(&**prefix) {
                break;
            }
            if found.len() == *limit || bytes > PAGE_BYTES {
                more = true;
                break;
            }
            let document = entity.show()?;
            bytes = bytes.saturating_add(document.json().len());
            found.push((key, entity, document));
        }
        let items = found.iter().map(|(key, entity, shown)| self.item(key, entity, shown));
        let items: Vec<_> = items.collect();
        let next = items.last().map(|item| item.key).filter(|_| more);
        // Serializing strings and numbers into a string does not fail.
        Ok(response::json(serde_json::to_string(&Page { items, next }).unwrap_or_default()))
    }

    fn item<'a>(&self, key: &'a str, entity: &'a Entity<V>, document: &'a Document) -> Item<'a> {
        Item {
            key,
            version: entity.version().get(),
            etag: self.tag(entity.version()).to_string(),
            written_by: entity.written_by(),
            written_at: humantime::format_rfc3339_millis(entity.written_at()).to_string(),
            value: document.raw(),
        }
    }
}
