//! `ifmatch serve`: opens a store, says where it is, and serves it until it is told to stop.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use ifmatch::Store;
use ifmatch::axum::{RouterOptions, Stop, Tokens, open_collections};
use ifmatch::http::{Google, GoogleLegacy, StaleStatus};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tracing_subscriber::filter::Targets;

use crate::bar::Bar;
use crate::log;
use crate::server;

/// Connections that are not taken yet. Whoever finds the queue full tries again after a second.
const QUEUE: u32 = 1_024;

#[derive(Args)]
pub(crate) struct Serve {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4090")]
    listen: SocketAddr,

    /// The directory that keeps the documents; created where there is none.
    #[arg(long, value_name = "DIRECTORY", default_value = "./ifmatch-data")]
    data: PathBuf,

    /// Keep the documents in memory only: they are gone when the server stops.
    #[arg(long, conflicts_with = "data")]
    memory: bool,

    /// The status of a write that lost a race.
    #[arg(long, value_enum, default_value = "409")]
    stale_status: Stale,

    /// Do not tell in a refusal the value of what is there.
    #[arg(long)]
    hide_values: bool,

    /// How refusals are written.
    #[arg(long, value_enum, default_value = "problem")]
    dialect: Dialect,

    /// How long a client may take to send the headers of a request, and its body, and to take
    /// something of the answer; also how long an idle connection is kept.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    timeout: Duration,

    /// What to tell on standard error: error, warn, info (a line for each request) or debug (also
    /// each conflict).
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "warn")]
    log: Targets,

    /// Serve only who has a token: a file with one line `name:sha256` for each.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// Listen on an address that others can reach without a token, although anybody there can then
    /// read and write everything.
    #[arg(long)]
    insecure: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stale {
    #[value(name = "409")]
    Conflict,
    #[value(name = "412")]
    PreconditionFailed,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dialect {
    /// Problem documents, RFC 9457.
    Problem,
    /// As Google's APIs refuse today.
    Google,
    /// As Google's older APIs refuse.
    GoogleLegacy,
}

impl Serve {
    /// Serves until SIGTERM or Ctrl-C.
    ///
    /// # Errors
    /// What went wrong and what to do about it.
    pub(crate) fn run(self) -> Result<(), String> {
        if self.is_open() && !self.insecure {
            return Err(format!(
                "others can reach {}: name those who may with --tokens FILE, listen on \
                 127.0.0.1, or add --insecure to let anybody who reaches it read and write \
                 everything",
                self.listen.ip()
            ));
        }
        let tokens = self.tokens.as_deref().map(read_tokens).transpose()?;
        log::start(self.log.clone());
        // Before the store: a second server is then told of the port, not of the directory.
        let runtime = Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
        let (listener, address) =
            runtime.block_on(async { bind(self.listen) }).map_err(|error| {
                format!("cannot listen on {}: {error}; choose another --listen", self.listen)
            })?;
        let store = match self.memory {
            true => Store::in_memory(),
            false => open(&self.data).map_err(|error| {
                format!("cannot open the store in {}: {error}", self.data.display())
            })?,
        };
        let status = match self.stale_status {
            Stale::Conflict => StaleStatus::Conflict,
            Stale::PreconditionFailed => StaleStatus::PreconditionFailed,
        };
        let options = RouterOptions::default()
            .stale_status(status)
            .show_values(!self.hide_values)
            .body_timeout(self.timeout);
        let options = match self.dialect {
            Dialect::Problem => options,
            Dialect::Google => options.dialect(Google::default()),
            Dialect::GoogleLegacy => options.dialect(GoogleLegacy::default()),
        };
        let options = match tokens {
            Some(tokens) => options.tokens(tokens),
            None => options,
        };
        let stop = Stop::default();
        let router = options.stop(&stop).router(store.clone());
        let served = runtime
            .block_on(server::serve(listener, router, &stop, self.timeout, || self.greet(address)));
        served.map_err(|error| format!("cannot serve: {error}"))?;
        store.close().map_err(|error| format!("closing the store: {error}"))?;
        say("Stopped; everything acknowledged is kept.\n");
        Ok(())
    }

    /// Whether others than this machine's users can reach the server, without a token.
    fn is_open(&self) -> bool {
        !self.listen.ip().is_loopback() && self.tokens.is_none()
    }

    /// Says where the server is, where the data is, and what to try.
    fn greet(&self, address: SocketAddr) {
        let place = match self.memory {
            true => "in memory, and gone when the server stops".to_owned(),
            false => format!("in {}", self.data.display()),
        };
        let warning = match self.is_open() {
            true => "Anybody who reaches this address can read and write everything.\n",
            false => "",
        };
        let token = match self.tokens {
            Some(_) => " -H \"Authorization: Bearer $TOKEN\"",
            None => "",
        };
        let note = format!("http://{address}/collections/notes/hello");
        say(&format!(
            "ifmatch listens on http://{address}\n\
             Documents are kept {place}\n\
             {warning}\n\
             Try it:\n  \
             curl -i{token} -X PUT {note} -H 'If-None-Match: *' \\\n    \
             -H 'Content-Type: application/json' -d '{{\"text\":\"hello\"}}'\n  \
             curl -i{token} {note}\n  \
             curl -i{token} -X PUT {note} -H 'If-Match: \"the ETag of that answer\"' \\\n    \
             -H 'Content-Type: application/json' -d '{{\"text\":\"hello again\"}}'\n\n"
        ));
    }
}

/// Opens a store and all its collections: what cannot be served is found now, and no request
/// has to wait until a collection is decoded.
fn open(directory: &Path) -> ifmatch::Result<Store> {
    let bar = Bar::new();
    let shown = bar.clone();
    let store = Store::builder().on_progress(move |now| shown.show(now)).open(directory)?;
    bar.clear();
    open_collections(&store)?;
    Ok(store)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "a number from 1 to 86400".to_owned())
}

fn read_tokens(file: &Path) -> Result<Tokens, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read the tokens in {}: {error}", file.display()))?;
    text.parse().map_err(|error| format!("the tokens in {}: {error}", file.display()))
}

/// Must be called within a runtime.
fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started again finds its port free, but on Windows that would mean that two
    // can have it.
    socket.set_reuseaddr(cfg!(unix))?;
    socket.bind(address)?;
    let listener = socket.listen(QUEUE)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Prints; a closed standard output is no reason not to serve.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
