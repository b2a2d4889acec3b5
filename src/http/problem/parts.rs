//! What a problem says, part by part, for whoever writes it in another dialect.

use std::time::Duration;

use super::{Advice, Problem};
use crate::http::operation::Operation;

impl Problem {
    /// The path that was asked for.
    pub fn instance(&self) -> Option<&str> {
        self.0.instance.as_deref()
    }

    /// The collection of the entity that it is about.
    pub fn collection(&self) -> Option<&str> {
        self.0.collection.as_deref()
    }

    /// The key of that entity.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The versions that the caller relied on, as numbers; empty if it named none of this lineage.
    pub fn expected(&self) -> &[u64] {
        self.0.expected.as_ref().map_or(&[], |expected| &expected.versions)
    }

    /// The version that is there instead, as a number.
    pub fn current(&self) -> Option<u64> {
        self.0.current.as_ref().map(|current| current.version)
    }

    /// The tag of [`current`](Problem::current), as it stands in an `ETag` header.
    pub fn etag(&self) -> Option<&str> {
        self.0.current.as_ref().map(|current| current.etag.as_str())
    }

    /// The kind of the operation that is in the way.
    pub fn operation_kind(&self) -> Option<&str> {
        self.0.operation.as_ref().map(Operation::kind)
    }

    /// The id of the operation that is in the way.
    pub fn operation_id(&self) -> Option<&str> {
        self.0.operation.as_ref().map(Operation::id)
    }

    /// Whose error it is, if that was [said](Problem::worded).
    pub fn domain(&self) -> Option<&str> {
        self.0.domain.as_deref()
    }

    /// How long to wait before another try, where that is known. It is drawn anew for each refusal.
    pub fn retry_in(&self) -> Option<Duration> {
        self.0.retry?.after_ms.map(Duration::from_millis)
    }

    /// All conflicts of a transaction, of which this problem is the first; empty for the rest.
    pub fn conflicts(&self) -> &[Problem] {
        &self.0.conflicts
    }

    pub(in crate::http) fn patches(&self) -> Option<&'static str> {
        self.0.accept_patch
    }

    pub(in crate::http) fn allowed(&self) -> Option<&'static str> {
        self.0.allow
    }

    /// Whole seconds of `Retry-After`, rounded up. Whoever reads again need not be told of less
    /// than one: it would be told to wait longer than it has to.
    pub(in crate::http) fn retry_after(&self) -> Option<u64> {
        let Advice { advice, after_ms } = self.0.retry?;
        let millis = after_ms.filter(|millis| advice == "after" || *millis >= 1_000)?;
        Some(millis.div_ceil(1_000))
    }
}
