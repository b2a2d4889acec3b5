//! Making a store of lines of JSON (feature `json`).

use std::borrow::Cow;
use std::io::BufRead;

use crate::admin::dump::{
    CollectionLine, DeletionLine, EndLine, EntityLine, FORMAT, Line, StoreLine, TEXT_KEYS,
};
use crate::admin::image;
use crate::admin::place;
use crate::admin::report::Written;
use crate::clock::Timestamp;
use crate::codec::Json;
use crate::collection::is_collection_name;
use crate::conflict::Deletion;
use crate::disk::Disk;
use crate::entity::{Actor, Metadata};
use crate::error::{Error, Result};
use crate::log::file_header::NUMBER_MAX;
use crate::map::KeyBuf;
use crate::options::HISTORY_MAX;
use crate::record::CatalogEntry;
use crate::recovery::{Contents, Stored};
use crate::version::Version;

/// Reads all lines before anything is written.
///
/// # Errors
/// [`Error::Line`], [`Error::NotEmpty`], [`Error::InUse`] and [`Error::Io`].
pub(crate) fn load(from: &mut dyn BufRead, to: &dyn Disk) -> Result<Written> {
    place::check_empty(to)?;
    let mut loading = Loading::default();
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        let read = from.read_until(b'\n', &mut bytes).map_err(|source| Error::Io {
            action: "read",
            path: "the dump".into(),
            source,
        })?;
        number += 1;
        let failed = |detail| Error::Line { line: number, detail };
        if read == 0 {
            return match loading.ended {
                true => image::write(to, loading.contents, loading.last_version),
                false => Err(failed("the dump ends without its last line".to_owned())),
            };
        }
        let line = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        loading.line(line).map_err(failed)?;
    }
}

type Outcome<T = ()> = std::result::Result<T, String>;

/// What has been read.
#[derive(Default)]
struct Loading {
    begun: bool,
    ended: bool,
    last_version: u64,
    contents: Contents,
    last_actor: Option<Actor>,
    entities: u64,
    deletions: u64,
}

impl Loading {
    fn line(&mut self, line: Line<'_>) -> Outcome {
        if self.ended {
            return Err("it goes on behind its last line".to_owned());
        }
        if self.begun == matches!(line, Line::Store(_)) {
            return Err("the line of the store must be the first, and the only one".to_owned());
        }
        match line {
            Line::Store(StoreLine { format, last_version, .. }) => {
                if format != FORMAT {
                    return Err(format!("it has format {format}; this build loads {FORMAT}"));
                }
                (self.begun, self.last_version) = (true, version_up_to(last_version, NUMBER_MAX)?);
                Ok(())
            }
            Line::Collection(line) => self.collection(line),
            Line::Entity(line) => self.entity(line),
            Line::Deletion(line) => self.deletion(line),
            Line::End(EndLine { entities, deletions }) => {
                let found = (self.entities, self.deletions);
                if found != (entities, deletions) {
                    return Err(format!(
                        "it ends with {entities} entities and {deletions} deletions, but has {} \
                         and {}",
                        found.0, found.1
                    ));
                }
                self.ended = true;
                Ok(())
            }
        }
    }

    fn collection(&mut self, line: CollectionLine<'_>) -> Outcome {
        let CollectionLine { name, keys, schema, codec, history } = line;
        if !is_collection_name(&name) {
            return Err(format!("{name:?} is no collection name"));
        }
        if self.last_version == 0 {
            return Err("there are no collections before the first commit".to_owned());
        }
        if self.contents.catalog.contains_key(&*name) {
            return Err(format!("collection {name} is there already"));
        }
        // The catalog has number 0.
        let id = u32::try_from(self.contents.catalog.len() + 1).map_err(|_| "too many")?;
        let (key_kind, codec) = (keys.into_owned(), codec.into_owned());
        if history > HISTORY_MAX {
            return Err(format!("{history} earlier versions are more than {HISTORY_MAX}"));
        }
        self.contents.name(&name, CatalogEntry { id, key_kind, schema, codec, history });
        Ok(())
    }

    fn entity(&mut self, line: EntityLine<'_>) -> Outcome {
        let (id, key) = self.key(&line.collection, line.key, line.key_hex)?;
        let version = self.version(line.version)?;
        let (written_at, created_at) = (time(&line.written_at)?, time(&line.created_at)?);
        if created_at > written_at {
            return Err("it was written before it was created".to_owned());
        }
        let written_by = self.actor(line.written_by);
        let entry = self.contents.catalog.get(&*line.collection);
        let is_json = entry.is_some_and(|entry| entry.codec == Json::NAME);
        let value = match (line.value, line.value_hex) {
            (Some(json), None) if is_json => json.get().as_bytes().to_vec(),
            (None, Some(hex)) => bytes_of(&hex)?,
            _ if is_json => return Err("it needs one of value and value_hex".to_owned()),
            _ => return Err("it needs value_hex alone: its codec is not json".to_owned()),
        };
        let shares_second = line.shares_second;
        let metadata = Metadata { version, written_by, written_at, created_at, shares_second };
        self.entities += 1;
        self.add(id, key, Stored::Live { metadata, value: value.into() }, written_at)
    }

    fn deletion(&mut self, line: DeletionLine<'_>) -> Outcome {
        let (id, key) = self.key(&line.collection, line.key, line.key_hex)?;
        let version = self.version(line.version)?;
        let deleted_at = time(&line.deleted_at)?;
        let deleted_by = self.actor(line.deleted_by);
        self.deletions += 1;
        let deletion = Deletion { version, deleted_by, deleted_at };
        self.add(id, key, Stored::Deleted(deletion), deleted_at)
    }

    fn add(&mut self, id: u32, key: KeyBuf, stored: Stored, time: Timestamp) -> Outcome {
        self.contents.last_time = self.contents.last_time.max(time);
        let mut is_new = false;
        if let Some(collection) = self.contents.collections.get_mut(&id) {
            collection.replace(key, |kept| {
                is_new = kept.is_none();
                is_new.then_some(stored)
            });
        }
        is_new.then_some(()).ok_or_else(|| "its key is there already".to_owned())
    }

    fn key(
        &self,
        collection: &str,
        text: Option<Cow<'_, str>>,
        hex: Option<Cow<'_, str>>,
    ) -> Outcome<(u32, KeyBuf)> {
        let entry = self.contents.catalog.get(collection);
        let entry =
            entry.ok_or_else(|| format!("there is no line of collection {collection:?}"))?;
        match (text, hex, entry.key_kind == TEXT_KEYS) {
            (Some(text), None, true) => Ok((entry.id, KeyBuf::from(text.as_bytes()))),
            (None, Some(hex), false) => Ok((entry.id, KeyBuf::from(&bytes_of(&hex)?[..]))),
            (_, _, true) => Err("it needs key, which is text".to_owned()),
            (_, _, false) => Err("it needs key_hex".to_owned()),
        }
    }

    fn version(&self, number: u64) -> Outcome<Version> {
        let number = version_up_to(number, self.last_version)?;
        Version::new(number).ok_or_else(|| "no commit has version 0".to_owned())
    }

    fn actor(&mut self, name: Option<Cow<'_, str>>) -> Option<Actor> {
        name.map(|name| Actor::shared(&mut self.last_actor, &name))
    }
}

fn version_up_to(number: u64, most: u64) -> Outcome<u64> {
    match number <= most {
        true => Ok(number),
        false => Err(format!("version {number} is above {most}")),
    }
}

fn time(text: &str) -> Outcome<Timestamp> {
    match humantime::parse_rfc3339(text) {
        Ok(time) => Ok(Timestamp::from(time)),
        Err(error) => Err(format!("{text:?} is no time: {error}")),
    }
}

fn bytes_of(hex: &str) -> Outcome<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.filter(|_| rest.is_empty()).ok_or_else(|| "the hexadecimal digits are wrong".to_owned())
}
