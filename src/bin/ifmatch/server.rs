//! The loop around the router: takes connections, bounds them, and stops without losing one.

use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ifmatch::axum::Stop;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// How long the headers of a request may take to arrive, and an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a request's headers: 1,000 entity tags fit.
const HEADER_BYTES: usize = 64 << 10;

/// How long requests in flight may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be taken: file descriptors have to come free first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most connections at a time. Most systems lend a process 1,024 file descriptors, and the
/// store needs some: without one for its next segment it stops writing for good.
const CONNECTIONS: usize = 900;

/// Serves until SIGTERM or Ctrl-C; then finishes what is in flight. Calls `ready` once
/// connections are taken and signals heard.
///
/// # Errors
/// If the runtime refuses the listener or the signals.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    waits: &Stop,
    ready: impl FnOnce(),
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut stop = pin!(stop_signal()?);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES);
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    ready();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = &mut stop => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = stream else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Answers are short and whole: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A connection that breaks is its client's affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    // A stream would not end by itself.
    waits.stop();
    // Those that are not done by then are cut off; what they were told is kept.
    let _ = timeout(GRACE, connections.shutdown()).await;
    Ok(())
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
