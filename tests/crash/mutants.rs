//! Mistakes that a store could make, each of which the campaigns must find.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ifmatch::testing::{Disk, DiskFile, MemoryDisk};

use crate::campaign::{Campaign, plain};
use crate::common::report;
use crate::faults::sync_faults;
use crate::life::{Plan, Style};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The names are never synced.
    NamesForgotten,
    /// A sync returns at once, and takes effect with the next call.
    DurableTooEarly,
    /// The tail of an unclean stop is served as it is: its copy is not put in its place.
    TailKept,
    /// The copy of the tail is put in its place before it is durable.
    TailNotSynced,
    /// Snapshots get their names before they are durable, and let the log go.
    SnapshotNotSynced,
    /// A failed sync is tried again, and believed.
    SyncRetried,
}

struct Mutant {
    disk: MemoryDisk,
    mistake: Mistake,
    late: Late,
}

type SharedFile = Arc<Mutex<Box<dyn DiskFile>>>;

/// The file whose sync is still to take effect.
type Late = Arc<Mutex<Option<SharedFile>>>;

pub fn mutant(disk: MemoryDisk, mistake: Mistake) -> Arc<dyn Disk> {
    Arc::new(Mutant { disk, mistake, late: Late::default() })
}

fn catch_up(late: &Late) -> io::Result<()> {
    let file = late.lock().unwrap().take();
    file.map_or(Ok(()), |file| file.lock().unwrap().sync())
}

impl Disk for Mutant {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.disk.read(name)
    }

    fn read_at(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk.read_at(name, offset, len)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.disk.len(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        catch_up(&self.late)?;
        let file = Arc::new(Mutex::new(self.disk.create(name)?));
        let (mistake, late) = (self.mistake, Arc::clone(&self.late));
        Ok(Box::new(MutantFile { file, name: name.to_owned(), mistake, late }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        catch_up(&self.late)?;
        let replaces = to.ends_with(".log") && self.disk.len(to).is_ok();
        match self.mistake == Mistake::TailKept && replaces {
            true => Ok(()),
            false => self.disk.rename(from, to),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        catch_up(&self.late)?;
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        catch_up(&self.late)?;
        if self.mistake == Mistake::NamesForgotten { Ok(()) } else { self.disk.sync_names() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct MutantFile {
    file: SharedFile,
    name: String,
    mistake: Mistake,
    late: Late,
}

impl DiskFile for MutantFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        catch_up(&self.late)?;
        self.file.lock().unwrap().write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        catch_up(&self.late)?;
        match self.mistake {
            Mistake::DurableTooEarly => {
                *self.late.lock().unwrap() = Some(Arc::clone(&self.file));
                Ok(())
            }
            Mistake::TailNotSynced if self.name.ends_with(".log.tmp") => Ok(()),
            Mistake::SnapshotNotSynced if self.name.ends_with(".snapshot.tmp") => Ok(()),
            Mistake::SyncRetried if !self.name.starts_with("meta") => {
                let mut file = self.file.lock().unwrap();
                file.sync().or_else(|_| file.sync())
            }
            _ => self.file.lock().unwrap().sync(),
        }
    }
}

const PLAN: Plan = Plan {
    seed: 1,
    steps: 30,
    style: Style::Blocking,
    reopens: 1,
    unasked: true,
    migrates: true,
    may_fail: false,
};

/// The campaign finds the mistake, and by what it costs: a violation that reads `as_what`.
fn is_found(campaign: Campaign, as_what: &str, run: impl Fn(&mut Campaign)) {
    let mut campaign = campaign;
    run(&mut campaign);
    let Campaign { cuts, violations, .. } = campaign;
    let found: Vec<_> = violations.iter().filter(|found| found.contains(as_what)).collect();
    let first = found.first().unwrap_or_else(|| panic!("only {:#?}", violations.first()));
    let (all, count) = (violations.len(), found.len());
    report(format_args!("{count} of {all} violations in {cuts} crashes, such as: {first}"));
}

#[test]
fn g3_names_that_are_never_synced_are_found() {
    let campaign = Campaign::new(|disk| mutant(disk, Mistake::NamesForgotten));
    is_found(campaign, "was shown as", |campaign| campaign.run(PLAN));
}

#[test]
fn g3_an_answer_before_the_sync_is_found() {
    let campaign = Campaign::new(|disk| mutant(disk, Mistake::DurableTooEarly));
    is_found(campaign, "was shown as", |campaign| campaign.run(PLAN));
}

#[test]
fn g3_serving_from_the_tail_of_an_unclean_stop_is_found() {
    let campaign = Campaign::new(|disk| mutant(disk, Mistake::TailKept));
    is_found(campaign, "does not open", |campaign| campaign.run(PLAN));
}

#[test]
fn g3_a_tail_that_is_put_in_its_place_before_it_is_durable_is_found() {
    let campaign = Campaign::new(|disk| mutant(disk, Mistake::TailNotSynced));
    is_found(campaign, "was shown as", |campaign| campaign.run(PLAN));
}

#[test]
fn g3_a_log_that_goes_before_its_snapshot_is_durable_is_found() {
    let campaign = Campaign::new(|disk| mutant(disk, Mistake::SnapshotNotSynced));
    is_found(campaign, "does not open", |campaign| campaign.run(PLAN));
}

#[test]
fn g11_a_sync_that_is_tried_again_is_found() {
    let campaign = Campaign::new(|disk| mutant(disk, Mistake::SyncRetried));
    is_found(campaign, "was shown as", sync_faults);
}

#[test]
fn g2_a_ceiling_that_is_not_kept_is_found() {
    let campaign = Campaign { tamper: lower_ceiling, ..Campaign::new(plain) };
    is_found(campaign, "is not above", |campaign| campaign.run(PLAN));
}

/// Makes the newest segment promise no more versions than it has. FORMAT.md draws the bytes.
fn lower_ceiling(disk: &MemoryDisk) {
    let is_segment = |name: &String| {
        name.ends_with(".log") && disk.read(name).is_ok_and(|bytes| bytes.iter().any(|b| *b != 0))
    };
    let Some(newest) = disk.list().unwrap().into_iter().filter(is_segment).max() else { return };
    disk.damage(&newest, |bytes| {
        let number = |at: usize| {
            let field = bytes.get(at..at + 8).unwrap_or(&[0; 8]);
            u64::from_le_bytes(field.try_into().unwrap())
        };
        let (mut ceiling, mut frame) = (number(40), 64);
        while number(frame + 16) != 0 {
            let (len, count) = (number(frame + 8) as u32, number(frame + 8) >> 32);
            ceiling = ceiling.max((number(frame + 16) + count).saturating_sub(1));
            frame += 32 + len as usize;
        }
        if bytes.len() >= 64 {
            bytes[48..56].copy_from_slice(&ceiling.to_le_bytes());
            let checksum = crc32c::crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        }
    });
}
