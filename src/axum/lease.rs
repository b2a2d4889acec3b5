//! Leases of keys: taken, renewed, given back and shown.

use std::time::{Duration, SystemTime};

use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;
use ::http::header::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::openapi::{NAME, OPERATION_ID};
use super::operation::Token;
use super::path::{kind, malformed, operation_id};
use super::request::{self, whole, whole_or_null};
use super::response;
use super::service::{Service, Steady};
use crate::collection::Collection;
use crate::error::Result as StoreResult;
use crate::http::{Document, Problem, ProblemReason};
use crate::ids::Caller;
use crate::lease::{Lease, LeaseInfo};
use crate::version::Version;

/// The body of one that is to be taken.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TakeLease", extend("not" = {
    "required": ["operation", "ttl_ms"],
    "properties": { "operation": { "type": "object" }, "ttl_ms": { "type": "integer" } },
}))]
pub(super) struct Take {
    /// A minute unless it says otherwise; at most a day.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schemars(range(max = 86_400_000))]
    ttl_ms: Option<u64>,
    /// What others are told; at most 256 bytes.
    reason: Option<String>,
    operation: Option<Holder>,
}

/// The operation that it is taken for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LeaseForOperation")]
struct Holder {
    #[schemars(extend("pattern" = NAME))]
    kind: String,
    #[schemars(extend("pattern" = OPERATION_ID))]
    id: String,
    token: Token,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RenewLease")]
pub(super) struct Renew {
    /// At most a day.
    #[serde(deserialize_with = "whole")]
    #[schemars(range(max = 86_400_000))]
    ttl_ms: u64,
}

/// What its holder is told.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HeldLease")]
pub(super) struct Held {
    token: u64,
    expires_at: Option<String>,
}

/// What everybody is told.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Lease")]
pub(super) struct Shown<'a> {
    holder: Option<&'a str>,
    reason: Option<&'a str>,
    since: String,
    expires_at: String,
    operation: Option<Named<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NamedOperation")]
struct Named<'a> {
    id: &'a str,
    kind: &'a str,
}

impl Service {
    /// `GET /collections/{collection}/{key}/lease`.
    pub(super) fn lease(
        &self,
        steady: &Steady<'_>,
        collection: &str,
        key: &str,
    ) -> Result<Response, Problem> {
        let documents = self.leased(steady, collection, key, &Caller::default())?;
        let lease = documents.lease_of(key).map_err(|error| self.refusal(&error))?;
        let lease = lease.ok_or_else(|| {
            let detail = format!("nobody holds a lease of {collection}/{key}; it can be taken");
            Problem::new(ProblemReason::NotFound, detail).on(collection, key)
        })?;
        Ok(response::members(StatusCode::OK, &Shown::of(&lease)))
    }

    /// `POST /collections/{collection}/{key}/lease`.
    pub(super) async fn take_lease(
        &self,
        collection: &str,
        key: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let caller = request::caller(request.headers())?;
        let Take { ttl_ms, reason, operation } = request::json(request, &self.options).await?;
        let steady = self.steady().await;
        let lease = match operation {
            Some(operation) => {
                let (kind, id) = (kind(operation.kind)?, operation_id(operation.id)?);
                if ttl_ms.is_some() {
                    return Err(malformed(
                        "a lease for an operation lasts as long as that: leave out ttl_ms",
                    ));
                }
                let Token(token) = operation.token;
                let operation = self.store.operations(kind).with_token(id, token);
                let lease = operation.lease(&self.open(&steady, collection)?, key);
                let lease = lease.called_by(caller);
                match reason {
                    Some(reason) => lease.reason(reason).await,
                    None => lease.await,
                }
            }
            None => {
                let documents = self.open(&steady, collection)?;
                let mut lease = documents.lease(key).called_by(caller);
                if let Some(millis) = ttl_ms {
                    lease = lease.ttl(Duration::from_millis(millis));
                }
                if let Some(reason) = reason {
                    lease = lease.reason(reason);
                }
                lease.await
            }
        };
        self.held(StatusCode::CREATED, lease)
    }

    /// `PUT /collections/{collection}/{key}/lease`.
    pub(super) async fn renew_lease(
        &self,
        collection: &str,
        key: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let (token, caller) = (token(request.headers())?, request::caller(request.headers())?);
        let Renew { ttl_ms } = request::json(request, &self.options).await?;
        let steady = self.steady().await;
        let documents = self.leased(&steady, collection, key, &caller)?;
        let lease = documents.lease_with_token(key, token);
        let renewal = lease.renew(Duration::from_millis(ttl_ms)).called_by(caller);
        self.held(StatusCode::OK, renewal.await)
    }

    /// `DELETE /collections/{collection}/{key}/lease`.
    pub(super) async fn release_lease(
        &self,
        collection: &str,
        key: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let (token, caller) = (token(request.headers())?, request::caller(request.headers())?);
        let steady = self.steady().await;
        let documents = self.leased(&steady, collection, key, &caller)?;
        let lease = documents.lease_with_token(key, token);
        let released = lease.release().called_by(caller).await;
        let released = released.map_err(|error| self.refusal(&error))?;
        let answer = response::empty(StatusCode::NO_CONTENT);
        Ok(response::replayed(answer, released.is_replayed()))
    }

    /// The collection of a key that may be leased. A lease is there although its collection has
    /// not been written, and so are the answers of one that has ended.
    ///
    /// # Errors
    /// 404.
    fn leased(
        &self,
        steady: &Steady<'_>,
        collection: &str,
        key: &str,
        caller: &Caller,
    ) -> Result<Collection<String, Document>, Problem> {
        match self.store.has_lease(collection, key) || self.store.remembers(caller) {
            true => self.open(steady, collection),
            false => self.existing(steady, collection),
        }
    }

    fn held(&self, status: StatusCode, lease: StoreResult<Lease>) -> Result<Response, Problem> {
        let lease = lease.map_err(|error| self.refusal(&error))?;
        let (token, expires_at) = (lease.token().get(), lease.expires_at().map(time));
        let answer = response::members(status, &Held { token, expires_at });
        Ok(response::replayed(answer, lease.is_replayed()))
    }
}

impl<'a> Shown<'a> {
    fn of(lease: &'a LeaseInfo) -> Shown<'a> {
        let operation = lease.operation().zip(lease.operation_kind());
        Shown {
            holder: lease.holder(),
            reason: lease.reason(),
            since: time(lease.since()),
            expires_at: time(lease.expires_at()),
            operation: operation.map(|(id, kind)| Named { id, kind }),
        }
    }
}

/// The lease that the request is about.
///
/// # Errors
/// 400 if it does not say.
fn token(headers: &HeaderMap) -> Result<Version, Problem> {
    request::lease(headers)?
        .ok_or_else(|| malformed("send Ifmatch-Lease with the token that taking the lease gave"))
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
