//! A real file system loses power: what was not written back is gone, and its own journal and the
//! store's have to mend what is left (G2, G3, G11).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{Child, Fact};
use crate::evidence::Evidence;

const ROUNDS: u64 = 100;

/// Kills a child between a write and its sync.
const KILLER: [&str; 8] =
    ["strace", "-f", "--seccomp-bpf", "-qq", "-o/dev/null", "-e", "trace=fdatasync", "-e"];

/// The file system that `.ci/with-disk` made for this test alone.
pub(crate) struct RealDisk {
    device: PathBuf,
    pub(crate) mount: PathBuf,
}

impl RealDisk {
    pub(crate) fn given() -> RealDisk {
        let name = |variable: &str| {
            let value = std::env::var_os(variable);
            PathBuf::from(value.unwrap_or_else(|| panic!("run it by .ci/with-disk: {variable}")))
        };
        RealDisk { device: name("IFMATCH_TEST_DEVICE"), mount: name("IFMATCH_TEST_MOUNT") }
    }

    /// From now on nothing reaches the device, not even the file system's journal.
    fn cut_power(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount));
    }

    /// Drops what memory has of the file system, and mounts what is on the device.
    fn start_again(&self) {
        run(Command::new("umount").arg(&self.mount));
        run(Command::new("mount").arg(&self.device).arg(&self.mount));
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
#[ignore = "needs a file system to cut off: see .ci/run"]
fn g3_a_power_cut_takes_back_nothing_that_was_acknowledged_or_seen() {
    let disk = RealDisk::given();
    let directory = disk.mount.join("store");
    let mut random = fastrand::Rng::with_seed(2);
    let mut evidence = Evidence::default();
    for round in 1..=ROUNDS {
        if random.bool() {
            // Its last write is in memory alone when the next child opens, and shows it.
            let inject = format!("inject=fdatasync:error=EIO:signal=KILL:when={}", random.u8(1..9));
            let mut child =
                Child::start(&[&KILLER[..], &[&inject]].concat(), &directory, random.u64(..));
            evidence.take_in_rest(&mut child);
        }
        let mut child = Child::start(&[], &directory, random.u64(..));
        // Without any, power is cut while it opens.
        evidence.take_in(&mut child, random.u64(0..100).saturating_sub(10));
        disk.cut_power();
        let rest = evidence.take_in_rest(&mut child);
        check_end(&mut child, &rest);
        disk.start_again();
        // Where the parent does not open in between, the next child mends, and may be cut off.
        if random.bool() || round == ROUNDS {
            evidence.check(&directory);
        }
    }
    println!("{} power cuts on {}; {}", ROUNDS, file_system(&disk.mount), evidence.counts);
    assert!(evidence.counts.acknowledged > 10 * ROUNDS && evidence.counts.poisoned > 0);
}

/// A child whose disk is gone refuses writes, goes on reading and ends in order.
pub(crate) fn check_end(child: &mut Child, rest: &[Fact]) {
    assert!(child.wait().success());
    let poisoned = rest.iter().position(|fact| *fact == Fact::Poisoned);
    match poisoned {
        None => assert_eq!(rest.last(), Some(&Fact::NotOpened)),
        Some(from) => {
            // A store whose first segment cannot be started has nothing to show.
            let shown = |facts: &[Fact]| facts.iter().any(|fact| matches!(fact, Fact::Seen(_)));
            let (before, after) = rest.split_at(from);
            assert!(shown(after) || !shown(before), "nothing is read after the failure");
        }
    }
}

fn file_system(mount: &Path) -> String {
    let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(mount).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
