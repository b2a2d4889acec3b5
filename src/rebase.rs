//! What a conflict can tell from the version that the refused write was based on: what changed
//! since then, and the write's own edit on top of it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::codec::{Codec, checked_json};
use crate::conflict::Conflict;
use crate::entity::Record;
use crate::merge::{differences, merge};
use crate::version::Version;

/// The entity that a refused write was based on and the current one, of a type that is not named.
pub(crate) trait Basis: Any + Send + Sync {
    /// Where they differ; `None` if the values have no JSON form.
    fn changed(&self) -> Option<Vec<String>>;
}

/// The same of a type that is known.
pub(crate) struct Based<V> {
    pub(crate) base: Arc<Record<V>>,
    pub(crate) current: Arc<Record<V>>,
    pub(crate) codec: Arc<dyn Codec<V>>,
}

impl<V: Send + Sync + 'static> Basis for Based<V> {
    fn changed(&self) -> Option<Vec<String>> {
        let base = self.codec.to_json(&self.base.value)?;
        Some(differences(&base, &self.codec.to_json(&self.current.value)?))
    }
}

impl<V: 'static> Based<V> {
    /// The current value with the edit that led from the base to `proposed`.
    ///
    /// # Errors
    /// [`RebaseError::NoJson`] and [`RebaseError::Overlap`].
    pub(crate) fn merge(&self, proposed: &V) -> Result<V, RebaseError> {
        let json = |value: &V| checked_json(&*self.codec, value).map_err(RebaseError::NoJson);
        let (base, current) = (json(&self.base.value)?, json(&self.current.value)?);
        let merged = merge(&base, &current, &json(proposed)?).map_err(RebaseError::Overlap)?;
        let value = self.codec.read_json(merged.clone()).map_err(RebaseError::NoJson)?;
        match json(&value)? == merged {
            true => Ok(value),
            false => Err(RebaseError::NoJson("what was merged reads as something else".to_owned())),
        }
    }
}

/// Why a conflict could not be resolved by merging. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebaseError {
    /// The write named no single version, or the collection does not keep that one any more; see
    /// [`CollectionBuilder::history`](crate::CollectionBuilder::history).
    NoBase,
    /// The type asked for is not that of the collection's values.
    Type,
    /// A value cannot go through JSON and come back as it was; says why.
    NoJson(String),
    /// Both sides changed these places, and not alike: JSON Pointers (RFC 6901), at most 100. The
    /// empty one is the whole value: it is so, too, if one side deleted the entity.
    Overlap(Vec<String>),
}

impl Conflict {
    /// Where the current value differs from the one that the write was based on: JSON Pointers
    /// (RFC 6901) such as `/status`, in order. `None` if the condition did not name one version,
    /// or the collection does not [keep](crate::CollectionBuilder::history) that one any more, or
    /// the values have no JSON form.
    ///
    /// Objects, which structs and maps are, are compared member by member; everything else is one
    /// piece, lists included. At most 100 places are told, none with more than 1,024 bytes: what
    /// lies deeper is told by what it lies in. Computed anew by each call, and when the conflict
    /// is printed.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.declare::<String, BTreeMap<String, u32>>("shifts").history(8).open()?;
    /// let shift = |hours, pay| BTreeMap::from([("hours".into(), hours), ("pay".into(), pay)]);
    /// let v1 = shifts.create("s-17", shift(6, 90)).commit()?.version();
    /// shifts.put("s-17", shift(8, 90)).if_match(v1).commit()?;
    /// let error = shifts.put("s-17", shift(6, 99)).if_match(v1).commit().unwrap_err();
    /// let changed = error.conflict().unwrap().changed();
    /// assert_eq!(changed, Some(vec!["/hours".to_owned()]));
    /// # Ok::<(), ifmatch::Error>(())
    /// ```
    pub fn changed(&self) -> Option<Vec<String>> {
        self.basis.as_ref()?.changed()
    }

    /// Puts the refused edit on top of what the others wrote: the merge of the value that the
    /// write was based on, the current one and the proposed one, and the version that it is to
    /// replace. Nothing is written; see [`Write::merge`](crate::Write::merge) for that.
    ///
    /// Objects are merged member by member, everything else is one piece, lists included. Edits
    /// overlap where both sides changed the same piece, unless they changed it alike; deleting
    /// overlaps with editing. The values go through JSON on the way: what comes back as something
    /// else, such as a NaN within an `Option`, is not merged.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// let store = ifmatch::Store::in_memory();
    /// let shifts = store.declare::<String, BTreeMap<String, u32>>("shifts").history(8).open()?;
    /// let shift = |hours, pay| BTreeMap::from([("hours".into(), hours), ("pay".into(), pay)]);
    /// let v1 = shifts.create("s-17", shift(6, 90)).commit()?.version();
    /// shifts.put("s-17", shift(8, 90)).if_match(v1).commit()?;
    /// let error = shifts.put("s-17", shift(6, 99)).if_match(v1).commit().unwrap_err();
    /// let (merged, version) = error.conflict().unwrap().rebase::<BTreeMap<_, _>>()?;
    /// assert_eq!(merged, shift(8, 99));
    /// shifts.put("s-17", merged).if_match(version).commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Why they cannot be merged.
    pub fn rebase<V: Send + Sync + 'static>(&self) -> Result<(V, Version), RebaseError> {
        let whole = || RebaseError::Overlap(vec![String::new()]);
        let proposed: &dyn Any = self.proposed.as_deref().ok_or_else(whole)?;
        let proposed = proposed.downcast_ref::<V>().ok_or(RebaseError::Type)?;
        let version = self.current_version().ok_or_else(whole)?;
        let basis: &dyn Any = self.basis.as_deref().ok_or(RebaseError::NoBase)?;
        let based = basis.downcast_ref::<Based<V>>().ok_or(RebaseError::Type)?;
        Ok((based.merge(proposed)?, version))
    }
}

impl fmt::Display for RebaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebaseError::NoBase => f.write_str(
                "the version that the write was based on is not known; read the entity again, or \
                 let the collection keep more history",
            ),
            RebaseError::Type => f.write_str(
                "the values of the collection are of another type; ask for the one it was opened \
                 with",
            ),
            RebaseError::NoJson(detail) => write!(
                f,
                "the values cannot be merged, because they cannot go through JSON: {detail}; \
                 read the entity again and retry"
            ),
            RebaseError::Overlap(pointers) => {
                f.write_str("both sides changed ")?;
                say_places(f, pointers)?;
                f.write_str("; read the entity again and decide anew")
            }
        }
    }
}

impl std::error::Error for RebaseError {}

/// So many places are printed, and so much of each.
const PRINTED: usize = 3;
const PRINTED_CHARS: usize = 64;

/// `/a`, `/a and /b`, `/a, /b, /c and 2 more fields`; the whole value is `it`.
pub(crate) fn say_places(f: &mut fmt::Formatter<'_>, pointers: &[String]) -> fmt::Result {
    let all = pointers.len();
    let printed = pointers.get(..PRINTED).unwrap_or(pointers);
    if printed.iter().all(String::is_empty) {
        return f.write_str("it");
    }
    for (place, pointer) in printed.iter().enumerate() {
        f.write_str(match place {
            0 => "",
            _ if place + 1 == all => " and ",
            _ => ", ",
        })?;
        // Names of members may be anything: one line, and not too long a one.
        let mut characters = pointer.escape_debug();
        characters.by_ref().take(PRINTED_CHARS).try_for_each(|c| write!(f, "{c}"))?;
        if characters.next().is_some() {
            f.write_str("…")?;
        }
    }
    match all - printed.len() {
        0 => Ok(()),
        1 => f.write_str(" and 1 more field"),
        more if all < crate::merge::POINTERS_MAX => write!(f, " and {more} more fields"),
        more => write!(f, " and at least {more} more fields"),
    }
}
