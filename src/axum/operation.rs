//! Operations: begun, shown, waited for, and taken on step by step.

use std::time::{Duration, SystemTime};

use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::SemaphorePermit;

use super::path::{Step, malformed, parameters, wait_of};
use super::request::{self, whole, whole_or_null};
use super::response;
use super::service::Service;
use crate::http::{Dialect, Document, Problem, ProblemReason};
use crate::operation::{NotAToken, OnBusy, OperationInfo, OperationToken, Operations};

/// The body of one that is to begin.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Begin")]
pub(super) struct Ask {
    /// At most 512 bytes.
    scope: String,
    input: Option<Box<RawValue>>,
    /// How long it may go on without a sign of life; at most a day.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schemars(range(max = 86_400_000))]
    ttl_ms: Option<u64>,
    #[serde(default)]
    on_busy: Busy,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Busy {
    #[default]
    Reject,
    Queue,
}

/// What its holder shows.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = "^[0-9A-Fa-f]{16}$"))]
pub(super) struct Token(#[schemars(skip)] pub(super) OperationToken);

impl TryFrom<String> for Token {
    type Error = NotAToken;

    fn try_from(text: String) -> Result<Token, NotAToken> {
        text.parse().map(Token)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Heartbeat {
    token: Token,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    token: Token,
    /// In per cent.
    #[serde(deserialize_with = "whole")]
    #[schemars(range(max = 100))]
    progress: u8,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Complete {
    token: Token,
    result: Option<Box<RawValue>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fail {
    token: Token,
    error: Option<Box<RawValue>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [
    { "required": ["token"], "properties": { "token": { "type": "string" } } },
    { "required": ["force"], "properties": { "force": { "const": true } } },
]))]
pub(super) struct Cancel {
    token: Option<Token>,
    /// Whoever has no token ends it all the same.
    #[serde(default)]
    force: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Operation")]
pub(super) struct Shown<'a> {
    id: &'a str,
    kind: &'a str,
    scope: &'a str,
    /// For who begins it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    status: &'static str,
    /// In the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    progress: Option<u8>,
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Box<RawValue>>,
    started_by: Option<&'a str>,
    created_at: String,
    started_at: Option<String>,
    expires_at: Option<String>,
    ended_at: Option<String>,
}

impl Service {
    /// `POST /operations/{kind}`.
    pub(super) async fn begin(
        &self,
        kind: &str,
        request: Request,
        path: &str,
    ) -> Result<Response, Problem> {
        let caller = request::caller(request.headers())?;
        let ask: Ask = request::json(request, &self.options).await?;
        let operations = self.operations(kind)?;
        let begin = operations.begin(ask.scope).called_by(caller);
        let mut begin = begin.on_busy(match ask.on_busy {
            Busy::Reject => OnBusy::Reject,
            Busy::Queue => OnBusy::Queue,
        });
        if let Some(input) = ask.input {
            begin = begin.input(stored(Some(input))?);
        }
        if let Some(millis) = ask.ttl_ms {
            begin = begin.ttl(Duration::from_millis(millis));
        }
        let begun = begin.await.map_err(|error| self.refusal(&error))?;
        let token = Some(begun.token().to_string());
        let shown = Shown { token, ..self.show(begun.info()) };
        let answer = response::members(StatusCode::CREATED, &shown);
        let answer = response::replayed(answer, begun.is_replayed());
        Ok(response::located(answer, &format!("{path}/{}", begun.id())))
    }

    /// `GET /operations/{kind}/{id}?wait_ms=`.
    pub(super) async fn operation(
        &self,
        kind: &str,
        id: &str,
        query: Option<&str>,
        slot: SemaphorePermit<'_>,
    ) -> Result<Response, Problem> {
        let [wait] = parameters(query, ["wait_ms"])?;
        let wait = wait_of(wait)?;
        let operations = self.store.operations(kind);
        let mut info = self.known(&operations, kind, id)?;
        if !wait.is_zero() && !info.status().is_end() {
            let _place = self.waiting(slot)?;
            let ended = operations.wait_for(id).within(wait);
            if let Some(ended) = self.options.stop.unless_stopped(ended).await {
                let ended = ended.map_err(|error| self.refusal(&error))?;
                info = ended.ok_or_else(|| unknown(kind, id))?;
            }
        }
        Ok(response::members(StatusCode::OK, &self.show(&info)))
    }

    /// `POST /operations/{kind}/{id}/{step}`.
    pub(super) async fn step(
        &self,
        kind: &str,
        id: &str,
        step: Step,
        request: Request,
    ) -> Result<Response, Problem> {
        let caller = request::caller(request.headers())?;
        let (operations, options) = (self.store.operations(kind), &self.options);
        let holder = |Token(token)| operations.with_token(id, token);
        let taken = match step {
            Step::Heartbeat => {
                let Heartbeat { token } = request::json(request, options).await?;
                self.known(&operations, kind, id)?;
                holder(token).heartbeat().called_by(caller).await
            }
            Step::Progress => {
                let Progress { token, progress } = request::json(request, options).await?;
                if progress > 100 {
                    return Err(malformed("progress is a number from 0 to 100"));
                }
                self.known(&operations, kind, id)?;
                holder(token).progress(progress).called_by(caller).await
            }
            Step::Complete => {
                let Complete { token, result } = request::json(request, options).await?;
                let result = stored(result)?;
                self.known(&operations, kind, id)?;
                holder(token).complete(result).called_by(caller).await
            }
            Step::Fail => {
                let Fail { token, error } = request::json(request, options).await?;
                let error = stored(error)?;
                self.known(&operations, kind, id)?;
                holder(token).fail(error).called_by(caller).await
            }
            Step::Cancel => {
                let Cancel { token, force } = request::json(request, options).await?;
                self.known(&operations, kind, id)?;
                match token {
                    Some(token) => holder(token).cancel().called_by(caller).await,
                    None if force => operations.cancel(id).called_by(caller).await,
                    None => {
                        return Err(malformed(
                            "send the token of the operation; an operator who has none says \
                             \"force\": true",
                        ));
                    }
                }
            }
        };
        let info = taken.map_err(|error| self.refusal(&error))?;
        let answer = response::members(StatusCode::OK, &self.show(&info));
        Ok(response::replayed(answer, info.is_replayed()))
    }

    fn show<'a>(&self, info: &'a OperationInfo) -> Shown<'a> {
        Shown::of(info, &*self.options.dialect)
    }

    /// # Errors
    /// 404.
    fn known(
        &self,
        operations: &Operations,
        kind: &str,
        id: &str,
    ) -> Result<OperationInfo, Problem> {
        let info = operations.get(id).map_err(|error| self.refusal(&error))?;
        info.ok_or_else(|| unknown(kind, id))
    }
}

impl<'a> Shown<'a> {
    fn of(info: &'a OperationInfo, dialect: &dyn Dialect) -> Shown<'a> {
        let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
        Shown {
            id: info.id(),
            kind: info.kind(),
            scope: info.scope(),
            token: None,
            status: dialect.operation_status(info.status()),
            position: info.position(),
            progress: info.progress(),
            input: info.input().and_then(shown),
            result: info.result().and_then(shown),
            error: info.error().and_then(shown),
            started_by: info.started_by(),
            created_at: time(info.created_at()),
            started_at: info.started_at().map(time),
            expires_at: info.expires_at().map(time),
            ended_at: info.ended_at().map(time),
        }
    }
}

/// JSON as it is stored: byte for byte. Without any it is `null`.
///
/// # Errors
/// 400 if readers would choke on it.
fn stored(json: Option<Box<RawValue>>) -> Result<Vec<u8>, Problem> {
    let json = json.map_or_else(|| "null".to_owned(), |json| json.get().to_owned());
    let document = Document::parse(json).map_err(|error| malformed(error.to_string()))?;
    Ok(document.json().as_bytes().to_vec())
}

/// What is stored, as JSON. The embedding program may have stored something else: that is a string.
fn shown(bytes: &[u8]) -> Option<Box<RawValue>> {
    match Document::from_bytes(bytes.to_vec()) {
        Ok(document) => document.raw().map(ToOwned::to_owned),
        Err(_) => to_raw_value(&String::from_utf8_lossy(bytes)).ok(),
    }
}

fn unknown(kind: &str, id: &str) -> Problem {
    let detail = format!("there is no {kind} {id}; it is forgotten some time after it has ended");
    Problem::new(ProblemReason::NotFound, detail)
}
