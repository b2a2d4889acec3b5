//! Damage at random: nothing panics, what is whole opens, and what is left was written (G2, G10).

use ifmatch::admin::on_disk::{backup, dump, load, repair, restore, verify};
use ifmatch::testing::{Disk, MemoryDisk};

use crate::support::{Zoo, bytes, copy, disk, open, unclean};

/// Hurts a file or two: flips, zeroes, cuts, repeats, or removes.
fn hurt(disk: &MemoryDisk, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        let names: Vec<_> = bytes(disk).into_iter().map(|(name, _)| name).collect();
        let Some(name) = random.choice(&names) else { return };
        if random.u8(..20) == 0 {
            disk.remove(name).unwrap();
            continue;
        }
        disk.damage(name, |bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let (at, len) = (random.usize(..end), random.usize(1..700));
            let range = at..end.min(at + len).min(bytes.len());
            match random.u8(..6) {
                0 => bytes[range].fill(0),
                1 => bytes[range].iter_mut().for_each(|byte| *byte = random.u8(..)),
                2 => bytes.truncate(at),
                3 => {
                    let again = bytes[range].to_vec();
                    bytes.splice(at..at, again);
                }
                _ if bytes.is_empty() => {}
                _ => bytes[at.min(end - 1)] ^= 1 << random.u8(..8),
            }
        });
    }
}

/// What each version of the zoo's rows wrote is its number's own: a value names its writer.
fn rows(disk: &MemoryDisk) -> Vec<(u64, u64, u64, Option<String>)> {
    let store = open(disk).unwrap();
    if !store.has_collection("rows") {
        return Vec::new();
    }
    let rows = store.collection::<u64, u64>("rows").unwrap();
    let state = |(key, row): (u64, ifmatch::Entity<u64>)| {
        (key, row.version().get(), *row, row.written_by().map(str::to_owned))
    };
    rows.iter().map(|entry| state(entry.unwrap())).collect()
}

/// All that the rows ever were: every write of `support::disk`, by version.
fn ever() -> std::collections::BTreeMap<u64, (u64, u64)> {
    let store = open(&MemoryDisk::new()).unwrap();
    let zoo = Zoo::of(&store);
    let mut ever = std::collections::BTreeMap::new();
    for turn in 0..=2 {
        for number in (0..40).map(|number| 1_000 * turn + number) {
            zoo.write(number);
            let row = zoo.rows.get(number % 5).unwrap().unwrap();
            ever.insert(row.version().get(), (number % 5, number));
        }
        zoo.delete(turn % 3);
    }
    ever
}

#[test]
fn g10_repair_takes_any_damage_and_invents_nothing() {
    let (intact, ever) = (disk(2), ever());
    let mut whole = 0;
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let damaged = copy(&intact);
        hurt(&damaged, &mut random);
        let before = bytes(&damaged);
        let target = MemoryDisk::new();
        let Ok((told, _)) = repair(&damaged, &target) else {
            assert!(verify(&damaged).is_err(), "seed {seed}: it is no store any more");
            continue;
        };
        assert_eq!(bytes(&damaged), before);
        assert!(verify(&target).unwrap().is_whole(), "seed {seed}");
        for (key, version, value, by) in rows(&target) {
            assert_eq!(ever.get(&version), Some(&(key, value)), "seed {seed}: {told:?}");
            assert_eq!(by.as_deref(), Some(["ann", "bob"][value as usize % 2]));
        }
        whole += 1;
    }
    assert!(whole > 350, "{whole}");
}

#[test]
fn g10_what_verify_calls_whole_opens_and_can_be_copied() {
    let mut seen = (0, 0);
    for (intact, seeds) in [(disk(0), 0..100), (disk(2), 100..300), (unclean(2), 300..400)] {
        for seed in seeds {
            let mut random = fastrand::Rng::with_seed(seed);
            let damaged = copy(&intact);
            hurt(&damaged, &mut random);
            let Ok(report) = verify(&damaged) else { continue };
            let (copied, restored) = (MemoryDisk::new(), MemoryDisk::new());
            let backed_up = backup(&damaged, &copied).is_ok();
            if backed_up {
                restore(&copied, &restored).unwrap();
            }
            let opened = open(&copy(&damaged));
            match report.is_whole() {
                true => {
                    assert!(opened.is_ok() && backed_up, "seed {seed}: {report}");
                    assert_eq!(rows(&restored), rows(&damaged), "seed {seed}: {report}");
                    seen.0 += 1;
                }
                false => seen.1 += 1,
            }
        }
    }
    assert!(seen.0 > 5 && seen.1 > 100, "{seen:?}");
}

#[test]
fn g10_no_line_makes_loading_panic_or_leave_half_a_store() {
    let mut lines = Vec::new();
    dump(&disk(1), &mut lines).unwrap();
    let mut loaded = 0;
    for seed in 0..600 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut changed = lines.clone();
        for _ in 0..random.usize(1..3) {
            let at = random.usize(..changed.len());
            match random.u8(..4) {
                0 => drop(changed.remove(at)),
                1 => changed.insert(at, random.u8(b' '..b'~')),
                2 => changed[at] = random.u8(b'0'..=b'9'),
                _ => changed.truncate(at),
            }
        }
        let target = MemoryDisk::new();
        match load(&mut &changed[..], &target) {
            Ok(_) => {
                assert!(verify(&target).unwrap().is_whole(), "seed {seed}");
                open(&target).unwrap().close().unwrap();
                loaded += 1;
            }
            Err(_) => assert!(bytes(&target).is_empty(), "seed {seed}"),
        }
    }
    assert!(loaded > 10, "{loaded}");
}
