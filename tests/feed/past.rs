//! What is read from the log: before the feed was on, before a restart, in another schema.

use std::sync::Arc;

use crate::common::{block_on, configurations};
use crate::support::{Told, cursor, delete, drain, fill, put, rows, since, told};
use ifmatch::feed::{ChangeKind, Feed};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Limits, Store};

fn check(store: &Store, expected: &[Told]) {
    let _opened = rows(store);
    for back in [expected.len(), 100, 3, 0] {
        let (before, rest) = expected.split_at(expected.len() - back);
        let version = before.last().map_or(0, |told| told.0);
        assert_eq!(drain(&mut since(store, version)), rest);
        let mut feed = since(store, version);
        let awaited = rest.iter().map(|_| told(&block_on(feed.next_commit()).unwrap()));
        assert_eq!(awaited.collect::<Vec<_>>(), rest);
        assert!(feed.try_next().unwrap().is_none());
        assert_eq!(feed.cursor().version, expected.last().unwrap().0);
    }
    assert_eq!(drain(&mut store.changes().open().unwrap()), expected);
}

#[test]
fn g9_what_is_not_in_memory_is_read_from_the_log() {
    for configuration in configurations().iter().filter(|one| one.is_durable()) {
        let open = |feed| {
            let limits = Limits { feed, ..Limits::default() };
            configuration.open_with(configuration.builder().segment_bytes(4096).limits(limits))
        };
        let store = open(8);
        let mut expected = fill(&rows(&store));
        let more = |store: &Store| {
            let rows = rows(store);
            let put = |key: u64| put(&rows, &format!("c-{key}"), key);
            (0..120).map(put).collect::<Vec<_>>()
        };
        expected.extend(more(&store));
        check(&store, &expected);
        // Some of it is in memory now.
        expected.extend(more(&store));
        check(&store, &expected);
        expected.push(delete(&rows(&store), "c-7"));
        // With a clean end and without one.
        store.close().unwrap();
        let store = open(1_000);
        check(&store, &expected);
        expected.extend(more(&store));
        check(&store, &expected);
        store.snapshot().unwrap();
        check(&store, &expected);
        drop(store);
        check(&open(100), &expected);
    }
}

#[test]
fn g9_after_a_power_cut_the_feed_goes_on_behind_what_was_told() {
    let disk = MemoryDisk::new();
    let open = |disk: &MemoryDisk| {
        let builder = Store::builder().segment_bytes(4096);
        builder.open_on(Arc::new(disk.clone())).unwrap()
    };
    let store = open(&disk);
    let mut expected = fill(&rows(&store));
    let last = expected.last().unwrap().0;
    // Nobody is told of this one: it is not synced.
    let mut image = disk.power_cut(0);
    for life in 0..3 {
        let store = open(&image);
        let kept = cursor(&store, last);
        let mut feed = store.changes().since(kept).open().unwrap();
        let _opened = rows(&store);
        let behind: Vec<Told> = expected.iter().filter(|told| told.0 > last).cloned().collect();
        assert_eq!(drain(&mut feed), behind, "life {life}");
        let told = put(&rows(&store), "a", life);
        assert!(told.0 > last + 1_000, "versions jump after an unclean stop");
        assert_eq!(drain(&mut feed), std::slice::from_ref(&told));
        expected.push(told);
        check_all(&store, &expected);
        image = image.power_cut(0);
    }
}

fn check_all(store: &Store, expected: &[Told]) {
    assert_eq!(drain(&mut store.changes().open().unwrap()), expected);
}

#[test]
fn g9_a_migration_is_one_commit_and_old_values_are_not_taken_for_new_ones() {
    for configuration in configurations().iter().filter(|one| one.is_durable()) {
        let store = configuration.open();
        let old = store.collection::<String, u64>("rows").unwrap();
        let created: Vec<u64> =
            ["a", "b"].map(|key| old.create(key, 7).commit().unwrap().version().get()).into();
        drop(old);
        store.close().unwrap();
        let store = configuration.open();
        let mut live = store.changes().from_now().open().unwrap();
        let new = store
            .declare::<String, i64>("rows")
            .schema(2)
            .migrate(1, |old: u64| -i64::try_from(old).unwrap());
        let new = new.open().unwrap();
        let landed = new.create("c", 1).commit().unwrap().version().get();
        let describe = |feed: &mut Feed| {
            let mut all = Vec::new();
            while let Some(commit) = feed.try_next().unwrap() {
                let values = commit.changes().iter().map(|change| {
                    assert_eq!((change.collection(), change.kind()), ("rows", ChangeKind::Put));
                    assert!(change.entity::<u64>().is_none());
                    (change.key(), change.entity::<i64>().map(|value| *value))
                });
                let values = values.collect::<Vec<_>>();
                all.push((commit.version().get(), commit.written_by().map(str::to_owned), values));
            }
            all
        };
        let item = |key: &str, value| (key.to_owned(), value);
        let migrated = new.get("a").unwrap().unwrap().version().get();
        let both = vec![item("a", Some(-7)), item("b", Some(-7))];
        let after = [
            (migrated, Some("migration".to_owned()), both),
            (landed, None, vec![item("c", Some(1))]),
        ];
        assert_eq!(describe(&mut live), after, "{}", configuration.name);
        let mut all = vec![
            (created[0], None, vec![item("a", None)]),
            (created[1], None, vec![item("b", None)]),
        ];
        all.extend(after.iter().cloned());
        assert_eq!(describe(&mut store.changes().open().unwrap()), all);
        // From the log alone.
        drop((store, new));
        let store = configuration.open();
        let closed = describe(&mut store.changes().open().unwrap());
        let mut untyped = all.clone();
        for (.., values) in &mut untyped {
            values.iter_mut().for_each(|(_, value)| *value = None);
        }
        assert_eq!(closed, untyped);
        let _new = store.declare::<String, i64>("rows").schema(2).open().unwrap();
        assert_eq!(describe(&mut store.changes().open().unwrap()), all);
    }
}

#[test]
fn g9_keys_of_every_type_read_alike_from_memory_and_from_the_log() {
    let disk = MemoryDisk::new();
    let open = || Store::builder().feed(true).open_on(Arc::new(disk.clone())).unwrap();
    let keys = |store: &Store| {
        let mut feed = store.changes().open().unwrap();
        let mut keys = Vec::new();
        while let Some(commit) = feed.try_next().unwrap() {
            keys.push(commit.changes()[0].key());
        }
        keys
    };
    let store = open();
    store.collection::<Vec<u8>, u8>("bytes").unwrap().create(&[1, 2][..], 0).commit().unwrap();
    store.collection::<i32, u8>("numbers").unwrap().create(-5, 0).commit().unwrap();
    let pairs = store.collection::<((String, i8), uuid::Uuid), u8>("pairs").unwrap();
    pairs.create((("a/b", -1), uuid::Uuid::from_u128(7)), 0).commit().unwrap();
    let expected = ["0102", "-5", "a%252Fb%2F-1/00000000-0000-0000-0000-000000000007"];
    assert_eq!(keys(&store), expected);
    drop(pairs);
    store.close().unwrap();
    assert_eq!(keys(&open()), expected);
}

#[test]
fn g9_an_entity_of_the_log_knows_when_it_was_created_while_it_lives() {
    let disk = MemoryDisk::new();
    let clock = Arc::new(ifmatch::testing::ManualClock::new(std::time::UNIX_EPOCH));
    let builder = Store::builder().clock(clock.clone());
    let store = builder.open_on(Arc::new(disk)).unwrap();
    let rows = rows(&store);
    let mut written = Vec::new();
    for step in 0..4 {
        clock.advance(std::time::Duration::from_secs(1));
        let told = if step == 2 { delete(&rows, "a") } else { put(&rows, "a", step) };
        written.push(told);
    }
    clock.advance(std::time::Duration::from_secs(1));
    put(&rows, "a", 4);
    let newest = rows.get("a").unwrap().unwrap();
    let mut feed = since(&store, 0);
    let commits = std::iter::from_fn(|| feed.try_next().unwrap());
    let entities = commits.filter_map(|commit| {
        let entity = commit.changes()[0].entity::<u64>()?;
        Some((entity.created_at(), entity.written_at()))
    });
    let entities: Vec<_> = entities.collect();
    // The first life is over: what is known of it is when each was written.
    assert!(entities[..2].iter().all(|(created, written)| created == written));
    assert!(entities[2..].iter().all(|(created, _)| *created == newest.created_at()));
}
