//! What `verify` tells.

use std::fmt;
use std::ops::RangeInclusive;

use crate::record::CatalogEntry;
use crate::recovery::Contents;
use crate::version::Lineage;

/// What [`verify`](crate::admin::verify) found. Prints as a page for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Whether it is a backup, and no store.
    pub is_backup: bool,
    /// The identity of the history; `None` if no file tells it.
    pub lineage: Option<Lineage>,
    /// The version of the last commit; `None` if the store would not open.
    pub last_version: Option<u64>,
    /// Whether it was closed cleanly, or never written. A running store is not.
    pub closed: bool,
    /// The files, in the order of their names.
    pub files: Vec<File>,
    /// The collections, in the order of their names; none if the store would not open.
    pub collections: Vec<CollectionReport>,
    /// All damage. A torn tail, as an unclean stop leaves it, is none.
    pub damage: Vec<Damage>,
}

/// A file of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct File {
    /// Its name in the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What it is.
    pub content: Content,
}

/// What a file of a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// What makes a store, or a backup, of the directory.
    Birth,
    /// A segment of the log.
    #[non_exhaustive]
    Segment {
        /// The version with which it begins.
        first_version: u64,
        /// The version with which the log goes on after it.
        next_version: u64,
        /// Frames that are valid, seals included.
        frames: u64,
        /// Commits.
        records: u64,
        /// Where bytes begin that belong to no frame: what an unclean stop leaves, or a running
        /// store has not finished writing.
        torn_at: Option<u64>,
    },
    /// A snapshot.
    #[non_exhaustive]
    Snapshot {
        /// The version at which it was started.
        start: u64,
        /// The version up to which the log is needed with it.
        end: u64,
        /// How many entries it has.
        entries: u64,
    },
    /// It is damaged.
    Damaged,
    /// It is none of the store's, or a temporary one.
    Other,
}

/// A collection as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectionReport {
    /// Its name.
    pub name: String,
    /// The kind of its keys: `string`, `u64`, `(string, u32)`.
    pub keys: String,
    /// The schema number of its values.
    pub schema: u32,
    /// The name of the codec of its values.
    pub codec: String,
    /// How many entities it has.
    pub entities: u64,
    /// How many deletions are remembered.
    pub deletions: u64,
}

/// Bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The name of the file; empty for the directory.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub detail: String,
}

/// What [`backup`](crate::admin::backup) copied.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Copied {
    /// The lineage of the store.
    pub lineage: Lineage,
    /// The version of the last commit in the backup.
    pub last_version: u64,
    /// How many files were copied.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// Damaged snapshots that are not in the backup; it has an older one, or the whole log.
    pub passed_over: Vec<Damage>,
}

/// A new store that a tool wrote.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Written {
    /// Its lineage, which is new.
    pub lineage: Lineage,
    /// The highest version that its entities can have; the next commit gets the one after it.
    pub last_version: u64,
    /// What it holds.
    pub collections: Vec<CollectionReport>,
}

/// What [`dump`](crate::admin::dump) wrote.
#[cfg(feature = "json")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dumped {
    /// The lineage of the store.
    pub lineage: Lineage,
    /// The version of its last commit.
    pub last_version: u64,
    /// How many entities it has.
    pub entities: u64,
    /// How many deletions are remembered.
    pub deletions: u64,
}

/// What [`repair`](crate::admin::repair) kept and dropped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Repaired {
    /// The new store.
    pub written: Written,
    /// How many commits were read from the log, besides what a snapshot had of earlier ones.
    pub commits: u64,
    /// Ranges of files that are not in the new store; they are in the file beside it. Not all of
    /// them were needed.
    pub dropped: Vec<Dropped>,
    /// Versions that are neither in the log nor in a whole snapshot. Some may never have been given
    /// out, others be in what is left of a damaged snapshot.
    pub missing: Vec<RangeInclusive<u64>>,
}

/// A range of a damaged file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// The name of the file.
    pub file: String,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// Why it could not be used.
    pub why: String,
    /// The versions that were in it, where that is known.
    pub missing: Option<RangeInclusive<u64>>,
}

impl CollectionReport {
    pub(super) fn all(contents: &Contents) -> Vec<CollectionReport> {
        let report = |(name, entry): (&String, &CatalogEntry)| {
            let stored = contents.collections.get(&entry.id);
            CollectionReport {
                name: name.clone(),
                keys: entry.key_kind.clone(),
                schema: entry.schema,
                codec: entry.codec.clone(),
                entities: stored.map_or(0, |stored| stored.live().count() as u64),
                deletions: stored.map_or(0, |stored| stored.deleted().count() as u64),
            }
        };
        contents.catalog.iter().map(report).collect()
    }
}

impl Damage {
    pub(super) fn of(file: String, damage: &crate::log::reader::Damage) -> Damage {
        Damage { file, offset: damage.offset, detail: damage.detail.clone() }
    }
}

impl Report {
    /// Whether there is no damage.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_backup { "backup" } else { "store" };
        match self.lineage {
            Some(lineage) => writeln!(f, "{kind} of lineage {lineage}")?,
            None => writeln!(f, "{kind} of unknown lineage")?,
        }
        if let Some(last) = self.last_version {
            let end = match (self.is_backup, self.closed) {
                (true, _) => "",
                (false, true) => "; closed cleanly",
                (false, false) => "; running, or not closed cleanly",
            };
            writeln!(f, "last version {last}{end}")?;
        }
        for File { name, bytes, content } in &self.files {
            writeln!(f, "  {name:<29} {bytes:>12} bytes  {content}")?;
        }
        for collection in &self.collections {
            writeln!(f, "  {collection}")?;
        }
        for damage in &self.damage {
            writeln!(f, "DAMAGED {damage}")?;
        }
        match self.damage.len() {
            0 => write!(f, "whole: all checksums match"),
            1 => write!(f, "1 place is damaged"),
            places => write!(f, "{places} places are damaged"),
        }
    }
}

impl fmt::Display for CollectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CollectionReport { name, keys, schema, codec, entities, deletions } = self;
        write!(f, "collection {name}: {entities} entities, {deletions} deletions remembered")?;
        write!(f, "; keys {keys}, schema {schema}, codec {codec}")
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Birth => f.write_str("format and lineage"),
            Content::Segment { first_version, next_version, frames, records, torn_at } => {
                write!(
                    f,
                    "log from version {first_version}, {records} commits in {frames} frames"
                )?;
                write!(f, ", goes on with {next_version}")?;
                torn_at.map_or(Ok(()), |at| write!(f, ", torn at byte {at}"))
            }
            Content::Snapshot { start, end, entries } => {
                write!(f, "snapshot at version {start} to {end}, {entries} entries")
            }
            Content::Damaged => f.write_str("damaged"),
            Content::Other => f.write_str("not read"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file.is_empty() { "the directory" } else { &self.file };
        write!(f, "{file} at byte {}: {}", self.offset, self.detail)
    }
}
