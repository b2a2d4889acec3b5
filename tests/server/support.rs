//! The program as a child, and a client that speaks HTTP byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

pub(crate) const PATH: &str = "/collections/shifts/s-17";
pub(crate) const CREATE: &str = "If-None-Match: *\r\nContent-Type: application/json\r\n";

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(data: &Path) -> Server {
        Server::start_with(data, &[])
    }

    pub(crate) fn start_with(data: &Path, arguments: &[&str]) -> Server {
        Server::run(serve().arg("--data").arg(data).args(arguments))
    }

    /// Without a disk, and with these arguments.
    pub(crate) fn in_memory(arguments: &[&str]) -> Server {
        Server::run(serve().arg("--memory").args(arguments))
    }

    /// As [`in_memory`](Server::in_memory), where it may open so many files.
    #[cfg(unix)]
    pub(crate) fn with_files(most: u32, arguments: &[&str]) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_ifmatch"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--memory"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Server::run(&mut command)
    }

    fn run(command: &mut Command) -> Server {
        let mut child = command.spawn().expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a greeting");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        // Keeps the pipe open, and empty.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Server { child, address }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        stream
    }

    /// Sends all of this, and reads all that comes until the server closes.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes);
        read_to_end(&mut stream)
    }

    /// Sends one request and reads all of the answer.
    pub(crate) fn call(&self, method: &str, headers: &str, body: &str) -> Answer {
        self.try_call(method, headers, body).expect("an answer")
    }

    /// `None` if there is no whole answer.
    pub(crate) fn try_call(&self, method: &str, headers: &str, body: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(request(method, headers, body).as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Answer::parse(&text)
    }

    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    #[cfg(unix)]
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL on Unix: the program gets no chance to tidy up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(stream: &mut TcpStream) -> Answer {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        Answer::parse(&text).expect("a whole answer")
    }

    /// `None` if it was cut off.
    pub(crate) fn parse(text: &str) -> Option<Answer> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        let whole = answer.header("content-length").is_none_or(|len| len == body.len().to_string());
        whole.then_some(answer)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn tag(&self) -> &str {
        self.header("etag").unwrap_or_else(|| panic!("no tag in {}", self.head))
    }
}

pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it is kept open"),
        // What is closed with something unread is reset.
        _ => answer,
    }
}

pub(crate) fn serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn request(method: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
