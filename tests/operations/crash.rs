//! G3, G8: whatever call the power fails at, a scope has one operation, a key is leased as long as
//! the operation goes on that leases it, and nothing acknowledged is lost.

use std::sync::Arc;

use ifmatch::testing::{Crash, MemoryDisk, Names, PowerCut, Unsynced};
use ifmatch::{Begun, Collection, OnBusy, OperationStatus, Operations, Store};

use crate::support::SECOND;

/// What was acknowledged, and after how many calls of the disk.
struct Told {
    calls: usize,
    id: String,
    status: OperationStatus,
    /// It had a lease.
    leases: bool,
}

#[test]
fn g3_a_power_cut_at_any_call_leaves_one_operation_in_a_scope() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let (jobs, mut told) = (store.operations("job"), Vec::new());
    let shifts = store.collection::<String, u32>("shifts").unwrap();
    let mut ids = Vec::new();
    for round in 0..3 {
        let all = [0; 3].map(|_| begin(&disk, &jobs, &mut told));
        ids.extend(all.iter().map(|begun| begun.id().to_owned()));
        if round == 1 {
            store.snapshot().unwrap();
        }
        let [first, second, third] = all;
        let tell = |info: ifmatch::OperationInfo, leases| {
            let (id, status) = (info.id().to_owned(), info.status());
            Told { calls: disk.calls(), id, status, leases }
        };
        let lease = |begun: &Begun| {
            begun.lease(&shifts, "s-1").commit().unwrap();
            tell(jobs.get(begun.id()).unwrap().unwrap(), true)
        };
        told.push(tell(third.cancel().commit().unwrap(), false));
        told.push(lease(&first));
        told.push(tell(first.progress(50).commit().unwrap(), true));
        told.push(tell(first.complete("x").commit().unwrap(), false));
        told.push(lease(&second));
        told.push(tell(second.heartbeat().commit().unwrap(), true));
        told.push(tell(second.fail("y").commit().unwrap(), false));
    }
    let mut states = 0;
    for calls in 0..=disk.calls() {
        for survivors in [0, 1, 9] {
            let (writes, names) = (Unsynced::First(survivors), Names::Dropped);
            let cut = disk.crash(calls, Crash::Power(PowerCut { writes, names, seed: 1 }));
            let Ok(store) = open(&cut) else {
                assert!(calls < told[0].calls, "a store that has acknowledged something opens");
                continue;
            };
            states += 1;
            check(&store, &ids, told.iter().filter(|told| told.calls <= calls));
        }
    }
    assert!(states > 100, "{states} states were looked at");
}

fn open(disk: &MemoryDisk) -> ifmatch::Result<Store> {
    Store::builder().segment_bytes(4_096).open_on(Arc::new(disk.clone()))
}

fn begin(disk: &MemoryDisk, jobs: &Operations, told: &mut Vec<Told>) -> Begun {
    let begin = jobs.begin("disk").ttl(3_600 * SECOND).on_busy(OnBusy::Queue);
    let begun = begin.operation_id(told.len().to_string()).commit().unwrap();
    let (id, status) = (begun.id().to_owned(), begun.info().status());
    told.push(Told { calls: disk.calls(), id, status, leases: false });
    begun
}

fn check<'a>(store: &Store, ids: &[String], told: impl Iterator<Item = &'a Told>) {
    let jobs = store.operations("job");
    let shifts: Collection<String, u32> = store.collection("shifts").unwrap();
    let lease = shifts.lease_of("s-1").unwrap();
    let holder = lease.as_ref().map(|lease| lease.operation().expect("nobody else leases it"));
    if let Some(holder) = holder {
        let holder = jobs.get(holder).unwrap().expect("it is known");
        assert_eq!(holder.status(), OperationStatus::InProgress, "it ends with its leases");
    }
    for Told { id, status, leases, .. } in told {
        let now = jobs.get(id).unwrap().expect("what was acknowledged is there").status();
        assert!(now == *status || !status.is_end(), "{id} is {now}, and was {status}");
        assert!(now != OperationStatus::Queued || *status == now, "{id} is queued again");
        assert!(!leases || now.is_end() || holder == Some(id), "{id} has lost its lease");
    }
    let known: Vec<_> = ids.iter().filter_map(|id| jobs.get(id).unwrap()).collect();
    let running: Vec<_> =
        known.iter().filter(|info| info.status() == OperationStatus::InProgress).collect();
    let queued = known.iter().filter(|info| info.status() == OperationStatus::Queued).count();
    let mut places: Vec<_> = known.iter().filter_map(|info| info.position()).collect();
    places.sort_unstable();
    assert_eq!(places, (1..=queued).collect::<Vec<_>>());
    let tried = jobs.begin("disk").commit();
    match &running[..] {
        [] => assert!(queued == 0 && tried.is_ok(), "nobody has the scope"),
        [one] => {
            let refused = tried.unwrap_err();
            let conflict = refused.conflict().expect("the scope is taken");
            assert_eq!(conflict.operation().unwrap().id(), one.id());
        }
        more => panic!("{} have the scope", more.len()),
    }
}
