//! A store as lines of JSON, and back (G2).

use ifmatch::admin::on_disk::{backup, dump, load, verify};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Error, Json};

use crate::support::{bytes, disk, files, open, picture, unclean};

fn dumped(disk: &MemoryDisk) -> String {
    let mut lines = Vec::new();
    dump(disk, &mut lines).unwrap();
    String::from_utf8(lines).unwrap()
}

fn loaded(lines: &str) -> MemoryDisk {
    let target = MemoryDisk::new();
    load(&mut lines.as_bytes(), &target).unwrap();
    target
}

#[test]
fn g2_a_loaded_store_is_the_same_under_a_new_lineage() {
    for source in [disk(0), disk(1), disk(2), unclean(0), unclean(2)] {
        let before = bytes(&source);
        let lines = dumped(&source);
        assert_eq!(bytes(&source), before, "nothing was changed");
        let target = loaded(&lines);
        let report = verify(&target).unwrap();
        assert!(report.is_whole() && report.closed, "{report}");
        assert_eq!(picture(&target), picture(&source));
        assert_ne!(open(&target).unwrap().lineage(), open(&source).unwrap().lineage());
        // The lineage aside, the lines are the same.
        let again = dumped(&loaded(&lines));
        assert_eq!(
            again.lines().skip(1).collect::<Vec<_>>(),
            lines.lines().skip(1).collect::<Vec<_>>()
        );
    }
}

#[test]
fn g5_what_the_store_keeps_for_itself_is_not_dumped_and_is_restored() {
    let source = MemoryDisk::new();
    let store = open(&source).unwrap();
    let notes = store.collection::<u64, u64>("notes").unwrap();
    let create =
        |notes: &ifmatch::Collection<u64, u64>| notes.create(1, 1).operation_id("a").commit();
    let version = create(&notes).unwrap().version();
    drop(notes);
    store.close().unwrap();
    assert!(!dumped(&source).contains("$ids"));
    let is_replayed = |disk: &MemoryDisk| {
        let store = open(disk).unwrap();
        let done = create(&store.collection("notes").unwrap());
        done.map(|done| (done.is_replayed(), done.version())).map_err(|error| error.is_conflict())
    };
    assert_eq!(is_replayed(&loaded(&dumped(&source))), Err(true), "a new store knows no ids");
    let (copy, restored) = (MemoryDisk::new(), MemoryDisk::new());
    backup(&source, &copy).unwrap();
    ifmatch::admin::on_disk::restore(&copy, &restored).unwrap();
    assert_eq!(is_replayed(&restored), Ok((true, version)));
}

#[test]
fn the_lines_are_json_that_says_what_it_is() {
    let source = disk(1);
    let lines = dumped(&source);
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["store"]["format"], 1);
    let docs = lines.iter().find(|line| line["collection"]["name"] == "docs").unwrap();
    assert_eq!(docs["collection"]["codec"], "json");
    let of =
        |name: &'static str| lines.iter().filter(move |line| line["entity"]["collection"] == name);
    let doc = of("docs").find(|line| line["entity"]["key"] == "3").unwrap();
    assert!(doc["entity"]["value"][0].as_str().unwrap().contains("über"));
    let written_at = doc["entity"]["written_at"].as_str().unwrap();
    assert!(written_at.ends_with('Z') && written_at.len() == 27, "{written_at}");
    let row = of("rows").next().unwrap();
    assert_eq!(row["entity"]["key_hex"].as_str().unwrap().len(), 16);
    assert!(row["entity"]["value_hex"].is_string() && row["entity"].get("value").is_none());
    assert!(lines.iter().any(|line| line["deletion"]["deleted_by"] == "carl"));
    let end = &lines[lines.len() - 1]["end"];
    assert_eq!(
        end["entities"].as_u64().unwrap() as usize,
        of("rows").count() + of("docs").count() + of("seats").count()
    );
}

#[test]
fn documents_keep_every_byte() {
    let source = MemoryDisk::new();
    let store = open(&source).unwrap();
    let texts = store.declare::<String, Option<Vec<f64>>>("texts").codec(Json).open().unwrap();
    texts.create("null", None).commit().unwrap();
    texts.create("", Some(vec![0.1, 1e300])).commit().unwrap();
    texts.create("\u{0}\"\n", Some(vec![])).by("a\"b\\").commit().unwrap();
    drop(texts);
    store.close().unwrap();
    let target = loaded(&dumped(&source));
    let store = open(&target).unwrap();
    let texts = store.declare::<String, Option<Vec<f64>>>("texts").codec(Json).open().unwrap();
    assert_eq!(*texts.get("null").unwrap().unwrap(), None);
    assert_eq!(*texts.get("").unwrap().unwrap(), Some(vec![0.1, 1e300]));
    let odd = texts.get("\u{0}\"\n").unwrap().unwrap();
    assert_eq!((odd.value(), odd.written_by()), (&Some(vec![]), Some("a\"b\\")));
}

#[test]
fn a_backup_and_an_empty_store_can_be_dumped() {
    let (source, copied) = (disk(2), MemoryDisk::new());
    backup(&source, &copied).unwrap();
    assert_eq!(dumped(&copied), dumped(&source));
    let empty = MemoryDisk::new();
    open(&empty).unwrap().close().unwrap();
    assert!(open(&loaded(&dumped(&empty))).unwrap().collections().is_empty());
}

#[test]
fn g10_a_damaged_store_is_not_dumped() {
    let source = disk(0);
    source.damage(&files(&source, ".log")[0], |bytes| bytes[90] ^= 1);
    let mut lines = Vec::new();
    assert!(matches!(dump(&source, &mut lines), Err(Error::Corrupt { .. })));
    assert!(lines.is_empty());
}

#[test]
fn bad_lines_are_told_by_number_and_nothing_is_written() {
    let whole = dumped(&disk(1));
    let lines: Vec<&str> = whole.lines().collect();
    let entity = lines.iter().position(|line| line.contains("\"docs\",\"key\":\"3\"")).unwrap();
    let row = lines.iter().position(|line| line.contains("\"rows\",\"key_hex\"")).unwrap();
    let refused = |place: usize, line: &str, says: &str| {
        let mut lines: Vec<&str> = lines.clone();
        lines[place] = line;
        let target = MemoryDisk::new();
        match load(&mut lines.join("\n").as_bytes(), &target) {
            Err(Error::Line { line: number, detail }) => {
                assert_eq!(number, place as u64 + 1, "{line}: {detail}");
                assert!(detail.contains(says), "{detail}");
            }
            other => panic!("{line}: {other:?}"),
        }
        assert!(bytes(&target).is_empty());
    };
    let edit = |place: usize, from: &str, to: &str, says: &str| {
        assert!(lines[place].contains(from), "{}", lines[place]);
        refused(place, &lines[place].replacen(from, to, 1), says);
    };
    refused(0, "", "EOF");
    refused(3, "{", "EOF");
    refused(0, lines[1], "must be the first");
    refused(1, lines[0], "must be the first");
    edit(0, "\"format\":1", "\"format\":2", "format 2");
    edit(0, "\"last_version\":", "\"last_version\":9999999999999999", "above");
    edit(1, "\"name\":\"", "\"name\":\"No ", "no collection name");
    edit(entity, "\"docs\"", "\"dogs\"", "no line of collection");
    edit(entity, "\"key\":\"3\"", "\"key_hex\":\"33\"", "text");
    edit(entity, "\"version\":", "\"version\":99999", "above");
    edit(entity, "\"created_at\":\"20", "\"created_at\":\"29", "before it was created");
    edit(entity, "\"written_at\":\"2", "\"written_at\":\"x", "no time");
    edit(entity, "\"value\":", "\"value_hex\":\"00\",\"value\":", "one of value");
    edit(entity, "\"value\":", "\"other\":", "unknown field");
    edit(row, "\"key_hex\":\"", "\"key_hex\":\"0", "digits");
    edit(row, "\"key_hex\":\"", "\"key_hex\":\"+1", "digits");
    edit(row, "\"key_hex\":\"", "\"key\":\"", "key_hex");
    edit(row, "\"value_hex\":", "\"value\":", "not json");
    edit(lines.len() - 1, "\"entities\":", "\"entities\":1", "but has");
    refused(entity + 1, lines[entity], "there already");
    // Cut off, and too long.
    let end = lines.len() - 1;
    for (lines, says) in [
        (&lines[..end], "without its last line"),
        (&[lines.clone(), vec![lines[1]]].concat()[..], "behind"),
    ] {
        let error = load(&mut lines.join("\n").as_bytes(), &MemoryDisk::new()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(matches!(load(&mut whole.as_bytes(), &disk(0)), Err(Error::NotEmpty(_))));
}
