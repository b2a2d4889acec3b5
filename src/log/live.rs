//! Which segments the directory holds: the writer adds to the list, pruning takes from it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Level, Mutex};

/// The segments of the log, oldest first. Locked for a moment.
pub(crate) struct LiveSegments {
    segments: Mutex<VecDeque<LiveSegment>>,
    on_start: Mutex<Option<Arc<OnStart>>>,
}

type OnStart = dyn Fn() + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveSegment {
    pub(crate) number: u64,
    pub(crate) first_version: u64,
    /// Bytes of records; zero as long as it is written to.
    pub(crate) bytes: u64,
}

impl Default for LiveSegments {
    fn default() -> LiveSegments {
        LiveSegments {
            segments: Mutex::new(Level::Segments, VecDeque::new()),
            on_start: Mutex::new(Level::Alone("hook of the segments"), None),
        }
    }
}

impl LiveSegments {
    /// Calls `hook` whenever a segment was started, on the thread that leads a sync: it must be
    /// quick, and no lock is held.
    pub(crate) fn on_start(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.on_start.lock() = Some(Arc::new(hook));
    }

    /// A segment found when the store was opened.
    pub(crate) fn found(&self, segment: LiveSegment) {
        self.segments.lock().push_back(segment);
    }

    /// A segment was started; the one before it has come to `bytes` if it was written here.
    pub(crate) fn started(&self, number: u64, first_version: u64, before: Option<u64>) {
        let mut segments = self.segments.lock();
        if let (Some(bytes), Some(last)) = (before, segments.back_mut()) {
            last.bytes = bytes;
        }
        segments.push_back(LiveSegment { number, first_version, bytes: 0 });
        drop(segments);
        let hook = self.on_start.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
    }

    /// Bytes of the segments that hold versions above `version`.
    pub(crate) fn bytes_behind(&self, version: u64) -> u64 {
        let segments = self.segments.lock();
        let nexts = segments.iter().skip(1).map(|next| next.first_version).chain([u64::MAX]);
        let behind = segments.iter().zip(nexts).filter(|(_, next)| *next > version + 1);
        behind.map(|(segment, _)| segment.bytes).sum()
    }

    /// The oldest segment of those with higher numbers.
    pub(crate) fn oldest(&self, above: u64) -> Option<LiveSegment> {
        self.segments.lock().iter().find(|segment| segment.number > above).copied()
    }

    /// The segment that a version is in, or would be.
    pub(crate) fn holding(&self, version: u64) -> Option<LiveSegment> {
        let segments = self.segments.lock();
        segments.iter().rfind(|segment| segment.first_version <= version).copied()
    }

    /// The oldest segment, if all its versions are up to `version`, it is not the newest, and
    /// those after it make up so many bytes.
    pub(crate) fn oldest_up_to(&self, version: u64, keep: u64) -> Option<u64> {
        let segments = self.segments.lock();
        let next = segments.get(1)?;
        let kept: u64 = segments.iter().skip(1).map(|segment| segment.bytes).sum();
        (next.first_version <= version + 1 && kept >= keep)
            .then(|| segments.front().map(|oldest| oldest.number))?
    }

    /// The oldest segment has been removed.
    pub(crate) fn removed(&self, number: u64) {
        self.segments.lock().pop_front_if(|oldest| oldest.number == number);
    }
}

#[cfg(all(test, not(ifmatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wholly_behind_is_given_for_removal() {
        let live = LiveSegments::default();
        live.found(LiveSegment { number: 3, first_version: 10, bytes: 5 });
        live.started(4, 20, None);
        assert_eq!(live.oldest_up_to(18, 0), None);
        assert_eq!(live.oldest_up_to(19, 0), Some(3));
        assert_eq!(live.oldest_up_to(19, 1), None, "the newest does not count yet");
        assert_eq!((live.bytes_behind(18), live.bytes_behind(19)), (5, 0));
        let holding = |version| live.holding(version).map(|segment| segment.number);
        assert_eq!([9, 10, 19, 20, 99].map(holding), [None, Some(3), Some(3), Some(4), Some(4)]);
        live.removed(4);
        live.removed(3);
        assert_eq!(live.oldest_up_to(100, 0), None, "the newest stays");
        live.started(5, 30, Some(7));
        assert_eq!((live.bytes_behind(28), live.bytes_behind(29)), (7, 0));
    }
}
