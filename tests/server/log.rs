//! What the server tells on standard error.

use std::io::Read;

use crate::support::{CREATE, Server, request};

/// All that was told, of a server that is stopped now.
fn told(mut server: Server) -> String {
    let mut text = String::new();
    server.child.kill().unwrap();
    server.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn each_request_and_each_conflict_is_told_and_no_client_forges_a_line() {
    let server = Server::in_memory(&["--log", "debug"]);
    let actor = format!("{CREATE}Ifmatch-Actor: ann\t\u{85}\r\n");
    assert_eq!(server.call("PUT", CREATE, "1").status, 201);
    let refused = server.call("PUT", &actor.replace("\t\u{85}", ""), "2");
    assert_eq!(refused.status, 409);
    server.call("PUT", &actor, "2");
    // As in a URI, and as a client may send it all the same.
    let paths = ["/%0aERROR%0d%1b[31m", "/\u{85}ERROR\u{2028}\u{9b}31m"];
    for path in paths {
        let whole = request("GET", "", "").replacen("/collections/shifts/s-17", path, 1);
        server.exchange(whole.as_bytes());
    }
    let text = told(server);
    let lines: Vec<_> = text.lines().collect();
    let has =
        |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["close", "PUT", "s-17", "status=201"]), "{text}");
    assert!(has(&["close", "actor=\"ann\"", "status=409"]), "{text}");
    let conflict = ["DEBUG", "reason=\"already_exists\"", "\"shifts\"", "\"s-17\"", "current=1"];
    assert!(has(&conflict), "{text}");
    assert!(lines.iter().all(|line| line.starts_with("20")), "each line has its time: {text}");
    let is_harmful = |c: char| c.is_control() || c == '\u{2028}';
    assert!(!lines.iter().any(|line| line.contains(is_harmful)), "{text:?}");
}

#[test]
fn nothing_is_told_of_what_goes_well() {
    let server = Server::in_memory(&[]);
    assert_eq!(server.call("PUT", CREATE, "1").status, 201);
    assert_eq!(server.call("PUT", CREATE, "1").status, 409);
    assert_eq!(told(server), "");
}
