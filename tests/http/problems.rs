//! Refusals: what they say on the wire.

use std::sync::Arc;

use serde_json::json;

use crate::client::{Client, JSON, OVERWRITE, request};
use ifmatch::axum::RouterOptions;
use ifmatch::testing::MemoryDisk;
use ifmatch::{Store, axum::router};

const PATH: &str = "/collections/shifts/s-17";

#[test]
fn g4_a_conflict_names_what_was_expected_and_what_is_there() {
    let client = Client::in_memory();
    let first = client.overwrite(PATH, r#"{"status": "open"}"#);
    let by_alice = [JSON, ("if-match", first.as_str()), ("ifmatch-actor", "alice")];
    let second = client.call("PUT", PATH, &by_alice, r#"{"status": "approved"}"#);
    let mine = format!("{first}, W/{first}, \"other\"");
    let refused = client.call("PUT", PATH, &[JSON, ("if-match", &mine)], "1");

    let problem = refused.json();
    let version = |tag: &str| tag.rsplit('-').next().unwrap().trim_matches('"').parse::<u64>();
    let v1 = version(&first).unwrap();
    for (member, expected) in [
        ("type", json!("urn:ifmatch:stale_version")),
        ("title", json!("The entity has changed")),
        ("status", json!(409)),
        ("instance", json!(PATH)),
        ("reason", json!("stale_version")),
        ("collection", json!("shifts")),
        ("key", json!("s-17")),
        (
            "expected",
            json!({
                "tags": [first, format!("W/{first}"), "\"other\""],
                "versions": [v1],
            }),
        ),
        ("changed", json!(["/status"])),
        ("retry", json!({"advice": "refetch", "after_ms": 0})),
    ] {
        assert_eq!(problem[member], expected, "{member}");
    }
    let current = &problem["current"];
    assert_eq!(current["etag"], second.tag().as_str());
    assert_eq!(current["written_by"], "alice");
    assert_eq!(current["value"], json!({"status": "approved"}));
    assert!(refused.text().contains(r#""value":{"status": "approved"}"#), "byte for byte");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("alice changed /status"), "{detail}");
    assert!(detail.contains("weak tags"), "{detail}");
    assert!(!refused.headers.contains_key("retry-after"));
}

#[test]
fn g4_those_who_lose_on_one_key_are_told_to_spread() {
    let client = Client::in_memory();
    let first = client.overwrite(PATH, "1");
    client.overwrite(PATH, "2");
    let lose = || {
        let refused = client.call("PUT", PATH, &[JSON, ("if-match", &first)], "3").json();
        refused["retry"]["after_ms"].as_u64().unwrap()
    };
    assert_eq!(lose(), 0, "nobody else lost");
    let pauses: Vec<_> = (1..=100).map(|others| (others, lose())).collect();
    assert!(pauses.iter().all(|(others, pause)| *pause <= 5 * others), "{pauses:?}");
    assert!(pauses.iter().any(|(_, pause)| *pause > 0), "{pauses:?}");
}

#[test]
fn g4_without_history_a_conflict_does_not_tell_what_changed() {
    let client = Client::new(Store::in_memory(), RouterOptions::default().history(0));
    let first = client.overwrite(PATH, r#"{"status": "open"}"#);
    client.overwrite(PATH, r#"{"status": "approved"}"#);
    let problem = client.call("PUT", PATH, &[JSON, ("if-match", first.as_str())], "1").json();
    assert_eq!(problem.get("changed"), None, "{problem}");
}

#[test]
fn g4_a_tag_of_another_lineage_is_explained() {
    let client = Client::in_memory();
    let old = client.overwrite(PATH, "1");
    let restarted = Client::in_memory();
    restarted.overwrite(PATH, "1");
    for path in [PATH, "/collections/shifts/unknown", "/collections/unknown/s-17"] {
        let refused = restarted.call("PUT", path, &[JSON, ("if-match", &old)], "2");
        let problem = refused.json();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("restored or restarted"), "{path}: {detail}");
        assert_eq!(problem["expected"], json!({"tags": [old], "versions": []}), "{path}");
    }
}

#[test]
fn g6_a_write_without_a_condition_is_told_how_to_name_one() {
    let client = Client::in_memory();
    for method in ["PUT", "DELETE"] {
        let refused = client.call(method, PATH, &[JSON], "1");
        assert_eq!((refused.status, refused.reason().as_str()), (428, "precondition_required"));
        assert_eq!(refused.header("cache-control"), "no-store");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        for way in ["If-Match", "If-None-Match: *", "?unconditional=true"] {
            assert!(detail.contains(way), "{detail}");
        }
        assert!(refused.json().get("retry").is_none());
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let client = Client::in_memory();
    client.overwrite(PATH, "1");
    for path in ["/collections/none", "/collections/none/k", "/collections/shifts/k", "/x"] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.reason().as_str()), (404, "not_found"), "{path}");
        assert_eq!(answer.json()["instance"], path);
    }
    assert_eq!(client.get("/collections/none").status, 404, "reading creates no collection");
}

#[test]
fn unknown_methods_are_told_the_known_ones() {
    let client = Client::in_memory();
    for (path, allow) in [
        (PATH, "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
        ("/collections/shifts", "GET, HEAD, PUT, POST, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/collections/shifts/s-17/lease", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
        ("/operations/transfer", "GET, HEAD, PUT, POST, OPTIONS"),
        ("/operations/transfer/0000000000000000000000", "GET, HEAD, OPTIONS"),
        ("/operations/transfer/0000000000000000000000/fail", "POST, OPTIONS"),
    ] {
        let refused = client.call("TRACE", path, &[], "");
        assert_eq!((refused.status, refused.reason().as_str()), (405, "method_not_allowed"));
        assert_eq!(refused.header("allow"), allow);
        let options = client.call("OPTIONS", path, &[], "");
        assert_eq!((options.status, options.header("allow")), (204, allow));
    }
}

#[test]
fn bodies_are_json_and_say_so() {
    let client = Client::in_memory();
    let path = format!("{PATH}{OVERWRITE}");
    for media_type in ["application/json; charset=utf-8", "Application/JSON", "application/a+json"]
    {
        let answer = client.call("PUT", &path, &[("content-type", media_type)], "1");
        assert!(answer.status < 300, "{media_type}");
    }
    for media_type in ["text/plain", "", "json", "+json", "application/x-www-form-urlencoded"] {
        let answer = client.call("PUT", &path, &[("content-type", media_type)], "1");
        assert_eq!((answer.status, answer.reason().as_str()), (415, "unsupported_media_type"));
    }
    assert_eq!(client.call("PUT", &path, &[], "1").status, 415);
    let gzipped = client.call("PUT", &path, &[JSON, ("content-encoding", "gzip")], "1");
    assert_eq!(gzipped.status, 415);
    for body in ["", "{", "nul", "1 2", &"[".repeat(200_000)] {
        let answer = client.call("PUT", &path, &[JSON], body);
        assert_eq!((answer.status, answer.reason().as_str()), (400, "malformed"), "{body:.20}");
    }
}

#[test]
fn g12_limits_have_typed_answers() {
    let client = Client::new(Store::in_memory(), RouterOptions::default().body_limit(100));
    let answer = client.call("PUT", &format!("{PATH}{OVERWRITE}"), &[JSON], &" ".repeat(101));
    assert_eq!((answer.status, answer.reason().as_str()), (413, "too_large"));
    let long = "x".repeat(257);
    let headers = [JSON, ("ifmatch-actor", long.as_str())];
    let answer = client.call("PUT", &format!("{PATH}{OVERWRITE}"), &headers, "1");
    assert_eq!((answer.status, answer.reason().as_str()), (400, "malformed"));

    let busy = Client::new(Store::in_memory(), RouterOptions::default().max_in_flight(0));
    let answer = busy.get("/healthz");
    assert_eq!((answer.status, answer.reason().as_str()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), "1");
}

#[test]
fn a_part_is_not_taken_for_the_whole() {
    let client = Client::in_memory();
    let path = format!("{PATH}{OVERWRITE}");
    let answer = client.call("PUT", &path, &[JSON, ("content-range", "bytes 0-0/2")], "1");
    assert_eq!((answer.status, answer.reason().as_str()), (400, "malformed"));
    assert_eq!(client.get(PATH).status, 404);
}

#[test]
fn a_closed_store_is_unavailable() {
    let store = Store::in_memory();
    let client = Client::of(router(store.clone()));
    client.overwrite(PATH, "1");
    store.close().unwrap();
    let request = request("PUT", &format!("{PATH}{OVERWRITE}"), &[JSON], "2");
    let answer = client.send(request);
    assert_eq!((answer.status, answer.reason().as_str()), (503, "overloaded"));
}

#[test]
fn a_collection_of_another_type_is_left_alone() {
    let store = Store::in_memory();
    let seats = store.collection::<u64, String>("seats").unwrap();
    seats.create(1, "ann".to_owned()).commit().unwrap();
    let client = Client::of(router(store));
    assert_eq!(client.get("/collections/seats/1").reason(), "wrong_state");
    let write = client.call("PUT", &format!("/collections/seats/1{OVERWRITE}"), &[JSON], "1");
    assert_eq!((write.status, write.reason().as_str()), (409, "wrong_state"));
    assert_eq!(*seats.get(1).unwrap().unwrap(), "ann");
}

#[test]
fn g11_a_full_disk_is_told_and_passes() {
    let disk = MemoryDisk::new();
    let builder = Store::builder().segment_bytes(4096);
    let client = Client::of(router(builder.open_on(Arc::new(disk.clone())).unwrap()));
    let tag = client.overwrite(PATH, "1");
    disk.set_capacity(disk.used());
    let large = format!("\"{}\"", "x".repeat(6_000));
    for (method, path) in
        [("PUT", format!("{PATH}{OVERWRITE}")), ("POST", "/collections/shifts".to_owned())]
    {
        let refused = client.call(method, &path, &[JSON], &large);
        assert_eq!((refused.status, &*refused.reason()), (507, "disk_full"));
        let problem = refused.json();
        assert_eq!(problem["title"], "The disk is full");
        let after = problem["retry"]["after_ms"].as_u64().unwrap();
        let seconds = refused.header("retry-after").parse::<u64>().unwrap();
        assert_eq!(
            (&problem["retry"]["advice"], seconds),
            (&json!("after"), after.div_ceil(1_000))
        );
    }
    assert_eq!((client.get(PATH).tag(), client.get(PATH).text()), (tag.clone(), "1"));
    disk.set_capacity(usize::MAX);
    let written = client.call("PUT", PATH, &[JSON, ("if-match", &tag)], &large);
    assert_eq!(written.status, 200, "{written:?}");
}

#[test]
fn g4_values_are_told_unless_that_is_switched_off() {
    let secret = |yes: bool| {
        let store = Store::in_memory();
        let client = Client::new(store, RouterOptions::default().show_values(yes));
        client.call("PUT", "/collections/c", &[JSON], r#"{"unique":["/id"]}"#);
        let old = client.overwrite("/collections/c/a", r#"{"id":1,"secret":1}"#);
        client.overwrite("/collections/c/a", r#"{"id":1,"secret":2}"#);
        let entry = format!(
            r#"{{"op":"put","collection":"c","key":"a","if_match":{old:?},"value":{{"id":1}}}}"#
        );
        let patch = ("content-type", "application/json-patch+json");
        [
            ("PUT", "/collections/c/a", ("if-match", &*old), JSON, r#"{"id":1}"#.to_owned()),
            ("PUT", "/collections/c/b", ("if-none-match", "*"), JSON, r#"{"id":1}"#.to_owned()),
            (
                "PATCH",
                "/collections/c/a",
                ("if-match", "*"),
                patch,
                r#"[{"op":"test","path":"/id","value":2}]"#.to_owned(),
            ),
            (
                "POST",
                "/transactions",
                ("prefer", ""),
                JSON,
                format!(r#"{{"operations":[{entry}]}}"#),
            ),
            ("POST", "/batch", ("prefer", ""), JSON, format!(r#"{{"writes":[{entry}]}}"#)),
        ]
        .map(|(method, path, condition, kind, body)| {
            let answer = client.call(method, path, &[condition, kind], &body);
            assert!(answer.text().contains("\"version\":"), "{answer:?}");
            answer.text().contains("secret\":2")
        })
    };
    assert_eq!(secret(true), [true; 5]);
    assert_eq!(secret(false), [false; 5]);
}
