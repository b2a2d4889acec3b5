//! What a request says beside its body.

use serde_json::{Value, json};

use super::{CURSOR, KEY, NAME, OPERATION_ID, TAGS};

/// Bare, or as a quoted string.
const IDEMPOTENCY_KEY: &str = r#"^([!#-~]([ -~]{0,198}[!-~])?|"([ !#-\[\]-~]|\\["\\]){1,200}")$"#;
const ACTOR: &str = "^[!-~]([ -~]{0,254}[!-~])?$";

/// A parameter, by its name in the components.
pub(super) type Parameter = &'static str;

/// Of a read.
pub(super) const READ: [Parameter; 4] =
    ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];

/// Of a write of one document.
pub(super) const WRITE: [Parameter; 9] = [
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "unconditional",
    "Idempotency-Key",
    "Ifmatch-Actor",
    "Ifmatch-Lease",
    "Prefer",
];

/// Of many writes, which have conditions of their own.
pub(super) const WRITES: [Parameter; 2] = ["Idempotency-Key", "Ifmatch-Actor"];

/// Those of the path, in braces.
pub(super) fn of_path(path: &'static str) -> impl Iterator<Item = Parameter> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

pub(super) fn reference(name: Parameter) -> Value {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

/// All of them.
pub(super) fn components() -> Value {
    let path = |name: &str, pattern: &str, description: &str| {
        json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": { "type": "string", "pattern": pattern, "minLength": 1 },
        })
    };
    let header = |name, schema: Value, description| placed("header", name, schema, description);
    let query = |name, schema: Value, description| placed("query", name, schema, description);
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern, "minLength": 1 });
    let number =
        |least: u64, most: u64| json!({ "type": "integer", "minimum": least, "maximum": most });
    let tags = json!({ "anyOf": [{ "const": "*" }, text(TAGS)] });
    let token = number(1, u64::MAX);
    let date = json!({ "type": "string" });
    json!({
        "collection": path("collection", NAME, "A collection"),
        "key": path("key", KEY, "1 to 512 bytes of UTF-8, percent-encoded; no control \
                                 characters, not . or .."),
        "kind": path("kind", NAME, "A kind of operations"),
        "id": path("id", OPERATION_ID, "An operation"),
        "If-Match": header("If-Match", tags.clone(), "Entity tags, compared strongly, or *"),
        "If-None-Match": header("If-None-Match", tags, "Entity tags, compared weakly, or *"),
        "If-Modified-Since": header("If-Modified-Since", date.clone(), "Of a read"),
        "If-Unmodified-Since": header("If-Unmodified-Since", date, "If there is no If-Match"),
        "unconditional": query("unconditional", json!({ "type": "boolean" }),
                               "Overwrites whatever is there, if there is no other condition"),
        "Idempotency-Key": header("Idempotency-Key", text(IDEMPOTENCY_KEY),
                                  "The id of this write: a second try is answered as the first"),
        "Ifmatch-Actor": header("Ifmatch-Actor", text(ACTOR), "Who writes"),
        "Ifmatch-Lease": header("Ifmatch-Lease", token.clone(), "The token of a lease"),
        "Held-Lease": {
            "name": "Ifmatch-Lease", "in": "header", "required": true, "schema": token,
            "description": "The token of the lease",
        },
        "Prefer": header("Prefer", json!({ "type": "string" }),
                         "return=minimal leaves the document out of the answer"),
        "Last-Event-ID": {
            "name": "Last-Event-ID", "in": "header",
            "schema": { "anyOf": [{ "const": "" }, text(CURSOR)] },
            "description": "Where a stream of events goes on",
        },
        "prefix": query("prefix", json!({ "type": "string" }), "Only keys that begin so"),
        "after": query("after", json!({ "type": "string" }), "Only keys behind this one"),
        "limit": query("limit", number(1, 1_000), "The most items; 100 by default"),
        "since": query("since", text(CURSOR),
                       "A cursor: next_since of the page before"),
        "of_collection": query("collection", text(NAME), "Only changes in this collection"),
        "wait_ms": query("wait_ms", number(0, 60_000),
                         "How long to wait for something to happen; by default not"),
    })
}

fn placed(place: &str, name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": place, "schema": schema, "description": description })
}
