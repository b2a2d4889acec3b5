//! Differences between JSON values, and the merge of two edits of one.
//!
//! Objects are compared and merged member by member; everything else, arrays included, is one
//! piece. Places are told as JSON Pointers (RFC 6901).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Objects nested deeper are one piece, so that no value takes more stack than this.
const DEPTH_MAX: usize = 128;

/// As many places are told.
pub(crate) const POINTERS_MAX: usize = 100;

/// What would need a longer pointer is told by what it lies in.
const POINTER_BYTES_MAX: usize = 1_024;

/// Where the two differ.
pub(crate) fn differences(from: &Value, to: &Value) -> Vec<String> {
    let mut walk = Walk::default();
    walk.compare(Some(from), Some(to));
    walk.found
}

/// `base` with both edits in it. Equal edits do not overlap.
///
/// # Errors
/// Where both sides changed the same piece, and not alike.
pub(crate) fn merge(base: &Value, ours: &Value, theirs: &Value) -> Result<Value, Vec<String>> {
    let mut walk = Walk::default();
    let merged = walk.merge(Some(base), Some(ours), Some(theirs));
    match merged.filter(|_| walk.found.is_empty()) {
        Some(merged) => Ok(merged),
        None => Err(walk.found),
    }
}

#[derive(Default)]
struct Walk {
    /// The pointer to where the walk is, and how many objects are around that.
    at: String,
    depth: usize,
    found: Vec<String>,
}

impl Walk {
    fn compare(&mut self, from: Option<&Value>, to: Option<&Value>) {
        if let (Some(Value::Object(from)), Some(Value::Object(to))) = (from, to)
            && self.depth < DEPTH_MAX
        {
            let keys: BTreeSet<_> = from.keys().chain(to.keys()).collect();
            for key in keys {
                self.within(key, |walk| walk.compare(from.get(key), to.get(key)));
            }
        } else if from != to {
            self.tell();
        }
    }

    /// `None` if nothing is there, or the edits overlap, which is told.
    fn merge(
        &mut self,
        base: Option<&Value>,
        ours: Option<&Value>,
        theirs: Option<&Value>,
    ) -> Option<Value> {
        use Value::Object;
        if let (Some(Object(base)), Some(Object(ours)), Some(Object(theirs))) = (base, ours, theirs)
            && self.depth < DEPTH_MAX
        {
            let keys: BTreeSet<_> = base.keys().chain(ours.keys()).chain(theirs.keys()).collect();
            let mut merged = Map::new();
            for key in keys {
                let sides = (base.get(key), ours.get(key), theirs.get(key));
                let value = self.within(key, |walk| walk.merge(sides.0, sides.1, sides.2));
                merged.extend(value.map(|value| (key.clone(), value)));
            }
            return Some(Object(merged));
        }
        if ours == theirs || base == theirs {
            ours.cloned()
        } else if base == ours {
            theirs.cloned()
        } else {
            self.tell();
            None
        }
    }

    fn within<T>(&mut self, key: &str, walk: impl FnOnce(&mut Walk) -> T) -> T {
        let outside = self.at.len();
        self.at.push('/');
        for character in key.chars() {
            match character {
                '~' => self.at.push_str("~0"),
                '/' => self.at.push_str("~1"),
                other => self.at.push(other),
            }
        }
        self.depth += 1;
        let result = walk(self);
        self.depth -= 1;
        self.at.truncate(outside);
        result
    }

    /// Here is something to tell of.
    fn tell(&mut self) {
        let mut pointer = &self.at[..];
        while pointer.len() > POINTER_BYTES_MAX {
            pointer = pointer.rsplit_once('/').map_or("", |(outside, _)| outside);
        }
        let is_told = self.found.last().is_some_and(|last| last == pointer);
        if self.found.len() < POINTERS_MAX && !is_told {
            self.found.push(pointer.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Few names, so that edits meet; one that has to be escaped.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3u8).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                3 => prop::collection::btree_map("[abc]|a/b|~1|", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// A value that shares much with another.
    fn edits() -> impl Strategy<Value = (Value, Value, Value)> {
        let edit = |base: Value| {
            let edits = prop::collection::vec((any::<prop::sample::Index>(), value()), 0..3);
            edits.prop_map(move |edits| {
                let mut value = base.clone();
                for (index, new) in edits {
                    let places = places(&value);
                    let place = &places[index.index(places.len())];
                    *value.pointer_mut(place).unwrap() = new;
                }
                value
            })
        };
        value().prop_flat_map(move |base| (Just(base.clone()), edit(base.clone()), edit(base)))
    }

    /// Pointers to all that can be edited.
    fn places(value: &Value) -> Vec<String> {
        let mut places = vec![String::new()];
        for (key, member) in value.as_object().into_iter().flatten() {
            let key = key.replace('~', "~0").replace('/', "~1");
            places.extend(self::places(member).iter().map(|place| format!("/{key}{place}")));
        }
        places
    }

    /// Takes over from `to` what the pointers name.
    fn apply(mut value: Value, pointers: &[String], to: &Value) -> Value {
        for pointer in pointers {
            let Some((outside, key)) = pointer.rsplit_once('/') else { return to.clone() };
            let key = key.replace("~1", "/").replace("~0", "~");
            let members = value.pointer_mut(outside).unwrap().as_object_mut().unwrap();
            match to.pointer(pointer) {
                Some(new) => drop(members.insert(key, new.clone())),
                None => drop(members.remove(&key)),
            }
        }
        value
    }

    fn overlap(one: &str, other: &str) -> bool {
        let within = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        within(one, other) || within(other, one)
    }

    proptest! {
        #[test]
        fn a_difference_applied_gives_the_other((one, other, _) in edits(), third in value()) {
            for (from, to) in [(&one, &other), (&other, &one), (&one, &third)] {
                let pointers = differences(from, to);
                prop_assert_eq!(&apply(from.clone(), &pointers, to), to);
                prop_assert_eq!(pointers.is_empty(), from == to);
            }
        }

        #[test]
        fn an_edit_of_one_side_alone_is_taken((base, edited, _) in edits(), other in value()) {
            for edited in [&edited, &other] {
                prop_assert_eq!(merge(&base, &base, edited), Ok(edited.clone()));
                prop_assert_eq!(merge(&base, edited, &base), Ok(edited.clone()));
                prop_assert_eq!(merge(&base, edited, edited), Ok(edited.clone()));
            }
        }

        #[test]
        fn a_merge_has_both_edits_or_tells_where_they_overlap((base, ours, theirs) in edits()) {
            let merged = merge(&base, &ours, &theirs);
            prop_assert_eq!(&merged, &merge(&base, &theirs, &ours));
            let (left, right) = (differences(&base, &ours), differences(&base, &theirs));
            let clash = |one: &&String| right.iter().any(|other| {
                overlap(one, other) && (*one != other || ours.pointer(one) != theirs.pointer(one))
            });
            let clashes: Vec<_> = left.iter().filter(clash).collect();
            match merged {
                Ok(merged) => {
                    prop_assert!(clashes.is_empty(), "{clashes:?}");
                    let expected = apply(apply(base, &left, &ours), &right, &theirs);
                    prop_assert_eq!(merged, expected);
                }
                Err(told) => {
                    prop_assert_eq!(told.is_empty(), clashes.is_empty());
                    prop_assert!(told.iter().all(|at| clashes.iter().any(|one| overlap(one, at))));
                }
            }
        }
    }

    #[test]
    fn arrays_are_one_piece() {
        let (base, ours, theirs) = (json!({"l": [1, 2]}), json!({"l": [1]}), json!({"l": [2]}));
        assert_eq!(differences(&base, &ours), ["/l"]);
        assert_eq!(merge(&base, &ours, &theirs), Err(vec!["/l".to_owned()]));
    }

    #[test]
    fn deleting_what_the_other_side_edits_overlaps() {
        let (base, ours, theirs) = (json!({"a": {"b": 1}}), json!({}), json!({"a": {"b": 2}}));
        assert_eq!(merge(&base, &ours, &theirs), Err(vec!["/a".to_owned()]));
        let untouched = json!({"a": {"b": 1}, "c": 1});
        assert_eq!(merge(&base, &ours, &untouched), Ok(json!({"c": 1})));
    }

    #[test]
    fn g12_deep_wide_and_long_named_values_take_no_more_than_they_may() {
        let around = |inner, _| Value::Object(Map::from_iter([("a".to_owned(), inner)]));
        let deep = |end: u8| (0..5_000).fold(json!(end), around);
        let told = differences(&deep(0), &deep(1));
        assert_eq!(told, ["/a".repeat(DEPTH_MAX)]);
        assert_eq!(merge(&deep(0), &deep(1), &deep(2)), Err(told));
        assert_eq!(merge(&deep(0), &deep(1), &deep(0)), Ok(deep(1)));
        let wide = |end: u32| (0..1_000).map(|n| (format!("m{n}"), json!(n + end))).collect();
        let (from, to) = (Value::Object(wide(0)), Value::Object(wide(1)));
        assert_eq!(differences(&from, &to).len(), POINTERS_MAX);
        let long = |end: u8| json!({"a": {"n".repeat(2_000): {"b": end, "c": end}}});
        assert_eq!(differences(&long(0), &long(1)), ["/a"]);
    }
}
