//! The child process: it writes and reads in all ways from several threads, and tells each thing
//! that it learns in a line of its own.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::{self, ChildStdout, Command, ExitStatus, Stdio};
use std::task::Poll;
use std::time::SystemTime;

use ifmatch::{
    Collection, Committed, Compute, Computed, Deleted, Error, Outcome, Result, Store, StoreBuilder,
    Version,
};

use crate::common::block_on;
use crate::proof::{self, Told};

const DIRECTORY: &str = "IFMATCH_TEST_CHILD_DIRECTORY";
const SEED: &str = "IFMATCH_TEST_CHILD_SEED";

/// Few, so that threads collide.
const KEYS: u64 = 6;
const THREADS: u64 = 5;
/// Threads that take steps of the whole conflict model, and how many keys each may lease.
const PROVERS: u64 = 2;
const LEASED: u64 = 16;
/// How much a thread still does when writes are refused for good: reads go on.
const STEPS_WHEN_POISONED: u64 = 20;

/// What the child tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    Opening,
    /// The store did not open because the file system refused.
    NotOpened,
    Acknowledged(State),
    /// Read, or shown by a refusal.
    Seen(State),
    /// Read to be absent, which rests on this version or a higher one.
    Gone(Key, u64),
    /// A value that was refused, and so was never written.
    Never(Key, u64),
    Poisoned,
    /// Of the whole conflict model.
    Told(Told),
}

/// Which entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Of the collection `counters`, whose values are only counted up; else of `rows`.
    pub(crate) counter: bool,
    pub(crate) number: u64,
}

/// What a commit left at a key: a value, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) key: Key,
    pub(crate) version: u64,
    pub(crate) value: Option<u64>,
}

/// A running child.
pub(crate) struct Child {
    process: process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts a child on a store, under a program like strace where `wrapper` names one.
    pub(crate) fn start(wrapper: &[&str], directory: &Path, seed: u64) -> Child {
        let program = std::env::current_exe().unwrap();
        let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(|word| word.as_ref()).collect();
        words.push(program.as_os_str());
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .args(["--exact", "child_process", "--nocapture"])
            .env(DIRECTORY, directory)
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Child { process, lines }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

/// No child outlives a test that fails.
impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Iterator for Child {
    type Item = Fact;

    fn next(&mut self) -> Option<Fact> {
        loop {
            let line = self.lines.next()?.unwrap();
            // The test harness has lines, and beginnings of lines, of its own.
            if let Some((_, told)) = line.split_once("> ") {
                return Some(parse(told).unwrap_or_else(|| panic!("the child says: {told}")));
            }
        }
    }
}

fn parse(told: &str) -> Option<Fact> {
    if let Some(told) = told.strip_prefix("told ") {
        return serde_json::from_str(told).ok().map(Fact::Told);
    }
    let mut words = told.split(' ');
    let verb = words.next()?;
    if let Some(fact) = match verb {
        "opening" => Some(Fact::Opening),
        "not-opened" => Some(Fact::NotOpened),
        "poisoned" => Some(Fact::Poisoned),
        _ => None,
    } {
        return Some(fact);
    }
    let counter = words.next()? == "counters";
    let key = Key { counter, number: words.next()?.parse().ok()? };
    let number = words.next()?.parse().ok()?;
    let value = words.next().map(|word| word.parse().ok());
    match (verb, value) {
        ("ack", Some(value)) => Some(Fact::Acknowledged(State { key, version: number, value })),
        ("saw", Some(value)) => Some(Fact::Seen(State { key, version: number, value })),
        ("gone", None) => Some(Fact::Gone(key, number)),
        ("never", None) => Some(Fact::Never(key, number)),
        _ => None,
    }
}

/// Small segments, so that new ones are started under load.
pub(crate) fn builder() -> StoreBuilder {
    Store::builder().segment_bytes(16 << 10)
}

pub(crate) fn run_if_told_to() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    tell(format_args!("opening"));
    let store = match builder().open(directory) {
        Ok(store) => store,
        Err(Error::Io { .. }) => return tell(format_args!("not-opened")),
        Err(error) => return broken(&error),
    };
    let (rows, counters) = match (store.collection("rows"), store.collection("counters")) {
        (Ok(rows), Ok(counters)) => (rows, counters),
        (Err(error), _) | (_, Err(error)) => return broken(&error),
    };
    std::thread::scope(|scope| {
        for prover in 0..PROVERS {
            let store = &store;
            scope.spawn(move || prove(store, prover, seed));
        }
        for thread in 0..THREADS {
            let worker = Worker {
                rows: &rows,
                counters: &counters,
                random: fastrand::Rng::with_seed(seed ^ thread),
                awaits: thread % 2 == 1,
                known: BTreeMap::new(),
                poisoned: 0,
            };
            scope.spawn(move || worker.run());
        }
    });
}

/// Takes steps until the store takes no more.
fn prove(store: &Store, number: u64, seed: u64) {
    let tell = |told| tell(format_args!("told {}", serde_json::to_string(&told).unwrap()));
    let tools = proof::Tools { store, now: &SystemTime::now, tell: &tell };
    match proof::Worker::new(tools, number, LEASED, seed) {
        Ok(mut worker) => while worker.step().is_continue() {},
        Err(Error::Poisoned { .. }) => {}
        Err(error) => broken(&error),
    }
}

/// One system call a line, so that none is torn by a kill. Nobody listens: nothing to do.
fn tell(line: std::fmt::Arguments<'_>) {
    if std::io::stdout().write_all(format!("> {line}\n").as_bytes()).is_err() {
        process::exit(1);
    }
}

/// Says something that the parent fails on.
fn broken(what: &impl std::fmt::Display) {
    tell(format_args!("broken: {what}"));
}

/// Runs a write by blocking or by awaiting it.
macro_rules! run {
    ($worker:ident, $write:expr) => {
        if $worker.awaits { block_on($write) } else { $write.commit() }
    };
}

/// A thread of the child.
struct Worker<'a> {
    rows: &'a Collection<u64, u64>,
    counters: &'a Collection<u64, u64>,
    random: fastrand::Rng,
    awaits: bool,
    /// The newest version that this thread knows of a key, and whether it is a value.
    known: BTreeMap<Key, (u64, bool)>,
    poisoned: u64,
}

impl Worker<'_> {
    fn run(mut self) {
        while self.poisoned < STEPS_WHEN_POISONED {
            let key = Key { counter: self.random.u8(..) < 64, number: self.random.u64(0..KEYS) };
            self.read(key);
            if key.counter { self.count(key) } else { self.write(key) }
        }
    }

    fn read(&mut self, key: Key) {
        let collection = if key.counter { self.counters } else { self.rows };
        match collection.get(key.number) {
            Ok(Some(entity)) => self.saw(key, entity.version().get(), Some(*entity)),
            Ok(None) => self.gone(key),
            Err(error) => broken(&error),
        }
    }

    fn count(&mut self, key: Key) {
        match run!(self, self.counters.update(key.number, |count| *count += 1)) {
            // Not there yet: this thread or another creates it.
            Err(error) if error.is_conflict() => {
                self.refused(key, &error);
                let created = run!(self, self.counters.create(key.number, 0));
                self.put(key, None, created);
            }
            answer => self.put(key, None, answer),
        }
    }

    fn write(&mut self, key: Key) {
        let (rows, number, value) = (self.rows, key.number, self.random.u64(..));
        let known = self.known.get(&key).map_or(1, |(known, _)| *known);
        let known = Version::new(known).unwrap();
        match self.random.u8(0..10) {
            0..3 => self.put(key, Some(value), run!(self, rows.put(number, value).if_match(known))),
            3..5 => self.put(key, Some(value), run!(self, rows.create(number, value))),
            5 => self.deleted(key, run!(self, rows.delete(number).if_match(known))),
            6 => self.deleted(key, run!(self, rows.delete(number).unconditional())),
            7 | 8 => {
                let delete = self.random.u8(0..4) == 0;
                let decide = |old: Option<&u64>| match old {
                    Some(_) if delete => Compute::Delete,
                    _ => Compute::Put(value),
                };
                match run!(self, rows.compute(number, decide)) {
                    Ok(Computed::Put(done)) => self.put(key, Some(value), Ok(done)),
                    Ok(Computed::Deleted(done)) => self.deleted(key, Ok(done)),
                    Ok(Computed::Aborted(_)) => broken(&"aborted by itself"),
                    Err(error) => self.put(key, Some(value), Err(error)),
                }
            }
            _ => self.several_at_once(),
        }
    }

    /// Futures that are under way together. The last is polled and then dropped.
    fn several_at_once(&mut self) {
        let mut writes: Vec<_> = (0..4)
            .map(|_| {
                let (number, value) = (self.random.u64(0..KEYS), self.random.u64(..));
                let write = self.rows.put(number, value).unconditional().into_future();
                (number, value, write, None)
            })
            .collect();
        block_on(poll_fn(|context| {
            for (_, _, write, answer) in &mut writes {
                if answer.is_none()
                    && let Poll::Ready(done) = Pin::new(write).poll(context)
                {
                    *answer = Some(done);
                }
            }
            let all = writes[..3].iter().all(|(_, _, _, answer)| answer.is_some());
            if all { Poll::Ready(()) } else { Poll::Pending }
        }));
        for (number, value, _, answer) in writes {
            if let Some(answer) = answer {
                self.put(Key { counter: false, number }, Some(value), answer);
            }
        }
    }

    /// `refused` is the value that was not written if the answer says so; values of counters
    /// come again and are not looked for.
    fn put(&mut self, key: Key, refused: Option<u64>, answer: Result<Committed<u64>>) {
        match answer {
            Ok(done) => self.acknowledged(key, done.version().get(), Some(*done.value())),
            Err(error) => {
                let unknown = matches!(error, Error::Poisoned { outcome: Outcome::Unknown, .. });
                if let Some(value) = refused.filter(|_| !unknown) {
                    tell(format_args!("never {key} {value}"));
                }
                self.refused(key, &error);
            }
        }
    }

    fn deleted(&mut self, key: Key, answer: Result<Deleted>) {
        match answer {
            Ok(done) => self.acknowledged(key, done.version().get(), None),
            Err(error) => self.refused(key, &error),
        }
    }

    fn refused(&mut self, key: Key, error: &Error) {
        match error {
            Error::Conflict(conflict) => match (conflict.current::<u64>(), conflict.deletion()) {
                (Some(entity), _) => self.saw(key, entity.version().get(), Some(*entity)),
                (None, Some(deletion)) => self.saw(key, deletion.version().get(), None),
                (None, None) => self.gone(key),
            },
            Error::Poisoned { .. } => {
                self.poisoned += 1;
                tell(format_args!("poisoned"));
            }
            error => broken(error),
        }
    }

    fn acknowledged(&mut self, key: Key, version: u64, value: Option<u64>) {
        tell(format_args!("ack {}", State { key, version, value }));
        let known = self.known.entry(key).or_default();
        *known = (version, value.is_some()).max(*known);
    }

    /// What a thread sees never goes back to before what it knows.
    fn saw(&mut self, key: Key, version: u64, value: Option<u64>) {
        let known = self.known.entry(key).or_default();
        if version < known.0 {
            broken(&format_args!("version {version} of {key} is seen, after {}", known.0));
        }
        *known = (version, value.is_some());
        tell(format_args!("saw {}", State { key, version, value }));
    }

    fn gone(&mut self, key: Key) {
        if let Some((known, is_value)) = self.known.get(&key) {
            tell(format_args!("gone {key} {}", known + u64::from(*is_value)));
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let collection = if self.counter { "counters" } else { "rows" };
        write!(f, "{collection} {}", self.number)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { key, version, value } = self;
        match value {
            Some(value) => write!(f, "{key} {version} {value}"),
            None => write!(f, "{key} {version} -"),
        }
    }
}
