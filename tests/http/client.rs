//! A client that calls the router without a socket.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{HeaderMap, Request};
use ifmatch::Store;
use ifmatch::axum::RouterOptions;
use tower::ServiceExt;

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const OVERWRITE: &str = "?unconditional=true";

#[derive(Clone)]
pub(crate) struct Client {
    router: Router,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(store: Store, options: RouterOptions) -> Client {
        Client { router: options.router(store) }
    }

    pub(crate) fn in_memory() -> Client {
        Client::new(Store::in_memory(), RouterOptions::default())
    }

    pub(crate) fn of(router: Router) -> Client {
        Client { router }
    }

    pub(crate) fn send(&self, request: Request<Body>) -> Answer {
        block_on(self.send_async(request))
    }

    pub(crate) async fn send_async(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.expect("never fails");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body in memory");
        let answer =
            Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.into() };
        crate::openapi::check(method.as_str(), &path, &answer);
        answer
    }

    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.send(request(method, path, headers, body))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "")
    }

    /// Writes whatever is there, and gives the new tag.
    pub(crate) fn overwrite(&self, path: &str, body: &str) -> String {
        let answer = self.call("PUT", &format!("{path}{OVERWRITE}"), &[JSON], body);
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        answer.tag()
    }

    pub(crate) fn delete(&self, path: &str) {
        let answer = self.call("DELETE", &format!("{path}{OVERWRITE}"), &[], "");
        assert_eq!(answer.status, 204, "{answer:?}");
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn tag(&self) -> String {
        self.header("etag").to_owned()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        self.json()["reason"].as_str().expect("a reason").to_owned()
    }
}

pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).expect("a request")
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Checks that a future is not done, and has it wait.
pub(crate) async fn waits<F: Future<Output = T>, T>(mut call: Pin<&mut F>) {
    let pending = poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending()));
    assert!(pending.await, "it does not wait");
}
