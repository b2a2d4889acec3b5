//! Settings of collections and of kinds of operations, changed while the store is in use.

use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON, OVERWRITE};
use ifmatch::axum::{RouterOptions, open_collections, router};
use ifmatch::http::Document;
use ifmatch::testing::MemoryDisk;
use ifmatch::{Json, Store};

const STAFF: &str = "/collections/staff";

fn set(client: &Client, path: &str, settings: &Value) -> Answer {
    client.call("PUT", path, &[JSON], &settings.to_string())
}

fn unique() -> Value {
    json!({ "unique": ["/legacy_id"] })
}

fn on(disk: &MemoryDisk) -> Store {
    Store::builder().open_on(Arc::new(disk.clone())).unwrap()
}

#[test]
fn settings_that_are_left_out_are_as_without_settings() {
    let client = Client::in_memory();
    let plain = json!({
        "unique": [], "history": 8, "require_condition": true, "stale_status": 409,
    });
    let created = set(&client, STAFF, &json!({}));
    assert_eq!((created.status, created.json()), (200, plain.clone()));
    assert_eq!(client.get(STAFF).json()["items"], json!([]), "it is there");
    let strict = json!({ "unique": ["/b", "/a"], "history": 2, "require_condition": false,
                         "stale_status": 412 });
    assert_eq!(set(&client, STAFF, &strict).json(), strict);
    let again = set(&client, STAFF, &json!({ "history": 8 }));
    assert_eq!((again.status, again.json()), (200, plain));
}

#[test]
fn collections_are_listed_with_their_settings() {
    let client = Client::in_memory();
    assert_eq!(client.get("/collections").json(), json!({ "items": [] }));
    client.overwrite("/collections/shifts/s-17", "1");
    set(&client, STAFF, &unique());
    let item = |name: &str, unique: Value| {
        json!({ "name": name, "unique": unique, "history": 8, "require_condition": true,
                "stale_status": 409 })
    };
    let items = [item("shifts", json!([])), item("staff", json!(["/legacy_id"]))];
    assert_eq!(client.get("/collections").json(), json!({ "items": items }));
}

#[test]
fn a_unique_index_is_added_to_what_is_there_or_nothing_changes() {
    let disk = MemoryDisk::new();
    let client = Client::new(on(&disk), RouterOptions::default());
    for (key, id) in [("ann", "L-1"), ("bob", "L-2"), ("cid", "L-1")] {
        client.overwrite(&format!("{STAFF}/{key}"), &json!({ "legacy_id": id }).to_string());
    }
    let tag = client.get(&format!("{STAFF}/cid")).tag();
    let refused = set(&client, STAFF, &unique());
    assert_eq!((refused.status, &*refused.reason()), (409, "duplicate"));
    let shared = json!([{ "index": "/legacy_id", "value": "\"L-1\"", "keys": ["ann", "cid"] }]);
    assert_eq!(refused.json()["duplicates"], shared);
    assert_eq!(client.get("/collections").json()["items"][0]["unique"], json!([]));
    client.overwrite(&format!("{STAFF}/dan"), r#"{"legacy_id":"L-2"}"#);
    client.delete(&format!("{STAFF}/dan"));

    let headers = [JSON, ("if-match", &*tag)];
    let moved = client.call("PUT", &format!("{STAFF}/cid"), &headers, r#"{"legacy_id":"L-3"}"#);
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_eq!(set(&client, STAFF, &unique()).status, 200);
    drop(client);
    // After a restart too, whoever opens it.
    let store = on(&disk);
    open_collections(&store).unwrap();
    let client = Client::of(router(store));
    for (key, id, status) in [("eve", "L-3", 409), ("cid", "L-4", 200), ("eve", "L-3", 201)] {
        let body = json!({ "legacy_id": id }).to_string();
        let put = client.call("PUT", &format!("{STAFF}/{key}{OVERWRITE}"), &[JSON], &body);
        assert_eq!(put.status, status, "{put:?}");
        if status == 409 {
            let problem = put.json();
            let told = [&problem["reason"], &problem["index"], &problem["held_by"]["key"]];
            assert_eq!(told, [&json!("duplicate"), &json!("/legacy_id"), &json!("cid")]);
        }
    }
    assert_eq!(set(&client, STAFF, &json!({})).status, 200);
    client.overwrite(&format!("{STAFF}/fay"), r#"{"legacy_id":"L-3"}"#);
}

#[test]
fn nothing_is_lost_when_a_collection_changes_what_it_keeps() {
    let client = Client::in_memory();
    let path = format!("{STAFF}/ann");
    let tags: Vec<_> = (0..5).map(|n| client.overwrite(&path, &n.to_string())).collect();
    client.overwrite(&format!("{STAFF}/bob"), "0");
    client.delete(&format!("{STAFF}/bob"));
    let history = |client: &Client| -> Vec<Value> {
        let page = client.get(&format!("{path}/history")).json();
        page["items"].as_array().unwrap().iter().map(|item| item["value"].clone()).collect()
    };
    assert_eq!(set(&client, STAFF, &json!({ "history": 2, "unique": ["/id"] })).status, 200);
    assert_eq!(history(&client), [4, 3, 2]);
    assert_eq!(client.get(&path).tag(), tags[4]);
    // A deletion is still known, and so is what changed since.
    let late = client.call("PUT", &format!("{STAFF}/bob"), &[JSON, ("if-match", &tags[0])], "1");
    assert_eq!((late.status, &*late.reason()), (409, "deleted"));
    assert_eq!(set(&client, STAFF, &json!({ "history": 10 })).status, 200);
    client.overwrite(&path, "5");
    assert_eq!(history(&client), [5, 4, 3, 2]);
    assert_eq!(set(&client, STAFF, &json!({ "history": 0 })).status, 200);
    assert_eq!(history(&client), [5]);
}

#[test]
fn g1_no_write_is_lost_while_settings_change() {
    const WRITERS: usize = 4;
    const WRITES: usize = 60;
    let disk = MemoryDisk::new();
    let client = Client::new(on(&disk), RouterOptions::default());
    thread::scope(|scope| {
        let client = &client;
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for n in 0..WRITES {
                    let path = format!("{STAFF}/{writer}-{n}");
                    let body = json!({ "id": [writer, n] }).to_string();
                    let headers = [JSON, ("if-none-match", "*")];
                    let put = client.call("PUT", &path, &headers, &body);
                    assert_eq!(put.status, 201, "{put:?}");
                    assert_eq!(client.get(&path).text(), body);
                }
            });
        }
        for n in 0..20 {
            let settings = match n % 2 {
                0 => json!({ "unique": ["/id"], "history": n }),
                _ => json!({}),
            };
            let changed = set(client, STAFF, &settings);
            assert_eq!(changed.status, 200, "{changed:?}");
        }
    });
    let page = client.get(&format!("{STAFF}?limit=1000")).json();
    assert_eq!(page["items"].as_array().unwrap().len(), WRITERS * WRITES);
    assert_eq!(set(&client, STAFF, &json!({ "unique": ["/id"] })).status, 200);
    let twice = client.call("POST", STAFF, &[JSON], r#"{"id":[0,0]}"#);
    assert_eq!(twice.reason(), "duplicate");
    drop(client);
    let store = on(&disk);
    let staff = store.declare::<String, Document>("staff").codec(Json).open().unwrap();
    assert_eq!(staff.len().unwrap(), WRITERS * WRITES);
}

#[test]
fn a_collection_that_the_program_holds_is_left_as_it_is() {
    let store = Store::in_memory();
    let staff = store.declare::<String, Document>("staff").codec(Json).open().unwrap();
    let client = Client::of(router(store));
    let refused = set(&client, STAFF, &unique());
    assert_eq!((refused.status, &*refused.reason()), (503, "overloaded"));
    assert_eq!(client.get("/collections").json()["items"][0]["unique"], json!([]));
    let other = json!({ "require_condition": false });
    assert_eq!(set(&client, STAFF, &other).status, 200, "this needs no other collection");
    drop(staff);
    assert_eq!(set(&client, STAFF, &unique()).status, 200);
}

#[test]
fn g6_a_collection_may_do_without_conditions() {
    let client = Client::in_memory();
    assert_eq!(set(&client, STAFF, &json!({ "require_condition": false })).status, 200);
    let (path, other) = (format!("{STAFF}/ann"), "/collections/shifts/s-17");
    assert_eq!(client.call("PUT", &path, &[JSON], "{}").status, 201);
    assert_eq!(client.call("PUT", other, &[JSON], "{}").status, 428);
    let merge = ("content-type", "application/merge-patch+json");
    assert_eq!(client.call("PATCH", &path, &[merge], r#"{"a":1}"#).text(), r#"{"a":1}"#);
    let lost = client.call("PUT", &path, &[JSON, ("if-none-match", "*")], "2");
    assert_eq!(lost.reason(), "already_exists", "who names a condition is held to it");
    let writes = json!([
        { "op": "put", "collection": "staff", "key": "bob", "value": 1 },
        { "op": "put", "collection": "shifts", "key": "s-17", "value": 1 },
    ]);
    let batch = client.call("POST", "/batch", &[JSON], &json!({ "writes": writes }).to_string());
    let results = &batch.json()["results"];
    assert!(results[0]["etag"].is_string(), "{batch:?}");
    assert_eq!(results[1]["problem"]["reason"], "precondition_required");
    let operations = json!([{ "op": "put", "collection": "staff", "key": "bob", "value": 2 }]);
    let body = json!({ "operations": operations }).to_string();
    assert_eq!(client.call("POST", "/transactions", &[JSON], &body).status, 200);
    assert_eq!(client.call("DELETE", &path, &[], "").status, 204);
}

#[test]
fn a_collection_has_its_own_status_for_a_lost_race() {
    let client = Client::in_memory();
    assert_eq!(set(&client, STAFF, &json!({ "stale_status": 412 })).status, 200);
    for (collection, status) in [("staff", 412), ("shifts", 409)] {
        let path = format!("/collections/{collection}/a");
        let absent = client.call("PUT", &path, &[JSON, ("if-match", "*")], "1");
        assert_eq!((absent.status, &*absent.reason()), (status, "absent"));
        client.overwrite(&path, "1");
        let lost = client.call("PUT", &path, &[JSON, ("if-none-match", "*")], "2");
        assert_eq!((lost.status, &*lost.reason()), (status, "already_exists"));
        assert_eq!(lost.json()["status"], status);
    }
}

#[test]
fn operations_of_a_kind_may_have_scopes_of_their_own() {
    let disk = MemoryDisk::new();
    let client = Client::new(on(&disk), RouterOptions::default());
    let begin = |client: &Client, kind: &str| {
        let body = json!({ "scope": "user/42" }).to_string();
        client.call("POST", &format!("/operations/{kind}"), &[JSON], &body)
    };
    assert_eq!(begin(&client, "transfer").status, 201);
    assert_eq!(begin(&client, "reindex").reason(), "in_progress");
    let shown = json!({ "shared_scope": false, "message": null, "domain": null });
    let own = set(&client, "/operations/reindex", &json!({ "shared_scope": false }));
    assert_eq!((own.status, own.json()), (200, shown.clone()));
    drop(client);
    let client = Client::of(router(on(&disk)));
    assert_eq!(client.get("/operations/reindex").json(), shown);
    assert_eq!(client.get("/operations/export").json()["shared_scope"], true);
    assert_eq!(begin(&client, "reindex").status, 201);
    assert_eq!(begin(&client, "reindex").reason(), "in_progress");
    assert_eq!(begin(&client, "export").reason(), "in_progress");
}

#[test]
fn g11_settings_that_cannot_be_kept_change_nothing() {
    let disk = MemoryDisk::new();
    let builder = Store::builder().segment_bytes(4096);
    let client = Client::of(router(builder.open_on(Arc::new(disk.clone())).unwrap()));
    client.overwrite(&format!("{STAFF}/ann"), r#"{"legacy_id":"L-1"}"#);
    disk.set_capacity(disk.used());
    let long = format!("/{}", "x".repeat(6_000));
    let refused = set(&client, STAFF, &json!({ "unique": ["/legacy_id", long] }));
    assert_eq!((refused.status, &*refused.reason()), (507, "disk_full"));
    disk.set_capacity(usize::MAX);
    assert_eq!(client.get("/collections").json()["items"][0]["unique"], json!([]));
    client.overwrite(&format!("{STAFF}/bob"), r#"{"legacy_id":"L-1"}"#);
}

#[test]
fn g12_what_are_no_settings_is_refused() {
    let client = Client::in_memory();
    for settings in [
        json!({ "unique": ["legacy_id"] }),
        json!({ "unique": "/legacy_id" }),
        json!({ "unique": vec!["/a"; 17] }),
        json!({ "history": -1 }),
        json!({ "stale_status": 410 }),
        json!({ "stale": 409 }),
        json!([]),
    ] {
        assert_eq!(set(&client, STAFF, &settings).reason(), "malformed", "{settings}");
    }
    let deep = set(&client, STAFF, &json!({ "history": 1_001 }));
    assert_eq!((deep.status, &*deep.reason()), (409, "limit"));
    for settings in [json!({ "message": "a\nb" }), json!({ "domain": "x".repeat(1_001) })] {
        let path = "/operations/transfer";
        assert_eq!(set(&client, path, &settings).reason(), "malformed", "{settings}");
    }
    let conditional = [JSON, ("if-match", "*")];
    assert_eq!(client.call("PUT", STAFF, &conditional, "{}").reason(), "malformed");
    assert_eq!(client.call("PUT", "/collections/Staff", &[JSON], "{}").reason(), "malformed");
    assert_eq!(client.call("PUT", STAFF, &[], "{}").reason(), "unsupported_media_type");
    assert_eq!(client.get("/collections").json(), json!({ "items": [] }));
}
