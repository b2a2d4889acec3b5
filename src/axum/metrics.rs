//! `GET /metrics`: what the router and its store have seen, as Prometheus reads it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use ::axum::response::Response;
use ::http::header::{self, HeaderValue};
use ::http::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::response;
use super::service::Service;
use crate::sync::{Level, Mutex};

/// What was answered, since the router was made. Clients choose none of the names.
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Clone, Default)]
struct Counts {
    /// By method and class of the status.
    requests: BTreeMap<(&'static str, u16), u64>,
    refusals: BTreeMap<&'static str, u64>,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        Metrics(Mutex::new(Level::Alone("metrics"), Counts::default()))
    }

    pub(super) fn answered(
        &self,
        method: &Method,
        status: StatusCode,
        refusal: Option<&'static str>,
    ) {
        let mut counts = self.0.lock();
        *counts.requests.entry((name(method), status.as_u16() / 100)).or_default() += 1;
        if let Some(reason) = refusal {
            *counts.refusals.entry(reason).or_default() += 1;
        }
    }
}

impl Service {
    pub(super) fn metrics(&self) -> Response {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_metrics(&mut text);
        let mut response = response::json(text);
        let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }

    fn write_metrics(&self, text: &mut String) -> fmt::Result {
        let Counts { requests, refusals } = self.metrics.0.lock().clone();
        head(text, "requests_total", "counter", "Requests answered.")?;
        for ((method, class), count) in requests {
            let labels = format!("method=\"{method}\",status=\"{class}xx\"");
            writeln!(text, "ifmatch_requests_total{{{labels}}} {count}")?;
        }
        head(text, "refusals_total", "counter", "Requests refused, by reason.")?;
        for (reason, count) in refusals {
            writeln!(text, "ifmatch_refusals_total{{reason=\"{reason}\"}} {count}")?;
        }
        let contention = self.store.contention();
        head(text, "conflicts_total", "counter", "Conflicts of the store, by reason.")?;
        for (reason, count) in contention.conflicts {
            let reason = reason.as_str();
            writeln!(text, "ifmatch_conflicts_total{{reason=\"{reason}\"}} {count}")?;
        }
        let in_flight = taken(&self.slots, self.options.max_in_flight);
        let waiting = taken(&self.waiting, self.options.max_waiting);
        let position = self.store.inner.journal.position();
        let failed = u64::from(position.is_err());
        let collections = self.store.collections().len() as u64;
        for (name, help, value) in [
            ("requests_in_flight", "Requests that are worked on, this one among them.", in_flight),
            ("requests_waiting", "Requests that wait for something to happen.", waiting),
            ("collections", "Collections of the store.", collections),
            ("store_failed", "1 if the store takes no more writes.", failed),
        ] {
            head(text, name, "gauge", help)?;
            writeln!(text, "ifmatch_{name} {value}")?;
        }
        if let Ok(version) = position {
            head(text, "store_version", "gauge", "The last version that was given out.")?;
            writeln!(text, "ifmatch_store_version {version}")?;
        }
        Ok(())
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP ifmatch_{name} {help}\n# TYPE ifmatch_{name} {kind}")
}

/// How many of so many places are taken.
fn taken(places: &Semaphore, most: usize) -> u64 {
    let most = most.min(Semaphore::MAX_PERMITS);
    most.saturating_sub(places.available_permits()) as u64
}

/// A name out of a closed set.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
