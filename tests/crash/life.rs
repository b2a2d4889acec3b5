//! One life of a store: it opens, shows all it has, and works through a seeded plan.

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use ifmatch::testing::{Disk, MemoryDisk};
use ifmatch::{Collection, Entity, Error, Json, Outcome, Store, Version};

use crate::common::block_on;
use crate::faults::FULL_DISK_POISONS;
use crate::history::{Begun, History, Knowledge, MIGRATING, Place, Reading, Shown};
use crate::watching::{Seen, Watching};

const COLLECTIONS: usize = 3;
const KEYS: u64 = 6;
/// Only ever updated, by all threads.
const SHARED: Place = (0, KEYS);
const THREADS: u64 = 2;

/// The number of the write, and something that follows from it.
type Value = (u64, String);

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub steps: usize,
    pub style: Style,
    /// How often the store is closed and opened again.
    pub reopens: usize,
    /// Whether the store takes snapshots by itself, besides those that are asked for.
    pub unasked: bool,
    /// Whether each opening brings one collection to the next schema.
    pub migrates: bool,
    /// Whether the disk may fail: then so may opening, and writes may be refused.
    pub may_fail: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Writes that are waited for, one after the other: the same calls each time.
    Blocking,
    /// Writes of several futures at once, some of which are dropped while under way.
    Futures,
    /// Threads on keys of their own, and on one that they share.
    Threads,
}

/// Lives on `through`, which keeps everything on `disk`.
pub fn live(disk: &MemoryDisk, through: &Arc<dyn Disk>, before: &Knowledge, plan: Plan) -> History {
    let history = History::new(disk, before);
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let seen = Arc::new(Seen::default());
    let through: Arc<dyn Disk> =
        Arc::new(Watching { disk: Arc::clone(through), seen: Arc::clone(&seen) });
    for _ in 0..=plan.reopens {
        let life = match Life::open(&history, &through, &seen, plan) {
            Ok(life) => life,
            Err(Error::Io { .. }) if plan.may_fail => continue,
            Err(Error::Poisoned { .. }) if plan.may_fail && seen.has_failed() => continue,
            Err(error) if plan.may_fail && refused_for_space(&error) => continue,
            Err(error) => {
                history.violate(format!("it does not open: {error}"));
                break;
            }
        };
        life.inspect();
        history.inspected();
        life.work(&mut random);
        life.inspect();
        if life.full.load(Ordering::Relaxed) {
            life.go_on_with_space(&mut random);
        }
        let store = life.store.clone();
        let poisoned = life.poisoned.load(Ordering::Relaxed);
        let syncs = life.syncs.load(Ordering::Relaxed);
        drop(life.maps);
        match store.close() {
            Ok(()) => {}
            Err(Error::Poisoned { .. }) if plan.may_fail || poisoned => {}
            Err(error) => history.violate(format!("it does not close: {error}")),
        }
        if poisoned && seen.syncs() > syncs {
            history.violate("there was a sync of the log after a failure".to_owned());
        }
    }
    history
}

/// What a full disk says to a write, where it does not poison: see [`FULL_DISK_POISONS`].
fn refused_for_space(error: &Error) -> bool {
    format!("{error:?}").starts_with("DiskFull")
}

/// A write that is under way.
struct Asked {
    reading: Reading,
    begun: Begun,
    /// Whether a write had been answered by then that the disk has failed.
    after_failure: bool,
}

struct Life<'a> {
    history: &'a History,
    plan: Plan,
    seen: Arc<Seen>,
    store: Store,
    maps: Vec<Collection<u64, Value>>,
    poisoned: AtomicBool,
    /// Whether a write was refused because the disk was full.
    full: AtomicBool,
    /// How many syncs of the log there were when the store was known to be poisoned.
    syncs: AtomicU64,
}

impl<'a> Life<'a> {
    fn open(
        history: &'a History,
        through: &Arc<dyn Disk>,
        seen: &Arc<Seen>,
        plan: Plan,
    ) -> Result<Life<'a>, Error> {
        let builder = Store::builder().stripes(2).segment_bytes(2048).seed(plan.seed);
        let after = if plan.unasked { 0 } else { u64::MAX };
        let builder = builder.snapshot_after(after).snapshot_rate(u64::MAX);
        let store = builder.open_on(Arc::clone(through))?;
        let schema = history.opens(plan.migrates);
        let maps = (0..COLLECTIONS).map(|number| declare(&store, number, schema));
        let maps = maps.collect::<Result<Vec<_>, Error>>()?;
        Ok(Life {
            history,
            plan,
            seen: Arc::clone(seen),
            store,
            maps,
            poisoned: AtomicBool::new(false),
            full: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
        })
    }

    /// Reads all there is, in each way there is.
    fn inspect(&self) {
        for (number, map) in self.maps.iter().enumerate() {
            let got: Vec<_> = (0..=KEYS).filter_map(|key| self.get((number, key))).collect();
            let scanned: Vec<_> = (map.iter())
                .map(|item| item.map(|(_, entity)| shown(&entity)).unwrap_or(NOTHING))
                .collect();
            let len = map.len().unwrap_or(usize::MAX);
            // What is under way may become visible between one read and the next.
            if self.plan.style == Style::Blocking && (got != scanned || len != got.len()) {
                self.history.violate(format!("of {got:?} a scan shows {scanned:?}, of len {len}"));
            }
        }
    }

    fn get(&self, place: Place) -> Option<Shown> {
        let reading = self.history.reading(place);
        let entity = match self.maps[place.0].get(place.1) {
            Ok(entity) => entity.as_ref().map(shown),
            Err(error) => {
                self.history.violate(format!("{place:?} cannot be read: {error}"));
                return None;
            }
        };
        self.history.saw(reading, entity);
        entity
    }

    fn work(&self, random: &mut fastrand::Rng) {
        let steps = self.plan.steps;
        match self.plan.style {
            Style::Blocking => (0..steps).for_each(|_| self.step(random, 0..KEYS)),
            Style::Futures => (0..steps / 4).for_each(|_| self.several(random)),
            Style::Threads => {
                self.write(random, SHARED, 0);
                std::thread::scope(|scope| {
                    for thread in 0..THREADS {
                        let mut random = random.fork();
                        let part = KEYS / THREADS;
                        let keys = thread * part..(thread + 1) * part;
                        scope.spawn(move || {
                            for step in 0..steps / THREADS as usize {
                                self.step(&mut random, keys.clone());
                                if step % 4 == 0 {
                                    self.write(&mut random, SHARED, 4);
                                    self.get(SHARED);
                                }
                            }
                        });
                    }
                });
            }
        }
    }

    fn go_on_with_space(&self, random: &mut fastrand::Rng) {
        let highest = self.history.known().highest;
        self.history.disk.set_capacity(usize::MAX);
        self.write(random, SHARED, 5);
        if self.history.known().highest == highest {
            self.history.violate("there is space, and writes do not go on".to_owned());
        }
    }

    fn step(&self, random: &mut fastrand::Rng, keys: std::ops::Range<u64>) {
        let place = (random.usize(..COLLECTIONS), random.u64(keys));
        match random.u8(..32) {
            0 => self.snapshot(),
            1..4 => drop(self.get(place)),
            4..10 => self.delete(random, place),
            _ => {
                let how = random.u8(..6);
                self.write(random, place, how);
            }
        }
    }

    /// One that fails is no more than that.
    fn snapshot(&self) {
        match self.store.snapshot() {
            Ok(()) => {}
            Err(Error::Io { .. }) if self.plan.may_fail => {}
            Err(Error::Poisoned { .. }) => self.is_poisoned(),
            Err(error) => self.history.violate(format!("a snapshot was answered: {error}")),
        }
    }

    fn is_poisoned(&self) {
        if !self.poisoned.swap(true, Ordering::Relaxed) {
            self.syncs.store(self.seen.syncs(), Ordering::Relaxed);
        }
        if !self.seen.has_failed() {
            self.history.violate("poisoned, and nothing of the log had failed".to_owned());
        }
    }

    fn write(&self, random: &mut fastrand::Rng, place: Place, how: u8) {
        let (map, key) = (&self.maps[place.0], place.1);
        let stale = random.u8(..8) == 0;
        let current = self.get(place).and_then(|shown| Version::new(shown.version));
        let asked = self.ask(place, false);
        let value = value(asked.begun.write);
        let done = match (how, current) {
            (0, _) => map.create(key, value).commit(),
            (1 | 2, Some(version)) if !stale => map.put(key, value).if_match(version).commit(),
            (1, Some(_)) => map.put(key, value).if_match(Version::new(1).unwrap()).commit(),
            (3 | 4, _) => map.update(key, |old| *old = value.clone()).commit(),
            _ => map.put(key, value).unconditional().commit(),
        };
        self.settle(asked, done.map(|done| done.version()));
    }

    fn delete(&self, random: &mut fastrand::Rng, place: Place) {
        let asked = self.ask(place, true);
        let delete = self.maps[place.0].delete(place.1);
        let delete = if random.bool() { delete.unconditional() } else { delete.if_exists() };
        self.settle(asked, delete.commit().map(|done| done.version()));
    }

    fn ask(&self, place: Place, deletes: bool) -> Asked {
        let after_failure = self.poisoned.load(Ordering::Relaxed);
        let reading = self.history.reading(place);
        Asked { reading, begun: self.history.begin(place, deletes), after_failure }
    }

    /// Begins several writes at once, and looks at what they write while they are under way. Some
    /// are waited for.
    fn several(&self, random: &mut fastrand::Rng) {
        let mut pending = Vec::new();
        for _ in 0..random.usize(1..8) {
            let place = (random.usize(..COLLECTIONS), random.u64(..KEYS));
            let deletes = random.u8(..5) == 0;
            // The second rests on the first: if refused, it is told when that is durable.
            for unconditional in [true, false] {
                let asked = self.ask(place, deletes);
                let mut write = self.future(&asked, place, deletes, unconditional);
                match write.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(done) => self.settle(asked, done),
                    Poll::Pending => pending.push((asked, write)),
                }
                self.get(place);
            }
        }
        for (asked, write) in pending {
            if random.u8(..3) > 0 {
                let done = block_on(write);
                self.settle(asked, done);
            }
        }
        self.step(random, 0..KEYS);
    }

    fn future(
        &self,
        asked: &Asked,
        (number, key): Place,
        deletes: bool,
        unconditional: bool,
    ) -> Pin<Box<dyn Future<Output = ifmatch::Result<Version>> + '_>> {
        let map = &self.maps[number];
        if deletes {
            let write = map.delete(key).unconditional().into_future();
            return Box::pin(async { write.await.map(|done| done.version()) });
        }
        let value = value(asked.begun.write);
        let write = match unconditional {
            true => map.put(key, value).unconditional(),
            false => map.create(key, value),
        };
        let write = write.into_future();
        Box::pin(async { write.await.map(|done| done.version()) })
    }

    /// Notes what a write was answered.
    fn settle(&self, asked: Asked, answer: ifmatch::Result<Version>) {
        let (history, Asked { reading, begun, after_failure }) = (self.history, asked);
        match answer {
            Ok(version) => {
                history.landed(begun, version.get());
                if after_failure {
                    history.violate(format!("version {version} was written after a failure"));
                }
            }
            Err(Error::Conflict(conflict)) => {
                history.not_applied(begun);
                match (conflict.current::<Value>(), conflict.deletion()) {
                    (None, Some(deletion)) => {
                        history.saw_deleted(reading, deletion.version().get());
                    }
                    (current, _) => history.saw(reading, current.as_ref().map(shown)),
                }
            }
            Err(Error::Poisoned { outcome, source }) => {
                if source.kind() == ErrorKind::StorageFull && !FULL_DISK_POISONS {
                    history.violate("a full disk has poisoned the store".to_owned());
                }
                match outcome {
                    Outcome::NotApplied => history.not_applied(begun),
                    Outcome::Unknown if after_failure => {
                        history
                            .violate("a write after a failure has an unknown outcome".to_owned());
                    }
                    Outcome::Unknown => {}
                }
                self.is_poisoned();
            }
            Err(error) if self.plan.may_fail && refused_for_space(&error) => {
                history.not_applied(begun);
                self.full.store(true, Ordering::Relaxed);
            }
            Err(error) => history.violate(format!("a write was answered: {error}")),
        }
    }
}

/// One collection is migrated, another has a codec of its own.
fn declare(store: &Store, number: usize, schema: u32) -> ifmatch::Result<Collection<u64, Value>> {
    let name = format!("c{number}");
    if number == COLLECTIONS - 1 {
        return store.declare(&name).codec(Json).open();
    }
    if number != MIGRATING {
        return store.collection(&name);
    }
    let builder = store.declare(&name).schema(schema);
    (1..schema).fold(builder, |builder, from| builder.migrate(from, |old: Value| old)).open()
}

const NOTHING: Shown = Shown { write: u64::MAX, version: 0, migrated: false };

fn value(write: u64) -> Value {
    // Now and then longer than a segment.
    let most = if write % 16 == 15 { 5_003 } else { 211 };
    (write, "x".repeat(write as usize * 1_237 % most))
}

/// What an entity shows: a value that no write had is write [`NOTHING`].
fn shown(entity: &Entity<Value>) -> Shown {
    let (write, version) = (entity.value().0, entity.version().get());
    let migrated = entity.written_by().is_some_and(|actor| actor == "migration");
    match *entity.value() == value(write) {
        true => Shown { write, version, migrated },
        false => NOTHING,
    }
}
