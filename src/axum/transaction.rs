//! `POST /transactions`: many writes and checks, all or none.

use std::collections::BTreeMap;

use ::axum::extract::Request;
use ::axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Change, Entry, Opened, Sent};
use super::path::malformed;
use super::request::{Intent, body, expect_json, members};
use super::response;
use super::service::Service;
use crate::conflict::Conflict;
use crate::error::{Error, Result as StoreResult};
use crate::http::Problem;
use crate::precondition::Precondition;
use crate::transact::{Once, Transaction};
use crate::version::Version;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Transaction")]
pub(super) struct Body {
    operations: Vec<Sent>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TransactionAnswer")]
pub(super) struct Answer {
    /// None if nothing was to be written.
    version: Option<u64>,
    etags: BTreeMap<String, String>,
}

impl Service {
    /// `POST /transactions`.
    pub(super) async fn transaction(&self, request: Request) -> Result<Response, Problem> {
        let (parts, sent) = request.into_parts();
        let intent = Intent::of_many(&parts)?;
        expect_json(&parts.headers)?;
        let bytes = body(Request::from_parts(parts, sent), &self.options).await?;
        let entries = self.entries(&bytes)?;
        let steady = self.steady().await;
        let mut opened = Opened::new();
        let mut refused = Vec::new();
        for entry in &entries {
            refused.extend(self.open_for(&steady, entry, &mut opened).err());
        }
        if !refused.is_empty() {
            return Err(Problem::all(refused));
        }
        let run = |tx: &mut Transaction<'_>| {
            entries.iter().try_for_each(|entry| stage(tx, entry, &opened))
        };
        let mut transact = self.store.transact(run);
        if let Some(actor) = &intent.caller.actor {
            transact = transact.by(actor.clone());
        }
        let done = match &intent.caller.operation_id {
            None => transact.await.map(Once::First),
            Some(id) => transact.operation_id(id).payload(bytes).await,
        };
        match done {
            Ok(Once::First(done)) => Ok(self.landed(&entries, done.version())),
            Ok(Once::Replayed { version }) => {
                Ok(response::replayed(self.landed(&entries, Some(version)), true))
            }
            Err(Error::Conflict(conflict)) => Err(self.conflicts(&entries, conflict)),
            Err(error) => Err(self.refusal(&error)),
        }
    }

    /// # Errors
    /// 400, and 428 for an operation without a condition.
    fn entries(&self, bytes: &[u8]) -> Result<Vec<Entry>, Problem> {
        let body: Body = members(bytes)?;
        let (mut entries, mut written) = (Vec::new(), BTreeMap::new());
        for (place, sent) in body.operations.into_iter().enumerate() {
            let place = format!("operations[{place}]");
            let mut entry = sent.read(&place, self.store.lineage())?;
            let required = self.required(&entry.collection, entry.preconditions);
            entry.preconditions =
                required.map_err(|problem| problem.on(&entry.collection, &entry.key))?;
            let Entry { collection, key, change, .. } = &entry;
            if !matches!(change, Change::Check)
                && let Some(other) =
                    written.insert((collection.clone(), key.clone()), place.clone())
            {
                return Err(malformed(format!("{place} writes the same key as {other}")));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn landed(&self, entries: &[Entry], version: Option<Version>) -> Response {
        let tag = version.map(|version| self.tag(version).to_string()).unwrap_or_default();
        let puts = entries.iter().filter(|entry| matches!(entry.change, Change::Put(_)));
        let etags = puts.map(|entry| (format!("{}/{}", entry.collection, entry.key), tag.clone()));
        let answer = Answer { version: version.map(Version::get), etags: etags.collect() };
        response::json(serde_json::to_string(&answer).unwrap_or_default())
    }

    /// A problem of each, with the tags that were sent for it.
    fn conflicts(&self, entries: &[Entry], conflict: Box<Conflict>) -> Problem {
        let problems = conflict.into_all().map(|conflict| {
            let at = (conflict.collection(), conflict.key());
            let entry = entries.iter().find(|entry| (&*entry.collection, &*entry.key) == at);
            let conditions = entry.map(|entry| entry.conditions.clone()).unwrap_or_default();
            self.failure(&conflict.into(), &conditions)
        });
        Problem::all(problems.collect())
    }
}

fn stage(tx: &mut Transaction<'_>, entry: &Entry, opened: &Opened) -> StoreResult<()> {
    let documents = opened.get(&entry.collection).ok_or(Error::Restart)?;
    let (key, mut conditions) = (&*entry.key, entry.preconditions.iter().cloned());
    if let Some(token) = entry.lease {
        tx.holding(&documents.lease_with_token(key, token))?;
    }
    let first = conditions.next().ok_or(Error::Restart)?;
    match &entry.change {
        Change::Put(document) => tx.put_if(documents, key, document.clone(), first)?,
        Change::Delete => {
            tx.delete_if(documents, key, first)?;
            conditions.by_ref().try_for_each(|next| tx.check(documents, key, next))?;
            tx.check(documents, key, Precondition::Exists)?;
        }
        Change::Check => tx.check(documents, key, first)?,
    }
    conditions.try_for_each(|next| tx.check(documents, key, next))
}
