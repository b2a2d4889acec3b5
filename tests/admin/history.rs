//! What the tools make of earlier versions: a backup carries them, a dump leaves them out.

use std::sync::Arc;

use ifmatch::admin::on_disk::{backup, dump, load, repair, restore};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Collection, Store};

use crate::support::open;

fn values(disk: &MemoryDisk) -> Vec<Option<u64>> {
    let store = open(disk).unwrap();
    let rows = store.collection::<u64, u64>("rows").unwrap();
    let history = rows.history(1).unwrap();
    history.iter().map(|entry| entry.entity().map(|value| **value)).collect()
}

fn rows(store: &Store, history: u32) -> Collection<u64, u64> {
    store.declare("rows").history(history).open().unwrap()
}

#[test]
fn g2_history_is_carried_by_backups_and_repair_and_left_out_of_dumps() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let row = rows(&store, 2);
    for value in 0..3 {
        row.put(1, value).unconditional().commit().unwrap();
    }
    row.create(2, 2).commit().unwrap();
    drop((row, store));
    // The number of versions is another one from here on; what is stored reads as before.
    let store = open(&disk).unwrap();
    let row = rows(&store, 3);
    row.delete(1).if_exists().commit().unwrap();
    row.create(1, 4).commit().unwrap();
    drop((row, store));
    let expected = [Some(4), None, Some(2), Some(1)];
    assert_eq!(values(&disk), expected);

    let (copy, restored, repaired) = (MemoryDisk::new(), MemoryDisk::new(), MemoryDisk::new());
    backup(&disk, &copy).unwrap();
    restore(&copy, &restored).unwrap();
    assert_eq!(values(&restored), expected);
    let (told, _) = repair(&disk, &repaired).unwrap();
    assert!(told.dropped.is_empty(), "{told:?}");
    assert_eq!(values(&repaired), expected);
    let store = open(&repaired).unwrap();
    assert_eq!(*rows(&store, 3).get(2).unwrap().unwrap(), 2, "older than the announcement");

    let (mut lines, loaded) = (Vec::new(), MemoryDisk::new());
    dump(&disk, &mut lines).unwrap();
    load(&mut &lines[..], &loaded).unwrap();
    assert_eq!(values(&loaded), [Some(4)]);
    let store = Store::builder().open_on(Arc::new(loaded)).unwrap();
    let row = store.collection::<u64, u64>("rows").unwrap();
    row.put(1, 5).if_exists().commit().unwrap();
    assert_eq!(row.history(1).unwrap().len(), 2, "it goes on keeping as many");
}
