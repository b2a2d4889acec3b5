//! Operations over HTTP: one at a time within a scope, told to all, and held by a token.

use std::pin::pin;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON, OVERWRITE, block_on, request, waits};
use ifmatch::Store;
use ifmatch::axum::{RouterOptions, Stop};
use ifmatch::testing::MemoryDisk;

const TRANSFERS: &str = "/operations/transfer";

fn begin(client: &Client, body: &Value) -> Answer {
    client.call("POST", TRANSFERS, &[JSON, ("ifmatch-actor", "photos")], &body.to_string())
}

/// One that is begun now: where it is, and its token.
fn begun(client: &Client, scope: &str) -> (String, Value) {
    let answer = begin(client, &json!({"scope": scope, "on_busy": "queue"}));
    assert_eq!(answer.status, 201, "{answer:?}");
    (answer.header("location").to_owned(), answer.json()["token"].clone())
}

fn step(client: &Client, location: &str, step: &str, body: &Value) -> Answer {
    client.call("POST", &format!("{location}/{step}"), &[JSON], &body.to_string())
}

#[test]
fn g4_a_scope_that_is_taken_is_told_with_who_has_it() {
    let client = Client::in_memory();
    let first = begin(&client, &json!({"scope": "user/42"}));
    let told = first.json();
    assert_eq!(first.header("location"), format!("{TRANSFERS}/{}", told["id"].as_str().unwrap()));
    assert_eq!((&told["status"], &told["started_by"]), (&json!("in_progress"), &json!("photos")));
    assert!(told["token"].as_str().is_some_and(|token| token.len() == 16), "{told}");
    let path = first.header("location");
    step(&client, path, "progress", &json!({"token": told["token"], "progress": 40}));

    let refused = client.call("POST", "/operations/export", &[JSON], r#"{"scope":"user/42"}"#);
    assert_eq!((refused.status, refused.reason().as_str()), (409, "in_progress"));
    let problem = refused.json();
    assert_eq!(problem["operation"]["id"], told["id"]);
    assert_eq!(problem["operation"]["progress"], 40);
    assert_eq!(problem["operation"]["expires_at"].as_str().map(str::len), Some(24));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(!refused.text().contains(told["token"].as_str().unwrap()));
}

#[test]
fn g8_a_queued_one_starts_when_the_one_before_it_ends() {
    let client = Client::in_memory();
    let (first, token) = begun(&client, "a");
    let (second, queued) = begun(&client, "a");
    let told = client.get(&second).json();
    assert_eq!((&told["status"], &told["position"]), (&json!("queued"), &json!(1)));
    let early = step(&client, &second, "heartbeat", &json!({"token": queued}));
    assert_eq!((early.status, early.reason().as_str()), (409, "in_progress"));
    assert_eq!(step(&client, &first, "fail", &json!({"token": token, "error": 7})).status, 200);
    assert_eq!(client.get(&first).json()["error"], 7);
    let beat = step(&client, &second, "heartbeat", &json!({"token": queued}));
    assert_eq!((beat.status, &beat.json()["status"]), (200, &json!("in_progress")));
    let late = step(&client, &first, "complete", &json!({"token": token}));
    assert_eq!((late.status, late.reason().as_str()), (409, "fenced"));
    assert_eq!(late.json()["operation"]["status"], "failed");
}

#[test]
fn input_and_result_are_kept_byte_for_byte_and_shown_to_all() {
    let store = Store::in_memory();
    let client = Client::new(store.clone(), RouterOptions::default());
    let body = r#"{"scope":"a","input":{ "n": 1e0 }}"#;
    let begun = client.call("POST", TRANSFERS, &[JSON], body);
    let (path, told) = (begun.header("location"), begun.json());
    let id = told["id"].as_str().unwrap();
    let body = format!(r#"{{"token":{},"result":[ 1.50 ]}}"#, told["token"]);
    let ended = client.call("POST", &format!("{path}/complete"), &[JSON], &body);
    assert_eq!((ended.status, &ended.json()["status"]), (200, &json!("completed")));
    let shown = client.get(path);
    assert!(shown.text().contains(r#""input":{ "n": 1e0 },"result":[ 1.50 ],"#), "{shown:?}");
    assert!(!shown.text().contains("token"), "{shown:?}");
    let info = store.operations("transfer").get(id).unwrap().unwrap();
    assert_eq!(
        (info.input(), info.result()),
        (Some(&b"{ \"n\": 1e0 }"[..]), Some(&b"[ 1.50 ]"[..]))
    );

    let other = store.operations("transfer").begin("b").input(b"\xff{".to_vec()).commit().unwrap();
    let shown = client.get(&format!("{TRANSFERS}/{}", other.id())).json();
    assert_eq!(shown["input"], "\u{fffd}{");
}

#[test]
fn cancelling_without_the_token_has_to_be_spelled_out() {
    let client = Client::in_memory();
    let (first, token) = begun(&client, "a");
    let (second, _) = begun(&client, "a");
    for body in [json!({}), json!({"force": false})] {
        assert_eq!(step(&client, &second, "cancel", &body).reason(), "malformed");
    }
    let forced = step(&client, &second, "cancel", &json!({"force": true}));
    assert_eq!(forced.json()["status"], "cancelled");
    let given_up = step(&client, &first, "cancel", &json!({"token": token}));
    assert_eq!(given_up.json()["status"], "cancelled");
}

#[test]
fn g5_beginning_twice_with_one_key_begins_once() {
    let disk = MemoryDisk::new();
    let open = || {
        let store = Store::builder().open_on(Arc::new(disk.clone())).expect("it opens");
        Client::new(store, RouterOptions::default())
    };
    let begin = |client: &Client, scope| {
        let body = json!({ "scope": scope }).to_string();
        client.call("POST", TRANSFERS, &[JSON, ("idempotency-key", "\"monday\"")], &body)
    };
    let first = begin(&open(), "a");
    let client = open();
    let again = begin(&client, "a");
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.json()["token"], first.json()["token"]);
    assert_eq!(first.header("idempotency-replayed"), "");
    assert_eq!(again.header("idempotency-replayed"), "true");
    let other = begin(&client, "b");
    assert_eq!((other.status, other.reason().as_str()), (422, "key_reused"));
}

#[test]
fn g12_what_is_no_operation_or_step_is_refused() {
    let client = Client::in_memory();
    let (path, token) = begun(&client, "a");
    let deep = format!(r#"{{"scope":"b","input":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    for body in [
        "",
        "[]",
        "{",
        "{}",
        r#"{"scope":1}"#,
        r#"{"scope":"b","scope":"c"}"#,
        r#"{"scope":"b","extra":1}"#,
        r#"{"scope":"b","on_busy":"wait"}"#,
        r#"{"scope":"b","ttl_ms":18446744073709551615}"#,
        r#"{"scope":"b","input":{]}"#,
        &deep,
    ] {
        let refused = client.call("POST", TRANSFERS, &[JSON], body);
        assert_eq!((refused.status, refused.reason().as_str()), (400, "malformed"), "{body}");
    }
    for (name, body) in [
        ("heartbeat", json!({})),
        ("heartbeat", json!({"token": 7})),
        ("heartbeat", json!({"token": "7"})),
        ("heartbeat", json!({"token": "+123456789abcdef"})),
        ("heartbeat", json!({"token": token, "progress": 1})),
        ("progress", json!({"token": token})),
        ("progress", json!({"token": token, "progress": 101})),
        ("complete", json!({"result": 1})),
        ("cancel", json!({"token": null, "force": 1})),
    ] {
        let refused = step(&client, &path, name, &body);
        assert_eq!((refused.status, refused.reason().as_str()), (400, "malformed"), "{body}");
    }
    let other = step(&client, &path, "heartbeat", &json!({"token": "0".repeat(16)}));
    assert_eq!((other.status, other.reason().as_str()), (409, "fenced"));
    let unknown = format!("{TRANSFERS}/{}", "0".repeat(22));
    assert_eq!(client.get(&unknown).status, 404);
    assert_eq!(step(&client, &unknown, "heartbeat", &json!({"token": token})).status, 404);
    assert_eq!(client.get(&path.replace("transfer", "export")).status, 404);
    assert_eq!(client.get("/operations/transfer/x%00").status, 400);
    assert_eq!(client.get("/operations/Transfer/x").status, 400);
    assert_eq!(client.get(&path).json()["status"], "in_progress");
}

#[test]
fn who_waits_is_told_of_the_end_and_keeps_nobody_out() {
    let options = RouterOptions::default().max_in_flight(1).max_waiting(1);
    let client = Client::new(Store::in_memory(), options);
    let (path, token) = begun(&client, "a");
    let wait = format!("{path}?wait_ms=60000");
    let told = block_on(async {
        let mut waiting = pin!(client.send_async(request("GET", &wait, &[], "")));
        waits(waiting.as_mut()).await;
        let write = format!("/collections/shifts/s-17{OVERWRITE}");
        let put = client.send_async(request("PUT", &write, &[JSON], "1")).await;
        assert_eq!(put.status, 201, "{put:?}");
        let second = client.send_async(request("GET", &wait, &[], "")).await;
        assert_eq!((second.status, second.reason().as_str()), (503, "overloaded"));
        let body = json!({ "token": token }).to_string();
        let end = request("POST", &format!("{path}/complete"), &[JSON], &body);
        assert_eq!(client.send_async(end).await.status, 200);
        waiting.await
    });
    assert_eq!((told.status, &told.json()["status"]), (200, &json!("completed")));
    assert_eq!(client.get(&wait).json()["status"], "completed", "at once");
}

#[test]
fn who_waits_is_told_how_far_it_is_when_the_server_stops() {
    let stop = Stop::default();
    let client = Client::new(Store::in_memory(), RouterOptions::default().stop(&stop));
    let (path, _) = begun(&client, "a");
    let wait = format!("{path}?wait_ms=60000");
    let told = block_on(async {
        let mut waiting = pin!(client.send_async(request("GET", &wait, &[], "")));
        waits(waiting.as_mut()).await;
        stop.stop();
        waiting.await
    });
    assert_eq!((told.status, &told.json()["status"]), (200, &json!("in_progress")));
}

#[test]
fn g12_waiting_is_bounded() {
    let client = Client::in_memory();
    let (path, _) = begun(&client, "a");
    for wait in ["60001", "-1", "x", ""] {
        assert_eq!(client.get(&format!("{path}?wait_ms={wait}")).reason(), "malformed", "{wait}");
    }
    let told = client.get(&format!("{path}?wait_ms=1"));
    assert_eq!((told.status, &told.json()["status"]), (200, &json!("in_progress")));
}
