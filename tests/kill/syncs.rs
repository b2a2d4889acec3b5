//! A sync fails, by strace: the store refuses writes, goes on reading, and never syncs again (G11).

use std::fs;
use std::path::Path;

use crate::child::{Child, Fact};
use crate::evidence::Evidence;
use crate::power::check_end;

/// strace counts the calls of each thread by itself: the first are those of opening.
const LAST_CALL: u64 = 12;

#[test]
#[ignore = "needs strace: see .ci/run"]
fn g11_a_failed_sync_is_told_and_never_tried_again() {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut poisoned, mut not_opened) = (0, 0);
    // Frames are synced by fdatasync, names by fsync.
    for call in ["fdatasync", "fsync"] {
        for when in 1..=LAST_CALL {
            let directory = tempfile::tempdir().unwrap();
            let directory = directory.path();
            let mut evidence = Evidence::default();
            let (facts, trace) = run_and_fail(directory, call, when, &mut evidence);
            poisoned += u64::from(facts.contains(&Fact::Poisoned));
            not_opened += u64::from(facts.contains(&Fact::NotOpened));
            check_trace(&trace);
            evidence.check(directory);
            // And goes on.
            let mut child = Child::start(&[], directory, random.u64(..));
            evidence.take_in(&mut child, 20);
            child.kill();
            evidence.take_in_rest(&mut child);
            evidence.check(directory);
        }
    }
    println!("{poisoned} stores poisoned by a failed sync, {not_opened} not opened");
    assert!(poisoned > LAST_CALL && not_opened > 1);
}

#[test]
#[ignore = "needs strace: see .ci/run"]
fn g3_directories_left_by_a_failed_sync_are_synced_when_opened_again() {
    let place = tempfile::tempdir().unwrap();
    let middle = place.path().join("middle");
    let directory = middle.join("store");
    let mut evidence = Evidence::default();
    let (facts, _) = run_and_fail(&directory, "fsync", 1, &mut evidence);
    assert!(facts.contains(&Fact::NotOpened) && directory.exists());
    let (_, trace) = run_and_fail(&directory, "fdatasync", LAST_CALL, &mut evidence);
    for parent in [place.path(), &middle] {
        let named = format!("<{}>)", parent.display());
        let synced = trace.lines().any(|line| line.contains(&named) && line.ends_with("= 0"));
        assert!(synced, "the names in {} are not durable:\n{trace}", parent.display());
    }
}

/// Runs a child until the n-th such call of one of its threads fails. Returns what it told, and
/// its syncs as strace saw them.
fn run_and_fail(
    directory: &Path,
    call: &str,
    when: u64,
    evidence: &mut Evidence,
) -> (Vec<Fact>, String) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let output = format!("-o{}", trace.path().display());
    let inject = format!("inject={call}:error=EIO:when={when}");
    let strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", &output];
    let strace = [&strace[..], &["-e", "trace=fdatasync,fsync", "-e", &inject]].concat();
    let mut child = Child::start(&strace, directory, when);
    let facts = evidence.take_in_rest(&mut child);
    check_end(&mut child, &facts);
    (facts, fs::read_to_string(trace.path()).unwrap())
}

/// No sync begins after the one that failed.
fn check_trace(trace: &str) {
    let mut lines = trace.lines().skip_while(|line| !line.contains("(INJECTED)"));
    let failed = lines.next().expect("a sync failed");
    let again = lines.find(|line| line.contains(" fdatasync(") || line.contains(" fsync("));
    assert_eq!(again, None, "after {failed}");
}
