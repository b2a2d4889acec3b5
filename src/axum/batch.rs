//! `POST /batch`: many writes, each by itself, with one wait for the disk.

use ::axum::extract::Request;
use ::axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Change, Entry, Opened, Sent};
use super::request::{Intent, called, json};
use super::response;
use super::service::Service;
use crate::batch::Batch;
use crate::collection::Collection;
use crate::error::Error;
use crate::http::{Document, Problem, ProblemMembers};
use crate::ids::Caller;
use crate::precondition::Precondition;
use crate::version::Version;
use crate::write::{Verb, Write};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Batch")]
pub(super) struct Body {
    #[schemars(extend("items" = { "allOf": [
        { "$ref": "#/components/schemas/Write" },
        { "properties": { "op": { "enum": ["put", "delete"] } } },
    ] }))]
    writes: Vec<Sent>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BatchAnswer")]
pub(super) struct Answer<'a> {
    results: Vec<Item<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Outcome")]
struct Item<'a> {
    collection: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ProblemMembers>")]
    problem: Option<Problem>,
}

impl Service {
    /// `POST /batch`. One write that is refused keeps none of the others from landing.
    pub(super) async fn batch(&self, request: Request) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let intent = Intent::of_many(&parts)?;
        let body: Body = json(Request::from_parts(parts, body), &self.options).await?;
        let lineage = self.store.lineage();
        let read = |(place, sent): (usize, Sent)| sent.read(&format!("writes[{place}]"), lineage);
        let entries = body.writes.into_iter().enumerate().map(read);
        let mut entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
        if entries.iter().any(|entry| matches!(entry.change, Change::Check)) {
            return Err(super::path::malformed("a batch has no checks; see /transactions"));
        }
        let mut opened = Opened::new();
        let mut outcomes = Vec::new();
        let steady = self.steady().await;
        for entry in &mut entries {
            let named = std::mem::take(&mut entry.preconditions);
            outcomes.push(self.required(&entry.collection, named).and_then(|required| {
                entry.preconditions = required;
                self.open_for(&steady, entry, &mut opened).map(drop)
            }));
        }
        let before = self.store.inner.journal.position();
        let before = before.map_err(|error| self.refusal(&error))?;
        let mut batch = self.store.batch();
        for ((place, entry), outcome) in entries.iter().enumerate().zip(&outcomes) {
            if outcome.is_ok()
                && let Some(documents) = opened.get(&entry.collection)
            {
                batch = add(batch, documents, entry, &intent, place);
            }
        }
        let landed = batch.await;
        let landed = landed.map_err(|error| self.refusal(&error))?;
        // A version from before this request is that of a first try.
        let is_replayed = |version: &Version| version.get() <= before;
        let replayed = landed.iter().flatten().any(is_replayed);
        let mut landed = landed.into_iter();
        let mut results = Vec::new();
        for (entry, outcome) in entries.iter().zip(outcomes) {
            let outcome = outcome.and_then(|()| match landed.next() {
                Some(Ok(version)) => Ok(version),
                Some(Err(error)) => Err(self.failure(&error, &entry.conditions)),
                None => Err(self.failure(&Error::Restart, &entry.conditions)),
            });
            results.push(self.outcome(entry, outcome));
        }
        let answer = serde_json::to_string(&Answer { results }).unwrap_or_default();
        Ok(response::replayed(response::json(answer), replayed))
    }

    fn outcome<'a>(&self, entry: &'a Entry, outcome: Result<Version, Problem>) -> Item<'a> {
        let Entry { collection, key, .. } = entry;
        let mut item = Item { collection, key, version: None, etag: None, problem: None };
        match outcome {
            Ok(version) => {
                item.version = Some(version.get());
                item.etag = Some(self.tag(version).to_string());
            }
            Err(problem) => item.problem = Some(self.options.told(problem.on(collection, key))),
        }
        item
    }
}

fn add<'a>(
    batch: Batch<'a>,
    documents: &'a Collection<String, Document>,
    entry: &Entry,
    intent: &Intent,
    place: usize,
) -> Batch<'a> {
    let (key, preconditions) = (&*entry.key, entry.preconditions.clone());
    match &entry.change {
        Change::Put(document) => {
            let mut preconditions = preconditions.into_iter();
            let first = preconditions.next().unwrap_or(Precondition::Absent);
            let put = documents.put(key, document.clone()).condition(first);
            let put = preconditions.fold(put, |put, next| put.condition(next));
            batch.with(finish(put, documents, entry, intent, place))
        }
        Change::Delete | Change::Check => {
            let mut preconditions = preconditions.into_iter().chain([Precondition::Exists]);
            let first = preconditions.next().unwrap_or(Precondition::Exists);
            let delete = documents.delete(key).condition(first);
            let delete = preconditions.fold(delete, |delete, next| delete.condition(next));
            batch.with(finish(delete, documents, entry, intent, place))
        }
    }
}

/// Each write has an operation id of its own.
fn finish<'a, O: Verb<Document>>(
    write: Write<'a, String, Document, O>,
    documents: &Collection<String, Document>,
    entry: &Entry,
    intent: &Intent,
    place: usize,
) -> Write<'a, String, Document, O> {
    let Caller { actor, operation_id } = intent.caller.clone();
    let operation_id = operation_id.map(|id| format!("{id}/{place}"));
    let write = called(write, &Caller { actor, operation_id });
    match entry.lease {
        Some(token) => write.holding(&documents.lease_with_token(&*entry.key, token)),
        None => write,
    }
}
