//! What is not kept any more is a gap, and what is kept is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{configurations, everywhere};
use crate::support::{Told, cursor, drain, fill, put, rows, since, told};
use ifmatch::feed::Feed;
use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Cursor, Error, Limits, Store};

fn gap(feed: &mut Feed) -> (Cursor, Cursor) {
    match feed.try_next() {
        Err(Error::Gap { asked_for, oldest }) => (asked_for, oldest),
        other => panic!("no gap: {other:?}"),
    }
}

#[test]
fn g9_in_memory_the_ring_moves_on_and_a_slow_reader_gets_a_gap() {
    for stripes in [1, 64] {
        let limits = Limits { feed: 8, ..Limits::default() };
        let store = Store::builder().stripes(stripes).limits(limits).feed(true).in_memory();
        let rows = rows(&store);
        let mut slow = store.changes().open().unwrap();
        let mut all: Vec<Told> = (0..4).map(|value| put(&rows, "a", value)).collect();
        assert_eq!(told(&slow.next().unwrap().unwrap()), all[0]);
        all.extend((4..100).map(|value| put(&rows, "a", value)));
        let (asked_for, oldest) = gap(&mut slow);
        assert_eq!(asked_for, cursor(&store, all[0].0));
        // It goes on with all that is kept, which is as much as was to be.
        let rest: Vec<Told> = all.iter().filter(|told| told.0 > oldest.version).cloned().collect();
        assert_eq!(rest.len(), 8);
        assert_eq!(drain(&mut slow), rest);
        assert_eq!(drain(&mut store.changes().open().unwrap()), rest);
        for version in 0..oldest.version {
            assert_eq!(gap(&mut since(&store, version)).1, oldest);
        }
    }
}

#[test]
fn g9_in_memory_what_was_before_the_first_reader_is_a_gap() {
    let store = Store::in_memory();
    let all = fill(&rows(&store));
    let mut feed = since(&store, 3);
    let (asked_for, oldest) = gap(&mut feed);
    assert_eq!((asked_for.version, oldest.version), (3, all.last().unwrap().0));
    let more = put(&rows(&store), "a", 1);
    assert_eq!(drain(&mut feed), [more]);
}

#[test]
fn g9_a_cursor_of_another_history_is_a_gap() {
    everywhere(|configuration, store| {
        let store = match configuration.is_durable() {
            true => store,
            false => Store::builder().feed(true).in_memory(),
        };
        let all = fill(&rows(&store));
        let other = Store::in_memory();
        let last = all.last().unwrap().0;
        let foreign = Cursor { lineage: other.lineage(), version: 2 };
        for unknown in [foreign, cursor(&store, last + 1)] {
            let mut feed = store.changes().since(unknown).open().unwrap();
            assert_eq!(feed.cursor(), unknown);
            let (asked_for, oldest) = gap(&mut feed);
            assert_eq!((asked_for, oldest), (unknown, cursor(&store, 0)));
            assert_eq!(drain(&mut feed), all, "{}", configuration.name);
        }
        assert_eq!(drain(&mut since(&store, last)), []);
    });
}

/// A value that is counted for as long as anybody has it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Counted {
    bytes: Vec<u8>,
    #[serde(skip)]
    _handle: Handle,
}

#[derive(Default)]
struct Handle(Option<Arc<AtomicUsize>>);

impl Counted {
    fn new(bytes: usize, alive: &Arc<AtomicUsize>) -> Counted {
        alive.fetch_add(1, Ordering::Relaxed);
        Counted { bytes: vec![1; bytes], _handle: Handle(Some(alive.clone())) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(alive) = &self.0 {
            alive.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn g9_a_reader_that_never_reads_lets_memory_grow_to_the_bound_and_no_further() {
    // Bytes are counted of values that are encoded.
    for (feed, feed_bytes, most) in [(50, usize::MAX, 64), (10_000, 100_000, 100)] {
        for configuration in configurations() {
            let limits = Limits { feed, feed_bytes, ..Limits::default() };
            if feed_bytes < usize::MAX && !configuration.is_durable() {
                continue;
            }
            let store = configuration.open_with(configuration.builder().limits(limits));
            let blobs = store.collection::<u64, Counted>("blobs").unwrap();
            let lazy = store.changes().open().unwrap();
            let alive = Arc::new(AtomicUsize::new(0));
            for write in 0..300 {
                let value = Counted::new(1_000, &alive);
                blobs.put(write % 3, value).unconditional().commit().unwrap();
                // The three that are in the store, one that was replaced, and what is kept.
                let alive = alive.load(Ordering::Relaxed);
                assert!(alive <= most + 4, "{}: {alive} values", configuration.name);
            }
            assert!(alive.load(Ordering::Relaxed) >= most / 2, "nothing is kept");
            drop((lazy, blobs));
            store.close().unwrap();
            assert_eq!(alive.load(Ordering::Relaxed), 0, "something is kept for ever");
        }
    }
}

#[test]
fn g9_a_value_that_uses_the_store_when_it_is_dropped_finds_nothing_locked() {
    struct Nosy(Option<(Store, u64)>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            if let Some((store, left)) = self.0.take().filter(|(_, left)| *left > 0) {
                let nosy = store.collection::<u64, u64>("counts").unwrap();
                assert!(nosy.get(1).unwrap().is_none());
                nosy.put(2, left).unconditional().commit().unwrap();
                drop(store.changes().open().unwrap());
            }
        }
    }
    struct NoCodec;
    impl ifmatch::Codec<Nosy> for NoCodec {
        fn name(&self) -> &str {
            "none"
        }
        fn encode(&self, _: &Nosy) -> Result<Vec<u8>, String> {
            Err("only in memory".to_owned())
        }
        fn decode(&self, _: &[u8]) -> Result<Nosy, String> {
            Err("only in memory".to_owned())
        }
    }
    let limits = Limits { feed: 2, ..Limits::default() };
    let store = Store::builder().stripes(1).limits(limits).feed(true).in_memory();
    let nosy = store.declare::<u64, Nosy>("nosy").codec(NoCodec).open().unwrap();
    for left in 0..10 {
        let value = Nosy(Some((store.clone(), left)));
        nosy.put(left % 2, value).unconditional().commit().unwrap();
    }
    // They hold the store, and are held by it.
    (0..2).for_each(|key| assert!(nosy.delete(key).if_exists().commit().is_ok()));
    (0..4).for_each(|key| drop(nosy.put(key, Nosy(None)).unconditional().commit().unwrap()));
}

fn logs(disk: &MemoryDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| name.ends_with(".log")).count()
}

/// On a disk, with little in memory and small segments.
fn small(disk: &MemoryDisk) -> Store {
    let limits = Limits { feed: 8, ..Limits::default() };
    let builder = Store::builder().segment_bytes(4096).limits(limits).feed(true);
    builder.open_on(Arc::new(disk.clone())).unwrap()
}

#[test]
fn g9_when_the_log_moves_on_beneath_a_reader_it_gets_a_gap_and_then_the_rest() {
    let disk = MemoryDisk::new();
    let store = small(&disk);
    let rows = rows(&store);
    let write = {
        let rows = rows.clone();
        move |count| (0..count).map(|value| put(&rows, "a", value)).collect::<Vec<_>>()
    };
    let mut all = write(300);
    // One has begun, the other has not.
    let mut feeds = [store.changes().open().unwrap(), store.changes().open().unwrap()];
    assert_eq!(told(&feeds[0].next().unwrap().unwrap()), all[0]);
    let before = logs(&disk);
    for _ in 0..3 {
        store.snapshot().unwrap();
        all.extend(write(300));
    }
    assert!(before > 3 && logs(&disk) < 3 * before, "nothing was let go");
    for feed in &mut feeds {
        let (mut seen, mut gaps, mut at) = (Vec::new(), 0, feed.cursor().version);
        loop {
            match feed.try_next() {
                Ok(Some(commit)) => {
                    let missing = all.iter().filter(|told| told.0 > at);
                    assert_eq!(missing.clone().next(), Some(&told(&commit)), "after {at}");
                    at = commit.version().get();
                    seen.push(at);
                }
                Ok(None) => break,
                Err(Error::Gap { asked_for, oldest }) => {
                    assert!(asked_for.version == at && oldest.version > at);
                    gaps += 1;
                    at = oldest.version;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((gaps, at), (1, all.last().unwrap().0));
        assert!(seen.len() > 300, "{} of {}", seen.len(), all.len());
    }
}

#[test]
fn g9_as_much_of_the_log_is_kept_as_was_asked_for() {
    let disk = MemoryDisk::new();
    let mut all = Vec::new();
    let mut write = |keep, whole| {
        let builder = Store::builder().segment_bytes(4096).keep_log(keep);
        let store = builder.open_on(Arc::new(disk.clone())).unwrap();
        let rows = rows(&store);
        for _ in 0..3 {
            all.extend((0..300).map(|value| put(&rows, "a", value)));
            store.snapshot().unwrap();
        }
        let mut feed = store.changes().open().unwrap();
        let rest: Vec<Told> =
            all.iter().filter(|told| told.0 > feed.cursor().version).cloned().collect();
        assert_eq!((rest.len() == all.len(), drain(&mut feed)), (whole, rest));
        let names = disk.list().unwrap();
        let logs = names.iter().filter(|name| name.ends_with(".log"));
        let bytes: u64 = logs.map(|name| disk.len(name).unwrap()).sum();
        drop((feed, rows));
        store.close().unwrap();
        bytes
    };
    let most = write(u64::MAX, true);
    let some = write(20_000, false);
    assert!((20_000..most).contains(&some), "{some} of {most} bytes are kept");
    assert!(write(0, false) < some);
}

#[test]
fn g9_a_segment_that_went_before_it_was_crossed_off_is_a_gap() {
    let disk = MemoryDisk::new();
    let store = small(&disk);
    let rows = rows(&store);
    let all: Vec<Told> = (0..300).map(|value| put(&rows, "a", value)).collect();
    disk.remove("00000000000000000001.log").unwrap();
    disk.remove("00000000000000000002.log").unwrap();
    let mut feed = since(&store, 0);
    let mut oldest = 0;
    let rest = loop {
        match feed.try_next() {
            Err(Error::Gap { oldest: found, .. }) => oldest = found.version,
            Ok(Some(commit)) => {
                let mut rest = vec![told(&commit)];
                rest.extend(drain(&mut feed));
                break rest;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(oldest > 0);
    assert_eq!(rest, all.into_iter().filter(|told| told.0 > oldest).collect::<Vec<_>>());
}

#[test]
fn g9_without_a_log_what_a_snapshot_holds_is_a_gap() {
    let disk = MemoryDisk::new();
    let store = small(&disk);
    let last = fill(&rows(&store)).last().unwrap().0;
    store.snapshot().unwrap();
    store.close().unwrap();
    let names = disk.list().unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".log"));
    segments.for_each(|name| disk.remove(name).unwrap());
    let store = small(&disk);
    let mut feeds = [since(&store, 3), since(&store, last), store.changes().open().unwrap()];
    assert_eq!(gap(&mut feeds[0]), (cursor(&store, 3), cursor(&store, last)));
    let told = put(&rows(&store), "a", 1);
    for feed in &mut feeds {
        assert_eq!(drain(feed), std::slice::from_ref(&told));
    }
}

#[test]
fn g10_damage_in_the_log_is_told_and_not_passed_over() {
    let disk = MemoryDisk::new();
    let store = small(&disk);
    let rows = rows(&store);
    let all: Vec<Told> = (0..300).map(|value| put(&rows, "a", value)).collect();
    disk.damage("00000000000000000002.log", |bytes| bytes[1000] ^= 1);
    let mut feed = since(&store, 0);
    let mut seen = Vec::new();
    let error = loop {
        match feed.try_next() {
            Ok(Some(commit)) => seen.push(told(&commit)),
            Ok(None) => panic!("it went silent after {seen:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(seen, all[..seen.len()]);
}
