//! Steps of the whole conflict model, told as facts, and what has to be in a store after them.
//!
//! Whoever takes a step tells that it is about to, and then what came of it. Steps of which only
//! the first was told may have landed or not, whole. The proof takes in what was told, whatever
//! happened to the teller, and holds it against the store that is opened afterwards.

#![allow(unreachable_pub, reason = "the modules of a test are its own")]

mod holds;
mod jobs;
mod moves;
mod worlds;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{AddAssign, ControlFlow};
use std::time::{SystemTime, UNIX_EPOCH};

use ifmatch::{Error, Outcome, Result, Store};
use serde::{Deserialize, Serialize};

/// What is wrong with the store.
pub type Violation = String;

/// What a step means for the one who takes steps: on it goes, or the store takes no more.
type Go = ControlFlow<()>;

/// What is told of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    Move(moves::Told),
    Hold(holds::Told),
    Job(jobs::Told),
}

/// What is known of a step that is told not to have been taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum No {
    /// A conflict of this reason.
    Conflict(String),
    /// Something else: the step has not been taken, which says nothing of the store.
    NotApplied,
    /// What no step may be answered.
    Broken(String),
}

/// What every step needs.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    pub store: &'a Store,
    pub now: &'a (dyn Fn() -> SystemTime + Sync),
    pub tell: &'a (dyn Fn(Told) + Sync),
}

/// Whoever takes steps at random: its accounts are everybody's, its keys and scopes its own.
pub struct Worker<'a> {
    moves: moves::Worker<'a>,
    holds: holds::Worker<'a>,
    jobs: jobs::Worker<'a>,
    random: fastrand::Rng,
}

/// All that was told of one store, over all of its lives.
#[derive(Clone, Default)]
pub struct Proof {
    moves: moves::Record,
    holds: holds::Record,
    jobs: jobs::Record,
    /// The highest version that was told.
    highest: u64,
    pub counts: Counts,
}

/// How often each thing has been told or checked.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl<'a> Worker<'a> {
    /// # Errors
    /// Those of opening collections.
    pub fn new(tools: Tools<'a>, number: u64, keys: u64, seed: u64) -> Result<Worker<'a>> {
        let life = format!("{seed:x}-{number}");
        Ok(Worker {
            moves: moves::Worker::new(tools, &life)?,
            holds: holds::Worker::new(tools, &life, number * 1_000..number * 1_000 + keys)?,
            jobs: jobs::Worker::new(tools, &life, number),
            random: fastrand::Rng::with_seed(seed ^ number),
        })
    }

    /// Takes a step.
    pub fn step(&mut self) -> ControlFlow<()> {
        match self.random.u8(0..3) {
            0 => self.moves.step(&mut self.random),
            1 => self.holds.step(&mut self.random),
            _ => self.jobs.step(&mut self.random),
        }
    }
}

impl Proof {
    /// Takes in a fact.
    ///
    /// # Errors
    /// How it contradicts what was told before.
    pub fn learn(&mut self, told: &Told) -> std::result::Result<(), Violation> {
        let Proof { moves, holds, jobs, highest, counts } = self;
        match told {
            Told::Move(told) => moves.learn(told, highest, counts),
            Told::Hold(told) => holds.learn(told, highest, counts),
            Told::Job(told) => jobs.learn(told, counts),
        }
    }

    /// Holds all of it against the store, which is written in doing so.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check(
        &mut self,
        store: &Store,
        now: &(dyn Fn() -> SystemTime + Sync),
    ) -> std::result::Result<(), Violation> {
        self.counts.add("checks");
        moves::check(self, store, now)?;
        holds::check(self, store, now)?;
        jobs::check(self, store, now)
    }

    /// Takes steps in a check: what they tell is learned at once.
    fn take(
        &mut self,
        store: &Store,
        now: &(dyn Fn() -> SystemTime + Sync),
        steps: impl FnOnce(Tools<'_>),
    ) -> std::result::Result<(), Violation> {
        let all = std::sync::Mutex::new(Vec::new());
        steps(Tools { store, now, tell: &|told| all.lock().unwrap().push(told) });
        let all = all.into_inner().unwrap();
        all.iter().try_for_each(|told| self.learn(told))
    }
}

impl Tools<'_> {
    /// Microseconds since 1970.
    fn micros(&self) -> u64 {
        micros((self.now)())
    }
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// Why a step was not taken; `None` if nobody knows whether it was.
fn no(error: &Error) -> Option<No> {
    match error {
        Error::Conflict(conflict) => Some(No::Conflict(conflict.reason().as_str().to_owned())),
        Error::Poisoned { outcome: Outcome::Unknown, .. } => None,
        Error::Refused(_) | Error::DiskFull { .. } | Error::Poisoned { .. } => Some(No::NotApplied),
        error => Some(No::Broken(error.to_string())),
    }
}

/// Whether steps can go on after an answer.
fn go<T>(answer: &Result<T>) -> Go {
    match answer {
        Err(Error::Poisoned { .. } | Error::DiskFull { .. }) => Go::Break(()),
        _ => Go::Continue(()),
    }
}

/// A version that is given out is above all that had been told when it was asked for (G2).
fn rise(
    highest: &mut u64,
    version: u64,
    above: u64,
    what: &dyn fmt::Debug,
) -> std::result::Result<(), Violation> {
    if version <= above {
        return Err(format!("{what:?} got version {version}, which is not above {above}"));
    }
    *highest = version.max(*highest);
    Ok(())
}

impl Counts {
    pub fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// How often, zero included.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// Fails unless each thing that there is to see was seen so often.
    pub fn assert_all(&self, at_least: u64) {
        for what in [moves::COUNTED, holds::COUNTED, jobs::COUNTED].concat() {
            assert!(self.of(what) >= at_least, "{what}: {} times only; {self}", self.of(what));
        }
    }
}

impl AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Counts) {
        other.0.iter().for_each(|(what, count)| *self.0.entry(what).or_default() += count);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&all.join(", "))
    }
}
