//! How refusals are written: as problem documents, as Google's APIs write them, or as one likes.

mod google;

use std::fmt;

use ::http::header::{self, HeaderValue};
use ::http::{Response, StatusCode};

use super::problem::Problem;
use crate::operation::OperationStatus;

pub use google::{Google, GoogleLegacy};

/// How a refusal is written. The status and the headers are the same in all dialects. What a batch
/// says of its writes, one by one, and how a stream of events ends, are parts of an answer, and no
/// refusal: they are the same in all of them too.
///
/// ```
/// use http::header::HeaderValue;
/// use ifmatch::http::{Dialect, Problem, ProblemReason};
///
/// #[derive(Debug)]
/// struct Plain;
///
/// impl Dialect for Plain {
///     fn content_type(&self) -> HeaderValue {
///         HeaderValue::from_static("text/plain; charset=utf-8")
///     }
///     fn body(&self, problem: &Problem) -> String {
///         let place = problem.collection().zip(problem.key());
///         let place = place.map(|(collection, key)| format!(" ({collection}/{key})"));
///         let place = place.unwrap_or_default();
///         format!("{}: {}{place}\n", problem.reason().as_str(), problem.detail())
///     }
/// }
///
/// let problem = Problem::new(ProblemReason::NotFound, "no such room").on("rooms", "r1");
/// let response = problem.answer(&Plain);
/// assert_eq!(response.status(), 404);
/// assert_eq!(response.body(), "not_found: no such room (rooms/r1)\n");
/// ```
pub trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// The media type of [`body`](Dialect::body).
    fn content_type(&self) -> HeaderValue;

    /// The body of the answer.
    fn body(&self, problem: &Problem) -> String;

    /// How the status of an operation is spelled: `in_progress` unless a dialect says otherwise.
    fn operation_status(&self, status: OperationStatus) -> &'static str {
        status.as_str()
    }
}

/// Problem documents (RFC 9457), `application/problem+json`: the default, which tells everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProblemJson;

impl Dialect for ProblemJson {
    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static("application/problem+json")
    }

    fn body(&self, problem: &Problem) -> String {
        // Serializing strings and numbers into a string does not fail.
        serde_json::to_string(problem).unwrap_or_default()
    }
}

impl Problem {
    /// The whole answer in a dialect: status, headers and body. See [`Dialect`].
    pub fn answer(&self, dialect: &dyn Dialect) -> Response<String> {
        let mut response = Response::new(dialect.body(self));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, dialect.content_type());
        // A cache would otherwise guess how long a 404, a 405 or a 428 holds.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(methods) = self.allowed() {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(types) = self.patches() {
            headers.insert("accept-patch", HeaderValue::from_static(types));
        }
        response
    }
}

/// The whole answer as a problem document.
impl From<Problem> for Response<String> {
    fn from(problem: Problem) -> Response<String> {
        problem.answer(&ProblemJson)
    }
}
