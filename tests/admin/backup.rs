//! Backups: of stores in every state, beside writers, and back (G2, G3, G10).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ifmatch::admin::on_disk::{backup, restore, verify};
use ifmatch::testing::{Call, Crash, Disk, Fault, MemoryDisk, PowerCut, Unsynced};
use ifmatch::{Durability, Error, Store};

use crate::support::{Zoo, builder, bytes, copy, disk, files, open, picture, unclean};

#[test]
fn g2_a_restored_store_is_the_same_under_a_new_lineage() {
    for source in [disk(0), disk(1), disk(2), disk(3), unclean(0), unclean(2)] {
        let before = bytes(&source);
        let (copied, restored) = (MemoryDisk::new(), MemoryDisk::new());
        let told = backup(&source, &copied).unwrap();
        let report = verify(&copied).unwrap();
        assert!(report.is_whole() && report.is_backup, "{report}");
        assert_eq!(report.last_version, Some(told.last_version));
        let in_backup = bytes(&copied);
        let written = restore(&copied, &restored).unwrap();
        assert_eq!(bytes(&source), before, "the store is unchanged");
        assert_eq!(bytes(&copied), in_backup, "and so is the backup");
        assert!(verify(&restored).unwrap().is_whole());
        let expected = picture(&source);
        assert_eq!(picture(&restored), expected);
        let (old, new) = (open(&source).unwrap(), open(&restored).unwrap());
        assert_ne!(new.lineage(), old.lineage());
        assert_eq!(new.lineage(), written.lineage);
        let next = Zoo::of(&new).rows.put(1, 1).unconditional().commit().unwrap().version();
        assert_eq!(next.get(), told.last_version + 1, "numbering goes on");
        new.close().unwrap();
        assert_eq!(picture(&restored).len(), expected.len());
    }
}

#[test]
fn an_empty_store_can_be_backed_up_and_restored() {
    let (source, copied, restored) = (MemoryDisk::new(), MemoryDisk::new(), MemoryDisk::new());
    open(&source).unwrap().close().unwrap();
    assert_eq!(backup(&source, &copied).unwrap().last_version, 0);
    restore(&copied, &restored).unwrap();
    assert!(open(&restored).unwrap().collections().is_empty());
}

#[test]
fn a_backup_of_a_backup_is_one() {
    let (first, second, restored) = (MemoryDisk::new(), MemoryDisk::new(), MemoryDisk::new());
    let source = disk(2);
    backup(&source, &first).unwrap();
    backup(&first, &second).unwrap();
    restore(&second, &restored).unwrap();
    assert_eq!(picture(&restored), picture(&source));
}

#[test]
fn a_backup_cannot_be_opened_nor_a_store_restored() {
    let (source, copied) = (disk(1), MemoryDisk::new());
    backup(&source, &copied).unwrap();
    let before = bytes(&copied);
    let error = open(&copied).err().unwrap();
    assert!(matches!(error, Error::NotAStore { .. }));
    assert!(error.to_string().contains("ifmatch restore"), "{error}");
    assert_eq!(bytes(&copied), before);
    let error = restore(&source, &MemoryDisk::new()).unwrap_err();
    assert!(matches!(error, Error::NotABackup { .. }));
    assert!(error.to_string().contains("ifmatch backup"), "{error}");
    let nothing = restore(&MemoryDisk::new(), &MemoryDisk::new()).unwrap_err();
    assert!(matches!(nothing, Error::NotABackup { .. }));
    assert!(matches!(backup(&MemoryDisk::new(), &MemoryDisk::new()), Err(Error::NotAStore { .. })));
}

#[test]
fn what_is_there_is_not_written_over() {
    let (source, copied) = (disk(1), MemoryDisk::new());
    backup(&source, &copied).unwrap();
    for target in [disk(0), copy(&copied)] {
        let before = bytes(&target);
        assert!(matches!(backup(&source, &target), Err(Error::NotEmpty(_))));
        assert!(matches!(restore(&copied, &target), Err(Error::NotEmpty(_))));
        assert_eq!(bytes(&target), before);
    }
    let held = MemoryDisk::new();
    let _lock = held.lock().unwrap();
    assert!(matches!(backup(&source, &held), Err(Error::InUse(_))));
    assert!(matches!(restore(&copied, &held), Err(Error::InUse(_))));
}

#[test]
fn g10_damage_is_not_copied() {
    let intact = disk(2);
    for name in files(&intact, ".log").iter().skip(1) {
        let damaged = copy(&intact);
        damaged.damage(name, |bytes| bytes[90] ^= 1);
        let target = MemoryDisk::new();
        match backup(&damaged, &target) {
            Err(Error::Corrupt { path, .. }) => {
                assert!(path.ends_with(name), "{path:?}");
                assert!(bytes(&target).is_empty(), "there is no backup");
            }
            // It lies behind the snapshot.
            Ok(_) => {
                let restored = MemoryDisk::new();
                restore(&target, &restored).unwrap();
                assert_eq!(picture(&restored), picture(&intact), "{name}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
    let newest = files(&intact, ".snapshot").pop().unwrap();
    let damaged = copy(&intact);
    damaged.damage(&newest, |bytes| bytes[90] ^= 1);
    let (target, restored) = (MemoryDisk::new(), MemoryDisk::new());
    let told = backup(&damaged, &target).unwrap();
    assert_eq!(told.passed_over[0].file, newest);
    assert_eq!(files(&target, ".snapshot").len(), 1);
    restore(&target, &restored).unwrap();
    assert_eq!(picture(&restored), picture(&intact));
}

#[test]
fn g10_each_flipped_byte_of_a_backup_is_refused() {
    let copied = MemoryDisk::new();
    backup(&disk(1), &copied).unwrap();
    let mut refused = 0;
    for (name, content) in bytes(&copied) {
        let frames = content.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..=frames).step_by(7) {
            let damaged = copy(&copied);
            damaged.damage(&name, |bytes| bytes[at] ^= 4);
            let target = MemoryDisk::new();
            if restore(&damaged, &target).is_err() {
                assert!(bytes(&target).is_empty());
                refused += 1;
            } else {
                // Only what could be the tear of an unclean stop: it ends with a seal.
                assert!(name.ends_with(".log") || name.ends_with(".snapshot"), "{name} {at}");
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

/// Each writer counts up in a row of its own. In a backup, each row is at least where it was
/// acknowledged before, and the rows are those of one moment: all commits up to a version.
#[test]
fn g3_beside_writers_everything_acknowledged_before_is_in_it() {
    for durability in [Durability::Sync, Durability::None] {
        let place = tempfile::tempdir().unwrap();
        let builder = || builder().segment_bytes(16 << 10).durability(durability);
        let store = builder().open(place.path().join("store")).unwrap();
        let rows = store.collection::<u64, u64>("rows").unwrap();
        // What each version wrote.
        let log = std::sync::Mutex::new(BTreeMap::new());
        let acknowledged = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|scope| {
            let (rows, log, acknowledged) = (&rows, &log, &acknowledged);
            let writers = [0, 1].map(|row| {
                scope.spawn(move || {
                    for count in 1..1_200 {
                        let done = rows.put(row, count).unconditional().commit().unwrap();
                        log.lock().unwrap().insert(done.version().get(), (row, count));
                        acknowledged[row as usize].store(count, Ordering::SeqCst);
                    }
                })
            });
            let mut backups = Vec::new();
            while backups.len() < 4 || writers.iter().any(|writer| !writer.is_finished()) {
                let before = [0, 1].map(|row: usize| acknowledged[row].load(Ordering::SeqCst));
                let to = place.path().join(format!("backup-{}", backups.len()));
                let told = store.backup(&to).unwrap();
                backups.push((to, told, before));
                store.snapshot().unwrap();
            }
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            for (place, told, before) in backups {
                let to = place.with_extension("restored");
                ifmatch::admin::restore(&place, &to, &|_| {}).unwrap();
                let restored = builder().open(&to).unwrap();
                let found = restored.collection::<u64, u64>("rows").unwrap();
                let mut expected = BTreeMap::new();
                for (_, (row, count)) in log.lock().unwrap().range(..=told.last_version) {
                    expected.insert(*row, *count);
                }
                for row in [0, 1] {
                    let value = found.get(row).unwrap().map(|entity| *entity);
                    assert_eq!(value, expected.get(&row).copied(), "up to {}", told.last_version);
                    assert!(value.unwrap_or(0) >= before[row as usize]);
                }
            }
        });
    }
}

#[test]
fn a_store_in_memory_has_no_files_to_back_up() {
    let place = tempfile::tempdir().unwrap();
    let error = Store::in_memory().backup(place.path().join("to")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn g11_a_crash_or_failure_in_the_middle_leaves_no_store_and_no_backup() {
    let source = disk(2);
    let copied = MemoryDisk::new();
    backup(&source, &copied).unwrap();
    let restored = MemoryDisk::new();
    restore(&copied, &restored).unwrap();
    let expected = picture(&source);
    for (target, is_backup) in [(&copied, true), (&restored, false)] {
        // It was opened above by nobody: all calls are the tool's.
        let calls = target.calls();
        let mut whole = 0;
        for call in 0..=calls {
            for writes in [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn] {
                let cut = PowerCut { writes, names: ifmatch::testing::Names::Kept, seed: 1 };
                let after = target.crash(call, Crash::Power(cut));
                let has = |name: &str| after.list().unwrap().iter().any(|file| file == name);
                if is_backup && has("backup") {
                    let to = MemoryDisk::new();
                    restore(&after, &to).unwrap();
                    assert_eq!(picture(&to), expected);
                    whole += 1;
                } else if !is_backup && has("meta") {
                    assert_eq!(picture(&after), expected);
                    whole += 1;
                } else if let Ok(store) = open(&after) {
                    assert!(store.collections().is_empty(), "it is a new one, and empty");
                    let left: Vec<_> = files(&after, ".snapshot");
                    assert!(left.is_empty(), "{left:?}");
                }
            }
        }
        assert!(whole > 0, "the last calls leave a whole one");
    }
    for call in [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::SyncNames] {
        for nth in 1..4 {
            let target = MemoryDisk::new();
            let error = std::io::ErrorKind::Other;
            let fault = Fault { call, nth, lasting: false, short: true, error };
            target.fail(fault);
            let backed_up = target.crash(0, Crash::Process);
            backed_up.fail(fault);
            for (failed, target) in [
                (restore(&copied, &target).is_err(), &target),
                (backup(&source, &backed_up).is_err(), &backed_up),
            ] {
                assert_eq!(failed, target.injected() > 0, "{call:?} {nth}");
                assert!(!failed || files(target, "").is_empty(), "{call:?} {nth}: {target:?}");
            }
        }
    }
}
