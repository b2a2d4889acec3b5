//! Everything that can go wrong, in one flat type.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Span;
use crate::conflict::{Conflict, Retry};
use crate::unique::Duplicate;
use crate::version::{Cursor, Version};

/// The result of most calls of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
///
/// A refused write is [`Error::Conflict`], apart from everything that went wrong. Each message
/// says what happened, to which key or file, and what to do next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A condition of the write did not hold. Nothing was written.
    Conflict(Box<Conflict>),
    /// A limit would be exceeded. Nothing was written.
    Limit {
        /// Which limit.
        limit: Limit,
        /// The most that is allowed.
        allowed: u64,
        /// What was asked for.
        actual: u64,
        /// The collection, and the key where it is not the key that is too long.
        place: String,
    },
    /// The value cannot be stored, or could not be read back. Nothing was written.
    Encode {
        /// The collection of the key.
        collection: Arc<str>,
        /// The key, as text.
        key: String,
        /// What the codec said.
        detail: String,
    },
    /// A stored value is not of the type that the collection was opened with.
    Decode {
        /// The collection of the key.
        collection: Arc<str>,
        /// The key, as text.
        key: String,
        /// What the codec said.
        detail: String,
    },
    /// The collection is in use, or stored, with another type or another codec; or in use with
    /// another number of earlier versions.
    CollectionType {
        /// The collection.
        collection: String,
        /// What it was opened or stored with.
        opened_as: String,
        /// What was asked for now.
        asked_for: String,
    },
    /// The collection is in use, or stored, with another schema number, and there is no
    /// [migration](crate::CollectionBuilder::migrate) from that one. Nothing was changed.
    Schema {
        /// The collection.
        collection: String,
        /// The schema number that it has.
        stored: u32,
        /// The schema number that was asked for.
        asked_for: u32,
    },
    /// A closure of the caller's opened a collection that is being migrated. The migration may be
    /// waiting for that closure, so the closure cannot wait for the migration.
    Migrating {
        /// The collection.
        collection: String,
    },
    /// The collection is to be opened anew, and somebody has a handle of it. Nothing was changed.
    CollectionInUse {
        /// The collection.
        collection: String,
    },
    /// Not a collection name: 1 to 64 characters of `a-z`, `0-9`, `_` and `-`.
    CollectionName(String),
    /// What a transaction has read has changed while its closure was running. The closure returns
    /// this, and is run again; nobody else gets to see it.
    Restart,
    /// A transaction writes a key that it has not read, and names no condition (G6). Nothing was
    /// written.
    NoCondition {
        /// The collection of the key.
        collection: Arc<str>,
        /// The key, as text.
        key: String,
    },
    /// The operation id has been used for another write (G5). Nothing was written.
    KeyReused {
        /// The operation id.
        id: String,
        /// The version of the write that used it.
        version: Version,
    },
    /// The collection belongs to another store than the transaction. Nothing was written.
    OtherStore {
        /// The collection.
        collection: Arc<str>,
    },
    /// The closure of a retrying write refused; carries what it said.
    Refused(Box<dyn std::error::Error + Send + Sync>),
    /// The store was closed.
    Closed,
    /// An earlier write or sync failed, and the store takes no more writes (G11). What is
    /// durable can still be read; open the store again to go on.
    Poisoned {
        /// Whether this write may have landed.
        outcome: Outcome,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// The disk has no space for the write. Nothing was written, reads go on, and so do writes
    /// as soon as there is space (G11).
    DiskFull {
        /// The directory of the store.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process, or another store in this one, has the directory open.
    InUse(PathBuf),
    /// The file system refused.
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Stored bytes are damaged (G10). The store does not open; nothing was changed.
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The directory has to be empty, or absent, and holds something. Nothing was changed.
    NotEmpty(PathBuf),
    /// The directory is no backup.
    NotABackup {
        /// The directory.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A line of a dump cannot be loaded. Nothing was written.
    Line {
        /// Its number, counted from 1.
        line: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// The directory holds something else than a store that this build can read.
    NotAStore {
        /// The directory or file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Commits that a reader of the [change feed](crate::feed) asked for are not kept any more, or
    /// its cursor is none of this store's. It goes on from the oldest that is kept (G9).
    Gap {
        /// Behind this place.
        asked_for: Cursor,
        /// What is kept is behind this place.
        oldest: Cursor,
    },
    /// The version that was waited for is not shown yet.
    NotYet {
        /// The version.
        version: Version,
        /// How long it was waited for.
        within: Duration,
    },
    /// Stored entities share keys of unique indexes that the collection was to be opened with.
    /// Nothing was changed.
    Duplicates {
        /// The collection.
        collection: String,
        /// The index keys that are shared, by index.
        found: Vec<Duplicate>,
        /// How many entities share one and are not named.
        more: usize,
    },
    /// The collection is in use with other unique indexes.
    Indexes {
        /// The collection.
        collection: String,
        /// The indexes that it has, with the types of their keys.
        opened_with: Vec<String>,
        /// Those that were asked for.
        asked_for: Vec<String>,
    },
    /// The collection has no such unique index, or cannot have it.
    Index {
        /// The collection.
        collection: String,
        /// The name of the index.
        index: String,
        /// What is wrong.
        detail: String,
    },
}

/// What became of a write that a poisoned store did not acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write was in flight: after reopening it is there, or it is not.
    Unknown,
    /// The write was refused before it began.
    NotApplied,
}

/// The limits that a store enforces (G12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Bytes of a key, as stored.
    KeyBytes,
    /// Bytes of an encoded value.
    ValueBytes,
    /// Bytes of an actor's name.
    ActorBytes,
    /// Collections of a store.
    Collections,
    /// Conditions of one write, and versions that they name.
    Preconditions,
    /// Bytes that wait to be synced.
    PendingBytes,
    /// Bytes of the one commit that a migration is.
    MigrationBytes,
    /// Keys that one transaction reads or writes.
    TransactionKeys,
    /// Writes of one transaction.
    TransactionWrites,
    /// Bytes of the record of one transaction.
    TransactionBytes,
    /// Bytes of an operation id.
    OperationIdBytes,
    /// Writes of one batch.
    BatchWrites,
    /// Earlier versions that a collection keeps of each key: 1,000.
    History,
    /// Leases of a store.
    Leases,
    /// Milliseconds for which a lease is taken or renewed.
    LeaseMillis,
    /// Bytes of the reason of a lease.
    LeaseReasonBytes,
    /// Keys that one operation leases.
    OperationLeases,
    /// Operations that have not been forgotten.
    Operations,
    /// Operations that wait for one scope.
    OperationQueue,
    /// Milliseconds for which an operation may go on without a sign of life.
    OperationMillis,
}

impl Error {
    /// The refusal of a closure given to [`try_update`](crate::Collection::try_update):
    /// carries the caller's own error.
    pub fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Refused(error.into())
    }

    /// The conflict, if it is one.
    pub fn conflict(&self) -> Option<&Conflict> {
        match self {
            Error::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }

    /// Whether the write was refused because a condition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.conflict().is_some()
    }

    /// Whether the same intent may succeed later, after reading again or waiting.
    pub fn is_retryable(&self) -> bool {
        self.conflict().is_some_and(|conflict| conflict.retry() != Retry::Never)
    }

    /// What a poisoned store says to a call that wrote nothing: the outcome is known.
    pub(crate) fn nothing_written(self) -> Error {
        match self {
            Error::Poisoned { source, .. } => {
                Error::Poisoned { outcome: Outcome::NotApplied, source }
            }
            other => other,
        }
    }

    /// The HTTP status that says the same: 409 for a conflict.
    pub fn http_status(&self) -> u16 {
        match self {
            Error::Conflict(_) | Error::Refused(_) => 409,
            Error::CollectionType { .. } | Error::Schema { .. } => 409,
            Error::Duplicates { .. } | Error::Indexes { .. } => 409,
            Error::Limit { limit: Limit::KeyBytes | Limit::ActorBytes, .. } => 400,
            Error::Limit { limit: Limit::Preconditions | Limit::OperationIdBytes, .. } => 400,
            Error::Limit { limit: Limit::PendingBytes, .. } => 503,
            Error::Limit { limit: Limit::ValueBytes, .. } => 413,
            Error::Limit { limit: Limit::Collections | Limit::MigrationBytes, .. } => 409,
            Error::Limit { limit: Limit::TransactionKeys | Limit::TransactionWrites, .. } => 413,
            Error::Limit { limit: Limit::TransactionBytes | Limit::BatchWrites, .. } => 413,
            Error::Limit { limit: Limit::Leases | Limit::OperationLeases, .. } => 409,
            Error::Limit { limit: Limit::LeaseMillis | Limit::LeaseReasonBytes, .. } => 400,
            Error::Limit { limit: Limit::Operations | Limit::OperationQueue, .. } => 409,
            Error::Limit { limit: Limit::OperationMillis, .. } => 400,
            Error::NoCondition { .. } => 428,
            Error::KeyReused { .. } => 422,
            Error::Restart => 503,
            Error::Limit { limit: Limit::History, .. } => 409,
            Error::CollectionName(_) => 400,
            Error::Encode { .. } => 422,
            Error::Closed | Error::Poisoned { .. } | Error::Migrating { .. } => 503,
            Error::DiskFull { .. } => 507,
            Error::Gap { .. } => 410,
            Error::NotYet { .. } | Error::CollectionInUse { .. } => 503,
            Error::Decode { .. }
            | Error::OtherStore { .. }
            | Error::InUse(_)
            | Error::Io { .. }
            | Error::Corrupt { .. }
            | Error::NotEmpty(_)
            | Error::NotABackup { .. }
            | Error::Line { .. }
            | Error::NotAStore { .. }
            | Error::Index { .. } => 500,
        }
    }
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Error {
        Error::Conflict(Box::new(conflict))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Conflict(conflict) => conflict.fmt(f),
            Error::Limit { limit, allowed, actual, place } => {
                write!(f, "{place}: {actual} {limit}, where {allowed} are allowed; ")?;
                f.write_str("make it smaller, or raise the limit in the builder")
            }
            Error::Encode { collection, key, detail } => {
                write!(f, "the value for {collection}/{key} cannot be stored: {detail}; ")?;
                f.write_str("nothing was written")
            }
            Error::Decode { collection, key, detail } => {
                write!(f, "the value of {collection}/{key} cannot be read: {detail}; ")?;
                f.write_str("open the collection with the type that it was written with")
            }
            Error::CollectionType { collection, opened_as, asked_for } => {
                write!(f, "collection {collection} holds {opened_as}, not {asked_for}; ")?;
                f.write_str("declare it alike wherever it is opened")
            }
            Error::Schema { collection, stored, asked_for } => {
                write!(f, "collection {collection} holds schema {stored}, not {asked_for}; ")?;
                match stored > asked_for {
                    true => write!(f, "use a build that knows schema {stored}"),
                    false => write!(f, "declare it with a migration from schema {stored}"),
                }
            }
            Error::Migrating { collection } => {
                write!(f, "collection {collection} is being migrated; ")?;
                f.write_str("open it before the closure runs, not within")
            }
            Error::CollectionInUse { collection } => {
                write!(f, "collection {collection} is in use, and cannot be changed; ")?;
                f.write_str("try again when nobody has a handle of it")
            }
            Error::Restart => {
                f.write_str("what the transaction has read has changed; ")?;
                f.write_str("return this from the closure, which is run again then")
            }
            Error::NoCondition { collection, key } => {
                write!(f, "{collection}/{key} is written without a condition; ")?;
                f.write_str("read it in the transaction before, or name one with `put_if`")
            }
            Error::KeyReused { id, version } => {
                write!(f, "operation id {id:?} was used for another write, version {version}; ")?;
                f.write_str("nothing was written; give each write an id of its own")
            }
            Error::OtherStore { collection } => {
                write!(f, "collection {collection} belongs to another store; ")?;
                f.write_str("use the collections of the store that the transaction runs on")
            }
            Error::CollectionName(name) => {
                write!(f, "{name:?} is no collection name; ")?;
                f.write_str("use 1 to 64 characters of a-z, 0-9, _ and -")
            }
            Error::Refused(error) => error.fmt(f),
            Error::Closed => f.write_str("the store is closed; open it again"),
            Error::Poisoned { outcome: Outcome::Unknown, source } => {
                write!(f, "the disk failed while the write was in flight ({source}); ")?;
                f.write_str("open the store again and read whether it is there")
            }
            Error::Poisoned { outcome: Outcome::NotApplied, source } => {
                write!(f, "the disk has failed before ({source}) and writes are refused; ")?;
                f.write_str("nothing was written; open the store again to go on")
            }
            Error::DiskFull { path, source } => {
                write!(f, "there is no space for the write in {}: {source}; ", path.display())?;
                f.write_str("nothing was written; free some space and try again")
            }
            Error::InUse(path) => {
                write!(f, "{} is open in another store; ", path.display())?;
                f.write_str("stop the process that has it, or choose another directory")
            }
            Error::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}; ", path.display())?;
                f.write_str("check the path, its permissions and the free space")
            }
            Error::Corrupt { path, offset, detail } => {
                write!(f, "{} is damaged at byte {offset}: {detail}; ", path.display())?;
                f.write_str("nothing was changed; restore a backup, or see `ifmatch repair`")
            }
            Error::NotEmpty(path) => {
                write!(f, "{} is not empty; ", path.display())?;
                f.write_str("choose an empty directory or one that is not there")
            }
            Error::NotABackup { path, detail } => {
                write!(f, "{} is not a backup: {detail}; ", path.display())?;
                f.write_str("choose the directory that `ifmatch backup` wrote to")
            }
            Error::Line { line, detail } => {
                write!(f, "line {line} cannot be loaded: {detail}; ")?;
                f.write_str("nothing was written; mend the line, or dump again")
            }
            Error::NotAStore { path, detail } => {
                write!(f, "{} is not a store: {detail}; ", path.display())?;
                f.write_str("choose an empty directory or that of a store")
            }
            Error::Gap { asked_for, oldest } => {
                write!(f, "changes since {asked_for} are not kept, only those since {oldest}; ")?;
                f.write_str("read the store anew, and follow the changes from there")
            }
            Error::NotYet { version, within } => {
                write!(f, "version {version} is not there after {}; ", Span(*within))?;
                f.write_str("wait longer, or ask whoever told it")
            }
            Error::Duplicates { collection, found, more } => {
                write!(f, "collection {collection} breaks its unique indexes: ")?;
                for (place, duplicate) in found.iter().enumerate() {
                    write!(f, "{}{duplicate}", if place == 0 { "" } else { "; " })?;
                }
                if *more > 0 {
                    write!(f, "; and {more} entities more")?;
                }
                f.write_str("; nothing was changed; open it without the indexes, ")?;
                f.write_str("change these entities, and open it again")
            }
            Error::Indexes { collection, opened_with, asked_for } => {
                let list = |names: &[String]| match names {
                    [] => "none".to_owned(),
                    names => names.join(", "),
                };
                let (opened_with, asked_for) = (list(opened_with), list(asked_for));
                write!(f, "collection {collection} is open with other unique indexes: ")?;
                write!(f, "{opened_with}, not {asked_for}; ")?;
                f.write_str("declare the same ones wherever it is opened")
            }
            Error::Index { collection, index, detail } => {
                write!(f, "collection {collection}, index {index}: {detail}; ")?;
                f.write_str("see how the collection is declared")
            }
        }
    }
}

/// Messages are whole: what caused an error is printed with it, and is no `source` besides.
impl std::error::Error for Error {}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::KeyBytes => "bytes of key",
            Limit::ValueBytes => "bytes of encoded value",
            Limit::ActorBytes => "bytes of actor",
            Limit::Collections => "collections",
            Limit::Preconditions => "conditions and versions in them",
            Limit::PendingBytes => "bytes waiting to be synced",
            Limit::MigrationBytes => "bytes of migrated collection",
            Limit::TransactionKeys => "keys",
            Limit::TransactionWrites => "writes",
            Limit::TransactionBytes => "bytes of record",
            Limit::OperationIdBytes => "bytes of operation id",
            Limit::BatchWrites => "writes",
            Limit::History => "earlier versions of each key",
            Limit::Leases => "leases",
            Limit::LeaseMillis => "milliseconds of lease",
            Limit::LeaseReasonBytes => "bytes of reason",
            Limit::OperationLeases => "keys leased by an operation",
            Limit::Operations => "operations",
            Limit::OperationQueue => "operations waiting",
            Limit::OperationMillis => "milliseconds of operation",
        })
    }
}
