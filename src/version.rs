//! Versions, lineages and the entity tags made of both.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The number of the commit that wrote an entity.
///
/// Versions grow over the whole store, not per key, and are never given out twice (G2): a key
/// that is deleted and created again gets a version that it never had before.
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// let users = store.collection::<String, u32>("users")?;
/// let first = users.create("ann", 1).commit()?.version();
/// users.delete("ann").if_match(first).commit()?;
/// let second = users.create("ann", 1).commit()?.version();
/// assert!(second > first);
/// # Ok::<(), ifmatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(NonZeroU64);

impl Version {
    pub(crate) const FIRST: Version = Version(NonZeroU64::MIN);

    /// The version of this number; `None` for zero, which no commit has.
    pub const fn new(number: u64) -> Option<Version> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Version(number)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of one unbroken history of commits: 64 random bits.
///
/// A store in memory has a new one each time; a durable store keeps its own for life, and a
/// restored copy gets a new one. Versions of different lineages say nothing about each other.
/// Printed as 13 characters of lower-case base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lineage(u64);

/// RFC 4648 section 6, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const LINEAGE_CHARS: usize = 13;

impl Lineage {
    pub(crate) const fn from_bits(bits: u64) -> Lineage {
        Lineage(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..LINEAGE_CHARS).rev() {
            let digit = (self.0 >> (5 * place)) & 31;
            let letter = BASE32.get(digit as usize).copied().unwrap_or(b'?');
            fmt::Write::write_char(f, char::from(letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({self})")
    }
}

impl FromStr for Lineage {
    type Err = NotATag;

    fn from_str(text: &str) -> Result<Lineage, NotATag> {
        if text.len() != LINEAGE_CHARS {
            return Err(NotATag);
        }
        let mut bits: u64 = 0;
        for letter in text.bytes() {
            let digit = BASE32.iter().position(|known| *known == letter).ok_or(NotATag)? as u64;
            // 13 characters hold 65 bits: the first one may only be `a` to `p`.
            bits = bits.checked_mul(32).ok_or(NotATag)? | digit;
        }
        Ok(Lineage(bits))
    }
}

/// The strong HTTP validator of an entity: `"<lineage>-<version>"`, quotes included.
///
/// One tag names one content for ever (G2), so comparing tags cannot be fooled by a delete and
/// re-create, a restart or a restored backup.
///
/// ```
/// use ifmatch::EntityTag;
///
/// let tag: EntityTag = "\"aaaaaaaaaaaab-17\"".parse()?;
/// assert_eq!(tag.version.get(), 17);
/// assert_eq!(tag.to_string(), "\"aaaaaaaaaaaab-17\"");
/// # Ok::<(), ifmatch::NotATag>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntityTag {
    /// The history that the version belongs to.
    pub lineage: Lineage,
    /// The version of the entity.
    pub version: Version,
}

impl EntityTag {
    /// Reads what stands between the quotes of a tag. `None` if this crate did not print it.
    pub fn from_opaque(opaque: &str) -> Option<EntityTag> {
        let (lineage, version) = opaque.split_once('-')?;
        let canonical = !version.starts_with(['0', '+']);
        let version = version.parse().ok().filter(|_| canonical).and_then(Version::new)?;
        Some(EntityTag { lineage: lineage.parse().ok()?, version })
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}-{}\"", self.lineage, self.version)
    }
}

impl FromStr for EntityTag {
    type Err = NotATag;

    fn from_str(text: &str) -> Result<EntityTag, NotATag> {
        let opaque = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        opaque.and_then(EntityTag::from_opaque).ok_or(NotATag)
    }
}

/// A place in the history of a store: behind all commits up to a version.
///
/// A reader of the [change feed](crate::feed) that keeps its cursor goes on from there, in another
/// process too. Prints as `<lineage>-<version>`, and parses back.
///
/// ```
/// use ifmatch::Cursor;
///
/// let cursor: Cursor = "aaaaaaaaaaaab-17".parse()?;
/// assert_eq!((cursor.version, cursor.to_string().as_str()), (17, "aaaaaaaaaaaab-17"));
/// # Ok::<(), ifmatch::NotATag>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The history.
    pub lineage: Lineage,
    /// The last version before the place; zero if there is none.
    pub version: u64,
}

impl From<EntityTag> for Cursor {
    /// The place behind the commit that wrote an entity.
    fn from(tag: EntityTag) -> Cursor {
        Cursor { lineage: tag.lineage, version: tag.version.get() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lineage, self.version)
    }
}

impl FromStr for Cursor {
    type Err = NotATag;

    fn from_str(text: &str) -> Result<Cursor, NotATag> {
        if let Some(lineage) = text.strip_suffix("-0") {
            return Ok(Cursor { lineage: lineage.parse()?, version: 0 });
        }
        EntityTag::from_opaque(text).map(Cursor::from).ok_or(NotATag)
    }
}

/// The text is no entity tag, cursor or lineage that this crate printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATag;

impl fmt::Display for NotATag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not of this store: its tags and cursors read <13 characters>-<number>")
    }
}

impl std::error::Error for NotATag {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tag_reads_back_as_printed(bits: u64, number in 1u64..) {
            let version = Version::new(number).unwrap();
            let tag = EntityTag { lineage: Lineage::from_bits(bits), version };
            prop_assert_eq!(tag.to_string().parse(), Ok(tag));
        }

        #[test]
        fn a_cursor_reads_back_as_printed(bits: u64, version: u64) {
            let cursor = Cursor { lineage: Lineage::from_bits(bits), version };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn only_the_printed_form_is_a_cursor(text in "[a-z2-7]{12,14}-[+0-9]{0,3}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn only_the_printed_form_is_a_tag(text in "\"?[a-z2-7]{12,14}-[+0-9]{1,3}\"?") {
            if let Ok(tag) = text.parse::<EntityTag>() {
                prop_assert_eq!(tag.to_string(), text);
            }
        }
    }

    #[test]
    fn a_lineage_above_64_bits_is_refused() {
        assert_eq!("qaaaaaaaaaaaa".parse::<Lineage>(), Err(NotATag));
        assert_eq!("p777777777777".parse::<Lineage>(), Ok(Lineage::from_bits(u64::MAX)));
    }
}
