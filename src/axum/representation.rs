//! What an entity looks like over HTTP: a value as a JSON document, and back.

use ::axum::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::path::malformed;
use crate::http::{Document, Problem, ProblemReason};

/// A value that has a representation.
pub(super) trait Representation: Clone + Send + Sync + Sized + 'static {
    /// Whether it is kept byte for byte as it was sent.
    const IS_LITERAL: bool;

    /// # Errors
    /// 400 that says what is wrong with the bytes.
    fn read(bytes: Bytes) -> Result<Self, Problem>;

    /// # Errors
    /// 500.
    fn show(&self) -> Result<Document, Problem>;
}

impl Representation for Document {
    const IS_LITERAL: bool = true;

    fn read(bytes: Bytes) -> Result<Document, Problem> {
        Document::from_bytes(bytes.into()).map_err(|error| malformed(error.to_string()))
    }

    fn show(&self) -> Result<Document, Problem> {
        Ok(self.clone())
    }
}

impl<V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Representation for V {
    const IS_LITERAL: bool = false;

    fn read(bytes: Bytes) -> Result<V, Problem> {
        serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("the body is not as it has to be: {error}")))
    }

    fn show(&self) -> Result<Document, Problem> {
        shown(self)
    }
}

/// A value as serde writes it.
///
/// # Errors
/// 500.
pub(super) fn shown(value: &impl Serialize) -> Result<Document, Problem> {
    serde_json::to_string(value).map(Document::serialized).map_err(|error| {
        let detail = format!("the value cannot be shown as JSON: {error}");
        Problem::new(ProblemReason::Internal, detail)
    })
}
