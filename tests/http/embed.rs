//! The extractors and answers, in an application with handlers of its own.

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::get;
use ifmatch::axum::{IdempotencyKey, Refusal, Tagged};
use ifmatch::http::{Conditions, StaleStatus};
use ifmatch::{Actor, Collection, Store};

use crate::client::Client;

type Rooms = Collection<String, u32>;

async fn show(
    State(rooms): State<Rooms>,
    Path(key): Path<String>,
    conditions: Conditions,
) -> Result<impl IntoResponse, Refusal> {
    Tagged::read(&rooms, &key, &conditions)
}

async fn replace(
    State(rooms): State<Rooms>,
    Path(key): Path<String>,
    conditions: Conditions,
    actor: Option<Actor>,
    id: Option<IdempotencyKey>,
    body: String,
) -> Result<impl IntoResponse, Refusal> {
    let mut write = rooms.put(&key, body.parse().expect("a number")).conditions(&conditions)?;
    if let Some(actor) = actor {
        write = write.by(actor);
    }
    if let Some(IdempotencyKey(id)) = id {
        write = write.operation_id(id);
    }
    let stale = StaleStatus::PreconditionFailed;
    let written = write.await.map_err(|error| Refusal::of(&error, &conditions, stale))?;
    Ok(Tagged::written(&rooms, &written))
}

/// Needs a name and an id; a conflict becomes a refusal with `?` alone.
async fn open(
    State(rooms): State<Rooms>,
    Path(key): Path<String>,
    actor: Actor,
    IdempotencyKey(id): IdempotencyKey,
) -> Result<impl IntoResponse, Refusal> {
    let written = rooms.create(&key, 1).by(actor).operation_id(id).await?;
    Ok(Tagged::written(&rooms, &written))
}

fn router() -> Router {
    let rooms: Rooms = Store::in_memory().collection("rooms").expect("a collection");
    Router::new().route("/rooms/{key}", get(show).put(replace).post(open)).with_state(rooms)
}

#[test]
fn g1_g6_a_handler_decides_conditions_as_the_router_does() {
    let client = Client::of(router());
    let put =
        |headers: &[(&str, &str)], seats: &str| client.call("PUT", "/rooms/r1", headers, seats);
    let missing = client.get("/rooms/r1");
    assert_eq!((missing.status, missing.reason().as_str()), (404, "not_found"));
    let created = put(&[("if-none-match", "*"), ("ifmatch-actor", "ann")], "4");
    assert_eq!((created.status, created.text()), (201, "4"));
    let first = created.tag();

    let found = client.get("/rooms/r1");
    assert_eq!((found.status, found.text()), (200, "4"));
    assert_eq!(found.header("content-type"), "application/json");
    assert_eq!((found.tag(), found.header("ifmatch-written-by")), (first.clone(), "ann"));
    assert_eq!(found.header("ifmatch-version"), "1");
    assert!(found.headers.contains_key("last-modified"));

    let second = put(&[("if-match", &first)], "5");
    assert_eq!((second.status, second.text()), (200, "5"));
    assert_ne!(second.tag(), first);
    for (method, header, tag, status) in [
        ("GET", "if-none-match", second.tag(), 304),
        ("GET", "if-none-match", first.clone(), 200),
        ("GET", "if-match", second.tag(), 200),
        ("GET", "if-match", first.clone(), 412),
        ("HEAD", "if-none-match", second.tag(), 304),
        ("PUT", "if-match", first.clone(), 412),
        ("PUT", "if-none-match", "*".to_owned(), 412),
        ("PUT", "if-match", format!("W/{}", second.tag()), 412),
    ] {
        let answer = client.call(method, "/rooms/r1", &[(header, &tag)], "6");
        assert_eq!(answer.status, status, "{method} {header}: {tag}");
        if status == 304 {
            assert_eq!((answer.text(), answer.tag()), ("", second.tag()));
            assert_eq!(answer.header("content-length"), "1");
        }
    }
    assert_eq!(put(&[], "6").status, 428);
    assert_eq!(client.get("/rooms/r1").text(), "5");
}

#[test]
fn g4_a_refusal_tells_what_the_client_relied_on() {
    let client = Client::of(router());
    let first = client.call("PUT", "/rooms/r1", &[("if-none-match", "*")], "4").tag();
    client.call("PUT", "/rooms/r1", &[("if-match", &first), ("ifmatch-actor", "bob")], "5");
    let lost = client.call("PUT", "/rooms/r1", &[("if-match", &first)], "6");
    assert_eq!((lost.status, lost.reason().as_str()), (412, "stale_version"));
    let problem = lost.json();
    assert_eq!(problem["expected"]["tags"][0], first.as_str());
    assert_eq!(problem["current"]["written_by"], "bob");

    let named = [("ifmatch-actor", "ann"), ("idempotency-key", "o-1")];
    let there = client.call("POST", "/rooms/r1", &named, "");
    assert_eq!((there.status, there.reason().as_str()), (409, "already_exists"));
}

#[test]
fn g5_a_handler_replays_an_operation() {
    let client = Client::of(router());
    let named = [("ifmatch-actor", "ann"), ("idempotency-key", "\"o-1\"")];
    let first = client.call("POST", "/rooms/r1", &named, "");
    let again = client.call("POST", "/rooms/r1", &named, "");
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, ""));
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, "true"));
    assert_eq!(again.tag(), first.tag());
}

#[test]
fn headers_that_are_malformed_or_missing_are_refused() {
    let client = Client::of(router());
    let (name, id) = (("ifmatch-actor", "ann"), ("idempotency-key", "o-1"));
    for (method, headers) in [
        ("GET", vec![("if-none-match", "*, \"x\"")]),
        ("PUT", vec![("if-match", "unquoted")]),
        ("PUT", vec![("if-none-match", "*"), ("idempotency-key", "\"open")]),
        ("PUT", vec![("if-none-match", "*"), ("ifmatch-actor", "")]),
        ("PUT", vec![("if-none-match", "*"), name, name]),
        ("POST", vec![name]),
        ("POST", vec![id]),
        ("POST", vec![name, id, id]),
    ] {
        let answer = client.call(method, "/rooms/r1", &headers, "1");
        assert_eq!((answer.status, answer.reason().as_str()), (400, "malformed"), "{headers:?}");
    }
    assert_eq!(client.get("/rooms/r1").status, 404);
}

#[test]
fn a_name_from_the_application_wins_over_the_header() {
    let authenticated = from_fn(|mut request: Request, next: Next| {
        request.extensions_mut().insert(Actor::from("ann"));
        next.run(request)
    });
    let client = Client::of(router().layer(authenticated));
    let forged = [("if-none-match", "*"), ("ifmatch-actor", "mallory")];
    let created = client.call("PUT", "/rooms/r1", &forged, "4");
    assert_eq!((created.status, created.header("ifmatch-written-by")), (201, "ann"));
}
