//! The one handler: finds the resource and hands the request to what serves it.

use std::sync::{Arc, OnceLock};

use ::axum::body::Bytes;
use ::axum::extract::{Request, State};
use ::axum::response::Response;
use ::http::Method;
use tokio::sync::{OwnedSemaphorePermit, RwLock, RwLockReadGuard, Semaphore, SemaphorePermit};
use tracing::Instrument;

use super::RouterOptions;
use super::console;
use super::front::{Begun, admit, overloaded};
use super::metrics::Metrics;
use super::patch::ACCEPTED;
use super::path::Resource;
use super::response;
use super::served::Served;
use super::trace;
use crate::collection::Collection;
use crate::conflict::{Conflict, Reason};
use crate::error::Error;
use crate::http::{Conditions, Document, Problem, ProblemReason};
use crate::store::Store;
use crate::version::{EntityTag, Version};

/// What all requests share.
pub(super) struct Service {
    pub(super) store: Store,
    pub(super) options: RouterOptions,
    /// One permit per request that may be worked on.
    pub(super) slots: Semaphore,
    /// One permit per request that may wait for something to happen.
    pub(super) waiting: Arc<Semaphore>,
    pub(super) metrics: Metrics,
    pub(super) settings: Collection<String, Vec<u8>>,
    /// Where it is, and what it says.
    pub(super) described: OnceLock<(String, Bytes)>,
    /// Held by whoever has a handle of a collection, and exclusively by whoever changes what a
    /// collection is: a queue for requests, not a lock of data.
    pub(super) steady: Arc<RwLock<()>>,
}

/// No collection is opened anew while this is there. A request has one at most: a second would
/// wait behind whoever waits for the first.
pub(super) type Steady<'a> = RwLockReadGuard<'a, ()>;

pub(super) async fn handle(State(service): State<Arc<Service>>, mut request: Request) -> Response {
    let (options, timers) = (&service.options, &service.store.inner.service);
    let begun = Begun::of(&request, timers);
    // These tell nothing.
    let is_open = matches!(request.uri().path(), "/" | "/healthz");
    let answer = async {
        let slot = admit(&mut request, is_open, options, &service.slots)?;
        service.answer(request, &begun.path, slot).await
    };
    let answer = answer.instrument(begun.span.clone()).await;
    let refusal = answer.as_ref().err().map(|problem| problem.reason().as_str());
    let answer = begun.end(answer, options, timers);
    service.metrics.answered(&begun.method, answer.status(), refusal);
    answer
}

impl Service {
    async fn answer(
        self: &Arc<Self>,
        request: Request,
        path: &str,
        slot: SemaphorePermit<'_>,
    ) -> Result<Response, Problem> {
        let resource = Resource::parse(request.uri().path())?;
        let methods = resource.methods();
        match (resource, request.method()) {
            (Resource::Document { .. }, &Method::OPTIONS) => {
                Ok(response::accepting(response::options(methods), ACCEPTED))
            }
            (_, &Method::OPTIONS) => Ok(response::options(methods)),
            (Resource::Console, &Method::GET | &Method::HEAD) => Ok(console::page()),
            (Resource::Health, &Method::GET | &Method::HEAD) => self.health(),
            (Resource::Metrics, &Method::GET | &Method::HEAD) => Ok(self.metrics()),
            (Resource::OpenApi, &Method::GET | &Method::HEAD) => Ok(self.openapi(path)),
            (Resource::Changes, &Method::GET | &Method::HEAD) => {
                // A body cannot be shared while something is awaited.
                let (parts, _) = request.into_parts();
                self.changes(&parts, path, slot).await
            }
            (Resource::Collection(name), &Method::GET | &Method::HEAD) => {
                self.list(&self.steady().await, &name, request.uri().query())
            }
            (Resource::Batch, &Method::POST) => self.batch(request).await,
            (Resource::Transactions, &Method::POST) => self.transaction(request).await,
            (Resource::Collections, &Method::GET | &Method::HEAD) => self.collections(),
            (Resource::Collection(name), &Method::PUT) => {
                Arc::clone(self).set_collection(&name, request).await
            }
            (Resource::Collection(name), &Method::POST) => self.post(&name, request, path).await,
            (Resource::Document { collection, key }, &Method::GET | &Method::HEAD) => {
                self.get(&self.steady().await, &collection, &key, &request.into_parts().0)
            }
            (Resource::Document { collection, key }, &Method::PUT) => {
                self.put(&collection, &key, request, path).await
            }
            (Resource::Document { collection, key }, &Method::PATCH) => {
                self.patch(&collection, &key, request).await
            }
            (Resource::Document { collection, key }, &Method::DELETE) => {
                self.delete(&collection, &key, request).await
            }
            (Resource::History { collection, key }, &Method::GET | &Method::HEAD) => {
                self.history(&self.steady().await, &collection, &key)
            }
            (Resource::Lease { collection, key }, &Method::GET | &Method::HEAD) => {
                self.lease(&self.steady().await, &collection, &key)
            }
            (Resource::Lease { collection, key }, &Method::POST) => {
                self.take_lease(&collection, &key, request).await
            }
            (Resource::Lease { collection, key }, &Method::PUT) => {
                self.renew_lease(&collection, &key, request).await
            }
            (Resource::Lease { collection, key }, &Method::DELETE) => {
                self.release_lease(&collection, &key, request).await
            }
            (Resource::Operations(kind), &Method::GET | &Method::HEAD) => self.kind(&kind),
            (Resource::Operations(kind), &Method::PUT) => self.set_kind(&kind, request).await,
            (Resource::Operations(kind), &Method::POST) => self.begin(&kind, request, path).await,
            (Resource::Operation { kind, id }, &Method::GET | &Method::HEAD) => {
                self.operation(&kind, &id, request.uri().query(), slot).await
            }
            (Resource::OperationStep { kind, id, step }, &Method::POST) => {
                self.step(&kind, &id, step, request).await
            }
            (_, method) => Err(Problem::not_allowed(method, methods)),
        }
    }

    /// `GET /healthz`.
    ///
    /// # Errors
    /// 503 if the store takes no more writes.
    fn health(&self) -> Result<Response, Problem> {
        self.store.inner.journal.position().map_err(|error| self.refusal(&error))?;
        Ok(response::json("{\"status\":\"ok\"}\n"))
    }

    /// Has a request wait: it gives up its place among those that are worked on for one among
    /// those that wait. It has that until what this gives is dropped, be it with the body of the
    /// answer.
    ///
    /// # Errors
    /// 503 if too many wait.
    pub(super) fn waiting(
        &self,
        slot: SemaphorePermit<'_>,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        drop(slot);
        Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            overloaded("too many requests are waiting; ask again later, or do not wait")
        })
    }

    /// Waits while the settings of a collection change.
    pub(super) async fn steady(&self) -> Steady<'_> {
        self.steady.read().await
    }

    /// A collection that has been written; reading creates none.
    ///
    /// # Errors
    /// 404.
    pub(super) fn existing(
        &self,
        steady: &Steady<'_>,
        name: &str,
    ) -> Result<Collection<String, Document>, Problem> {
        if self.store.has_collection(name) || self.has_settings(name) {
            return self.open(steady, name);
        }
        let detail = format!("there is no collection {name}; the first write creates it");
        Err(Problem::new(ProblemReason::NotFound, detail))
    }

    pub(super) fn served(&self, documents: Collection<String, Document>) -> Served<'_, Document> {
        Served { entities: documents, options: &self.options, service: Some(self) }
    }

    pub(super) fn failure(&self, error: &Error, conditions: &Conditions) -> Problem {
        let stale = match error.conflict() {
            Some(conflict) => {
                trace::conflict(conflict);
                self.stale_status(conflict.collection())
            }
            None => self.options.stale_status,
        };
        let problem = Problem::from_error(error, conditions, stale);
        let conflict = error.conflict().filter(|it| it.reason() == Reason::InProgress);
        match conflict.and_then(Conflict::operation) {
            Some(operation) => self.worded(problem, operation.kind()),
            None => problem,
        }
    }

    /// A write that relies on an entity where there has never been one.
    pub(super) fn absent(&self, collection: &str, key: &str, conditions: &Conditions) -> Problem {
        trace::absent(collection, key);
        let (lineage, stale) = (self.store.lineage(), self.stale_status(collection));
        Problem::absent((collection, key), conditions, lineage, stale)
    }

    /// Of what knows no conditions.
    pub(super) fn refusal(&self, error: &Error) -> Problem {
        self.failure(error, &Conditions::default())
    }

    pub(super) fn tag(&self, version: Version) -> EntityTag {
        self.store.tag(version)
    }
}
