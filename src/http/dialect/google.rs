//! Refusals as Google's APIs write them, today and of old.

use std::collections::BTreeMap;

use ::http::StatusCode;
use ::http::header::HeaderValue;
use serde_json::json;

use super::Dialect;
use crate::conflict::Reason;
use crate::http::{Problem, ProblemReason};
use crate::operation::OperationStatus;

/// What the names of the types of details begin with.
const TYPES: &str = "type.googleapis.com/google.rpc.";

/// As Google's APIs refuse today: a `google.rpc.Status` with an `ErrorInfo`.
///
/// A `RetryInfo` follows where a time to wait is known, and a `PreconditionFailure` with all
/// conflicts of a transaction.
///
/// `status` is a name of `google.rpc.Code`, by reason and whatever the HTTP status:
///
/// | reason | `status` |
/// |---|---|
/// | `stale_version`, `deleted`, `absent`, `contended` | `ABORTED` |
/// | `locked`, `fenced`, `in_progress` | `ABORTED` |
/// | `already_exists`, `duplicate` | `ALREADY_EXISTS` |
/// | `wrong_state` | `FAILED_PRECONDITION` |
/// | `precondition_required`, `malformed`, `key_reused` | `INVALID_ARGUMENT` |
/// | `too_large`, `unsupported_media_type` | `INVALID_ARGUMENT` |
/// | `unauthorized` | `UNAUTHENTICATED` |
/// | `forbidden` | `PERMISSION_DENIED` |
/// | `not_found` | `NOT_FOUND` |
/// | `method_not_allowed` | `UNIMPLEMENTED` |
/// | `limit`, `disk_full` | `RESOURCE_EXHAUSTED` |
/// | `gap` | `OUT_OF_RANGE` |
/// | `timeout` | `DEADLINE_EXCEEDED` |
/// | `overloaded`, `poisoned` | `UNAVAILABLE` |
/// | `internal` | `INTERNAL` |
///
/// ```
/// use ifmatch::http::{Google, Problem, ProblemReason};
///
/// let problem = Problem::new(ProblemReason::NotFound, "no such room").on("rooms", "r1");
/// let body: serde_json::Value = serde_json::from_str(problem.answer(&Google::default()).body())?;
/// assert_eq!(body["error"]["status"], "NOT_FOUND");
/// assert_eq!(body["error"]["details"][0]["metadata"]["key"], "r1");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Google {
    domain: String,
}

/// As Google's older APIs refuse: a list of `errors`, each with message, domain and reason.
///
/// The reason is `conditionNotMet` with status 412, `duplicate` for `already_exists` and
/// `duplicate`, `conflict` for everything else with status 409, and a name of its own for the
/// rest. A transaction has an error for each of its conflicts.
///
/// ```
/// use ifmatch::http::{Conditions, GoogleLegacy, Problem, StaleStatus};
///
/// let store = ifmatch::Store::in_memory();
/// let transfers = store.operations("transfer");
/// let _first = transfers.begin("user/42").commit()?;
/// let refused = transfers.begin("user/42").commit().expect_err("one is in progress");
///
/// let problem = Problem::from_error(&refused, &Conditions::default(), StaleStatus::Conflict);
/// let problem = problem.worded(Some("A transfer is under way.".to_owned()), None);
/// let expected = [
///     r#"{"error":{"code":409,"message":"A transfer is under way.","errors":[{"#,
///     r#""message":"A transfer is under way.","domain":"global","reason":"conflict"}]}}"#,
/// ];
/// assert_eq!(*problem.answer(&GoogleLegacy::default()).body(), expected.concat());
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GoogleLegacy {
    domain: String,
}

impl Default for Google {
    fn default() -> Google {
        Google { domain: "ifmatch".to_owned() }
    }
}

impl Default for GoogleLegacy {
    fn default() -> GoogleLegacy {
        GoogleLegacy { domain: "global".to_owned() }
    }
}

impl Google {
    /// Of a service with this name, where the reasons are defined; `ifmatch` by default.
    #[must_use]
    pub fn of_domain(domain: impl Into<String>) -> Google {
        Google { domain: domain.into() }
    }
}

impl GoogleLegacy {
    /// With this domain for all refusals that have none of their own; `global` by default.
    #[must_use]
    pub fn of_domain(domain: impl Into<String>) -> GoogleLegacy {
        GoogleLegacy { domain: domain.into() }
    }

    fn error(&self, problem: &Problem) -> String {
        format!(
            "{{\"message\":{},\"domain\":{},\"reason\":\"{}\"}}",
            quoted(problem.detail()),
            quoted(problem.domain().unwrap_or(&self.domain)),
            legacy_reason(problem),
        )
    }
}

impl Dialect for Google {
    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static("application/json")
    }

    fn body(&self, problem: &Problem) -> String {
        let domain = problem.domain().unwrap_or(&self.domain);
        let (message, domain) = (quoted(problem.detail()), quoted(domain));
        // Written by hand, so that the members come in the order in which people know them.
        let mut details = format!(
            "{{\"@type\":\"{TYPES}ErrorInfo\",\"reason\":\"{}\",\"domain\":{domain},\
             \"metadata\":{}}}",
            name(problem),
            json!(metadata(problem)),
        );
        if let Some(wait) = problem.retry_in() {
            let (seconds, millis) = (wait.as_secs(), wait.subsec_millis());
            details += &format!(
                ",{{\"@type\":\"{TYPES}RetryInfo\",\"retryDelay\":\"{seconds}.{millis:03}s\"}}"
            );
        }
        if !problem.conflicts().is_empty() {
            let violations = joined(problem.conflicts().iter().map(violation));
            details += &format!(
                ",{{\"@type\":\"{TYPES}PreconditionFailure\",\"violations\":[{violations}]}}"
            );
        }
        format!(
            "{{\"error\":{{\"code\":{},\"message\":{message},\"status\":\"{}\",\
             \"details\":[{details}]}}}}",
            problem.status().as_u16(),
            code(problem.reason()),
        )
    }
}

impl Dialect for GoogleLegacy {
    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static("application/json")
    }

    fn body(&self, problem: &Problem) -> String {
        let errors = match problem.conflicts() {
            [] => self.error(problem),
            conflicts => joined(conflicts.iter().map(|conflict| self.error(conflict))),
        };
        format!(
            "{{\"error\":{{\"code\":{},\"message\":{},\"errors\":[{errors}]}}}}",
            problem.status().as_u16(),
            quoted(problem.detail()),
        )
    }

    fn operation_status(&self, status: OperationStatus) -> &'static str {
        match status {
            OperationStatus::InProgress => "inProgress",
            other => other.as_str(),
        }
    }
}

/// Of a transaction: one of the entities that are not as the caller knew them.
fn violation(problem: &Problem) -> String {
    let (collection, key) = (problem.collection(), problem.key());
    let subject = format!("{}/{}", collection.unwrap_or_default(), key.unwrap_or_default());
    format!(
        "{{\"type\":\"{}\",\"subject\":{},\"description\":{}}}",
        name(problem),
        quoted(&subject),
        quoted(problem.detail()),
    )
}

fn name(problem: &Problem) -> String {
    problem.reason().as_str().to_ascii_uppercase()
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// What is known beside the sentence: strings, as `ErrorInfo` wants it.
fn metadata(problem: &Problem) -> BTreeMap<&'static str, String> {
    let versions: Vec<_> = problem.expected().iter().map(u64::to_string).collect();
    let expected = Some(versions.join(",")).filter(|versions| !versions.is_empty());
    let parts = [
        ("collection", problem.collection().map(str::to_owned)),
        ("key", problem.key().map(str::to_owned)),
        ("expectedVersions", expected),
        ("currentVersion", problem.current().map(|version| version.to_string())),
        ("etag", problem.etag().map(str::to_owned)),
        ("operationKind", problem.operation_kind().map(str::to_owned)),
        ("operationId", problem.operation_id().map(str::to_owned)),
    ];
    parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The name of `google.rpc.Code`.
fn code(reason: ProblemReason) -> &'static str {
    match reason {
        ProblemReason::Conflict(Reason::AlreadyExists | Reason::Duplicate) => "ALREADY_EXISTS",
        ProblemReason::Conflict(Reason::WrongState) | ProblemReason::WrongState => {
            "FAILED_PRECONDITION"
        }
        ProblemReason::Conflict(
            Reason::StaleVersion
            | Reason::Deleted
            | Reason::Absent
            | Reason::Contended
            | Reason::Locked
            | Reason::InProgress
            | Reason::Fenced,
        ) => "ABORTED",
        ProblemReason::PreconditionRequired
        | ProblemReason::Malformed
        | ProblemReason::KeyReused
        | ProblemReason::TooLarge
        | ProblemReason::UnsupportedMediaType => "INVALID_ARGUMENT",
        ProblemReason::Unauthorized => "UNAUTHENTICATED",
        ProblemReason::Forbidden => "PERMISSION_DENIED",
        ProblemReason::NotFound => "NOT_FOUND",
        ProblemReason::MethodNotAllowed => "UNIMPLEMENTED",
        ProblemReason::Limit | ProblemReason::DiskFull => "RESOURCE_EXHAUSTED",
        ProblemReason::Gap => "OUT_OF_RANGE",
        ProblemReason::Timeout => "DEADLINE_EXCEEDED",
        ProblemReason::Overloaded | ProblemReason::Poisoned => "UNAVAILABLE",
        ProblemReason::Internal => "INTERNAL",
    }
}

fn legacy_reason(problem: &Problem) -> &'static str {
    if problem.status() == StatusCode::PRECONDITION_FAILED {
        return "conditionNotMet";
    }
    match problem.reason() {
        ProblemReason::Conflict(Reason::AlreadyExists | Reason::Duplicate) => "duplicate",
        ProblemReason::Conflict(
            Reason::StaleVersion
            | Reason::Deleted
            | Reason::Absent
            | Reason::Contended
            | Reason::WrongState
            | Reason::Locked
            | Reason::InProgress
            | Reason::Fenced,
        )
        | ProblemReason::WrongState => "conflict",
        ProblemReason::PreconditionRequired => "required",
        ProblemReason::Malformed | ProblemReason::KeyReused => "invalid",
        ProblemReason::UnsupportedMediaType => "badContent",
        ProblemReason::TooLarge => "uploadTooLarge",
        ProblemReason::Unauthorized => "authError",
        ProblemReason::Forbidden => "forbidden",
        ProblemReason::NotFound => "notFound",
        ProblemReason::MethodNotAllowed => "httpMethodNotAllowed",
        ProblemReason::Limit => "limitExceeded",
        ProblemReason::DiskFull => "quotaExceeded",
        ProblemReason::Gap => "deleted",
        ProblemReason::Timeout => "requestTimeout",
        ProblemReason::Overloaded | ProblemReason::Poisoned => "backendError",
        ProblemReason::Internal => "internalError",
    }
}
