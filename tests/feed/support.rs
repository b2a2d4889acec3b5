//! Writes whose versions are known, and what a feed tells of them.

use ifmatch::feed::{ChangeKind, Commit, Feed};
use ifmatch::{Collection, Cursor, Store};

pub type Rows = Collection<String, u64>;

pub fn rows(store: &Store) -> Rows {
    store.collection("rows").unwrap()
}

pub fn put(rows: &Rows, key: &str, value: u64) -> Told {
    let landed = rows.put(key, value).unconditional().by("ann").commit().unwrap();
    (landed.version().get(), key.to_owned(), Some(value))
}

pub fn delete(rows: &Rows, key: &str) -> Told {
    let landed = rows.delete(key).if_exists().by("bob").commit().unwrap();
    (landed.version().get(), key.to_owned(), None)
}

pub fn cursor(store: &Store, version: u64) -> Cursor {
    Cursor { lineage: store.lineage(), version }
}

pub fn since(store: &Store, version: u64) -> Feed {
    store.changes().since(cursor(store, version)).open().unwrap()
}

/// What a commit of one change says: version, key, and the value unless it is a delete.
pub type Told = (u64, String, Option<u64>);

pub fn told(commit: &Commit) -> Told {
    let [change] = commit.changes() else { panic!("not one change: {commit:?}") };
    let value = change.entity::<u64>().map(|entity| {
        assert_eq!(entity.version(), commit.version());
        assert_eq!(entity.written_by(), commit.written_by());
        assert_eq!(entity.written_at(), commit.written_at());
        *entity
    });
    assert_eq!(change.kind() == ChangeKind::Put, value.is_some(), "{commit:?}");
    assert_eq!(change.key_as::<String>().as_deref(), Some(&*change.key()));
    let by = if value.is_some() { "ann" } else { "bob" };
    assert_eq!(commit.written_by(), Some(by));
    (commit.version().get(), change.key(), value)
}

/// All that there is now.
pub fn drain(feed: &mut Feed) -> Vec<Told> {
    std::iter::from_fn(|| feed.try_next().unwrap()).map(|commit| told(&commit)).collect()
}

/// Some writes and deletes of one thread, in order.
pub fn fill(rows: &Rows) -> Vec<Told> {
    let mut expected = Vec::new();
    for round in 0..6 {
        expected.extend(["a-1", "a-2", "b-1"].map(|key| put(rows, key, round)));
        expected.push(delete(rows, "a-2"));
    }
    expected
}
