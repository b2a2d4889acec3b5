//! What each request goes through, whatever it asks for: a token, a place, a span, and an answer.

use std::time::Duration;

use ::axum::extract::{OriginalUri, Request};
use ::axum::response::Response;
use ::http::HeaderValue;
use ::http::Method;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Span;

use super::path::malformed;
use super::{RouterOptions, response, trace};
use crate::entity::Actor;
use crate::http::{Problem, ProblemReason};
use crate::service::Service as Timers;

/// A request that has begun.
pub(super) struct Begun {
    /// As the client sent it, also where the router is nested.
    pub(super) path: String,
    pub(super) method: Method,
    pub(super) span: Span,
    at: Duration,
}

impl Begun {
    pub(super) fn of(request: &Request, timers: &Timers) -> Begun {
        let path = match request.extensions().get::<OriginalUri>() {
            Some(OriginalUri(uri)) => uri.path().to_owned(),
            None => request.uri().path().to_owned(),
        };
        let method = request.method().clone();
        let span = trace::request(&method, &path);
        Begun { path, method, span, at: timers.now() }
    }

    /// Writes out what came of it.
    pub(super) fn end(
        &self,
        answer: Result<Response, Problem>,
        options: &RouterOptions,
        timers: &Timers,
    ) -> Response {
        let answer = answer.unwrap_or_else(|problem| {
            response::problem(&options.told(problem).at(&*self.path), &*options.dialect)
        });
        trace::answered(&self.span, answer.status(), timers.now().saturating_sub(self.at));
        answer
    }
}

/// A place among those that are worked on, for whoever has a token if one is needed: if there are
/// tokens, and the path is not open to all.
///
/// # Errors
/// 400, 401, 403 and 503.
pub(super) fn admit<'a>(
    request: &mut Request,
    is_open: bool,
    options: &RouterOptions,
    slots: &'a Semaphore,
) -> Result<SemaphorePermit<'a>, Problem> {
    if let Some(tokens) = &options.tokens
        && !is_open
    {
        tokens.admit(request.headers_mut())?;
    }
    // The application's own authentication knows better than the client who that is.
    if let Some(actor) = request.extensions().get::<Actor>() {
        let name = HeaderValue::from_bytes(actor.as_str().as_bytes());
        let name = name.map_err(|_| malformed("the name of who writes has control characters"))?;
        request.headers_mut().insert("ifmatch-actor", name);
    }
    trace::actor(request.headers());
    let full = |_| overloaded("too many requests are under way; nothing was done");
    slots.try_acquire().map_err(full)
}

/// A 503.
pub(super) fn overloaded(detail: &str) -> Problem {
    Problem::new(ProblemReason::Overloaded, detail)
}
