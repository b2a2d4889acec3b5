//! kill -9 under load: everything acknowledged is there afterwards, no version has two contents.
//!
//! The test starts itself as a child that writes from four threads and prints each
//! acknowledgement. Slow for a test, because each round starts and kills a process.

#![cfg(unix)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ifmatch::{Compute, Computed, Store};

const DIRECTORY: &str = "IFMATCH_TEST_KILL_DIRECTORY";
const ROUNDS: u64 = 12;
const KEYS: u64 = 8;

/// Not a test of its own: what the child process runs.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let store = Store::open(directory).unwrap();
    let map = store.collection::<u64, u64>("map").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let map = &map;
            scope.spawn(move || {
                let mut random = fastrand::Rng::new();
                loop {
                    let (key, value) = (random.u64(0..KEYS), random.u64(..));
                    let delete = random.u8(..) < 32;
                    let done = map.compute(key, |old| match old {
                        Some(_) if delete => Compute::Delete,
                        _ => Compute::Put(value),
                    });
                    let line = match done.commit() {
                        Ok(Computed::Put(done)) => format!("put {key} {} {value}", done.version()),
                        Ok(Computed::Deleted(done)) => format!("del {key} {} 0", done.version()),
                        Ok(Computed::Aborted(_)) | Err(_) => continue,
                    };
                    // One system call a line, so that none is torn by the kill.
                    let _ =
                        std::io::stdout().write_all(format!("ACK {line} {thread}\n").as_bytes());
                }
            });
        }
    });
}

/// Of each key the acknowledged writes: version, and value or nothing.
type Acknowledged = HashMap<u64, Vec<(u64, Option<u64>)>>;

fn run_and_kill(directory: &Path, acknowledgements: usize) -> Vec<(u64, u64, Option<u64>)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let parse = |line: String| {
        // The test harness prints its own beginnings of lines.
        let ack = line.split_once("ACK ")?.1;
        let mut fields = ack.split(' ');
        let put = fields.next()? == "put";
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (key, version, value) = (number()?, number()?, number()?);
        Some((key, version, put.then_some(value)))
    };
    let mut seen: Vec<_> =
        lines.by_ref().map_while(Result::ok).filter_map(parse).take(acknowledgements).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    // What was acknowledged between the last line read and the kill.
    seen.extend(lines.map_while(Result::ok).filter_map(parse));
    seen
}

#[test]
fn g3_g2_kill_9_loses_nothing_acknowledged_and_no_version_has_two_contents() {
    let directory = tempfile::tempdir().unwrap();
    let mut contents: HashMap<u64, (u64, Option<u64>)> = HashMap::new();
    let mut acknowledged = Acknowledged::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        for (key, version, value) in run_and_kill(directory.path(), 50 + 100 * round as usize) {
            total += 1;
            let before = contents.insert(version, (key, value));
            assert!(before.is_none_or(|before| before == (key, value)), "version {version}");
            acknowledged.entry(key).or_default().push((version, value));
        }
        check(directory.path(), &mut contents, &acknowledged);
    }
    println!("{ROUNDS} kills, {total} acknowledged writes");
    assert!(total > 50 * ROUNDS);
}

fn check(
    directory: &Path,
    contents: &mut HashMap<u64, (u64, Option<u64>)>,
    acknowledged: &Acknowledged,
) {
    let store = Store::open(directory).unwrap();
    let map = store.collection::<u64, u64>("map").unwrap();
    for (key, writes) in acknowledged {
        let (last, value) = writes.iter().max().unwrap();
        match map.get(*key).unwrap() {
            // Later writes may have landed without being acknowledged, deletes among them.
            None => assert!(value.is_none() || newest_deletion(&map, *key) > *last, "key {key}"),
            Some(entity) => {
                let version = entity.version().get();
                assert!(version >= *last, "key {key} is at {version}, acknowledged was {last}");
                let before = contents.insert(version, (*key, Some(*entity)));
                assert!(before.is_none_or(|before| before == (*key, Some(*entity))));
            }
        }
    }
}

/// The version of the delete that the key shows, zero if none is known.
fn newest_deletion(map: &ifmatch::Collection<u64, u64>, key: u64) -> u64 {
    let refused = map.delete(key).if_exists().commit().unwrap_err();
    let conflict = refused.conflict().unwrap();
    conflict.deletion().map_or(0, |deletion| deletion.version().get())
}
