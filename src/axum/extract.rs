//! Extractors: what the handlers of another application read from a request.

use ::axum::extract::{FromRequestParts, OptionalFromRequestParts};
use ::axum::response::{IntoResponse, Response};
use ::http::request::Parts;

use super::path::malformed;
use super::{request, response};
use crate::entity::Actor;
use crate::http::{Conditions, Problem, ProblemJson};

/// `Idempotency-Key`: the id of an operation, quoted or bare, for
/// [`Write::operation_id`](crate::Write::operation_id) (G5).
///
/// A handler takes it as it is, and then a request without it is refused with 400, or as
/// `Option<IdempotencyKey>`. A malformed one is refused either way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub String);

/// The conditional headers; a list of tags that is none is refused with 400.
impl<S: Sync> FromRequestParts<S> for Conditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Conditions, Problem> {
        request::conditions(&parts.headers)
    }
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IdempotencyKey, Problem> {
        let id = request::operation_id(&parts.headers)?;
        id.map(IdempotencyKey).ok_or_else(|| malformed("send an Idempotency-Key with this request"))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<IdempotencyKey>, Problem> {
        Ok(request::operation_id(&parts.headers)?.map(IdempotencyKey))
    }
}

/// Who writes: the extension of this type that the application's own authentication has put into
/// the request, and only without one the header `Ifmatch-Actor`, which anybody can send. Without
/// either it is refused with 400; a handler that does not mind takes an `Option<Actor>`.
impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Actor, Problem> {
        actor(parts)?.ok_or_else(|| malformed("say in Ifmatch-Actor who writes"))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Actor>, Problem> {
        actor(parts)
    }
}

/// As a problem document.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        response::problem(&self, &ProblemJson)
    }
}

fn actor(parts: &Parts) -> Result<Option<Actor>, Problem> {
    match parts.extensions.get::<Actor>() {
        Some(actor) => Ok(Some(actor.clone())),
        None => Ok(request::actor(&parts.headers)?.map(Actor::from)),
    }
}
