//! The description of the router, held against what the router does.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::thread;

use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON};
use ifmatch::Store;
use ifmatch::axum::{RouterOptions, Tokens};

/// As a router with tokens describes itself, which has all refusals.
static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| {
    let describe = || {
        let (tokens, bearer) = tokens();
        let client = Client::new(Store::in_memory(), RouterOptions::default().tokens(tokens));
        client.call("GET", "/openapi.json", &[("authorization", bearer)], "").json()
    };
    // The thread that asks may be in a runtime already.
    thread::spawn(describe).join().expect("a description")
});

fn tokens() -> (Tokens, &'static str) {
    let digest = "4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631";
    (format!("alice:{digest}").parse().unwrap(), "Bearer correct horse")
}

/// Every answer of every test here comes by: its status is described, and so is its reason.
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    if path == "/openapi.json" || matches!(method, "OPTIONS" | "TRACE") || answer.status == 405 {
        return;
    }
    // Of an application of another kind, or one that the router is nested in.
    if path == "/" || ["/rooms", "/store"].iter().any(|other| path.starts_with(other)) {
        return;
    }
    let Some(template) = template(path) else {
        assert!(answer.status >= 400, "{path} is not described: {}", answer.status);
        return;
    };
    let described = &DESCRIPTION["paths"][template][method.to_ascii_lowercase()];
    // Who has no token is not told which methods there are.
    if described.is_null() && answer.status == 401 {
        return;
    }
    let response = &described["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{method} {template} is not described: {}", answer.status);
    if answer.headers.get("content-type").is_some_and(|it| it == "application/problem+json")
        && method != "HEAD"
    {
        let schemas = &response["content"]["application/problem+json"]["schema"]["allOf"];
        let reasons = schemas[1]["properties"]["reason"]["enum"].as_array().unwrap();
        assert!(
            reasons.contains(&json!(answer.reason())),
            "{method} {template}: {}",
            answer.text()
        );
    }
}

/// The described path that this one is.
fn template(path: &str) -> Option<&'static str> {
    let fits = |template: &&String| {
        let (mut known, mut given) = (template.split('/'), path.split('/'));
        known
            .by_ref()
            .zip(given.by_ref())
            .all(|(known, given)| known == given || known.starts_with('{') && !given.is_empty())
            && template.split('/').count() == path.split('/').count()
    };
    let paths = DESCRIPTION["paths"].as_object().unwrap();
    paths.keys().find(fits).map(String::as_str)
}

#[test]
fn all_methods_are_described_and_no_others() {
    let client = Client::in_memory();
    for (path, operations) in DESCRIPTION["paths"].as_object().unwrap() {
        let id = "0".repeat(22);
        let path = path.replace("{id}", &id).replace(['{', '}'], "");
        let options = client.call("OPTIONS", &path, &[], "");
        assert_eq!(options.status, 204, "{path}");
        let known: BTreeSet<_> =
            options.header("allow").split(", ").map(str::to_ascii_lowercase).collect();
        let described = operations.as_object().unwrap().keys().cloned();
        let described: BTreeSet<_> = described.chain(["options".to_owned()]).collect();
        assert_eq!(known, described, "{path}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                match value.as_str().filter(|_| name == "$ref") {
                    Some(reference) => found.push(reference),
                    None => references(value, found),
                }
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&DESCRIPTION, &mut found);
    assert!(found.len() > 100, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("in this document");
        assert!(DESCRIPTION.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn tokens_and_the_place_of_the_router_are_described() {
    let plain = Client::in_memory().get("/openapi.json").json();
    assert_eq!((&plain["openapi"], &plain["security"]), (&json!("3.1.0"), &json!([])));
    let responses =
        |document: &Value, path: &str| document["paths"][path]["get"]["responses"].clone();
    assert_eq!(responses(&plain, "/collections")["401"], Value::Null);
    assert_eq!(DESCRIPTION["security"], json!([{ "token": [] }]));
    assert!(responses(&DESCRIPTION, "/collections")["401"].is_object());
    assert_eq!(responses(&DESCRIPTION, "/healthz")["401"], Value::Null);
    let router = ifmatch::axum::router(Store::in_memory());
    let nested = Client::of(axum::Router::new().nest("/store", router));
    assert_eq!(plain["servers"], json!([{ "url": "/" }]));
    assert_eq!(nested.get("/store/openapi.json").json()["servers"], json!([{ "url": "/store" }]));
}

#[test]
fn refusals_are_described_in_the_dialect_that_they_are_written_in() {
    let options = RouterOptions::default().dialect(ifmatch::http::Google::default());
    let client = Client::new(Store::in_memory(), options);
    let described = client.get("/openapi.json").json();
    let content = &described["paths"]["/collections"]["get"]["responses"]["503"]["content"];
    let refused = client.call("PUT", "/collections/c/k", &[JSON], "1");
    let written: Vec<_> = content.as_object().unwrap().keys().collect();
    assert_eq!(written, [refused.header("content-type")]);
}

#[test]
fn numbers_are_whole_however_they_are_written() {
    let client = Client::in_memory();
    let take = |path: &str, ttl: &str| {
        let body = format!(r#"{{"ttl_ms":{ttl}}}"#);
        client.call("POST", &format!("/collections/c/{path}/lease"), &[JSON], &body).status
    };
    assert_eq!([take("a", "1e3"), take("b", "1000.0"), take("c", "null")], [201; 3]);
    for ttl in ["0.5", "-1", "-1.0", "1e300", "\"1\"", "true"] {
        assert_eq!(take("d", ttl), 400, "{ttl}");
    }
}
