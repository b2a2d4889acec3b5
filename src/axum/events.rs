//! The change feed as Server-Sent Events: a body that is made as the client takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::axum::body::{Body, Bytes};
use ::axum::response::Response;
use ::http::header::{self, HeaderValue};
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;

use super::changes::{Told, page};
use super::response;
use super::stop::Stop;
use crate::error::Error;
use crate::feed::{Commit, Feed};
use crate::http::{Conditions, Problem, StaleStatus};
use crate::service::Timer;
use crate::store::Store;
use crate::version::Cursor;
use crate::watchers::Watch;

/// A client that has gone is noticed when it is sent something.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a client that lost its stream waits before it asks again.
const RETRY: &str = "retry: 2000\n\n";

/// Holds one event at most: the next is made when the client has taken that.
pub(super) struct Events {
    store: Store,
    feed: Feed,
    first: Option<(Commit, Cursor)>,
    stop: Stop,
    watch: Watch,
    path: String,
    _place: OwnedSemaphorePermit,
    greeted: bool,
    ended: bool,
    /// When something has to be sent.
    due: Duration,
    timer: Option<Timer>,
}

impl Events {
    /// 200 with the stream, which begins with the commit `first`.
    pub(super) fn answer(
        store: Store,
        feed: Feed,
        first: Option<Commit>,
        stop: &Stop,
        path: String,
        place: OwnedSemaphorePermit,
    ) -> Response {
        let events = Events {
            first: first.map(|commit| (commit, feed.cursor())),
            stop: stop.clone(),
            watch: stop.watch(),
            _place: place,
            greeted: false,
            ended: false,
            due: store.inner.service.now().saturating_add(HEARTBEAT),
            timer: None,
            store,
            feed,
            path,
        };
        let mut response = response::json(Body::new(events));
        let events = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, events);
        response
    }

    /// The next piece of the stream; `None` is its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<String>> {
        self.watch.enlist(context.waker());
        if self.ended || self.stop.is_stopped() {
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut self.greeted, true) {
            return Poll::Ready(Some(RETRY.to_owned()));
        }
        if let Some((commit, cursor)) = self.first.take() {
            return Poll::Ready(Some(self.event(commit, cursor)));
        }
        match self.feed.poll_next(context) {
            Poll::Ready(Some(Ok(commit))) => {
                let cursor = self.feed.cursor();
                Poll::Ready(Some(self.event(commit, cursor)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.ended = true;
                Poll::Ready(self.gap(&error))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.heartbeat(context),
        }
    }

    fn event(&self, commit: Commit, cursor: Cursor) -> String {
        let data = one_line(&page(&self.store, &[Told::new(commit)], cursor));
        format!("id: {cursor}\ndata: {data}\n\n")
    }

    /// A client can do nothing about other failures but come back, and is then told.
    fn gap(&self, error: &Error) -> Option<String> {
        let Error::Gap { .. } = error else { return None };
        let stale = StaleStatus::default();
        let problem = Problem::from_error(error, &Conditions::default(), stale).at(&*self.path);
        let data = serde_json::to_string(&problem).unwrap_or_default();
        Some(format!("event: gap\ndata: {data}\n\n"))
    }

    /// A comment. Its id, which is no event, has the client go on from there even if all was
    /// passed over.
    fn heartbeat(&mut self, context: &mut Context<'_>) -> Poll<Option<String>> {
        let timers = &self.store.inner.service;
        let now = timers.now();
        if now >= self.due {
            self.due = now.saturating_add(HEARTBEAT);
            return Poll::Ready(Some(format!(":\nid: {}\n\n", self.feed.cursor())));
        }
        self.timer = timers.wake_at(self.due, context.waker().clone());
        Poll::Pending
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.poll(context);
        piece.map(|piece| piece.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}

/// Within JSON line breaks are mere space.
fn one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}
