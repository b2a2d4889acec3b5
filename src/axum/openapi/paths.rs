//! All that the router serves.

use ::http::StatusCode;
use schemars::{Schema, json_schema};
use serde_json::{Value, json};

use super::endpoint::Endpoint;
use super::parameter::{READ, WRITE, WRITES};
use super::{POINTER, Schemas};
use crate::axum::{batch, changes, history, lease, operation, read, settings, transaction};
use crate::conflict::Reason;
use crate::http::ProblemReason;

const NOT_FOUND: ProblemReason = ProblemReason::NotFound;
const STALE: ProblemReason = ProblemReason::Conflict(Reason::StaleVersion);
const FENCED: ProblemReason = ProblemReason::Conflict(Reason::Fenced);
const LOCKED: ProblemReason = ProblemReason::Conflict(Reason::Locked);
const IN_PROGRESS: ProblemReason = ProblemReason::Conflict(Reason::InProgress);
const WRONG_STATE: ProblemReason = ProblemReason::Conflict(Reason::WrongState);
const KEY_REUSED: ProblemReason = ProblemReason::KeyReused;
const CONTENDED: ProblemReason = ProblemReason::Conflict(Reason::Contended);

/// Headers of a document.
const DOCUMENT: &[&str] = &["ETag", "Last-Modified", "Ifmatch-Version", "Ifmatch-Written-By"];

/// Headers of a document that was written.
const WRITTEN: &[&str] = &[
    "ETag",
    "Last-Modified",
    "Ifmatch-Version",
    "Ifmatch-Written-By",
    "Location",
    "Idempotency-Replayed",
    "Preference-Applied",
];

/// Headers of whatever else was done.
const REPLAYED: &[&str] = &["Idempotency-Replayed"];

pub(super) fn endpoints(schemas: &mut Schemas) -> Vec<Endpoint> {
    let mut all = Vec::from(about_collections(schemas));
    all.extend(about_documents(schemas));
    all.extend(about_leases(schemas));
    all.extend(about_many(schemas));
    all.extend(about_operations(schemas));
    all.extend(about_steps(schemas));
    all.extend(about_the_server());
    all
}

/// Any JSON.
fn any() -> Schema {
    Schema::default()
}

/// RFC 6902.
fn json_patch() -> Schema {
    let pointer = json!({ "type": "string", "pattern": POINTER });
    let operation = |names: &[&str], members: Value| {
        json!({
            "type": "object",
            "required": ["op", "path"],
            "properties": { "op": { "enum": names }, "path": pointer },
            "allOf": [members],
        })
    };
    json_schema!({
        "type": "array",
        "items": { "anyOf": [
            operation(&["add", "replace", "test"], json!({ "required": ["value"] })),
            operation(&["move", "copy"], json!({
                "required": ["from"], "properties": { "from": pointer },
            })),
            operation(&["remove"], json!({})),
        ] },
    })
}

fn about_collections(schemas: &mut Schemas) -> [Endpoint; 4] {
    const PATH: &str = "/collections/{collection}";
    [
        Endpoint::new("get", "/collections", "listCollections", "All collections").answers_with(
            200,
            "With their settings",
            &[],
            schemas.given::<settings::List>(),
        ),
        Endpoint::new("get", PATH, "listDocuments", "Documents in the order of their keys")
            .with(["prefix", "after", "limit"])
            .answers_with(200, "A page", &[], schemas.given::<read::Page>())
            .refuses([NOT_FOUND, ProblemReason::WrongState]),
        Endpoint::new("put", PATH, "setCollection", "All settings of a collection")
            .with(WRITES)
            .takes(schemas.taken::<settings::CollectionSettings>())
            .answers_with(200, "As they are now", REPLAYED, schemas.given::<settings::Shown>())
            .writes()
            .refuses([ProblemReason::WrongState, ProblemReason::Conflict(Reason::Duplicate)])
            .refuses([KEY_REUSED]),
        Endpoint::new("post", PATH, "createDocument", "A document under a new key")
            .with(WRITE)
            .takes(any())
            .answers_with(201, "It is created", WRITTEN, any())
            .writes_documents(),
    ]
}

fn about_documents(schemas: &mut Schemas) -> [Endpoint; 5] {
    const PATH: &str = "/collections/{collection}/{key}";
    [
        Endpoint::new("get", PATH, "readDocument", "A document")
            .with(READ)
            .answers_with(200, "The document", DOCUMENT, any())
            .answers(304, "The client has it", &["ETag"])
            .refuses([NOT_FOUND, ProblemReason::WrongState])
            .refuses_with(StatusCode::PRECONDITION_FAILED, STALE),
        Endpoint::new("put", PATH, "writeDocument", "Creates or replaces a document")
            .with(WRITE)
            .takes(any())
            .answers_with(200, "It is replaced", WRITTEN, any())
            .answers_with(201, "It is created", WRITTEN, any())
            .answers(204, "It is replaced, as was preferred", WRITTEN)
            .writes_documents(),
        Endpoint::new("patch", PATH, "patchDocument", "Changes parts of a document")
            .with(WRITE)
            .takes_one_of([
                ("application/merge-patch+json", any()),
                ("application/json-patch+json", json_patch()),
            ])
            .answers_with(200, "It is changed", WRITTEN, any())
            .answers(204, "It is changed, as was preferred, or deleted since", WRITTEN)
            .refuses([NOT_FOUND])
            .writes_documents(),
        Endpoint::new("delete", PATH, "deleteDocument", "Deletes a document")
            .with(WRITE)
            .answers(204, "It is deleted", &["ETag", "Ifmatch-Version", "Idempotency-Replayed"])
            .refuses([NOT_FOUND])
            .writes_documents(),
        Endpoint::new(
            "get",
            "/collections/{collection}/{key}/history",
            "readHistory",
            "A document and what was there before, the newest first",
        )
        .answers_with(200, "What is kept", &[], schemas.given::<history::Page>())
        .refuses([NOT_FOUND, ProblemReason::WrongState]),
    ]
}

fn about_leases(schemas: &mut Schemas) -> [Endpoint; 4] {
    const PATH: &str = "/collections/{collection}/{key}/lease";
    [
        Endpoint::new("get", PATH, "readLease", "Who holds a lease of the key")
            .answers_with(200, "The lease", &[], schemas.given::<lease::Shown>())
            .refuses([NOT_FOUND, ProblemReason::WrongState]),
        Endpoint::new("post", PATH, "takeLease", "Takes a lease of the key")
            .with(WRITES)
            .takes(schemas.taken::<lease::Take>())
            .or_nothing()
            .answers_with(201, "It is taken", REPLAYED, schemas.given::<lease::Held>())
            .writes()
            .refuses([LOCKED, FENCED, CONTENDED, ProblemReason::WrongState, KEY_REUSED]),
        Endpoint::new("put", PATH, "renewLease", "Prolongs the lease, from now on")
            .with(["Held-Lease"])
            .with(WRITES)
            .takes(schemas.taken::<lease::Renew>())
            .answers_with(200, "It is prolonged", REPLAYED, schemas.given::<lease::Held>())
            .writes()
            .refuses([NOT_FOUND, FENCED, CONTENDED, ProblemReason::WrongState, KEY_REUSED]),
        Endpoint::new("delete", PATH, "releaseLease", "Gives the lease back")
            .with(["Held-Lease"])
            .with(WRITES)
            .answers(204, "It is given back", REPLAYED)
            .writes()
            .refuses([NOT_FOUND, FENCED, CONTENDED, ProblemReason::WrongState, KEY_REUSED]),
    ]
}

fn about_many(schemas: &mut Schemas) -> [Endpoint; 3] {
    [
        Endpoint::new("post", "/batch", "batch", "Many writes, each by itself")
            .with(WRITES)
            .takes(schemas.taken::<batch::Body>())
            .answers_with(200, "What became of each", REPLAYED, schemas.given::<batch::Answer>())
            .writes(),
        Endpoint::new("post", "/transactions", "transact", "Many writes, all or none")
            .with(WRITES)
            .takes(schemas.taken::<transaction::Body>())
            .answers_with(200, "All", REPLAYED, schemas.given::<transaction::Answer>())
            .refuses([NOT_FOUND])
            .writes_documents(),
        Endpoint::new("get", "/changes", "readChanges", "Commits in their order, each once")
            .with(["since", "of_collection", "prefix", "limit", "wait_ms", "Last-Event-ID"])
            .answers_with(200, "A page", &[], schemas.given::<changes::Page>())
            .or_as(200, "text/event-stream")
            .refuses([ProblemReason::Gap]),
    ]
}

fn about_operations(schemas: &mut Schemas) -> [Endpoint; 4] {
    const PATH: &str = "/operations/{kind}";
    [
        Endpoint::new("get", PATH, "readKind", "The settings of a kind of operations")
            .answers_with(200, "As they are", &[], schemas.given::<settings::ShownKind>()),
        Endpoint::new("put", PATH, "setKind", "All settings of a kind of operations")
            .with(WRITES)
            .takes(schemas.taken::<settings::KindSettings>())
            .answers_with(200, "As they are now", REPLAYED, schemas.given::<settings::ShownKind>())
            .writes()
            .refuses([KEY_REUSED]),
        Endpoint::new("post", PATH, "beginOperation", "Begins an operation, or queues it")
            .with(WRITES)
            .takes(schemas.taken::<operation::Ask>())
            .answers_with(
                201,
                "It is begun",
                &["Location", "Idempotency-Replayed"],
                schemas.given::<operation::Shown>(),
            )
            .writes()
            .refuses([IN_PROGRESS, CONTENDED, KEY_REUSED]),
        Endpoint::new("get", "/operations/{kind}/{id}", "readOperation", "An operation")
            .with(["wait_ms"])
            .answers_with(200, "As it is", &[], schemas.given::<operation::Shown>())
            .refuses([NOT_FOUND]),
    ]
}

fn about_steps(schemas: &mut Schemas) -> [Endpoint; 5] {
    let shown = schemas.given::<operation::Shown>();
    let step = |path, id, summary, body| {
        Endpoint::new("post", path, id, summary)
            .with(WRITES)
            .takes(body)
            .answers_with(200, "As it is now", REPLAYED, shown.clone())
            .writes()
            .refuses([NOT_FOUND, FENCED, WRONG_STATE, IN_PROGRESS, CONTENDED, KEY_REUSED])
    };
    [
        step(
            "/operations/{kind}/{id}/heartbeat",
            "heartbeat",
            "It goes on",
            schemas.taken::<operation::Heartbeat>(),
        ),
        step(
            "/operations/{kind}/{id}/progress",
            "progress",
            "It has come so far",
            schemas.taken::<operation::Progress>(),
        ),
        step(
            "/operations/{kind}/{id}/complete",
            "complete",
            "It is done",
            schemas.taken::<operation::Complete>(),
        ),
        step(
            "/operations/{kind}/{id}/fail",
            "fail",
            "It has failed",
            schemas.taken::<operation::Fail>(),
        ),
        step(
            "/operations/{kind}/{id}/cancel",
            "cancel",
            "It is not wanted any more",
            schemas.taken::<operation::Cancel>(),
        ),
    ]
}

fn about_the_server() -> [Endpoint; 4] {
    let status = json_schema!({
        "type": "object", "properties": { "status": { "const": "ok" } }, "required": ["status"],
    });
    let described = json_schema!({ "type": "object" });
    [
        Endpoint::new("get", "/healthz", "health", "Whether the server serves")
            .answers_with(200, "It does", &[], status)
            .refuses([ProblemReason::Poisoned])
            .open(),
        Endpoint::new("get", "/", "console", "A page for people")
            .answers_as(200, "It asks for what it shows", "text/html")
            .open(),
        Endpoint::new("get", "/metrics", "measure", "What the server has seen").answers_as(
            200,
            "In the text format of Prometheus",
            "text/plain",
        ),
        Endpoint::new("get", "/openapi.json", "describe", "This description").answers_with(
            200,
            "OpenAPI 3.1",
            &[],
            described,
        ),
    ]
}
