//! The protocols under every interleaving that loom can find.
//!
//! Run by `RUSTFLAGS="--cfg ifmatch_loom" cargo test --release --test loom`; empty otherwise.
//! The models run the crate's own code through its `sync` seam. Each says which bug it would
//! catch. Threads are preempted at most as often as the model says: most bugs need two.

#![cfg(ifmatch_loom)]

#[path = "loom/feed.rs"]
mod feed;
#[path = "common/hooked.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
mod hooked;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::UNIX_EPOCH;

use hooked::{Call, Hooked};
use ifmatch::testing::{Disk, ManualClock, MemoryDisk};
use ifmatch::{Collection, Durability, Error, Reason, Store, StoreBuilder};
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

/// Catches: a request to lead that comes while somebody leads, and is forgotten when that one is
/// done, so that a write which nobody waits for is never written (the model does not end).
#[test]
fn g3_without_durability_a_write_beside_a_leader_is_written() {
    model(3, || {
        let disk = MemoryDisk::new();
        let builder = builder().durability(Durability::None);
        let store = builder.open_on(Arc::new(disk.clone())).unwrap();
        let words = words(&store);
        words.create(1, 0).commit().unwrap();
        let flush = thread::spawn({
            let store = store.clone();
            move || store.flush().unwrap()
        });
        words.create(2, MARK).commit().unwrap();
        flush.join().unwrap();
        let written = || disk.read("00000000000000000001.log").unwrap();
        while !written().windows(8).any(|bytes| bytes == MARK.to_le_bytes()) {
            thread::yield_now();
        }
    });
}

/// A store with an entity, on a disk whose syncs fail from now on.
fn about_to_fail() -> Store {
    let broken = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let disk = Hooked::new(MemoryDisk::new(), move |call| match call {
        Call::Sync if fails.load(Ordering::Relaxed) => Err(std::io::Error::other("it is on fire")),
        _ => Ok(()),
    });
    let store = builder().open_on(Arc::new(disk)).unwrap();
    words(&store).create(1, 0).commit().unwrap();
    broken.store(true, Ordering::Relaxed);
    store
}

/// Catches: a failure that does not reach whoever waits for room meanwhile, or closes the store
/// (loom reports the deadlock).
#[test]
fn g11_a_failure_reaches_a_thread_that_waits_for_room() {
    model(3, || {
        let store = about_to_fail();
        let (mine, other) = (blobs(&store), blobs(&store));
        let create = |map: &Collection<u8, Vec<u8>>, key| map.create(key, vec![1; 2_500]).commit();
        let other = thread::spawn(move || create(&other, 1).map(|_| ()));
        let mine = create(&mine, 2).map(|_| ());
        for answer in [mine, other.join().unwrap(), store.close()] {
            assert!(matches!(answer, Err(Error::Poisoned { .. })), "{answer:?}");
        }
    });
}

/// Catches: as above, where the service thread leads and fails.
#[test]
fn g11_a_failure_reaches_a_future_that_waits_for_room() {
    model(2, || {
        let store = about_to_fail();
        let (mine, other) = (blobs(&store), blobs(&store));
        let create = |map: &Collection<u8, Vec<u8>>, key| block_on(map.create(key, vec![1; 2_500]));
        let other = thread::spawn(move || create(&other, 1).map(|_| ()));
        let mine = create(&mine, 2).map(|_| ());
        for answer in [mine, other.join().unwrap(), store.flush()] {
            assert!(matches!(answer, Err(Error::Poisoned { .. })), "{answer:?}");
        }
    });
}

/// Catches: a writer that waits for room and is forgotten when the store closes, an answer without
/// its write, and a writer that leads behind the seal.
#[test]
fn g3_closing_beside_a_writer_that_waits_for_room_answers_it() {
    model(2, || {
        let (disk, store) = on_disk();
        blobs(&store).create(0, vec![1; 2_500]).commit().unwrap();
        let (one, two) = (blobs(&store), blobs(&store));
        let create =
            |map: &Collection<u8, Vec<u8>>, key| match map.create(key, vec![1; 2_500]).commit() {
                Ok(_) => 1,
                Err(Error::Closed) => 0,
                Err(error) => panic!("{error}"),
            };
        let one = thread::spawn(move || create(&one, 1));
        let two = thread::spawn(move || create(&two, 2));
        store.close().unwrap();
        let landed = 1 + one.join().unwrap() + two.join().unwrap();
        let store = builder().open_on(Arc::new(disk)).unwrap();
        assert_eq!(blobs(&store).len().unwrap(), landed);
    });
}

/// Catches: a directory that is given back by the second of two who close, while the first still
/// seals the log (the disk asserts that whoever writes has it).
#[test]
fn two_that_close_at_once_both_wait_for_the_seal() {
    model(3, || {
        let inner = MemoryDisk::new();
        let locked = inner.clone();
        let disk = Hooked::new(inner, move |_| {
            assert!(locked.lock().is_err(), "nobody has the directory, and it is written to");
            Ok(())
        });
        let store = builder().open_on(Arc::new(disk)).unwrap();
        words(&store).create(1, 0).commit().unwrap();
        let other = store.clone();
        let other = thread::spawn(move || other.close().unwrap());
        store.close().unwrap();
        other.join().unwrap();
    });
}

/// Catches: stripes that are not locked in one order for everybody (a deadlock), a commit that
/// unlocks one key before another is installed, and a read set that is not checked at the commit.
#[test]
fn g1_two_transfers_in_opposite_directions() {
    model(2, || {
        let store = builder().stripes(2).in_memory();
        let words = words(&store);
        words.create(1, 10).commit().unwrap();
        words.create(2, 10).commit().unwrap();
        let transfer = |from: u8, to: u8| {
            let (store, words) = (store.clone(), words.clone());
            move || {
                let transfer = store.transact(|tx| {
                    let (a, b) = (*tx.require(&words, from)?, *tx.require(&words, to)?);
                    assert_eq!(a + b, 20, "half of a commit");
                    tx.put(&words, from, a - 1)?;
                    tx.put(&words, to, b + 1)
                });
                transfer.commit().unwrap();
            }
        };
        let other = thread::spawn(transfer(1, 2));
        transfer(2, 1)();
        other.join().unwrap();
        let sum = *words.get(1).unwrap().unwrap() + *words.get(2).unwrap().unwrap();
        assert_eq!((sum, *words.get(1).unwrap().unwrap()), (20, 10));
    });
}

/// Catches: a key that is listed after its record was appended, so that a scan that is checked in
/// between misses it (a phantom).
#[test]
fn g1_of_two_that_count_before_they_create_one_counts_the_other() {
    model(2, || {
        let store = builder().stripes(2).in_memory();
        let words = words(&store);
        let count_and_create = |key: u8| {
            let (store, words) = (store.clone(), words.clone());
            move || {
                let counted = store.transact(|tx| {
                    let count = tx.range::<_, _, u8>(&words, ..)?.len() as u64;
                    tx.create(&words, key, count)
                });
                counted.commit().unwrap();
            }
        };
        let other = thread::spawn(count_and_create(1));
        count_and_create(2)();
        other.join().unwrap();
        let counts = [1, 2].map(|key| *words.get(key).unwrap().unwrap());
        assert!(counts == [0, 1] || counts == [1, 0], "{counts:?}");
    });
}

/// Catches: an operation id that is looked up before the write is decided, and not again under
/// the locks.
#[test]
fn g5_of_two_writes_with_one_id_one_lands() {
    model(3, || {
        let store = builder().in_memory();
        let words = words(&store);
        words.create(1, 0).commit().unwrap();
        let add = || {
            let words = words.clone();
            move || words.update(1, |word| *word += 1).operation_id("add").commit().unwrap()
        };
        let other = thread::spawn(add());
        let mine = add()();
        let other = other.join().unwrap();
        assert_eq!(mine.version(), other.version());
        assert_ne!(mine.is_replayed(), other.is_replayed());
        assert_eq!(*words.get(1).unwrap().unwrap(), 1);
    });
}

/// Catches: a write that is under way when its key is leased, and lands after the lease has been
/// acknowledged; a lease that a writer does not see because nobody had one when it began.
#[test]
fn g8_nobody_writes_a_key_after_it_was_leased() {
    model(3, || {
        let store = builder().in_memory();
        let (words, other) = (words(&store), words(&store));
        let stranger = thread::spawn(move || match other.create(1, 1).commit() {
            Ok(landed) => Some(landed.version()),
            Err(Error::Conflict(refused)) => {
                assert_eq!(refused.reason(), Reason::Locked);
                None
            }
            Err(error) => panic!("{error}"),
        });
        let lease = words.lease(1).commit().unwrap();
        let seen = words.get(1).unwrap().map(|word| word.version());
        let landed = stranger.join().unwrap();
        assert_eq!(landed, seen, "it was there when the lease was acknowledged, or never");
        assert!(landed.is_none_or(|landed| landed < lease.token()));
        assert!(words.put(1, 2).unconditional().holding(&lease).commit().is_ok());
    });
}

/// Catches: a holder whose lease expires while it writes, and who lands after somebody else has
/// taken the key over.
#[test]
fn g8_of_two_holders_the_earlier_is_fenced() {
    model(3, || {
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let store = Store::builder().stripes(1).seed(1).clock(clock.clone()).in_memory();
        let (words, late) = (words(&store), words(&store));
        let first = words.lease(1).commit().unwrap();
        let late = thread::spawn(move || {
            let write = late.put(1, 1).unconditional().holding(&first).commit();
            write.ok().map(|landed| landed.version())
        });
        clock.advance(std::time::Duration::from_secs(30));
        let second = words.lease(1).commit().unwrap();
        let late = late.join().unwrap();
        assert!(late.is_none_or(|late| late < second.token()));
        assert_eq!(words.get(1).unwrap().map(|word| word.version()), late);
    });
}

/// Catches: a refusal for a lease that a power cut could still take back.
#[test]
fn g3_a_refusal_for_a_lease_is_withheld_until_that_is_durable() {
    model(2, || {
        let (disk, store) = on_disk();
        let (words, other) = (words(&store), words(&store));
        let holder = thread::spawn(move || other.lease(1).by("MARKED").commit().unwrap());
        if let Err(refused) = words.create(1, 1).commit() {
            assert!(refused.is_conflict());
            let left = disk.power_cut(0).read("00000000000000000001.log").unwrap();
            assert!(left.windows(6).any(|bytes| bytes == b"MARKED"));
        }
        holder.join().unwrap();
    });
}
