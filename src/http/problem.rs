//! Refusals as problem documents (RFC 9457): `application/problem+json`.

mod members;
mod parts;
#[cfg(feature = "axum")]
mod router;

use std::time::Duration;

use ::http::StatusCode;
use serde::Serialize;

#[cfg(feature = "axum")]
pub(crate) use self::members::Members as ProblemMembers;
use self::members::{Advice, Current, Expected, Holder, Members, Shared, time};
use super::conditional::Conditions;
use super::document::Document;
use super::etag::TagList;
use super::operation::Operation;
use super::reason::{ProblemReason, StaleStatus};
use crate::conflict::{Conflict, Reason, Retry};
use crate::entity::Metadata;
use crate::error::{Error, Outcome};
use crate::precondition::Precondition;
use crate::version::{EntityTag, Lineage, Version};

/// A refusal, as a body and headers that say what happened and what to do next (G4).
///
/// ```
/// use ifmatch::http::{Conditions, Problem, StaleStatus};
///
/// let store = ifmatch::Store::in_memory();
/// let rooms = store.collection::<String, u32>("rooms")?;
/// rooms.create("r1", 1).commit()?;
/// let error = rooms.create("r1", 2).commit().expect_err("it is there");
///
/// let problem = Problem::from_error(&error, &Conditions::default(), StaleStatus::Conflict);
/// let response = http::Response::from(problem);
/// assert_eq!(response.status(), 409);
/// assert!(response.body().contains(r#""reason":"already_exists""#));
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<Members>);

impl Problem {
    /// A problem of this reason. `detail` says what happened this time and what to do next.
    pub fn new(reason: ProblemReason, detail: impl Into<String>) -> Problem {
        Problem(Box::new(Members {
            kind: format!("urn:ifmatch:{}", reason.as_str()),
            title: reason.title(),
            status: reason.status(StaleStatus::default()),
            detail: detail.into(),
            instance: None,
            reason,
            collection: None,
            key: None,
            expected: None,
            current: None,
            changed: None,
            index: None,
            held_by: None,
            holder: None,
            expires_at: None,
            operation: None,
            outcome: None,
            oldest: None,
            duplicates: None,
            retry: advice(reason),
            conflicts: Vec::new(),
            domain: None,
            allow: None,
            accept_patch: None,
        }))
    }

    /// The problem that `error` is. A conflict echoes the tags of the request's `conditions`,
    /// and has the status `stale` if a race was lost.
    pub fn from_error(error: &Error, conditions: &Conditions, stale: StaleStatus) -> Problem {
        let changed = error.conflict().and_then(Conflict::changed);
        let detail = match error {
            Error::Conflict(conflict) => conflict.sentence(changed.as_deref()),
            other => other.to_string(),
        };
        let mut problem = Problem::new(ProblemReason::of(error), detail);
        problem.0.changed = changed;
        problem.0.status = match error {
            Error::Conflict(_) => problem.0.reason.status(stale),
            _ => StatusCode::from_u16(error.http_status()).unwrap_or(problem.0.status),
        };
        match error {
            Error::Conflict(conflict) => problem.describe(conflict, conditions),
            Error::Poisoned { outcome, .. } => {
                problem.0.outcome = Some(match outcome {
                    Outcome::Unknown => "unknown",
                    Outcome::NotApplied => "not_applied",
                });
            }
            Error::Duplicates { found, .. } => {
                problem.0.duplicates = Some(found.iter().cloned().map(Shared::from).collect());
            }
            Error::Gap { oldest, .. } => problem.0.oldest = Some(oldest.to_string()),
            // The paths of a server are not its clients' business.
            Error::DiskFull { .. } => {
                let detail = "the server's disk is full; nothing was written, try again later";
                detail.clone_into(&mut problem.0.detail);
            }
            _ if problem.0.reason == ProblemReason::Internal => {
                "the store cannot serve this; tell its operator".clone_into(&mut problem.0.detail);
            }
            _ => {}
        }
        problem
    }

    /// The problem of a read whose `If-Match` or `If-Unmodified-Since` names another version
    /// than the current one: 412, because a read does not conflict.
    pub fn failed_read(conditions: &Conditions, lineage: Lineage, current: &Metadata) -> Problem {
        let detail = format!(
            "the entity is at version {}, not one that the request names; read it without the \
             condition",
            current.version()
        );
        let mut problem = Problem::new(ProblemReason::Conflict(Reason::StaleVersion), detail);
        problem.0.status = StatusCode::PRECONDITION_FAILED;
        problem.expect_sent(conditions, lineage);
        problem.0.current = Some(Current::new(lineage, current, None));
        problem
    }

    /// The problem of a write without a condition: 428, with how to send it again.
    pub fn precondition_required() -> Problem {
        Problem::new(
            ProblemReason::PreconditionRequired,
            "this write names no condition; send it again with If-Match and the ETag of the \
             version that you have read, with If-None-Match: * to create, or with \
             ?unconditional=true to overwrite whatever is there",
        )
    }

    /// Says at which path it happened.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Problem {
        self.0.instance = Some(path.into());
        self
    }

    /// Says on which entity it happened.
    #[must_use]
    pub fn on(mut self, collection: impl Into<String>, key: impl Into<String>) -> Problem {
        self.0.collection = Some(collection.into());
        self.0.key = Some(key.into());
        self
    }

    /// Names the methods that the resource does know, for the `Allow` header of a 405.
    #[must_use]
    pub fn allowing(mut self, methods: &'static str) -> Problem {
        self.0.allow = Some(methods);
        self
    }

    /// Names the patches that the resource takes, for the `Accept-Patch` header of a 415.
    #[must_use]
    pub fn accepting(mut self, types: &'static str) -> Problem {
        self.0.accept_patch = Some(types);
        self
    }

    /// Tells of what is there, but not its value: for whom it is not.
    #[must_use]
    pub fn without_values(mut self) -> Problem {
        self.0.hide_values();
        self
    }

    /// Says the same in other words, and whose error it is: a domain that some dialects name.
    #[must_use]
    pub fn worded(mut self, detail: Option<String>, domain: Option<String>) -> Problem {
        if let Some(detail) = detail {
            self.0.detail = detail;
        }
        self.0.domain = domain;
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Why the request was refused.
    pub fn reason(&self) -> ProblemReason {
        self.0.reason
    }

    /// What happened this time and what to do next.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    fn describe(&mut self, conflict: &Conflict, conditions: &Conditions) {
        self.0.operation = conflict.operation().map(Operation::new);
        if self.0.operation.is_none() {
            self.0.collection = Some(conflict.collection().to_owned());
            self.0.key = Some(conflict.key().to_owned());
        }
        self.0.retry = Some(match conflict.retry() {
            Retry::Never => Advice { advice: "never", after_ms: None },
            Retry::Refetch(pause) => Advice { advice: "refetch", after_ms: Some(millis(pause)) },
            Retry::After(wait) => after(wait),
        });
        if let Some(lease) = conflict.lease() {
            self.0.holder = lease.holder().map(str::to_owned);
            let operation = lease.operation_kind().zip(lease.operation());
            self.0.operation = operation.map(|(kind, id)| Operation::named(kind, id));
            self.0.expires_at = Some(time(lease.expires_at()));
        }
        if let Some(at) = conflict.current_metadata() {
            let value = conflict.current::<Document>();
            let value = value.as_deref().and_then(Document::raw).map(ToOwned::to_owned);
            self.0.current = Some(Current::new(conflict.lineage, at, value));
        }
        if let Some(holder) = conflict.holder() {
            // What is current is the holder, which is another entity than the one at `key`.
            let (key, current) = (holder.to_owned(), self.0.current.take());
            self.0.held_by = Some(Holder { key, current });
            self.0.index = conflict.index().map(str::to_owned);
        }
        if let Precondition::Exists | Precondition::Matches(_) | Precondition::MatchesAny(_) =
            conflict.unmet()
        {
            let versions = conflict.expected();
            let tag =
                |version: &Version| EntityTag { lineage: conflict.lineage, version: *version };
            match &conditions.if_match {
                Some(list) => self.expect(list, versions, conflict.lineage),
                None if versions.is_empty() => {}
                None => {
                    let list = versions.iter().map(|version| tag(version).into()).collect();
                    self.expect(&TagList::Tags(list), versions, conflict.lineage);
                }
            }
        }
    }

    fn expect_sent(&mut self, conditions: &Conditions, lineage: Lineage) {
        if let Some(list) = &conditions.if_match {
            let strong = list.tags().iter().filter(|tag| !tag.is_weak());
            let versions: Vec<_> = strong.filter_map(|tag| tag.version_in(lineage)).collect();
            self.expect(list, &versions, lineage);
        }
    }

    /// Echoes the tags that the caller sent, and says of those that can never match why.
    fn expect(&mut self, list: &TagList, versions: &[Version], lineage: Lineage) {
        let tags = match list {
            TagList::Any => vec![list.to_string()],
            TagList::Tags(tags) => tags.iter().map(ToString::to_string).collect(),
        };
        let versions = versions.iter().map(|version| version.get()).collect();
        self.0.expected = Some(Expected { tags, versions });
        if list.tags().iter().any(|tag| tag.is_weak()) {
            self.0.detail += ". If-Match compares strongly: weak tags (W/\"…\") never match";
        }
        let known: Vec<_> = list.tags().iter().map(|tag| tag.entity_tag()).collect();
        if known.iter().flatten().any(|tag| tag.lineage != lineage) {
            self.0.detail += ". A tag is of another lineage: the store was restored or restarted \
                            since it was given out, and what was read before may be gone";
        }
        if known.contains(&None) {
            self.0.detail += ". A tag is none that this store gives out";
        }
    }
}

/// What to do next, where that follows from the reason alone.
fn advice(reason: ProblemReason) -> Option<Advice> {
    match reason {
        ProblemReason::PreconditionRequired => None,
        ProblemReason::Overloaded => Some(after(Duration::from_secs(1))),
        // Somebody has to make space first.
        ProblemReason::DiskFull => Some(after(Duration::from_secs(60))),
        ProblemReason::Conflict(
            Reason::StaleVersion
            | Reason::Deleted
            | Reason::Absent
            | Reason::WrongState
            | Reason::Fenced,
        ) => Some(Advice { advice: "refetch", after_ms: Some(0) }),
        _ => Some(Advice { advice: "never", after_ms: None }),
    }
}

fn after(wait: Duration) -> Advice {
    Advice { advice: "after", after_ms: Some(millis(wait)) }
}

/// Rounded up, so that nobody comes back before its time.
fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entity::Record;
    use ::http::{HeaderMap, Response, header};
    use std::sync::Arc;
    use std::time::SystemTime;

    const L: Lineage = Lineage::from_bits(9);

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    /// The refusal of a write that named version 1 where alice has written version 2.
    fn conflict(if_match: &str, versions: Vec<Version>, pause: Duration) -> (Error, Conditions) {
        let metadata = Metadata {
            version: version(2),
            written_by: Some("alice".into()),
            written_at: Timestamp(1_793_064_600_123_456),
            created_at: Timestamp(0),
            shares_second: false,
        };
        let value = Document::parse(r#"{"status": "open"}"#.to_owned()).unwrap();
        let record = Arc::new(Record { metadata: metadata.clone(), index_keys: None, value });
        let conflict = Conflict {
            reason: Reason::StaleVersion,
            collection: "shifts".into(),
            key: "s-17".to_owned(),
            lineage: L,
            unmet: Precondition::MatchesAny(versions),
            current: Some(crate::conflict::Current { metadata, record }),
            deletion: None,
            decided_at: Timestamp(1_793_064_600_126_456),
            proposed: None,
            effort: None,
            barred: None,
            operation: None,
            others: Vec::new(),
            pause,
            basis: None,
            duplicate: None,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, if_match.parse().unwrap());
        (Error::Conflict(Box::new(conflict)), Conditions::parse(&headers).unwrap())
    }

    #[test]
    fn g4_a_conflict_says_everything_on_the_wire() {
        let (error, conditions) =
            conflict(&format!("\"{L}-1\""), vec![version(1)], Duration::from_micros(11_200));
        let problem = Problem::from_error(&error, &conditions, StaleStatus::Conflict);
        let response = Response::from(problem.at("/collections/shifts/s-17"));
        let expected = [
            r#"{"type":"urn:ifmatch:stale_version","title":"The entity has changed","#,
            r#""status":409,"detail":"shifts/s-17 is at version 2, not 1: alice changed it 3 ms "#,
            r#"ago; read it again and retry","instance":"/collections/shifts/s-17","#,
            r#""reason":"stale_version","collection":"shifts","key":"s-17","#,
            r#""expected":{"tags":["\"LINEAGE-1\""],"versions":[1]},"#,
            r#""current":{"version":2,"etag":"\"LINEAGE-2\"","written_by":"alice","#,
            r#""written_at":"2026-10-27T01:30:00.123Z","value":{"status": "open"}},"#,
            r#""retry":{"advice":"refetch","after_ms":12}}"#,
        ];
        let expected = expected.concat().replace("LINEAGE", &L.to_string());
        assert_eq!(*response.body(), expected);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn g4_a_pause_goes_into_the_header_from_one_second_on() {
        let told = |pause| {
            let (error, conditions) = conflict("*", vec![], Duration::from_millis(pause));
            let problem = Problem::from_error(&error, &conditions, StaleStatus::Conflict);
            let response = Response::from(problem);
            response.headers().get(header::RETRY_AFTER).cloned()
        };
        assert_eq!([told(0), told(999)], [None, None]);
        assert_eq!(told(1_000).unwrap(), "1");
        assert_eq!(told(1_001).unwrap(), "2");
    }

    #[test]
    fn g8_a_lease_in_the_way_is_told_on_the_wire() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_064_600);
        let clock = Arc::new(crate::testing::ManualClock::new(start));
        let store = crate::Store::builder().clock(clock.clone()).in_memory();
        let rooms = store.collection::<String, u32>("rooms").unwrap();
        let lease = rooms.lease("r1").by("ann").reason("cleaning").commit().unwrap();
        clock.advance(Duration::from_millis(1_500));
        let body = |error: Error| {
            let problem =
                Problem::from_error(&error, &Conditions::default(), StaleStatus::Conflict);
            let response = Response::from(problem);
            assert_eq!(response.status(), StatusCode::CONFLICT);
            (response.headers().get(header::RETRY_AFTER).cloned(), response.into_body())
        };
        let (retry_after, locked) = body(rooms.create("r1", 1).commit().unwrap_err());
        assert_eq!(retry_after.unwrap(), "29");
        let expected = [
            r#"{"type":"urn:ifmatch:locked","title":"Somebody holds a lease of the entity","#,
            r#""status":409,"detail":"rooms/r1 is held by ann (\"cleaning\") for another 28 s, "#,
            r#"since 1 s ago; try again then, or ask ann","reason":"locked","collection":"rooms","#,
            r#""key":"r1","holder":"ann","expires_at":"2026-10-27T01:30:30.000Z","#,
            r#""retry":{"advice":"after","after_ms":28500}}"#,
        ];
        assert_eq!(locked, expected.concat());
        lease.release().commit().unwrap();
        let late = rooms.create("r1", 1).holding(&lease).commit().unwrap_err();
        let (retry_after, fenced) = body(late);
        assert_eq!(retry_after, None);
        assert!(fenced.contains(r#""reason":"fenced""#) && !fenced.contains("holder"), "{fenced}");
        assert!(fenced.contains(r#""retry":{"advice":"refetch","#), "{fenced}");
    }

    #[test]
    fn g4_tags_that_can_never_match_are_explained() {
        let stale = StaleStatus::PreconditionFailed;
        for (sent, said) in [
            (format!("W/\"{L}-2\""), "weak tags"),
            (r#""aaaaaaaaaaaab-2""#.to_owned(), "restored or restarted"),
            (r#""v2""#.to_owned(), "none that this store gives out"),
        ] {
            let (error, conditions) = conflict(&sent, vec![], Duration::ZERO);
            let problem = Problem::from_error(&error, &conditions, stale);
            assert_eq!(problem.status(), StatusCode::PRECONDITION_FAILED);
            assert!(problem.detail().contains(said), "{}", problem.detail());
            assert_eq!(problem.0.expected.unwrap().tags, [sent]);
        }
    }

    #[test]
    fn g11_a_poisoned_store_tells_the_outcome() {
        for (outcome, said) in [(Outcome::Unknown, "unknown"), (Outcome::NotApplied, "not_applied")]
        {
            let source = Arc::new(std::io::Error::other("bad sector"));
            let error = Error::Poisoned { outcome, source };
            let problem =
                Problem::from_error(&error, &Conditions::default(), StaleStatus::Conflict);
            assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(problem.0.outcome, Some(said));
        }
    }

    #[test]
    fn a_closed_store_says_when_to_come_back() {
        let problem =
            Problem::from_error(&Error::Closed, &Conditions::default(), StaleStatus::Conflict);
        let response = Response::from(problem);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
}
