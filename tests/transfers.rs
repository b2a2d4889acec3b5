//! G1 and G3 under load: 64 threads move money between 100 accounts, and the total stays.
//!
//! For one second each by default, and across few kills; `IFMATCH_TEST_TRANSFER_SECONDS` and
//! `IFMATCH_TEST_TRANSFER_KILLS` say otherwise.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{configurations, report};
use ifmatch::{Collection, Error, Once, Result, RetryPolicy, Store};

const SECONDS: &str = "IFMATCH_TEST_TRANSFER_SECONDS";
const KILLS: &str = "IFMATCH_TEST_TRANSFER_KILLS";
const DIRECTORY: &str = "IFMATCH_TEST_TRANSFER_DIRECTORY";
const ACCOUNTS: u64 = 100;
const THREADS: u64 = 64;
const EACH: u64 = 1_000;

struct Bank {
    store: Store,
    accounts: Collection<u64, u64>,
    /// Every transfer: from, to, amount. Written in the same commit as the balances.
    ledger: Collection<String, (u64, u64, u64)>,
}

impl Bank {
    fn open(store: Store) -> Result<Bank> {
        let (accounts, ledger) = (store.collection("accounts")?, store.collection("ledger")?);
        let bank = Bank { store, accounts, ledger };
        let endow = bank.store.transact(|tx| {
            (0..ACCOUNTS).try_for_each(|account| tx.create(&bank.accounts, account, EACH))
        });
        // Unless that was done in an earlier life.
        endow.operation_id("endow").commit()?;
        Ok(bank)
    }

    fn transfer(&self, id: &str, random: &mut fastrand::Rng) -> Result<Once<()>> {
        let (from, to) = (random.u64(0..ACCOUNTS), random.u64(0..ACCOUNTS));
        let amount = random.u64(1..=100);
        let transfer = self.store.transact(|tx| {
            let left = tx.require(&self.accounts, from)?.checked_sub(amount);
            tx.put(&self.accounts, from, left.ok_or_else(|| Error::refused("too little"))?)?;
            let more = *tx.require(&self.accounts, to)? + amount;
            tx.put(&self.accounts, to, more)?;
            tx.create(&self.ledger, id, (from, to, amount))
        });
        let patient = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
        transfer.retry(patient).operation_id(id).commit()
    }

    /// 64 threads transfer until `go_on` says no. Tells each transfer that was acknowledged.
    fn run(&self, go_on: impl Fn() -> bool + Sync, done: impl Fn(&str) + Sync) {
        let life = fastrand::u64(..);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (go_on, done) = (&go_on, &done);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(life ^ thread);
                    for number in 0u64.. {
                        if !go_on() {
                            break;
                        }
                        let id = format!("{life:x}-{thread}-{number}");
                        match self.transfer(&id, &mut random) {
                            Ok(Once::First(_)) => done(&id),
                            Ok(Once::Replayed { .. }) => panic!("{id} was replayed"),
                            Err(Error::Refused(_) | Error::Conflict(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
    }

    /// The total is what it was, and each balance is what the ledger says.
    fn audit(&self) -> u64 {
        let audit = self.store.transact(|tx| {
            let mut due = vec![EACH; ACCOUNTS as usize];
            let transfers = tx.range::<_, _, String>(&self.ledger, ..)?;
            for (_, transfer) in &transfers {
                let (from, to, amount) = **transfer;
                due[from as usize] = due[from as usize].wrapping_sub(amount);
                due[to as usize] = due[to as usize].wrapping_add(amount);
            }
            let accounts = tx.range::<_, _, u64>(&self.accounts, ..)?;
            let balances: Vec<u64> = accounts.iter().map(|(_, balance)| **balance).collect();
            assert_eq!(balances, due, "the balances are not what the ledger says");
            assert_eq!(balances.iter().sum::<u64>(), ACCOUNTS * EACH);
            Ok(transfers.len() as u64)
        });
        audit.commit().unwrap().into_value()
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// The ledger is read in one transaction.
fn limits() -> ifmatch::Limits {
    ifmatch::Limits { transaction_keys: usize::MAX, ..ifmatch::Limits::default() }
}

#[test]
fn g1_transfers_of_64_threads_keep_the_total() {
    let load = Duration::from_secs(number(SECONDS, 1));
    for configuration in configurations() {
        let bank = Bank::open(configuration.open_with(configuration.builder().limits(limits())));
        let (bank, transfers) = (bank.unwrap(), AtomicU64::new(0));
        let start = Instant::now();
        bank.run(|| start.elapsed() < load, |_| _ = transfers.fetch_add(1, Ordering::Relaxed));
        let transfers = transfers.into_inner();
        assert_eq!(bank.audit(), transfers);
        assert!(transfers > 100, "{transfers}");
        report(format_args!("{}: {transfers} transfers in {load:?}", configuration.name));
    }
}

/// Not a test of its own: what the child process runs.
#[test]
fn child_process() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let store = Store::builder().segment_bytes(1 << 20).snapshot_after(4 << 20).open(directory);
    let bank = Bank::open(store.unwrap()).unwrap();
    bank.run(|| true, |id| report(format_args!("> {id}")));
}

#[test]
fn g1_g3_g5_transfers_keep_the_total_across_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let (kills, mut random) = (number(KILLS, 5), fastrand::Rng::with_seed(1));
    let mut acknowledged = Vec::new();
    for _ in 0..kills {
        acknowledged.extend(live_and_die(directory.path(), random.usize(0..3_000)));
        let store = Store::builder().limits(limits()).open(directory.path()).unwrap();
        let bank = Bank::open(store).unwrap();
        assert!(bank.audit() >= acknowledged.len() as u64);
        for id in &acknowledged {
            assert!(bank.ledger.contains(id).unwrap(), "transfer {id} was lost");
        }
        // Asked again, the last ones are answered as what they were, and written no more.
        for id in acknowledged.iter().rev().take(20) {
            let again = bank.transfer(id, &mut random).unwrap();
            assert!(matches!(again, Once::Replayed { .. }), "{id}");
        }
        bank.audit();
        bank.store.close().unwrap();
    }
    report(format_args!("{kills} kills; {} transfers acknowledged", acknowledged.len()));
    assert!(acknowledged.len() as u64 > 100 * kills);
}

/// A child transfers until so many were acknowledged, and is killed. Returns all that were.
fn live_and_die(directory: &Path, after: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = lines.filter_map(|line| Some(line.ok()?.split_once("> ")?.1.to_owned()));
    let mut acknowledged: Vec<String> = told.by_ref().take(after).collect();
    child.kill().unwrap();
    acknowledged.extend(told);
    child.wait().unwrap();
    acknowledged
}
