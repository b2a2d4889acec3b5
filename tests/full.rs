//! A full disk: each kind of write is refused whole, nothing is poisoned, and it goes on (G11).

mod common;

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use common::block_on;
use common::hooked::{Call, Gate, Hooked};
use ifmatch::testing::MemoryDisk;
use ifmatch::{Collection, Error, Limits, Store};

type Map = Collection<u64, Vec<u8>>;

/// A write with its name; gives its version.
type Kind<'a> = (&'static str, &'a dyn Fn(&Map) -> Result<u64, Error>);

/// Larger than what is left when the disk is full.
const LARGE: usize = 6_000;

fn open(disk: &MemoryDisk) -> Store {
    let limits = Limits { value_bytes: 64 << 20, ..Limits::default() };
    Store::builder().segment_bytes(4096).limits(limits).open_on(Arc::new(disk.clone())).unwrap()
}

fn map(store: &Store) -> Map {
    store.collection("map").unwrap()
}

/// A store with a few entities, on a disk that has no more space.
fn full() -> (MemoryDisk, Store, Map) {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let map = map(&store);
    for key in 0..3 {
        map.create(key, vec![key as u8; 10]).commit().unwrap();
    }
    disk.set_capacity(disk.used());
    (disk, store, map)
}

fn is_full(result: Result<impl Sized, Error>) {
    match result.map(|_| ()) {
        Err(Error::DiskFull { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}

/// What can be told of the first keys.
fn states(map: &Map) -> Vec<Option<(u64, Vec<u8>)>> {
    let state = |key| map.get(key).unwrap().map(|it| (it.version().get(), it.value().clone()));
    (0..6).map(state).collect()
}

#[test]
fn g11_each_kind_of_write_is_refused_whole_and_goes_on() {
    let large = || vec![7; LARGE];
    let grow = |value: &mut Vec<u8>| value.resize(LARGE, 7);
    let kinds: [Kind<'_>; 5] = [
        ("put", &|map| map.put(0, large()).if_exists().commit().map(|it| it.version().get())),
        ("future", &|map| block_on(map.create(4, large())).map(|it| it.version().get())),
        ("update", &|map| map.update(1, grow).commit().map(|it| it.version().get())),
        ("its future", &|map| block_on(map.update(2, grow)).map(|it| it.version().get())),
        ("compute", &|map| {
            let put = |_: Option<&Vec<u8>>| ifmatch::Compute::Put(large());
            match map.compute(5, put).commit()? {
                ifmatch::Computed::Put(done) => Ok(done.version().get()),
                other => panic!("{other:?}"),
            }
        }),
    ];
    for (name, write) in kinds {
        let (disk, store, map) = full();
        let before = states(&map);
        is_full(write(&map));
        is_full(write(&map));
        assert_eq!(states(&map), before, "{name}");
        assert_eq!(map.len().unwrap(), 3, "{name}");
        // What fits goes on: there is room that was taken before. No version is left out.
        let small = map.put(3, Vec::new()).unconditional().commit().unwrap();
        assert_eq!(small.version().get(), 4, "{name}");
        // A refusal needs no room that is not there.
        assert!(map.create(3, Vec::new()).commit().unwrap_err().is_conflict());
        disk.set_capacity(usize::MAX);
        assert_eq!(write(&map).unwrap(), 5, "{name}");
        let after = states(&map);
        store.close().unwrap();
        drop(map);
        let store = open(&disk);
        assert_eq!(states(&self::map(&store)), after, "{name}");
    }
}

#[test]
fn g11_a_delete_is_refused_too_when_nothing_fits() {
    let (disk, store, map) = full();
    let mut written = 3;
    let refused = loop {
        match map.put(0, vec![1; 40]).unconditional().commit() {
            Ok(done) => written = done.version().get(),
            Err(error) => break error,
        }
    };
    is_full(Err::<(), _>(refused));
    // Of all writes a delete is the smallest.
    while let Ok(done) = map.delete(1).if_exists().commit() {
        written = done.version().get();
        match map.create(1, Vec::new()).commit() {
            Ok(done) => written = done.version().get(),
            Err(error) => {
                is_full(Err::<(), _>(error));
                break;
            }
        }
    }
    let before = states(&map);
    is_full(map.delete(2).unconditional().commit());
    is_full(block_on(map.delete(2).unconditional()));
    assert_eq!(states(&map), before);
    disk.set_capacity(usize::MAX);
    let deleted = map.delete(2).if_exists().commit().unwrap();
    assert_eq!(deleted.version().get(), written + 1);
    let after = states(&map);
    drop((store, map));
    assert_eq!(states(&self::map(&open(&disk.power_cut(0)))), after);
}

#[test]
fn g11_a_migration_is_refused_whole_and_goes_on() {
    let (disk, store, map) = full();
    let before = states(&map);
    store.close().unwrap();
    drop(map);
    let store = open(&disk);
    // Opening gives the spare space back, and the first write takes it again.
    disk.set_capacity(disk.used());
    let migrate = |store: &Store| -> Result<Collection<u64, String>, Error> {
        let text = |old: Vec<u8>| format!("{:>2000}", old.len());
        store.declare("map").schema(2).migrate(1, text).open()
    };
    is_full(migrate(&store));
    is_full(migrate(&store));
    // It is in its old schema still.
    drop(store);
    assert_eq!(states(&self::map(&open(&disk))), before);
    let store = open(&disk);
    is_full(migrate(&store));
    disk.set_capacity(usize::MAX);
    let texts = migrate(&store).unwrap();
    assert_eq!(texts.get(2).unwrap().unwrap().trim(), "10");
    store.close().unwrap();
    drop(texts);
    assert_eq!(migrate(&open(&disk)).unwrap().len().unwrap(), 3);
}

#[test]
fn g11_all_who_wait_for_room_are_answered() {
    for space in [false, true] {
        let gate = Arc::new(Gate::default());
        let held = gate.clone();
        let disk = MemoryDisk::new();
        let hooked = Hooked::new(disk.clone(), move |call| {
            if matches!(call, Call::Sync) {
                held.pass();
            }
            Ok(())
        });
        let builder = Store::builder().segment_bytes(4096);
        let store = builder.open_on(Arc::new(hooked)).unwrap();
        let map = map(&store);
        map.create(0, Vec::new()).commit().unwrap();
        gate.set_shut(true);
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| map.create(1, Vec::new()).commit());
            gate.until_somebody_waits();
            disk.set_capacity(disk.used());
            let threads: Vec<_> = (10..14)
                .map(|key| {
                    let map = &map;
                    scope.spawn(move || map.create(key, vec![1; LARGE]).commit())
                })
                .collect();
            let futures = (20..24).map(|key| map.create(key, vec![1; LARGE]).into_future());
            let mut futures: Vec<_> = futures.collect();
            for future in &mut futures {
                let mut context = Context::from_waker(Waker::noop());
                assert!(Pin::new(future).poll(&mut context).is_pending());
            }
            if space {
                disk.set_capacity(usize::MAX);
            }
            gate.set_shut(false);
            leader.join().unwrap().unwrap();
            let answers = threads.into_iter().map(|thread| thread.join().unwrap());
            let answers = answers.chain(futures.into_iter().map(block_on));
            for answer in answers {
                match space {
                    true => drop(answer.unwrap()),
                    false => is_full(answer),
                }
            }
        });
        assert_eq!(map.len().unwrap(), if space { 10 } else { 2 });
        disk.set_capacity(usize::MAX);
        map.create(2, vec![1; LARGE]).commit().unwrap();
    }
}

#[test]
fn g3_records_larger_than_a_segment_come_back() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let map = map(&store);
    let value = |key: u64| vec![key as u8; 300_000 * (key as usize % 7) + key as usize];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let map = &map;
            scope.spawn(move || {
                for key in (thread * 5..).take(5) {
                    match key % 2 {
                        0 => map.create(key, value(key)).commit().unwrap(),
                        _ => block_on(map.create(key, value(key))).unwrap(),
                    };
                }
            });
        }
    });
    map.create(99, vec![9; 20 << 20]).commit().unwrap();
    drop((store, map));
    let map = self::map(&open(&disk.power_cut(0)));
    (0..20).for_each(|key| assert!(**map.get(key).unwrap().unwrap() == value(key), "{key}"));
    assert_eq!(map.get(99).unwrap().unwrap().len(), 20 << 20);
}

#[test]
fn g11_what_fits_is_not_refused_for_what_does_not() {
    let gate = Arc::new(Gate::default());
    let (held, disk) = (gate.clone(), MemoryDisk::new());
    let hooked = Hooked::new(disk.clone(), move |call| {
        if matches!(call, Call::Sync) {
            held.pass();
        }
        Ok(())
    });
    let store = Store::builder().segment_bytes(4096).open_on(Arc::new(hooked)).unwrap();
    let map = map(&store);
    map.create(0, Vec::new()).commit().unwrap();
    gate.set_shut(true);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| map.create(1, Vec::new()).commit());
        gate.until_somebody_waits();
        let begin = |key, bytes| {
            let mut write = map.create(key, vec![1; bytes]).into_future();
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut write).poll(&mut context).is_pending());
            write
        };
        // More than there is room for, whether the first of them have got some or not.
        let mut small: Vec<_> = (10..40).map(|key| begin(key, 500)).collect();
        let large = begin(2, 60_000);
        small.push(begin(40, 500));
        // Space for these, and not for that.
        disk.set_capacity(disk.used() + 25_000);
        gate.set_shut(false);
        leader.join().unwrap().unwrap();
        is_full(block_on(large));
        for write in small {
            block_on(write).unwrap();
        }
    });
}
