//! The change feed over HTTP: pages, long polls and streams.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, HttpBody};
use ifmatch::axum::{RouterOptions, Stop};
use ifmatch::http::Document;
use ifmatch::testing::ManualClock;
use ifmatch::{Json, Limits, Precondition, Store};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::client::{Client, block_on, request, waits};

const EVENTS: (&str, &str) = ("accept", "text/event-stream");

fn both() -> (Store, Client) {
    let store = Store::in_memory();
    (store.clone(), Client::new(store, RouterOptions::default()))
}

fn keys(page: &Value) -> Vec<String> {
    let changes = page["changes"].as_array().unwrap().iter();
    changes.map(|change| change["key"].as_str().unwrap().to_owned()).collect()
}

fn since(page: &Value) -> &str {
    page["next_since"].as_str().unwrap()
}

/// One commit of these keys.
fn together(store: &Store, keys: &[&str]) {
    let documents = store.declare::<String, Document>("c").codec(Json).history(8).open().unwrap();
    let put = |tx: &mut ifmatch::Transaction<'_>| {
        for key in keys {
            let one = Document::parse("1".to_owned()).unwrap();
            tx.put_if(&documents, *key, one, Precondition::Unconditional)?;
        }
        Ok(())
    };
    store.transact(put).commit().unwrap();
}

#[test]
fn g9_a_page_tells_every_acknowledged_write_in_order() {
    let client = Client::in_memory();
    let first = client.overwrite("/collections/c/a", "{\n\"x\": 1.0}");
    client.overwrite("/collections/d/b", "2");
    client.delete("/collections/c/a");
    let answer = client.get("/changes");
    assert_eq!(answer.header("vary"), "accept");
    let page = answer.json();
    assert_eq!(keys(&page), ["a", "b", "a"]);
    let [put, _, delete] = &page["changes"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!((&put["kind"], &put["etag"]), (&json!("put"), &json!(first)));
    assert_eq!((&put["collection"], &put["written_by"]), (&json!("c"), &Value::Null));
    assert!(answer.text().contains("\"value\":{\n\"x\": 1.0}"), "byte for byte");
    assert_eq!((&delete["kind"], delete.get("value")), (&json!("delete"), None));
    let next = client.get(&format!("/changes?since={}", since(&page))).json();
    assert_eq!((keys(&next).len(), since(&next)), (0, since(&page)));
}

#[test]
fn g9_a_page_never_splits_a_commit() {
    let (store, client) = both();
    client.overwrite("/collections/c/a", "1");
    together(&store, &["b", "c", "d"]);
    client.overwrite("/collections/c/e", "1");
    let page = client.get("/changes?limit=2").json();
    assert_eq!(keys(&page), ["a", "b", "c", "d"]);
    let rest = client.get(&format!("/changes?limit=2&since={}", since(&page))).json();
    assert_eq!(keys(&rest), ["e"]);
}

#[test]
fn g9_who_filters_makes_progress() {
    let client = Client::in_memory();
    for path in ["c/a-1", "c/b-1", "d/a-2", "d/b-2"] {
        client.overwrite(&format!("/collections/{path}"), "1");
    }
    let keys_of = |query: &str| keys(&client.get(&format!("/changes?{query}")).json());
    assert_eq!(keys_of("collection=d"), ["a-2", "b-2"]);
    assert_eq!(keys_of("prefix=a-"), ["a-1", "a-2"]);
    assert_eq!(keys_of("collection=c&prefix=b"), ["b-1"]);
    let all = client.get("/changes").json();
    let none = client.get("/changes?collection=none").json();
    assert_eq!((keys(&none).len(), since(&none)), (0, since(&all)));
}

#[test]
fn g9_what_is_not_kept_is_gone_and_the_oldest_cursor_is_named() {
    let limits = Limits { feed: 4, ..Limits::default() };
    let store = Store::builder().limits(limits).in_memory();
    let client = Client::new(store.clone(), RouterOptions::default());
    let start = since(&client.get("/changes").json()).to_owned();
    for value in 0..20 {
        client.overwrite("/collections/c/a", &value.to_string());
    }
    let other = Store::in_memory().lineage();
    for cursor in [start, format!("{other}-3")] {
        let gap = client.get(&format!("/changes?since={cursor}"));
        assert_eq!((gap.status, gap.reason().as_str()), (410, "gap"));
        let oldest = gap.json()["oldest"].as_str().unwrap().to_owned();
        let page = client.get(&format!("/changes?since={oldest}")).json();
        assert_eq!(page["changes"][3]["value"], 19);
        let stream = client.call("GET", &format!("/changes?since={cursor}"), &[EVENTS], "");
        assert_eq!((stream.status, stream.reason().as_str()), (410, "gap"));
    }
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    let client = Client::in_memory();
    for query in
        ["since=x", "since=", "limit=0", "limit=1001", "wait_ms=60001", "collection=$leases", "a=1"]
    {
        let answer = client.get(&format!("/changes?{query}"));
        assert_eq!((answer.status, answer.reason().as_str()), (400, "malformed"), "{query}");
    }
    let stream = client.call("GET", "/changes?wait_ms=1", &[EVENTS], "");
    assert_eq!(stream.reason(), "malformed");
    let options = client.call("OPTIONS", "/changes", &[], "");
    assert_eq!((options.status, options.header("allow")), (204, "GET, HEAD, OPTIONS"));
    assert_eq!(client.call("POST", "/changes", &[], "").status, 405);
}

#[test]
fn g8_the_stores_own_collections_are_not_shown() {
    let (store, client) = both();
    let rooms = store.collection::<u64, u32>("rooms").unwrap();
    let lease = rooms.lease(7).by("ann").commit().unwrap();
    assert_eq!(keys(&client.get("/changes").json()), [""; 0]);
    rooms.create(7, 1).holding(&lease).commit().unwrap();
    let page = client.get("/changes").json();
    assert_eq!((keys(&page), page["changes"][0].get("value")), (vec!["7".to_owned()], None));
}

#[test]
fn g9_what_is_read_back_from_the_log_has_its_value_before_its_collection_is_open() {
    let disk = ifmatch::testing::MemoryDisk::new();
    let store = Store::builder().open_on(Arc::new(disk.clone())).unwrap();
    Client::new(store.clone(), RouterOptions::default()).overwrite("/collections/c/a", "[1]");
    let typed = store.declare::<String, u8>("typed").codec(Json).open().unwrap();
    typed.create("t", 1).commit().unwrap();
    store.close().unwrap();
    let store = Store::builder().open_on(Arc::new(disk)).unwrap();
    let _typed = store.declare::<String, u8>("typed").codec(Json).open().unwrap();
    let client = Client::new(store, RouterOptions::default());
    let page = client.get("/changes").json();
    assert_eq!(
        (keys(&page), &page["changes"][0]["value"]),
        (vec!["a".into(), "t".into()], &json!([1]))
    );
    assert_eq!(page["changes"][1].get("value"), None);
}

#[test]
fn g9_a_long_poll_is_woken_by_a_write_and_takes_no_place_from_others() {
    let options = RouterOptions::default().max_in_flight(1).max_waiting(1);
    let client = Client::new(Store::in_memory(), options);
    block_on(async {
        let poll = || request("GET", "/changes?wait_ms=60000", &[], "");
        let mut waiting = pin!(client.send_async(poll()));
        waits(waiting.as_mut()).await;
        let second = client.send_async(poll()).await;
        assert_eq!((second.status, second.reason().as_str()), (503, "overloaded"));
        let stream = client.send_async(request("GET", "/changes", &[EVENTS], "")).await;
        assert_eq!(stream.status, 503);
        let put =
            request("PUT", "/collections/c/a?unconditional=true", &[crate::client::JSON], "1");
        assert_eq!(client.send_async(put).await.status, 201);
        assert_eq!(keys(&waiting.await.json()), ["a"]);
        assert_eq!(client.send_async(poll()).await.status, 200, "the place is free again");
    });
}

#[test]
fn g9_a_long_poll_ends_empty_when_the_time_is_over_or_the_server_stops() {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    let (store, stop) = (Store::builder().clock(clock.clone()).in_memory(), Stop::default());
    let client = Client::new(store, RouterOptions::default().stop(&stop));
    block_on(async {
        let poll = || request("GET", "/changes?wait_ms=60000", &[], "");
        let mut waiting = pin!(client.send_async(poll()));
        waits(waiting.as_mut()).await;
        clock.advance(Duration::from_secs(60));
        assert_eq!(keys(&waiting.await.json()), [""; 0]);
        let mut waiting = pin!(client.send_async(poll()));
        waits(waiting.as_mut()).await;
        stop.stop();
        assert_eq!(waiting.await.status, 200);
    });
}

/// A stream of events that is read piece by piece.
struct Stream(Body);

impl Stream {
    async fn open(router: &Router, path: &str, headers: &[(&str, &str)]) -> Stream {
        let headers: Vec<_> = headers.iter().copied().chain([EVENTS]).collect();
        let answer = router.clone().oneshot(request("GET", path, &headers, "")).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut stream = Stream(answer.into_body());
        assert_eq!(stream.next().await.unwrap(), "retry: 2000\n\n");
        stream
    }

    async fn next(&mut self) -> Option<String> {
        let mut body = std::pin::Pin::new(&mut self.0);
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await?;
        let data = frame.unwrap().into_data().unwrap();
        Some(String::from_utf8(data.to_vec()).unwrap())
    }

    /// The id and the data of the next event.
    async fn event(&mut self) -> (String, Value) {
        let text = self.next().await.expect("an event");
        let (id, data) = text.strip_prefix("id: ").unwrap().split_once("\ndata: ").unwrap();
        assert_eq!(data.find('\n'), Some(data.len() - 2), "{data}");
        (id.to_owned(), serde_json::from_str(data).unwrap())
    }
}

#[test]
fn g9_a_stream_tells_each_commit_once_and_goes_on_after_the_last_event() {
    let store = Store::in_memory();
    let router = RouterOptions::default().router(store.clone());
    let client = Client::of(router.clone());
    client.overwrite("/collections/c/a", "[1,\n2]");
    together(&store, &["b", "c"]);
    block_on(async {
        let mut stream = Stream::open(&router, "/changes", &[]).await;
        let (first, page) = stream.event().await;
        assert_eq!((keys(&page), since(&page)), (vec!["a".to_owned()], &*first));
        assert_eq!(page["changes"][0]["value"], json!([1, 2]));
        assert_eq!(keys(&stream.event().await.1), ["b", "c"]);
        let mut next = pin!(stream.event());
        waits(next.as_mut()).await;
        together(&store, &["d"]);
        assert_eq!(keys(&next.await.1), ["d"]);
        let path = format!("/changes?since={}-0", store.lineage());
        let mut resumed = Stream::open(&router, &path, &[("last-event-id", &first)]).await;
        assert_eq!(keys(&resumed.event().await.1), ["b", "c"]);
    });
}

#[test]
fn g9_a_stream_that_falls_behind_is_told_of_the_gap_and_ends() {
    let limits = Limits { feed: 4, ..Limits::default() };
    let store = Store::builder().limits(limits).in_memory();
    let router = RouterOptions::default().router(store.clone());
    block_on(async {
        let mut stream = Stream::open(&router, "/changes", &[]).await;
        (0..20).for_each(|_| together(&store, &["a"]));
        let gap = stream.next().await.unwrap();
        let problem = gap.strip_prefix("event: gap\ndata: ").unwrap();
        let problem: Value = serde_json::from_str(problem).unwrap();
        assert_eq!((&problem["reason"], &problem["instance"]), (&json!("gap"), &json!("/changes")));
        assert!(problem["oldest"].is_string());
        assert_eq!(stream.next().await, None);
    });
}

#[test]
fn g9_a_quiet_stream_shows_signs_of_life_and_how_far_it_is() {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    let store = Store::builder().clock(clock.clone()).in_memory();
    let router = RouterOptions::default().router(store.clone());
    block_on(async {
        let mut stream = Stream::open(&router, "/changes?collection=none", &[]).await;
        together(&store, &["a"]);
        let mut next = pin!(stream.next());
        waits(next.as_mut()).await;
        clock.advance(Duration::from_secs(15));
        assert_eq!(next.await.unwrap(), format!(":\nid: {}-1\n\n", store.lineage()));
    });
}

#[test]
fn a_stream_ends_with_the_store_and_with_the_server() {
    let (store, stop) = (Store::in_memory(), Stop::default());
    let router = RouterOptions::default().stop(&stop).router(store.clone());
    block_on(async {
        let mut stream = Stream::open(&router, "/changes", &[]).await;
        let mut next = pin!(stream.next());
        waits(next.as_mut()).await;
        stop.stop();
        assert_eq!(next.await, None);
        let router = RouterOptions::default().router(store.clone());
        let mut stream = Stream::open(&router, "/changes", &[]).await;
        let mut next = pin!(stream.next());
        waits(next.as_mut()).await;
        store.close().unwrap();
        assert_eq!(next.await, None);
    });
}
