//! Crashes at every call of lives that use the whole conflict model: transactions, operation ids,
//! leases and operations.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ifmatch::testing::{Crash, Disk, ManualClock, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{Clock, Collection, Store};

use crate::campaign::{Wrap, plain, power_cuts, rounds};
use crate::common::report;
use crate::mutants::{Mistake, mutant};
use crate::proof::{Counts, Proof, Told, Tools, Violation, Worker};

/// Few, so that each is leased again and again.
const KEYS: u64 = 3;

/// What was told in a life, each with the number of calls that its disk had taken by then, and
/// the time.
struct Life {
    disk: MemoryDisk,
    told: Vec<(usize, SystemTime, Told)>,
    began: SystemTime,
}

/// A campaign, counted.
struct Whole {
    wrap: Wrap,
    /// Done to a store that has been opened after a crash, before anybody looks.
    harm: fn(&Store, &ManualClock),
    /// How far the clock of whoever looks is behind that of the store.
    looks_back: Duration,
    counts: Counts,
    crashes: usize,
    violations: Vec<Violation>,
}

impl Whole {
    fn new() -> Whole {
        Whole {
            wrap: plain,
            harm: |_, _| {},
            looks_back: Duration::ZERO,
            counts: Counts::default(),
            crashes: 0,
            violations: Vec::new(),
        }
    }

    /// Lives, crashes at each call, and holds what was told by then against what is there; now and
    /// then it lives on from there, and crashes again.
    fn run(&mut self, seed: u64, steps: usize) {
        let start = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let Some(life) = self.live(&MemoryDisk::new(), start, seed, steps) else { return };
        let mut again = Vec::new();
        let mut proof = Proof::default();
        self.crashes_of(&life, &mut proof, &mut |calls, crash, now, proof| {
            if calls % 37 == 0 && matches!(crash, Crash::Power(_)) {
                again.push((life.disk.crash(calls, crash), now, proof.clone()));
            }
        });
        for (seed, (disk, now, mut proof)) in (seed + 1..).zip(again) {
            let Some(life) = self.live(&disk, now, seed, steps / 4) else { return };
            self.crashes_of(&life, &mut proof, &mut |_, _, _, _| {});
        }
    }

    /// Takes steps on a store that opens and closes.
    fn live(
        &mut self,
        disk: &MemoryDisk,
        began: SystemTime,
        seed: u64,
        steps: usize,
    ) -> Option<Life> {
        let clock = Arc::new(ManualClock::new(began));
        let opened = open((self.wrap)(disk.clone()), &clock);
        let store = self.note("does not open", opened)?;
        let told = Mutex::new(Vec::new());
        let now = || clock.now();
        let tell = |fact| told.lock().unwrap().push((disk.calls(), clock.now(), fact));
        let tools = Tools { store: &store, now: &now, tell: &tell };
        let mut random = fastrand::Rng::with_seed(seed);
        let worker = Worker::new(tools, 0, KEYS, seed);
        let mut worker = self.note("does not begin", worker)?;
        for _ in 0..steps {
            if worker.step().is_break() {
                self.violations.push("poisoned, and nothing had failed".to_owned());
            }
            match random.u8(0..40) {
                0 => store.snapshot().unwrap(),
                1..4 => clock.advance(Duration::from_millis(random.u64(1..1_000))),
                _ => {}
            }
        }
        drop(worker);
        store.close().unwrap();
        let disk = disk.clone();
        Some(Life { disk, told: told.into_inner().unwrap(), began })
    }

    fn crashes_of(
        &mut self,
        life: &Life,
        proof: &mut Proof,
        then: &mut dyn FnMut(usize, Crash, SystemTime, &Proof),
    ) {
        let (mut told, mut now) = (life.told.iter().peekable(), life.began);
        proof.counts = Counts::default();
        for calls in 0..=life.disk.calls() {
            while let Some((_, at, fact)) = told.next_if(|(by, _, _)| *by <= calls) {
                now = *at;
                let learned = proof.learn(fact);
                if self.note("in a life", learned).is_none() {
                    return;
                }
            }
            let cuts = power_cuts(calls as u64);
            let cut = Crash::Power(cuts[calls % cuts.len()]);
            let (writes, names) = (Unsynced::Torn, Names::Kept);
            let torn = Crash::Power(PowerCut { writes, names, seed: calls as u64 });
            for crash in [cut, torn, Crash::Process] {
                self.crash(life, calls, crash, now, proof.clone());
                then(calls, crash, now, proof);
            }
        }
        self.counts += &proof.counts;
    }

    fn crash(
        &mut self,
        life: &Life,
        calls: usize,
        crash: Crash,
        now: SystemTime,
        mut proof: Proof,
    ) {
        self.crashes += 1;
        let clock = Arc::new(ManualClock::new(now));
        let left = (self.wrap)(life.disk.crash(calls, crash));
        let opened = open(left, &clock);
        let Some(store) = self.note("does not open", opened) else { return };
        (self.harm)(&store, &clock);
        proof.counts = std::mem::take(&mut self.counts);
        let checked = proof.check(&store, &|| clock.now() - self.looks_back);
        self.counts = std::mem::take(&mut proof.counts);
        self.note(&format!("{crash:?} after {calls}"), checked);
    }

    fn note<T, E: std::fmt::Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.violations.push(format!("{what}: {error}"))).ok()
    }
}

fn open(disk: Arc<dyn Disk>, clock: &Arc<ManualClock>) -> ifmatch::Result<Store> {
    let builder = Store::builder().stripes(2).segment_bytes(4_096).snapshot_after(u64::MAX);
    let clock: Arc<ManualClock> = Arc::clone(clock);
    builder.clock(clock).seed(1).open_on(disk)
}

/// What is found by a mistake, or after a harm: a violation that reads `as_what`.
fn is_found(mut whole: Whole, as_what: &str) {
    whole.run(300, 40);
    let Whole { crashes, violations, .. } = whole;
    let found: Vec<_> = violations.iter().filter(|found| found.contains(as_what)).collect();
    let first = found.first().unwrap_or_else(|| panic!("only {:#?}", violations.first()));
    let (all, count) = (violations.len(), found.len());
    report(format_args!("{count} of {all} violations in {crashes} crashes, such as: {first:.200}"));
}

fn harmed(harm: fn(&Store, &ManualClock)) -> Whole {
    Whole { harm, ..Whole::new() }
}

/// Where keys are leased.
fn held(store: &Store) -> Collection<u64, u64> {
    store.collection("held").unwrap()
}

#[test]
fn g1_half_of_a_transaction_is_found() {
    let harm = |store: &Store, _: &ManualClock| {
        let left = store.collection::<u64, u64>("left").unwrap();
        _ = left.update(0, |balance| *balance += 1).commit();
    };
    is_found(harmed(harm), "do not sum up to the total");
    let harm = |store: &Store, _: &ManualClock| {
        let left = store.collection::<u64, u64>("left").unwrap();
        _ = left.update(0, |balance| *balance += 1).commit();
        _ = left.update(1, |balance| *balance -= 1).commit();
    };
    is_found(harmed(harm), "by the ledger");
}

#[test]
fn g3_a_transfer_that_is_gone_is_found() {
    let harm = |store: &Store, _: &ManualClock| {
        let ledger = store.collection::<String, (u64, u64, u64)>("ledger").unwrap();
        let entry = ledger.iter().next().map(|item| item.unwrap());
        let Some((id, entry)) = entry else { return };
        let (from, to, amount) = *entry;
        let accounts = ["left", "right"].map(|name| store.collection::<u64, u64>(name).unwrap());
        let of = |account: u64| &accounts[usize::from(account >= 4)];
        of(from).update(from, |balance| *balance += amount).commit().unwrap();
        of(to).update(to, |balance| *balance -= amount).commit().unwrap();
        ledger.delete(id).if_exists().commit().unwrap();
    };
    is_found(harmed(harm), "transfers that were told");
}

#[test]
fn g5_ids_that_are_forgotten_are_found() {
    // They are kept for a day.
    let harm =
        |_: &Store, clock: &ManualClock| clock.set(clock.now() + Duration::from_secs(90_000));
    let late = Whole { looks_back: Duration::from_secs(90_000), ..harmed(harm) };
    is_found(late, "and its first answer was");
}

#[test]
fn g5_a_count_that_is_counted_twice_is_found() {
    let harm = |store: &Store, _: &ManualClock| {
        let tallies = store.collection::<u64, u64>("tallies").unwrap();
        _ = tallies.update(0, |count| *count += 1).commit();
    };
    is_found(harmed(harm), "ids were counted");
}

#[test]
fn g8_a_lease_that_ends_too_early_is_found() {
    let harm = |_: &Store, clock: &ManualClock| clock.set(clock.now() + Duration::from_secs(7_200));
    let early = Whole { looks_back: Duration::from_secs(7_200), ..harmed(harm) };
    is_found(early, "lease: None");
}

#[test]
fn g8_a_lease_that_nobody_took_is_found() {
    let harm = |store: &Store, _: &ManualClock| {
        (0..KEYS).for_each(|key| _ = held(store).lease(key).by("a stranger").commit());
    };
    is_found(harmed(harm), "a stranger");
}

#[test]
fn g8_a_write_that_got_past_a_lease_is_found() {
    let harm = |store: &Store, _: &ManualClock| {
        (0..KEYS).for_each(|key| _ = held(store).delete(key).if_exists().commit());
    };
    is_found(harmed(harm), "value: None");
}

#[test]
fn g3_an_operation_that_has_another_end_is_found() {
    let harm = |store: &Store, _: &ManualClock| {
        let jobs = store.operations("job");
        for scope in 0..2 {
            let Err(refused) = jobs.begin(scope.to_string()).by("a stranger").commit() else {
                continue;
            };
            let running = refused.conflict().unwrap().operation().unwrap().id().to_owned();
            jobs.cancel(running).commit().unwrap();
        }
    };
    is_found(harmed(harm), "status: \"cancelled\"");
}

#[test]
fn g3_an_answer_before_the_sync_is_found_by_every_kind_of_step() {
    for kind in ["transfers that were told", "Shows { key", "Shows { scope"] {
        let wrap = |disk| mutant(disk, Mistake::DurableTooEarly);
        is_found(Whole { wrap, ..Whole::new() }, kind);
    }
}

#[test]
fn g1_g3_g5_g8_a_crash_at_any_call_keeps_transactions_ids_leases_and_operations() {
    let mut whole = Whole::new();
    for seed in 0..2 * rounds() {
        whole.run(100 * seed, 70);
    }
    let Whole { counts, crashes, violations, .. } = whole;
    report(format_args!("the whole model: {crashes} crashes; {counts}"));
    assert!(violations.is_empty(), "{} violations: {:#?}", violations.len(), &violations[..1]);
    assert!(crashes > 2_000);
    counts.assert_all(5);
}
