//! Clients that edit one document at once: every edit is counted.

use std::thread;

use crate::client::{Client, JSON};

const PATH: &str = "/collections/counters/visits";
const CLIENTS: u64 = 50;
const EDITS: u64 = 5;

/// Reads, adds one, writes under the tag that was read, and starts over if it was refused.
fn edit(client: &Client) -> u64 {
    for refusals in 0.. {
        let read = client.get(PATH);
        let count: u64 = read.text().parse().unwrap();
        let headers = [JSON, ("if-match", read.header("etag"))];
        let written = client.call("PUT", PATH, &headers, &(count + 1).to_string());
        match written.status {
            200 => return refusals,
            409 => assert_eq!(written.reason(), "stale_version"),
            _ => panic!("{written:?}"),
        }
    }
    unreachable!("the loop ends with a write")
}

#[test]
fn g1_fifty_clients_lose_no_edit() {
    let client = Client::in_memory();
    client.overwrite(PATH, "0");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..EDITS).map(|_| edit(&client)).sum::<u64>());
        }
    });
    assert_eq!(client.get(PATH).text(), (CLIENTS * EDITS).to_string());
}
