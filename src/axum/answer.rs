//! Answers of another application's handlers: an entity with its validators, or a refusal.

use ::axum::response::{IntoResponse, Response};
use ::http::StatusCode;
use serde::Serialize;

use super::read::status;
use super::representation::shown;
use super::response;
use crate::collection::Collection;
use crate::entity::Entity;
use crate::error::Error;
use crate::http::{Conditions, Problem, ProblemReason, StaleStatus};
use crate::version::EntityTag;
use crate::write::Committed;

/// An entity as an answer: its value as JSON, with `ETag`, `Last-Modified`, `Ifmatch-Version` and
/// `Ifmatch-Written-By`.
///
/// The tag is a strong one of exactly this representation, also in the answer of a write: what is
/// sent is what is stored, as it was serialized, and not what the client had sent. A handler
/// should show one value under one URL in one way only.
///
/// ```
/// use axum::Router;
/// use axum::extract::{Path, State};
/// use axum::response::IntoResponse;
/// use axum::routing::get;
/// use ifmatch::axum::{Refusal, Tagged};
/// use ifmatch::http::Conditions;
/// use ifmatch::{Actor, Collection, Store};
///
/// type Rooms = Collection<String, u32>;
///
/// async fn show(
///     State(rooms): State<Rooms>,
///     Path(key): Path<String>,
///     conditions: Conditions,
/// ) -> Result<impl IntoResponse, Refusal> {
///     Tagged::read(&rooms, &key, &conditions)
/// }
///
/// async fn add_seat(
///     State(rooms): State<Rooms>,
///     Path(key): Path<String>,
///     actor: Actor,
/// ) -> Result<impl IntoResponse, Refusal> {
///     let written = rooms.update(&key, |seats| *seats += 1).by(actor).await?;
///     Ok(Tagged::written(&rooms, &written))
/// }
///
/// let rooms: Rooms = Store::in_memory().collection("rooms")?;
/// let app: Router = Router::new().route("/{key}", get(show).post(add_seat)).with_state(rooms);
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an answer does nothing before it is returned"]
pub struct Tagged<V> {
    entity: Entity<V>,
    tag: EntityTag,
    status: StatusCode,
    replayed: bool,
}

/// Why a handler does not do what it was asked for. [`Error`] becomes one with `?`.
///
/// A lost race is answered with 409. With [`of`](Refusal::of) it can be 412, and the refusal tells
/// the tags that the client sent (G4).
#[derive(Clone, Debug)]
pub struct Refusal(Problem);

impl<V> Tagged<V> {
    /// The entity under `key`, or 304 if the conditions say that the client has it.
    ///
    /// # Errors
    /// 404 without an entity, 412 if `If-Match` or `If-Unmodified-Since` does not hold, and what
    /// [`Collection::get`] fails with.
    pub fn read(
        collection: &Collection<String, V>,
        key: &str,
        conditions: &Conditions,
    ) -> Result<Tagged<V>, Refusal>
    where
        V: Send + Sync + 'static,
    {
        let name = collection.name();
        let Some(entity) = collection.get(key)? else {
            let detail = format!("there is no {name}/{key}; check the key, or create it");
            return Err(Problem::new(ProblemReason::NotFound, detail).on(name, key).into());
        };
        let status = status(collection, key, conditions, &entity)?;
        let tag = EntityTag { lineage: collection.store.lineage, version: entity.version() };
        Ok(Tagged { entity, tag, status, replayed: false })
    }

    /// What a write has stored: 201 if it was created, else 200; `Idempotency-Replayed: true` if
    /// the write had landed before (G5).
    pub fn written<K>(collection: &Collection<K, V>, written: &Committed<V>) -> Tagged<V> {
        Tagged {
            entity: written.entity().clone(),
            tag: EntityTag { lineage: collection.store.lineage, version: written.version() },
            status: match written.previous() {
                None => StatusCode::CREATED,
                Some(_) => StatusCode::OK,
            },
            replayed: written.is_replayed(),
        }
    }
}

impl<V: Serialize> IntoResponse for Tagged<V> {
    fn into_response(self) -> Response {
        let document = match shown(self.entity.value()) {
            Ok(document) => document,
            Err(problem) => return problem.into_response(),
        };
        let answer = response::entity(self.status, self.tag, &self.entity, document);
        response::replayed(answer, self.replayed)
    }
}

impl Refusal {
    /// The refusal of a request with these conditions; `stale` is the status of a lost race.
    #[must_use]
    pub fn of(error: &Error, conditions: &Conditions, stale: StaleStatus) -> Refusal {
        Refusal(Problem::from_error(error, conditions, stale))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::of(&error, &Conditions::default(), StaleStatus::default())
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
