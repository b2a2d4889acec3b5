//! `verify` finds what opening finds, and more, and changes nothing (G10).

use ifmatch::Error;
use ifmatch::admin::Content;
use ifmatch::admin::on_disk::verify;
use ifmatch::testing::{Disk, MemoryDisk};

use crate::support::{Zoo, builder, bytes, copy, disk, files, open, unclean};

#[test]
fn g10_a_whole_store_is_told_in_full() {
    for snapshots in 0..3 {
        let disk = disk(snapshots);
        let before = bytes(&disk);
        let report = verify(&disk).unwrap();
        assert!(report.is_whole() && report.closed && !report.is_backup, "{report}");
        assert_eq!(bytes(&disk), before, "nothing was changed");
        let store = open(&disk).unwrap();
        assert_eq!(report.lineage, Some(store.lineage()));
        let zoo = Zoo::of(&store);
        let last = zoo.rows.put(9, 9).unconditional().commit().unwrap().version().get();
        assert_eq!(report.last_version, Some(last - 1));
        let of = |name: &str| report.collections.iter().find(|each| each.name == name).unwrap();
        let (rows, docs, seats) = (of("rows"), of("docs"), of("seats"));
        assert_eq!(rows.entities + 1, zoo.rows.len().unwrap() as u64);
        assert!(rows.deletions > 0 && docs.deletions > 0);
        assert_eq!((&*docs.codec, &*docs.keys, docs.schema), ("json", "string", 1));
        assert_eq!((&*seats.codec, &*seats.keys, seats.schema), ("bincode", "(string, u32)", 3));
        let snapshots_found = report.files.iter().filter(
            |file| matches!(file.content, Content::Snapshot { entries, .. } if entries > 3),
        );
        assert_eq!(snapshots_found.count() as u64, snapshots);
        assert!(report.to_string().contains("whole"), "{report}");
    }
}

#[test]
fn an_empty_store_is_whole_and_nothing_is_no_store() {
    let disk = MemoryDisk::new();
    assert!(matches!(verify(&disk), Err(Error::NotAStore { .. })));
    open(&disk).unwrap().close().unwrap();
    let report = verify(&disk).unwrap();
    assert!(report.is_whole() && report.closed && report.collections.is_empty(), "{report}");
    assert_eq!(report.last_version, Some(0));
}

#[test]
fn a_torn_tail_is_no_damage_and_told() {
    let disk = unclean(1);
    let newest = files(&disk, ".log").pop().unwrap();
    disk.damage(&newest, |bytes| {
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[last] ^= 1;
    });
    let report = verify(&disk).unwrap();
    assert!(report.is_whole() && !report.closed, "{report}");
    let torn = |file: &ifmatch::admin::File| match file.content {
        Content::Segment { torn_at, .. } => torn_at.is_some(),
        _ => false,
    };
    let torn: Vec<_> = report.files.iter().filter(|file| torn(file)).collect();
    assert_eq!(torn.len(), 1, "{report}");
    assert_eq!(torn[0].name, newest);
}

#[test]
fn g10_it_finds_each_flipped_byte_that_opening_finds() {
    for (snapshots, intact) in [(0, disk(0)), (2, disk(2)), (0, unclean(0)), (2, unclean(2))] {
        let mut seen = (0, 0);
        for (name, content) in bytes(&intact) {
            // Every byte at the ends and the heads, and a sample of the rest.
            let near = |at: usize| at < 200 || at + 100 > content.len() || at.is_multiple_of(13);
            for at in (0..content.len()).filter(|at| near(*at)) {
                let damaged = copy(&intact);
                damaged.damage(&name, |bytes| bytes[at] ^= 0x20);
                let report = match verify(&damaged) {
                    Ok(report) => report,
                    // The magic of a file is no damage: it is another file then.
                    Err(Error::NotAStore { .. }) => {
                        assert!(matches!(open(&damaged), Err(Error::NotAStore { .. })));
                        continue;
                    }
                    Err(other) => panic!("{name} byte {at}: {other}"),
                };
                seen.0 += u64::from(!report.is_whole());
                let Err(error) = open(&damaged) else { continue };
                let Error::Corrupt { path, offset, .. } = error else { panic!("{error}") };
                seen.1 += 1;
                let told = report
                    .damage
                    .iter()
                    .any(|damage| path.ends_with(&damage.file) && damage.offset == offset);
                assert!(told, "{name} byte {at}: {report}");
            }
        }
        assert!(seen.1 > 50, "{seen:?}");
        assert_eq!(seen.0 > seen.1, snapshots > 0, "opening does not read what lies behind");
    }
}

#[test]
fn g10_all_damage_is_told_and_not_the_first_alone() {
    let disk = disk(2);
    let (logs, snapshots) = (files(&disk, ".log"), files(&disk, ".snapshot"));
    for name in [&snapshots[0], &snapshots[1], &logs[0], &logs[1]] {
        disk.damage(name, |bytes| bytes[100] ^= 1);
    }
    disk.damage("meta", |bytes| bytes[15] ^= 1);
    let report = verify(&disk).unwrap();
    for name in [&snapshots[0], &snapshots[1], &logs[0], &logs[1], &"meta".to_owned()] {
        assert!(report.damage.iter().any(|damage| damage.file == *name), "{name}: {report}");
    }
    assert_eq!(report.last_version, None);
    assert!(report.to_string().contains("places are damaged"));
}

#[test]
fn g10_missing_files_are_found() {
    let intact = disk(2);
    let logs = files(&intact, ".log");
    for gone in [&logs[..1], &logs[1..2], &logs[logs.len() - 1..]] {
        let disk = copy(&intact);
        gone.iter().for_each(|name| disk.remove(name).unwrap());
        let opens = open(&copy(&disk)).is_ok();
        let report = verify(&disk).unwrap();
        assert!(opens || !report.is_whole(), "{gone:?}: {report}");
    }
    for name in files(&intact, ".snapshot") {
        intact.remove(&name).unwrap();
    }
    assert!(!verify(&intact).unwrap().is_whole(), "the log begins behind nothing");
}

#[test]
fn g10_beside_a_running_store_nothing_seems_damaged() {
    let place = tempfile::tempdir().unwrap();
    let store = builder().segment_bytes(16 << 10).open(place.path()).unwrap();
    std::thread::scope(|scope| {
        let writer = |first: u64| {
            let zoo = Zoo::of(&store);
            move || (0..400).for_each(|number| zoo.write(first + number))
        };
        let writers = [scope.spawn(writer(0)), scope.spawn(writer(1_000))];
        let mut rounds = 0;
        while rounds < 5 || writers.iter().any(|writer| !writer.is_finished()) {
            let acknowledged = Zoo::of(&store).rows.put(5, 0).unconditional().commit();
            let acknowledged = acknowledged.unwrap().version().get();
            if rounds % 3 == 0 {
                store.snapshot().unwrap();
            }
            let report = ifmatch::admin::verify(place.path(), &|_| {}).unwrap();
            assert!(report.is_whole(), "{report}");
            assert!(report.last_version.unwrap() >= acknowledged, "{report}");
            rounds += 1;
        }
    });
}
