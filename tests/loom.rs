//! The protocols under every interleaving that loom can find.
//!
//! Run by `RUSTFLAGS="--cfg ifmatch_loom" cargo test --release --test loom`; empty otherwise.
//! The models run the crate's own code through its `sync` seam. Each says which bug it would
//! catch. Threads are preempted at most as often as the model says: most bugs need two.

#![cfg(ifmatch_loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::UNIX_EPOCH;

use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{Collection, Error, Reason, Store, StoreBuilder};
use loom::sync::{Condvar, Mutex};
use loom::thread;

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let name = std::thread::current().name().unwrap_or("model").to_owned();
    println!("{name}: {} interleavings", runs.load(Ordering::Relaxed));
}

/// Everything that could differ from run to run is fixed.
fn builder() -> StoreBuilder {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
    Store::builder().stripes(1).seed(1).segment_bytes(4096).clock(clock)
}

fn on_disk() -> (MemoryDisk, Store) {
    let disk = MemoryDisk::new();
    let store = builder().open_on(Arc::new(disk.clone())).unwrap();
    // The first write takes space for those that follow.
    store.collection::<u8, u64>("first").unwrap().create(1, 0).commit().unwrap();
    (disk, store)
}

fn words(store: &Store) -> Collection<u8, u64> {
    store.collection("words").unwrap()
}

/// loom's own `park` forgets a wake-up that comes while the thread waits for a lock.
#[derive(Default)]
struct Token {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

fn block_on<F: IntoFuture>(future: F) -> F::Output {
    let token = Arc::new(Token::default());
    let waker = Waker::from(Arc::clone(&token));
    let mut future = std::pin::pin!(future.into_future());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut woken = token.woken.lock().unwrap();
        while !*woken {
            woken = token.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// A number that can be found again in a log.
const MARK: u64 = 0x6b72_616d_6b72_616d;

/// Whether the number would be in the file after a power cut.
fn holds_mark(disk: &MemoryDisk, file: &str, mark: u64) -> bool {
    let left = disk.power_cut(0).read(file).unwrap();
    left.windows(8).any(|bytes| bytes == mark.to_le_bytes())
}

/// Catches: deciding a condition outside the critical section that installs the write.
#[test]
fn g1_of_two_compare_and_swaps_on_one_version_one_lands() {
    model(5, || {
        let store = builder().in_memory();
        let words = words(&store);
        let v1 = words.create(1, 0).commit().unwrap().version();
        let swap = |value: u64| {
            let words = words.clone();
            move || words.put(1, value).if_match(v1).commit().map(|landed| landed.version())
        };
        let other = thread::spawn(swap(10));
        let mine = swap(20)();
        let other = other.join().unwrap();
        let ((Ok(won), Err(lost)) | (Err(lost), Ok(won))) = (mine, other) else {
            panic!("not exactly one landed")
        };
        let Error::Conflict(lost) = lost else { panic!("not a conflict: {lost}") };
        assert_eq!((lost.reason(), lost.current_version()), (Reason::StaleVersion, Some(won)));
    });
}

/// Catches: versions drawn from the clock's tick and the counter in two steps, so that a later
/// version has an earlier time.
#[test]
fn g2_time_never_decreases_in_version_order() {
    model(5, || {
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let store = Store::builder().stripes(1).seed(1).clock(clock.clone()).in_memory();
        let (words, more) = (words(&store), store.collection::<u8, u64>("more").unwrap());
        let other = thread::spawn(move || {
            clock.advance(std::time::Duration::from_millis(5));
            more.create(1, 0).commit().unwrap().into_entity()
        });
        let mine = words.create(1, 0).commit().unwrap().into_entity();
        let other = other.join().unwrap();
        assert_ne!(mine.version(), other.version());
        let (first, second) =
            if mine.version() < other.version() { (mine, other) } else { (other, mine) };
        assert!(first.written_at() <= second.written_at());
    });
}

/// Catches: showing a write before the sync that covers it has returned.
#[test]
fn g3_a_reader_sees_only_what_a_power_cut_would_leave() {
    model(4, || {
        let (disk, store) = on_disk();
        let (words, writer) = (words(&store), words(&store));
        let writer = thread::spawn(move || drop(writer.create(1, MARK).commit().unwrap()));
        if words.get(1).unwrap().is_some() {
            assert!(holds_mark(&disk, "00000000000000000001.log", MARK));
        }
        writer.join().unwrap();
        assert!(words.contains(1).unwrap());
    });
}

/// Catches: a refusal that rests on a write which a power cut could still take back.
#[test]
fn g3_a_refusal_is_withheld_until_what_it_rests_on_is_durable() {
    model(4, || {
        let (_, store) = on_disk();
        let (words, other) = (words(&store), words(&store));
        let other = thread::spawn(move || other.create(1, 1).commit().is_ok());
        match words.create(1, 2).commit() {
            Ok(_) => assert!(!other.join().unwrap()),
            Err(refused) => {
                assert!(refused.is_conflict());
                // The winner's write is visible as soon as the loser has been told.
                assert!(words.contains(1).unwrap());
                assert!(other.join().unwrap());
            }
        }
    });
}

/// Catches: a lost wake-up when one committer leads and the other waits (loom reports the
/// deadlock), and a frame that nobody leads.
#[test]
fn g3_two_threads_that_commit_are_both_answered() {
    model(4, || {
        let (_, store) = on_disk();
        let (words, other) = (words(&store), words(&store));
        let other = thread::spawn(move || drop(other.create(1, 1).commit().unwrap()));
        words.create(2, 2).commit().unwrap();
        other.join().unwrap();
        assert_eq!(words.len().unwrap(), 2);
    });
}

/// Catches: a future that waits while the service thread sleeps, or that a leading thread
/// forgets when it is done.
#[test]
fn g3_a_future_is_answered_beside_a_thread_that_leads() {
    model(4, || {
        let (_, store) = on_disk();
        let (words, other) = (words(&store), words(&store));
        let other = thread::spawn(move || drop(other.create(1, 1).commit().unwrap()));
        block_on(words.create(2, 2)).unwrap();
        other.join().unwrap();
        assert_eq!(words.len().unwrap(), 2);
    });
}

/// Catches: a dropped future whose write nobody syncs, on which another's answer rests.
#[test]
fn g3_a_dropped_future_stalls_nobody() {
    model(4, || {
        let (_, store) = on_disk();
        let words = words(&store);
        let mut write = words.create(1, 1).into_future();
        let _ = std::pin::Pin::new(&mut write).poll(&mut Context::from_waker(Waker::noop()));
        drop(write);
        assert!(block_on(words.create(1, 2)).unwrap_err().is_conflict());
        assert_eq!(*words.get(1).unwrap().unwrap(), 1);
    });
}

/// Of values so large that the open frame has room for one.
fn blobs(store: &Store) -> Collection<u8, Vec<u8>> {
    store.collection("blobs").unwrap()
}

/// Catches: a lost wake-up of a thread that waits for room while the leader makes it, and room
/// that is given out twice (the log asserts that what is promised is there).
#[test]
fn g11_a_thread_that_waits_for_room_gets_it() {
    model(3, || {
        let (_, store) = on_disk();
        let (mine, other) = (blobs(&store), blobs(&store));
        let other = thread::spawn(move || drop(other.create(1, vec![1; 2_500]).commit().unwrap()));
        mine.create(2, vec![2; 2_500]).commit().unwrap();
        other.join().unwrap();
        assert_eq!(mine.len().unwrap(), 2);
    });
}

/// Catches: a future that waits for room of which the service thread was not told.
#[test]
fn g11_a_future_that_waits_for_room_gets_it() {
    model(3, || {
        let (_, store) = on_disk();
        let (mine, other) = (blobs(&store), blobs(&store));
        let other = thread::spawn(move || drop(other.create(1, vec![1; 2_500]).commit().unwrap()));
        block_on(mine.create(2, vec![2; 2_500])).unwrap();
        other.join().unwrap();
        assert_eq!(mine.len().unwrap(), 2);
    });
}

/// Catches: a migration that a second thread runs again, or sees before it is durable, and a lost
/// wake-up when it ends (loom reports the deadlock).
#[test]
fn two_threads_that_open_at_once_migrate_once() {
    model(5, || {
        let (disk, store) = on_disk();
        words(&store).create(1, 1).commit().unwrap();
        store.close().unwrap();
        let store = builder().open_on(Arc::new(disk.clone())).unwrap();
        let runs = Arc::new(AtomicU64::new(0));
        let open = move |store: Store, runs: Arc<AtomicU64>| {
            let add = move |old: u64| old + MARK + runs.fetch_add(1, Ordering::Relaxed);
            let words = store.declare::<u8, u64>("words").schema(2).migrate(1, add).open();
            assert!(holds_mark(&disk, "00000000000000000002.log", MARK + 1));
            words.unwrap().get(1).unwrap().unwrap()
        };
        let other = thread::spawn({
            let (open, store, runs) = (open.clone(), store.clone(), Arc::clone(&runs));
            move || open(store, runs).version()
        });
        let mine = open(store, Arc::clone(&runs));
        assert_eq!((*mine, mine.version()), (MARK + 1, other.join().unwrap()));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    });
}

/// Catches: whoever is still decoding the old schema and opens it behind the migration's back, so
/// that it writes what nobody can read (the last open fails, or finds the wrong number).
#[test]
fn a_migration_is_not_overtaken() {
    model(5, || {
        let (disk, store) = on_disk();
        words(&store).create(1, 1).commit().unwrap();
        store.close().unwrap();
        let store = builder().open_on(Arc::new(disk.clone())).unwrap();
        let open = |store: &Store, schema: u32| {
            let words = store.declare::<u8, u64>("words").schema(schema);
            words.migrate(1, |old: u64| old + 100).open()
        };
        let other = thread::spawn({
            let store = store.clone();
            move || {
                let words = open(&store, 1).ok()?;
                Some(words.update(1, |old| *old += 10).commit().is_ok())
            }
        });
        let migrated = open(&store, 2).is_ok();
        let old = other.join().unwrap();
        assert_ne!(migrated, old.is_some(), "one of them is refused");
        store.close().unwrap();
        let store = builder().open_on(Arc::new(disk)).unwrap();
        let (schema, number) = if migrated { (2, 101) } else { (1, 11) };
        assert_eq!(*open(&store, schema).unwrap().get(1).unwrap().unwrap(), number);
    });
}
