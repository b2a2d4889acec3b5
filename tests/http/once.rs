//! Steps of leases and operations whose reply was lost: sent again with the same
//! `Idempotency-Key` they get the first answer (G5), in every configuration.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON, OVERWRITE, block_on, request};
use crate::common::{Configuration, configurations};
use ifmatch::axum::RouterOptions;
use ifmatch::testing::ManualClock;

const DOCUMENT: &str = "/collections/shifts/s-17";
const LEASE: &str = "/collections/shifts/s-17/lease";
const JOBS: &str = "/operations/job";

/// A request with a key, which can be sent again.
struct Sent<'a> {
    method: &'static str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: String,
}

fn keyed<'a>(method: &'static str, path: &'a str, key: &'a str, body: &Value) -> Sent<'a> {
    let headers = vec![JSON, ("ifmatch-actor", "ann"), ("idempotency-key", key)];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Sent { method, path, headers, body }
}

impl<'a> Sent<'a> {
    fn with(mut self, name: &'a str, value: &'a str) -> Sent<'a> {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    fn send(&self, client: &Client) -> Answer {
        client.call(self.method, self.path, &self.headers, &self.body)
    }

    /// Sends it for the first time.
    #[track_caller]
    fn first(&self, client: &Client) -> Answer {
        let answer = self.send(client);
        assert!((200..300).contains(&answer.status), "{answer:?}");
        assert!(!is_replayed(&answer), "{answer:?}");
        answer
    }

    /// Sends it again: nothing but that may tell the answer from the first.
    #[track_caller]
    fn again(&self, client: &Client, first: &Answer) {
        let again = self.send(client);
        assert!(is_replayed(&again), "{again:?}");
        assert_eq!((again.status, again.text()), (first.status, first.text()));
        assert_eq!(again.header("location"), first.header("location"));
    }
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

#[track_caller]
fn assert_reused(answer: &Answer) {
    assert_eq!((answer.status, &*answer.reason()), (422, "key_reused"), "{answer:?}");
}

/// Runs `test` on a fresh store of each configuration, whose time stands still.
fn everywhere(test: impl Fn(&Configuration, &Arc<ManualClock>, Client)) {
    for configuration in configurations() {
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_793_064_600)));
        let client = open(&configuration, &clock);
        test(&configuration, &clock, client);
    }
}

fn open(configuration: &Configuration, clock: &Arc<ManualClock>) -> Client {
    let clock = Arc::clone(clock);
    let store = configuration.open_with(configuration.builder().clock(clock).seed(7));
    Client::new(store, RouterOptions::default())
}

fn token_of(answer: &Answer) -> String {
    answer.json()["token"].to_string()
}

/// One that is begun now: where it is, and its token.
fn begun(client: &Client, scope: &str) -> (String, Value) {
    let body = json!({"scope": scope, "on_busy": "queue"}).to_string();
    let answer = client.call("POST", JOBS, &[JSON], &body);
    (answer.header("location").to_owned(), answer.json()["token"].clone())
}

#[test]
fn g5_a_lease_is_taken_renewed_and_given_back_once() {
    everywhere(|configuration, clock, client| {
        let body = json!({"ttl_ms": 60_000, "reason": "june"});
        let take = keyed("POST", LEASE, "take", &body);
        let taken = take.first(&client);
        let token = token_of(&taken);
        clock.advance(Duration::from_secs(1));
        take.again(&client, &taken);
        let renewal = json!({"ttl_ms": 90_000});
        let renew = keyed("PUT", LEASE, "renew", &renewal).with("ifmatch-lease", &token);
        let renewed = renew.first(&client);
        clock.advance(Duration::from_secs(1));
        renew.again(&client, &renewed);
        take.again(&client, &taken);
        let shown = client.get(LEASE).json();
        assert_eq!(shown["expires_at"], renewed.json()["expires_at"], "it was renewed once");

        let release = keyed("DELETE", LEASE, "release", &Value::Null);
        let release = release.with("ifmatch-lease", &token);
        let released = release.first(&client);
        let client = match configuration.is_durable() {
            true => {
                drop(client);
                open(configuration, clock)
            }
            false => client,
        };
        // Where no document has ever been written, too.
        release.again(&client, &released);
        renew.again(&client, &renewed);
        take.again(&client, &taken);
        assert_eq!(client.get(LEASE).status, 404, "nobody holds it");
        let write = format!("{DOCUMENT}{OVERWRITE}");
        let late = client.call("PUT", &write, &[JSON, ("ifmatch-lease", &token)], "1");
        assert_eq!((late.status, &*late.reason()), (409, "fenced"));
    });
}

#[test]
fn g5_a_key_stands_for_one_step_of_one_actor() {
    everywhere(|_, _, client| {
        let take = |path, body| keyed("POST", path, "a", body);
        let [plain, short, reason] =
            [json!({}), json!({"ttl_ms": 1_000}), json!({"reason": "june"})];
        let taken = take(LEASE, &plain).first(&client);
        let token = token_of(&taken);
        let (location, secret) = begun(&client, "disk");
        let beat = format!("{location}/heartbeat");
        let body = json!({ "token": secret });
        let other = "/collections/shifts/s-18/lease";
        for other in [
            take(LEASE, &short),
            take(LEASE, &reason),
            take(other, &plain),
            keyed("PUT", LEASE, "a", &short).with("ifmatch-lease", &token),
            keyed("DELETE", LEASE, "a", &Value::Null).with("ifmatch-lease", &token),
            keyed("POST", &beat, "a", &body),
            keyed("PUT", &format!("{DOCUMENT}{OVERWRITE}"), "a", &plain),
        ] {
            assert_reused(&other.send(&client));
        }
        take(LEASE, &plain).again(&client, &taken);
        // Others have keys of their own.
        let of_bob = take(LEASE, &plain).with("ifmatch-actor", "bob").send(&client);
        assert_eq!((of_bob.status, &*of_bob.reason()), (409, "locked"));
        let of_bob = keyed("POST", &beat, "a", &body).with("ifmatch-actor", "bob");
        of_bob.first(&client);
        let (path, body) =
            (format!("{location}/progress"), json!({"token": secret, "progress": 1}));
        let of_bob = keyed("POST", &path, "a", &body).with("ifmatch-actor", "bob");
        assert_reused(&of_bob.send(&client));
    });
}

#[test]
fn g5_a_step_of_an_operation_is_taken_once() {
    everywhere(|configuration, clock, client| {
        let (location, token) = begun(&client, "disk");
        let (next, _) = begun(&client, "disk");
        let mut all = Vec::new();
        for (step, body) in [
            ("heartbeat", json!({ "token": token })),
            ("progress", json!({"token": token, "progress": 40})),
            ("complete", json!({"token": token, "result": { "albums": 12 }})),
        ] {
            clock.advance(Duration::from_secs(1));
            let path = format!("{location}/{step}");
            let step = keyed("POST", &path, step, &body);
            let first = step.first(&client);
            clock.advance(Duration::from_secs(1));
            step.again(&client, &first);
            all.push((path.clone(), body, first));
        }
        assert_eq!(client.get(&next).json()["status"], "in_progress");
        let client = match configuration.is_durable() {
            true => {
                drop(client);
                open(configuration, clock)
            }
            false => client,
        };
        let (path, body, first) = all.pop().unwrap();
        keyed("POST", &path, "complete", &body).again(&client, &first);
        // A step before the last is answered with what has come of the operation.
        let (path, body, _) = all.pop().unwrap();
        let again = keyed("POST", &path, "progress", &body).send(&client);
        assert!(is_replayed(&again));
        assert_eq!((again.status, again.text()), (200, first.text()));

        let cancel = format!("{next}/cancel");
        let force = json!({"force": true});
        let cancel = keyed("POST", &cancel, "operator", &force);
        let cancelled = cancel.first(&client);
        cancel.again(&client, &cancelled);
        let (location, token) = begun(&client, "disk");
        let path = format!("{location}/fail");
        let body = json!({"token": token, "error": "no space"});
        let fail = keyed("POST", &path, "fail", &body);
        let failed = fail.first(&client);
        fail.again(&client, &failed);
    });
}

#[test]
fn g5_a_lease_for_an_operation_is_taken_once() {
    everywhere(|_, _, client| {
        let (location, token) = begun(&client, "disk");
        let id = location.rsplit('/').next().unwrap();
        let body = json!({"operation": {"kind": "job", "id": id, "token": token}});
        let take = keyed("POST", LEASE, "take", &body);
        let taken = take.first(&client);
        take.again(&client, &taken);
        let had = keyed("POST", LEASE, "had", &body);
        had.first(&client);
        let end = json!({ "token": token }).to_string();
        assert_eq!(client.call("POST", &format!("{location}/fail"), &[JSON], &end).status, 200);
        for again in [take.send(&client), had.send(&client)] {
            assert_eq!((again.status, is_replayed(&again)), (201, true));
            assert_eq!(token_of(&again), token_of(&taken));
        }
    });
}

#[test]
fn g5_settings_that_others_have_changed_since_are_left_as_they_are() {
    const STAFF: &str = "/collections/staff";
    everywhere(|configuration, clock, client| {
        let settings = json!({ "unique": ["/id"], "stale_status": 412, "history": 2 });
        let set = keyed("PUT", STAFF, "set", &settings);
        let first = set.first(&client);
        set.again(&client, &first);
        let (plain, own) = (json!({}), json!({"shared_scope": false, "message": "busy"}));
        let set_kind = keyed("PUT", JOBS, "kind", &own);
        let kind = set_kind.first(&client);
        for path in [STAFF, JOBS] {
            assert_eq!(client.call("PUT", path, &[JSON], "{}").status, 200);
        }
        // What the index would not have let in.
        for key in ["ann", "bob"] {
            client.overwrite(&format!("{STAFF}/{key}"), r#"{"id":1}"#);
        }
        let client = match configuration.is_durable() {
            true => {
                drop(client);
                open(configuration, clock)
            }
            false => client,
        };
        let shown = || [STAFF, JOBS].map(|path| client.get(path).text().to_owned());
        let now = (client.get("/collections").json(), shown());
        let again = set.send(&client);
        assert_eq!((again.status, is_replayed(&again)), (200, true), "{again:?}");
        assert_eq!(again.json()["unique"], first.json()["unique"]);
        set_kind.again(&client, &kind);
        assert_eq!((client.get("/collections").json(), shown()), now);
        client.overwrite(&format!("{STAFF}/cid"), r#"{"id":1}"#);
        for path in [STAFF, JOBS] {
            assert_reused(&keyed("PUT", path, "set", &plain).send(&client));
            assert_reused(&keyed("PUT", path, "kind", &plain).send(&client));
        }
        let refused = keyed("PUT", STAFF, "late", &settings);
        for _ in 0..2 {
            assert_eq!(refused.send(&client).reason(), "duplicate");
        }
        client.delete(&format!("{STAFF}/ann"));
        client.delete(&format!("{STAFF}/bob"));
        refused.first(&client);
        let twice = client.call("POST", STAFF, &[JSON], r#"{"id":1}"#);
        assert_eq!(twice.reason(), "duplicate");
    });
}

#[test]
fn g5_a_refusal_is_not_remembered() {
    everywhere(|_, clock, client| {
        let taken = client.call("POST", LEASE, &[JSON], r#"{"ttl_ms": 1000}"#);
        let (plain, token) = (json!({}), token_of(&taken));
        let take = keyed("POST", LEASE, "take", &plain);
        assert_eq!(take.send(&client).reason(), "locked");
        clock.advance(Duration::from_secs(1));
        take.first(&client);
        let release = keyed("DELETE", LEASE, "release", &Value::Null);
        let release = release.with("ifmatch-lease", &token);
        for _ in 0..2 {
            assert_eq!(release.send(&client).reason(), "fenced");
        }
        let (location, token) = begun(&client, "disk");
        let (path, body) = (format!("{location}/complete"), json!({ "token": token }));
        let complete = keyed("POST", &path, "complete", &body);
        clock.advance(Duration::from_secs(60));
        for _ in 0..2 {
            assert_eq!(complete.send(&client).reason(), "fenced", "it has expired");
        }
        // A key of which nothing has landed opens no collection.
        let unknown = "/collections/unknown/a/lease";
        let renewal = json!({"ttl_ms": 1_000});
        let renew = keyed("PUT", unknown, "renew", &renewal).with("ifmatch-lease", "1");
        assert_eq!(renew.send(&client).status, 404);
        assert!(!client.get("/collections").text().contains("unknown"));
    });
}

#[test]
fn g5_of_many_at_once_with_one_key_one_has_an_effect() {
    const CLIENTS: usize = 8;
    everywhere(|_, _, client| {
        let (location, token) = begun(&client, "disk");
        let (path, body) = (format!("{location}/complete"), json!({ "token": token }));
        let plain = json!({});
        let sent = [keyed("POST", LEASE, "take", &plain), keyed("POST", &path, "end", &body)];
        for sent in &sent {
            let all: Vec<_> = std::thread::scope(|threads| {
                let all: Vec<_> =
                    (0..CLIENTS).map(|_| threads.spawn(|| sent.send(&client))).collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(all.iter().filter(|answer| !is_replayed(answer)).count(), 1);
            for answer in &all {
                assert_eq!((answer.status, answer.text()), (all[0].status, all[0].text()));
            }
        }
    });
}

#[test]
fn g5_whoever_gives_up_on_the_reply_may_ask_again() {
    everywhere(|_, _, client| {
        let plain = json!({});
        let sent = keyed("POST", LEASE, "take", &plain);
        let again = block_on(async {
            // The client hangs up as soon as the request has begun, whatever has come of it.
            let request = || request(sent.method, LEASE, &sent.headers, &sent.body);
            let mut lost = Box::pin(client.send_async(request()));
            poll_fn(|context| Poll::Ready(lost.as_mut().poll(context).is_ready())).await;
            drop(lost);
            client.send_async(request()).await
        });
        assert_eq!(again.status, 201, "{again:?}");
        sent.again(&client, &again);
    });
}
