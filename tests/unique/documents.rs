//! Unique indexes of JSON documents, in the program and over HTTP.

use axum::body::Body;
use http::{Method, Request};
use ifmatch::http::Document;
use ifmatch::{Collection, CollectionBuilder, Error, Json, Reason, Store};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::common::everywhere;

fn declare(store: &Store) -> CollectionBuilder<'_, String, Document, Json> {
    store.declare("employees").codec(Json).unique_pointer("/legacy_id")
}

fn put(employees: &Collection<String, Document>, key: &str, json: &str) -> Option<Reason> {
    let document = Document::parse(json.to_owned()).unwrap();
    let error = employees.put(key, document).unconditional().commit().err()?;
    Some(error.conflict().expect("a conflict").reason())
}

#[test]
fn g1_documents_are_unique_by_pointer() {
    everywhere(|configuration, store| {
        let mut employees = declare(&store).open().unwrap();
        for (key, json, expected) in [
            ("e-1", r#"{ "legacy_id": 1 }"#, None),
            ("e-2", r#"{"legacy_id": "1"}"#, None),
            ("e-3", r#"{"legacy_id": 1.0}"#, Some(Reason::Duplicate)),
            ("e-3", r#"{"legacy_id": "\u0031"}"#, Some(Reason::Duplicate)),
            ("e-3", r#"{"legacy_id": null}"#, None),
            ("e-4", r#"{}"#, None),
            ("e-5", r#"[1]"#, None),
            ("e-6", r#"{"legacy_id": {"a": 1, "b": []}}"#, None),
            ("e-7", r#"{"legacy_id": {"b": [], "a": 1}}"#, Some(Reason::Duplicate)),
            ("e-7", r#"{"legacy_id": true}"#, None),
        ] {
            assert_eq!(put(&employees, key, json), expected, "{key} {json}");
        }
        if configuration.is_durable() {
            drop(employees);
            store.close().unwrap();
            employees = declare(&configuration.open()).open().unwrap();
        }
        let holder = |value: Value| {
            let found = employees.find_by("/legacy_id", value.to_string()).unwrap();
            found.map(|(key, _)| key)
        };
        assert_eq!(holder(json!(1)).as_deref(), Some("e-1"));
        assert_eq!(holder(json!("1")).as_deref(), Some("e-2"));
        assert_eq!(holder(json!(true)).as_deref(), Some("e-7"));
        assert_eq!(holder(json!(null)), None);
    });
}

#[test]
fn what_is_no_pointer_is_refused_at_once() {
    let store = Store::in_memory();
    let declared = store.declare::<String, Value>("employees").codec(Json);
    let error = declared.unique_pointer("legacy_id").open().unwrap_err();
    assert!(matches!(error, Error::Index { .. }));
    assert!(error.to_string().contains("no JSON Pointer"), "{error}");
}

#[test]
fn g4_a_duplicate_says_everything_over_http() {
    let store = Store::in_memory();
    let _declared_by_the_program = declare(&store).open().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let send = |key: &str| {
        let path = format!("/collections/employees/{key}");
        let request = Request::builder()
            .method(Method::PUT)
            .uri(path)
            .header("content-type", "application/json")
            .header("if-none-match", "*")
            .header("ifmatch-actor", "import");
        let request = request.body(Body::from(r#"{"legacy_id": "L-7"}"#)).unwrap();
        runtime.block_on(async {
            let answer = ifmatch::axum::router(store.clone()).oneshot(request).await.unwrap();
            let (parts, body) = answer.into_parts();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            (parts.status.as_u16(), serde_json::from_slice::<Value>(&bytes).unwrap())
        })
    };
    assert_eq!(send("e-1").0, 201);
    let (status, problem) = send("e-2");
    assert_eq!(status, 409);
    for (member, expected) in [
        ("type", json!("urn:ifmatch:duplicate")),
        ("title", json!("The value is another entity's")),
        ("reason", json!("duplicate")),
        ("key", json!("e-2")),
        ("index", json!("/legacy_id")),
        ("current", Value::Null),
        ("retry", json!({"advice": "never"})),
    ] {
        assert_eq!(problem[member], expected, "{member}");
    }
    let holder = &problem["held_by"];
    assert_eq!((&holder["key"], &holder["version"]), (&json!("e-1"), &json!(1)));
    assert_eq!(holder["value"], json!({"legacy_id": "L-7"}));
    assert_eq!(holder["written_by"], "import");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("employees/e-1 holds the same /legacy_id"), "{detail}");
}
