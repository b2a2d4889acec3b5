//! `PATCH`: a document is read, changed and written as one transaction.

mod apply;
mod exact;

use std::fmt;

use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;

pub(super) use self::apply::ACCEPTED;
use self::apply::{Patch, Unpatchable, is_accepted};
use super::request::{Intent, body, media_type};
use super::response;
use super::service::{Service, no_document};
use crate::collection::Collection;
use crate::conflict::Reason;
use crate::entity::Entity;
use crate::error::{Error, Result as StoreResult};
use crate::http::{Conditions, Document, Problem, ProblemReason};
use crate::precondition::{Precondition, decide};
use crate::transact::{Once, Seen, Transaction};
use crate::version::Version;

/// One patch of one document.
struct Edit {
    documents: Collection<String, Document>,
    key: String,
    intent: Intent,
    preconditions: Vec<Precondition>,
    patch: Patch,
    /// Bytes that the document may have.
    most: usize,
}

/// The patch does not apply to this entity.
#[derive(Debug)]
struct Failed(Unpatchable, Option<Entity<Document>>);

impl Service {
    /// `PATCH /collections/{collection}/{key}`.
    pub(super) async fn patch(
        &self,
        collection: &str,
        key: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let (parts, sent) = request.into_parts();
        let (intent, kind) = (Intent::of(&parts)?, media_type(&parts.headers)?);
        if !is_accepted(&kind) {
            let detail = format!("a patch is one of {ACCEPTED}");
            let problem = Problem::new(ProblemReason::UnsupportedMediaType, detail);
            return Err(problem.accepting(ACCEPTED));
        }
        let about = format!("PATCH {} {kind}\n", parts.uri.path());
        let bytes = body(Request::from_parts(parts, sent), &self.options).await?;
        let patch = Patch::parse(&kind, &bytes)?;
        let preconditions = intent.preconditions(self.store.lineage());
        let preconditions = match patch.tests() {
            true => preconditions,
            false => self.required(collection, preconditions)?,
        };
        if !self.store.has_collection(collection) {
            return Err(match intent.conditions == Conditions::default() {
                true => no_document(collection, key),
                false => self.absent(collection, key, &intent.conditions),
            });
        }
        let steady = self.steady().await;
        let (documents, most) = (self.open(&steady, collection)?, self.options.body_limit);
        let key = key.to_owned();
        let edit = Edit { documents, key, intent, preconditions, patch, most };
        match self.edit(&edit, [about.as_bytes(), &bytes].concat()).await {
            Ok((version, document, replayed)) => {
                let answer = self.patched(&edit, version, document.as_ref())?;
                Ok(response::replayed(answer, replayed))
            }
            Err(error) => Err(self.unpatched(&edit, error)),
        }
    }

    /// The version that was written, what was written unless that was before, and whether it was.
    async fn edit(
        &self,
        edit: &Edit,
        payload: Vec<u8>,
    ) -> StoreResult<(Version, Option<Document>, bool)> {
        let mut transact = self.store.transact(|tx| edit.run(tx));
        if let Some(actor) = &edit.intent.actor {
            transact = transact.by(actor.as_str());
        }
        let done = match &edit.intent.operation_id {
            None => Once::First(transact.await?),
            Some(id) => transact.operation_id(id).payload(payload).await?,
        };
        match done {
            Once::Replayed { version } => Ok((version, None, true)),
            Once::First(done) => {
                let version = done.version().ok_or(Error::Restart)?;
                Ok((version, done.into_value(), false))
            }
        }
    }

    fn patched(
        &self,
        edit: &Edit,
        version: Version,
        document: Option<&Document>,
    ) -> Result<Response, Problem> {
        let Edit { documents, key, intent, .. } = edit;
        let tag = self.tag(version);
        // Somebody may have written it since.
        let entity = documents.get_at(key, version);
        let entity = entity.map_err(|error| self.failure(&error, &intent.conditions))?;
        Ok(match (entity, document) {
            (Some(entity), _) if intent.minimal => {
                response::minimal(StatusCode::NO_CONTENT, tag, &entity)
            }
            (Some(entity), _) => response::document(StatusCode::OK, tag, &entity),
            (None, Some(document)) => response::bare(tag, document),
            (None, None) => response::deleted(tag),
        })
    }

    fn unpatched(&self, edit: &Edit, error: Error) -> Problem {
        let (collection, key) = (edit.documents.name(), &*edit.key);
        let failed = match error {
            Error::Refused(refused) => refused.downcast::<Failed>().map_err(Error::Refused),
            error => Err(error),
        };
        let failed = match failed {
            Ok(failed) => failed,
            Err(error) => return self.failure(&error, &edit.intent.conditions),
        };
        let Failed(why, entity) = &*failed;
        let reason = match why {
            Unpatchable::Absent => return no_document(collection, key),
            Unpatchable::State(_) | Unpatchable::Inexact => {
                ProblemReason::Conflict(Reason::WrongState)
            }
            Unpatchable::Growth => ProblemReason::TooLarge,
        };
        let detail = format!("{collection}/{key} is not patched: {failed}");
        let problem = Problem::new(reason, detail).on(collection, key);
        match entity {
            Some(entity) => problem.showing(self.store.lineage(), entity),
            None => problem,
        }
    }
}

impl Edit {
    fn run(&self, tx: &mut Transaction<'_>) -> StoreResult<Option<Document>> {
        let Edit { documents, key, intent, preconditions, patch, most } = self;
        for precondition in preconditions {
            tx.check(documents, key, precondition.clone())?;
        }
        if let Some(token) = intent.lease {
            tx.holding(&documents.lease_with_token(key, token))?;
        }
        let seen = tx.get(documents, key)?;
        let entity = seen.as_ref().and_then(Seen::entity);
        if decide(preconditions, entity.as_ref().map(Entity::metadata)).is_err() {
            // The commit says so.
            return Ok(None);
        }
        let Some(seen) = seen else {
            return Err(Error::refused(Failed(Unpatchable::Absent, None)));
        };
        match patch.apply(&seen, *most) {
            Ok(document) => {
                tx.put(documents, key, document.clone())?;
                Ok(Some(document))
            }
            Err(why) => Err(Error::refused(Failed(why, entity))),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Unpatchable::Absent => f.write_str("it is not there"),
            Unpatchable::State(why) => write!(f, "{why}; read the document again"),
            Unpatchable::Growth => f.write_str("it would be larger, or deeper, than is taken"),
            Unpatchable::Inexact => f.write_str(
                "it has a number with more digits than would be kept; replace it as a whole",
            ),
        }
    }
}

impl std::error::Error for Failed {}
