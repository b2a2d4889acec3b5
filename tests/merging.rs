//! What a conflict tells of the other side's edit, and edits that are merged.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{block_on, everywhere};
use ifmatch::http::Document;
use ifmatch::{
    Codec, Collection, Compute, Conflict, Error, Json, Reason, RebaseError, RetryPolicy, Store,
    Version,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shift {
    status: String,
    hours: u32,
    tags: Vec<String>,
    pay: Option<f64>,
    extra: BTreeMap<String, u32>,
}

fn shift() -> Shift {
    Shift {
        status: "open".to_owned(),
        hours: 6,
        tags: vec!["night".to_owned()],
        pay: Some(12.5),
        extra: BTreeMap::from([("a/b".to_owned(), 1)]),
    }
}

type Shifts = Collection<String, Shift>;

fn shifts(store: &Store) -> Shifts {
    store.declare("shifts").history(8).open().unwrap()
}

/// A shift that alice changed since its first version, which is returned.
fn changed(shifts: &Shifts, change: impl Fn(&mut Shift)) -> Version {
    let v1 = shifts.create("s-17", shift()).commit().unwrap().version();
    edit(shifts, change);
    v1
}

fn edit(shifts: &Shifts, change: impl Fn(&mut Shift)) {
    shifts.update("s-17", change).by("alice").commit().unwrap();
}

fn refused(error: Error) -> Box<Conflict> {
    match error {
        Error::Conflict(conflict) => conflict,
        other => panic!("{other}"),
    }
}

fn with(change: impl Fn(&mut Shift)) -> Shift {
    let mut shift = shift();
    change(&mut shift);
    shift
}

/// The message up to the time that has passed.
fn said(conflict: &Conflict) -> String {
    let message = conflict.to_string();
    assert!(message.ends_with(" ago; read it again and retry"), "{message}");
    let words: Vec<_> = message.split(' ').collect();
    let to = words.iter().position(|word| *word == "ago;").unwrap() - 2;
    words[..to].join(" ").trim_end_matches(" less than").to_owned()
}

#[test]
fn g4_a_conflict_tells_what_changed_since_the_base() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = changed(&shifts, |shift| shift.status = "approved".to_owned());
        let put = || refused(shifts.put("s-17", shift()).if_match(v1).commit().unwrap_err());
        assert_eq!(put().changed().unwrap(), ["/status"]);
        assert_eq!(said(&put()), "shifts/s-17 is at version 2, not 1: alice changed /status");
        edit(&shifts, |shift| *shift.extra.get_mut("a/b").unwrap() = 2);
        assert_eq!(put().changed().unwrap(), ["/extra/a~1b", "/status"]);
        assert!(said(&put()).ends_with("alice changed /extra/a~1b and /status"));
        edit(&shifts, |shift| {
            shift.hours = 8;
            shift.tags.push("late\n".to_owned());
            shift.extra.insert("x\n".repeat(50), 1);
        });
        let all = put().changed().unwrap();
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!(said(&put()).matches('\n').count(), 0);
        assert!(said(&put()).ends_with("…, /hours and 2 more fields"), "{}", said(&put()));
        let delete = shifts.delete("s-17").if_match(v1).commit().unwrap_err();
        assert_eq!(refused(delete).changed(), Some(all));
        let any = shifts.put("s-17", shift()).if_match_any([v1]).commit().unwrap_err();
        assert!(refused(any).changed().is_some());
    });
}

#[test]
fn g4_without_a_base_a_conflict_reads_as_before() {
    everywhere(|_, store| {
        let rows = store.collection::<u64, u64>("rows").unwrap();
        let v1 = rows.create(1, 1).commit().unwrap().version();
        rows.put(1, 2).if_match(v1).by("alice").commit().unwrap();
        let conflict = refused(rows.put(1, 3).if_match(v1).commit().unwrap_err());
        assert_eq!(conflict.changed(), None);
        assert!(said(&conflict).ends_with("not 1: alice changed it"), "{conflict}");
        assert_eq!(conflict.rebase::<u64>(), Err(RebaseError::NoBase));

        let shifts = shifts(&store);
        let v1 = changed(&shifts, |shift| shift.hours += 1);
        for versions in [vec![], vec![v1, Version::new(1_000).unwrap()]] {
            let put = shifts.put("s-17", shift()).if_match_any(versions);
            assert_eq!(refused(put.commit().unwrap_err()).changed(), None);
        }
        let since = shifts.get_at("s-17", v1).unwrap().unwrap().written_at();
        let long_ago = since - Duration::from_secs(100);
        let put = shifts.put("s-17", shift()).if_unmodified_since(long_ago);
        assert_eq!(refused(put.commit().unwrap_err()).changed(), None);
        for _ in 0..8 {
            edit(&shifts, |shift| shift.hours += 1);
        }
        let put = shifts.put("s-17", shift()).if_match(v1).commit().unwrap_err();
        assert_eq!(refused(put).changed(), None, "it is not kept any more");
    });
}

#[test]
fn a_conflict_is_rebased_where_edits_do_not_overlap() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = changed(&shifts, |shift| shift.hours = 8);
        let put =
            |mine: Shift| refused(shifts.put("s-17", mine).if_match(v1).commit().unwrap_err());
        let mine = with(|shift| shift.status = "done".to_owned());
        let (merged, version) = put(mine).rebase::<Shift>().unwrap();
        let both = |shift: &mut Shift| {
            shift.hours = 8;
            shift.status = "done".to_owned();
        };
        assert_eq!(merged, with(both));
        assert_eq!(Some(version), put(shift()).current_version());
        // The same edit on both sides.
        assert_eq!(put(with(|shift| shift.hours = 8)).rebase::<Shift>().unwrap().0.hours, 8);
        let overlap = put(with(|shift| shift.hours = 9)).rebase::<Shift>().unwrap_err();
        assert_eq!(overlap, RebaseError::Overlap(vec!["/hours".to_owned()]));
        assert!(overlap.to_string().starts_with("both sides changed /hours; "), "{overlap}");
        assert_eq!(put(shift()).rebase::<u64>(), Err(RebaseError::Type));
        let whole = Err(RebaseError::Overlap(vec![String::new()]));
        let delete = shifts.delete("s-17").if_match(v1).commit().unwrap_err();
        assert_eq!(refused(delete).rebase::<Shift>(), whole);
        shifts.delete("s-17").if_exists().commit().unwrap();
        assert_eq!(put(shift()).rebase::<Shift>(), whole);
    });
}

/// Values that JSON changes on the way, one each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Odd {
    Number(Option<f64>),
    Nested(Option<Option<u8>>),
    Wide(u128),
    Keys(BTreeMap<(u8, u8), u8>),
    Fine(HashMap<u64, u8>),
    Bytes(Vec<u8>, [u8; 2], char, ()),
}

#[test]
fn what_json_would_mangle_is_not_merged() {
    let store = Store::in_memory();
    type Values = (Odd, u32, u32);
    let values = store.declare::<u8, Values>("values").history(4).open().unwrap();
    let odd = [
        (Odd::Number(Some(f64::NAN)), false),
        (Odd::Nested(Some(None)), false),
        (Odd::Wide(u128::MAX), false),
        (Odd::Keys(BTreeMap::from([((1, 2), 3)])), false),
        (Odd::Fine((0..50).map(|n| (n, n as u8)).collect()), true),
        (Odd::Bytes(vec![1, 2], [3, 4], 'é', ()), true),
        (Odd::Number(Some(0.1)), true),
    ];
    // Tuples are lists, which are one piece: in a map the edits lie apart.
    let rows = store.declare::<u8, BTreeMap<String, Odd>>("rows").history(4).open().unwrap();
    for (key, (odd, is_fine)) in (0..).zip(odd) {
        values.create(key, (odd.clone(), 0, 0)).commit().unwrap();
        let row = |a: u128, b: u128| {
            let number = |number| Odd::Wide(number);
            let members = [("a", number(a)), ("b", number(b)), ("odd", odd.clone())];
            members.map(|(name, value)| (name.to_owned(), value)).into()
        };
        let v1 = rows.create(key, row(0, 0)).commit().unwrap().version();
        rows.put(key, row(1, 0)).if_match(v1).commit().unwrap();
        let conflict = refused(rows.put(key, row(0, 1)).if_match(v1).commit().unwrap_err());
        match conflict.rebase::<BTreeMap<String, Odd>>() {
            Ok((merged, _)) => assert_eq!((merged, is_fine), (row(1, 1), true)),
            Err(RebaseError::NoJson(detail)) => assert!(!is_fine, "{odd:?}: {detail}"),
            Err(other) => panic!("{odd:?}: {other}"),
        }
        let done = rows.put(key, row(0, 1)).if_match(v1).merge().commit();
        assert_eq!(done.is_ok(), is_fine, "{odd:?}");
    }
}

#[test]
fn documents_are_merged_unless_their_text_says_more_than_their_value() {
    let store = Store::in_memory();
    let declared = store.declare::<String, Document>("documents").codec(Json).history(4);
    let documents = declared.open().unwrap();
    let document = |text: &str| Document::parse(text.to_owned()).unwrap();
    for (base, theirs, mine, merged) in [
        (r#"{ "b": 1, "a": 1 }"#, r#"{"b":2,"a":1}"#, r#"{"b":1,"a":3}"#, Some(r#"{"a":3,"b":2}"#)),
        (r#"{"a":[1],"b":1.5}"#, r#"{"a":[1]}"#, r#"{"a":"x y","b":1.5}"#, Some(r#"{"a":"x y"}"#)),
        // The same name twice, and a number that no double holds.
        (r#"{"b": 1, "a": 1, "a": 2}"#, r#"{"b": 2, "a": 2}"#, r#"{"b": 1, "a": 3}"#, None),
        (r#"{"a": 1, "b": 1}"#, r#"{"a": 12345678901234567890123, "b": 1}"#, r#"{"b": 1}"#, None),
    ] {
        let v1 = documents.put("d", document(base)).unconditional().commit().unwrap().version();
        documents.put("d", document(theirs)).if_match(v1).commit().unwrap();
        let put = documents.put("d", document(mine)).if_match(v1).merge().commit();
        match merged {
            Some(merged) => assert_eq!(put.unwrap().value().json(), merged),
            None => {
                let rebased = refused(put.unwrap_err()).rebase::<Document>();
                assert!(matches!(rebased, Err(RebaseError::NoJson(_))), "{rebased:?}");
            }
        }
    }
}

/// Knows nothing of JSON.
struct Plain;

impl Codec<u8> for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn encode(&self, value: &u8) -> Result<Vec<u8>, String> {
        Ok(vec![*value])
    }
    fn decode(&self, bytes: &[u8]) -> Result<u8, String> {
        bytes.first().copied().ok_or_else(|| "empty".to_owned())
    }
}

#[test]
fn a_codec_without_json_keeps_its_conflicts_plain() {
    everywhere(|_, store| {
        let rows = store.declare::<u8, u8>("rows").codec(Plain).history(2).open().unwrap();
        let v1 = rows.create(1, 1).commit().unwrap().version();
        rows.put(1, 2).if_match(v1).commit().unwrap();
        let conflict = refused(rows.put(1, 3).if_match(v1).commit().unwrap_err());
        assert_eq!(conflict.changed(), None);
        assert!(matches!(conflict.rebase::<u8>(), Err(RebaseError::NoJson(_))));
    });
}

#[test]
fn g1_a_write_that_merges_lands_beside_edits_of_other_fields() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = changed(&shifts, |shift| shift.hours = 8);
        let mine = || with(|shift| shift.status = "done".to_owned());
        let put = || shifts.put("s-17", mine()).if_match(v1).by("bob").merge();
        let done = put().commit().unwrap();
        assert_eq!((done.merged(), done.attempts(), done.value().hours), (true, 2, 8));
        assert_eq!(done.entity().written_by(), Some("bob"));
        edit(&shifts, |shift| shift.pay = None);
        let done = block_on(put()).unwrap();
        assert_eq!((done.merged(), done.value().pay), (true, None));
        let version = done.version();
        let plain = shifts.put("s-17", shift()).if_match(version).merge().commit().unwrap();
        assert_eq!((plain.merged(), plain.attempts()), (false, 1));
    });
}

#[test]
fn g4_a_write_that_cannot_merge_is_refused_as_if_it_had_not_tried() {
    everywhere(|_, store| {
        let shifts = shifts(&store);
        let v1 = changed(&shifts, |shift| shift.hours = 8);
        let mine = || with(|shift| shift.hours = 9);
        let put = || shifts.put("s-17", mine()).if_match(v1);
        let (plain, merging) = (put().commit().unwrap_err(), put().merge().commit().unwrap_err());
        let awaited = block_on(put().merge()).unwrap_err();
        assert_eq!(format!("{plain:?}"), format!("{merging:?}"));
        assert_eq!(format!("{plain:?}"), format!("{awaited:?}"));
        let conflict = refused(merging);
        assert_eq!(conflict.changed().unwrap(), ["/hours"]);
        assert_eq!(conflict.into_proposed::<Shift>(), Some(mine()));
        // Other conditions are not given up.
        let late = shifts.get("s-17").unwrap().unwrap().written_at() - Duration::from_secs(9);
        let put = shifts.put("s-17", shift()).if_match(v1).if_unmodified_since(late);
        let conflict = refused(put.merge().commit().unwrap_err());
        assert_eq!(conflict.reason(), Reason::StaleVersion);
        assert_eq!(conflict.into_proposed::<Shift>(), Some(shift()));
        shifts.delete("s-17").if_exists().commit().unwrap();
        let gone = shifts.put("s-17", mine()).if_match(v1).merge().commit().unwrap_err();
        assert_eq!(refused(gone).reason(), Reason::Deleted);
    });
}

#[test]
fn g7_a_write_that_merges_is_bounded() {
    let store = Store::in_memory();
    let shifts = shifts(&store);
    let v1 = changed(&shifts, |shift| shift.hours = 8);
    let mine = || with(|shift| shift.status = "done".to_owned());
    for policy in [
        RetryPolicy { attempts: 1, ..RetryPolicy::default() },
        RetryPolicy { budget: Duration::ZERO, ..RetryPolicy::default() },
    ] {
        let put = shifts.put("s-17", mine()).if_match(v1).merge().retry(policy);
        let conflict = refused(put.commit().unwrap_err());
        assert_eq!(conflict.reason(), Reason::Contended);
        assert_eq!(conflict.expected(), [v1]);
        assert_eq!(conflict.into_proposed::<Shift>(), Some(mine()));
    }
}

#[test]
fn g1_writers_that_merge_lose_no_edit() {
    everywhere(|configuration, store| {
        type Row = BTreeMap<String, u64>;
        let rows = store.declare::<u8, Row>("rows").history(100).open().unwrap();
        let names = ["a", "b", "c"];
        let first: Row = names.map(|name| (name.to_owned(), 0)).into();
        rows.create(1, first).commit().unwrap();
        let patient = RetryPolicy { attempts: 1_000, ..RetryPolicy::default() };
        let merges: u64 = std::thread::scope(|scope| {
            let writers = names.map(|name| {
                let (rows, patient) = (&rows, patient.clone());
                scope.spawn(move || {
                    let mut merges = 0;
                    for _ in 0..40 {
                        let read = rows.get(1).unwrap().unwrap();
                        let mut row = (*read).clone();
                        *row.get_mut(name).unwrap() += 1;
                        std::thread::yield_now();
                        let put = rows.put(1, row).if_match(read.version());
                        let done = put.merge().retry(patient.clone()).commit().unwrap();
                        merges += u64::from(done.merged());
                    }
                    merges
                })
            });
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        let row = rows.get(1).unwrap().unwrap();
        assert!(names.iter().all(|name| row[*name] == 40), "{}: {row:?}", configuration.name);
        // Whether writers met is up to the scheduler; here they do.
        let read = rows.get(1).unwrap().unwrap();
        rows.compute(1, |row| Compute::Put(row.unwrap().clone())).commit().unwrap();
        let put = rows.put(1, (*read).clone()).if_match(read.version());
        assert!(put.merge().commit().unwrap().merged(), "{merges} merges before");
    });
}

#[test]
fn a_future_that_merges_does_nothing_before_it_is_polled_and_ends_once() {
    let store = Store::in_memory();
    let shifts = shifts(&store);
    let v1 = changed(&shifts, |shift| shift.hours = 8);
    let mine = with(|shift| shift.status = "done".to_owned());
    let mut write = Box::pin(shifts.put("s-17", mine).if_match(v1).merge().into_future());
    assert_eq!(shifts.get("s-17").unwrap().unwrap().status, "open");
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(write.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    assert!(write.as_mut().poll(&mut context).is_pending());
}
