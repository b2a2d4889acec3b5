//! How collections and kinds of operations are treated, set while the store is open.

use std::sync::Arc;
use std::time::Duration;

use ::axum::extract::Request;
use ::axum::response::Response;
use ::http::StatusCode;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::openapi::{LINE, POINTER};
use super::path::malformed;
use super::request::{Intent, body as body_of, called, expect_json, members, whole_or_null};
use super::response;
use super::service::{Service, Steady};
use crate::codec::Json;
use crate::collection::Collection;
use crate::error::{Error, Result as StoreResult};
use crate::http::{Conditions, Document, Problem, ProblemReason, StaleStatus};
use crate::ids::Caller;
use crate::operation::Operations;
use crate::precondition::Precondition;
use crate::store::Store;
use crate::write::{Put, Write};

/// The most unique indexes of a collection.
const INDEXES: usize = 16;

/// The most kinds of operations with settings.
const KINDS: usize = 1_000;

/// The most characters of a message or a domain.
const WORDING: usize = 1_000;

/// A reader may have a handle of the collection for a moment.
const PAUSE: Duration = Duration::from_millis(5);
const TRIES: u32 = 200;

/// Of a collection. What is left out is as it would be without settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CollectionSettings {
    /// The JSON Pointers of its unique indexes.
    #[schemars(length(max = INDEXES), inner(regex(pattern = POINTER)))]
    pub(super) unique: Vec<String>,
    /// How many earlier versions of each document it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "whole_or_null")]
    #[schemars(range(max = 1_000))]
    pub(super) history: Option<u32>,
    /// Whether a write has to say what it relies on; by default it has to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) require_condition: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stale_status: Option<Stale>,
}

/// Of a kind of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct KindSettings {
    /// Whether its scopes are those of the other kinds too; by default they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shared_scope: Option<bool>,
    /// What is said to whom an operation of this kind stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORDING), extend("pattern" = LINE))]
    pub(super) message: Option<String>,
    /// Whose error that is, in dialects that name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORDING), extend("pattern" = LINE))]
    pub(super) domain: Option<String>,
}

/// 409 or 412.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u16", into = "u16")]
#[schemars(extend("enum" = [409, 412]))]
pub(super) struct Stale(StaleStatus);

impl TryFrom<u16> for Stale {
    type Error = &'static str;

    fn try_from(status: u16) -> Result<Stale, &'static str> {
        match status {
            409 => Ok(Stale(StaleStatus::Conflict)),
            412 => Ok(Stale(StaleStatus::PreconditionFailed)),
            _ => Err("stale_status is 409 or 412"),
        }
    }
}

impl From<Stale> for u16 {
    fn from(Stale(status): Stale) -> u16 {
        match status {
            StaleStatus::Conflict => 409,
            StaleStatus::PreconditionFailed => 412,
        }
    }
}

/// As they take effect.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EffectiveCollectionSettings")]
pub(super) struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    unique: &'a [String],
    history: u32,
    require_condition: bool,
    stale_status: u16,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Collections")]
pub(super) struct List<'a> {
    items: Vec<Shown<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EffectiveKindSettings")]
pub(super) struct ShownKind<'a> {
    shared_scope: bool,
    message: Option<&'a str>,
    domain: Option<&'a str>,
}

/// What has settings.
#[derive(Clone, Copy)]
enum Named<'a> {
    Collection(&'a str),
    Kind(&'a str),
}

impl Named<'_> {
    fn key(self) -> String {
        match self {
            Named::Collection(name) => format!("collection/{name}"),
            Named::Kind(name) => format!("operation/{name}"),
        }
    }
}

impl Service {
    /// `GET /collections`.
    pub(super) fn collections(&self) -> Result<Response, Problem> {
        let names = self.store.collections();
        let settings = names.iter().map(|name| self.collection_settings(name));
        let settings = settings.collect::<Result<Vec<_>, _>>()?;
        let items = names.iter().zip(&settings);
        let items: Vec<_> =
            items.map(|(name, of)| Shown { name: Some(name), ..self.shown(name, of) }).collect();
        Ok(response::members(StatusCode::OK, &List { items }))
    }

    /// `PUT /collections/{collection}`: all of its settings, whatever they were.
    pub(super) async fn set_collection(
        self: Arc<Self>,
        name: &str,
        request: Request,
    ) -> Result<Response, Problem> {
        let (settings, caller): (CollectionSettings, _) = self.settings_sent(request).await?;
        if settings.unique.len() > INDEXES {
            return Err(malformed(format!("a collection has at most {INDEXES} unique indexes")));
        }
        // What is under way is done with the collection as it was.
        let alone = Arc::clone(&self.steady).write_owned().await;
        let mut tries = 1;
        let replayed = loop {
            let (service, name, caller) = (Arc::clone(&self), name.to_owned(), caller.clone());
            let settings = settings.clone();
            let changed = spawn_blocking(move || service.change(&name, &settings, &caller)).await;
            match changed.map_err(|_| stopped())? {
                Err(Error::CollectionInUse { .. }) if tries < TRIES => tries += 1,
                Err(Error::Index { detail, .. }) => return Err(malformed(detail)),
                Err(error) => return Err(self.refusal(&error)),
                Ok(replayed) => break replayed,
            }
            tokio::time::sleep(PAUSE).await;
        };
        drop(alone);
        let answer = response::members(StatusCode::OK, &self.shown(name, &settings));
        Ok(response::replayed(answer, replayed))
    }

    /// Makes the collection what the settings say, and keeps them; or changes nothing, be it that
    /// this has been done before. Then it returns `true`. Blocks.
    fn change(
        &self,
        name: &str,
        settings: &CollectionSettings,
        caller: &Caller,
    ) -> StoreResult<bool> {
        let keep = |condition| {
            let kept = self.keep(Named::Collection(name), settings, caller, condition).commit();
            kept.map(|kept| kept.is_replayed())
        };
        // What others have set since is left as it is.
        if self.store.remembers(caller) {
            match keep(Precondition::MatchesAny(Vec::new())) {
                // It was forgotten just now.
                Err(Error::Conflict(_)) => {}
                replayed => return replayed,
            }
        }
        let keep = || keep(Precondition::Unconditional);
        declare(&self.store, name, settings).check()?;
        let before = self.kept::<CollectionSettings>(Named::Collection(name))?;
        open(&self.store, name, &before, self.options.history)?;
        if (&before.unique, before.history) == (&settings.unique, settings.history) {
            return keep();
        }
        let reopening = declare(&self.store, name, settings).reopen()?;
        let replayed = keep()?;
        if !replayed {
            reopening.finish();
        }
        Ok(replayed)
    }

    fn keep(
        &self,
        of: Named<'_>,
        settings: &impl Serialize,
        caller: &Caller,
        condition: Precondition,
    ) -> Write<'_, String, Vec<u8>, Put> {
        let bytes = serde_json::to_vec(settings).unwrap_or_default();
        called(self.settings.put(of.key(), bytes).condition(condition), caller)
    }

    /// `GET /operations/{kind}`.
    pub(super) fn kind(&self, name: &str) -> Result<Response, Problem> {
        Ok(shown_kind(&self.kind_settings(name)?))
    }

    /// `PUT /operations/{kind}`: all of its settings, whatever they were.
    pub(super) async fn set_kind(&self, name: &str, request: Request) -> Result<Response, Problem> {
        let (settings, caller): (KindSettings, _) = self.settings_sent(request).await?;
        let wording = [("message", &settings.message), ("domain", &settings.domain)];
        for (member, text) in wording {
            let is_wrong = |text: &String| {
                text.chars().count() > WORDING || text.chars().any(char::is_control)
            };
            if text.as_ref().is_some_and(is_wrong) {
                let detail = format!("{member} has at most {WORDING} characters, on one line");
                return Err(malformed(detail));
            }
        }
        let key = Named::Kind(name).key();
        let is_known = self.settings.contains(&*key).map_err(|error| self.refusal(&error))?;
        if !is_known && self.settings.prefix(&*Named::Kind("").key()).count() >= KINDS {
            let detail = format!("at most {KINDS} kinds of operations have settings");
            return Err(Problem::new(ProblemReason::Limit, detail));
        }
        let kept = self.keep(Named::Kind(name), &settings, &caller, Precondition::Unconditional);
        let kept = kept.await.map_err(|error| self.refusal(&error))?;
        Ok(response::replayed(shown_kind(&settings), kept.is_replayed()))
    }

    /// Operations of a kind, in scopes as its settings say.
    pub(super) fn operations(&self, kind: &str) -> Result<Operations, Problem> {
        let operations = self.store.operations(kind);
        Ok(match self.kind_settings(kind)?.shared_scope {
            Some(false) => operations.own_scope(),
            Some(true) | None => operations,
        })
    }

    /// The status of a write to the collection that lost a race.
    pub(super) fn stale_status(&self, collection: &str) -> StaleStatus {
        let settings = self.kept::<CollectionSettings>(Named::Collection(collection));
        // Whoever cannot read them is told so with the next write.
        let set = settings.unwrap_or_default().stale_status;
        set.map_or(self.options.stale_status, |Stale(status)| status)
    }

    /// The problem of an operation in the way, in the words of its kind.
    pub(super) fn worded(&self, problem: Problem, kind: &str) -> Problem {
        let settings = self.kept::<KindSettings>(Named::Kind(kind)).unwrap_or_default();
        problem.worded(settings.message, settings.domain)
    }

    /// What a write relies on, of which the list may be empty.
    ///
    /// # Errors
    /// 428 if it is, and the collection wants writes to say.
    pub(super) fn required(
        &self,
        collection: &str,
        mut list: Vec<Precondition>,
    ) -> Result<Vec<Precondition>, Problem> {
        if list.is_empty() {
            if self.collection_settings(collection)?.require_condition.unwrap_or(true) {
                return Err(Problem::precondition_required());
            }
            list.push(Precondition::Unconditional);
        }
        Ok(list)
    }

    pub(super) fn has_settings(&self, collection: &str) -> bool {
        let key = Named::Collection(collection).key();
        self.settings.contains(&*key).unwrap_or_default()
    }

    /// Opens a collection as its settings say.
    pub(super) fn open(
        &self,
        _steady: &Steady<'_>,
        name: &str,
    ) -> Result<Collection<String, Document>, Problem> {
        let settings = self.collection_settings(name)?;
        let opened = open(&self.store, name, &settings, self.options.history);
        opened.map_err(|error| self.refusal(&error))
    }

    fn collection_settings(&self, name: &str) -> Result<CollectionSettings, Problem> {
        self.kept(Named::Collection(name)).map_err(|error| self.refusal(&error))
    }

    fn kind_settings(&self, name: &str) -> Result<KindSettings, Problem> {
        self.kept(Named::Kind(name)).map_err(|error| self.refusal(&error))
    }

    fn kept<T: DeserializeOwned + Default>(&self, of: Named<'_>) -> StoreResult<T> {
        kept(&self.settings, of)
    }

    async fn settings_sent<T: DeserializeOwned>(
        &self,
        request: Request,
    ) -> Result<(T, Caller), Problem> {
        let (parts, body) = request.into_parts();
        let intent = Intent::of(&parts)?;
        if intent.conditions != Conditions::default() || intent.lease.is_some() {
            return Err(malformed("settings are set as a whole, without conditions or leases"));
        }
        // No body at all would set everything back.
        expect_json(&parts.headers)?;
        let body = body_of(Request::from_parts(parts, body), &self.options).await?;
        Ok((members(&body)?, intent.caller))
    }

    fn shown<'a>(&self, name: &str, settings: &'a CollectionSettings) -> Shown<'a> {
        let stale = settings.stale_status.unwrap_or(Stale(self.options.stale_status));
        Shown {
            name: None,
            unique: &settings.unique,
            history: self.store.history_of(name).or(settings.history).unwrap_or_default(),
            require_condition: settings.require_condition.unwrap_or(true),
            stale_status: stale.into(),
        }
    }
}

/// Opens all collections of the store as a [router](super::router) does, so that what cannot be
/// served is found now, and no request has to wait until a collection is decoded.
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// ifmatch::axum::open_collections(&store)?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
///
/// # Errors
/// As of opening one; see [`CollectionBuilder::open`](crate::CollectionBuilder::open).
pub fn open_collections(store: &Store) -> StoreResult<()> {
    let settings = settings(store);
    for name in store.collections() {
        open(store, &name, &kept(&settings, Named::Collection(&name))?, 0)?;
    }
    Ok(())
}

/// Where a store keeps the settings.
pub(super) fn settings(store: &Store) -> Collection<String, Vec<u8>> {
    Collection::new(Arc::clone(&store.inner), Arc::clone(&store.inner.settings))
}

/// A new one keeps `history` versions, unless its settings say how many.
fn open(
    store: &Store,
    name: &str,
    settings: &CollectionSettings,
    history: u32,
) -> StoreResult<Collection<String, Document>> {
    let declared = declare(store, name, settings);
    match (settings.history, store.has_collection(name)) {
        (None, false) => declared.history(history).open(),
        _ => declared.open(),
    }
}

type Declared<'a> = crate::declare::CollectionBuilder<'a, String, Document, Json>;

fn declare<'a>(store: &'a Store, name: &'a str, settings: &CollectionSettings) -> Declared<'a> {
    let declared = store.declare(name).codec(Json);
    let declared = match settings.history {
        Some(versions) => declared.history(versions),
        None => declared,
    };
    settings.unique.iter().fold(declared, |declared, pointer| declared.unique_pointer(pointer))
}

fn kept<T: DeserializeOwned + Default>(
    settings: &Collection<String, Vec<u8>>,
    of: Named<'_>,
) -> StoreResult<T> {
    let key = of.key();
    let Some(found) = settings.get(&*key)? else { return Ok(T::default()) };
    serde_json::from_slice(&found).map_err(|error| Error::Decode {
        collection: settings.name().into(),
        key,
        detail: error.to_string(),
    })
}

fn shown_kind(settings: &KindSettings) -> Response {
    let shown = ShownKind {
        shared_scope: settings.shared_scope.unwrap_or(true),
        message: settings.message.as_deref(),
        domain: settings.domain.as_deref(),
    };
    response::members(StatusCode::OK, &shown)
}

/// The runtime ends, or what ran was broken.
fn stopped() -> Problem {
    Problem::new(ProblemReason::Overloaded, "the server stops; set the settings again later")
}
