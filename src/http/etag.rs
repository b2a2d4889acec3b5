//! Entity tags as requests send them: the field values of `If-Match` and `If-None-Match`.

use std::fmt;

use crate::version::{EntityTag, Lineage, Version};

/// The value of `If-Match` or `If-None-Match`: `*`, or a list of tags.
///
/// ```
/// use ifmatch::http::TagList;
///
/// let list = TagList::parse([br#""a,b", , W/"c""#.as_slice()])?;
/// assert_eq!(list.to_string(), r#""a,b", W/"c""#);
/// assert_eq!(TagList::parse([b"*".as_slice()])?, TagList::Any);
/// assert!(TagList::parse([b"unquoted".as_slice()]).is_err());
/// # Ok::<(), ifmatch::http::MalformedTags>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagList {
    /// `*`: whatever representation is there.
    Any,
    /// The tags, in the order in which they came; at least one.
    Tags(Vec<RequestTag>),
}

/// One tag of a request, weak or strong, of this store or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTag {
    weak: bool,
    /// What stands between the quotes. Not always UTF-8: RFC 9110 allows obs-text.
    opaque: Box<[u8]>,
}

/// Why a field value is no list of entity tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MalformedTags {
    /// `*` stands beside something else.
    AnyNotAlone,
    /// There is no tag.
    Empty,
    /// A tag does not begin with a quote, or something follows its end.
    Unquoted,
    /// A tag has no closing quote.
    Unterminated,
    /// A space or a control character stands within the quotes.
    Character,
    /// More tags than [`TagList::MOST`].
    TooMany,
}

impl TagList {
    /// The most tags that one list may hold.
    pub const MOST: usize = 1_000;

    /// Reads the field lines of one header (RFC 9110 sections 5.3, 8.8.3 and 13.1.1).
    ///
    /// Empty elements are skipped, as section 5.6.1.2 wants it. A list of nothing else is
    /// refused, although the grammar allows it: an `If-None-Match` without tags would hold for
    /// any entity, and a write that sends it would overwrite blindly.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<TagList, MalformedTags> {
        let (mut any, mut lines_seen, mut tags) = (false, 0_usize, Vec::new());
        for line in lines {
            lines_seen = lines_seen.saturating_add(1);
            if line.trim_ascii() == b"*" {
                any = true;
            } else {
                parse_line(line, &mut tags)?;
            }
        }
        match (any, tags.is_empty()) {
            (true, true) if lines_seen == 1 => Ok(TagList::Any),
            (true, _) => Err(MalformedTags::AnyNotAlone),
            (false, true) => Err(MalformedTags::Empty),
            (false, false) => Ok(TagList::Tags(tags)),
        }
    }

    /// The tags; empty for `*`.
    pub fn tags(&self) -> &[RequestTag] {
        match self {
            TagList::Any => &[],
            TagList::Tags(tags) => tags,
        }
    }

    /// Whether `*` or one of the tags is `current`, by strong comparison.
    pub fn strong_match(&self, current: &EntityTag) -> bool {
        *self == TagList::Any || self.tags().iter().any(|tag| tag.strong_match(current))
    }

    /// Whether `*` or one of the tags is `current`, by weak comparison.
    pub fn weak_match(&self, current: &EntityTag) -> bool {
        *self == TagList::Any || self.tags().iter().any(|tag| tag.weak_match(current))
    }
}

impl RequestTag {
    /// Whether the tag is weak: `W/"…"`.
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// Strong comparison (RFC 9110 section 8.8.3.2): both are strong, and equal byte by byte.
    pub fn strong_match(&self, current: &EntityTag) -> bool {
        !self.weak && self.weak_match(current)
    }

    /// Weak comparison (RFC 9110 section 8.8.3.2): equal byte by byte, weak or not.
    pub fn weak_match(&self, current: &EntityTag) -> bool {
        self.entity_tag() == Some(*current)
    }

    /// The tag as one that a store gave out, weak or not. `None` if no store did.
    pub fn entity_tag(&self) -> Option<EntityTag> {
        EntityTag::from_opaque(std::str::from_utf8(&self.opaque).ok()?)
    }

    /// The version that the tag names in this lineage, weak or not.
    pub fn version_in(&self, lineage: Lineage) -> Option<Version> {
        self.entity_tag().filter(|tag| tag.lineage == lineage).map(|tag| tag.version)
    }
}

/// Reads one field line: elements between commas, any of which may be empty.
fn parse_line(line: &[u8], tags: &mut Vec<RequestTag>) -> Result<(), MalformedTags> {
    let mut rest = line;
    loop {
        rest = skip_space(rest);
        match rest.split_first() {
            None => return Ok(()),
            Some((b',', after)) => rest = after,
            Some(_) => {
                let (tag, after) = parse_tag(rest)?;
                if tags.len() >= TagList::MOST {
                    return Err(MalformedTags::TooMany);
                }
                tags.push(tag);
                rest = skip_space(after);
                if !matches!(rest.first(), None | Some(b',')) {
                    return Err(MalformedTags::Unquoted);
                }
            }
        }
    }
}

/// `[ "W/" ] DQUOTE *etagc DQUOTE`, and what follows. `W` is case-sensitive.
fn parse_tag(bytes: &[u8]) -> Result<(RequestTag, &[u8]), MalformedTags> {
    let (weak, quoted) = match bytes.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, bytes),
    };
    let inside = match quoted.split_first() {
        Some((b'"', inside)) => inside,
        _ if bytes.starts_with(b"*") => return Err(MalformedTags::AnyNotAlone),
        _ => return Err(MalformedTags::Unquoted),
    };
    let end = inside.iter().position(|byte| *byte == b'"').ok_or(MalformedTags::Unterminated)?;
    let (opaque, after) = inside.split_at(end);
    if !opaque.iter().all(is_etagc) {
        return Err(MalformedTags::Character);
    }
    Ok((RequestTag { weak, opaque: opaque.into() }, after.get(1..).unwrap_or_default()))
}

/// `etagc` of RFC 9110 section 8.8.3: visible, no quote, or obs-text.
fn is_etagc(byte: &u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff)
}

/// Skips optional whitespace: spaces and tabs.
fn skip_space(mut bytes: &[u8]) -> &[u8] {
    while let Some((b' ' | b'\t', rest)) = bytes.split_first() {
        bytes = rest;
    }
    bytes
}

impl fmt::Display for TagList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == TagList::Any {
            return f.write_str("*");
        }
        for (place, tag) in self.tags().iter().enumerate() {
            write!(f, "{}{tag}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// As it was sent; bytes that are not UTF-8 print as replacement characters.
impl fmt::Display for RequestTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weak = if self.weak { "W/" } else { "" };
        write!(f, "{weak}\"{}\"", String::from_utf8_lossy(&self.opaque))
    }
}

impl From<EntityTag> for RequestTag {
    fn from(tag: EntityTag) -> RequestTag {
        let quoted = tag.to_string();
        RequestTag { weak: false, opaque: quoted.trim_matches('"').as_bytes().into() }
    }
}

impl fmt::Display for MalformedTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MalformedTags::AnyNotAlone => "`*` has to stand alone",
            MalformedTags::Empty => "it names no entity tag; send one, or `*`",
            MalformedTags::Unquoted => "an entity tag is written in double quotes: \"tag\"",
            MalformedTags::Unterminated => "an entity tag lacks its closing quote",
            MalformedTags::Character => "an entity tag holds a space or a control character",
            MalformedTags::TooMany => "it names more than 1,000 entity tags",
        })
    }
}

impl std::error::Error for MalformedTags {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(value: &str) -> Result<TagList, MalformedTags> {
        TagList::parse([value.as_bytes()])
    }

    fn count(value: &str) -> usize {
        parse(value).unwrap().tags().len()
    }

    #[test]
    fn lists_parse_as_the_grammar_says() {
        assert_eq!(count(r#""a""#), 1);
        assert_eq!(count(r#""a,b" ,	W/"c","""#), 3);
        assert_eq!(count(r#" , "a",, "b", "#), 2);
        assert_eq!(parse(" * "), Ok(TagList::Any));
        let lines = [b"\"a\"".as_slice(), b"", b"W/\"\\\", \"\xff\""];
        assert_eq!(TagList::parse(lines).unwrap().tags().len(), 3);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        use MalformedTags::*;
        for (value, error) in [
            (r#"*,"x""#, AnyNotAlone),
            (r#""x",*"#, AnyNotAlone),
            ("*,", AnyNotAlone),
            ("", Empty),
            (" , ,", Empty),
            ("x", Unquoted),
            (r#"w/"x""#, Unquoted),
            (r#"W/x"#, Unquoted),
            (r#"W/ "x""#, Unquoted),
            (r#""x"y"#, Unquoted),
            (r#""x" "y""#, Unquoted),
            (r#""x"#, Unterminated),
            (r#""x", ""#, Unterminated),
            (r#""a b""#, Character),
        ] {
            assert_eq!(parse(value), Err(error), "{value}");
        }
        let two_lines = [b"*".as_slice(), b"*"];
        assert_eq!(TagList::parse(two_lines), Err(AnyNotAlone));
        assert_eq!(TagList::parse([]), Err(Empty));
    }

    #[test]
    fn g12_the_number_of_tags_is_bounded() {
        assert_eq!(count(&r#""x","#.repeat(TagList::MOST)), TagList::MOST);
        assert_eq!(parse(&r#""x","#.repeat(TagList::MOST + 1)), Err(MalformedTags::TooMany));
    }

    #[test]
    fn a_weak_tag_matches_weakly_only() {
        let tag = EntityTag { lineage: Lineage::from_bits(7), version: Version::FIRST };
        let (strong, weak) = (parse(&tag.to_string()), parse(&format!("W/{tag}")));
        let (strong, weak) = (strong.unwrap(), weak.unwrap());
        assert!(strong.strong_match(&tag) && strong.weak_match(&tag));
        assert!(!weak.strong_match(&tag) && weak.weak_match(&tag));
        assert_eq!(strong.tags(), [RequestTag::from(tag)]);
    }

    prop_compose! {
        fn any_tag()(weak: bool, opaque in "[!#-~é]{0,20}") -> RequestTag {
            RequestTag { weak, opaque: opaque.as_bytes().into() }
        }
    }

    proptest! {
        #[test]
        fn a_list_reads_back_as_printed(tags in proptest::collection::vec(any_tag(), 1..8)) {
            let list = TagList::Tags(tags);
            prop_assert_eq!(parse(&list.to_string()), Ok(list));
        }

        #[test]
        fn no_bytes_make_parsing_panic(lines: Vec<Vec<u8>>) {
            let _ = TagList::parse(lines.iter().map(Vec::as_slice));
        }

        #[test]
        fn near_misses_neither_panic_nor_lose_tags(value in r#"[*W/", \tab]{0,12}"#) {
            if let Ok(TagList::Tags(tags)) = parse(&value) {
                let quotes = value.bytes().filter(|byte| *byte == b'"').count();
                prop_assert_eq!(tags.len() * 2, quotes);
            }
        }
    }
}
