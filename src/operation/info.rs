//! What everybody may know of an operation, and the token that only its holder has.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{Span, Timestamp};
use crate::entity::Actor;
use crate::operation::record::{OperationRecord, ScopeRecord};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationStatus {
    /// It waits behind others for its scope.
    Queued,
    /// It has its scope.
    InProgress,
    /// It has ended, and has a result.
    Completed,
    /// It has ended, and has an error.
    Failed,
    /// Its holder gave no sign of life for its time to live.
    Expired,
    /// It was given up, by its holder or by an operator.
    Cancelled,
}

impl OperationStatus {
    /// The status as it stands on the wire: `queued`, `in_progress`, …
    pub fn as_str(self) -> &'static str {
        match self {
            OperationStatus::Queued => "queued",
            OperationStatus::InProgress => "in_progress",
            OperationStatus::Completed => "completed",
            OperationStatus::Failed => "failed",
            OperationStatus::Expired => "expired",
            OperationStatus::Cancelled => "cancelled",
        }
    }

    /// Whether it will not change any more.
    pub fn is_end(self) -> bool {
        !matches!(self, OperationStatus::Queued | OperationStatus::InProgress)
    }

    /// As it is stored.
    pub(crate) fn number(self) -> u8 {
        match self {
            OperationStatus::Queued | OperationStatus::InProgress => 0,
            OperationStatus::Completed => 1,
            OperationStatus::Failed => 2,
            OperationStatus::Expired => 3,
            OperationStatus::Cancelled => 4,
        }
    }

    pub(crate) fn of_number(number: u8) -> Option<OperationStatus> {
        Some(match number {
            1 => OperationStatus::Completed,
            2 => OperationStatus::Failed,
            3 => OperationStatus::Expired,
            4 => OperationStatus::Cancelled,
            _ => return None,
        })
    }
}

impl fmt::Display for OperationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What its holder proves itself with. 64 random bits: they keep a worker that is late, or
/// mistaken, from steps that are not its own; they are no secret that would keep out an attacker.
///
/// ```
/// let token = ifmatch::OperationToken::from_bits(0xfe);
/// assert_eq!(token.to_string(), "00000000000000fe");
/// assert_eq!("00000000000000fe".parse(), Ok(token));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationToken(u64);

impl OperationToken {
    /// The token of these bits.
    pub fn from_bits(bits: u64) -> OperationToken {
        OperationToken(bits)
    }

    /// Its bits.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for OperationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for OperationToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<OperationToken, NotAToken> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        bits.map(OperationToken).ok_or(NotAToken)
    }
}

/// The text is no token of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAToken;

impl fmt::Display for NotAToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the token of an operation: it reads as 16 hexadecimal digits")
    }
}

impl std::error::Error for NotAToken {}

/// An operation as it was at one moment, without its token.
#[derive(Clone, Debug)]
pub struct OperationInfo {
    id: String,
    kind: String,
    scope: String,
    status: OperationStatus,
    position: Option<usize>,
    progress: Option<u8>,
    input: Option<Arc<[u8]>>,
    output: Option<Arc<[u8]>>,
    started_by: Option<Actor>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    remaining: Duration,
    replayed: bool,
}

impl OperationInfo {
    /// Its id: sorts by the time at which it was begun, and stands in a path as it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What kind of work it is.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What it has for itself while it is in progress.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// How far it has come.
    pub fn status(&self) -> OperationStatus {
        self.status
    }

    /// Its place in the queue of its scope, from 1 on, if it is queued.
    pub fn position(&self) -> Option<usize> {
        self.position
    }

    /// How much is done, in per cent, as its holder said last.
    pub fn progress(&self) -> Option<u8> {
        self.progress
    }

    /// What it was begun with.
    pub fn input(&self) -> Option<&[u8]> {
        self.input.as_deref()
    }

    /// What it came to, if it is completed.
    pub fn result(&self) -> Option<&[u8]> {
        self.output.as_deref().filter(|_| self.status == OperationStatus::Completed)
    }

    /// Why it failed, if it did.
    pub fn error(&self) -> Option<&[u8]> {
        self.output.as_deref().filter(|_| self.status == OperationStatus::Failed)
    }

    /// Who began it, if that was said.
    pub fn started_by(&self) -> Option<&str> {
        self.started_by.as_ref().map(Actor::as_str)
    }

    /// When it was begun, if only to be queued.
    pub fn created_at(&self) -> SystemTime {
        self.created_at.into()
    }

    /// When it got its scope, if it has.
    pub fn started_at(&self) -> Option<SystemTime> {
        self.started_at.map(SystemTime::from)
    }

    /// When it expires by the time of day, while it is in progress, unless its holder gives a sign
    /// of life. What counts is [`remaining`](OperationInfo::remaining), which a clock that is set
    /// does not change.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at.map(SystemTime::from)
    }

    /// How long that was off when this was read. Zero if it is not in progress, and of one that has
    /// expired without anybody having met it yet.
    pub fn remaining(&self) -> Duration {
        self.remaining
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.ended_at.map(SystemTime::from)
    }

    /// Whether this answers a step that had been taken before, with the same operation id (G5).
    pub fn is_replayed(&self) -> bool {
        self.replayed
    }
}

impl OperationInfo {
    /// Of an operation that has ended, or has a place in `scope`; `None` otherwise.
    pub(crate) fn of(
        id: &str,
        record: &OperationRecord,
        scope: Option<&ScopeRecord>,
        monotonic: Duration,
    ) -> Option<OperationInfo> {
        let mut info = OperationInfo {
            id: id.to_owned(),
            kind: record.kind.clone(),
            scope: record.scope.clone(),
            status: OperationStatus::Queued,
            position: None,
            progress: None,
            input: record.input.clone(),
            output: None,
            started_by: record.started_by.clone(),
            created_at: record.created_at,
            started_at: None,
            expires_at: None,
            ended_at: None,
            remaining: Duration::ZERO,
            replayed: false,
        };
        if let Some(end) = &record.end {
            info.status = end.status;
            info.progress = end.progress;
            info.output = end.output.clone();
            info.started_at = end.started_at;
            info.ended_at = Some(end.ended_at);
            return Some(info);
        }
        let scope = scope?;
        let place = scope.place_of(id)?;
        if place > 0 {
            info.position = Some(place);
            return Some(info);
        }
        let running = &scope.running;
        info.status = OperationStatus::InProgress;
        info.progress = running.progress;
        info.started_at = Some(running.started_at);
        info.expires_at = Some(running.expires_at);
        info.remaining = running.deadline.saturating_sub(monotonic);
        Some(info)
    }

    pub(crate) fn replayed(self, replayed: bool) -> OperationInfo {
        OperationInfo { replayed, ..self }
    }

    /// When to come back: when the rest is done at the pace so far, if its progress is known, else
    /// when it would expire. At least a second.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Duration {
        let so_far = self.started_at.map(|started| now.since(started)).unwrap_or_default();
        let rest = match self.progress {
            Some(done @ 1..100) => so_far.saturating_mul(u32::from(100 - done)) / u32::from(done),
            _ => self.remaining,
        };
        rest.max(Duration::from_secs(1))
    }

    /// Why nobody else gets its scope.
    pub(crate) fn say_in_progress(
        &self,
        f: &mut fmt::Formatter<'_>,
        now: Timestamp,
    ) -> fmt::Result {
        let OperationInfo { id, kind, scope, .. } = self;
        let since = Span(now.since(self.started_at.unwrap_or(self.created_at)));
        write!(f, "scope {scope} is taken: {kind} {id} has been in progress for {since}")?;
        if let Some(progress) = self.progress {
            write!(f, ", at {progress} %")?;
        }
        if let Some(actor) = &self.started_by {
            write!(f, ", started by {actor}")?;
        }
        f.write_str("; wait for it, or queue behind it")
    }

    /// Why a step is not its holder's.
    pub(crate) fn say_fenced(&self, f: &mut fmt::Formatter<'_>, now: Timestamp) -> fmt::Result {
        let OperationInfo { id, kind, scope, .. } = self;
        write!(f, "{kind} {id} in scope {scope} ")?;
        let ago = self.ended_at.map(|ended| Span(now.since(ended)));
        match (self.status, ago) {
            (OperationStatus::Expired, Some(ago)) => {
                write!(f, "expired {ago} ago, without a sign of life; stop, or begin anew")
            }
            (OperationStatus::Failed, Some(ago)) => {
                write!(f, "failed {ago} ago; stop, or begin anew")
            }
            (status, Some(ago)) => write!(f, "was {status} {ago} ago; stop, or begin anew"),
            (_, None) => f.write_str("has another token; use the one that its beginning gave"),
        }
    }
}
