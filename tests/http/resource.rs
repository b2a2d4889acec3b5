//! The router of a typed collection, as `examples/embed_axum.rs` has it.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use ifmatch::axum::{RouterOptions, Tokens, resource};
use ifmatch::http::{GoogleLegacy, StaleStatus};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Actor, Store};
use serde_json::{Value, json};

use crate::client::{Client, JSON, block_on, request};

#[path = "../../examples/embed_axum.rs"]
mod embed_axum;

const PATH: &str = "/rooms/r-1";
const NEW: (&str, &str) = ("if-none-match", "*");
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const PATCH: (&str, &str) = ("content-type", "application/json-patch+json");

/// In memory and on disk, one stripe and many.
fn clients() -> [Client; 3] {
    let stores = [
        Store::in_memory(),
        Store::builder().stripes(1).in_memory(),
        Store::builder().open_on(Arc::new(MemoryDisk::new())).unwrap(),
    ];
    stores.map(|store| Client::of(embed_axum::app(&store).unwrap()))
}

#[test]
fn g1_a_typed_collection_decides_conditions_as_documents_do() {
    for client in clients() {
        let put = |headers: &[(&str, &str)], body| {
            client.call("PUT", PATH, &[headers, &[JSON]].concat(), body)
        };
        assert_eq!(client.get(PATH).reason(), "not_found");
        let created = put(&[NEW, ("ifmatch-actor", "ann")], r#"{ "seats": 4 }"#);
        assert_eq!((created.status, created.text()), (201, r#"{"seats":4}"#));
        assert_eq!((created.header("location"), created.header("content-location")), (PATH, PATH));
        let first = created.tag();
        let found = client.get(PATH);
        assert_eq!((found.status, found.text(), found.tag()), (200, created.text(), first.clone()));
        assert_eq!(found.header("ifmatch-written-by"), "ann");

        let second = put(&[("if-match", &first)], r#"{"seats":5}"#).tag();
        for (method, header, tag, status) in [
            ("GET", "if-none-match", &*second, 304),
            ("HEAD", "if-none-match", &second, 304),
            ("GET", "if-none-match", &first, 200),
            ("GET", "if-match", &first, 412),
            ("PUT", "if-match", &first, 409),
            ("PUT", "if-none-match", "*", 409),
            ("PUT", "if-match", &format!("W/{second}"), 409),
            ("PUT", "if-match", "unquoted", 400),
            ("DELETE", "if-match", &first, 409),
            ("OPTIONS", "if-match", &first, 204),
        ] {
            let answer = client.call(method, PATH, &[(header, tag), JSON], r#"{"seats":6}"#);
            assert_eq!(answer.status, status, "{method} {header}: {tag}");
        }
        assert_eq!(client.call("DELETE", PATH, &[("if-match", &second)], "").status, 204);
        assert_eq!(client.call("DELETE", PATH, &[("if-match", &second)], "").status, 404);
        let recreated = put(&[NEW], r#"{"seats":1}"#);
        assert_eq!(recreated.status, 201);
        assert_eq!(put(&[("if-match", &second)], r#"{"seats":2}"#).reason(), "stale_version");
    }
}

#[test]
fn g4_a_refusal_shows_the_typed_value_and_what_changed() {
    for client in clients() {
        let first = client.call("PUT", PATH, &[NEW, JSON], r#"{"seats":4}"#).tag();
        let by_bob = [("if-match", &*first), JSON, ("ifmatch-actor", "bob")];
        client.call("PUT", PATH, &by_bob, r#"{"seats":5}"#);
        let lost = client.call("PUT", PATH, &[("if-match", &first), JSON], r#"{"seats":6}"#);
        let problem = lost.json();
        assert_eq!((lost.status, lost.reason().as_str()), (409, "stale_version"));
        assert_eq!(problem["instance"], PATH);
        assert_eq!(problem["expected"], json!({ "tags": [first], "versions": [1] }));
        assert_eq!(problem["current"]["value"], json!({ "seats": 5 }));
        assert_eq!(problem["current"]["written_by"], "bob");
        assert_eq!(problem["changed"], json!(["/seats"]));
    }
}

#[test]
fn g5_an_idempotency_key_is_known_again() {
    for client in clients() {
        let named = [JSON, ("ifmatch-actor", "ann"), ("idempotency-key", "o-1")];
        let first = client.call("POST", "/rooms", &named, r#"{"seats":4}"#);
        let again = client.call("POST", "/rooms", &named, r#"{"seats":4}"#);
        assert_eq!((first.status, again.status), (201, 201));
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(client.get(first.header("location")).text(), r#"{"seats":4}"#);
        let other = client.call("POST", "/rooms", &named, r#"{"seats":5}"#);
        assert_eq!((other.status, other.reason().as_str()), (422, "key_reused"));

        let edit = [MERGE, ("if-match", "*"), ("idempotency-key", "o-2")];
        let patched = client.call("PATCH", first.header("location"), &edit, r#"{"seats":7}"#);
        let again = client.call("PATCH", first.header("location"), &edit, r#"{"seats":7}"#);
        assert_eq!((patched.status, again.status, again.tag()), (200, 200, patched.tag()));
    }
}

#[test]
fn g6_a_write_without_a_condition_is_refused() {
    for client in clients() {
        for (method, kind) in [("PUT", JSON), ("DELETE", JSON), ("PATCH", MERGE)] {
            let answer = client.call(method, PATH, &[kind], r#"{"seats":4}"#);
            assert_eq!((answer.status, &*answer.reason()), (428, "precondition_required"));
        }
        assert_eq!(client.get(PATH).status, 404);
        client.overwrite(PATH, r#"{"seats":4}"#);
    }
}

#[test]
fn a_patch_changes_a_typed_value_or_says_why_not() {
    for client in clients() {
        client.overwrite(PATH, r#"{"seats":4}"#);
        let patch = |kind, body| client.call("PATCH", PATH, &[kind, ("if-match", "*")], body);
        assert_eq!(patch(MERGE, r#"{"seats":5,"colour":"red"}"#).text(), r#"{"seats":5}"#);
        let test = r#"[{"op":"test","path":"/seats","value":4}]"#;
        let failed = patch(PATCH, test);
        assert_eq!((failed.status, failed.reason().as_str()), (409, "wrong_state"));
        assert_eq!(failed.json()["current"]["value"], json!({ "seats": 5 }));
        for (kind, body, status) in [
            (MERGE, r#"{"seats":null}"#, 400),
            (MERGE, r#"{"seats":"many"}"#, 400),
            (MERGE, "[]", 400),
            (JSON, r#"{"seats":6}"#, 415),
        ] {
            assert_eq!(patch(kind, body).status, status, "{body}");
        }
        assert_eq!(client.get(PATH).text(), r#"{"seats":5}"#);
        let unknown = client.call("PATCH", "/rooms/r-2", &[MERGE, ("if-match", "*")], "{}");
        assert_eq!(unknown.status, 409);
    }
}

#[test]
fn what_is_no_value_and_no_path_is_refused() {
    for client in clients() {
        for (method, path, body, status) in [
            ("PUT", PATH, r#"{"seats":-1}"#, 400),
            ("PUT", PATH, r#"{}"#, 400),
            ("PUT", PATH, r#"{"seats":1"#, 400),
            ("PUT", PATH, "", 400),
            ("PUT", "/rooms/a/b", r#"{"seats":1}"#, 404),
            ("PUT", "/rooms/..%2F..", r#"{"seats":1}"#, 201),
            ("PUT", "/rooms/%2E", r#"{"seats":1}"#, 400),
            ("PUT", "/rooms/%FF", r#"{"seats":1}"#, 400),
            ("PUT", "/rooms", r#"{"seats":1}"#, 405),
            ("POST", PATH, r#"{"seats":1}"#, 405),
            ("TRACE", PATH, "", 405),
        ] {
            let answer = client.call(method, path, &[JSON, NEW], body);
            assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        }
        let large = format!(r#"{{"seats":1,"note":"{}"}}"#, "x".repeat(1 << 20));
        assert_eq!(client.call("PUT", PATH, &[JSON, NEW], &large).reason(), "too_large");
        assert_eq!(client.call("PUT", PATH, &[NEW], "{}").reason(), "unsupported_media_type");
        assert_eq!(client.get(PATH).status, 404);
    }
}

#[test]
fn a_list_has_all_in_order_and_in_pages() {
    for client in clients() {
        for key in ["b", "a%2Fx", "c"] {
            client.overwrite(&format!("/rooms/{key}"), r#"{"seats":1}"#);
        }
        let page = client.get("/rooms?limit=2").json();
        let keys = |page: &Value| -> Vec<String> {
            let items = page["items"].as_array().unwrap().iter();
            items.map(|item| item["key"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!((keys(&page), &page["next"]), (vec!["a/x".into(), "b".into()], &json!("b")));
        assert_eq!(page["items"][0]["value"], json!({ "seats": 1 }));
        let rest = client.get("/rooms?after=b").json();
        assert_eq!((keys(&rest), &rest["next"]), (vec!["c".to_owned()], &Value::Null));
        assert_eq!(client.get("/rooms?limit=0").reason(), "malformed");
    }
}

#[test]
fn handlers_of_the_application_stand_beside_it() {
    for client in clients() {
        client.overwrite(PATH, r#"{"seats":4}"#);
        let added = client.call("POST", "/rooms/r-1/seats", &[("ifmatch-actor", "ann")], "");
        assert_eq!((added.status, added.text()), (200, r#"{"seats":5}"#));
        assert_eq!(client.get(PATH).header("ifmatch-written-by"), "ann");
    }
}

/// The embedding application's authentication, the status and the dialect of its choice.
#[test]
fn options_hold_for_a_typed_collection() {
    let rooms = || Store::in_memory().collection::<String, u32>("rooms").unwrap();
    let authenticated = from_fn(|mut request: Request, next: Next| {
        request.extensions_mut().insert(Actor::from("ann"));
        next.run(request)
    });
    let app = Router::new().nest("/rooms", resource(rooms())).layer(authenticated);
    let forged = [NEW, JSON, ("ifmatch-actor", "mallory")];
    let created = Client::of(app).call("PUT", PATH, &forged, "4");
    assert_eq!((created.status, created.header("ifmatch-written-by")), (201, "ann"));

    let strict = RouterOptions::default()
        .stale_status(StaleStatus::PreconditionFailed)
        .dialect(GoogleLegacy::default())
        .body_limit(2);
    let client = Client::of(Router::new().nest("/rooms", strict.resource(rooms())));
    client.overwrite(PATH, "4");
    let there = client.call("PUT", PATH, &[NEW, JSON], "5");
    assert_eq!((there.status, &there.json()["error"]["code"]), (412, &json!(412)));
    assert_eq!(client.call("PUT", PATH, &[NEW, JSON], "500").status, 413);

    let tokens: Tokens = format!("ann:{}", "0".repeat(64)).parse().unwrap();
    let closed = RouterOptions::default().tokens(tokens).resource(rooms());
    let client = Client::of(Router::new().nest("/rooms", closed));
    for path in [PATH, "/rooms", "/rooms/healthz"] {
        assert_eq!(client.get(path).reason(), "unauthorized", "{path}");
    }

    let none = RouterOptions::default().max_in_flight(0).resource(rooms());
    let full = block_on(Client::of(Router::new().nest("/rooms", none)).send_async(request(
        "GET",
        PATH,
        &[],
        "",
    )));
    assert_eq!((full.status, full.reason().as_str()), (503, "overloaded"));
}
