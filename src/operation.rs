//! Operations: long-running pieces of work, one at a time within a scope, told to all who ask.

mod info;
mod lease;
mod record;
mod step;
mod table;
mod wait;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

pub use info::{NotAToken, OperationInfo, OperationStatus, OperationToken};
pub use lease::LeaseForOperation;
pub(crate) use record::{
    BegunCodec, BegunRecord, OperationCodec, OperationRecord, ScopeCodec, ScopeKey, ScopeRecord,
};
pub(crate) use table::OperationTable;
pub use wait::{WaitForOperation, WaitForOperationFuture};

use crate::contention;
use crate::error::{Error, Result};
use crate::ids::{Caller, called};
use crate::operation::step::{Ask, Body, Done, Outcome, Step, Verb};
#[cfg(doc)]
use crate::options::Limits;
use crate::retry::{self, Driven};
use crate::store::{Inner, Store};
use crate::transact::{Once, Run};

/// How long an operation goes on without a sign of life, unless it says so.
const TTL: Duration = Duration::from_secs(60);

/// The operations of one kind; made by [`Store::operations`]. A handle, cheap to clone, that keeps
/// its store open.
#[derive(Clone)]
pub struct Operations {
    store: Arc<Inner>,
    kind: Arc<str>,
    own_scope: bool,
}

/// What to do when somebody has the scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBusy {
    /// Refuse, and say who has it.
    #[default]
    Reject,
    /// Wait in the queue of the scope, in order of arrival.
    Queue,
}

impl Store {
    /// Long-running pieces of work of this kind. At most one operation at a time is in progress
    /// within a scope, whatever its kind; a second one is refused as
    /// [`InProgress`](crate::Reason::InProgress), and told which one is running, since when, by
    /// whom, how far it is and when to come back; or it queues up behind it.
    ///
    /// An operation is the holder's who has its token. It goes on for as long as its holder gives
    /// signs of life, and its scope passes to the next in the queue in the same commit that
    /// ends it. Each step is a commit, durable when it is answered (G3), and serializable with all
    /// others (G1): of any number who begin at once, one gets the scope. All of it survives a
    /// restart; what is left of a time to live is reckoned by the time of day then, and never more
    /// than the whole.
    ///
    /// ```
    /// use ifmatch::{OnBusy, OperationStatus, Reason, Store};
    ///
    /// let store = Store::in_memory();
    /// let (transfers, exports) = (store.operations("transfer"), store.operations("export"));
    /// let transfer = transfers.begin("user/42").by("photos").commit()?;
    /// transfer.progress(40).commit()?;
    ///
    /// let refused = exports.begin("user/42").by("mail").commit().unwrap_err();
    /// let conflict = refused.conflict().expect("the scope is taken");
    /// assert_eq!(conflict.reason(), Reason::InProgress);
    /// let running = conflict.operation().expect("it is told");
    /// assert_eq!((running.id(), running.progress()), (transfer.id(), Some(40)));
    ///
    /// let export = exports.begin("user/42").by("mail").on_busy(OnBusy::Queue).commit()?;
    /// assert_eq!(export.info().position(), Some(1));
    /// transfer.complete("12 albums").commit()?;
    /// let export = exports.get(export.id())?.expect("it is known");
    /// assert_eq!(export.status(), OperationStatus::InProgress);
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn operations(&self, kind: impl Into<Arc<str>>) -> Operations {
        Operations { store: Arc::clone(&self.inner), kind: kind.into(), own_scope: false }
    }
}

impl Operations {
    /// The same with scopes of their own: they exclude each other, but no operations of other
    /// kinds.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let transfer = store.operations("transfer").begin("user/42").commit()?;
    /// let reindex = store.operations("reindex").own_scope();
    /// reindex.begin("user/42").commit()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    #[must_use]
    pub fn own_scope(mut self) -> Operations {
        self.own_scope = true;
        self
    }

    /// Begins an operation, which gets the scope if nobody has it.
    pub fn begin(&self, scope: impl Into<String>) -> Begin<'_> {
        let ask = Ask {
            kind: Arc::clone(&self.kind),
            own_scope: self.own_scope,
            scope: scope.into(),
            input: None,
            ttl: TTL,
            on_busy: OnBusy::Reject,
            caller: Caller::default(),
        };
        Begin { operations: self, ask: Box::new(ask) }
    }

    /// The operation of this kind with this id, if it is known: it is forgotten some time after it
    /// has ended, see [`Limits::operation_results`] and [`Limits::operations`].
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn get(&self, id: &str) -> Result<Option<OperationInfo>> {
        let (shown, now) = (self.store.durable()?, self.store.clock.monotonic());
        Ok(self.store.operations.look(&self.kind, id, Some(shown), now).0)
    }

    /// Waits for the end of an operation.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let transfers = store.operations("transfer");
    /// let transfer = transfers.begin("user/42").commit()?;
    /// let id = transfer.id().to_owned();
    /// let worker = std::thread::spawn(move || transfer.complete("done").commit());
    /// let ended = transfers.wait_for(id).wait()?.expect("it is known");
    /// assert_eq!(ended.result(), Some(&b"done"[..]));
    /// # worker.join().expect("no panic")?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn wait_for(&self, id: impl Into<String>) -> WaitForOperation<'_> {
        WaitForOperation::new(&self.store, Arc::clone(&self.kind), id.into())
    }

    /// Ends an operation without being its holder, whose next step is refused then. For operators:
    /// a holder that hangs may still give signs of life.
    pub fn cancel(&self, id: impl Into<String>) -> OperationStep<'_> {
        let verb = Verb::End(OperationStatus::Cancelled, None);
        self.step(id.into(), None, verb)
    }

    /// The handle of an operation of which only id and token were kept: in another process, or by
    /// a client far away. Whether they are right is decided with each step.
    pub fn with_token(&self, id: impl Into<String>, token: OperationToken) -> OperationHandle {
        OperationHandle { operations: self.clone(), id: id.into(), token }
    }

    fn step(&self, id: String, token: Option<OperationToken>, verb: Verb) -> OperationStep<'_> {
        let kind = Arc::clone(&self.kind);
        let (step, caller) = (Step::Hold { kind, id, token, verb }, Caller::default());
        OperationStep { store: &self.store, step, caller }
    }
}

/// An operation in the hands of its holder.
///
/// Each step is refused as [`Fenced`](crate::Reason::Fenced) once the operation has ended, be it
/// that it has expired: however late its holder wakes up, it does not get in the way of who came
/// after it (G8). The steps of one that is queued are refused as
/// [`InProgress`](crate::Reason::InProgress), until it has started; it can be cancelled.
///
/// Dropping it does not end the operation, so that work may outlive the value, and the process.
#[derive(Clone)]
pub struct OperationHandle {
    operations: Operations,
    id: String,
    token: OperationToken,
}

impl OperationHandle {
    /// The id, which everybody may know.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What shows its holder to be the one.
    pub fn token(&self) -> OperationToken {
        self.token
    }

    /// Gives a sign of life: the time to live begins anew.
    pub fn heartbeat(&self) -> OperationStep<'_> {
        self.step(Verb::Heartbeat)
    }

    /// Tells how much is done, in per cent; more than 100 counts as 100. A sign of life too.
    pub fn progress(&self, percent: u8) -> OperationStep<'_> {
        self.step(Verb::Progress(percent.min(100)))
    }

    /// Ends the operation with a result. The scope passes to the next.
    pub fn complete(&self, result: impl Into<Vec<u8>>) -> OperationStep<'_> {
        self.end(OperationStatus::Completed, result.into())
    }

    /// Ends the operation with an error. The scope passes to the next.
    pub fn fail(&self, error: impl Into<Vec<u8>>) -> OperationStep<'_> {
        self.end(OperationStatus::Failed, error.into())
    }

    /// Gives the operation up, or its place in the queue.
    pub fn cancel(&self) -> OperationStep<'_> {
        self.step(Verb::End(OperationStatus::Cancelled, None))
    }

    /// Waits until the operation is no more queued, for its holder to set to work.
    ///
    /// ```
    /// use ifmatch::{OnBusy, OperationStatus, Store};
    ///
    /// let store = Store::in_memory();
    /// let transfers = store.operations("transfer");
    /// let first = transfers.begin("user/42").commit()?;
    /// let second = transfers.begin("user/42").on_busy(OnBusy::Queue).commit()?;
    /// first.fail("no space").commit()?;
    /// let info = second.wait_for_start().wait()?.expect("it is known");
    /// assert_eq!(info.status(), OperationStatus::InProgress);
    /// second.complete("").commit()?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn wait_for_start(&self) -> WaitForOperation<'_> {
        self.operations.wait_for(&*self.id).to_start()
    }

    fn end(&self, status: OperationStatus, output: Vec<u8>) -> OperationStep<'_> {
        self.step(Verb::End(status, Some(output.into())))
    }

    fn step(&self, verb: Verb) -> OperationStep<'_> {
        self.operations.step(self.id.clone(), Some(self.token), verb)
    }
}

/// An operation that was begun. Dereferences to its handle.
#[derive(Clone, Debug)]
pub struct Begun {
    handle: OperationHandle,
    info: OperationInfo,
    replayed: bool,
}

impl Begun {
    /// The operation as it was when this was answered: in progress or queued, unless replayed.
    pub fn info(&self) -> &OperationInfo {
        &self.info
    }

    /// Whether it had been begun before, with the same operation id (G5).
    pub fn is_replayed(&self) -> bool {
        self.replayed
    }

    /// The handle alone.
    pub fn into_handle(self) -> OperationHandle {
        self.handle
    }
}

impl Deref for Begun {
    type Target = OperationHandle;

    fn deref(&self) -> &OperationHandle {
        &self.handle
    }
}

/// An operation that has not been begun yet; made by [`Operations::begin`].
#[must_use = "an operation does not begin before `commit` or `.await`"]
pub struct Begin<'a> {
    operations: &'a Operations,
    ask: Box<Ask>,
}

impl Begin<'_> {
    /// What it is about, for whoever does the work, or asks. The store does not read it.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.ask.input = Some(input.into().into());
        self
    }

    /// How long it goes on without a sign of life; 60 s by default, at most
    /// [`Limits::operation_ttl`]. Of one that is queued it begins when it starts.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ask.ttl = ttl;
        self
    }

    /// What to do when somebody has the scope: refuse, unless said otherwise.
    pub fn on_busy(mut self, on_busy: OnBusy) -> Self {
        self.ask.on_busy = on_busy;
        self
    }
}

called! {
    Begin, ask.caller;
    /// Names who begins it: told to those who are refused.
    by;
    /// Gives the beginning an id: if this actor has begun an operation with this id before, that
    /// one is returned, with its token, as long as it is known (G5). A second try after a lost
    /// reply so does not conflict with the first. Kind, scope and input have to be the same.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let transfers = store.operations("transfer");
    /// let begin = || transfers.begin("user/42").by("photos").operation_id("monday").commit();
    /// let (first, again) = (begin()?, begin()?);
    /// assert!(again.is_replayed());
    /// assert_eq!((again.id(), again.token()), (first.id(), first.token()));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    operation_id;
}

/// A step of an operation that has not been taken yet; made by [`OperationHandle`] and
/// [`Operations::cancel`]. Returns the operation as it is then.
#[must_use = "a step is not taken before `commit` or `.await`"]
pub struct OperationStep<'a> {
    store: &'a Arc<Inner>,
    step: Step,
    caller: Caller,
}

called! {
    OperationStep, caller;
    /// Names who takes it: an operation id is this actor's own. Who began the operation stays the
    /// holder of what it leases.
    by;
    /// Gives the step an id: if this actor has taken it with this id before, it is not taken again,
    /// and the operation is returned as it is now (G5). So a second try of the last step does not
    /// meet an operation that has ended. See [`Write::operation_id`](crate::Write::operation_id);
    /// here it stands for the operation, the token and all that the step says. A heartbeat that
    /// had been given before is no sign of life.
    ///
    /// ```
    /// let store = ifmatch::Store::in_memory();
    /// let transfer = store.operations("transfer").begin("user/42").commit()?;
    /// let complete = || transfer.complete("12 albums").operation_id("last").commit();
    /// let (first, again) = (complete()?, complete()?); // the reply was lost, say
    /// assert!(again.is_replayed() && !first.is_replayed());
    /// assert_eq!(again.result(), first.result());
    /// assert!(transfer.complete("12 albums").commit().is_err(), "without the id it has ended");
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    operation_id;
}

/// A step of an operation being awaited, on any runtime. Begins when it is first polled. Dropped
/// before it has landed it changes nothing; dropped later it does not undo it.
#[must_use = "futures do nothing unless polled"]
pub struct OperationFuture<'a, R> {
    store: &'a Inner,
    driven: Driven<'a, Run<Body, Done>>,
    answer: Answer<'a, R>,
}

/// What the caller gets of a step.
type Answer<'a, R> = Box<dyn FnMut(Done) -> Result<R> + Send + 'a>;

impl<'a> Begin<'a> {
    /// Begins the operation and blocks until the answer is durable (G3).
    ///
    /// # Errors
    /// A conflict of the reason `in_progress` if the scope is taken. [`Limit`](Error::Limit), for
    /// the queue and the number of operations too, [`KeyReused`](Error::KeyReused),
    /// [`DiskFull`](Error::DiskFull), [`Closed`](Error::Closed) and [`Poisoned`](Error::Poisoned);
    /// a conflict of the reason `contended` if too many begin at once, see
    /// [`RetryPolicy`](crate::RetryPolicy). Nothing was begun then, unless `Poisoned` says that the
    /// outcome is unknown.
    pub fn commit(self) -> Result<Begun> {
        let Begin { operations, ask } = self;
        let caller = ask.caller.clone();
        let done = commit(&operations.store, Step::Begin(ask), caller)?;
        begun(operations, done)
    }
}

impl OperationStep<'_> {
    /// Takes the step and blocks until the answer is durable (G3).
    ///
    /// # Errors
    /// A conflict of the reason `fenced` if the operation has ended or the token is another's,
    /// `in_progress` if it has not started. [`Limit`](Error::Limit),
    /// [`KeyReused`](Error::KeyReused), [`DiskFull`](Error::DiskFull), [`Closed`](Error::Closed)
    /// and [`Poisoned`](Error::Poisoned); a conflict of the reason `contended`. The step was not
    /// taken then, unless `Poisoned` says that the outcome is unknown.
    pub fn commit(self) -> Result<OperationInfo> {
        commit(self.store, self.step, self.caller).and_then(stands)
    }
}

impl<'a> IntoFuture for Begin<'a> {
    type Output = Result<Begun>;
    type IntoFuture = OperationFuture<'a, Begun>;

    fn into_future(self) -> OperationFuture<'a, Begun> {
        let Begin { operations, ask } = self;
        let answer = Box::new(|done| begun(operations, done));
        let caller = ask.caller.clone();
        OperationFuture::new(&operations.store, Step::Begin(ask), caller, answer)
    }
}

impl<'a> IntoFuture for OperationStep<'a> {
    type Output = Result<OperationInfo>;
    type IntoFuture = OperationFuture<'a, OperationInfo>;

    fn into_future(self) -> OperationFuture<'a, OperationInfo> {
        OperationFuture::new(self.store, self.step, self.caller, Box::new(stands))
    }
}

impl<'a, R> OperationFuture<'a, R> {
    fn new(store: &'a Arc<Inner>, step: Step, caller: Caller, answer: Answer<'a, R>) -> Self {
        let driven = Driven::new(store, step::run(store, step, caller), store.retry.clone());
        OperationFuture { store, driven, answer }
    }
}

impl<R> Future for OperationFuture<'_, R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let done = ready!(self.driven.poll(context));
        let done = landed(self.store, done)?;
        Poll::Ready((self.answer)(done))
    }
}

fn commit(store: &Arc<Inner>, step: Step, caller: Caller) -> Result<Done> {
    landed(store, retry::run(store, step::run(store, step, caller), store.retry.clone()))
}

fn landed(store: &Inner, done: Result<Once<Done>>) -> Result<Done> {
    if let Err(Error::Poisoned { .. }) = done {
        // Nobody will end anything any more.
        store.operations.wake_all();
    }
    let done = done.map(Once::expect_first)?;
    let version = done.version();
    match done.into_value() {
        Done { outcome: Outcome::Refused(mut conflict), .. } => {
            let (records, id) = (&store.operations.records, conflict.key().as_bytes());
            let spread = records.refused(store, id, conflict.reason(), true);
            conflict.pause = contention::draw(&store.random, spread);
            Err(Error::Conflict(conflict))
        }
        done => Ok(Done { version, ..done }),
    }
}

fn begun(operations: &Operations, done: Done) -> Result<Begun> {
    let Outcome::Stands { info, token, replayed } = done.outcome else {
        unreachable!("it was begun or refused")
    };
    let handle = operations.with_token(info.id(), token);
    Ok(Begun { handle, info: *info, replayed })
}

fn stands(done: Done) -> Result<OperationInfo> {
    match done.outcome {
        Outcome::Stands { info, replayed, .. } => Ok(info.replayed(replayed)),
        Outcome::Refused(_) | Outcome::Swept => unreachable!("it was taken or refused"),
    }
}

macro_rules! debugs {
    ($($type:ty, $name:literal, $self:ident => $field:literal: $value:expr;)*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $self = self;
                f.debug_struct($name).field($field, $value).finish_non_exhaustive()
            }
        }
    )*};
}

debugs! {
    Operations, "Operations", it => "kind": &it.kind;
    OperationHandle, "OperationHandle", it => "id": &it.id;
    Begin<'_>, "Begin", it => "scope": &it.ask.scope;
    OperationStep<'_>, "OperationStep", it => "store": &it.store.lineage;
}

impl<R> fmt::Debug for OperationFuture<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationFuture").finish_non_exhaustive()
    }
}
