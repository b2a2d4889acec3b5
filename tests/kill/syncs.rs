//! A sync fails, by strace: the store refuses writes, goes on reading, and never syncs again (G11).

use std::fs;

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
            let place = tempfile::tempdir().unwrap();
            let (trace, directory) = (place.path().join("trace"), place.path().join("store"));
            let inject = format!("inject={call}:error=EIO:when={when}");
            let trace_name = trace.to_str().unwrap();
            let strace = [
                "strace",
                "-f",
                "--seccomp-bpf",
                "-qq",
                "-o",
                trace_name,
                "-e",
                "trace=fdatasync,fsync",
            ];
            let strace = [&strace[..], &["-e", &inject]].concat();
            // The directory is there already, so that all syncs are the store's.
            fs::create_dir(&directory).unwrap();
            let mut evidence = Evidence::default();
            let mut child = Child::start(&strace, &directory, random.u64(..));
            let facts = evidence.take_in_rest(&mut child);
            check_end(&mut child, &facts);
            poisoned += u64::from(facts.contains(&Fact::Poisoned));
            not_opened += u64::from(facts.contains(&Fact::NotOpened));
            check_trace(&fs::read_to_string(trace).unwrap());
            evidence.check(&directory);
            // And goes on.
            let mut child = Child::start(&[], &directory, random.u64(..));
            evidence.take_in(&mut child, 20);
            child.kill();
            evidence.take_in_rest(&mut child);
            evidence.check(&directory);
        }
    }
    println!("{poisoned} stores poisoned by a failed sync, {not_opened} not opened");
    assert!(poisoned > LAST_CALL && not_opened > 1);
}

/// No sync begins after the one that failed.
fn check_trace(trace: &str) {
    let mut lines = trace.lines().skip_while(|line| !line.contains("(INJECTED)"));
    let failed = lines.next().expect("a sync failed");
    let again = lines.find(|line| line.contains(" fdatasync(") || line.contains(" fsync("));
    assert_eq!(again, None, "after {failed}");
}
