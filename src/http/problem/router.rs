//! Problems as the router has them: of documents, and of many writes at once.

use ::http::{Method, StatusCode};

use super::{Current, Members, Problem};
use crate::conflict::Reason;
use crate::entity::Metadata;
use crate::http::{Conditions, Document, ProblemReason, StaleStatus};
use crate::version::Lineage;

impl Problem {
    /// The problem of a write that relies on an entity where there has never been one.
    pub(crate) fn absent(
        (collection, key): (&str, &str),
        conditions: &Conditions,
        lineage: Lineage,
        stale: StaleStatus,
    ) -> Problem {
        let detail = format!("{collection}/{key} does not exist; create it, or check the key");
        let mut problem = Problem::new(ProblemReason::Conflict(Reason::Absent), detail);
        problem.0.status = stale.code();
        problem.expect_sent(conditions, lineage);
        problem.on(collection, key)
    }

    /// 405.
    pub(crate) fn not_allowed(method: &Method, methods: &'static str) -> Problem {
        let detail = format!("{method} is not done here; use one of {methods}");
        Problem::new(ProblemReason::MethodNotAllowed, detail).allowing(methods)
    }

    /// The problem of a transaction that is refused for each of these. One that would be refused
    /// with another status than the first has 409.
    pub(crate) fn all(problems: Vec<Problem>) -> Problem {
        let Some(mut problem) = problems.first().cloned() else {
            return Problem::new(ProblemReason::Internal, "the transaction was refused");
        };
        if problems.iter().any(|other| other.status() != problem.status()) {
            problem.0.status = StatusCode::CONFLICT;
        }
        problem.0.conflicts = problems;
        problem
    }

    /// Shows what is there.
    #[must_use]
    pub(crate) fn showing(
        mut self,
        lineage: Lineage,
        current: &Metadata,
        value: Option<&Document>,
    ) -> Problem {
        self.0.current = Some(Current::new(lineage, current, None));
        self.valued(value)
    }

    /// Shows the value of what is there, or of the one that holds an index key.
    #[must_use]
    pub(crate) fn valued(mut self, value: Option<&Document>) -> Problem {
        let Members { current, held_by, .. } = &mut *self.0;
        let held = held_by.as_mut().and_then(|holder| holder.current.as_mut());
        if let Some(current) = current.as_mut().or(held) {
            current.value = value.and_then(Document::raw).map(ToOwned::to_owned);
        }
        self
    }
}
