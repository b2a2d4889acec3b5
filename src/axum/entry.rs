//! One write of a batch or a transaction, as its body says it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::openapi::{KEY, NAME, TAG, TAGS};
use super::path::{check_key, malformed};
use super::request::whole_or_null;
use super::service::{Service, Steady};
use crate::collection::{Collection, is_collection_name};
use crate::http::{Conditions, Document, Problem, TagList};
use crate::precondition::{Precondition, decide};
use crate::version::{Lineage, Version};

/// As it is sent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Write", extend(
    "if" = { "properties": { "op": { "const": "put" } } },
    "then" = { "required": ["value"] },
    "else" = { "properties": { "value": false } },
))]
pub(super) struct Sent {
    op: Op,
    #[schemars(extend("pattern" = NAME))]
    collection: String,
    #[schemars(extend("pattern" = KEY))]
    key: String,
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    #[serde(default)]
    unconditional: bool,
    /// The token of a lease that it relies on.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schemars(range(min = 1, max = 18_446_744_073_709_551_615_u64))]
    lease: Option<u64>,
    /// Of a put, and of nothing else.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    value: Option<Box<RawValue>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Delete,
    /// Nothing is written, but the condition has to hold.
    Check,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Tags {
    One(#[schemars(extend("anyOf" = [{ "const": "*" }, { "pattern": TAGS }]))] String),
    Many(#[schemars(length(min = 1), inner(regex(pattern = TAG)))] Vec<String>),
}

/// As it is to be done.
pub(super) struct Entry {
    pub(super) collection: String,
    pub(super) key: String,
    pub(super) change: Change,
    pub(super) conditions: Conditions,
    /// Empty if it does not say.
    pub(super) preconditions: Vec<Precondition>,
    pub(super) lease: Option<Version>,
}

pub(super) enum Change {
    Put(Document),
    Delete,
    Check,
}

/// The collections that a request writes, by name.
pub(super) type Opened = BTreeMap<String, Collection<String, Document>>;

impl Sent {
    /// Checks it; `place` is where it stands in the body.
    ///
    /// # Errors
    /// 400.
    pub(super) fn read(self, place: &str, lineage: Lineage) -> Result<Entry, Problem> {
        let wrong = |what: &str| malformed(format!("{place}: {what}"));
        if !is_collection_name(&self.collection) {
            return Err(wrong("a collection's name is 1 to 64 characters of a-z, 0-9, _ and -"));
        }
        check_key(&self.key).map_err(|what| wrong(&what))?;
        let tags = |tags: Option<Tags>| tags.map(Tags::read).transpose();
        let conditions = Conditions {
            if_match: tags(self.if_match).map_err(|what| wrong(&format!("if_match: {what}")))?,
            if_none_match: tags(self.if_none_match)
                .map_err(|what| wrong(&format!("if_none_match: {what}")))?,
            ..Conditions::default()
        };
        let mut preconditions = conditions.preconditions(lineage);
        if preconditions.is_empty() && self.unconditional {
            preconditions.push(Precondition::Unconditional);
        }
        let change = match (self.op, self.value) {
            (Op::Put, Some(value)) => {
                let document = Document::parse(Box::<str>::from(value).into_string());
                Change::Put(document.map_err(|error| wrong(&error.to_string()))?)
            }
            (Op::Put, None) => return Err(wrong("a put needs a value")),
            (Op::Delete, None) => Change::Delete,
            (Op::Check, None) => Change::Check,
            (Op::Delete | Op::Check, Some(_)) => return Err(wrong("only a put has a value")),
        };
        let lease = match self.lease.map(Version::new) {
            Some(None) => return Err(wrong("a lease is a number above 0")),
            lease => lease.flatten(),
        };
        let Sent { collection, key, .. } = self;
        Ok(Entry { collection, key, change, conditions, preconditions, lease })
    }
}

impl Tags {
    fn read(self) -> Result<TagList, String> {
        let lines = match self {
            Tags::One(tag) => vec![tag],
            Tags::Many(tags) => tags,
        };
        TagList::parse(lines.iter().map(String::as_bytes)).map_err(|error| error.to_string())
    }
}

impl Service {
    /// Opens the collection of a write, unless the write is bound to fail: of collections there are
    /// not arbitrarily many.
    ///
    /// # Errors
    /// What the write is refused for then.
    pub(super) fn open_for<'a>(
        &self,
        steady: &Steady<'_>,
        entry: &Entry,
        opened: &'a mut Opened,
    ) -> Result<&'a Collection<String, Document>, Problem> {
        let Entry { collection, key, conditions, preconditions, .. } = entry;
        if !opened.contains_key(collection) {
            let is_there = self.store.has_collection(collection);
            let deletes = matches!(entry.change, Change::Delete);
            if !is_there && (deletes || decide(preconditions, None).is_err()) {
                return Err(self.absent(collection, key, conditions));
            }
            opened.insert(collection.clone(), self.open(steady, collection)?);
        }
        opened.get(collection).ok_or_else(|| self.absent(collection, key, conditions))
    }
}

/// `null` is a value too.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}
