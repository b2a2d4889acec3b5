//! The reasons of refusals: their names on the wire, their titles and their statuses.

use ::http::StatusCode;

use crate::conflict::Reason;
use crate::error::{Error, Limit};

/// The status of a write that lost a race: `409` or `412`.
///
/// It applies to the reasons `stale_version`, `deleted`, `absent` and `already_exists`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleStatus {
    /// 409, what callers of most APIs expect.
    #[default]
    Conflict,
    /// 412, what RFC 9110 section 13.2.1 asks for.
    PreconditionFailed,
}

impl StaleStatus {
    /// The status itself.
    pub fn code(self) -> StatusCode {
        match self {
            StaleStatus::Conflict => StatusCode::CONFLICT,
            StaleStatus::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        }
    }
}

/// Why a request was refused. A closed set; `type` of the problem is `urn:ifmatch:` and this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemReason {
    /// A write lost a race, or a read named a version that is gone.
    Conflict(Reason),
    /// The write cannot be done in the state that the resource is in.
    WrongState,
    /// A write without a condition.
    PreconditionRequired,
    /// The request cannot be understood.
    Malformed,
    /// The request does not say by a token who sends it, or the token is not known.
    Unauthorized,
    /// The request is in the name of somebody else than the token's.
    Forbidden,
    /// There is nothing at this path.
    NotFound,
    /// The resource does not know the method.
    MethodNotAllowed,
    /// The client took too long to send the request.
    Timeout,
    /// The body is too large.
    TooLarge,
    /// The body is no JSON.
    UnsupportedMediaType,
    /// A limit of the store would be exceeded.
    Limit,
    /// The server has too much to do, or is stopping.
    Overloaded,
    /// The disk failed, and writes are refused.
    Poisoned,
    /// The disk has no space for the write.
    DiskFull,
    /// The server failed.
    Internal,
    /// An idempotency key was used for another write.
    KeyReused,
    /// The changes that were asked for are not kept any more.
    Gap,
}

impl ProblemReason {
    /// The reason as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ProblemReason::Conflict(reason) => reason.as_str(),
            ProblemReason::WrongState => "wrong_state",
            ProblemReason::PreconditionRequired => "precondition_required",
            ProblemReason::Malformed => "malformed",
            ProblemReason::Unauthorized => "unauthorized",
            ProblemReason::Forbidden => "forbidden",
            ProblemReason::NotFound => "not_found",
            ProblemReason::MethodNotAllowed => "method_not_allowed",
            ProblemReason::Timeout => "timeout",
            ProblemReason::TooLarge => "too_large",
            ProblemReason::UnsupportedMediaType => "unsupported_media_type",
            ProblemReason::Limit => "limit",
            ProblemReason::Overloaded => "overloaded",
            ProblemReason::Poisoned => "poisoned",
            ProblemReason::DiskFull => "disk_full",
            ProblemReason::Internal => "internal",
            ProblemReason::KeyReused => "key_reused",
            ProblemReason::Gap => "gap",
        }
    }

    /// A short sentence, the same for every problem of this reason (RFC 9457 section 3.1.3).
    pub fn title(self) -> &'static str {
        match self {
            ProblemReason::Conflict(Reason::StaleVersion) => "The entity has changed",
            ProblemReason::Conflict(Reason::Deleted) => "The entity was deleted",
            ProblemReason::Conflict(Reason::Absent) => "The entity does not exist",
            ProblemReason::Conflict(Reason::AlreadyExists) => "The entity exists already",
            ProblemReason::Conflict(Reason::Contended) => "The entity keeps changing",
            ProblemReason::Conflict(Reason::WrongState) => "The entity is in another state",
            ProblemReason::Conflict(Reason::Duplicate) => "The value is another entity's",
            ProblemReason::Conflict(Reason::Locked) => "Somebody holds a lease of the entity",
            ProblemReason::Conflict(Reason::Fenced) => "The lease or the operation has ended",
            ProblemReason::Conflict(Reason::InProgress) => "Another operation is in progress",
            ProblemReason::WrongState => "The resource is in another state",
            ProblemReason::PreconditionRequired => "A write needs a condition",
            ProblemReason::Malformed => "The request is malformed",
            ProblemReason::Unauthorized => "The request needs a token",
            ProblemReason::Forbidden => "The token is not for this",
            ProblemReason::NotFound => "There is nothing here",
            ProblemReason::MethodNotAllowed => "The method is not allowed here",
            ProblemReason::Timeout => "The request took too long to arrive",
            ProblemReason::TooLarge => "The body is too large",
            ProblemReason::UnsupportedMediaType => "The body has to be JSON",
            ProblemReason::Limit => "A limit is reached",
            ProblemReason::Overloaded => "The server is overloaded or stopping",
            ProblemReason::Poisoned => "The disk has failed",
            ProblemReason::DiskFull => "The disk is full",
            ProblemReason::Internal => "The server failed",
            ProblemReason::KeyReused => "The idempotency key was used for another write",
            ProblemReason::Gap => "The changes are not kept any more",
        }
    }

    /// Why the call failed, as the wire has it.
    pub(super) fn of(error: &Error) -> ProblemReason {
        match error {
            Error::Conflict(conflict) => ProblemReason::Conflict(conflict.reason()),
            Error::Duplicates { .. } => ProblemReason::Conflict(Reason::Duplicate),
            Error::Refused(_)
            | Error::CollectionType { .. }
            | Error::Schema { .. }
            | Error::Indexes { .. } => ProblemReason::WrongState,
            Error::Limit {
                limit:
                    Limit::ValueBytes
                    | Limit::TransactionKeys
                    | Limit::TransactionWrites
                    | Limit::TransactionBytes
                    | Limit::BatchWrites,
                ..
            } => ProblemReason::TooLarge,
            Error::NoCondition { .. } => ProblemReason::PreconditionRequired,
            Error::KeyReused { .. } => ProblemReason::KeyReused,
            Error::Limit {
                limit:
                    Limit::Collections
                    | Limit::MigrationBytes
                    | Limit::History
                    | Limit::Leases
                    | Limit::OperationLeases
                    | Limit::Operations
                    | Limit::OperationQueue,
                ..
            } => ProblemReason::Limit,
            Error::Limit { .. } | Error::CollectionName(_) | Error::Encode { .. } => {
                ProblemReason::Malformed
            }
            Error::Closed | Error::Migrating { .. } | Error::Restart => ProblemReason::Overloaded,
            Error::NotYet { .. } | Error::CollectionInUse { .. } => ProblemReason::Overloaded,
            Error::Gap { .. } => ProblemReason::Gap,
            Error::Poisoned { .. } => ProblemReason::Poisoned,
            Error::DiskFull { .. } => ProblemReason::DiskFull,
            Error::Decode { .. }
            | Error::OtherStore { .. }
            | Error::InUse(_)
            | Error::Io { .. }
            | Error::Corrupt { .. }
            | Error::NotEmpty(_)
            | Error::NotABackup { .. }
            | Error::Line { .. }
            | Error::NotAStore { .. }
            | Error::Index { .. } => ProblemReason::Internal,
        }
    }

    /// The status. Conflicts that stem from a lost race have that of `stale`.
    pub fn status(self, stale: StaleStatus) -> StatusCode {
        match self {
            ProblemReason::Conflict(
                Reason::Contended
                | Reason::WrongState
                | Reason::Duplicate
                | Reason::InProgress
                | Reason::Locked
                | Reason::Fenced,
            ) => StatusCode::CONFLICT,
            ProblemReason::Conflict(_) => stale.code(),
            ProblemReason::WrongState | ProblemReason::Limit => StatusCode::CONFLICT,
            ProblemReason::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            ProblemReason::Malformed => StatusCode::BAD_REQUEST,
            ProblemReason::Unauthorized => StatusCode::UNAUTHORIZED,
            ProblemReason::Forbidden => StatusCode::FORBIDDEN,
            ProblemReason::NotFound => StatusCode::NOT_FOUND,
            ProblemReason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ProblemReason::Timeout => StatusCode::REQUEST_TIMEOUT,
            ProblemReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ProblemReason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ProblemReason::Overloaded | ProblemReason::Poisoned => StatusCode::SERVICE_UNAVAILABLE,
            ProblemReason::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            ProblemReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ProblemReason::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemReason::Gap => StatusCode::GONE,
        }
    }
}
