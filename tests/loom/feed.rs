//! The change feed: pushing, reading, turning it on, waiting and waking.

use loom::thread;

use super::{block_on, builder, model, on_disk, words};
use ifmatch::feed::{Commit, Feed};
use ifmatch::{Error, Limits, Store, Version};

/// With few slots, because loom looks into each.
fn small(slots: usize) -> Store {
    builder().limits(Limits { feed: slots, ..Limits::default() }).in_memory()
}

fn key(commit: &Commit) -> u8 {
    commit.changes()[0].key_as().unwrap()
}

fn next(feed: &mut Feed) -> (u64, u8) {
    let commit = feed.next().unwrap().unwrap();
    (commit.version().get(), key(&commit))
}

/// In a collection of its own: else the lock of the stripe would order the pushes.
fn create(store: &Store, key: u8) -> impl FnOnce() -> (u64, u8) + Send + 'static {
    let words = store.collection::<u8, u64>(if key == 1 { "one" } else { "two" }).unwrap();
    move || (words.create(key, 1).commit().unwrap().version().get(), key)
}

/// Catches: a commit that is neither pushed nor known to be missing, because its writer looked
/// whether the feed was on before it had its version, or whoever turned it on asked for the last
/// version first, or without taking part in the order of versions.
#[test]
fn g9_a_commit_is_behind_where_the_feed_was_turned_on_or_in_it() {
    model(3, || {
        let store = small(4);
        let writers = [1, 2].map(|key| thread::spawn(create(&store, key)));
        // From the oldest that is kept: that is where it was turned on.
        let mut feed = store.changes().open().unwrap();
        let start = feed.cursor().version;
        let mut expected = writers.map(|writer| writer.join().unwrap()).to_vec();
        expected.sort_unstable();
        expected.retain(|(version, _)| *version > start);
        let told = std::iter::from_fn(|| feed.try_next().unwrap());
        let told: Vec<_> = told.map(|commit| (commit.version().get(), key(&commit))).collect();
        assert_eq!(told, expected);
    });
}

/// Catches: as above, where versions are given out by the log.
#[test]
fn g9_on_disk_a_commit_is_behind_where_the_feed_was_turned_on_or_in_it() {
    model(2, || {
        let (_, store) = on_disk();
        let writer = thread::spawn(create(&store, 1));
        let mut feed = store.changes().from_now().open().unwrap();
        let start = feed.cursor().version;
        let (version, _) = writer.join().unwrap();
        let told = std::iter::from_fn(|| feed.try_next().unwrap());
        let told: Vec<_> = told.map(|commit| commit.version().get()).collect();
        let expected: Vec<u64> = [version].into_iter().filter(|one| *one > start).collect();
        assert_eq!(told, expected);
    });
}

/// Catches: a reader that is told a later version before an earlier one has been pushed, and a
/// lost wake-up (loom reports the deadlock).
#[test]
fn g9_a_reader_that_waits_is_told_all_in_order() {
    model(3, || {
        let store = small(4);
        let mut feed = store.changes().open().unwrap();
        let writers = [1, 2].map(|key| thread::spawn(create(&store, key)));
        let told = [next(&mut feed), next(&mut feed)];
        let mut expected = writers.map(|writer| writer.join().unwrap());
        expected.sort_unstable();
        assert_eq!(told, expected);
    });
}

/// Catches: as above, of a future, and beside a thread that waits too.
#[test]
fn g9_a_future_and_a_thread_that_wait_are_both_told() {
    model(2, || {
        let store = small(4);
        let open = || store.changes().open().unwrap();
        let (mut mine, mut other) = (open(), open());
        let other = thread::spawn(move || next(&mut other).1);
        let writer = thread::spawn(create(&store, 1));
        assert_eq!(key(&block_on(mine.next_commit()).unwrap()), 1);
        assert_eq!(other.join().unwrap(), 1);
        writer.join().unwrap();
    });
}

/// Catches: a commit that is told before it is durable, a leader that does not wake who waits for
/// that, and a reader that sleeps because the commit was pushed after the sync.
#[test]
fn g9_on_disk_a_reader_that_waits_is_told() {
    model(2, || {
        let (disk, store) = on_disk();
        let mut feed = store.changes().from_now().open().unwrap();
        let words = words(&store);
        let writer = thread::spawn(move || drop(words.create(1, super::MARK).commit().unwrap()));
        assert_eq!(next(&mut feed).1, 1);
        assert!(super::holds_mark(&disk, "00000000000000000001.log", super::MARK));
        writer.join().unwrap();
    });
}

/// Catches: a commit that makes way while it is read, or that comes after its slot has gone to a
/// later one, and is passed over without a gap.
#[test]
fn g9_what_made_way_is_a_gap() {
    model(3, || {
        let store = small(1);
        let mut feed = store.changes().open().unwrap();
        let writers = [1, 2].map(|key| thread::spawn(create(&store, key)));
        let mut at = 0;
        while at < 2 {
            match feed.next().unwrap() {
                Ok(commit) => {
                    assert_eq!(commit.version().get(), at + 1);
                    at += 1;
                }
                Err(Error::Gap { asked_for, oldest }) => {
                    assert!(asked_for.version == at && oldest.version > at);
                    at = oldest.version;
                }
                Err(error) => panic!("{error}"),
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

/// Catches: a reader that nobody tells that the store was closed.
#[test]
fn g9_closing_reaches_a_reader_that_waits() {
    model(3, || {
        let store = small(2);
        let mut feed = store.changes().open().unwrap();
        let reader = thread::spawn(move || feed.next().unwrap().map(drop));
        store.close().unwrap();
        assert!(matches!(reader.join().unwrap(), Err(Error::Closed)));
    });
}

/// Catches: a writer that looks whether anybody waits before it has its version, and a waiter
/// that looks for the version before it is known to wait.
#[test]
fn g9_whoever_waits_for_a_version_is_woken_by_its_writer() {
    model(3, || {
        let store = small(2);
        let writer = thread::spawn(create(&store, 1));
        let words = store.collection::<u8, u64>("one").unwrap();
        block_on(store.wait_for(Version::new(1).unwrap())).unwrap();
        assert!(words.contains(1).unwrap());
        writer.join().unwrap();
    });
}
