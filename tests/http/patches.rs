//! Patches: a document is changed where the patch says, under the conditions of the request.

use std::sync::Arc;

use ifmatch::axum::RouterOptions;
use ifmatch::testing::MemoryDisk;
use ifmatch::{Json, Store};

use crate::client::{Answer, Client, JSON};

const PATH: &str = "/collections/shifts/s-17";
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const OPERATIONS: (&str, &str) = ("content-type", "application/json-patch+json; charset=utf-8");

fn patch(client: &Client, headers: &[(&str, &str)], body: &str) -> Answer {
    client.call("PATCH", PATH, headers, body)
}

#[test]
fn g2_a_patch_changes_what_it_names_and_gives_a_new_tag() {
    let client = Client::in_memory();
    let tag = client.overwrite(PATH, r#"{"status": "open", "hours": 8.50, "tags": ["a"]}"#);
    let merged = patch(&client, &[MERGE, ("if-match", &tag)], r#"{"status":null,"by":{"x":1}}"#);
    assert_eq!((merged.status, merged.text()), (200, r#"{"by":{"x":1},"hours":8.5,"tags":["a"]}"#));
    assert_eq!(client.get(PATH).tag(), merged.tag());
    assert_ne!(merged.tag(), tag);
    assert!(!merged.header("last-modified").is_empty());

    let body = r#"[{"op":"test","path":"/hours","value":8.50},{"op":"add","path":"/tags/-",
        "value":"b"},{"op":"move","from":"/by/x","path":"/x"},{"op":"remove","path":"/by"},
        {"op":"copy","from":"/x","path":"/y"},{"op":"replace","path":"/x","value":null}]"#;
    let patched = patch(&client, &[OPERATIONS, ("prefer", "return=minimal")], body);
    assert_eq!((patched.status, patched.text()), (204, ""));
    let now = client.get(PATH);
    assert_eq!(now.text(), r#"{"hours":8.5,"tags":["a","b"],"x":null,"y":1}"#);
    assert_eq!(now.tag(), patched.tag());
}

#[test]
fn g1_a_patch_that_says_on_nothing_what_it_relies_is_refused() {
    let client = Client::in_memory();
    client.overwrite(PATH, r#"{"a":1}"#);
    assert_eq!(patch(&client, &[MERGE], "{}").status, 428);
    let blind = r#"[{"op":"remove","path":"/a"}]"#;
    assert_eq!(patch(&client, &[OPERATIONS], blind).status, 428);
    let forced = client.call("PATCH", &format!("{PATH}?unconditional=true"), &[OPERATIONS], blind);
    assert_eq!((forced.status, forced.text()), (200, "{}"));
}

#[test]
fn g4_a_patch_that_does_not_apply_is_a_conflict_that_shows_what_is_there() {
    let client = Client::in_memory();
    let tag = client.overwrite(PATH, r#"{"status":"open"}"#);
    let body = r#"[{"op":"test","path":"/status","value":"closed"}]"#;
    let failed = patch(&client, &[OPERATIONS, ("if-match", &tag)], body);
    assert_eq!((failed.status, failed.reason()), (409, "wrong_state".to_owned()));
    let problem = failed.json();
    assert_eq!(
        problem["detail"],
        "shifts/s-17 is not patched: operation 0 of the patch, test \
        \"/status\": another value is there; read the document again"
    );
    assert_eq!(problem["current"]["value"]["status"], "open");
    assert_eq!((&problem["key"], &problem["retry"]["advice"]), (&"s-17".into(), &"refetch".into()));
    for body in [
        r#"[{"op":"remove","path":"/none"}]"#,
        r#"[{"op":"add","path":"/a/b","value":1}]"#,
        r#"[{"op":"move","from":"/none","path":"/a"}]"#,
        r#"[{"op":"test","path":"/none","value":null}]"#,
    ] {
        let failed = patch(&client, &[OPERATIONS, ("if-match", &tag)], body);
        assert_eq!((failed.status, failed.reason()), (409, "wrong_state".to_owned()), "{body}");
    }
    assert_eq!(client.get(PATH).tag(), tag, "nothing was written");
    // A condition that fails comes first.
    let newer = client.overwrite(PATH, r#"{"status":"closed","n":1}"#);
    let stale =
        patch(&client, &[OPERATIONS, ("if-match", &tag)], r#"[{"op":"remove","path":"/x"}]"#);
    assert_eq!((stale.status, stale.reason()), (409, "stale_version".to_owned()));
    assert_eq!(stale.json()["changed"], serde_json::json!(["/n", "/status"]));
    // Numbers are what they are worth.
    let body = r#"[{"op":"test","path":"/n","value":1.0}]"#;
    assert_eq!(patch(&client, &[OPERATIONS, ("if-match", &newer)], body).status, 200);
}

#[test]
fn g4_a_patch_of_nothing_is_refused_as_other_writes_are() {
    let client = Client::in_memory();
    let test = r#"[{"op":"test","path":"","value":1}]"#;
    let star = ("if-match", "*");
    for _ in 0..2 {
        assert_eq!(patch(&client, &[OPERATIONS], test).status, 404);
        let refused = patch(&client, &[MERGE, star], "{}");
        assert_eq!((refused.status, refused.reason()), (409, "absent".to_owned()));
        client.overwrite("/collections/shifts/other", "1");
    }
    let tag = client.overwrite(PATH, "1");
    client.call("DELETE", PATH, &[("if-match", &tag)], "");
    let refused = patch(&client, &[MERGE, ("if-match", &tag)], "{}");
    assert_eq!((refused.status, refused.reason()), (409, "deleted".to_owned()));
}

#[test]
fn g4_what_is_no_patch_is_told_so() {
    let client = Client::in_memory();
    let tag = client.overwrite(PATH, "{}");
    let put = patch(&client, &[JSON, ("if-match", &tag)], "{}");
    let accepted = "application/merge-patch+json, application/json-patch+json";
    assert_eq!((put.status, put.header("accept-patch")), (415, accepted));
    assert_eq!(client.call("OPTIONS", PATH, &[], "").header("accept-patch"), accepted);
    for body in [
        "",
        "{",
        "{}",
        "[1]",
        r#"[{"op":"none"}]"#,
        r#"[{"op":"add","path":"/a"}]"#,
        r#"[{"op":"add","path":"a","value":1}]"#,
        r#"[{"op":"test","path":"/~2","value":1}]"#,
        r#"[{"op":"add","path":"/a","value":0.12345678901234567890}]"#,
        "\u{0}",
    ] {
        let refused = patch(&client, &[OPERATIONS, ("if-match", &tag)], body);
        assert_eq!((refused.status, refused.reason()), (400, "malformed".to_owned()), "{body}");
    }
    let many = format!("[{}]", [r#"{"op":"test","path":"","value":{}}"#; 1_001].join(","));
    assert_eq!(patch(&client, &[OPERATIONS], &many).status, 400);
}

#[test]
fn g12_no_patch_makes_a_document_that_is_too_large_or_too_deep() {
    let options = RouterOptions::default().body_limit(64 << 10);
    let client = Client::new(Store::in_memory(), options);
    let tag = client.overwrite(PATH, r#"{"a":[1]}"#);
    let double = [r#"{"op":"copy","from":"","path":"/a/-"}"#; 1_000].join(",");
    let deeper = [r#"{"op":"copy","from":"/a","path":"/a/0"}"#; 200].join(",");
    let within = [
        r#"{"op":"add","path":"/a/0","value":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}"#,
        r#"{"op":"move","from":"/a","path":"/b"}"#,
        r#"{"op":"add","path":"/a","value":[]}"#,
        r#"{"op":"move","from":"/b","path":"/a/0"}"#,
    ]
    .join(",");
    let within = vec![within; 200].join(",");
    for list in [double, deeper, within] {
        let refused = patch(&client, &[OPERATIONS, ("if-match", &tag)], &format!("[{list}]"));
        assert_eq!((refused.status, refused.reason()), (413, "too_large".to_owned()), "{list:.80}");
    }
    assert_eq!(client.get(PATH).tag(), tag);
}

#[test]
fn no_number_becomes_another() {
    let client = Client::in_memory();
    let exact = "0.12345678901234567890123";
    let tag = client.overwrite(PATH, &format!(r#"{{"a":{exact},"b":1}}"#));
    let refused = patch(&client, &[MERGE, ("if-match", &tag)], r#"{"b":2}"#);
    assert_eq!((refused.status, refused.reason()), (409, "wrong_state".to_owned()));
    assert!(client.get(PATH).text().contains(exact));
}

#[test]
fn g5_a_second_try_of_a_patch_gets_the_first_answer() {
    let disk = MemoryDisk::new();
    let open = || {
        let store = Store::builder().open_on(Arc::new(disk.clone())).unwrap();
        Client::new(store, RouterOptions::default())
    };
    let client = open();
    client.overwrite(PATH, r#"{"n":1}"#);
    let body = r#"[{"op":"test","path":"/n","value":1},{"op":"replace","path":"/n","value":2}]"#;
    let headers = [OPERATIONS, ("idempotency-key", "a"), ("ifmatch-actor", "ann")];
    let first = patch(&client, &headers, body);
    client.overwrite(PATH, r#"{"n":3}"#);
    let again = patch(&client, &headers, body);
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!((again.tag(), again.text()), (first.tag(), r#"{"n":2}"#));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.header("ifmatch-written-by"), "ann");
    let other = patch(&client, &headers, "[{\"op\":\"test\",\"path\":\"/n\",\"value\":3}]");
    assert_eq!((other.status, other.reason()), (422, "key_reused".to_owned()));
    drop(client);
    let again = patch(&open(), &headers, body);
    assert_eq!((again.status, again.tag()), (200, first.tag()));
}

#[test]
fn g8_a_patch_respects_and_holds_leases() {
    let store = Store::in_memory();
    let shifts = store.declare::<String, ifmatch::http::Document>("shifts").codec(Json).open();
    let client = Client::new(store.clone(), RouterOptions::default());
    client.overwrite(PATH, r#"{"n":1}"#);
    let lease = shifts.unwrap().lease("s-17").by("ann").commit().unwrap();
    let token = lease.token().to_string();
    let refused = patch(&client, &[MERGE, ("if-match", "*")], "{}");
    assert_eq!((refused.status, refused.reason()), (409, "locked".to_owned()));
    let held = [MERGE, ("if-match", "*"), ("ifmatch-lease", token.as_str())];
    assert_eq!(patch(&client, &held, "{}").status, 200);
    lease.release().commit().unwrap();
    let late = patch(&client, &held, "{}");
    assert_eq!((late.status, late.reason()), (409, "fenced".to_owned()));
}

#[test]
fn g1_patches_of_many_clients_lose_none() {
    let client = Client::in_memory();
    client.overwrite(PATH, "{}");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..5 {
                    let body = format!(r#"{{"{thread}-{round}":1}}"#);
                    let answer = patch(client, &[MERGE, ("if-match", "*")], &body);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
    assert_eq!(client.get(PATH).json().as_object().map(serde_json::Map::len), Some(40));
}
