//! One collection, as requests meet it: what its entities look like, and how it refuses.

use super::RouterOptions;
use super::representation::Representation;
use super::service::Service;
use super::trace;
use crate::collection::Collection;
use crate::error::Error;
use crate::http::{Conditions, Problem, ProblemReason};
use crate::version::{EntityTag, Lineage, Version};

/// A collection that is opened for one request.
pub(super) struct Served<'a, V> {
    pub(super) entities: Collection<String, V>,
    pub(super) options: &'a RouterOptions,
    /// Of the router of a store, where each collection has settings.
    pub(super) service: Option<&'a Service>,
}

impl<V: Representation> Served<'_, V> {
    pub(super) fn lineage(&self) -> Lineage {
        self.entities.store.lineage
    }

    pub(super) fn tag(&self, version: Version) -> EntityTag {
        EntityTag { lineage: self.lineage(), version }
    }

    pub(super) fn failure(&self, error: &Error, conditions: &Conditions) -> Problem {
        if let Some(service) = self.service {
            return service.failure(error, conditions);
        }
        let problem = Problem::from_error(error, conditions, self.options.stale_status);
        let Some(conflict) = error.conflict() else { return problem };
        trace::conflict(conflict);
        let current = conflict.current::<V>().and_then(|entity| entity.show().ok());
        problem.valued(current.as_ref())
    }

    /// A 404.
    pub(super) fn no_document(&self, key: &str) -> Problem {
        no_document(self.entities.name(), key)
    }
}

/// A 404 for a key without a document.
pub(super) fn no_document(collection: &str, key: &str) -> Problem {
    let detail = format!("there is no document {collection}/{key}; check the key, or create it");
    Problem::new(ProblemReason::NotFound, detail).on(collection, key)
}
