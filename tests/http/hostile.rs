//! Requests that mean harm: refused as the client's fault, without a trace in the store.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http::{Method, Request, Uri};
use hyper::body::Frame;
use ifmatch::Store;
use ifmatch::axum::RouterOptions;
use proptest::prelude::*;

use crate::client::{Client, JSON, OVERWRITE, request};

const PATH: &str = "/collections/shifts/s-17";

/// What the request gets wrong.
#[derive(Clone, Debug)]
struct Hostile {
    method: String,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

/// Tags that are almost some, in headers that make a write refuse or a read fail.
fn bad_tags() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        r#"[^"*]{0,20}"#.prop_map(String::into_bytes),
        r#"\*, ?"[a-z]{0,3}""#.prop_map(String::into_bytes),
        r#"(W/)?"[a-z,]{0,9}"#.prop_map(String::into_bytes),
        r#"w/"[a-z]{0,3}""#.prop_map(String::into_bytes),
        r#""[a-z]{0,3}" "[a-z]{0,3}""#.prop_map(String::into_bytes),
        Just(br#""x","#.repeat(1_001)),
    ]
}

fn with_bad_tags() -> impl Strategy<Value = Hostile> {
    let header = prop_oneof![Just("if-match"), Just("if-none-match")];
    let method = prop_oneof![Just("GET"), Just("PUT"), Just("DELETE")];
    (method, header, bad_tags()).prop_map(|(method, header, value)| Hostile {
        method: method.to_owned(),
        path: format!("{PATH}{OVERWRITE}"),
        headers: vec![(header, value)],
        body: b"1".to_vec(),
    })
}

fn with_bad_body() -> impl Strategy<Value = Hostile> {
    let body = prop_oneof![
        any::<Vec<u8>>(),
        r#"[\[\]{}:,"a1]{0,40}"#.prop_map(String::into_bytes),
        (128..5_000_usize).prop_map(|depth| b"[".repeat(depth)),
    ];
    let body = body
        .prop_filter("no JSON", |body| serde_json::from_slice::<serde_json::Value>(body).is_err());
    body.prop_map(|body| Hostile {
        method: "PUT".to_owned(),
        path: format!("{PATH}{OVERWRITE}"),
        headers: vec![],
        body,
    })
}

fn with_bad_path() -> impl Strategy<Value = Hostile> {
    let path = prop_oneof![
        "/[ -~]{0,40}".prop_filter("no collection", |path| !path.starts_with("/collections/")),
        "/collections/[A-Z.%~]{1,9}/k",
        "/collections/shifts/(%[0-9a-f]|%[g-z]{2}|%ff|%c3%28|%e2%82|%00|%1f|%7f)",
        "/collections/shifts/(\\.|%2e|%2E){1,2}",
        "/collections/shifts/[a-z]{513,600}",
        "/collections/shifts/[a-z]{1,3}/[a-z]{0,3}",
        "/collections/[a-z]{65,70}/k",
        "/collections/shifts/k\\?[a-z]{1,9}=[a-z%]{0,9}",
    ];
    let method = prop_oneof![Just("PUT"), Just("DELETE")];
    let path = path.prop_filter("no healthz", |path| !path.starts_with("/healthz"));
    // Nothing but the path stands between these requests and a write.
    (method, path).prop_map(|(method, path)| Hostile {
        method: method.to_owned(),
        path: if path.contains('?') { path + "&unconditional=true" } else { path + OVERWRITE },
        headers: vec![],
        body: b"1".to_vec(),
    })
}

fn with_bad_method() -> impl Strategy<Value = Hostile> {
    let known = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT"];
    let method = "[A-Za-z!#-']{1,12}".prop_filter("known", move |it| !known.contains(&&**it));
    method.prop_map(|method| Hostile {
        method,
        path: PATH.to_owned(),
        headers: vec![("if-match", b"*".to_vec())],
        body: b"1".to_vec(),
    })
}

fn hostile() -> impl Strategy<Value = Hostile> {
    prop_oneof![with_bad_tags(), with_bad_body(), with_bad_path(), with_bad_method()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn hostile_requests_are_the_clients_fault_and_change_nothing(
        hostile in hostile(),
    ) {
        let client = Client::in_memory();
        client.overwrite(PATH, r#"{"status": "open"}"#);
        let before = client.get("/collections/shifts");

        // What the http crate refuses never reaches a router.
        let Ok(uri) = hostile.path.parse::<Uri>() else { return Ok(()) };
        let mut request = Request::builder()
            .method(Method::from_bytes(hostile.method.as_bytes()).expect("a token"))
            .uri(uri)
            .header(JSON.0, JSON.1);
        for (name, value) in &hostile.headers {
            request = request.header(*name, value.as_slice());
        }
        let Ok(request) = request.body(Body::from(hostile.body.clone())) else { return Ok(()) };

        let answer = client.send(request);
        prop_assert!((400..500).contains(&answer.status), "{answer:?}");
        if hostile.method != "HEAD" {
            answer.reason();
        }
        let after = client.get("/collections/shifts");
        prop_assert_eq!(before.text(), after.text());
    }
}

/// A body of which nothing ever comes.
struct Stalled;

impl HttpBody for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[test]
fn g12_a_client_that_stalls_is_cut_off() {
    let options = RouterOptions::default().body_timeout(Duration::from_millis(20));
    let client = Client::new(Store::in_memory(), options);
    let mut stalled = request("PUT", &format!("{PATH}{OVERWRITE}"), &[JSON], "");
    *stalled.body_mut() = Body::new(Stalled);
    let answer = client.send(stalled);
    assert_eq!((answer.status, answer.reason().as_str()), (408, "timeout"));
}
