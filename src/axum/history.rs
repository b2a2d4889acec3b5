//! What was under a key before.

use ::axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::response;
use super::served::no_document;
use super::service::{Service, Steady};
use crate::history::HistoryEntry;
use crate::http::{Document, Problem};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "History")]
pub(super) struct Page<'a> {
    items: Vec<Item<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HistoryEntry")]
struct Item<'a> {
    kind: &'static str,
    version: u64,
    etag: String,
    written_by: Option<&'a str>,
    written_at: String,
    /// Of a version, and not of a deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

impl Service {
    /// `GET /collections/{collection}/{key}/history`: the newest first.
    pub(super) fn history(
        &self,
        steady: &Steady<'_>,
        collection: &str,
        key: &str,
    ) -> Result<Response, Problem> {
        let documents = self.existing(steady, collection)?;
        let history = documents.history(key);
        let history = history.map_err(|error| self.refusal(&error))?;
        if history.is_empty() {
            return Err(no_document(collection, key));
        }
        let items = history.iter().map(|entry| self.entry(entry)).collect();
        // Serializing strings and numbers into a string does not fail.
        Ok(response::json(serde_json::to_string(&Page { items }).unwrap_or_default()))
    }

    fn entry<'a>(&self, entry: &'a HistoryEntry<Document>) -> Item<'a> {
        let entity = entry.entity();
        Item {
            kind: if entity.is_some() { "put" } else { "delete" },
            version: entry.version().get(),
            etag: self.tag(entry.version()).to_string(),
            written_by: entry.by(),
            written_at: humantime::format_rfc3339_millis(entry.at()).to_string(),
            value: entity.and_then(|entity| entity.raw()),
        }
    }
}
