//! A lost reply: a second try with the same `Idempotency-Key` gets the first answer (G5); and
//! writes that rely on a lease (G8).

use std::sync::Arc;

use ifmatch::axum::RouterOptions;
use ifmatch::http::Document;
use ifmatch::testing::MemoryDisk;
use ifmatch::{Json, Store};

use crate::client::{Answer, Client, JSON, OVERWRITE};

const PATH: &str = "/collections/shifts/s-17";
const ABSENT: (&str, &str) = ("if-none-match", "*");

fn key(id: &'static str) -> (&'static str, &'static str) {
    ("idempotency-key", id)
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

#[test]
fn g5_a_second_try_gets_the_first_answer() {
    let client = Client::in_memory();
    let create = || client.call("PUT", PATH, &[JSON, ABSENT, key("\"a \\\"1\\\"\"")], "1");
    let first = create();
    let tag = client.overwrite(PATH, "2");
    let again = create();
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!((again.tag(), again.text()), (first.tag(), "1"));
    assert_eq!(again.header("location"), PATH);
    assert_eq!((is_replayed(&first), is_replayed(&again)), (false, true));
    assert_eq!(client.get(PATH).tag(), tag, "nothing was written");

    let delete = || client.call("DELETE", PATH, &[("if-match", &tag), key("b")], "");
    let (first, again) = (delete(), delete());
    assert_eq!((first.status, again.status), (204, 204));
    assert_eq!(again.tag(), first.tag());
    assert!(is_replayed(&again) && !is_replayed(&first));
}

#[test]
fn g5_a_second_post_creates_nothing() {
    let client = Client::in_memory();
    let post = |id, actor| {
        client.call("POST", "/collections/shifts", &[JSON, key(id), ("ifmatch-actor", actor)], "1")
    };
    let (first, again) = (post("a", "ann"), post("a", "ann"));
    assert_eq!((first.status, again.status), (201, 201));
    assert!(is_replayed(&again));
    assert_eq!(again.header("location"), first.header("location"));
    let others = [post("b", "ann"), post("a", "bob")];
    for other in others {
        assert!(!is_replayed(&other), "{other:?}");
        assert_ne!(other.header("location"), first.header("location"));
    }
    let items = client.get("/collections/shifts").json()["items"].as_array().map(Vec::len);
    assert_eq!(items, Some(3));
}

#[test]
fn g5_a_key_stands_for_one_write_of_one_actor() {
    let client = Client::in_memory();
    let path = &format!("{PATH}{OVERWRITE}");
    client.call("PUT", path, &[JSON, key("a")], "1");
    let other = client.call("PUT", path, &[JSON, key("a")], "2");
    assert_eq!((other.status, other.reason().as_str()), (422, "key_reused"));
    let other = client.call("DELETE", path, &[key("a")], "");
    assert_eq!(other.status, 422);
    let bob = client.call("PUT", path, &[JSON, key("a"), ("ifmatch-actor", "bob")], "2");
    assert_eq!(bob.status, 200);
}

#[test]
fn g5_a_refusal_is_not_remembered() {
    let client = Client::in_memory();
    let tag = client.overwrite(PATH, "1");
    let refused = client.call("PUT", PATH, &[JSON, ABSENT, key("a")], "2");
    assert_eq!(refused.reason(), "already_exists");
    let done = client.call("PUT", PATH, &[JSON, ("if-match", &tag), key("a")], "2");
    assert_eq!((done.status, is_replayed(&done)), (200, false));
}

#[test]
fn g5_a_restart_in_between_changes_nothing() {
    let disk = MemoryDisk::new();
    let open = || Store::builder().open_on(Arc::new(disk.clone())).expect("it opens");
    let create = |store| {
        let client = Client::new(store, RouterOptions::default());
        client.call("PUT", PATH, &[JSON, ABSENT, key("a")], "1")
    };
    let first = create(open());
    let again = create(open());
    assert_eq!((first.status, again.status, again.tag()), (201, 201, first.tag()));
    assert!(is_replayed(&again));
}

#[test]
fn g8_a_write_may_rely_on_a_lease() {
    let store = Store::in_memory();
    let client = Client::new(store.clone(), RouterOptions::default());
    client.overwrite(PATH, "1");
    let shifts = store.declare::<String, Document>("shifts").codec(Json).open().unwrap();
    let lease = shifts.lease("s-17").by("payroll").commit().unwrap();
    let token = lease.token().get().to_string();
    let path = &format!("{PATH}{OVERWRITE}");

    let barred = client.call("PUT", path, &[JSON], "2");
    assert_eq!((barred.status, barred.reason().as_str()), (409, "locked"));
    assert_eq!(barred.json()["holder"], "payroll");
    // An entity that is leased is not one that is not there.
    assert_eq!(client.call("DELETE", path, &[], "").reason(), "locked");
    let held = client.call("PUT", path, &[JSON, ("ifmatch-lease", &token)], "2");
    assert_eq!(held.status, 200);

    lease.release().commit().unwrap();
    let late = client.call("PUT", path, &[JSON, ("ifmatch-lease", &token)], "3");
    assert_eq!((late.status, late.reason().as_str()), (409, "fenced"));
    assert_eq!(client.call("DELETE", path, &[("ifmatch-lease", &token)], "").reason(), "fenced");
    assert_eq!(client.get(PATH).text(), "2");
}

#[test]
fn what_is_no_key_or_token_is_refused() {
    let client = Client::in_memory();
    let path = &format!("{PATH}{OVERWRITE}");
    for id in ["", " ", "\"", "\"\"", "\"a", "\"a\"b\"", "\"a\\b\"", "\"a\\\"", "a\tb"] {
        assert_eq!(client.call("PUT", path, &[JSON, key(id)], "1").status, 400, "{id:?}");
    }
    let twice = [JSON, key("a"), key("a")];
    assert_eq!(client.call("PUT", path, &twice, "1").status, 400);
    for token in ["", "0", "-1", "x", "1, 2", "99999999999999999999"] {
        let headers = [JSON, ("ifmatch-lease", token)];
        assert_eq!(client.call("PUT", path, &headers, "1").status, 400, "{token:?}");
    }
    assert_eq!(client.get(PATH).status, 404);
}

#[test]
fn history_shows_what_was_there() {
    let client = Client::in_memory();
    let history = &format!("{PATH}/history");
    assert_eq!(client.get(history).status, 404);
    let first = client.overwrite(PATH, "{ \"hours\": 1e0 }");
    client.delete(PATH);
    let last = client.overwrite(PATH, "2");
    let answer = client.get(history);
    let items = answer.json()["items"].clone();
    let told = |place: usize, member: &str| items[place][member].clone();
    assert_eq!(items.as_array().map(Vec::len), Some(3));
    assert_eq!((told(0, "kind"), told(0, "etag")), ("put".into(), last.into()));
    assert_eq!((told(1, "kind"), told(1, "value")), ("delete".into(), ().into()));
    assert_eq!((told(2, "etag"), told(2, "written_by")), (first.into(), ().into()));
    assert!(answer.text().contains("{ \"hours\": 1e0 }"), "byte for byte: {}", answer.text());
    assert_eq!(client.call("PUT", history, &[JSON], "1").status, 405);
    assert_eq!(client.get("/collections/shifts/s-18/history").status, 404);
}
