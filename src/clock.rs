//! The one place where time comes from.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. A store reads the system's unless another is given to its builder.
pub trait Clock: Send + Sync + 'static {
    /// The time of day, for `written_at`.
    fn now(&self) -> SystemTime;

    /// Time since some fixed moment; never steps back. For budgets and backoff.
    fn monotonic(&self) -> Duration;

    /// Blocks the calling thread for `duration`.
    fn sleep(&self, duration: Duration);
}

/// The clock of the operating system.
#[derive(Debug)]
pub(crate) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A point in time as stored: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) u64);

const MICROS_PER_SECOND: u64 = 1_000_000;

/// 9999-12-31T23:59:59.999999Z: the last time that every format downstream can print.
const LATEST: u64 = 253_402_300_799_999_999;

impl Timestamp {
    /// A stored number as a time; numbers beyond the year 9999 count as its end.
    pub(crate) fn from_micros(micros: u64) -> Timestamp {
        Timestamp(micros.min(LATEST))
    }

    pub(crate) fn second(self) -> u64 {
        self.0 / MICROS_PER_SECOND
    }

    pub(crate) fn after(self, span: Duration) -> Timestamp {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Timestamp::from_micros(self.0.saturating_add(micros))
    }

    pub(crate) fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 count as 1970.
    fn from(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Not `as_micros`: it divides 128 bits, at a cost that a write in memory can feel.
        let micros = since.as_secs().saturating_mul(MICROS_PER_SECOND);
        Timestamp::from_micros(micros.saturating_add(since.subsec_micros().into()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(time.0)
    }
}

/// A span of time in the unit that a person would use: `3 ms`, `2 min`.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millis, secs) = (self.0.as_millis(), self.0.as_secs());
        match secs {
            0 if millis == 0 => f.write_str("less than 1 ms"),
            0 => write!(f, "{millis} ms"),
            1..120 => write!(f, "{secs} s"),
            120..7_200 => write!(f, "{} min", secs / 60),
            7_200..172_800 => write!(f, "{} h", secs / 3_600),
            _ => write!(f, "{} days", secs / 86_400),
        }
    }
}

/// A clock that stands still until it is moved; sleeping moves it.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct ManualClock {
    micros: crate::sync::AtomicU64,
}

#[cfg(feature = "testing")]
impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: SystemTime) -> ManualClock {
        ManualClock { micros: crate::sync::AtomicU64::new(Timestamp::from(start).0) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, crate::sync::Ordering::AcqRel);
    }

    /// Sets the time of day, backwards too. Budgets measured meanwhile see no time pass.
    pub fn set(&self, time: SystemTime) {
        self.micros.store(Timestamp::from(time).0, crate::sync::Ordering::Release);
    }
}

#[cfg(feature = "testing")]
impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        Timestamp::from_micros(self.micros.load(crate::sync::Ordering::Acquire)).into()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros.load(crate::sync::Ordering::Acquire))
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}
