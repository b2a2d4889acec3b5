//! Writes: each under the conditions that the request names, decided as it takes effect.

use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;
use uuid::Uuid;

use super::request::{Intent, document, expect_json};
use super::response;
use super::service::{Service, no_document};
use crate::conflict::Reason;
use crate::error::Error;
use crate::http::{Document, Problem};
use crate::precondition::{Precondition, decide};
use crate::write::Committed;

impl Service {
    /// `PUT /collections/{collection}/{key}`.
    pub(super) async fn put(
        &self,
        collection: &str,
        key: &str,
        request: Request,
        path: &str,
    ) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let intent = Intent::of(&parts)?;
        expect_json(&parts.headers)?;
        let preconditions = intent.preconditions(self.store.lineage());
        let preconditions = self.required(collection, preconditions)?;
        let value = document(Request::from_parts(parts, body), &self.options).await?;
        let written = self.write(collection, key, value, &intent, preconditions).await?;
        Ok(self.written(&written, &intent, path))
    }

    /// `POST /collections/{collection}`: a document under a new key. Conditions, if any, are
    /// decided on what is there under that key, which is nothing.
    pub(super) async fn post(
        &self,
        collection: &str,
        request: Request,
        path: &str,
    ) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let intent = Intent::of(&parts)?;
        expect_json(&parts.headers)?;
        let mut preconditions = intent.preconditions(self.store.lineage());
        preconditions.push(Precondition::Absent);
        let value = document(Request::from_parts(parts, body), &self.options).await?;
        let key = new_key(collection, &intent).to_string();
        let written = self.write(collection, &key, value, &intent, preconditions).await?;
        Ok(self.written(&written, &intent, &format!("{path}/{key}")))
    }

    /// `DELETE /collections/{collection}/{key}`.
    pub(super) async fn delete(
        &self,
        collection: &str,
        key: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let (parts, _) = request.into_parts();
        let intent = Intent::of(&parts)?;
        let preconditions = intent.preconditions(self.store.lineage());
        let preconditions = self.required(collection, preconditions)?;
        let steady = self.steady().await;
        let documents = self.existing(&steady, collection)?;
        let delete = documents.delete(key).condition(Precondition::Exists);
        let delete = preconditions.into_iter().fold(delete, |delete, next| delete.condition(next));
        match intent.apply(delete, &documents, key).await {
            Ok(deleted) => {
                let answer = response::deleted(self.tag(deleted.version()));
                Ok(response::replayed(answer, deleted.is_replayed()))
            }
            // Without conditions the answer would be 404, so that is what it stays (RFC 9110
            // section 13.2.1).
            Err(Error::Conflict(conflict))
                if matches!(conflict.reason(), Reason::Absent | Reason::Deleted) =>
            {
                Err(no_document(collection, key))
            }
            Err(error) => Err(self.failure(&error, &intent.conditions)),
        }
    }

    async fn write(
        &self,
        collection: &str,
        key: &str,
        value: Document,
        intent: &Intent,
        preconditions: Vec<Precondition>,
    ) -> Result<Committed<Document>, Problem> {
        // A write that is bound to fail must not open a collection, of which there are not
        // arbitrarily many.
        if !self.store.has_collection(collection) && decide(&preconditions, None).is_err() {
            return Err(self.absent(collection, key, &intent.conditions));
        }
        let steady = self.steady().await;
        let documents = self.open(&steady, collection)?;
        let mut preconditions = preconditions.into_iter();
        let first = preconditions.next().ok_or_else(Problem::precondition_required)?;
        let put = documents.put(key, value).condition(first);
        let put = preconditions.fold(put, |put, next| put.condition(next));
        let put = intent.apply(put, &documents, key);
        put.await.map_err(|error| self.failure(&error, &intent.conditions))
    }

    fn written(&self, written: &Committed<Document>, intent: &Intent, path: &str) -> Response {
        let (entity, tag) = (written.entity(), self.tag(written.version()));
        let created = written.previous().is_none();
        let status = match (created, intent.minimal) {
            (true, _) => StatusCode::CREATED,
            (false, true) => StatusCode::NO_CONTENT,
            (false, false) => StatusCode::OK,
        };
        let answer = match intent.minimal {
            true => response::minimal(status, tag, entity),
            false => response::document(status, tag, entity),
        };
        let answer = response::replayed(answer, written.is_replayed());
        if created { response::located(answer, path) } else { answer }
    }
}

/// A key that is free. With an operation id it follows from that (RFC 9562 section 5.5), so that a
/// second try writes the same key as the first, and is known for what it is.
fn new_key(collection: &str, intent: &Intent) -> Uuid {
    const NAMESPACE: Uuid = Uuid::from_u128(0x9d2c_5e01_7a43_4b6f_8e15_c0f2_63ab_d874);
    let Some(id) = &intent.operation_id else { return Uuid::now_v7() };
    let actor = intent.actor.as_deref();
    // Lengths keep one name from running into the next.
    let parts = [Some(collection), actor, Some(id)].map(|part| match part {
        Some(part) => format!("{}:{part}", part.len()),
        None => "-".to_owned(),
    });
    Uuid::new_v5(&NAMESPACE, parts.concat().as_bytes())
}
