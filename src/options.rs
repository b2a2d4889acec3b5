//! What can be set on a store before it opens, and the limits it enforces (G12).

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::disk::{Directory, Disk};
use crate::error::{Error, Limit, Result};
use crate::log::segment::Size;
use crate::parallel;
use crate::progress::{OnProgress, Progress};
use crate::store::Store;

/// The most stripes that a collection may have.
const STRIPES_MAX: usize = 1 << 16;

/// No value is larger, whatever is set.
const VALUE_BYTES_MAX: usize = 256 << 20;

/// A frame is written with one call and its length has 32 bits. Only many writers of very large
/// values at once could get here.
pub(crate) const PENDING_BYTES_MAX: usize = 1 << 30;

/// A migration is one record, whose length has 32 bits, and which joins what is pending.
const MIGRATION_BYTES_MAX: usize = 1 << 30;

/// No collection keeps more earlier versions of a key.
pub(crate) const HISTORY_MAX: u32 = 1_000;

/// The bounds of a store. Exceeding one is [`Error::Limit`], and nothing is written.
///
/// ```
/// use ifmatch::{Limits, Store};
///
/// let limits = Limits { key_bytes: 64, ..Limits::default() };
/// let store = Store::builder().limits(limits).in_memory();
/// # drop(store);
/// ```
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a key as stored; 512 by default.
    pub key_bytes: usize,
    /// Bytes of an encoded value; 1 MiB by default, at most 256 MiB. A store in memory does not
    /// encode, so it cannot tell.
    pub value_bytes: usize,
    /// Bytes of an actor's name; 256 by default.
    pub actor_bytes: usize,
    /// Collections; 10,000 by default.
    pub collections: usize,
    /// Conditions of one write together with the versions that they name; 1,000 by default.
    pub preconditions: usize,
    /// Deletions that a collection remembers, so that it can tell `deleted` from `absent`;
    /// 65,536 by default, spread over its stripes. Beyond it the oldest is forgotten.
    pub deletions: usize,
    /// Bytes of a migrated collection: a migration is one commit. 256 MiB by default, at most
    /// 1 GiB.
    pub migration_bytes: usize,
    /// Keys that a transaction reads or writes, those that it scans included; 65,536 by default.
    pub transaction_keys: usize,
    /// Writes of a transaction; 1,024 by default.
    pub transaction_writes: usize,
    /// Bytes of the record of a transaction; 16 MiB by default, at most 256 MiB. A store in memory
    /// keeps no records, so it cannot tell.
    pub transaction_bytes: usize,
    /// Writes of a batch; 1,000 by default.
    pub batch_writes: usize,
    /// Bytes of an operation id; 256 by default.
    pub operation_id_bytes: usize,
    /// Operation ids that are remembered (G5); 100,000 by default. Beyond it the oldest is
    /// forgotten.
    pub operation_ids: usize,
    /// For how long operation ids are remembered; 24 hours by default.
    pub operation_id_age: Duration,
    /// Changes that are kept in memory for the [feed](crate::feed), once somebody reads it; 65,536
    /// by default.
    pub feed: usize,
    /// Bytes of those changes, values included; 64 MiB by default. Beyond either bound the oldest
    /// commits make way. A store in memory does not encode, so it counts what lies within a value
    /// but not what it points to.
    pub feed_bytes: usize,
    /// Leases of the store; 65,536 by default.
    pub leases: usize,
    /// The longest time that a lease is taken or renewed for; 24 hours by default.
    pub lease_ttl: Duration,
    /// Bytes of the reason of a lease; 256 by default.
    pub lease_reason_bytes: usize,
    /// Keys that one operation leases; 64 by default.
    pub operation_leases: usize,
    /// Operations of the store; 65,536 by default. Beyond it the one that ended first is forgotten;
    /// if none has ended, none can be begun.
    pub operations: usize,
    /// Operations that wait for one scope; 100 by default.
    pub operation_queue: usize,
    /// The longest time that an operation may go on without a sign of life; 24 hours by default.
    pub operation_ttl: Duration,
    /// For how long an operation that has ended is known; 24 hours by default.
    pub operation_results: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key_bytes: 512,
            value_bytes: 1 << 20,
            actor_bytes: 256,
            collections: 10_000,
            preconditions: 1_000,
            deletions: 65_536,
            migration_bytes: 256 << 20,
            transaction_keys: 65_536,
            transaction_writes: 1_024,
            transaction_bytes: 16 << 20,
            batch_writes: 1_000,
            operation_id_bytes: 256,
            operation_ids: 100_000,
            operation_id_age: Duration::from_secs(24 * 3_600),
            feed: 65_536,
            feed_bytes: 64 << 20,
            leases: 65_536,
            lease_ttl: Duration::from_secs(24 * 3_600),
            lease_reason_bytes: 256,
            operation_leases: 64,
            operations: 65_536,
            operation_queue: 100,
            operation_ttl: Duration::from_secs(24 * 3_600),
            operation_results: Duration::from_secs(24 * 3_600),
        }
    }
}

impl Limits {
    /// `place` says where, for the message.
    pub(crate) fn check(
        &self,
        limit: Limit,
        actual: usize,
        place: impl FnOnce() -> String,
    ) -> Result<()> {
        let allowed = match limit {
            Limit::KeyBytes => self.key_bytes,
            Limit::ValueBytes => self.value_bytes.min(VALUE_BYTES_MAX),
            Limit::ActorBytes => self.actor_bytes,
            Limit::Collections => self.collections,
            Limit::Preconditions => self.preconditions,
            Limit::PendingBytes => PENDING_BYTES_MAX,
            Limit::MigrationBytes => self.migration_bytes.min(MIGRATION_BYTES_MAX),
            Limit::TransactionKeys => self.transaction_keys,
            Limit::TransactionWrites => self.transaction_writes,
            Limit::TransactionBytes => self.transaction_bytes.min(VALUE_BYTES_MAX),
            Limit::OperationIdBytes => self.operation_id_bytes,
            Limit::BatchWrites => self.batch_writes,
            Limit::History => HISTORY_MAX as usize,
            Limit::Leases => self.leases,
            Limit::LeaseMillis => usize::try_from(self.lease_ttl.as_millis()).unwrap_or(usize::MAX),
            Limit::LeaseReasonBytes => self.lease_reason_bytes,
            Limit::OperationLeases => self.operation_leases,
            Limit::Operations => self.operations,
            Limit::OperationQueue => self.operation_queue,
            Limit::OperationMillis => {
                usize::try_from(self.operation_ttl.as_millis()).unwrap_or(usize::MAX)
            }
        };
        if actual <= allowed {
            return Ok(());
        }
        let (allowed, actual) = (allowed as u64, actual as u64);
        Err(Error::Limit { limit, allowed, actual, place: place() })
    }
}

/// How often and for how long `update` and its kin try again (G7).
///
/// ```
/// use ifmatch::{RetryPolicy, Store};
///
/// let patient = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
/// let counters = Store::in_memory().collection::<String, u64>("counters")?;
/// counters.create("n", 0).commit()?;
/// counters.update("n", |n| *n += 1).retry(patient).commit()?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// How often the change is attempted at most; 10 by default.
    pub attempts: u32,
    /// How long it is attempted at most; 2 s by default. An attempt under way is not cut short.
    pub budget: Duration,
    /// The shortest pause between attempts; 20 µs by default.
    pub pause_min: Duration,
    /// The longest pause between attempts; 10 ms by default.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 10,
            budget: Duration::from_secs(2),
            pause_min: Duration::from_micros(20),
            pause_max: Duration::from_millis(10),
        }
    }
}

/// When a write counts as durable, and is answered.
///
/// ```no_run
/// use std::time::Duration;
/// use ifmatch::{Durability, Store};
///
/// let every_second = Durability::Interval(Duration::from_secs(1));
/// let store = Store::builder().durability(every_second).open("metrics")?;
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Each write is synced to the medium before it is answered, and nothing that is not durable
    /// is shown (G3). Nothing acknowledged is lost but with the medium.
    #[default]
    Sync,
    /// Writes are answered at once, and synced together at most this long after the first of
    /// them. A crash of the process, the system or the power may take back what was written
    /// since the last sync: the latest writes, whole commits, whichever were shown meanwhile.
    Interval(Duration),
    /// Writes are answered at once, handed to the system by a thread of the store's soon after,
    /// and synced when it pleases the system, when a segment of the log is full, by
    /// [`flush`](Store::flush) and by [`close`](Store::close). A crash of the process may take
    /// back the last moments; a crash of the system or the power any number of the latest writes.
    ///
    /// Versions that were taken back are not given out again (G2).
    None,
}

/// Settings of a store that is about to open.
///
/// ```
/// let store = ifmatch::Store::builder().stripes(16).in_memory();
/// assert!(store.collections().is_empty());
/// ```
#[must_use = "a builder opens nothing before `open` or `in_memory`"]
pub struct StoreBuilder {
    pub(crate) stripes: usize,
    pub(crate) limits: Limits,
    pub(crate) retry: RetryPolicy,
    pub(crate) segment_size: Size,
    pub(crate) durability: Durability,
    pub(crate) snapshot_after: u64,
    pub(crate) snapshot_rate: u64,
    pub(crate) progress: Option<Box<OnProgress<'static>>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: Option<u64>,
    pub(crate) feed: bool,
    pub(crate) keep_log: u64,
}

impl fmt::Debug for StoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreBuilder")
            .field("stripes", &self.stripes)
            .field("limits", &self.limits)
            .field("retry", &self.retry)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl Default for StoreBuilder {
    fn default() -> StoreBuilder {
        StoreBuilder {
            // Enough that two writers of different keys rarely meet.
            stripes: (parallel::cores() * 16).next_power_of_two(),
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            segment_size: Size::default(),
            durability: Durability::Sync,
            snapshot_after: 256 << 20,
            snapshot_rate: 40 << 20,
            progress: None,
            clock: Arc::new(SystemClock::new()),
            seed: None,
            feed: false,
            keep_log: 0,
        }
    }
}

impl StoreBuilder {
    /// How many locks a collection has: rounded up to a power of two, at most 65,536. By default
    /// 16 for each core.
    pub fn stripes(mut self, stripes: usize) -> StoreBuilder {
        self.stripes = stripes.clamp(1, STRIPES_MAX).next_power_of_two();
        self
    }

    /// The bounds of the store.
    pub fn limits(mut self, limits: Limits) -> StoreBuilder {
        self.limits = limits;
        self
    }

    /// How `update` and its kin retry, unless a call says otherwise.
    pub fn retry(mut self, policy: RetryPolicy) -> StoreBuilder {
        self.retry = policy;
        self
    }

    /// How large a file of the log grows, in bytes; 64 MiB by default, at least 4 KiB.
    pub fn segment_bytes(mut self, bytes: u64) -> StoreBuilder {
        self.segment_size.bytes = bytes.max(4 << 10);
        self
    }

    /// How many versions a file of the log promises to hold at most; 2^20 by default.
    #[cfg(feature = "testing")]
    pub fn segment_versions(mut self, versions: u64) -> StoreBuilder {
        self.segment_size.versions = versions.max(1);
        self
    }

    /// When a write is answered: once it is durable, unless said otherwise. In memory it makes no
    /// difference.
    pub fn durability(mut self, durability: Durability) -> StoreBuilder {
        self.durability = durability;
        self
    }

    /// After how many bytes of log a snapshot is taken; 256 MiB by default. Not before the log
    /// behind the newest snapshot is longer than that snapshot, so that what is written to the
    /// disk stays in proportion. At least one file of the log; looked at whenever one is full, and
    /// on opening.
    ///
    /// Snapshots bound what has to be kept and read again of the log. They are taken on a thread
    /// of their own, beside readers and writers; one that fails is given up and tried again.
    pub fn snapshot_after(mut self, bytes: u64) -> StoreBuilder {
        self.snapshot_after = bytes;
        self
    }

    /// How fast a snapshot is written at most, in bytes per second; 40 MiB/s by default, at least
    /// 4 KiB/s. Faster is done sooner, and takes more of the disk from commits meanwhile.
    pub fn snapshot_rate(mut self, bytes_per_second: u64) -> StoreBuilder {
        self.snapshot_rate = bytes_per_second.max(4 << 10);
        self
    }

    /// Is told how far opening has come: about every mebibyte, and when a phase is done.
    ///
    /// ```no_run
    /// let store = ifmatch::Store::builder()
    ///     .on_progress(|now| eprintln!("{}: {} of {}", now.phase, now.done, now.total))
    ///     .open("data")?;
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn on_progress(mut self, f: impl Fn(Progress) + Send + Sync + 'static) -> StoreBuilder {
        self.progress = Some(Box::new(f));
        self
    }

    /// Where time comes from.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> StoreBuilder {
        self.clock = clock;
        self
    }

    /// Fixes the seed of the pauses between attempts, which are random otherwise.
    pub fn seed(mut self, seed: u64) -> StoreBuilder {
        self.seed = Some(seed);
        self
    }

    /// Whether changes are kept in memory for the [feed](crate::feed) from the start, not only
    /// once somebody reads it. In memory there are no others.
    pub fn feed(mut self, from_the_start: bool) -> StoreBuilder {
        self.feed = from_the_start;
        self
    }

    /// How many bytes of log are kept for readers of the [feed](crate::feed) at least, though no
    /// snapshot needs them; none by default. Counted by files, without the one that is written to.
    pub fn keep_log(mut self, bytes: u64) -> StoreBuilder {
        self.keep_log = bytes;
        self
    }

    /// Opens a store that is gone when its last handle is.
    pub fn in_memory(self) -> Store {
        Store::create_in_memory(self)
    }

    /// Opens the store in the directory `path`, creating both where there is none.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotAStore`], [`Error::Corrupt`] and [`Error::Io`]. Nothing that
    /// was stored is changed then.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        if path.exists() && !path.is_dir() {
            let detail = "it is a file, where a directory should be".to_owned();
            return Err(Error::NotAStore { path: path.to_owned(), detail });
        }
        let directory = Directory::at(path);
        directory.prepare().map_err(|source| Error::Io {
            action: "create the directory",
            path: path.to_owned(),
            source,
        })?;
        Store::open_on(self, Arc::new(directory))
    }

    /// Opens the store on a disk of the caller's.
    ///
    /// # Errors
    /// As [`open`](StoreBuilder::open).
    #[cfg(any(feature = "testing", ifmatch_loom))]
    pub fn open_on(self, disk: Arc<dyn Disk>) -> Result<Store> {
        Store::open_on(self, disk)
    }
}
