//! The loop around the router: takes connections, bounds them, and stops without losing one.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ifmatch::axum::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

/// The most bytes of a request's headers: 1,000 entity tags fit.
const HEADER_BYTES: usize = 64 << 10;

/// How long requests in flight may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be taken: file descriptors have to come free first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most connections at a time, and the file descriptors that are left to the store: without
/// one for its next segment it stops writing for good.
const CONNECTIONS: u64 = 16_384;
const STORE_FILES: u64 = 124;

/// How long an idle connection has to make room for the next one.
const LEAVE: Duration = Duration::from_millis(20);

/// Serves until SIGTERM or Ctrl-C; then finishes what is in flight. Calls `ready` once
/// connections are taken and signals heard. Headers of a request have to arrive within `patience`,
/// which is also how long an idle connection is kept, and how long a client may take nothing of
/// its answer.
///
/// # Errors
/// If the runtime refuses the listener or the signals.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    waits: &Stop,
    patience: Duration,
    ready: impl FnOnce(),
) -> io::Result<()> {
    let mut stop = pin!(stop_signal()?);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEADER_BYTES);
    let mut connections = Connections::new();
    ready();
    loop {
        let accepted = async {
            let place = connections.place().await;
            (listener.accept().await, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = stream else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let told = connections.add();
        tokio::spawn(converse(server.clone(), stream, router.clone(), patience, told, place));
    }
    drop(listener);
    // A stream would not end by itself.
    waits.stop();
    // Those that are not done by then are cut off; what they were told is kept.
    let _ = timeout(GRACE, connections.end()).await;
    Ok(())
}

/// Serves one connection, until it ends or is told to: then what is under way is finished.
async fn converse(
    server: http1::Builder,
    stream: TcpStream,
    router: Router,
    patience: Duration,
    told: oneshot::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    // Answers are short and whole: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience));
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(server.serve_connection(TokioIo::new(Box::pin(stream)), service));
    // A connection that breaks is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = told => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// The connections that are open. There is always room for one more: those that do nothing make
/// it, the oldest first.
struct Connections {
    places: Arc<Semaphore>,
    most: u32,
    /// Each connection is told to end when its sender is dropped.
    open: VecDeque<oneshot::Sender<()>>,
}

impl Connections {
    fn new() -> Connections {
        let most = file_descriptors().saturating_sub(STORE_FILES).clamp(1, CONNECTIONS);
        let most = u32::try_from(most).unwrap_or(1);
        Connections { places: Arc::new(Semaphore::new(most as usize)), most, open: VecDeque::new() }
    }

    /// A place for the next connection.
    async fn place(&mut self) -> OwnedSemaphorePermit {
        let mut wait = Duration::ZERO;
        loop {
            let next = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = timeout(wait, next).await {
                return place;
            }
            // One that answers a request goes on until it has done so; then the next may leave.
            wait = if self.open.pop_front().is_some() { LEAVE } else { Duration::MAX };
        }
    }

    /// Adds one, which is to end when it is told.
    fn add(&mut self) -> oneshot::Receiver<()> {
        if self.open.len() >= 2 * self.most as usize {
            self.open.retain(|connection| !connection.is_closed());
        }
        let (sender, told) = oneshot::channel();
        self.open.push_back(sender);
        told
    }

    /// Ends all of them, and waits until they have ended.
    async fn end(mut self) {
        self.open.clear();
        let _ = self.places.acquire_many(self.most).await;
    }
}

/// As many as the system lends, once asked for more.
#[cfg(unix)]
fn file_descriptors() -> u64 {
    rlimit::increase_nofile_limit(CONNECTIONS + STORE_FILES).unwrap_or(1_024)
}

/// There is no such limit to sockets.
#[cfg(windows)]
fn file_descriptors() -> u64 {
    u64::MAX
}

/// Completes at SIGTERM or Ctrl-C. Listens from the time of the call.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Completes at Ctrl-C. Listens from the time of the call.
#[cfg(windows)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
