//! The write-ahead log: frames in segments, made durable by group commit.
//!
//! It knows nothing of entities. A commit is a payload that gets a version and a time.

pub(crate) mod frame;
mod group_commit;
pub(crate) mod reader;
pub(crate) mod segment;

pub(crate) use group_commit::{Log, Stamp, Ticket};
