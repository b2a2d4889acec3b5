//! Requests per second through the server, beside a bare axum handler, with `wrk` as the client.
//!
//! The contestants are processes of their own and run by turns; medians count. The bare handlers
//! do what an application without a store does: one answers with a document, the other takes one
//! in and sends it back. Every write of the server is synced before it is answered. Without `wrk`
//! nothing is measured.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;

const ROUNDS: usize = 7;
const SPAN: &str = "4s";
const BARE: &str = "bare";

/// A document of 100 bytes.
const DOCUMENT: &str = concat!(
    r#"{"status":"approved","worker":"alice","note":""#,
    r#"nothing to say about a shift that has been approved."}"#,
);

/// What is measured: its name, how `wrk` is called, and its script.
const LOADS: [(&str, [&str; 2], &str); 3] = [
    ("GET, 32 connections", ["-t1", "-c32"], "wrk.path = wrk.path .. '/0'"),
    ("PUT, If-Match: *, 64 connections", ["-t2", "-c64"], ANY),
    // Each thread has one connection, so that it knows which tag is its own.
    ("PUT, If-Match: its tag, 64 connections", ["-t64", "-c64"], TAGS),
];

const ANY: &str = r#"
local headers = { ["Content-Type"] = "application/json", ["If-Match"] = "*" }
local count = 0
function request()
    count = (count + 1) % 64
    return wrk.format("PUT", wrk.path .. "/" .. count, headers, document)
end
"#;

const TAGS: &str = r#"
local threads = 0
function setup(thread)
    thread:set("number", threads)
    threads = threads + 1
end
local headers = { ["Content-Type"] = "application/json", ["If-Match"] = "*" }
function request()
    return wrk.format("PUT", wrk.path .. "/" .. number, headers, document)
end
function response(status, sent)
    headers["If-Match"] = sent["etag"]
end
"#;

/// Creates what the others write.
const FILL: &str = r#"
local headers = { ["Content-Type"] = "application/json" }
local count = 0
function request()
    count = (count + 1) % 64
    return wrk.format("PUT", wrk.path .. "/" .. count .. "?unconditional=true", headers, document)
end
"#;

fn main() {
    if std::env::args().any(|argument| argument == BARE) {
        return bare();
    }
    if Command::new("wrk").arg("-v").output().is_err() {
        return println!("there is no wrk here: nothing is measured");
    }
    let place = tempfile::tempdir_in(".").unwrap();
    let data = place.path().join("store");
    let mut ours = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    ours.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let mut bare = Command::new(std::env::current_exe().unwrap());
    bare.arg(BARE);
    let servers = [Server::start(&mut ours), Server::start(&mut bare)];
    for server in &servers {
        load(server, ["-t1", "-c8"], FILL, place.path());
    }
    println!("{:>40} {:>9} {:>9} {:>7}", "requests/s, medians", "ifmatch", "bare", "ratio");
    for (name, arguments, script) in LOADS {
        let mut rounds = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for (server, rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(load(server, arguments, script, place.path()));
            }
        }
        let [ours, bare] = rounds.map(|mut rounds| {
            rounds.sort_by(f64::total_cmp);
            (rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1])
        });
        println!("{name:>40} {:>9.0} {:>9.0} {:>6.2}×", ours.0, bare.0, ours.0 / bare.0);
        println!("{:>40} {:>9.0} {:>9.0}", "least", ours.1, bare.1);
        println!("{:>40} {:>9.0} {:>9.0}", "most", ours.2, bare.2);
    }
}

/// Requests per second, all of which were answered as they should be.
fn load(server: &Server, arguments: [&str; 2], script: &str, place: &Path) -> f64 {
    let file = place.join("load.lua");
    std::fs::write(&file, format!("local document = [[{DOCUMENT}]]\n{script}")).unwrap();
    let mut wrk = Command::new("wrk");
    wrk.args(arguments).args(["-d", SPAN, "-s"]).arg(&file);
    let output = wrk.arg(format!("{}/collections/bench", server.url)).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(!output.contains("Non-2xx") && !output.contains("Socket errors"), "{output}");
    let rate = output.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.unwrap_or_else(|| panic!("{output}")).trim().parse().unwrap()
}

struct Server {
    process: Child,
    url: String,
}

impl Server {
    /// Starts one that says in its first line where it listens.
    fn start(command: &mut Command) -> Server {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines.map_while(Result::ok).find_map(|line| {
            let at = line.find("http://")?;
            Some(line[at..].split_whitespace().next()?.trim_end_matches(['/', ',']).to_owned())
        });
        Server { process, url: url.unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::main]
async fn bare() {
    const HEADERS: [(&str, &str); 2] = [("content-type", "application/json"), ("etag", "\"a-1\"")];
    let read = || async { (HEADERS, DOCUMENT) };
    let write = |document: Bytes| async { (HEADERS, document) };
    let app = Router::new().route("/collections/bench/{key}", get(read).put(write));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}
