//! Documents: kept byte for byte, with their validators, under any key.

use ifmatch::Store;
use ifmatch::axum::router;

use crate::client::{Client, JSON, OVERWRITE};

const PATH: &str = "/collections/shifts/s-17";
const ABSENT: (&str, &str) = ("if-none-match", "*");

#[test]
fn a_document_comes_back_as_it_was_sent() {
    let client = Client::in_memory();
    let sent = " {\"b\": 1.0,\n \"a\": \"\\u00e9\"} ";
    let headers = [JSON, ABSENT, ("ifmatch-actor", "zoë")];
    let created = client.call("PUT", PATH, &headers, sent);
    assert_eq!((created.status, created.header("location")), (201, PATH));
    assert_eq!(created.text(), sent);

    let read = client.get(PATH);
    assert_eq!((read.status, read.text()), (200, sent));
    assert_eq!(read.header("content-type"), "application/json");
    assert_eq!(read.headers["ifmatch-written-by"].as_bytes(), "zoë".as_bytes());
    for name in ["etag", "last-modified", "ifmatch-version"] {
        assert!(!read.header(name).is_empty(), "{name}");
        assert_eq!(read.header(name), created.header(name), "{name}");
    }
    let version = read.header("ifmatch-version");
    assert!(read.tag().ends_with(&format!("-{version}\"")), "{read:?}");

    let head = client.call("HEAD", PATH, &[], "");
    assert_eq!((head.status, head.tag(), head.body.len()), (200, read.tag(), 0));
    assert_eq!(head.header("content-length"), sent.len().to_string());
}

#[test]
fn a_write_without_an_actor_has_none() {
    let client = Client::in_memory();
    client.overwrite(PATH, "1");
    assert!(!client.get(PATH).headers.contains_key("ifmatch-written-by"));
    for actor in ["", " ", "a\tb"] {
        let headers = [JSON, ("ifmatch-actor", actor)];
        let answer = client.call("PUT", &format!("{PATH}{OVERWRITE}"), &headers, "2");
        assert_eq!(answer.status, 400, "{actor:?}");
    }
}

#[test]
fn a_caller_that_wants_no_body_gets_none() {
    let client = Client::in_memory();
    let minimal = ("prefer", "respond-async, return=minimal; x=1");
    let created = client.call("PUT", PATH, &[JSON, ABSENT, minimal], "1");
    assert_eq!((created.status, created.body.len()), (201, 0));
    assert_eq!(created.header("location"), PATH);
    let replaced = client.call("PUT", PATH, &[JSON, ("if-match", &created.tag()), minimal], "2");
    assert_eq!((replaced.status, replaced.body.len()), (204, 0));
    assert_eq!(replaced.header("preference-applied"), "return=minimal");
    assert_eq!(replaced.tag(), client.get(PATH).tag());
}

#[test]
fn posting_creates_under_a_new_key() {
    let client = Client::in_memory();
    let created = client.call("POST", "/collections/shifts", &[JSON], "[1]");
    assert_eq!(created.status, 201);
    let location = created.header("location");
    assert!(location.starts_with("/collections/shifts/"), "{location}");
    let read = client.get(location);
    assert_eq!((read.text(), read.tag()), ("[1]", created.tag()));
    let again = client.call("POST", "/collections/shifts", &[JSON], "[1]");
    assert!(again.header("location") > location, "keys of version 7 are in order of time");
    let refused = client.call("POST", "/collections/shifts", &[JSON, ("if-match", "*")], "[1]");
    assert_eq!((refused.status, refused.reason().as_str()), (409, "absent"));
}

#[test]
fn any_key_can_be_written() {
    let client = Client::in_memory();
    for (sent, same) in [("a%2Fb", "a%2fb"), ("%C3%A9", "%c3%a9"), ("x%25", "%78%25")] {
        let path = format!("/collections/odd/{sent}");
        let tag = client.overwrite(&path, "1");
        assert_eq!(client.get(&format!("/collections/odd/{same}")).tag(), tag, "{sent}");
    }
    let page = client.get("/collections/odd").json();
    let keys: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| &item["key"]).collect();
    assert_eq!(keys, ["a/b", "x%", "é"]);
}

#[test]
fn g3_what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::of(router(Store::open(directory.path()).unwrap()));
    let tag = client.overwrite(PATH, " [1, 2.50]\n");
    drop(client);
    let client = Client::of(router(Store::open(directory.path()).unwrap()));
    let read = client.get(PATH);
    assert_eq!((read.text(), read.tag()), (" [1, 2.50]\n", tag));
}

#[test]
fn a_nested_router_knows_where_it_is() {
    let app = axum::Router::new()
        .route("/", axum::routing::get(|| async { "the embedding program" }))
        .nest("/store", router(Store::in_memory()));
    let client = Client::of(app);
    let path = "/store/collections/shifts/a%2Fb";
    let created = client.call("PUT", path, &[JSON, ABSENT], "1");
    assert_eq!((created.status, created.header("location")), (201, path));
    let refused = client.call("PUT", path, &[JSON, ABSENT], "1");
    assert_eq!(refused.json()["instance"], path);
    assert_eq!(client.get("/store/healthz").json()["status"], "ok");
    assert_eq!(client.get("/store/unknown").reason(), "not_found");
    assert_eq!(client.get("/").text(), "the embedding program");
}

#[test]
fn what_is_not_plainly_one_json_document_is_refused() {
    let client = Client::in_memory();
    for headers in [
        vec![("content-type", "application/merge-patch+json")],
        vec![("content-type", "application/json-patch+json")],
        vec![JSON, ("content-type", "text/plain")],
        vec![JSON, ("content-encoding", "gzip")],
        vec![JSON, ("content-encoding", "identity"), ("content-encoding", "gzip")],
    ] {
        let headers: Vec<_> = headers.into_iter().chain([ABSENT]).collect();
        assert_eq!(client.call("PUT", PATH, &headers, "{}").status, 415, "{headers:?}");
    }
    let plain = [JSON, ABSENT, ("content-encoding", "Identity")];
    assert_eq!(client.call("PUT", PATH, &plain, "{}").status, 201);
}

#[test]
fn a_304_never_claims_another_length_than_the_document_has() {
    let client = Client::in_memory();
    let tag = client.overwrite(PATH, "[1, 2]");
    for method in ["GET", "HEAD"] {
        let answer = client.call(method, PATH, &[("if-none-match", &tag)], "");
        assert_eq!((answer.status, answer.body.len()), (304, 0));
        assert_eq!(answer.header("content-length"), "6", "{method}");
    }
}
