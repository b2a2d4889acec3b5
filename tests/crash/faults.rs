//! Disks that fail at every call of a run, and that run full.

use std::io::ErrorKind;

use ifmatch::testing::{Call, Crash, Fault, MemoryDisk, Names, PowerCut, Unsynced};

use crate::campaign::{Campaign, plain, rounds};
use crate::history::Knowledge;
use crate::life::{Plan, Style, live};

/// Where a run begins.
type Beginning = (MemoryDisk, Knowledge);

const PLAN: Plan = Plan {
    seed: 7,
    steps: 30,
    style: Style::Blocking,
    reopens: 1,
    unasked: true,
    migrates: true,
    may_fail: true,
};

/// Whether a full disk poisons the store. If it does not, writes are refused as `DiskFull`, and
/// go on when there is space; [`live`] checks either.
pub const FULL_DISK_POISONS: bool = false;

/// Syncs that fail once, and from some time on.
pub fn sync_faults(campaign: &mut Campaign) {
    every_call(campaign, Call::Sync, PLAN, &|| (MemoryDisk::new(), Knowledge::default()));
}

/// Fails each call of the kind, in every way, in a run of its own. Returns how many failed.
fn every_call(
    campaign: &mut Campaign,
    call: Call,
    plan: Plan,
    beginning: &dyn Fn() -> Beginning,
) -> u64 {
    let mut injected = 0;
    for nth in 1.. {
        let mut hit = false;
        for (lasting, short) in [(false, false), (true, false), (false, true), (true, true)] {
            if short && call != Call::Write {
                continue;
            }
            let (disk, known) = beginning();
            disk.fail(Fault { call, nth, lasting, short, error: ErrorKind::Other });
            let story = format!("{call:?} {nth} fails, lasting: {lasting}, short: {short}");
            one_run(campaign, &disk, &known, plan, &story);
            hit |= disk.injected() > 0;
            injected += disk.injected();
        }
        if !hit {
            break;
        }
    }
    injected
}

/// Lives with what fails, and after it: with the disk as it is, and as power cuts leave it.
fn one_run(campaign: &mut Campaign, disk: &MemoryDisk, known: &Knowledge, plan: Plan, story: &str) {
    let history = campaign.live(disk, known, plan, story);
    let torn = PowerCut { writes: Unsynced::Torn, names: Names::Prefix, seed: disk.calls() as u64 };
    let kept = PowerCut { writes: Unsynced::Kept, names: Names::Kept, seed: 0 };
    let end = disk.calls();
    for calls in (0..end).rev().step_by(9).chain([end]) {
        let known = history.known_at(calls);
        for cut in [PowerCut::default(), torn, kept] {
            campaign.crash(disk, calls, Crash::Power(cut), &known, 0, story);
        }
    }
    let depth = usize::from(end.is_multiple_of(8));
    campaign.crash(disk, end, Crash::Process, &history.known(), depth, story);
}

#[test]
fn g11_a_failure_of_any_call_loses_nothing() {
    let mut campaign = Campaign::new(plain);
    let mut injected = 0;
    let fresh = || (MemoryDisk::new(), Knowledge::default());
    for round in 0..rounds() {
        for (seed, style) in [(7, Style::Blocking), (8, Style::Futures), (9, Style::Threads)] {
            let plan = Plan { seed: seed + 3 * round, style, ..PLAN };
            for call in Call::ALL {
                injected += every_call(&mut campaign, call, plan, &fresh);
            }
        }
    }
    campaign.finish("failures", injected);
}

#[test]
fn g11_a_failure_of_any_call_of_the_recovery_loses_nothing() {
    let mut campaign = Campaign::new(plain);
    let mut injected = 0;
    let disk = MemoryDisk::new();
    let through = plain(disk.clone());
    let history = live(&disk, &through, &Knowledge::default(), Plan { may_fail: false, ..PLAN });
    for calls in (0..disk.calls()).step_by(11) {
        let torn = PowerCut { writes: Unsynced::Torn, names: Names::Kept, seed: calls as u64 };
        for crash in [Crash::Process, Crash::Power(torn)] {
            let beginning = || (disk.crash(calls, crash), history.known_at(calls));
            for call in [Call::Sync, Call::Write, Call::SyncNames, Call::Rename] {
                let plan = Plan { steps: 2, ..PLAN };
                injected += every_call(&mut campaign, call, plan, &beginning);
            }
        }
    }
    campaign.finish("failures while recovering", injected);
}

#[test]
fn g11_a_full_disk_is_survived() {
    let mut campaign = Campaign::new(plain);
    let mut injected = 0;
    let whole = MemoryDisk::new();
    live(&whole, &plain(whole.clone()), &Knowledge::default(), PLAN);
    for capacity in (0..whole.used()).step_by(101) {
        let disk = MemoryDisk::new();
        disk.set_capacity(capacity);
        let story = format!("{capacity} bytes of disk");
        one_run(&mut campaign, &disk, &Knowledge::default(), PLAN, &story);
        injected += disk.injected();
    }
    campaign.finish("full disks", injected);
}
