//! A router of one collection, whose values have a type of their own.

use std::sync::Arc;

use ::axum::Router;
use ::axum::extract::{DefaultBodyLimit, Request, State};
use ::axum::response::Response;
use ::http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::RouterOptions;
use super::front::{Begun, admit};
use super::patch::{ACCEPTED, Edit};
use super::path::keyed;
use super::read::Asked;
use super::representation::Representation;
use super::request::{Intent, conditions};
use super::response;
use super::served::Served;
use super::write::{Sent, absent, new_key, required};
use crate::collection::Collection;
use crate::http::{Problem, ProblemReason};

/// What all requests share.
struct Typed<V> {
    entities: Collection<String, V>,
    options: RouterOptions,
    slots: Semaphore,
}

/// The entities of a collection as resources of an application, with the defaults of
/// [`RouterOptions`]: `GET`, `HEAD`, `PUT`, `PATCH` and `DELETE` of `/{key}`, `POST` and a paged
/// `GET` of `/`. Give it a path with [`Router::nest`].
///
/// It does what the [router of a store](super::router) does with documents: conditions in the
/// order of RFC 9110 section 13.2.2, 428 without one (G6), problem documents that tell the current
/// value (G4), `Idempotency-Key` (G5), `Ifmatch-Lease` (G8), `Prefer: return=minimal`. A body that
/// is no `V` is refused with 400. Who writes is the extension [`Actor`](crate::Actor) that the
/// application's own authentication has put into the request; without one, whoever
/// `Ifmatch-Actor` says.
///
/// Values are shown as serde writes them, which is also the form that their `ETag` is one of: what
/// a client sends may look different. All of a value is shown: to keep a part to itself, an
/// application shows another type, in handlers of its own.
///
/// ```
/// use axum::Router;
/// use ifmatch::Store;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Room {
///     seats: u32,
/// }
///
/// let store = Store::in_memory();
/// let rooms = store.collection::<String, Room>("rooms")?;
/// let app: Router = Router::new().nest("/rooms", ifmatch::axum::resource(rooms));
/// # Ok::<(), ifmatch::Error>(())
/// ```
pub fn resource<V>(collection: Collection<String, V>) -> Router
where
    V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    RouterOptions::default().resource(collection)
}

impl RouterOptions {
    /// A [router of one collection](resource). What is said of the feed, of history and of
    /// waiting has no meaning for it.
    pub fn resource<V>(self, collection: Collection<String, V>) -> Router
    where
        V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        let limit = DefaultBodyLimit::max(self.body_limit);
        let slots = Semaphore::new(self.max_in_flight.min(Semaphore::MAX_PERMITS));
        let typed = Typed { entities: collection, options: self, slots };
        // As of a store: keys are taken from the path as it was sent.
        Router::new().fallback(handle::<V>).layer(limit).with_state(Arc::new(typed))
    }
}

async fn handle<V: Representation>(
    State(typed): State<Arc<Typed<V>>>,
    mut request: Request,
) -> Response {
    let timers = &typed.entities.store.service;
    let begun = Begun::of(&request, timers);
    let answer = async {
        let _slot = admit(&mut request, false, &typed.options, &typed.slots)?;
        let path = begun.path.trim_end_matches('/');
        match request.uri().path().strip_prefix('/').unwrap_or_default().to_owned() {
            segment if segment.is_empty() => typed.all(request, path).await,
            segment if segment.contains('/') => Err(nothing_here()),
            segment => typed.one(&keyed(&segment)?, request, path).await,
        }
    };
    let answer = answer.instrument(begun.span.clone()).await;
    begun.end(answer, &typed.options, timers)
}

impl<V: Representation> Typed<V> {
    async fn one(&self, key: &str, request: Request, path: &str) -> Result<Response, Problem> {
        const METHODS: &str = "GET, HEAD, PUT, PATCH, DELETE, OPTIONS";
        let (served, options) = (self.served(), &self.options);
        match *request.method() {
            Method::GET | Method::HEAD => served.get(key, &conditions(request.headers())?),
            Method::PUT => {
                let sent = Sent::receive(request, options, served.lineage(), required).await?;
                served.write(key, sent, path).await
            }
            Method::PATCH => {
                let edit = Edit::receive(request, options, served.lineage(), required).await?;
                served.patch(key, &edit).await
            }
            Method::DELETE => {
                let intent = Intent::of(&request.into_parts().0)?;
                let preconditions = required(intent.preconditions(served.lineage()))?;
                served.delete(key, &intent, preconditions).await
            }
            Method::OPTIONS => Ok(response::accepting(response::options(METHODS), ACCEPTED)),
            _ => Err(Problem::not_allowed(request.method(), METHODS)),
        }
    }

    async fn all(&self, request: Request, path: &str) -> Result<Response, Problem> {
        const METHODS: &str = "GET, HEAD, POST, OPTIONS";
        let (served, options) = (self.served(), &self.options);
        match *request.method() {
            Method::GET | Method::HEAD => served.list(&Asked::of(request.uri().query())?),
            Method::POST => {
                let sent = Sent::receive(request, options, served.lineage(), absent).await?;
                let key = new_key(self.entities.name(), &sent.intent.caller).to_string();
                served.write(&key, sent, &format!("{path}/{key}")).await
            }
            Method::OPTIONS => Ok(response::options(METHODS)),
            _ => Err(Problem::not_allowed(request.method(), METHODS)),
        }
    }

    fn served(&self) -> Served<'_, V> {
        Served { entities: self.entities.clone(), options: &self.options, service: None }
    }
}

/// A 404.
fn nothing_here() -> Problem {
    let detail = "nothing is at this path; a slash within a key is written %2F";
    Problem::new(ProblemReason::NotFound, detail)
}
