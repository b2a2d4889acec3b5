//! `PATCH`: a document is read, changed and written as one transaction.

mod apply;
mod exact;

use std::fmt;

use ::axum::body::Bytes;
use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;

pub(super) use self::apply::ACCEPTED;
use self::apply::{Patch, Unpatchable, is_accepted};
use super::RouterOptions;
use super::representation::Representation;
use super::request::{Intent, body, media_type};
use super::response;
use super::served::{Served, no_document};
use super::service::Service;
use crate::conflict::Reason;
use crate::entity::Entity;
use crate::error::{Error, Result as StoreResult};
use crate::http::{Conditions, Document, Problem, ProblemReason};
use crate::precondition::{Precondition, decide};
use crate::transact::{Once, Seen, Transaction};
use crate::version::{Lineage, Version};

/// A patch that has arrived.
pub(super) struct Edit {
    pub(super) intent: Intent,
    preconditions: Vec<Precondition>,
    patch: Patch,
    kind: String,
    bytes: Bytes,
    /// Bytes that the document may have.
    most: usize,
}

/// Why a transaction does not change the entity.
#[derive(Debug)]
struct Unpatched(Problem);

impl Service {
    /// `PATCH /collections/{collection}/{key}`.
    pub(super) async fn patch(
        &self,
        collection: &str,
        key: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let required = |list| self.required(collection, list);
        let edit = Edit::receive(request, &self.options, self.store.lineage(), required).await?;
        if !self.store.has_collection(collection) {
            return Err(match edit.intent.conditions == Conditions::default() {
                true => no_document(collection, key),
                false => self.absent(collection, key, &edit.intent.conditions),
            });
        }
        let steady = self.steady().await;
        self.served(self.open(&steady, collection)?).patch(key, &edit).await
    }
}

impl Edit {
    /// Takes in a patch; `required` says what it relies on if it does not, nor has a `test`.
    ///
    /// # Errors
    /// 400, 408, 413, 415, 428.
    pub(super) async fn receive(
        request: Request,
        options: &RouterOptions,
        lineage: Lineage,
        required: impl FnOnce(Vec<Precondition>) -> Result<Vec<Precondition>, Problem>,
    ) -> Result<Edit, Problem> {
        let (parts, sent) = request.into_parts();
        let (intent, kind) = (Intent::of(&parts)?, media_type(&parts.headers)?);
        if !is_accepted(&kind) {
            let detail = format!("a patch is one of {ACCEPTED}");
            let problem = Problem::new(ProblemReason::UnsupportedMediaType, detail);
            return Err(problem.accepting(ACCEPTED));
        }
        let bytes = body(Request::from_parts(parts, sent), options).await?;
        let patch = Patch::parse(&kind, &bytes)?;
        let preconditions = intent.preconditions(lineage);
        let preconditions = match patch.tests() {
            true => preconditions,
            false => required(preconditions)?,
        };
        Ok(Edit { intent, preconditions, patch, kind, bytes, most: options.body_limit })
    }
}

impl<V: Representation> Served<'_, V> {
    /// Changes an entity.
    ///
    /// # Errors
    /// 404, 409 if the patch does not apply, 413, and as the store refuses it.
    pub(super) async fn patch(&self, key: &str, edit: &Edit) -> Result<Response, Problem> {
        match self.edit(key, edit).await {
            Ok((version, document, replayed)) => {
                let answer = self.patched(key, edit, version, document.as_ref())?;
                Ok(response::replayed(answer, replayed))
            }
            Err(Error::Refused(refused)) => Err(match refused.downcast::<Unpatched>() {
                Ok(unpatched) => unpatched.0,
                Err(refused) => self.failure(&Error::Refused(refused), &edit.intent.conditions),
            }),
            Err(error) => Err(self.failure(&error, &edit.intent.conditions)),
        }
    }

    /// The version that was written, what was written unless that was before, and whether it was.
    async fn edit(&self, key: &str, edit: &Edit) -> StoreResult<(Version, Option<Document>, bool)> {
        let store = self.entities.store();
        let mut transact = store.transact(|tx| self.run(key, edit, tx));
        if let Some(actor) = &edit.intent.caller.actor {
            transact = transact.by(actor.clone());
        }
        let done = match &edit.intent.caller.operation_id {
            None => Once::First(transact.await?),
            Some(id) => {
                let about = format!("PATCH {}/{key} {}\n", self.entities.name(), edit.kind);
                let payload = [about.as_bytes(), &edit.bytes].concat();
                transact.operation_id(id).payload(payload).await?
            }
        };
        match done {
            Once::Replayed { version } => Ok((version, None, true)),
            Once::First(done) => {
                let version = done.version().ok_or(Error::Restart)?;
                Ok((version, done.into_value(), false))
            }
        }
    }

    /// What is written; nothing if the conditions do not hold.
    fn run(
        &self,
        key: &str,
        edit: &Edit,
        tx: &mut Transaction<'_>,
    ) -> StoreResult<Option<Document>> {
        let (entities, Edit { intent, preconditions, .. }) = (&self.entities, edit);
        for precondition in preconditions {
            tx.check(entities, key, precondition.clone())?;
        }
        if let Some(token) = intent.lease {
            tx.holding(&entities.lease_with_token(key, token))?;
        }
        let seen = tx.get(entities, key)?;
        let entity = seen.as_ref().and_then(Seen::entity);
        if decide(preconditions, entity.as_ref().map(Entity::metadata)).is_err() {
            // The commit says so.
            return Ok(None);
        }
        let changed = match seen {
            None => Err(self.no_document(key)),
            Some(seen) => self.changed(key, edit, &seen, entity.as_ref()),
        };
        let value = changed.map_err(|problem| Error::refused(Unpatched(problem)))?;
        let document = value.show().map_err(|problem| Error::refused(Unpatched(problem)))?;
        tx.put(entities, key, value)?;
        Ok(Some(document))
    }

    /// # Errors
    /// 409 and 413 if the patch does not apply, 400 if what comes of it is no such value.
    fn changed(
        &self,
        key: &str,
        edit: &Edit,
        value: &V,
        entity: Option<&Entity<V>>,
    ) -> Result<V, Problem> {
        let document = value.show()?;
        let why = match edit.patch.apply(&document, edit.most) {
            Ok(document) => return V::read(Bytes::from_owner(document)),
            Err(why) => why,
        };
        let reason = match &why {
            Unpatchable::State(_) | Unpatchable::Inexact => {
                ProblemReason::Conflict(Reason::WrongState)
            }
            Unpatchable::Growth => ProblemReason::TooLarge,
        };
        let name = self.entities.name();
        let problem = Problem::new(reason, format!("{name}/{key} is not patched: {why}"));
        let problem = problem.on(name, key);
        Err(match entity {
            Some(entity) => problem.showing(self.lineage(), entity.metadata(), Some(&document)),
            None => problem,
        })
    }

    fn patched(
        &self,
        key: &str,
        edit: &Edit,
        version: Version,
        document: Option<&Document>,
    ) -> Result<Response, Problem> {
        let (intent, tag) = (&edit.intent, self.tag(version));
        // Somebody may have written it since.
        let entity = self.entities.get_at(key, version);
        let entity = entity.map_err(|error| self.failure(&error, &intent.conditions))?;
        Ok(match (entity, document) {
            (Some(entity), _) if intent.minimal => {
                response::minimal(StatusCode::NO_CONTENT, tag, &entity)
            }
            (Some(entity), _) => response::entity(StatusCode::OK, tag, &entity, entity.show()?),
            (None, Some(document)) => response::bare(tag, document),
            (None, None) => response::deleted(tag),
        })
    }
}

impl fmt::Display for Unpatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.detail())
    }
}

impl std::error::Error for Unpatched {}
