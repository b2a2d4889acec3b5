//! What the tests of operations share: a clock set by hand, and refusals looked into.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ifmatch::testing::ManualClock;
use ifmatch::{Conflict, OperationInfo, Operations, Reason, Result, Store};

use crate::common::{Configuration, everywhere};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// Runs `test` on a fresh store of each configuration, with a clock that stands still.
pub fn timed(test: impl Fn(&Configuration, &Arc<ManualClock>, Store)) {
    everywhere(|configuration, store| {
        store.close().unwrap();
        let clock = Arc::new(ManualClock::new(start()));
        let store = reopen(configuration, &clock);
        test(configuration, &clock, store);
    });
}

pub fn reopen(configuration: &Configuration, clock: &Arc<ManualClock>) -> Store {
    configuration.open_with(configuration.builder().clock(clock.clone()).seed(7))
}

pub fn refusal<T: std::fmt::Debug>(result: Result<T>) -> Conflict {
    match result {
        Err(ifmatch::Error::Conflict(conflict)) => *conflict,
        other => panic!("it should be refused: {other:?}"),
    }
}

/// The operation that is in the way.
pub fn in_the_way<T: std::fmt::Debug>(result: Result<T>) -> OperationInfo {
    let conflict = refusal(result);
    assert_eq!(conflict.reason(), Reason::InProgress, "{conflict}");
    conflict.operation().unwrap().clone()
}

pub fn assert_fenced<T: std::fmt::Debug>(result: Result<T>, says: &str) {
    let conflict = refusal(result);
    assert_eq!(conflict.reason(), Reason::Fenced, "{conflict}");
    assert!(conflict.to_string().contains(says), "{conflict}");
}

pub fn known(operations: &Operations, id: &str) -> OperationInfo {
    operations.get(id).unwrap().expect("it is known")
}
