//! What a server says of itself: whether it is well, and what it has seen.

use std::io;

use ifmatch::Store;
use ifmatch::axum::RouterOptions;
use ifmatch::testing::{Call, Fault, MemoryDisk};

use crate::client::{Client, JSON, OVERWRITE};

const PATH: &str = "/collections/shifts/s-17";

#[test]
fn metrics_count_what_was_answered() {
    let client = Client::in_memory();
    client.overwrite(PATH, "1");
    client.overwrite(PATH, "2");
    let stale = client.call("PUT", PATH, &[JSON, ("if-none-match", "*")], "3");
    assert_eq!(stale.status, 409);
    client.get("/nothing");
    // A client cannot make names up.
    client.call("BREW", "/coffee", &[], "");
    client.call("DISTIL", "/coffee", &[], "");
    let metrics = client.get("/metrics");
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "ifmatch_requests_total{method=\"PUT\",status=\"2xx\"} 2",
        "ifmatch_requests_total{method=\"PUT\",status=\"4xx\"} 1",
        "ifmatch_requests_total{method=\"GET\",status=\"4xx\"} 1",
        "ifmatch_requests_total{method=\"other\",status=\"4xx\"} 2",
        "ifmatch_refusals_total{reason=\"already_exists\"} 1",
        "ifmatch_refusals_total{reason=\"not_found\"} 3",
        "ifmatch_conflicts_total{reason=\"already_exists\"} 1",
        "ifmatch_requests_in_flight 1",
        "ifmatch_requests_waiting 0",
        "ifmatch_collections 1",
        "ifmatch_store_failed 0",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in\n{}", metrics.text());
    }
    // Each name is declared once.
    let mut names: Vec<_> =
        metrics.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let declared = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), declared);
}

#[test]
fn g11_a_server_whose_disk_failed_says_so() {
    let disk = MemoryDisk::new();
    let store = Store::builder().open_on(std::sync::Arc::new(disk.clone())).unwrap();
    let client = Client::new(store, RouterOptions::default());
    client.overwrite(PATH, "1");
    assert_eq!(client.get("/healthz").status, 200);
    let error = io::ErrorKind::Other;
    disk.fail(Fault { call: Call::Sync, nth: 1, lasting: true, short: false, error });
    let lost = client.call("PUT", &format!("{PATH}{OVERWRITE}"), &[JSON], "2");
    assert_eq!((lost.status, lost.reason().as_str()), (503, "poisoned"));
    let health = client.get("/healthz");
    assert_eq!((health.status, health.reason().as_str()), (503, "poisoned"));
    assert!(client.get("/metrics").text().contains("\nifmatch_store_failed 1\n"));
    assert_eq!(client.get(PATH).status, 200, "reads go on");
}
