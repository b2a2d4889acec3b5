//! Batches and transactions: many writes in one request, each by itself or all or none.

use std::sync::Arc;

use ifmatch::axum::RouterOptions;
use ifmatch::http::{Document, StaleStatus};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Json, Store};
use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON};

fn post(client: &Client, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    client.call("POST", path, &[&[JSON], headers].concat(), &body.to_string())
}

fn put(key: &str, value: Value) -> Value {
    let mut put = json!({ "op": "put", "collection": "shifts", "key": key, "unconditional": true });
    put["value"] = value;
    put
}

fn batch(client: &Client, writes: &Value) -> Answer {
    post(client, "/batch", &[], &json!({ "writes": writes }))
}

fn transact(client: &Client, operations: &Value) -> Answer {
    post(client, "/transactions", &[], &json!({ "operations": operations }))
}

fn path(key: &str) -> String {
    format!("/collections/shifts/{key}")
}

#[test]
fn g1_each_write_of_a_batch_stands_by_itself() {
    let client = Client::in_memory();
    let tag = client.overwrite(&path("a"), "1");
    let answer = batch(
        &client,
        &json!([
            { "op": "put", "collection": "shifts", "key": "a", "if_match": tag, "value": null },
            { "op": "put", "collection": "shifts", "key": "a", "if_match": [tag], "value": 3 },
            { "op": "put", "collection": "new", "key": "b", "if_none_match": "*", "value": {} },
            { "op": "put", "collection": "new", "key": "b", "if_match": "*", "value": 5 },
            { "op": "delete", "collection": "shifts", "key": "none", "unconditional": true },
            { "op": "delete", "collection": "nowhere", "key": "none", "unconditional": true },
            { "op": "put", "collection": "shifts", "key": "c", "value": 7 },
        ]),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let results = &answer.json()["results"];
    let problem = |place: usize| {
        let problem = &results[place]["problem"];
        (problem["status"].as_u64(), problem["reason"].as_str().map(str::to_owned))
    };
    assert_eq!(client.get(&path("a")).text(), "null");
    assert_eq!(results[0]["etag"].as_str(), Some(client.get(&path("a")).tag().as_str()));
    assert_eq!(problem(1), (Some(409), Some("stale_version".into())));
    assert_eq!(results[1]["problem"]["expected"]["tags"], json!([tag]));
    assert_eq!(client.get("/collections/new/b").text(), "5");
    assert_eq!(problem(4), (Some(409), Some("absent".into())));
    assert_eq!(problem(5), (Some(409), Some("absent".into())));
    assert_eq!(problem(6), (Some(428), Some("precondition_required".into())));
    assert_eq!(client.get("/collections/nowhere").status, 404, "it was not created");
    assert_eq!(results[2]["key"], "b");
    let versions: Vec<_> = [0, 2, 3].map(|place| results[place]["version"].as_u64()).into();
    assert!(versions.is_sorted() && versions[0] < versions[1], "{versions:?}");
}

#[test]
fn g1_a_transaction_writes_all_or_nothing() {
    let client = Client::in_memory();
    let (a, b) = (client.overwrite(&path("a"), "1"), client.overwrite(&path("b"), "2"));
    let operations = json!([
        { "op": "check", "collection": "shifts", "key": "a", "if_match": a },
        { "op": "put", "collection": "trades", "key": "t", "if_none_match": "*", "value": [1e0] },
        { "op": "put", "collection": "shifts", "key": "a", "if_match": a, "value": 2 },
        { "op": "delete", "collection": "shifts", "key": "b", "if_match": b },
    ]);
    let done = transact(&client, &operations);
    assert_eq!(done.status, 200, "{}", done.text());
    let (now, trade) = (client.get(&path("a")), client.get("/collections/trades/t"));
    assert_eq!((now.text(), trade.text()), ("2", "[1.0]"));
    assert_eq!(done.json()["etags"], json!({ "shifts/a": now.tag(), "trades/t": trade.tag() }));
    assert_eq!(done.json()["version"].to_string(), now.header("ifmatch-version"));
    assert_eq!(now.header("ifmatch-version"), trade.header("ifmatch-version"));
    assert_eq!(client.get(&path("b")).status, 404);

    let refused = transact(&client, &operations);
    assert_eq!((refused.status, refused.reason()), (409, "stale_version".to_owned()));
    let conflicts = refused.json()["conflicts"].clone();
    let told: Vec<_> = conflicts.as_array().unwrap().iter().collect();
    let reasons = told.iter().map(|told| (told["key"].as_str(), told["reason"].as_str()));
    let expected = [("a", "stale_version"), ("b", "deleted"), ("t", "already_exists")];
    let expected = expected.map(|(key, reason)| (Some(key), Some(reason)));
    assert_eq!(reasons.collect::<Vec<_>>(), expected);
    assert_eq!(told[0]["expected"]["tags"], json!([a]));
    assert_eq!(client.get(&path("a")).tag(), now.tag(), "nothing was written");

    let checked =
        json!([{ "op": "check", "collection": "shifts", "key": "a", "if_match": now.tag() }]);
    let checked = transact(&client, &checked);
    assert_eq!((checked.status, checked.text()), (200, r#"{"version":null,"etags":{}}"#));
}

#[test]
fn g4_a_transaction_over_what_has_never_been_is_refused_and_creates_nothing() {
    let options = RouterOptions::default().stale_status(StaleStatus::PreconditionFailed);
    let client = Client::new(Store::in_memory(), options);
    let refused = transact(
        &client,
        &json!([
            { "op": "put", "collection": "x", "key": "1", "if_match": "*", "value": 1 },
            { "op": "delete", "collection": "y", "key": "2", "unconditional": true },
        ]),
    );
    assert_eq!((refused.status, refused.reason()), (412, "absent".to_owned()));
    assert_eq!(refused.json()["conflicts"].as_array().map(Vec::len), Some(2));
    assert_eq!(client.get("/collections/x").status, 404);
}

#[test]
fn g4_what_is_no_list_of_writes_is_told_where_and_why() {
    let client = Client::in_memory();
    let one = |write| json!({ "writes": [write] });
    let on_k = |op: &str, name: &str, value: Value| {
        let mut write = json!({ "op": op, "collection": "a", "key": "k" });
        write[name] = value;
        write
    };
    let mut reserved = put("k", json!(1));
    reserved["collection"] = "$ids".into();
    let mut leased = on_k("delete", "if_match", json!("*"));
    leased["lease"] = 0.into();
    let cases = [
        (json!({}), "missing field"),
        (one(json!({ "op": "put" })), "missing field"),
        (json!({ "writes": [], "more": 1 }), "unknown field"),
        (json!({ "writes": [put("a", json!(1)), put("", json!(1))] }), "writes[1]: a key is"),
        (one(reserved), "writes[0]: a collection's name"),
        (one(on_k("put", "unconditional", json!(true))), "a put needs a value"),
        (one(on_k("delete", "if_match", json!("3"))), "if_match: "),
        (one(on_k("check", "if_match", json!("*"))), "no checks"),
        (one(leased), "a lease is"),
    ];
    for (body, says) in cases {
        let refused = post(&client, "/batch", &[], &body);
        assert_eq!((refused.status, refused.reason()), (400, "malformed".to_owned()), "{body}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(says), "{}", refused.text());
    }
    let twice = transact(&client, &json!([put("a", json!(1)), put("a", json!(2))]));
    assert_eq!(twice.status, 400);
    let bare = json!([{ "op": "delete", "collection": "shifts", "key": "k" }]);
    assert_eq!(transact(&client, &bare).status, 428);
    let body = json!({ "operations": [put("a", json!(1))] });
    let headed = post(&client, "/transactions", &[("if-match", "*")], &body);
    assert_eq!((headed.status, headed.reason()), (400, "malformed".to_owned()));
    let plain = client.call("POST", "/transactions", &[("content-type", "text/plain")], "{}");
    assert_eq!(plain.status, 415);
    assert_eq!(client.get(&path("a")).status, 404);
}

#[test]
fn g12_batches_and_transactions_are_bounded() {
    let client = Client::in_memory();
    let many: Vec<_> = (0..1_025).map(|key| put(&key.to_string(), json!(1))).collect();
    for refused in [batch(&client, &json!(many)), transact(&client, &json!(many))] {
        assert_eq!((refused.status, refused.reason()), (413, "too_large".to_owned()));
    }
    assert!(client.get("/collections/shifts").json()["items"].as_array().is_none_or(Vec::is_empty));
}

#[test]
fn g5_a_second_try_gets_the_first_answer_after_a_restart_too() {
    let disk = MemoryDisk::new();
    let open = || {
        let store = Store::builder().open_on(Arc::new(disk.clone())).unwrap();
        Client::new(store, RouterOptions::default())
    };
    let create = json!({ "op": "put", "collection": "shifts", "key": "a", "if_none_match": "*",
        "value": 1 });
    let moved = json!({ "op": "put", "collection": "shifts", "key": "t", "if_none_match": "*",
        "value": 1 });
    let key = [("idempotency-key", "\"monday\""), ("ifmatch-actor", "ann")];
    let tuesday = [("idempotency-key", "tuesday"), ("ifmatch-actor", "ann")];
    let try_both = |client: &Client| {
        let batched =
            post(client, "/batch", &key, &json!({ "writes": [create, put("b", json!(2))] }));
        let body = json!({ "operations": [moved] });
        [batched, post(client, "/transactions", &tuesday, &body)]
    };
    let client = open();
    let first = try_both(&client);
    client.overwrite(&path("b"), "3");
    let again = try_both(&client);
    drop(client);
    let client = open();
    let later = try_both(&client);
    for (first, tries) in first.iter().zip([[&again[0], &later[0]], [&again[1], &later[1]]]) {
        assert_eq!(first.header("idempotency-replayed"), "");
        for again in tries {
            assert_eq!((again.status, again.text()), (200, first.text()));
            assert_eq!(again.header("idempotency-replayed"), "true");
        }
    }
    assert_eq!(client.get(&path("b")).text(), "3", "nothing was written twice");
    let other = post(&client, "/transactions", &tuesday, &json!({ "operations": [create] }));
    assert_eq!((other.status, other.reason()), (422, "key_reused".to_owned()));
    assert_eq!(client.get(&path("t")).header("ifmatch-written-by"), "ann");
}

#[test]
fn g8_writes_of_many_hold_the_leases_they_name() {
    let store = Store::in_memory();
    let shifts = store.declare::<String, Document>("shifts").codec(Json).open().unwrap();
    let client = Client::new(store.clone(), RouterOptions::default());
    let lease = shifts.lease("a").by("ann").commit().unwrap();
    let mut write = put("a", json!(1));
    let problem = batch(&client, &json!([write])).json()["results"][0]["problem"].clone();
    assert_eq!((&problem["reason"], &problem["holder"]), (&"locked".into(), &"ann".into()));
    let refused = transact(&client, &json!([write]));
    assert_eq!((refused.status, refused.reason()), (409, "locked".to_owned()));
    write["lease"] = lease.token().get().into();
    assert_eq!(transact(&client, &json!([write])).status, 200);
    assert!(batch(&client, &json!([write])).json()["results"][0]["version"].is_u64());
    lease.release().commit().unwrap();
    let late = transact(&client, &json!([write]));
    assert_eq!((late.status, late.reason()), (409, "fenced".to_owned()));
}
