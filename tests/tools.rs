//! The commands that look after a store: what they say, and how they end.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ifmatch::Store;

fn run(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    command.args(arguments).current_dir(place).output().unwrap()
}

/// Succeeds; returns what it said.
fn said(place: &Path, arguments: &[&str]) -> String {
    let output = run(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "no bar where there is no terminal: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this code; returns the complaint.
fn complains(place: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(place, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A directory with a store, for one test at a time: a process that is being started has the
/// locks of this one for a moment, and a store that was just closed would be in use.
fn place() -> (tempfile::TempDir, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    let store = Store::builder().segment_bytes(4096).open(place.path().join("ifmatch-data"));
    let store = store.unwrap();
    let rows = store.collection::<String, String>("rows").unwrap();
    for number in 0..300 {
        rows.put(format!("k{}", number % 7), "x".repeat(50)).unconditional().commit().unwrap();
    }
    rows.delete("k3").if_exists().commit().unwrap();
    drop(rows);
    store.close().unwrap();
    (place, turn)
}

/// Flips a byte of the oldest segment.
fn damage(place: &Path) {
    let file = place.join("ifmatch-data/00000000000000000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn verify_says_what_is_there_and_fails_with_1_or_2() {
    let (place, _turn) = place();
    let here = place.path();
    let report = said(here, &["verify"]);
    for part in ["last version 301; closed cleanly", "collection rows: 6 entities, 1 deletions"] {
        assert!(report.contains(part), "{report}");
    }
    damage(here);
    let output = run(here, &["verify", "--data", "ifmatch-data"]);
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.contains("DAMAGED 00000000000000000001.log at byte 64"), "{report}");
    assert!(report.contains("1 place is damaged"), "{report}");
    assert!(complains(here, &["verify", "--data", "absent"], 2).contains("cannot list absent"));
    std::fs::create_dir(here.join("empty")).unwrap();
    let complaint = complains(here, &["verify", "--data", "empty"], 2);
    assert!(complaint.contains("not a store"), "{complaint}");
}

#[test]
fn backup_and_restore_say_how_much_and_where() {
    let (place, _turn) = place();
    let here = place.path();
    let told = said(here, &["backup", "monday"]);
    assert!(told.contains("up to version 301"), "{told}");
    assert!(said(here, &["verify", "--data", "monday"]).contains("backup of lineage"));
    let told = said(here, &["restore", "monday", "--data", "new"]);
    for part in ["6 entities in 1 collections, 1 deletions", "versions go on above 301"] {
        assert!(told.contains(part), "{told}");
    }
    let store = Store::open(here.join("new")).unwrap();
    let rows = store.collection::<String, String>("rows").unwrap();
    assert_eq!(rows.len().unwrap(), 6);
    // The program works beside a store that is open.
    let told = said(here, &["backup", "--data", "new", "tuesday"]);
    assert!(told.contains("tuesday"), "{told}");
    let complaint = complains(here, &["restore", "monday"], 1);
    assert!(complaint.contains("ifmatch-data is not empty"), "{complaint}");
    let complaint = complains(here, &["backup", "monday"], 1);
    assert!(complaint.contains("monday is not empty"), "{complaint}");
    let complaint = complains(here, &["serve", "--data", "monday", "--listen", "127.0.0.1:0"], 1);
    assert!(complaint.contains("ifmatch restore"), "{complaint}");
}

#[test]
fn compact_says_what_was_freed_and_that_more_goes_with_the_next() {
    let (place, _turn) = place();
    let here = place.path();
    let data = here.join("ifmatch-data");
    let logs = || {
        let names = std::fs::read_dir(&data).unwrap();
        names
            .filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|e| e == "log"))
            .count()
    };
    let before = logs();
    let told = said(here, &["compact"]);
    assert!(told.contains("Two snapshots are kept"), "{told}");
    assert_eq!(logs(), before, "there is one snapshot");
    let store = Store::open(&data).unwrap();
    let rows = store.collection::<String, String>("rows").unwrap();
    rows.put("k1", "y".to_owned()).unconditional().commit().unwrap();
    let complaint = complains(here, &["compact"], 1);
    assert!(complaint.contains("open in another store"), "{complaint}");
    drop(rows);
    store.close().unwrap();
    let told = said(here, &["compact"]);
    assert!(told.contains("bytes freed"), "{told}");
    assert!(logs() < before);
    assert!(said(here, &["verify"]).contains("whole"));
    let complaint = complains(here, &["compact", "--data", "absent"], 1);
    assert!(complaint.contains("there is no absent"), "{complaint}");
    assert!(!here.join("absent").exists());
}

#[test]
fn repair_says_what_is_missing_and_where_the_rest_is() {
    let (place, _turn) = place();
    let here = place.path();
    let told = said(here, &["repair", "whole"]);
    assert!(told.contains("301 commits") && told.contains("No version is missing"), "{told}");
    assert!(!here.join("whole.dropped").exists());
    // Behind the record that names the collection.
    let file = here.join("ifmatch-data/00000000000000000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[400] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let told = said(here, &["repair", "mended/"]);
    for part in ["Dropped ", "300 commits", "mended/.dropped", "Missing are versions"] {
        let part = part.replace("/.dropped", ".dropped");
        assert!(told.contains(&part), "{part}: {told}");
    }
    assert!(here.join("mended.dropped").exists());
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the source is unchanged");
    assert!(said(here, &["verify", "--data", "mended"]).contains("whole"));
    let complaint = complains(here, &["repair", "mended"], 1);
    assert!(complaint.contains("mended.dropped"), "{complaint}");
    let complaint = complains(here, &["repair", "--data", "absent", "new"], 1);
    assert!(complaint.contains("absent"), "{complaint}");
    assert!(!here.join("new").exists() && !here.join("absent").exists());
}

#[test]
fn dump_and_load_go_through_files_and_pipes() {
    let (place, _turn) = place();
    let here = place.path();
    let told = said(here, &["dump", "all.jsonl"]);
    assert!(told.contains("6 entities and 1 remembered deletions, up to version 301"), "{told}");
    let lines = std::fs::read(here.join("all.jsonl")).unwrap();
    let output = run(here, &["dump", "--data", "ifmatch-data"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, lines);
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("Dumped ifmatch-data"));
    let told = said(here, &["load", "--data", "new", "all.jsonl"]);
    assert!(told.contains("Loaded new: 6 entities in 1 collections"), "{told}");
    let input = std::fs::File::open(here.join("all.jsonl")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    let output = command.args(["load", "--data", "piped"]).current_dir(here).stdin(input).output();
    assert!(output.unwrap().status.success());
    assert!(said(here, &["verify", "--data", "piped"]).contains("6 entities"));
    for (arguments, says) in [
        (["dump", "--data", "ifmatch-data", "all.jsonl"], "cannot write all.jsonl"),
        (["dump", "--data", "absent", "none.jsonl"], "absent"),
        (["load", "--data", "other", "absent.jsonl"], "cannot read absent.jsonl"),
        (["load", "--data", "other", "ifmatch-data/meta"], "line 1 cannot be loaded"),
        (["load", "--data", "new", "all.jsonl"], "new is not empty"),
    ] {
        let complaint = complains(here, &arguments, 1);
        assert!(complaint.contains(says), "{complaint}");
    }
    assert!(!here.join("other").exists() && !here.join("none.jsonl").exists());
}
