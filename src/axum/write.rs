//! Writes: each under the conditions that the request names, decided as it takes effect.

use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;
use uuid::Uuid;

use super::RouterOptions;
use super::representation::Representation;
use super::request::{Intent, body, expect_json};
use super::response;
use super::served::Served;
use super::service::Service;
use crate::conflict::Reason;
use crate::entity::Actor;
use crate::error::Error;
use crate::http::{Document, Problem};
use crate::ids::Caller;
use crate::precondition::{Precondition, decide};
use crate::version::Lineage;
use crate::write::Committed;

/// A write that has arrived.
pub(super) struct Sent<V> {
    pub(super) intent: Intent,
    preconditions: Vec<Precondition>,
    value: V,
}

impl Service {
    /// `PUT /collections/{collection}/{key}`.
    pub(super) async fn put(
        &self,
        collection: &str,
        key: &str,
        request: Request,
        path: &str,
    ) -> Result<Response, Problem> {
        let required = |list| self.required(collection, list);
        let sent = Sent::receive(request, &self.options, self.store.lineage(), required).await?;
        self.write(collection, key, sent, path).await
    }

    /// `POST /collections/{collection}`: a document under a new key.
    pub(super) async fn post(
        &self,
        collection: &str,
        request: Request,
        path: &str,
    ) -> Result<Response, Problem> {
        let sent = Sent::receive(request, &self.options, self.store.lineage(), absent).await?;
        let key = new_key(collection, &sent.intent.caller).to_string();
        self.write(collection, &key, sent, &format!("{path}/{key}")).await
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
        self.served(self.existing(&steady, collection)?).delete(key, &intent, preconditions).await
    }

    async fn write(
        &self,
        collection: &str,
        key: &str,
        sent: Sent<Document>,
        path: &str,
    ) -> Result<Response, Problem> {
        // A write that is bound to fail must not open a collection, of which there are not
        // arbitrarily many.
        if !self.store.has_collection(collection) && decide(&sent.preconditions, None).is_err() {
            return Err(self.absent(collection, key, &sent.intent.conditions));
        }
        let steady = self.steady().await;
        self.served(self.open(&steady, collection)?).write(key, sent, path).await
    }
}

impl<V: Representation> Sent<V> {
    /// Takes in a write; `required` says what it relies on if it does not.
    ///
    /// # Errors
    /// 400, 408, 413, 415, 428.
    pub(super) async fn receive(
        request: Request,
        options: &RouterOptions,
        lineage: Lineage,
        required: impl FnOnce(Vec<Precondition>) -> Result<Vec<Precondition>, Problem>,
    ) -> Result<Sent<V>, Problem> {
        let (parts, sent) = request.into_parts();
        let intent = Intent::of(&parts)?;
        expect_json(&parts.headers)?;
        let preconditions = required(intent.preconditions(lineage))?;
        let value = V::read(body(Request::from_parts(parts, sent), options).await?)?;
        Ok(Sent { intent, preconditions, value })
    }
}

impl<V: Representation> Served<'_, V> {
    /// Creates or replaces an entity; `path` is where it is.
    ///
    /// # Errors
    /// As the store refuses it.
    pub(super) async fn write(
        &self,
        key: &str,
        sent: Sent<V>,
        path: &str,
    ) -> Result<Response, Problem> {
        let Sent { intent, preconditions, value } = sent;
        let put = self.entities.put(key, value).under(preconditions)?;
        let written = intent.apply(put, &self.entities, key).await;
        let written = written.map_err(|error| self.failure(&error, &intent.conditions))?;
        self.written(&written, &intent, path)
    }

    /// Deletes an entity.
    ///
    /// # Errors
    /// 404, and as the store refuses it.
    pub(super) async fn delete(
        &self,
        key: &str,
        intent: &Intent,
        preconditions: Vec<Precondition>,
    ) -> Result<Response, Problem> {
        let delete = self.entities.delete(key).condition(Precondition::Exists);
        let delete = preconditions.into_iter().fold(delete, |delete, next| delete.condition(next));
        match intent.apply(delete, &self.entities, key).await {
            Ok(deleted) => {
                let answer = response::deleted(self.tag(deleted.version()));
                Ok(response::replayed(answer, deleted.is_replayed()))
            }
            // Without conditions the answer would be 404, so that is what it stays (RFC 9110
            // section 13.2.1).
            Err(Error::Conflict(conflict))
                if matches!(conflict.reason(), Reason::Absent | Reason::Deleted) =>
            {
                Err(self.no_document(key))
            }
            Err(error) => Err(self.failure(&error, &intent.conditions)),
        }
    }

    fn written(
        &self,
        written: &Committed<V>,
        intent: &Intent,
        path: &str,
    ) -> Result<Response, Problem> {
        let (entity, tag) = (written.entity(), self.tag(written.version()));
        let created = written.previous().is_none();
        let status = match (created, intent.minimal) {
            (true, _) => StatusCode::CREATED,
            (false, true) => StatusCode::NO_CONTENT,
            (false, false) => StatusCode::OK,
        };
        let answer = match intent.minimal {
            true => response::minimal(status, tag, entity),
            false => response::entity(status, tag, entity, entity.show()?),
        };
        let answer = match intent.minimal || V::IS_LITERAL {
            true => answer,
            // The tag is that of this body, and not of the one that was sent.
            false => response::content_of(answer, path),
        };
        let answer = response::replayed(answer, written.is_replayed());
        Ok(if created { response::located(answer, path) } else { answer })
    }
}

/// What a write relies on, of which the list may be empty.
///
/// # Errors
/// 428 if it is.
pub(super) fn required(list: Vec<Precondition>) -> Result<Vec<Precondition>, Problem> {
    if list.is_empty() { Err(Problem::precondition_required()) } else { Ok(list) }
}

/// What a write under a new key relies on beside what it says: that it is new. Conditions, if any,
/// are decided on what is there under that key, which is nothing.
#[expect(clippy::unnecessary_wraps, reason = "others refuse")]
pub(super) fn absent(mut list: Vec<Precondition>) -> Result<Vec<Precondition>, Problem> {
    list.push(Precondition::Absent);
    Ok(list)
}

/// A key that is free. With an operation id it follows from that (RFC 9562 section 5.5), so that a
/// second try writes the same key as the first, and is known for what it is.
pub(super) fn new_key(collection: &str, caller: &Caller) -> Uuid {
    const NAMESPACE: Uuid = Uuid::from_u128(0x9d2c_5e01_7a43_4b6f_8e15_c0f2_63ab_d874);
    let Some(id) = &caller.operation_id else { return Uuid::now_v7() };
    let actor = caller.actor.as_ref().map(Actor::as_str);
    // Lengths keep one name from running into the next.
    let parts = [Some(collection), actor, Some(id)].map(|part| match part {
        Some(part) => format!("{}:{part}", part.len()),
        None => "-".to_owned(),
    });
    Uuid::new_v5(&NAMESPACE, parts.concat().as_bytes())
}
