//! Random steps, restarts, crashes and the passing of time against a model of a few lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use ifmatch::testing::{Crash, ManualClock, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{OnBusy, OperationHandle, OperationStatus, Operations, Reason, Store, StoreBuilder};
use proptest::prelude::*;

use crate::support::{SECOND, start};

#[derive(Clone, Debug)]
enum Step {
    Begin {
        scope: u8,
        own: bool,
        queue: bool,
        ttl: u32,
    },
    /// Of the operation that was begun so many before the last.
    Take(usize, Verb),
    Pass(u32),
    Reopen,
    Crash(u64),
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Heartbeat,
    Progress(u8),
    Complete,
    Fail,
    Cancel,
    CancelAsOperator,
    Forge,
}

fn step() -> impl Strategy<Value = Step> {
    use Verb::*;
    let verb = prop_oneof![
        Just(Heartbeat),
        (0..101u8).prop_map(Progress),
        prop::sample::select(&[Complete, Complete, Fail, Cancel, CancelAsOperator, Forge][..]),
    ];
    prop_oneof![
        4 => (0..2u8, any::<bool>(), any::<bool>(), 1..20u32)
            .prop_map(|(scope, own, queue, ttl)| Step::Begin { scope, own, queue, ttl }),
        5 => (0..6usize, verb).prop_map(|(which, verb)| Step::Take(which, verb)),
        2 => (1..12u32).prop_map(Step::Pass),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// An operation as the model knows it. Times in seconds.
#[derive(Clone, Debug)]
struct Known {
    scope: (u8, bool),
    ttl: u32,
    status: OperationStatus,
    progress: Option<u8>,
    deadline: u32,
}

#[derive(Default)]
struct Model {
    known: Vec<Known>,
    /// The first has the scope.
    scopes: BTreeMap<(u8, bool), Vec<usize>>,
    now: u32,
}

impl Model {
    /// What whoever looks at this scope now finds.
    fn settle(&mut self, scope: (u8, bool)) -> Vec<usize> {
        if let Some(first) = self.scopes.get(&scope).and_then(|all| all.first().copied())
            && self.known[first].deadline <= self.now
        {
            self.end(first, OperationStatus::Expired);
        }
        self.scopes.get(&scope).cloned().unwrap_or_default()
    }

    fn end(&mut self, which: usize, status: OperationStatus) {
        self.known[which].status = status;
        let all = self.scopes.get_mut(&self.known[which].scope).unwrap();
        let had_it = all[0] == which;
        all.retain(|other| *other != which);
        if let Some(next) = all.first().copied().filter(|_| had_it) {
            let next = &mut self.known[next];
            (next.status, next.deadline) = (OperationStatus::InProgress, self.now + next.ttl);
        }
    }
}

struct World {
    disk: Option<MemoryDisk>,
    clock: Arc<ManualClock>,
    store: Store,
    handles: Vec<(OperationHandle, bool)>,
    model: Model,
}

impl World {
    fn new(disk: Option<MemoryDisk>) -> World {
        let clock = Arc::new(ManualClock::new(start()));
        let store = open(&disk, &clock);
        World { disk, clock, store, handles: Vec::new(), model: Model::default() }
    }

    fn kind(&self, own: bool) -> Operations {
        match own {
            true => self.store.operations("own").own_scope(),
            false => self.store.operations("shared"),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Begin { scope, own, queue, ttl } => self.begin(scope, own, queue, ttl),
            Step::Take(before, verb) => {
                if let Some(which) = self.handles.len().checked_sub(before + 1) {
                    self.hold(which, verb);
                }
            }
            Step::Pass(seconds) => {
                // One at a time, and settled at each: the store's own thread may come by whenever
                // it likes, and a queue passes on with every expiry.
                for _ in 0..seconds {
                    self.clock.advance(SECOND);
                    self.model.now += 1;
                    self.settle_all();
                }
            }
            Step::Reopen => {
                self.store.clone().close().unwrap();
                self.reopen(MemoryDisk::clone);
            }
            Step::Crash(seed) => {
                let (writes, names) = (Unsynced::Torn, Names::Kept);
                let crash = Crash::Power(PowerCut { writes, names, seed });
                self.reopen(|disk| disk.crash(disk.calls(), crash));
            }
        }
    }

    /// Opens what `left` finds of the disk while the store is still open.
    fn reopen(&mut self, left: impl FnOnce(&MemoryDisk) -> MemoryDisk) {
        let Some(disk) = &mut self.disk else { return };
        *disk = left(disk);
        let _ = self.store.clone().close();
        self.store = open(&self.disk, &self.clock);
        for which in 0..self.handles.len() {
            let (handle, own) = &self.handles[which];
            let again = self.kind(*own).with_token(handle.id(), handle.token());
            self.handles[which].0 = again;
        }
    }

    /// Begins nothing, and so sees to what has expired in each scope.
    fn settle_all(&mut self) {
        let scopes: Vec<_> = self.model.scopes.keys().copied().collect();
        for scope in scopes {
            let before = self.model.scopes[&scope].first().copied();
            let left = self.model.settle(scope);
            let Some(first) = left.first().copied() else {
                if let Some(last) = before {
                    // Whoever takes a step of the one that has expired meets it.
                    let refused = self.handles[last].0.heartbeat().commit().unwrap_err();
                    assert_eq!(refused.conflict().unwrap().reason(), Reason::Fenced);
                }
                continue;
            };
            let refused = self.kind(scope.1).begin(scope.0.to_string()).commit().unwrap_err();
            let id = refused.conflict().unwrap().operation().unwrap().id().to_owned();
            assert_eq!(id, self.handles[first].0.id());
        }
    }

    fn begin(&mut self, scope: u8, own: bool, queue: bool, ttl: u32) {
        let taken = self.model.settle((scope, own));
        let on_busy = if queue { OnBusy::Queue } else { OnBusy::Reject };
        let kind = self.kind(own);
        let begin = kind.begin(scope.to_string()).ttl(ttl * SECOND).on_busy(on_busy);
        let begun = begin.commit();
        if let Some(first) = taken.first().filter(|_| !queue) {
            let refused = begun.unwrap_err();
            let running = refused.conflict().unwrap().operation().unwrap().id().to_owned();
            assert_eq!(running, self.handles[*first].0.id());
            return;
        }
        let begun = begun.unwrap();
        let (status, deadline) = match taken.len() {
            0 => (OperationStatus::InProgress, self.model.now + ttl),
            _ => (OperationStatus::Queued, 0),
        };
        let which = self.handles.len();
        self.handles.push((begun.into_handle(), own));
        let (scope, progress) = ((scope, own), None);
        self.model.known.push(Known { scope, ttl, status, progress, deadline });
        self.model.scopes.entry(scope).or_default().push(which);
    }

    fn hold(&mut self, which: usize, verb: Verb) {
        let (handle, own) = self.handles[which].clone();
        let result = match verb {
            Verb::Heartbeat => handle.heartbeat().commit(),
            Verb::Progress(percent) => handle.progress(percent).commit(),
            Verb::Complete => handle.complete("result").commit(),
            Verb::Fail => handle.fail("error").commit(),
            Verb::Cancel => handle.cancel().commit(),
            Verb::CancelAsOperator => self.kind(own).cancel(handle.id()).commit(),
            Verb::Forge => {
                let token = ifmatch::OperationToken::from_bits(handle.token().bits() ^ 1);
                self.kind(own).with_token(handle.id(), token).complete("").commit()
            }
        };
        let scope = self.model.known[which].scope;
        let taken = self.model.settle(scope);
        let status = self.model.known[which].status;
        let cancels = matches!(verb, Verb::Cancel | Verb::CancelAsOperator);
        let expected = match (status, verb) {
            (status, _) if status.is_end() => Err(Reason::Fenced),
            (_, Verb::Forge) => Err(Reason::Fenced),
            (OperationStatus::Queued, _) if !cancels => Err(Reason::InProgress),
            _ => Ok(()),
        };
        let reason = |error: ifmatch::Error| error.conflict().unwrap().reason();
        assert_eq!(result.map(drop).map_err(reason), expected, "{verb:?} of {which} in {taken:?}");
        if expected.is_err() {
            return;
        }
        let now = self.model.now;
        match verb {
            Verb::Complete => self.model.end(which, OperationStatus::Completed),
            Verb::Fail => self.model.end(which, OperationStatus::Failed),
            Verb::Cancel | Verb::CancelAsOperator => {
                self.model.end(which, OperationStatus::Cancelled);
            }
            Verb::Heartbeat | Verb::Progress(_) | Verb::Forge => {
                let known = &mut self.model.known[which];
                known.deadline = now + known.ttl;
                if let Verb::Progress(percent) = verb {
                    known.progress = Some(percent);
                }
            }
        }
    }

    fn check(&self) {
        for ((handle, own), known) in self.handles.iter().zip(&self.model.known) {
            let info = self.kind(*own).get(handle.id()).unwrap().expect("none is forgotten");
            assert_eq!(info.status(), known.status, "{handle:?}");
            if info.status() != OperationStatus::Queued {
                assert_eq!(info.progress(), known.progress);
            }
            let queue = &self.model.scopes[&known.scope];
            let place = queue.iter().position(|which| self.handles[*which].0.id() == handle.id());
            assert_eq!(info.position(), place.filter(|place| *place > 0));
            let ended = |status: OperationStatus| info.status() == status;
            assert_eq!(info.result().is_some(), ended(OperationStatus::Completed));
            assert_eq!(info.error().is_some(), ended(OperationStatus::Failed));
            if ended(OperationStatus::InProgress) {
                assert_eq!(info.remaining(), (known.deadline - self.model.now) * SECOND);
            }
        }
    }
}

fn open(disk: &Option<MemoryDisk>, clock: &Arc<ManualClock>) -> Store {
    let builder: StoreBuilder = Store::builder().clock(clock.clone()).segment_bytes(4_096).seed(3);
    match disk {
        Some(disk) => builder.open_on(Arc::new(disk.clone())).unwrap(),
        None => builder.in_memory(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn g1_g3_operations_do_what_the_model_does(
        in_memory: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new((!in_memory).then(MemoryDisk::new));
        for step in steps {
            if in_memory && matches!(step, Step::Reopen | Step::Crash(_)) {
                continue;
            }
            world.take(step);
            world.check();
        }
    }
}
