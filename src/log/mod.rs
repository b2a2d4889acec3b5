//! The write-ahead log: frames in segments, made durable by group commit.
//!
//! It knows nothing of entities. A commit is a payload that gets a version and a time.

pub(crate) mod file_header;
pub(crate) mod frame;
mod due;
mod group_commit;
mod lead;
mod live;
pub(crate) mod reader;
mod room;
pub(crate) mod segment;
mod waiters;
mod writer;

pub(crate) use group_commit::{Log, Stamp};
pub(crate) use live::{LiveSegment, LiveSegments};
pub(crate) use room::Room;
pub(crate) use waiters::Ticket;
pub(crate) use writer::SegmentWriter;
