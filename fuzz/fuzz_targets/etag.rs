//! Conditional requests of any bytes: parsing never panics, and what parsed means what was sent.

#![no_main]

use std::sync::LazyLock;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, header};
use ifmatch::http::{Conditions, TagList, Verdict};
use ifmatch::{Entity, EntityTag, Lineage, Store};
use libfuzzer_sys::fuzz_target;

/// The headers that a line may belong to, chosen by its first byte.
const HEADERS: [HeaderName; 4] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Some entity at version 1. Its lineage is random, so inputs bring their own.
static ENTITY: LazyLock<Entity<u8>> = LazyLock::new(|| {
    let seats = Store::in_memory().collection::<u64, u8>("seats").expect("a new collection");
    seats.create(1, 1).commit().expect("nothing is there").into_entity()
});

// Lines end where no header may contain anything.
fuzz_target!(|data: &[u8]| {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    if let Ok(list) = TagList::parse(lines.iter().copied()) {
        check_list(&lines, &list);
    }
    check_conditions(&lines);
});

fn check_list(lines: &[&[u8]], list: &TagList) {
    let quotes = lines.iter().flat_map(|line| line.iter()).filter(|byte| **byte == b'"').count();
    assert_eq!(list.tags().len() * 2, quotes, "a tag was lost or made up");
    // Several lines of a header mean the same as one line with commas (RFC 9110 section 5.3).
    assert_eq!(TagList::parse([&*lines.join(&b',')]).as_ref(), Ok(list));
    if lines.iter().all(|line| str::from_utf8(line).is_ok()) {
        assert_eq!(TagList::parse([list.to_string().as_bytes()]).as_ref(), Ok(list));
    }
    for tag in list.tags() {
        let Some(ours) = tag.entity_tag() else { continue };
        assert_eq!(ours.to_string(), tag.to_string().trim_start_matches("W/"));
        assert_eq!(ours.to_string().parse::<EntityTag>(), Ok(ours));
        assert!(list.weak_match(&ours));
        assert_eq!(tag.strong_match(&ours), !tag.is_weak());
    }
}

fn check_conditions(lines: &[&[u8]]) {
    let mut headers = HeaderMap::new();
    for (first, value) in lines.iter().filter_map(|line| line.split_first()) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HEADERS[usize::from(first % 4)].clone(), value);
        }
    }
    let Ok(conditions) = Conditions::parse(&headers) else { return };
    let named = [&conditions.if_match, &conditions.if_none_match].into_iter().flatten();
    let tags = named.flat_map(|list| list.tags()).filter_map(|tag| tag.entity_tag());
    let lineages: Vec<Lineage> = tags.map(|tag| tag.lineage).take(4).collect();
    for lineage in lineages {
        for current in [None, Some(ENTITY.metadata())] {
            let wanted = conditions.preconditions(lineage);
            let holds = wanted.iter().all(|condition| condition.holds(current));
            let write = conditions.evaluate(&Method::PUT, lineage, current);
            assert_eq!(write == Verdict::Proceed, holds, "{conditions:?}");
            let read = conditions.evaluate(&Method::GET, lineage, current);
            assert!(current.is_some() || read == Verdict::Proceed, "{conditions:?}");
        }
    }
}
