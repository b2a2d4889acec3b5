//! Leases over HTTP: held by a token, told to others without it (G8).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON, OVERWRITE};
use ifmatch::Store;
use ifmatch::axum::RouterOptions;
use ifmatch::testing::{ManualClock, MemoryDisk};

const PATH: &str = "/collections/shifts/s-17";
const LEASE: &str = "/collections/shifts/s-17/lease";

fn take(client: &Client, body: &str) -> Answer {
    client.call("POST", LEASE, &[JSON, ("ifmatch-actor", "payroll")], body)
}

/// The token of a lease that is taken now.
fn taken(client: &Client, body: &str) -> String {
    let answer = take(client, body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_u64().expect("a number").to_string()
}

fn with_clock() -> (Client, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_793_064_600)));
    let store = Store::builder().clock(clock.clone()).in_memory();
    (Client::new(store, RouterOptions::default()), clock)
}

#[test]
fn g8_a_lease_keeps_others_out_until_it_is_released() {
    let (client, clock) = with_clock();
    let token = taken(&client, r#"{"ttl_ms": 60000, "reason": "closing the month"}"#);
    clock.advance(Duration::from_secs(10));
    let write = format!("{PATH}{OVERWRITE}");
    for method in ["PUT", "DELETE"] {
        let refused = client.call(method, &write, &[JSON], "1");
        assert_eq!((refused.status, refused.reason().as_str()), (409, "locked"));
        let problem = refused.json();
        assert_eq!(problem["holder"], "payroll");
        assert_eq!(problem["expires_at"], "2026-10-27T01:31:00.000Z");
        assert_eq!(problem["retry"], json!({"advice": "after", "after_ms": 50_000}));
        assert_eq!(refused.header("retry-after"), "50");
    }
    assert_eq!(take(&client, "").reason(), "locked");
    let held = [JSON, ("ifmatch-lease", token.as_str())];
    assert_eq!(client.call("PUT", &write, &held, "1").status, 201);
    let released = client.call("DELETE", LEASE, &held, "");
    assert_eq!((released.status, released.text()), (204, ""));
    assert_eq!(client.call("PUT", &write, &[JSON], "2").status, 200);
    assert_eq!(client.call("DELETE", LEASE, &held, "").reason(), "fenced");
}

#[test]
fn g8_a_late_holder_is_fenced() {
    let (client, clock) = with_clock();
    let token = taken(&client, r#"{"ttl_ms": 1000}"#);
    clock.advance(Duration::from_secs(1));
    let next = taken(&client, "{}");
    assert_ne!(token, next);
    let held = [JSON, ("ifmatch-lease", token.as_str())];
    for (method, path, body) in
        [("PUT", &*format!("{PATH}{OVERWRITE}"), "1"), ("PUT", LEASE, r#"{"ttl_ms":1}"#)]
    {
        let late = client.call(method, path, &held, body);
        assert_eq!((late.status, late.reason().as_str()), (409, "fenced"), "{late:?}");
        assert_eq!(late.json()["retry"]["advice"], "refetch");
    }
    assert_eq!(client.get(PATH).status, 404);
}

#[test]
fn g8_renewing_keeps_the_token() {
    let (client, clock) = with_clock();
    let token = taken(&client, r#"{"ttl_ms": 1000}"#);
    let held = [JSON, ("ifmatch-lease", token.as_str())];
    let renewed = client.call("PUT", LEASE, &held, r#"{"ttl_ms": 5000}"#);
    assert_eq!(renewed.status, 200);
    let token: Value = token.parse::<u64>().unwrap().into();
    assert_eq!(renewed.json(), json!({"token": token, "expires_at": "2026-10-27T01:30:05.000Z"}));
    clock.advance(Duration::from_secs(4));
    assert_eq!(client.get(LEASE).status, 200);
    clock.advance(Duration::from_secs(1));
    assert_eq!(client.get(LEASE).status, 404);
}

#[test]
fn g8_a_lease_is_shown_without_its_token() {
    let (client, _) = with_clock();
    assert_eq!(client.get(LEASE).status, 404);
    taken(&client, r#"{"reason": "closing"}"#);
    let expected = json!({
        "holder": "payroll",
        "reason": "closing",
        "since": "2026-10-27T01:30:00.000Z",
        "expires_at": "2026-10-27T01:30:30.000Z",
        "operation": null,
    });
    assert_eq!(client.get(LEASE).json(), expected);
    assert_eq!(client.get("/collections/shifts/s-18/lease").reason(), "not_found");
}

#[test]
fn g8_a_restart_keeps_a_lease() {
    let disk = MemoryDisk::new();
    let open = || {
        let store = Store::builder().open_on(Arc::new(disk.clone())).expect("it opens");
        Client::new(store, RouterOptions::default())
    };
    let client = open();
    let token = taken(&client, r#"{"ttl_ms": 3600000}"#);
    drop(client);
    let client = open();
    // Also where there is no document that would have kept the collection.
    assert_eq!(client.get(LEASE).json()["holder"], "payroll");
    drop(client);
    let client = open();
    let held = [JSON, ("ifmatch-lease", token.as_str())];
    assert_eq!(client.call("PUT", LEASE, &held, r#"{"ttl_ms": 3600000}"#).status, 200);
    let write = format!("{PATH}{OVERWRITE}");
    assert_eq!(client.call("PUT", &write, &[JSON], "1").reason(), "locked");
    drop(client);
    assert_eq!(open().call("DELETE", LEASE, &held, "").status, 204);
}

#[test]
fn g8_a_lease_for_an_operation_ends_with_it() {
    let client = Client::in_memory();
    let begun = client.call("POST", "/operations/transfer", &[JSON], r#"{"scope":"user/42"}"#);
    let (location, begun) = (begun.header("location").to_owned(), begun.json());
    let (id, token) = (&begun["id"], &begun["token"]);
    let operation = json!({"kind": "transfer", "id": id, "token": token});
    let body = json!({"operation": operation, "reason": "moving"}).to_string();
    let lease = taken(&client, &body);
    assert_eq!(taken(&client, &body), lease, "it has it");
    let named = json!({"kind": "transfer", "id": id});
    assert_eq!(client.get(LEASE).json()["operation"], named);
    let write = format!("{PATH}{OVERWRITE}");
    let refused = client.call("PUT", &write, &[JSON], "1").json();
    assert_eq!((&refused["reason"], &refused["operation"]), (&json!("locked"), &named));

    let both = json!({"operation": operation, "ttl_ms": 1}).to_string();
    assert_eq!(take(&client, &both).reason(), "malformed");
    let other = json!({"kind": "transfer", "id": id, "token": "0".repeat(16)});
    let stranger = take(&client, &json!({ "operation": other }).to_string());
    assert_eq!((stranger.status, stranger.reason().as_str()), (409, "fenced"));

    let end = json!({ "token": token }).to_string();
    assert_eq!(client.call("POST", &format!("{location}/complete"), &[JSON], &end).status, 200);
    assert_eq!(client.get(LEASE).status, 404);
    assert_eq!(take(&client, &body).reason(), "fenced");
}

#[test]
fn g12_what_is_no_lease_is_refused() {
    let client = Client::in_memory();
    let long = json!({"reason": "x".repeat(257)}).to_string();
    for body in [
        "[]",
        "{",
        "null",
        r#"{"ttl":1}"#,
        r#"{"ttl_ms":-1}"#,
        r#"{"ttl_ms":"1"}"#,
        r#"{"ttl_ms":18446744073709551615}"#,
        r#"{"reason":1}"#,
        r#"{"operation":{"kind":"a","id":"b","token":"c"}}"#,
        r#"{"operation":{"kind":"A","id":"0123456789ABCDEFGHJKMN","token":"0123456789abcdef"}}"#,
        r#"{"operation":{"kind":"a","id":"b","token":"0123456789abcdef"}}"#,
        &long,
    ] {
        let refused = take(&client, body);
        assert_eq!((refused.status, refused.reason().as_str()), (400, "malformed"), "{body}");
    }
    assert_eq!(client.call("POST", LEASE, &[], "{}").status, 415);
    let keyed = client.call("POST", LEASE, &[("idempotency-key", "\"")], "");
    assert_eq!(keyed.reason(), "malformed");
    assert_eq!(client.get(LEASE).status, 404);
    assert_eq!(client.call("POST", LEASE, &[], "").status, 201);
    for (method, body) in [("PUT", r#"{"ttl_ms":1}"#), ("DELETE", "")] {
        let refused = client.call(method, LEASE, &[JSON], body);
        assert_eq!(refused.reason(), "malformed");
        assert!(refused.text().contains("Ifmatch-Lease"), "{refused:?}");
    }
    let renewal = client.call("PUT", LEASE, &[("ifmatch-lease", "1")], "");
    assert!(renewal.text().contains("ttl_ms"), "{renewal:?}");
}
