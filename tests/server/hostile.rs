//! Clients that mean harm, over real sockets: answered as the client's fault or cut off, and the
//! next client is served.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::{CREATE, PATH, Server, read_to_end, request};

/// The statuses of all answers in there.
fn statuses(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let answers = text.match_indices("HTTP/1.1 ").map(|(at, found)| at + found.len());
    answers.map(|at| text[at..].chars().take(3).collect()).collect()
}

fn is_refusal(statuses: &[String]) -> bool {
    statuses.is_empty() || (statuses.len() == 1 && statuses[0].starts_with('4'))
}

#[test]
fn what_is_no_request_is_answered_or_cut_off() {
    // Soon closes what is idle.
    let server = Server::in_memory(&["--timeout", "1"]);
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1_000));
    let long_header = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(300_000));
    let no_text = b"GET /collections/a HTTP/1.1\r\nIf-Match: \xff\xfe\r\nConnection: close\r\n\r\n";
    let no_path = b"GET /collections/shifts/\xff\xfe HTTP/1.1\r\nConnection: close\r\n\r\n";
    let no_name = b"GET / HTTP/1.1\r\nA\xff: b\r\nConnection: close\r\n\r\n";
    for bytes in [
        b"\0\r\n\r\n".as_slice(),
        b"GET /\x01 HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        no_text,
        no_path,
        no_name,
    ] {
        let answer = statuses(&server.exchange(bytes));
        assert!(is_refusal(&answer), "{}: {answer:?}", bytes.escape_ascii());
    }
    for bytes in [many_headers, long_header] {
        let answer = statuses(&server.exchange(bytes.as_bytes()));
        assert!(answer.is_empty() || answer == ["431"], "{bytes:.40}: {answer:?}");
    }
    assert_eq!(server.call("GET", "", "").status, 404);
}

/// Requests whose end two readers may see in different places. The second, if there is one, asks
/// for what was not asked for.
const AMBIGUOUS: [(&str, &str); 17] = [
    ("both lengths", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n\r\n1"),
    ("two lengths in one", "Content-Length: 1, 2\r\n\r\n1"),
    ("a signed length", "Content-Length: +1\r\n\r\n1"),
    ("a negative length", "Content-Length: -1\r\n\r\n1"),
    ("a long length", "Content-Length: 99999999999999999999\r\n\r\n1"),
    ("no chunk size", "Transfer-Encoding: chunked\r\n\r\nz\r\n1\r\n0\r\n\r\n"),
    ("a long chunk size", "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n1\r\n0\r\n\r\n"),
    ("another coding", "Transfer-Encoding: chunked, identity\r\n\r\n1\r\n1\r\n0\r\n\r\n"),
    ("a folded header", "A: b\r\n Content-Length: 1\r\nContent-Length: 1\r\n\r\n1"),
    // A line may end with LF alone (RFC 9112 section 2.2), but not in a chunk, and what another
    // reader took for part of a value counts.
    ("LF before a coding", "A: b\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1"),
    ("LF before a length", "A: b\nContent-Length: 2\r\nContent-Length: 1\r\n\r\n1"),
    ("CR before a length", "A: b\rContent-Length: 1\r\nContent-Length: 1\r\n\r\n1"),
    ("LF after a chunk size", "Transfer-Encoding: chunked\r\n\r\n1\n1\r\n0\r\n\r\n"),
    ("LF after a chunk", "Transfer-Encoding: chunked\r\n\r\n1\r\n1\n0\r\n\r\n"),
    ("LF in a chunk extension", "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\n1\r\n0\r\n\r\n"),
    ("a space before the colon", "Content-Length : 1\r\nContent-Length: 1\r\n\r\n1"),
];

#[test]
fn what_could_be_read_as_another_request_is_not_answered_twice() {
    // Soon closes what is idle.
    let server = Server::in_memory(&["--timeout", "1"]);
    let smuggled = "PUT /collections/shifts/smuggled?unconditional=true HTTP/1.1\r\nHost: x\r\n\
                    Content-Type: application/json\r\nContent-Length: 1\r\n\r\n1";
    for (name, rest) in AMBIGUOUS {
        let bytes = format!("PUT {PATH} HTTP/1.1\r\nHost: x\r\n{CREATE}{rest}{smuggled}");
        let answer = statuses(&server.exchange(bytes.as_bytes()));
        assert!(is_refusal(&answer), "{name}: {answer:?}");
    }
    let smuggled = b"GET /collections/shifts/smuggled HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&server.exchange(smuggled)), ["404"]);
    assert_eq!(server.call("GET", "", "").status, 404);
}

#[test]
fn lines_that_end_with_lf_alone_are_one_request() {
    let server = Server::in_memory(&["--timeout", "1"]);
    let whole = request("PUT", CREATE, "1").replace("\r\n", "\n");
    assert_eq!(statuses(&server.exchange(whole.as_bytes())), ["201"]);
    assert_eq!(server.call("GET", "", "").body, "1");
}

#[test]
fn slow_clients_are_cut_off() {
    let server = Server::in_memory(&["--timeout", "1"]);
    let whole = request("PUT", CREATE, "[1]");
    let (half, _) = whole.split_at(whole.len() - 2);
    let (head, _) = whole.split_at(whole.len() - 3);
    let chunked = format!("PUT {PATH} HTTP/1.1\r\n{CREATE}Transfer-Encoding: chunked\r\n\r\n1\r\n");
    for (bytes, due) in [
        ("", &[][..]),
        ("GET ", &[]),
        ("GET / HTTP/1.1\r\nA: ", &[]),
        (head, &["408"]),
        (half, &["408"]),
        (&chunked, &["408"]),
    ] {
        let mut stream = server.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(statuses(&read_to_end(&mut stream)), due, "{bytes}");
    }
    assert_eq!(server.call("GET", "", "").status, 404);
}

#[test]
fn a_client_that_takes_nothing_of_its_answers_is_cut_off() {
    let server = Server::in_memory(&["--timeout", "1"]);
    let large = format!("[\"{}\"]", "x".repeat(1 << 19));
    assert_eq!(server.call("PUT", CREATE, &large).status, 201);
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let asks = format!("GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n");
    // Far more than the buffers of both sides hold.
    let _ = stream.write_all(asks.repeat(200).as_bytes());
    // Nothing is read, so that only a write can tell.
    let kind = loop {
        match stream.write_all(b"G") {
            Ok(()) => thread::sleep(Duration::from_millis(20)),
            Err(error) => break error.kind(),
        }
    };
    assert_ne!(kind, std::io::ErrorKind::WouldBlock, "it is kept open");
    assert_eq!(server.call("GET", "", "").status, 200);
}

#[test]
fn a_client_that_takes_nothing_of_a_stream_is_cut_off() {
    let server = Server::in_memory(&["--timeout", "1"]);
    let waiting = |count| {
        let asked = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let told = String::from_utf8(server.exchange(asked.as_bytes())).unwrap();
        told.contains(&format!("\nifmatch_requests_waiting {count}\n"))
    };
    let until_waiting = |count| {
        let mut tries = (0..1_000).map(|_| thread::sleep(Duration::from_millis(20)));
        assert!(tries.any(|()| waiting(count)), "{count} requests never wait");
    };
    let mut stream = server.connect();
    let asks = "GET /changes HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(asks.as_bytes()).unwrap();
    until_waiting(1);
    // Far more than the buffers of both sides hold.
    let large = format!("[\"{}\"]", "x".repeat(1 << 19));
    assert_eq!(server.call("PUT", CREATE, &large).status, 201);
    for _ in 0..60 {
        let any = "If-Match: *\r\nContent-Type: application/json\r\n";
        assert_eq!(server.call("PUT", any, &large).status, 200);
    }
    until_waiting(0);
    // What is in the buffers still arrives, and then the end.
    assert!(read_to_end(&mut stream).len() < 60 << 19, "all of it was sent");
}

#[test]
fn ten_thousand_who_are_idle_keep_nobody_out() {
    let most = 10_000.min(files() / 2);
    let server = Server::in_memory(&["--timeout", "86400"]);
    let idle: Vec<TcpStream> = (0..most).map(|_| server.connect()).collect();
    assert_eq!(server.call("PUT", CREATE, "1").status, 201);
    drop(idle);
}

#[test]
#[cfg(unix)]
fn those_who_are_idle_make_room_where_files_are_few() {
    let server = Server::with_files(256, &["--timeout", "86400"]);
    let mut idle: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    let created = server.exchange(request("PUT", CREATE, "1").as_bytes());
    assert_eq!(statuses(&created), ["201"]);
    assert_eq!(read_to_end(&mut idle[0]), b"", "the oldest was closed");
}

/// How many files this process may open.
fn files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    soft.unwrap_or(256)
}
