//! The same refusals in each dialect; the status is chosen apart from it.

use http::HeaderValue;
use ifmatch::Store;
use ifmatch::axum::RouterOptions;
use ifmatch::http::{Conditions, Dialect, Google, GoogleLegacy, Problem, StaleStatus};
use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON};

const PATH: &str = "/collections/shifts/s-17";

fn legacy() -> Client {
    Client::new(Store::in_memory(), RouterOptions::default().dialect(GoogleLegacy::default()))
}

fn google() -> Client {
    Client::new(Store::in_memory(), RouterOptions::default().dialect(Google::default()))
}

/// The message, once it is known that everything around it is as it should be.
fn legacy_message(answer: &Answer, reason: &str) -> String {
    assert_eq!(answer.header("content-type"), "application/json");
    let message = answer.json()["error"]["message"].clone();
    let error = format!(r#"{{"message":{message},"domain":"global","reason":"{reason}"}}"#);
    let code = answer.status;
    let head = format!(r#"{{"error":{{"code":{code},"message":{message},"errors":["#);
    assert_eq!(answer.text(), format!("{head}{error}]}}}}"));
    message.as_str().expect("text").to_owned()
}

fn google_error(answer: &Answer, status: &str, reason: &str, metadata: &Value) {
    assert_eq!(answer.header("content-type"), "application/json");
    let message = answer.json()["error"]["message"].clone();
    let code = answer.status;
    let expected = [
        format!(r#"{{"error":{{"code":{code},"message":{message},"status":"{status}","#),
        r#""details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","#.to_owned(),
        format!(r#""reason":"{reason}","domain":"ifmatch","metadata":{metadata}}}]}}}}"#),
    ];
    assert_eq!(answer.text(), expected.concat());
}

fn stale(client: &Client) -> (Answer, String, String) {
    let first = client.overwrite(PATH, "1");
    let second = client.overwrite(PATH, "2");
    (client.call("PUT", PATH, &[JSON, ("if-match", &first)], "3"), first, second)
}

fn number(tag: &str) -> &str {
    tag.trim_matches('"').rsplit('-').next().expect("a version")
}

#[test]
fn g4_a_lost_race_in_each_dialect() {
    let (answer, first, second) = stale(&legacy());
    assert_eq!(answer.status, 409);
    let message = legacy_message(&answer, "conflict");
    let told = format!("shifts/s-17 is at version {}, not {}", number(&second), number(&first));
    assert!(message.starts_with(&told), "{message}");

    let (answer, first, second) = stale(&google());
    let metadata = json!({
        "collection": "shifts", "key": "s-17", "etag": second,
        "expectedVersions": number(&first), "currentVersion": number(&second),
    });
    google_error(&answer, "ABORTED", "STALE_VERSION", &metadata);

    let (answer, ..) = stale(&Client::in_memory());
    assert_eq!((answer.status, answer.reason().as_str()), (409, "stale_version"));
}

#[test]
fn every_refusal_of_the_router_is_in_the_dialect() {
    let create = [JSON, ("if-none-match", "*")];
    let unquoted = [JSON, ("if-match", "3")];
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str, &'a str, &'a str);
    let cases: [Case<'_>; 6] = [
        ("PUT", PATH, &create, 409, "duplicate", "ALREADY_EXISTS", "ALREADY_EXISTS"),
        ("PUT", PATH, &[JSON], 428, "required", "INVALID_ARGUMENT", "PRECONDITION_REQUIRED"),
        ("PUT", PATH, &unquoted, 400, "invalid", "INVALID_ARGUMENT", "MALFORMED"),
        ("GET", "/unknown", &[], 404, "notFound", "NOT_FOUND", "NOT_FOUND"),
        ("TRACE", PATH, &[], 405, "httpMethodNotAllowed", "UNIMPLEMENTED", "METHOD_NOT_ALLOWED"),
        ("PUT", PATH, &[], 415, "badContent", "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE"),
    ];
    let (plain, legacy, google) = (Client::in_memory(), legacy(), google());
    let tag = [&plain, &legacy, &google].map(|client| client.overwrite(PATH, "1"))[2].clone();
    for (method, path, headers, status, reason, code, info) in cases {
        let problem = plain.call(method, path, headers, "2");
        assert_eq!((problem.status, problem.reason()), (status, info.to_ascii_lowercase()));
        let other = legacy.call(method, path, headers, "2");
        assert_eq!(other.status, status);
        let message = legacy_message(&other, reason);
        let metadata = match status {
            409 => json!({
                "collection": "shifts", "key": "s-17",
                "etag": tag, "currentVersion": number(&tag),
            }),
            _ => json!({}),
        };
        google_error(&google.call(method, path, headers, "2"), code, info, &metadata);
        if status != 409 {
            assert_eq!(problem.json()["detail"], message.as_str());
        }
        for name in ["allow", "retry-after", "cache-control"] {
            assert_eq!(other.header(name), problem.header(name), "{name}");
        }
    }
    let options = RouterOptions::default().dialect(GoogleLegacy::default()).max_in_flight(0);
    let busy = Client::new(Store::in_memory(), options).get("/healthz");
    assert_eq!((busy.status, busy.header("retry-after")), (503, "1"));
    legacy_message(&busy, "backendError");
    let head = legacy.call("HEAD", "/unknown", &[], "");
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[test]
fn g8_a_lease_in_the_way_in_each_dialect() {
    let store = Store::in_memory();
    let rooms = store.collection::<String, u32>("rooms").unwrap();
    let _lease = rooms.lease("r1").by("ann").commit().unwrap();
    let error = rooms.create("r1", 1).commit().unwrap_err();
    let problem = Problem::from_error(&error, &Conditions::default(), StaleStatus::default());
    let legacy = problem.answer(&GoogleLegacy::default());
    assert!(legacy.body().ends_with(r#""domain":"global","reason":"conflict"}]}}"#));
    let google = problem.answer(&Google::default());
    let expected = concat!(
        r#""status":"ABORTED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","#,
        r#""reason":"LOCKED","domain":"ifmatch","metadata":{"collection":"rooms","#,
        r#""key":"r1"}}]}}"#,
    );
    assert!(google.body().ends_with(expected), "{}", google.body());
    assert_eq!(google.headers()["retry-after"], legacy.headers()["retry-after"]);
}

#[test]
fn g4_the_refusal_of_a_data_transfer_is_word_for_word() {
    const MESSAGE: &str = "Data transfer already in progress for the user.";
    let (path, scope) = ("/operations/data_transfer", r#"{"scope":"user/42"}"#);
    let begun = |client: &Client, domain: &str| {
        let settings = json!({ "message": MESSAGE, "domain": domain }).to_string();
        assert_eq!(client.call("PUT", path, &[JSON], &settings).status, 200);
        let first = client.call("POST", path, &[JSON], scope);
        assert_eq!(first.status, 201, "{first:?}");
        let refused = client.call("POST", "/operations/import", &[JSON], scope);
        assert_eq!(refused.status, 409);
        (first.json()["id"].as_str().expect("an id").to_owned(), refused)
    };
    let (_, refused) = begun(&legacy(), "global");
    let expected = concat!(
        r#"{"error":{"code":409,"message":"Data transfer already in progress for the user.","#,
        r#""errors":[{"message":"Data transfer already in progress for the user.","#,
        r#""domain":"global","reason":"conflict"}]}}"#,
    );
    assert_eq!(refused.text(), expected);

    let (id, refused) = begun(&google(), "admin.example.com");
    let expected = concat!(
        r#"{"error":{"code":409,"message":"Data transfer already in progress for the user.","#,
        r#""status":"ABORTED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","#,
        r#""reason":"IN_PROGRESS","domain":"admin.example.com","metadata":{"operationId":"ID","#,
        r#""operationKind":"data_transfer"}}]}}"#,
    );
    assert_eq!(refused.text(), expected.replace("ID", &id));

    let (id, refused) = begun(&Client::in_memory(), "global");
    let problem = refused.json();
    assert_eq!((&problem["detail"], &problem["operation"]["id"]), (&json!(MESSAGE), &json!(id)));
}

#[test]
fn an_operation_is_in_the_dialect_too() {
    for (client, status) in [(legacy(), "inProgress"), (google(), "in_progress")] {
        let begun = client.call("POST", "/operations/import", &[JSON], r#"{"scope":"a"}"#);
        let told = [
            begun.json()["status"].clone(),
            client.get(begun.header("location")).json()["status"].clone(),
        ];
        assert_eq!(told, [status, status]);
    }
}

#[test]
fn a_dialect_of_ones_own() {
    #[derive(Debug)]
    struct Plain;

    impl Dialect for Plain {
        fn content_type(&self) -> HeaderValue {
            HeaderValue::from_static("text/plain")
        }

        fn body(&self, problem: &Problem) -> String {
            format!("{} {:?}", problem.reason().as_str(), problem.instance())
        }
    }

    let client = Client::new(Store::in_memory(), RouterOptions::default().dialect(Plain));
    let answer = client.get("/unknown");
    assert_eq!((answer.status, answer.header("content-type")), (404, "text/plain"));
    assert_eq!(answer.text(), "not_found Some(\"/unknown\")");
    let batch = json!({ "writes": [{ "op": "put", "collection": "c", "key": "a", "value": 1 }] });
    let item = client.call("POST", "/batch", &[JSON], &batch.to_string());
    assert_eq!(item.json()["results"][0]["problem"]["reason"], "precondition_required");
}

#[test]
fn the_status_is_chosen_apart_from_the_dialect() {
    let strict = StaleStatus::PreconditionFailed;
    let options = RouterOptions::default().dialect(GoogleLegacy::default()).stale_status(strict);
    let (answer, ..) = stale(&Client::new(Store::in_memory(), options));
    assert_eq!(answer.status, 412);
    legacy_message(&answer, "conditionNotMet");
}
