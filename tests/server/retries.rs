//! A reply that is lost: the write has landed, and sending it again says so (G5).

use std::io::Write;

use crate::support::{Answer, CREATE, Server, request};

#[test]
fn g5_a_retry_after_a_lost_reply_gets_the_first_answer() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let headers = format!("{CREATE}Idempotency-Key: \"k-1\"\r\n");
    let mut stream = server.connect();
    stream.write_all(request("PUT", &headers, "[1]").as_bytes()).unwrap();
    // The write lands, or the connection would not be answered; nobody reads that.
    let mut first = [0; 1];
    stream.peek(&mut first).unwrap();
    drop(stream);
    let read = server.call("GET", "", "");
    assert_eq!((read.status, read.body.as_str()), (200, "[1]"));

    let is_the_first = |retry: &Answer| {
        assert_eq!((retry.status, retry.tag()), (201, read.tag()), "{}", retry.body);
        assert_eq!(
            (retry.body.as_str(), retry.header("idempotency-replayed")),
            ("[1]", Some("true"))
        );
    };
    is_the_first(&server.call("PUT", &headers, "[1]"));
    let other = server.call("PUT", &headers, "[2]");
    assert_eq!(other.status, 422, "{}", other.body);
    // As by kill -9.
    drop(server);
    let server = Server::start(directory.path());
    is_the_first(&server.call("PUT", &headers, "[1]"));
    assert_eq!(server.call("PUT", CREATE, "[1]").status, 409);
}
