//! Transactions over two collections, and counts, each with an operation id: all or nothing (G1),
//! and once (G5).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::SystemTime;

use ifmatch::{Collection, Error, Once, Result, RetryPolicy, Store};
use serde::{Deserialize, Serialize};

use super::{Counts, Go, No, Proof, Tools, Violation, go, no, rise};

pub const COUNTED: &[&str] =
    &["moves", "counts", "replays", "replays of what was told", "fates found out"];

/// Of each of the two collections.
const ACCOUNTS: u64 = 4;
const EACH: u64 = 1_000;
const TALLIES: u64 = 3;
/// How many of those that were told last are asked for again at each check.
const ASKED_AGAIN: usize = 12;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    Asks { id: String, what: What },
    Done { id: String, version: u64, value: u64, replayed: bool },
    Not { id: String, no: No },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Accounts from `ACCOUNTS` on are in the second collection.
    Transfer {
        from: u64,
        to: u64,
        amount: u64,
    },
    Count {
        tally: u64,
    },
}

struct Bank {
    store: Store,
    accounts: [Collection<u64, u64>; 2],
    /// Every transfer, by its operation id; written in the same commit.
    ledger: Collection<String, (u64, u64, u64)>,
    tallies: Collection<u64, u64>,
}

pub struct Worker<'a> {
    tools: Tools<'a>,
    bank: Bank,
    life: String,
    asked: u64,
    done: Vec<(String, What)>,
}

#[derive(Clone, Default)]
pub struct Record {
    asked: BTreeMap<String, Asked>,
    /// The ids in the order in which they were told to be done.
    done: Vec<String>,
}

#[derive(Clone)]
struct Asked {
    what: What,
    /// The highest version that had been told before.
    above: u64,
    fate: Fate,
    /// Whether the answer of the first time was told. Others may see what came of it before.
    told_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Unknown,
    Done { version: u64, value: u64 },
    Denied,
}

impl Bank {
    fn open(store: &Store) -> Result<Bank> {
        let accounts = [store.collection("left")?, store.collection("right")?];
        let (ledger, tallies) = (store.collection("ledger")?, store.collection("tallies")?);
        Ok(Bank { store: store.clone(), accounts, ledger, tallies })
    }

    /// Unless that was done in an earlier life.
    fn endow(&self) -> Result<()> {
        let endow = self.store.transact(|tx| {
            if tx.get(&self.tallies, 0)?.is_some() {
                return Ok(());
            }
            (0..TALLIES).try_for_each(|tally| tx.create(&self.tallies, tally, 0))?;
            (0..2 * ACCOUNTS).try_for_each(|account| tx.create(self.of(account), account, EACH))
        });
        endow.commit().map(drop)
    }

    fn of(&self, account: u64) -> &Collection<u64, u64> {
        &self.accounts[usize::from(account >= ACCOUNTS)]
    }

    /// Version, value, and whether it was replayed.
    fn ask(&self, id: &str, what: What) -> Result<(u64, u64, bool)> {
        let patient = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
        match what {
            What::Count { tally } => {
                let count = self.tallies.update(tally, |count| *count += 1).retry(patient);
                let done = count.operation_id(id).commit()?;
                Ok((done.version().get(), *done.value(), done.is_replayed()))
            }
            What::Transfer { from, to, amount } => {
                let transfer = self.store.transact(|tx| {
                    let left = tx.require(self.of(from), from)?.checked_sub(amount);
                    let left = left.ok_or_else(|| Error::refused("too little"))?;
                    tx.put(self.of(from), from, left)?;
                    let more = *tx.require(self.of(to), to)? + amount;
                    tx.put(self.of(to), to, more)?;
                    tx.create(&self.ledger, id, (from, to, amount))
                });
                match transfer.retry(patient).operation_id(id).commit()? {
                    Once::First(first) => Ok((first.version().unwrap().get(), 0, false)),
                    Once::Replayed { version } => Ok((version.get(), 0, true)),
                }
            }
        }
    }

    /// Returns whether it is done.
    fn ask_and_tell(&self, tools: Tools<'_>, id: &str, what: What) -> ControlFlow<(), bool> {
        let tell = |told| (tools.tell)(super::Told::Move(told));
        let id = id.to_owned();
        tell(Told::Asks { id: id.clone(), what });
        let answer = self.ask(&id, what);
        let (go, done) = (go(&answer), answer.is_ok());
        match answer {
            Ok((version, value, replayed)) => tell(Told::Done { id, version, value, replayed }),
            Err(error) => _ = no(&error).map(|no| tell(Told::Not { id, no })),
        }
        go.map_continue(|()| done)
    }
}

impl<'a> Worker<'a> {
    pub fn new(tools: Tools<'a>, life: &str) -> Result<Worker<'a>> {
        let bank = Bank::open(tools.store)?;
        bank.endow()?;
        Ok(Worker { tools, bank, life: life.to_owned(), asked: 0, done: Vec::new() })
    }

    pub fn step(&mut self, random: &mut fastrand::Rng) -> Go {
        let (id, what) = match random.u8(0..8) {
            0 if !self.done.is_empty() => self.done[random.usize(..self.done.len())].clone(),
            // Of whatever life.
            1 => match self.bank.ledger.range(format!("{:x}", random.u8(..))..).next() {
                Some(Ok((id, entry))) => {
                    let (from, to, amount) = *entry;
                    (id, What::Transfer { from, to, amount })
                }
                _ => return Go::Continue(()),
            },
            2..5 => (self.fresh(random), What::Count { tally: random.u64(0..TALLIES) }),
            _ => (self.fresh(random), transfer(random)),
        };
        self.asked += 1;
        if self.bank.ask_and_tell(self.tools, &id, what)? {
            self.done.push((id, what));
        }
        Go::Continue(())
    }

    fn fresh(&self, random: &mut fastrand::Rng) -> String {
        format!("{:x}-{}-{}", random.u8(..), self.life, self.asked)
    }
}

fn transfer(random: &mut fastrand::Rng) -> What {
    let from = random.u64(0..2 * ACCOUNTS);
    let to = (from + random.u64(1..2 * ACCOUNTS)) % (2 * ACCOUNTS);
    What::Transfer { from, to, amount: random.u64(1..100) }
}

impl Record {
    pub fn learn(
        &mut self,
        told: &Told,
        highest: &mut u64,
        counts: &mut Counts,
    ) -> std::result::Result<(), Violation> {
        match told {
            Told::Asks { id, what } => {
                let (above, fate, told_first) = (*highest, Fate::Unknown, false);
                let asked = Asked { what: *what, above, fate, told_first };
                let first = self.asked.entry(id.clone()).or_insert(asked);
                if first.what != *what || first.fate == Fate::Denied {
                    return Err(format!("{id} is found as {what:?}, and had been denied"));
                }
            }
            Told::Done { id, version, value, replayed } => {
                let asked = self.asked.get_mut(id).unwrap();
                let fate = Fate::Done { version: *version, value: *value };
                if asked.fate == Fate::Unknown {
                    rise(highest, *version, asked.above, told)?;
                    asked.fate = fate;
                    self.done.push(id.clone());
                    counts.add(match asked.what {
                        What::Transfer { .. } => "moves",
                        What::Count { .. } => "counts",
                    });
                } else if asked.fate != fate || (!replayed && asked.told_first) {
                    return Err(format!("{told:?}, and its first answer was {:?}", asked.fate));
                }
                if *replayed {
                    counts.add("replays");
                }
                asked.told_first |= !replayed;
            }
            Told::Not { no: No::Broken(what), .. } => return Err(what.clone()),
            Told::Not { id, .. } => {
                let asked = self.asked.get_mut(id).unwrap();
                if let Fate::Done { .. } = asked.fate {
                    return Err(format!("{told:?}, and it had been done"));
                }
                asked.fate = Fate::Denied;
            }
        }
        Ok(())
    }
}

/// The balances are what the ledger says, the ledger has what was told and nothing else, and each
/// count is of one id.
pub fn check(
    proof: &mut Proof,
    store: &Store,
    now: &(dyn Fn() -> SystemTime + Sync),
) -> std::result::Result<(), Violation> {
    let bank = Bank::open(store).map_err(|error| error.to_string())?;
    bank.endow().map_err(|error| error.to_string())?;
    check_ledger(&proof.moves, &bank)?;
    let Record { asked, done } = &proof.moves;
    let unknown = asked.iter().filter(|(_, asked)| asked.fate == Fate::Unknown);
    let unknown: Vec<String> = unknown.map(|(id, _)| id.clone()).collect();
    let again: Vec<String> = done.iter().rev().take(ASKED_AGAIN).cloned().collect();
    unknown.iter().for_each(|_| proof.counts.add("fates found out"));
    again.iter().for_each(|_| proof.counts.add("replays of what was told"));
    for id in again.into_iter().chain(unknown) {
        let what = proof.moves.asked[&id].what;
        proof.take(store, now, |tools| _ = bank.ask_and_tell(tools, &id, what))?;
    }
    check_ledger(&proof.moves, &bank)?;
    check_tallies(&proof.moves, &bank)
}

fn check_ledger(record: &Record, bank: &Bank) -> std::result::Result<(), Violation> {
    let mut due = vec![EACH; 2 * ACCOUNTS as usize];
    let mut found = 0;
    for item in &bank.ledger {
        let (id, entry) = item.map_err(|error| error.to_string())?;
        let (from, to, amount) = *entry;
        due[from as usize] = due[from as usize].wrapping_sub(amount);
        due[to as usize] = due[to as usize].wrapping_add(amount);
        let Some(asked) = record.asked.get(&id) else {
            return Err(format!("transfer {id} was never asked for"));
        };
        let version = entry.version().get();
        match asked.fate {
            Fate::Denied => return Err(format!("transfer {id} is there, and had been denied")),
            Fate::Done { version: told, .. } if told != version => {
                return Err(format!("transfer {id} is version {version}, and was told as {told}"));
            }
            Fate::Done { .. } => found += 1,
            Fate::Unknown => {}
        }
    }
    let is_transfer = |id: &&String| matches!(record.asked[*id].what, What::Transfer { .. });
    let told = record.done.iter().filter(is_transfer).count();
    if found < told {
        return Err(format!("of {told} transfers that were told, {found} are there"));
    }
    let balance = |account| *bank.of(account).get(account).unwrap().expect("it was endowed");
    let balances: Vec<u64> = (0..2 * ACCOUNTS).map(balance).collect();
    if balances.iter().sum::<u64>() != 2 * ACCOUNTS * EACH {
        return Err(format!("{balances:?} do not sum up to the total"));
    }
    match balances == due {
        true => Ok(()),
        false => Err(format!("the balances are {balances:?}, and {due:?} by the ledger")),
    }
}

/// By now the fate of each id is known.
fn check_tallies(record: &Record, bank: &Bank) -> std::result::Result<(), Violation> {
    for tally in 0..TALLIES {
        let count = *bank.tallies.get(tally).unwrap().expect("it was endowed");
        let of_it = record.done.iter().filter(|id| record.asked[*id].what == What::Count { tally });
        let asked = of_it.count() as u64;
        if count != asked {
            return Err(format!("tally {tally} is {count}, and {asked} ids were counted"));
        }
    }
    Ok(())
}
