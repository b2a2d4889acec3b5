//! Durability with real processes and real file systems: kill -9, power cuts, failing syncs and
//! full disks, against a record that outlives them.
//!
//! The tests start this program again as a child that loads a store and tells what it learns.
//! The tests that need more than a process are ignored; `.ci/run` says what they need.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../proof/mod.rs"]
mod proof;

mod child;
mod evidence;
mod full;
mod power;
mod syncs;

use child::Child;
use evidence::Evidence;

/// How many children are killed; a few by default, because each is a process to start.
const ROUNDS: &str = "IFMATCH_TEST_KILL_ROUNDS";
const FEW_ROUNDS: u64 = 100;
/// A directory gets old, then a fresh one follows, so that being young is tested too.
const ROUNDS_OF_A_DIRECTORY: u64 = 40;

/// Not a test of its own: what the child process runs.
#[test]
fn child_process() {
    child::run_if_told_to();
}

#[test]
fn g2_g3_kill_9_takes_back_nothing_that_was_acknowledged_or_seen() {
    let rounds = std::env::var(ROUNDS).map_or(FEW_ROUNDS, |rounds| rounds.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(1);
    let mut total = evidence::Counts::default();
    for first in (0..rounds).step_by(ROUNDS_OF_A_DIRECTORY as usize) {
        let directory = tempfile::tempdir().unwrap();
        let mut evidence = Evidence::default();
        for round in first..rounds.min(first + ROUNDS_OF_A_DIRECTORY) {
            let mut child = Child::start(&[], directory.path(), random.u64(..));
            // Without any, it is killed while it opens.
            evidence.take_in(&mut child, random.u64(0..60).saturating_sub(5));
            child.kill();
            evidence.take_in_rest(&mut child);
            // Where the parent does not open in between, the next child mends, and may be killed.
            if random.bool() || round + 1 == rounds {
                evidence.check(directory.path());
            }
        }
        total += evidence.counts;
    }
    println!("{rounds} kills; {total}");
    assert!(total.acknowledged > 10 * rounds && total.seen > rounds && total.never > rounds);
    total.proof.assert_all(rounds / 100);
}
