//! Writing a new store of what another one held: one snapshot, and no log yet.

use std::io;
use std::sync::Arc;

use crate::admin::place;
use crate::admin::report::{CollectionReport, Written};
use crate::clock::SystemClock;
use crate::disk::Disk;
use crate::error::Result;
use crate::recovery::birth;
use crate::recovery::{self, Contents, io_error};
use crate::snapshot::header::Header;
use crate::snapshot::write::{self, Target};
use crate::snapshot::{self, Named};
use crate::sync::AtomicBool;
use crate::sync::AtomicU64;

/// Makes a store of an empty directory. Versions, times and writers are kept, the lineage is new,
/// and numbering goes on above `last_version`. A crash before the end leaves no store.
///
/// # Errors
/// [`Error::NotEmpty`](crate::Error::NotEmpty), [`Error::InUse`](crate::Error::InUse) and
/// [`Error::Io`](crate::Error::Io).
pub(super) fn write(to: &dyn Disk, contents: Contents, last_version: u64) -> Result<Written> {
    let _lock = place::take_empty(to)?;
    let failed = |source| io_error(to, "create", birth::STORE.name, source);
    let lineage = recovery::new_lineage().map_err(failed)?;
    let collections = CollectionReport::all(&contents);
    if last_version > 0 {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(|source| failed(io::Error::other(source)))?;
        let salt = u64::from_le_bytes(salt);
        let header = Header { lineage, salt, start: last_version, time: contents.last_time };
        let (clock, stop) = (SystemClock::new(), AtomicBool::new(false));
        let target = Target { disk: to, clock: &clock, rate: u64::MAX, stop: &stop };
        let (named, shown) = (named(contents), AtomicU64::new(last_version));
        write::write(&target, header, &named, &shown, || Ok(last_version))?.name()?;
    }
    birth::write(to, &birth::STORE, lineage).inspect_err(|_| {
        // Who failed has been told. It is no store, and the next attempt finds it empty.
        for name in place::names(to).unwrap_or_default() {
            let _ = to.remove(&name);
        }
    })?;
    Ok(Written { lineage, last_version, collections })
}

fn named(contents: Contents) -> Vec<Named> {
    let Contents { catalog, mut collections, .. } = contents;
    let named = |(name, entry): (String, crate::record::CatalogEntry)| {
        let stored = collections.remove(&entry.id).map(Arc::new);
        Named { name, entry, contents: snapshot::Contents::Stored(stored) }
    };
    catalog.into_iter().map(named).collect()
}
