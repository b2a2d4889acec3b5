//! What the tests of snapshots share: values that call back, and all that can be told of a store.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ifmatch::{Collection, Error, Store};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Hook = Box<dyn FnMut(u64) -> bool>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// A value that tells the test when it is encoded on a thread that asked for it: a snapshot is
/// then at work on its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Value(pub u64);

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Taken out meanwhile: what the test writes from within is encoded too.
        let hook = HOOK.take();
        if let Some(mut hook) = hook {
            let fine = hook(self.0);
            HOOK.set(Some(hook));
            if !fine {
                return Err(serde::ser::Error::custom("it does not want to"));
            }
        }
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        u64::deserialize(deserializer).map(Value)
    }
}

/// Takes a snapshot; `hook` is called for each value encoded, and says whether it may be.
pub fn snapshot_with(store: &Store, hook: impl FnMut(u64) -> bool + 'static) -> Result<(), Error> {
    HOOK.set(Some(Box::new(hook)));
    let result = store.snapshot();
    HOOK.set(None);
    result
}

pub type Map = Collection<u64, Value>;

pub fn map(store: &Store, name: &str) -> Map {
    store.collection(name).unwrap()
}

/// All that can be told of the first keys of the collections: value, metadata, deletions.
pub type Picture = BTreeMap<(String, u64), String>;

const NOTHING: &str = "None";

pub fn picture(store: &Store, keys: u64) -> Picture {
    let mut picture = Picture::new();
    for name in store.collections() {
        let map = map(store, &name);
        let there = (0..keys).filter(|key| map.contains(*key).unwrap()).count();
        assert_eq!((map.len().unwrap(), map.iter().count()), (there, there));
        for key in 0..keys {
            let state = state(&map, key);
            if state != NOTHING {
                picture.insert((name.clone(), key), state);
            }
        }
    }
    picture
}

pub fn state(map: &Map, key: u64) -> String {
    match map.get(key).unwrap() {
        Some(entity) => format!("{:?} {:?}", *entity, entity.metadata()),
        None => {
            // Nothing to delete: it is refused, and tells of the deletion.
            let refused = map.delete(key).unconditional().commit().unwrap_err();
            format!("{:?}", refused.conflict().unwrap().deletion())
        }
    }
}

pub fn put(map: &Map, key: u64, value: u64) {
    map.put(key, Value(value))
        .unconditional()
        .by(["ann", "bob"][value as usize % 2])
        .commit()
        .unwrap();
}

pub fn delete(map: &Map, key: u64) {
    map.delete(key).if_exists().by("carl").commit().unwrap();
}
