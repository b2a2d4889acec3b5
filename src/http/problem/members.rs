//! The members of a problem document, as they stand on the wire.

use std::time::SystemTime;

use ::http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Problem;
use crate::entity::Metadata;
use crate::http::ProblemReason;
use crate::http::operation::Operation;
use crate::unique::Duplicate;
use crate::version::{EntityTag, Lineage};

/// The members of the document, boxed so that a `Result` with a problem stays small.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "axum", schemars(rename = "Problem"))]
pub(crate) struct Members {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) title: &'static str,
    #[serde(serialize_with = "as_number")]
    #[cfg_attr(feature = "axum", schemars(with = "u16"))]
    pub(super) status: StatusCode,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    #[serde(serialize_with = "as_name")]
    #[cfg_attr(feature = "axum", schemars(with = "String"))]
    pub(super) reason: ProblemReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) collection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<Expected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<Current>,
    /// Where it differs from what the caller relied on: JSON Pointers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) changed: Option<Vec<String>>,
    /// Who holds a lease, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) holder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<String>,
    /// Who holds the key of the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held_by: Option<Holder>,
    /// What stored entities share, where a unique index was to be added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duplicates: Option<Vec<Shared>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<&'static str>,
    /// The oldest cursor that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry: Option<Advice>,
    /// Of a transaction: all of them, this one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "axum", schemars(with = "Vec<Members>"))]
    pub(super) conflicts: Vec<Problem>,
    /// Whose error it is, in dialects that say so.
    #[serde(skip)]
    pub(super) domain: Option<String>,
    #[serde(skip)]
    pub(super) allow: Option<&'static str>,
    #[serde(skip)]
    pub(super) accept_patch: Option<&'static str>,
}

/// What the caller relied on.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
pub(super) struct Expected {
    /// As they were sent.
    pub(super) tags: Vec<String>,
    /// Those of them that can match.
    pub(super) versions: Vec<u64>,
}

/// Keys of entities that have the same key in an index.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
pub(super) struct Shared {
    pub(super) index: String,
    pub(super) value: String,
    pub(super) keys: Vec<String>,
}

impl From<Duplicate> for Shared {
    fn from(duplicate: Duplicate) -> Shared {
        let Duplicate { index, value, keys } = duplicate;
        Shared { index, value, keys }
    }
}

/// The entity that holds the key of a unique index.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
pub(super) struct Holder {
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) current: Option<Current>,
}

impl Members {
    /// Those of the conflicts of a transaction too.
    pub(super) fn hide_values(&mut self) {
        let held = self.held_by.as_mut().and_then(|holder| holder.current.as_mut());
        for current in self.current.as_mut().into_iter().chain(held) {
            current.value = None;
        }
        self.conflicts.iter_mut().for_each(|problem| problem.0.hide_values());
    }
}

/// What is there instead.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
pub(super) struct Current {
    pub(super) version: u64,
    pub(super) etag: String,
    pub(super) written_by: Option<String>,
    pub(super) written_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Box<RawValue>>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(feature = "axum", derive(schemars::JsonSchema))]
pub(super) struct Advice {
    pub(super) advice: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after_ms: Option<u64>,
}

impl Current {
    pub(super) fn new(lineage: Lineage, at: &Metadata, value: Option<Box<RawValue>>) -> Current {
        Current {
            version: at.version().get(),
            etag: EntityTag { lineage, version: at.version() }.to_string(),
            written_by: at.written_by().map(str::to_owned),
            written_at: time(at.written_at()),
            value,
        }
    }
}

pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn as_number<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

fn as_name<S: serde::Serializer>(reason: &ProblemReason, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(reason.as_str())
}
