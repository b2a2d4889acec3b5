//! A ready [`Router`] that serves the documents of a store.

mod answer;
mod batch;
mod changes;
mod console;
mod entry;
mod events;
mod extract;
mod front;
mod history;
mod lease;
mod metrics;
mod openapi;
mod operation;
mod patch;
mod path;
mod read;
mod representation;
mod request;
mod resource;
mod response;
mod served;
mod service;
mod settings;
mod stop;
mod tokens;
mod trace;
mod transaction;
mod write;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::axum::Router;
use ::axum::extract::DefaultBodyLimit;
use tokio::sync::{RwLock, Semaphore};

use crate::http::{Dialect, Problem, ProblemJson, StaleStatus};
use crate::options::HISTORY_MAX;
use crate::store::Store;

use metrics::Metrics;

pub use answer::{Refusal, Tagged};
pub use extract::IdempotencyKey;
pub use resource::resource;
pub use settings::open_collections;

pub use stop::Stop;
pub use tokens::{Tokens, TokensError};

/// The documents of `store` over HTTP, with the defaults of [`RouterOptions`].
///
/// Serves `/collections`, `/collections/{collection}`, `/collections/{collection}/{key}` with its
/// `/history` and its `/lease`, `/batch`, `/transactions`, `/operations/{kind}`,
/// `/operations/{kind}/{id}` with its steps, `/changes`, `/metrics`, `/healthz`,
/// at `/` a page for people, and
/// `/openapi.json`, which describes all of that, and answers everything else itself: give it a path
/// of its own with [`Router::nest`]. Its collections are
/// [`Collection<String, Document>`](crate::Collection) in the codec [`Json`](crate::Json), so that
/// the program that embeds it can use them too.
///
/// `PUT /collections/{collection}` sets what a collection is, all at once: `unique`, a list of
/// JSON Pointers; `history`, how many earlier versions it keeps; `require_condition`, whether a
/// write has to say what it relies on (G6); and `stale_status`, 409 or 412. What is left out is as
/// without settings. It is kept in the store. A collection that exists is made anew if need be,
/// while requests wait; one that the program that embeds the router has a handle of is not, and
/// the answer is 503 then. `PUT /operations/{kind}` sets `shared_scope`, false for scopes of its
/// own, and what is said to whom an operation stands in the way: `message` and `domain`. `GET
/// /collections` and `GET /operations/{kind}` tell the settings.
///
/// Whatever is written with an `Idempotency-Key` is done once (G5): sent again by the same actor it
/// gets its first answer, with `Idempotency-Replayed: true`, also after a restart; with another
/// payload it is a 422. A lease that is taken again has the same `token` and `expires_at`, although
/// it may have been renewed or have ended since. A step of an operation is answered with the
/// operation as it is now; a heartbeat that is sent again is no sign of life. Settings stay as
/// others may have set them since. What is refused is not remembered.
///
/// `GET /changes?since=&collection=&prefix=&limit=&wait_ms=` gives the [feed](crate::feed) in pages
/// of whole commits (G9). `next_since` of one page is `since` of the next, also where `collection`
/// and `prefix` (of keys) pass over everything; without `since` it begins with the oldest that is
/// kept. What is not kept any more is a 410 that names the `oldest` cursor. With `wait_ms`, at most
/// 60,000, it waits for something to tell. `Accept: text/event-stream` gives a stream without end:
/// one event per commit, its data a page in one line, its id the cursor, so that `Last-Event-ID`
/// goes on from there; a gap in mid-stream is an event `gap`, and the last. A change has a `value`
/// if it is a document; of what the program that embeds the router keeps in collections of other
/// types only the key is told, as text. The store's own collections are not shown. Of a store in
/// memory the feed begins with the router, unless the [builder](crate::StoreBuilder::feed) says
/// that it begins before.
///
/// Who writes is the extension [`Actor`](crate::Actor) that the application's own authentication
/// has put into the request; without one, whoever `Ifmatch-Actor` says.
///
/// `GET /healthz` is 503 once the store's disk has failed. `GET /metrics` is what Prometheus reads:
/// requests by method and class of status, refusals and conflicts by reason.
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// let app: axum::Router = axum::Router::new().nest("/store", ifmatch::axum::router(store));
/// ```
pub fn router(store: Store) -> Router {
    RouterOptions::default().router(store)
}

/// Settings of a router.
///
/// ```
/// use ifmatch::axum::RouterOptions;
/// use ifmatch::http::StaleStatus;
///
/// let options = RouterOptions::default().stale_status(StaleStatus::PreconditionFailed);
/// let app: axum::Router = options.router(ifmatch::Store::in_memory());
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing before `router`"]
pub struct RouterOptions {
    stale_status: StaleStatus,
    shows_values: bool,
    dialect: Arc<dyn Dialect>,
    body_limit: usize,
    body_timeout: Option<Duration>,
    max_in_flight: usize,
    max_waiting: usize,
    history: u32,
    stop: Stop,
    tokens: Option<Tokens>,
}

impl Default for RouterOptions {
    fn default() -> RouterOptions {
        RouterOptions {
            stale_status: StaleStatus::default(),
            shows_values: true,
            dialect: Arc::new(ProblemJson),
            body_limit: 1 << 20,
            body_timeout: None,
            max_in_flight: 1_024,
            max_waiting: 1_024,
            history: 8,
            stop: Stop::default(),
            tokens: None,
        }
    }
}

impl RouterOptions {
    /// The status of a write that lost a race; 409 by default.
    pub fn stale_status(mut self, status: StaleStatus) -> RouterOptions {
        self.stale_status = status;
        self
    }

    /// Whether a refusal tells the value of what is there, which saves the client a request; it
    /// does by default. The paths that have changed are told in any case.
    pub fn show_values(mut self, yes: bool) -> RouterOptions {
        self.shows_values = yes;
        self
    }

    /// A refusal, as it may be told.
    fn told(&self, problem: Problem) -> Problem {
        if self.shows_values { problem } else { problem.without_values() }
    }

    /// How refusals are written; as [`ProblemJson`] by default. The status does not depend on it.
    ///
    /// ```
    /// use ifmatch::axum::RouterOptions;
    /// use ifmatch::http::GoogleLegacy;
    ///
    /// let options = RouterOptions::default().dialect(GoogleLegacy::default());
    /// let app: axum::Router = options.router(ifmatch::Store::in_memory());
    /// ```
    pub fn dialect(mut self, dialect: impl Dialect) -> RouterOptions {
        self.dialect = Arc::new(dialect);
        self
    }

    /// The most bytes of a request's body; 1 MiB by default. Beyond it: 413.
    pub fn body_limit(mut self, bytes: usize) -> RouterOptions {
        self.body_limit = bytes;
        self
    }

    /// How long a request's body may take to arrive; without limit by default. Beyond it: 408.
    /// Needs a tokio runtime with its timer enabled.
    pub fn body_timeout(mut self, timeout: Duration) -> RouterOptions {
        self.body_timeout = Some(timeout);
        self
    }

    /// The most requests that are worked on at a time; 1,024 by default. Beyond it: 503.
    pub fn max_in_flight(mut self, requests: usize) -> RouterOptions {
        self.max_in_flight = requests;
        self
    }

    /// The most requests that wait for something to happen at a time, as they asked to; 1,024 by
    /// default. Beyond it: 503. While they wait they do not count as worked on.
    pub fn max_waiting(mut self, requests: usize) -> RouterOptions {
        self.max_waiting = requests;
        self
    }

    /// How many earlier versions of each document are kept by collections that the router creates,
    /// so that a conflict can tell what changed; 8 by default, at most 1,000. Collections that are
    /// there already keep as many as they do; see
    /// [`CollectionBuilder::history`](crate::CollectionBuilder::history).
    pub fn history(mut self, versions: u32) -> RouterOptions {
        self.history = versions.min(HISTORY_MAX);
        self
    }

    /// Lets `stop` end what waits, before the server that runs the router waits for it to end.
    pub fn stop(mut self, stop: &Stop) -> RouterOptions {
        self.stop = stop.clone();
        self
    }

    /// Who may use the router: requests without one of these tokens in `Authorization: Bearer` are
    /// refused with 401 before anything else of them is looked at, except of `/healthz`
    /// and of the page at `/`, which holds nothing. The name
    /// of the token is the actor of what the request does; `Ifmatch-Actor` with another name is
    /// refused with 403. Without this everybody may, in any name.
    pub fn tokens(mut self, tokens: Tokens) -> RouterOptions {
        self.tokens = Some(tokens);
        self
    }

    /// The router.
    pub fn router(self, store: Store) -> Router {
        let limit = DefaultBodyLimit::max(self.body_limit);
        // In memory only what is kept from now on can be told. A closed store tells nothing.
        if store.inner.past().is_none() {
            drop(store.changes().from_now().open());
        }
        let permits = |most: usize| Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        let (slots, waiting) = (permits(self.max_in_flight), Arc::new(permits(self.max_waiting)));
        let settings = settings::settings(&store);
        let steady = Arc::new(RwLock::new(()));
        let service = service::Service {
            store,
            options: self,
            slots,
            waiting,
            metrics: Metrics::new(),
            settings,
            described: OnceLock::new(),
            steady,
        };
        // One handler for every path: keys are taken from the path as it was sent, before
        // anybody decodes or normalizes it, and each refusal is a problem document.
        Router::new().fallback(service::handle).layer(limit).with_state(Arc::new(service))
    }
}
