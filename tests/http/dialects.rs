//! The same refusals in each dialect; the status is chosen apart from it.

use http::HeaderValue;
use ifmatch::axum::RouterOptions;
use ifmatch::http::{
    Conditions, Dialect, Google, GoogleLegacy, Problem, ProblemReason, StaleStatus,
};
use ifmatch::{Reason, Store};
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

/// Checks everything but how long to wait, which is drawn.
fn google_error(answer: &Answer, status: &str, reason: &str, metadata: &Value) {
    assert_eq!(answer.header("content-type"), "application/json");
    let error = answer.json()["error"].clone();
    let (message, code) = (&error["message"], answer.status);
    let retry = match &error["details"][1] {
        Value::Null => String::new(),
        detail => retry_info(detail["retryDelay"].as_str().expect("a time")),
    };
    let expected = [
        format!(r#"{{"error":{{"code":{code},"message":{message},"status":"{status}","#),
        r#""details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","#.to_owned(),
        format!(r#""reason":"{reason}","domain":"ifmatch","metadata":{metadata}}}{retry}]}}}}"#),
    ];
    assert_eq!(answer.text(), expected.concat());
}

fn retry_info(delay: &str) -> String {
    let kind = "type.googleapis.com/google.rpc.RetryInfo";
    format!(r#",{{"@type":"{kind}","retryDelay":"{delay}"}}"#)
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
    let delay = answer.json()["error"]["details"][1]["retryDelay"].clone();
    let (seconds, millis) = delay
        .as_str()
        .and_then(|it| it.strip_suffix('s')?.split_once('.'))
        .expect("seconds and their thousandths");
    assert!(seconds.parse::<u64>().is_ok() && millis.parse::<u16>().is_ok() && millis.len() == 3);

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
        r#""key":"r1"}}"#,
    );
    let wait = problem.retry_in().expect("until the lease ends");
    let delay = format!("{}.{:03}s", wait.as_secs(), wait.subsec_millis());
    let expected = format!("{expected}{}]}}}}", retry_info(&delay));
    assert!(google.body().ends_with(&expected), "{}", google.body());
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
        r#""operationKind":"data_transfer"}}RETRY]}}"#,
    );
    let delay = refused.json()["error"]["details"][1]["retryDelay"].clone();
    let retry = retry_info(delay.as_str().expect("a time"));
    assert_eq!(refused.text(), expected.replace("ID", &id).replace("RETRY", &retry));

    let (id, refused) = begun(&Client::in_memory(), "global");
    let problem = refused.json();
    assert_eq!((&problem["detail"], &problem["operation"]["id"]), (&json!(MESSAGE), &json!(id)));
}

#[test]
fn an_operation_is_in_the_dialect_too() {
    for (client, in_progress) in [(legacy(), "inProgress"), (google(), "in_progress")] {
        let begun = client.call("POST", "/operations/import", &[JSON], r#"{"scope":"a"}"#);
        let (path, token) = (begun.header("location"), begun.json()["token"].clone());
        let step = |step: &str| {
            let body = json!({ "token": token }).to_string();
            client.call("POST", &format!("{path}/{step}"), &[JSON], &body)
        };
        for shown in [&begun, &client.get(path), &step("heartbeat")] {
            assert_eq!(shown.json()["status"], in_progress, "{shown:?}");
        }
        assert_eq!(step("complete").json()["status"], "completed");
    }
}

#[test]
fn g4_each_conflict_of_a_transaction_is_told_where_the_form_has_a_place() {
    let check =
        |key: &str| json!({ "op": "check", "collection": "c", "key": key, "if_match": "*" });
    let body = json!({ "operations": [check("a"), check("b")] }).to_string();
    let refused = |client: &Client| {
        let refused = client.call("POST", "/transactions", &[JSON], &body);
        assert_eq!(refused.status, 409, "{refused:?}");
        refused.json()
    };
    let problem = refused(&Client::in_memory());
    let said = ["a", "b"].map(|key| format!("c/{key} does not exist; create it, or check the key"));
    assert_eq!([0, 1].map(|at| problem["conflicts"][at]["detail"].clone()), said);

    let legacy = refused(&legacy());
    assert_eq!(legacy["error"]["message"], said[0]);
    let error =
        |at: usize| json!({ "message": said[at], "domain": "global", "reason": "conflict" });
    assert_eq!(legacy["error"]["errors"], json!([error(0), error(1)]));

    let google = refused(&google());
    let details = google["error"]["details"].as_array().expect("details");
    let violation =
        |at: usize, of: &str| json!({ "type": "ABSENT", "subject": of, "description": said[at] });
    let expected = json!({
        "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
        "violations": [violation(0, "c/a"), violation(1, "c/b")],
    });
    assert_eq!(details.last(), Some(&expected));
}

/// The compiler sees that none is forgotten: the matches of the dialects have no wildcard.
#[test]
fn g4_every_reason_has_a_code_in_each_dialect() {
    use ProblemReason::Conflict as Of;
    let cases = [
        (Of(Reason::StaleVersion), "ABORTED", "conflict"),
        (Of(Reason::Deleted), "ABORTED", "conflict"),
        (Of(Reason::Absent), "ABORTED", "conflict"),
        (Of(Reason::AlreadyExists), "ALREADY_EXISTS", "duplicate"),
        (Of(Reason::Contended), "ABORTED", "conflict"),
        (Of(Reason::WrongState), "FAILED_PRECONDITION", "conflict"),
        (Of(Reason::Duplicate), "ALREADY_EXISTS", "duplicate"),
        (Of(Reason::Locked), "ABORTED", "conflict"),
        (Of(Reason::InProgress), "ABORTED", "conflict"),
        (Of(Reason::Fenced), "ABORTED", "conflict"),
        (ProblemReason::WrongState, "FAILED_PRECONDITION", "conflict"),
        (ProblemReason::PreconditionRequired, "INVALID_ARGUMENT", "required"),
        (ProblemReason::Malformed, "INVALID_ARGUMENT", "invalid"),
        (ProblemReason::Unauthorized, "UNAUTHENTICATED", "authError"),
        (ProblemReason::Forbidden, "PERMISSION_DENIED", "forbidden"),
        (ProblemReason::NotFound, "NOT_FOUND", "notFound"),
        (ProblemReason::MethodNotAllowed, "UNIMPLEMENTED", "httpMethodNotAllowed"),
        (ProblemReason::Timeout, "DEADLINE_EXCEEDED", "requestTimeout"),
        (ProblemReason::TooLarge, "INVALID_ARGUMENT", "uploadTooLarge"),
        (ProblemReason::UnsupportedMediaType, "INVALID_ARGUMENT", "badContent"),
        (ProblemReason::Limit, "RESOURCE_EXHAUSTED", "limitExceeded"),
        (ProblemReason::Overloaded, "UNAVAILABLE", "backendError"),
        (ProblemReason::Poisoned, "UNAVAILABLE", "backendError"),
        (ProblemReason::DiskFull, "RESOURCE_EXHAUSTED", "quotaExceeded"),
        (ProblemReason::Internal, "INTERNAL", "internalError"),
        (ProblemReason::KeyReused, "INVALID_ARGUMENT", "invalid"),
        (ProblemReason::Gap, "OUT_OF_RANGE", "deleted"),
    ];
    for (reason, code, legacy) in cases {
        let problem = Problem::new(reason, "a \"sentence\"");
        let told = |dialect: &dyn Dialect| -> Value {
            let answer = problem.answer(dialect);
            assert_eq!(answer.status(), problem.status());
            let challenge = answer.headers().contains_key("www-authenticate");
            assert_eq!(challenge, reason == ProblemReason::Unauthorized);
            let error: Value = serde_json::from_str(answer.body()).expect("JSON");
            assert_eq!(error["error"]["code"], answer.status().as_u16());
            assert_eq!(error["error"]["message"], problem.detail());
            error["error"].clone()
        };
        assert_eq!(told(&Google::default())["status"], code, "{reason:?}");
        assert_eq!(told(&GoogleLegacy::default())["errors"][0]["reason"], legacy, "{reason:?}");
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
