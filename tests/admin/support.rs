//! Stores in many states, and all that can be told of one.

use std::sync::Arc;

use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Collection, Error, Json, Store, StoreBuilder};

pub const KEYS: u64 = 6;

pub fn builder() -> StoreBuilder {
    Store::builder().stripes(4).segment_bytes(4096)
}

pub fn open(disk: &MemoryDisk) -> Result<Store, Error> {
    builder().open_on(Arc::new(disk.clone()))
}

/// Three kinds of keys, two codecs and two schemas.
pub struct Zoo {
    pub rows: Collection<u64, u64>,
    pub docs: Collection<String, Vec<String>>,
    pub seats: Collection<(String, u32), u64>,
}

impl Zoo {
    pub fn of(store: &Store) -> Zoo {
        Zoo {
            rows: store.collection("rows").unwrap(),
            docs: store.declare("docs").codec(Json).open().unwrap(),
            seats: store.declare("seats").schema(3).open().unwrap(),
        }
    }

    /// A write to each collection, by somebody or nobody.
    pub fn write(&self, number: u64) {
        let key = number % (KEYS - 1);
        let by = ["ann", "bob"][number as usize % 2];
        let text = vec![format!("line {number}\nüber"); 2];
        self.rows.put(key, number).unconditional().by(by).commit().unwrap();
        self.docs.put(key.to_string(), text).unconditional().by(by).commit().unwrap();
        self.seats.put(("hall\0a", key as u32), number).unconditional().commit().unwrap();
    }

    pub fn delete(&self, key: u64) {
        self.rows.delete(key).if_exists().by("carl").commit().unwrap();
        self.docs.delete(key.to_string()).if_exists().commit().unwrap();
    }

    /// Values, metadata and deletions.
    pub fn picture(&self) -> Vec<String> {
        let of_key = |key: u64| {
            let (doc, seat) = (key.to_string(), ("hall\0a".to_owned(), key as u32));
            [state(&self.rows, key), state(&self.docs, doc), state(&self.seats, seat)]
        };
        let lens = (self.rows.len(), self.docs.len(), self.seats.len());
        let lens = format!("{lens:?}");
        (0..KEYS).flat_map(of_key).chain([lens]).collect()
    }
}

fn state<K, V>(map: &Collection<K, V>, key: K) -> String
where
    K: ifmatch::Key + ifmatch::AsKey<K> + Clone,
    V: std::fmt::Debug + Clone + Send + Sync + serde::Serialize + 'static,
{
    match map.get(key.clone()).unwrap() {
        Some(entity) => format!("{:?} {:?}", *entity, entity.metadata()),
        None => {
            // Nothing to delete: it is refused, and tells of the deletion.
            let refused = map.delete(key).unconditional().commit().unwrap_err();
            format!("{:?}", refused.conflict().unwrap().deletion())
        }
    }
}

pub fn picture(disk: &MemoryDisk) -> Vec<String> {
    let store = open(disk).unwrap();
    let picture = Zoo::of(&store).picture();
    store.close().unwrap();
    picture
}

/// A store with so many snapshots, and commits and deletes after each, closed cleanly.
pub fn disk(snapshots: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let zoo = Zoo::of(&store);
    for turn in 0..=snapshots {
        (0..40).for_each(|number| zoo.write(1_000 * turn + number));
        zoo.delete(turn % 3);
        if turn < snapshots {
            store.snapshot().unwrap();
        }
    }
    drop(zoo);
    store.close().unwrap();
    disk
}

/// The same, without a clean end.
pub fn unclean(snapshots: u64) -> MemoryDisk {
    let disk = disk(snapshots);
    let store = open(&disk).unwrap();
    let zoo = Zoo::of(&store);
    zoo.write(77);
    zoo.write(78);
    disk.power_cut(usize::MAX)
}

/// A copy that is not shared.
pub fn copy(disk: &MemoryDisk) -> MemoryDisk {
    disk.power_cut(usize::MAX)
}

/// Names and bytes.
pub fn bytes(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let mut names = disk.list().unwrap();
    names.sort();
    names.into_iter().map(|name| (name.clone(), disk.read(&name).unwrap())).collect()
}

pub fn files(disk: &MemoryDisk, suffix: &str) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.sort();
    names.into_iter().filter(|name| name.ends_with(suffix)).collect()
}
