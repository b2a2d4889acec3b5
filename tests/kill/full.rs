//! A real disk fills up: nothing acknowledged is lost, and with space again writes go on (G11).

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use ifmatch::{Collection, Error, Store};

use crate::child::builder;
use crate::power::RealDisk;

const LEFT_FREE: u64 = 1 << 20;

#[test]
#[ignore = "needs a file system to fill: see .ci/run"]
fn g11_a_full_disk_is_told_and_survived() {
    let disk = RealDisk::given();
    let (directory, ballast) = (disk.mount.join("store"), disk.mount.join("ballast"));
    let store = builder().open(&directory).unwrap();
    fill(&ballast);
    let mut written = 0;
    for round in 1..=3 {
        let refusal = write_until_refused(&store, &mut written);
        assert!(tells_of_a_full_disk(&refusal), "{refusal}");
        check(&rows(&store), written);
        fs::remove_file(&ballast).unwrap();
        check(&rows(&store), written);
        rows(&store).create(written, vec![0; 4_000]).commit().unwrap();
        written += 1;
        fill(&ballast);
        println!("the disk was full {round} times, with {written} rows");
    }
    assert!(written > 10);
}

/// How a store refuses a write for which there is no space.
fn tells_of_a_full_disk(error: &Error) -> bool {
    matches!(error, Error::DiskFull { source, .. } if source.kind() == ErrorKind::StorageFull)
}

fn rows(store: &Store) -> Collection<u64, Vec<u8>> {
    store.collection("rows").unwrap()
}

fn write_until_refused(store: &Store, written: &mut u64) -> Error {
    loop {
        match rows(store).create(*written, vec![*written as u8; 4_000]).commit() {
            Ok(_) => *written += 1,
            Err(error) => return error,
        }
    }
}

fn check(rows: &Collection<u64, Vec<u8>>, written: u64) {
    for key in 0..written {
        assert!(rows.contains(key).unwrap(), "row {key} of {written} is gone");
    }
}

/// Takes all the space but a little.
fn fill(ballast: &Path) {
    let mut file = File::create(ballast).unwrap();
    let zeroes = vec![0; 64 << 10];
    let mut len: u64 = 0;
    while let Ok(more) = file.write(&zeroes) {
        len += more as u64;
    }
    file.set_len(len.saturating_sub(LEFT_FREE)).unwrap();
    file.sync_all().unwrap();
}
