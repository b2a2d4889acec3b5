//! Crashes at every call of recorded lives, in the recovery too, and again after it.

use std::sync::Arc;

use ifmatch::testing::{Crash, Disk, MemoryDisk, Names, PowerCut, Unsynced};

use crate::common::report;
use crate::history::{History, Knowledge, Violation};
use crate::life::{Plan, Style, live};

/// What a mutant puts between the store and the disk.
pub type Wrap = fn(MemoryDisk) -> Arc<dyn Disk>;

pub fn plain(disk: MemoryDisk) -> Arc<dyn Disk> {
    Arc::new(disk)
}

/// Crashes and lives, counted.
pub struct Campaign {
    pub wrap: Wrap,
    /// Changes what a power cut left, behind the store's back.
    pub tamper: fn(&MemoryDisk),
    /// How many more crashes follow the first at each call.
    pub depth: usize,
    pub cuts: usize,
    pub openings: usize,
    pub violations: Vec<Violation>,
}

/// Each way of losing what was not synced; `seed` tells apart the random ones.
pub fn power_cuts(seed: u64) -> Vec<PowerCut> {
    use Unsynced::{Dropped, First, Kept, Reordered, Torn};
    let all = [
        (Dropped, Names::Dropped),
        (Dropped, Names::Kept),
        (Kept, Names::Dropped),
        (Kept, Names::Prefix),
        (First(1), Names::Kept),
        (Reordered, Names::Prefix),
        (Reordered, Names::Kept),
        (Torn, Names::Prefix),
        (Torn, Names::Kept),
        (Torn, Names::Kept),
        (Torn, Names::Kept),
    ];
    (0..)
        .zip(all)
        .map(|(place, (writes, names))| PowerCut { writes, names, seed: seed + place })
        .collect()
}

impl Campaign {
    pub fn new(wrap: Wrap) -> Campaign {
        Campaign { wrap, tamper: |_| {}, depth: 1, cuts: 0, openings: 0, violations: Vec::new() }
    }

    /// Records a life, and crashes at each of its calls.
    pub fn run(&mut self, plan: Plan) {
        let disk = MemoryDisk::new();
        let story = format!("{plan:?}");
        let history = self.live(&disk, &Knowledge::default(), plan, &story);
        let mut names_before = Vec::new();
        for calls in 0..=disk.calls() {
            let known = history.known_at(calls);
            for cut in power_cuts(plan.seed ^ ((calls as u64) << 8)) {
                self.crash(&disk, calls, Crash::Power(cut), &known, 0, &story);
            }
            // Crashes within the recovery, and after serving from pages that are not durable:
            // where names have changed, and elsewhere now and then.
            let names = disk.crash(calls, Crash::Process).list().unwrap();
            let renamed = std::mem::replace(&mut names_before, names.clone()) != names;
            if renamed || (self.depth < 2 && calls % 5 == plan.seed as usize % 5) {
                let torn = PowerCut { writes: Unsynced::Torn, names: Names::Kept, seed: plan.seed };
                for crash in [Crash::Process, Crash::Power(torn)] {
                    self.crash(&disk, calls, crash, &known, self.depth, &story);
                }
            }
        }
    }

    /// Crashes, opens, looks and writes; with depth left, crashes at each call of that too.
    pub fn crash(
        &mut self,
        disk: &MemoryDisk,
        calls: usize,
        crash: Crash,
        known: &Knowledge,
        depth: usize,
        story: &str,
    ) {
        let disk = disk.crash(calls, crash);
        (self.tamper)(&disk);
        let steps = if depth > 0 { 4 } else { 3 };
        let seed = calls as u64;
        let (style, unasked) = (Style::Blocking, calls.is_multiple_of(8));
        let migrates = calls % 4 == 1;
        let plan = Plan { seed, steps, style, reopens: 0, unasked, migrates, may_fail: false };
        let story = format!("{story}, {crash:?} after {calls}");
        let history = self.live(&disk, known, plan, &story);
        self.cuts += 1;
        if depth == 0 {
            return;
        }
        for calls in 0..=disk.calls() {
            let known = history.known_at(calls);
            let torn =
                PowerCut { writes: Unsynced::Torn, names: Names::Prefix, seed: calls as u64 };
            let kept = PowerCut { writes: Unsynced::Kept, names: Names::Dropped, seed: 0 };
            let crashes = [
                Crash::Power(PowerCut::default()),
                Crash::Power(torn),
                Crash::Power(kept),
                Crash::Process,
            ];
            for crash in crashes {
                self.crash(&disk, calls, crash, &known, depth - 1, &story);
            }
        }
    }

    /// Lives once, and notes what went wrong.
    pub fn live(
        &mut self,
        disk: &MemoryDisk,
        known: &Knowledge,
        plan: Plan,
        story: &str,
    ) -> History {
        let history = live(disk, &(self.wrap)(disk.clone()), known, plan);
        self.openings += 1 + plan.reopens;
        let violation = history.verdict().err();
        self.violations.extend(violation.map(|violation| format!("{violation} [{story}]")));
        history
    }

    /// Prints the counts, and passes if nothing went wrong.
    pub fn finish(self, what: &str, injected: u64) {
        let Campaign { cuts, openings, violations, .. } = self;
        let count = violations.len();
        report(format_args!(
            "{what}: {cuts} crashes, {injected} faults, {openings} openings, {count} violations"
        ));
        let first: Vec<_> = violations.iter().take(5).collect();
        assert!(violations.is_empty(), "{first:#?}");
    }
}

/// How often the recorded runs are made, with other seeds: for long runs by hand.
pub fn rounds() -> u64 {
    std::env::var("IFMATCH_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

#[test]
fn g3_a_crash_at_any_call_loses_nothing() {
    let mut campaign = Campaign::new(plain);
    for round in 0..rounds() {
        for (seed, style, steps, reopens, unasked) in [
            (1, Style::Blocking, 50, 1, false),
            (2, Style::Blocking, 30, 2, true),
            (3, Style::Futures, 40, 1, true),
            (4, Style::Threads, 40, 0, true),
        ] {
            let seed = seed + 4 * round;
            campaign.run(Plan {
                seed,
                steps,
                style,
                reopens,
                unasked,
                migrates: true,
                may_fail: false,
            });
        }
    }
    assert!(campaign.cuts >= 20_000);
    campaign.finish("crashes", 0);
}

#[test]
fn g3_three_crashes_in_a_row_lose_nothing() {
    let mut campaign = Campaign { depth: 2, ..Campaign::new(plain) };
    for seed in 0..rounds() {
        let style = Style::Blocking;
        campaign.run(Plan {
            seed,
            steps: 6,
            style,
            reopens: 0,
            unasked: true,
            migrates: true,
            may_fail: false,
        });
    }
    campaign.finish("three crashes", 0);
}
