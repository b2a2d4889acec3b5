//! The tools on disks of the caller's, for tests.

use crate::admin::{Copied, Repaired, Report, Written};
use crate::disk::Disk;
use crate::error::Result;

/// As [`verify`](crate::admin::verify()).
///
/// # Errors
/// The same.
pub fn verify(disk: &dyn Disk) -> Result<Report> {
    super::verify::verify(disk, &|_| {})
}

/// As [`backup`](crate::admin::backup()).
///
/// # Errors
/// The same.
pub fn backup(from: &dyn Disk, to: &dyn Disk) -> Result<Copied> {
    super::backup::backup(from, to, &|_| {})
}

/// As [`restore`](crate::admin::restore).
///
/// # Errors
/// The same.
pub fn restore(from: &dyn Disk, to: &dyn Disk) -> Result<Written> {
    super::backup::restore(from, to, &|_| {})
}

/// As [`repair`](crate::admin::repair()); also gives what would be in the file beside the store.
///
/// # Errors
/// The same.
pub fn repair(from: &dyn Disk, to: &dyn Disk) -> Result<(Repaired, Vec<u8>)> {
    let mut dropped = Vec::new();
    Ok((super::repair::repair(from, to, &mut dropped, &|_| {})?, dropped))
}

/// As [`dump`](crate::admin::dump()).
///
/// # Errors
/// The same.
#[cfg(feature = "json")]
pub fn dump(from: &dyn Disk, to: &mut dyn std::io::Write) -> Result<crate::admin::Dumped> {
    super::dump::dump(from, to, &|_| {})
}

/// As [`load`](crate::admin::load()).
///
/// # Errors
/// The same.
#[cfg(feature = "json")]
pub fn load(from: &mut dyn std::io::BufRead, to: &dyn Disk) -> Result<Written> {
    super::load::load(from, to)
}
