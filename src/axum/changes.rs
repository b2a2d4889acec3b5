//! The change feed in pages of whole commits, at once or when there is something to tell.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use ::axum::response::Response;
use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::request::Parts;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;

use super::events::Events;
use super::path::{collection_name, limit_of, malformed, parameters, wait_of};
use super::read::PAGE_BYTES;
use super::response;
use super::service::Service;
use crate::feed::{ChangeKind, Commit, Feed};
use crate::http::{Document, Problem};
use crate::store::Store;
use crate::version::Cursor;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Changes")]
pub(super) struct Page<'a> {
    changes: Vec<Item<'a>>,
    /// Where the next page starts: all up to here has been told, or passed over.
    next_since: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Change")]
struct Item<'a> {
    version: u64,
    collection: &'a str,
    key: String,
    kind: &'static str,
    etag: String,
    written_by: Option<&'a str>,
    written_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

/// A commit and the documents that it wrote, one place for each change.
pub(super) struct Told {
    commit: Commit,
    documents: Vec<Option<Document>>,
}

/// What has been found for a page.
struct Found {
    told: Vec<Told>,
    changes: usize,
    bytes: usize,
    cursor: Cursor,
}

impl Service {
    /// `GET /changes?since=&collection=&prefix=&limit=&wait_ms=`.
    pub(super) async fn changes(
        &self,
        request: &Parts,
        path: &str,
        slot: SemaphorePermit<'_>,
    ) -> Result<Response, Problem> {
        let known = ["since", "collection", "prefix", "limit", "wait_ms"];
        let [since, collection, prefix, limit, wait] = parameters(request.uri.query(), known)?;
        let streams = accepts_events(&request.headers);
        if streams && (limit.is_some() || wait.is_some()) {
            return Err(malformed("a stream of events has no limit and no wait_ms"));
        }
        let limit = limit_of(limit)?;
        let wait = wait_of(wait)?;
        let since = since.as_deref().map(cursor).transpose()?;
        let last = last_event(&request.headers)?.filter(|_| streams);
        let mut changes = self.store.changes();
        if let Some(cursor) = last.or(since) {
            changes = changes.since(cursor);
        }
        if let Some(name) = collection {
            changes = changes.collection_named(&collection_name(name)?);
        }
        let changes = changes.prefix(prefix.unwrap_or_default());
        let mut feed = changes.open().map_err(|error| self.refusal(&error))?;
        let mut answer = match streams {
            true => {
                let place = self.waiting(slot)?;
                let first = poll_fn(|context| feed.poll_now(context)).await;
                let first = first.map_err(|error| self.refusal(&error))?;
                let stop = &self.options.stop;
                Events::answer(self.store.clone(), feed, first, stop, path.to_owned(), place)
            }
            false => {
                let found = self.found(&mut feed, limit, wait, slot).await?;
                response::json(page(&self.store, &found.told, found.cursor))
            }
        };
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(answer)
    }

    /// What there is; if that is nothing, waits for something.
    async fn found(
        &self,
        feed: &mut Feed,
        limit: usize,
        wait: Duration,
        slot: SemaphorePermit<'_>,
    ) -> Result<Found, Problem> {
        let mut found = Found { told: vec![], changes: 0, bytes: 0, cursor: feed.cursor() };
        poll_fn(|context| self.gather(feed, limit, &mut found, context)).await?;
        if !found.told.is_empty() || wait.is_zero() {
            return Ok(found);
        }
        let _place = self.waiting(slot)?;
        let (timers, stop) = (&self.store.inner.service, &self.options.stop);
        let deadline = timers.now().saturating_add(wait);
        let (mut watch, mut timer) = (stop.watch(), None);
        poll_fn(|context| {
            watch.enlist(context.waker());
            match self.gather(feed, limit, &mut found, context) {
                Poll::Ready(Ok(())) if found.told.is_empty() => {}
                ready_or_reading => return ready_or_reading,
            }
            if stop.is_stopped() || timers.now() >= deadline {
                return Poll::Ready(Ok(()));
            }
            timer = timers.wake_at(deadline, context.waker().clone());
            Poll::Pending
        })
        .await?;
        drop(timer);
        Ok(found)
    }

    /// Takes what there is now into the page, which ends after a whole commit.
    fn gather(
        &self,
        feed: &mut Feed,
        limit: usize,
        found: &mut Found,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Problem>> {
        while found.changes < limit && found.bytes <= PAGE_BYTES {
            match feed.poll_now(context) {
                Poll::Ready(Ok(Some(commit))) => {
                    let told = Told::new(commit);
                    found.changes += told.commit.changes().len();
                    found.bytes = found.bytes.saturating_add(told.bytes());
                    found.told.push(told);
                }
                // The next page tells it.
                Poll::Ready(Err(_)) if !found.told.is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.refusal(&error))),
                Poll::Ready(Ok(None)) => {
                    found.cursor = feed.cursor();
                    break;
                }
                Poll::Pending => return Poll::Pending,
            }
            found.cursor = feed.cursor();
        }
        Poll::Ready(Ok(()))
    }
}

impl Told {
    pub(super) fn new(commit: Commit) -> Told {
        let documents = commit.changes().iter().map(|change| change.document()).collect();
        Told { commit, documents }
    }

    fn bytes(&self) -> usize {
        self.documents.iter().flatten().map(|document| document.json().len()).sum()
    }

    fn items<'a>(&'a self, store: &'a Store) -> impl Iterator<Item = Item<'a>> {
        let commit = &self.commit;
        commit.changes().iter().zip(&self.documents).map(move |(change, document)| Item {
            version: commit.version().get(),
            collection: change.collection(),
            key: change.key(),
            kind: match change.kind() {
                ChangeKind::Put => "put",
                ChangeKind::Delete => "delete",
            },
            etag: store.tag(commit.version()).to_string(),
            written_by: commit.written_by(),
            written_at: humantime::format_rfc3339_millis(commit.written_at()).to_string(),
            value: document.as_ref().and_then(Document::raw),
        })
    }
}

pub(super) fn page(store: &Store, told: &[Told], cursor: Cursor) -> String {
    let changes = told.iter().flat_map(|told| told.items(store)).collect();
    // Serializing strings and numbers into a string does not fail.
    serde_json::to_string(&Page { changes, next_since: cursor.to_string() }).unwrap_or_default()
}

/// `Last-Event-ID`, which a client sends that lost its stream.
fn last_event(headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
    let id = headers.get("last-event-id").filter(|id| !id.is_empty());
    id.map(|id| cursor(id.to_str().unwrap_or_default())).transpose()
}

fn cursor(text: &str) -> Result<Cursor, Problem> {
    let wrong = "a cursor is the next_since of a page or the id of an event";
    text.parse().map_err(|_| malformed(wrong))
}

/// Whether the client asks for events by name, and does not rule them out (RFC 9110 section
/// 12.5.1).
fn accepts_events(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_events = parts.next().is_some_and(|it| it.eq_ignore_ascii_case("text/event-stream"));
        let is_zero = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.and_then(|weight| weight.parse::<f32>().ok()) == Some(0.0)
        };
        is_events && !parts.any(is_zero)
    })
}
