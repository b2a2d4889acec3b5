//! An embeddable, durable, optimistic-concurrency store whose conflicts explain themselves.
//!
//! Every entity has a version. Every write names the condition it relies on. A write that lost
//! the race gets a [`Conflict`] that says what happened, who won and what to do next: what a good
//! HTTP `409 Conflict` would say.
//!
//! ```
//! use ifmatch::{Error, Store};
//!
//! let store = Store::in_memory(); // or Store::open("data")?
//! let shifts = store.collection::<String, String>("shifts")?;
//!
//! let v1 = shifts.create("s-17", "open".to_owned()).by("import").commit()?.version();
//! shifts.put("s-17", "approved".to_owned()).if_match(v1).by("alice").commit()?;
//!
//! match shifts.put("s-17", "cancelled".to_owned()).if_match(v1).by("bob").commit() {
//!     // shifts/s-17 is at version 2, not 1: alice changed it 3 ms ago; read it again and retry
//!     Err(Error::Conflict(conflict)) => println!("{conflict}"),
//!     other => panic!("version 1 is gone, and yet: {other:?}"),
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! # Guarantees
//!
//! Numbered, so that tests and documentation can name them; see the README for all of them.
//!
//! - **G1 Conditional.** A write takes effect if and only if its preconditions held at the
//!   instant it took effect. Single-key operations are linearizable, transactions serializable.
//! - **G2 One version, one content, for ever.** A version is never given out twice.
//! - **G3 Acknowledged means durable**, and nothing that is not durable is ever shown.
//! - **G4 A conflict explains itself.**
//! - **G5 You never conflict with yourself**; see [`Write::operation_id`].
//! - **G6 No accidental overwrite.** A write without a condition does not compile.
//! - **G7 Bounded and fair retry** in [`update`](Collection::update) and its kin.
//! - **G8 Leases fence**; see [`Collection::lease`].
//! - **G9 The feed is complete or says so**; see [`feed`].
//! - **G10 Bad bytes are found, never served.**
//! - **G11 I/O failure loses nothing acknowledged.**
//! - **G12 Everything is bounded**; see [`Limits`].
//!
//! # Features
//!
//! None by default. `http`: conditional requests and problem documents, framework-neutral;
//! `json`: values and dumps as JSON; `axum`: a router; `server`: the `ifmatch` program; `uuid`:
//! `Uuid` keys; `testing`: a disk that loses power and a clock set by hand.

#![cfg_attr(ifmatch_docs, feature(doc_cfg))]
// No input makes the crate panic; tests and benchmarks may.
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]
#![warn(clippy::unwrap_used)]

mod version;
mod entity;
mod precondition;
mod conflict;
mod error;
mod options;
mod key;
mod store;
mod registry;
mod declare;
mod collection;
#[cfg(feature = "axum")]
mod reopen;
mod history;
mod merge;
mod rebase;
mod unique;
mod write;
mod batch;
mod merging;
mod update;
mod transact;
mod lease;
mod operation;
mod commit;
mod group;
mod ids;
mod reserved;
mod retry;
mod turns;
mod contention;
pub mod feed;
mod map;
mod journal;
mod log;
mod record;
mod recovery;
mod migration;
mod progress;
mod snapshot;
mod source;
pub mod admin;
mod codec;
mod service;
mod alarm;
mod watchers;
mod clock;
mod disk;
mod parallel;
mod sync;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "axum")]
pub mod axum;
#[cfg(all(feature = "axum", any(doc, doctest)))]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}
#[cfg(feature = "testing")]
mod decoders;

pub use batch::{Batch, BatchFuture};
pub use clock::Clock;
#[cfg(feature = "json")]
pub use codec::Json;
pub use codec::{Bincode, Codec};
pub use collection::{Collection, Range};
pub use conflict::{Conflict, Deletion, Reason, Retry};
pub use contention::{Contention, HotKey};
pub use declare::CollectionBuilder;
pub use entity::{Actor, Entity, Metadata};
pub use error::{Error, Limit, Outcome, Result};
pub use history::HistoryEntry;
pub use key::{AsKey, AsPrefix, Key};
pub use lease::{Lease, LeaseFuture, LeaseInfo, ReleaseLease, Released, RenewLease, TakeLease};
pub use merging::{Merge, MergeFuture};
pub use operation::{
    Begin, Begun, LeaseForOperation, NotAToken, OnBusy, OperationFuture, OperationHandle,
    OperationInfo, OperationStatus, OperationStep, OperationToken, Operations, WaitForOperation,
    WaitForOperationFuture,
};
pub use options::{Durability, Limits, RetryPolicy, StoreBuilder};
pub use precondition::{Precondition, Predicate, decide};
pub use progress::{Phase, Progress};
pub use rebase::RebaseError;
pub use store::Store;
pub use transact::{
    Once, Seen, Transact, TransactFuture, TransactOnce, TransactOnceFuture, Transacted, Transaction,
};
#[cfg(feature = "json")]
pub use unique::PointedInto;
pub use unique::{Duplicate, IndexKey};
pub use update::{Compute, Computed, Decide, InPlace, Method, TryInPlace, Update, UpdateFuture};
pub use version::{Cursor, EntityTag, Lineage, NotATag, Version};
pub use write::{
    Committed, Conditional, Delete, Deleted, Put, Unconditioned, Verb, Write, WriteFuture,
};

/// For tests: a disk in memory that fails and loses power, a clock set by hand, and decoders to
/// fuzz.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::clock::ManualClock;
    pub use crate::decoders::{
        decode_key, decode_segment, decode_snapshot, decode_value, segment_with,
        segment_with_frame, segment_with_records, snapshot_with, snapshot_with_block,
        snapshot_with_entries,
    };
    pub use crate::disk::{
        Call, Crash, Disk, DiskFile, Fault, MemoryDisk, Names, PowerCut, Unsynced,
    };
}

/// The examples of the README, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
