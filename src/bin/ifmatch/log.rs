//! What the server tells while it runs, on standard error.

use std::io;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, format::FmtSpan};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Tells what `filter` lets through; of each request a line when it is answered.
pub(crate) fn start(filter: Targets) {
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        // A closed standard error is no reason not to serve.
        .log_internal_errors(false)
        .with_span_events(FmtSpan::CLOSE);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
