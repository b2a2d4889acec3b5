//! One method of one path: what it takes, what it answers, and what it refuses.

use std::collections::BTreeMap;

use ::http::StatusCode;
use schemars::Schema;
use serde_json::{Map, Value, json};

use super::Schemas;
use super::parameter::{self, Parameter};
use crate::conflict::Reason;
use crate::http::{Dialect, ProblemJson, ProblemMembers, ProblemReason, StaleStatus};

#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: Option<Body>,
    answers: BTreeMap<u16, Answer>,
    refusals: Vec<(StatusCode, ProblemReason)>,
    /// Whether it answers whoever asks, where others have to show a token.
    is_open: bool,
}

#[derive(Clone)]
struct Body {
    content: Map<String, Value>,
    required: bool,
}

#[derive(Clone)]
struct Answer {
    description: &'static str,
    headers: &'static [&'static str],
    content: Vec<(&'static str, Value)>,
}

/// How refusals are written, by the dialect.
pub(super) struct Refusals {
    media_type: String,
    /// Of problem documents; others do not say what they look like.
    schema: Option<Schema>,
}

/// What any request may be refused for.
const ALWAYS: [ProblemReason; 3] =
    [ProblemReason::Malformed, ProblemReason::Overloaded, ProblemReason::Internal];

/// What a request with a body may be refused for besides.
const BODY: [ProblemReason; 3] =
    [ProblemReason::Timeout, ProblemReason::TooLarge, ProblemReason::UnsupportedMediaType];

/// What whatever is written may be refused for besides.
const WRITE: [ProblemReason; 3] =
    [ProblemReason::Poisoned, ProblemReason::DiskFull, ProblemReason::Limit];

/// What the write of a document may be refused for besides.
const DOCUMENT: [ProblemReason; 12] = [
    ProblemReason::Conflict(Reason::StaleVersion),
    ProblemReason::Conflict(Reason::Deleted),
    ProblemReason::Conflict(Reason::Absent),
    ProblemReason::Conflict(Reason::AlreadyExists),
    ProblemReason::Conflict(Reason::Duplicate),
    ProblemReason::Conflict(Reason::Locked),
    ProblemReason::Conflict(Reason::Fenced),
    ProblemReason::Conflict(Reason::Contended),
    ProblemReason::WrongState,
    ProblemReason::PreconditionRequired,
    ProblemReason::KeyReused,
    ProblemReason::TooLarge,
];

impl Endpoint {
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Endpoint {
        let (answers, refusals) = (BTreeMap::new(), Vec::new());
        let parameters = parameter::of_path(path).collect();
        let (body, is_open) = (None, false);
        let endpoint =
            Endpoint { path, method, id, summary, parameters, body, answers, refusals, is_open };
        endpoint.refuses(ALWAYS)
    }

    pub(super) fn with(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Endpoint {
        self.parameters.extend(parameters);
        self
    }

    /// Takes JSON.
    pub(super) fn takes(self, schema: Schema) -> Endpoint {
        self.takes_one_of([("application/json", schema)])
    }

    /// Takes one of these media types.
    pub(super) fn takes_one_of<const N: usize>(
        mut self,
        content: [(&'static str, Schema); N],
    ) -> Endpoint {
        let content = content
            .into_iter()
            .map(|(name, schema)| (name.to_owned(), json!({ "schema": schema })))
            .collect();
        self.body = Some(Body { content, required: true });
        self.refuses(BODY)
    }

    /// No body at all is as good as one without members.
    pub(super) fn or_nothing(mut self) -> Endpoint {
        if let Some(body) = &mut self.body {
            body.required = false;
        }
        self
    }

    /// Answers with headers alone.
    pub(super) fn answers(
        mut self,
        status: u16,
        description: &'static str,
        headers: &'static [&'static str],
    ) -> Endpoint {
        self.answers.insert(status, Answer { description, headers, content: Vec::new() });
        self
    }

    /// Answers with a body too.
    pub(super) fn answers_with(
        mut self,
        status: u16,
        description: &'static str,
        headers: &'static [&'static str],
        schema: Schema,
    ) -> Endpoint {
        let content = vec![("application/json", schema.to_value())];
        self.answers.insert(status, Answer { description, headers, content });
        self
    }

    /// Answers with something that is no JSON.
    pub(super) fn answers_as(
        mut self,
        status: u16,
        description: &'static str,
        media_type: &'static str,
    ) -> Endpoint {
        let content = vec![(media_type, json!({ "type": "string" }))];
        self.answers.insert(status, Answer { description, headers: &[], content });
        self
    }

    /// Asks nobody for a token.
    pub(super) fn open(mut self) -> Endpoint {
        self.is_open = true;
        self
    }

    /// Is for those who have a token.
    pub(super) fn for_holders(self) -> Endpoint {
        match self.is_open {
            true => self,
            false => self.refuses([ProblemReason::Unauthorized, ProblemReason::Forbidden]),
        }
    }

    /// The answer of this status may be of another media type.
    pub(super) fn or_as(mut self, status: u16, media_type: &'static str) -> Endpoint {
        let content = (media_type, json!({ "type": "string" }));
        if let Some(answer) = self.answers.get_mut(&status) {
            answer.content.push(content);
        }
        self
    }

    pub(super) fn refuses(mut self, reasons: impl IntoIterator<Item = ProblemReason>) -> Endpoint {
        for reason in reasons {
            // A lost race has the status of its collection.
            for stale in [StaleStatus::Conflict, StaleStatus::PreconditionFailed] {
                let refusal = (reason.status(stale), reason);
                if !self.refusals.contains(&refusal) {
                    self.refusals.push(refusal);
                }
            }
        }
        self
    }

    /// Refuses for a reason with a status that is not the usual one.
    pub(super) fn refuses_with(mut self, status: StatusCode, reason: ProblemReason) -> Endpoint {
        self.refusals.push((status, reason));
        self
    }

    /// Writes something that is no document.
    pub(super) fn writes(self) -> Endpoint {
        self.refuses(WRITE)
    }

    pub(super) fn writes_documents(self) -> Endpoint {
        self.writes().refuses(DOCUMENT)
    }

    /// The same as `HEAD`.
    pub(super) fn without_bodies(&self) -> Endpoint {
        let mut head = Endpoint { method: "head", ..self.clone() };
        head.answers.values_mut().for_each(|answer| answer.content.clear());
        head
    }

    pub(super) fn describe(&self, refusals: &Refusals) -> Value {
        let is_head = self.method == "head";
        let id = if is_head { format!("{}Head", self.id) } else { self.id.to_owned() };
        let parameters: Vec<_> =
            self.parameters.iter().map(|name| parameter::reference(name)).collect();
        let mut described = json!({
            "operationId": id,
            "summary": self.summary,
            "parameters": parameters,
            "responses": self.responses(refusals, is_head),
        });
        if let Some(members) = described.as_object_mut() {
            if self.is_open {
                members.insert("security".to_owned(), json!([]));
            }
            if let Some(body) = &self.body {
                let body = json!({ "required": body.required, "content": body.content });
                members.insert("requestBody".to_owned(), body);
            }
        }
        described
    }

    fn responses(&self, written: &Refusals, is_head: bool) -> Map<String, Value> {
        let mut responses = Map::new();
        for (status, answer) in &self.answers {
            let content: Map<_, _> = answer
                .content
                .iter()
                .map(|(name, schema)| ((*name).to_owned(), json!({ "schema": schema })))
                .collect();
            let headers = header_references(answer.headers.iter().copied());
            let response = json!({
                "description": answer.description, "headers": headers, "content": content,
            });
            responses.insert(status.to_string(), response);
        }
        let mut refusals = BTreeMap::<_, Vec<_>>::new();
        for (status, reason) in &self.refusals {
            let reasons = refusals.entry(status.as_u16()).or_default();
            // Two reasons may have one name.
            if !reasons.contains(&reason.as_str()) {
                reasons.push(reason.as_str());
            }
        }
        for (status, reasons) in refusals {
            let content = if is_head { json!({}) } else { written.content(&reasons) };
            let headers = match status {
                401 => header_references(["WWW-Authenticate"]),
                415 => header_references(["Accept-Patch"]),
                503 | 507 => header_references(["Retry-After"]),
                _ => Map::new(),
            };
            let description = reasons.join(", ");
            let response =
                json!({ "description": description, "headers": headers, "content": content });
            responses.insert(status.to_string(), response);
        }
        responses
    }
}

impl Refusals {
    pub(super) fn of(dialect: &dyn Dialect, schemas: &mut Schemas) -> Refusals {
        let (media_type, problem) = (dialect.content_type(), ProblemJson.content_type());
        Refusals {
            schema: (media_type == problem).then(|| schemas.given::<ProblemMembers>()),
            media_type: String::from_utf8_lossy(media_type.as_bytes()).into_owned(),
        }
    }

    fn content(&self, reasons: &[&str]) -> Value {
        let schema = match &self.schema {
            Some(problem) => json!({
                "allOf": [problem, { "properties": { "reason": { "enum": reasons } } }],
            }),
            None => json!(true),
        };
        json!({ &*self.media_type: { "schema": schema } })
    }
}

/// Headers of answers.
const HEADERS: [(&str, &str, &str); 10] = [
    ("ETag", "string", "The version, in quotes, with the lineage of the store"),
    ("Last-Modified", "string", "When it was written"),
    ("Ifmatch-Version", "integer", "The version as a number"),
    ("Ifmatch-Written-By", "string", "Who wrote it, if that was said"),
    ("Location", "string", "Where it is"),
    ("Idempotency-Replayed", "string", "true if the write had landed before"),
    ("Preference-Applied", "string", "return=minimal if that was preferred"),
    ("Accept-Patch", "string", "The patches that are taken"),
    ("WWW-Authenticate", "string", "How to show a token"),
    ("Retry-After", "integer", "Seconds"),
];

pub(super) fn header_components() -> Value {
    let described = HEADERS.iter().map(|(name, kind, description)| {
        let header = json!({ "description": description, "schema": { "type": kind } });
        ((*name).to_owned(), header)
    });
    Value::Object(described.collect())
}

fn header_references(names: impl IntoIterator<Item = &'static str>) -> Map<String, Value> {
    let reference =
        |name: &str| (name.to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
    names.into_iter().map(reference).collect()
}
