//! What the log asks of the service thread at a time to come.

use std::sync::Arc;
use std::sync::Weak;
use std::task::Wake;
use std::time::Duration;

use crate::log::Log;

/// A log is sealed when nothing was written for this long: then rot in what was written last is
/// found as damage, where it would be cut as a torn tail otherwise.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// A task, as a waker that the service thread wakes when it is due.
pub(super) struct Due {
    pub(super) log: Weak<Log>,
    pub(super) task: Task,
}

pub(super) enum Task {
    /// Sync what was appended.
    Lead,
    /// Seal the log, if it is idle.
    Seal,
}

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        let Some(log) = self.log.upgrade() else { return };
        match self.task {
            Task::Lead => log.lead_when_due(),
            Task::Seal => log.seal_if_idle(),
        }
    }
}
