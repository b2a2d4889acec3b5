//! A store as lines of JSON, for other tools to read (feature `json`).

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::admin::place;
use crate::admin::report::Dumped;
use crate::clock::Timestamp;
use crate::codec::Json;
use crate::collection::is_collection_name;
use crate::disk::Disk;
use crate::entity::Actor;
use crate::error::{Error, Result};
use crate::progress::OnProgress;
use crate::record::CatalogEntry;
use crate::recovery::Stored;

/// Keys of this kind are text in a dump.
pub(super) const TEXT_KEYS: &str = "string";

/// The format of the lines.
pub(super) const FORMAT: u32 = 1;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line<'a> {
    #[serde(borrow)]
    Store(StoreLine<'a>),
    #[serde(borrow)]
    Collection(CollectionLine<'a>),
    #[serde(borrow)]
    Entity(EntityLine<'a>),
    #[serde(borrow)]
    Deletion(DeletionLine<'a>),
    End(EndLine),
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreLine<'a> {
    pub(super) format: u32,
    #[serde(borrow)]
    pub(super) lineage: Cow<'a, str>,
    pub(super) last_version: u64,
}

/// Before all that belongs to it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CollectionLine<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) keys: Cow<'a, str>,
    pub(super) schema: u32,
    #[serde(borrow)]
    pub(super) codec: Cow<'a, str>,
    /// How many earlier versions of each key it keeps; they are not in the dump.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) history: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntityLine<'a> {
    #[serde(borrow)]
    pub(super) collection: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) key_hex: Option<Cow<'a, str>>,
    pub(super) version: u64,
    #[serde(borrow)]
    pub(super) written_by: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) written_at: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) created_at: Cow<'a, str>,
    /// Whether the key had another version within the same second.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) shares_second: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) value_hex: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeletionLine<'a> {
    #[serde(borrow)]
    pub(super) collection: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) key_hex: Option<Cow<'a, str>>,
    pub(super) version: u64,
    #[serde(borrow)]
    pub(super) deleted_by: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) deleted_at: Cow<'a, str>,
}

/// The last line: without it the dump was cut off.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndLine {
    pub(super) entities: u64,
    pub(super) deletions: u64,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Writes all that a store or a backup holds.
///
/// # Errors
/// [`Error::NotAStore`], [`Error::Corrupt`] and [`Error::Io`].
pub(crate) fn dump(
    from: &dyn Disk,
    to: &mut dyn Write,
    progress: &OnProgress<'_>,
) -> Result<Dumped> {
    let (lineage, found) = place::read(from, progress)?;
    let last_version = found.last_version();
    let mut lines = Lines { to, entities: 0, deletions: 0 };
    let (format, name) = (FORMAT, Cow::from(lineage.to_string()));
    lines.put(&Line::Store(StoreLine { format, lineage: name, last_version }))?;
    let catalog = &found.contents.catalog;
    for (name, entry) in catalog.iter().filter(|(name, _)| is_collection_name(name)) {
        lines.put(&Line::Collection(CollectionLine {
            name: Cow::from(name),
            keys: Cow::from(&entry.key_kind),
            schema: entry.schema,
            codec: Cow::from(&entry.codec),
            history: entry.history,
        }))?;
        let stored = found.contents.collections.get(&entry.id);
        for (key, stored) in stored.into_iter().flat_map(|stored| stored.iter()) {
            lines.state(name, entry, key, stored)?;
        }
    }
    let (entities, deletions) = (lines.entities, lines.deletions);
    lines.put(&Line::End(EndLine { entities, deletions }))?;
    lines.to.flush().map_err(not_written)?;
    Ok(Dumped { lineage, last_version, entities, deletions })
}

struct Lines<'a> {
    to: &'a mut dyn Write,
    entities: u64,
    deletions: u64,
}

impl Lines<'_> {
    fn state(
        &mut self,
        collection: &str,
        entry: &CatalogEntry,
        key: &[u8],
        stored: &Stored,
    ) -> Result<()> {
        let text = std::str::from_utf8(key).ok().filter(|_| entry.key_kind == TEXT_KEYS);
        let key_hex = text.is_none().then(|| Cow::from(hex(key)));
        let (collection, key) = (Cow::from(collection), text.map(Cow::from));
        match stored {
            Stored::Live { metadata, value } => {
                self.entities += 1;
                let json = json_within_a_line(&entry.codec, value);
                let value_hex = json.is_none().then(|| Cow::from(hex(value)));
                self.put(&Line::Entity(EntityLine {
                    collection,
                    key,
                    key_hex,
                    version: metadata.version.get(),
                    written_by: metadata.written_by.as_ref().map(name_of),
                    written_at: time(metadata.written_at),
                    created_at: time(metadata.created_at),
                    shares_second: metadata.shares_second,
                    value: json,
                    value_hex,
                }))
            }
            Stored::Deleted(deletion) => {
                self.deletions += 1;
                self.put(&Line::Deletion(DeletionLine {
                    collection,
                    key,
                    key_hex,
                    version: deletion.version.get(),
                    deleted_by: deletion.deleted_by.as_ref().map(name_of),
                    deleted_at: time(deletion.deleted_at),
                }))
            }
        }
    }

    fn put(&mut self, line: &Line<'_>) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| not_written(error.into()))?;
        bytes.push(b'\n');
        self.to.write_all(&bytes).map_err(not_written)
    }
}

/// The value as JSON, if that keeps all its bytes, in one line. A null would read as no value.
fn json_within_a_line<'a>(codec: &str, value: &'a [u8]) -> Option<&'a RawValue> {
    let breaks = value.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    let is_plain = codec == Json::NAME && !breaks && value != b"null";
    let json: &RawValue = serde_json::from_slice(value).ok().filter(|_| is_plain)?;
    (json.get().len() == value.len()).then_some(json)
}

fn name_of(actor: &Actor) -> Cow<'_, str> {
    Cow::from(actor.as_str())
}

fn time(time: Timestamp) -> Cow<'static, str> {
    Cow::from(humantime::format_rfc3339_micros(SystemTime::from(time)).to_string())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn not_written(source: io::Error) -> Error {
    Error::Io { action: "write", path: "the dump".into(), source }
}
