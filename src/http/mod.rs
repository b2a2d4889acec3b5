//! Conditional requests (RFC 9110 section 13) and refusals (RFC 9457), for any HTTP framework.
//!
//! Everything here works on the types of the `http` crate alone. A server reads the request's
//! [`Conditions`], decides a read with [`Conditions::evaluate`], hands a write's
//! [`Conditions::preconditions`] to the store, and answers a refusal with a [`Problem`], which
//! a [`Dialect`] writes.

mod conditional;
mod dialect;
mod document;
mod etag;
mod operation;
mod problem;
mod reason;

pub use conditional::{Conditions, MalformedCondition, Verdict};
pub use dialect::{Dialect, Google, GoogleLegacy, ProblemJson};
pub use document::{Document, InvalidDocument};
pub use etag::{MalformedTags, RequestTag, TagList};
pub use problem::Problem;
#[cfg(feature = "axum")]
pub(crate) use problem::ProblemMembers;
pub use reason::{ProblemReason, StaleStatus};
