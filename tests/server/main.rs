//! The real program over real sockets: what it acknowledged survives `kill -9`, and it stops
//! cleanly when asked.

mod hostile;
mod log;
mod retries;
mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use support::{Answer, CREATE, Server, failure, request, serve};

#[test]
fn g3_a_killed_server_comes_back_with_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let sent = " {\"status\" : 1.50}\n";
    let created = server.call("PUT", CREATE, sent);
    assert_eq!((created.status, created.body.as_str()), (201, sent));
    drop(server);

    let server = Server::start(&data);
    let read = server.call("GET", "", "");
    assert_eq!((read.status, read.body.as_str(), read.tag()), (200, sent, created.tag()));
    let refused = server.call("PUT", CREATE, "2");
    assert_eq!(refused.status, 409, "{}", refused.body);
}

#[test]
#[cfg(unix)]
fn a_server_finishes_what_is_in_flight_and_exits_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path());
    let whole = request("PUT", &format!("Expect: 100-continue\r\n{CREATE}"), "[1]");
    let (head, body) = whole.split_at(whole.len() - 3);
    let mut stream = server.connect();
    stream.write_all(head.as_bytes()).unwrap();
    // The server asks for the body when the request is under way.
    let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut asked).unwrap();
    server.terminate();
    while TcpStream::connect(&server.address).is_ok() {
        thread::sleep(Duration::from_millis(5));
    }
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stream).status, 201);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));

    let server = Server::start(directory.path());
    assert_eq!(server.call("GET", "", "").body, "[1]");
}

#[test]
#[cfg(unix)]
fn g9_a_server_that_is_stopped_ends_its_streams_and_exits_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path());
    server.call("PUT", CREATE, "[1]");
    let mut stream = server.connect();
    let head = b"GET /changes HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut events = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert_ne!(events.read_line(&mut line).unwrap(), 0, "the stream ended");
    }
    assert!(line.contains("\"value\":[1]"), "{line}");
    let overwrite = "If-Match: *\r\nContent-Type: application/json\r\n";
    let whole = request("PUT", &format!("Expect: 100-continue\r\n{overwrite}"), "[2]");
    let (head, body) = whole.split_at(whole.len() - 3);
    let mut write = server.connect();
    write.write_all(head.as_bytes()).unwrap();
    let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    write.read_exact(&mut asked).unwrap();
    server.terminate();
    // The last chunk is sent: the stream was ended, not cut off.
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    // And long before those are cut off that are in flight.
    write.write_all(body.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut write).status, 200);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_stops_a_server_from_starting_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());

    let data = directory.path().display().to_string();
    let in_use = failure(&serve().args(["--data", &data]).output().unwrap());
    assert!(in_use.contains(&data) && in_use.contains("another directory"), "{in_use}");

    let typed = directory.path().join("typed");
    let store = ifmatch::Store::open(&typed).unwrap();
    store.collection::<String, u8>("rooms").unwrap().create("r1", 1).commit().unwrap();
    store.close().unwrap();
    let other = failure(&serve().arg("--data").arg(&typed).output().unwrap());
    assert!(other.contains("collection rooms") && other.contains("codec json"), "{other}");

    let port = Command::new(env!("CARGO_BIN_EXE_ifmatch"))
        .args(["serve", "--memory", "--listen", &server.address])
        .output();
    let port = failure(&port.unwrap());
    assert!(port.contains(&server.address) && port.contains("--listen"), "{port}");

    let open = Command::new(env!("CARGO_BIN_EXE_ifmatch"))
        .args(["serve", "--memory", "--listen", "0.0.0.0:0"])
        .output();
    let open = failure(&open.unwrap());
    assert!(open.contains("--insecure") && open.contains("--tokens"), "{open}");

    let tokens = directory.path().join("tokens");
    for (list, complaint) in [("", "no token"), ("# ours\n\nalice:12\n", "line 3")] {
        std::fs::write(&tokens, list).unwrap();
        let bad = failure(&serve().arg("--memory").arg("--tokens").arg(&tokens).output().unwrap());
        assert!(bad.contains(complaint) && bad.contains("tokens"), "{bad}");
    }
}

#[test]
fn g1_clients_over_sockets_lose_no_edit() {
    const CLIENTS: usize = 8;
    const EDITS: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    assert_eq!(server.call("PUT", CREATE, "0").status, 201);
    let edit = || {
        loop {
            let read = server.call("GET", "", "");
            let count: usize = read.body.parse().unwrap();
            let headers = format!("If-Match: {}\r\nContent-Type: application/json\r\n", read.tag());
            match server.call("PUT", &headers, &(count + 1).to_string()).status {
                200 => break,
                409 => {}
                status => panic!("{status}"),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..EDITS).for_each(|_| edit()));
        }
    });
    assert_eq!(server.call("GET", "", "").body, (CLIENTS * EDITS).to_string());
}

/// What was told of the document: its content by tag, and the highest acknowledged count.
#[cfg(unix)]
#[derive(Default)]
struct Told {
    contents: HashMap<String, String>,
    acknowledged: u64,
}

#[cfg(unix)]
impl Told {
    fn content(&mut self, answer: &Answer, body: &str) {
        let before = self.contents.insert(answer.tag().to_owned(), body.to_owned());
        assert!(before.is_none_or(|before| before == body), "{} has two contents", answer.tag());
    }
}

/// Counts the document up until the server is gone.
#[cfg(unix)]
fn edit_until_killed(server: &Server, told: &Mutex<Told>) -> Option<()> {
    loop {
        let read = server.try_call("GET", "", "")?;
        told.lock().unwrap().content(&read, &read.body);
        let next = (read.body.parse::<u64>().unwrap() + 1).to_string();
        let headers = format!("If-Match: {}\r\nContent-Type: application/json\r\n", read.tag());
        let written = server.try_call("PUT", &headers, &next)?;
        if written.status == 200 {
            let mut told = told.lock().unwrap();
            told.content(&written, &next);
            told.acknowledged = told.acknowledged.max(next.parse().unwrap());
        } else {
            assert_eq!(written.status, 409, "{}", written.body);
        }
    }
}

#[test]
#[cfg(unix)]
fn g2_g3_kill_9_under_load_loses_no_edit_and_no_tag_has_two_contents() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path());
    assert_eq!(server.call("PUT", CREATE, "0").status, 201);
    let told = Mutex::new(Told::default());
    for round in 1..=5 {
        let enough = 40 * round;
        thread::scope(|scope| {
            let (server, told) = (&server, &told);
            for _ in 0..8 {
                scope.spawn(move || edit_until_killed(server, told));
            }
            while told.lock().unwrap().acknowledged < enough {
                thread::sleep(Duration::from_millis(1));
            }
            server.kill();
        });
        drop(server);
        server = Server::start(directory.path());
        let read = server.call("GET", "", "");
        let mut told = told.lock().unwrap();
        told.content(&read, &read.body);
        // Edits that landed as the server died were not acknowledged.
        assert!(read.body.parse::<u64>().unwrap() >= told.acknowledged);
    }
}
