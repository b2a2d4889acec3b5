//! Conditional requests: the conditions of a request, and what they decide.

use std::fmt;
use std::time::SystemTime;

use ::http::Method;
use ::http::header::{self, HeaderMap, HeaderName};

use super::etag::{MalformedTags, TagList};
use super::problem::Problem;
use crate::entity::Metadata;
use crate::precondition::{Precondition, decide};
use crate::version::{EntityTag, Lineage, Version};
use crate::write::{Unconditioned, Write};

/// The conditional headers of one request (RFC 9110 section 13.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<TagList>,
    /// `If-None-Match`.
    pub if_none_match: Option<TagList>,
    /// `If-Modified-Since`; `None` if it is no date.
    pub if_modified_since: Option<SystemTime>,
    /// `If-Unmodified-Since`; `None` if it is no date.
    pub if_unmodified_since: Option<SystemTime>,
}

/// What the conditions of a request decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do what the method says.
    Proceed,
    /// Answer 304 with the current tag and no body.
    NotModified,
    /// Refuse: 412, or what the server answers to lost races.
    PreconditionFailed,
}

/// `If-Match` or `If-None-Match` is no list of entity tags: answer 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedCondition {
    /// Which header.
    pub header: HeaderName,
    /// What is wrong with it.
    pub cause: MalformedTags,
}

impl Conditions {
    /// Reads the conditions of a request. A date that is none, or is sent twice, is ignored, as
    /// RFC 9110 sections 13.1.3 and 13.1.4 want it.
    ///
    /// # Errors
    /// The header that is no list of entity tags.
    ///
    /// ```
    /// use http::header::{HeaderMap, IF_NONE_MATCH};
    /// use ifmatch::http::{Conditions, TagList};
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert(IF_NONE_MATCH, "*".parse()?);
    /// assert_eq!(Conditions::parse(&headers)?.if_none_match, Some(TagList::Any));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(headers: &HeaderMap) -> Result<Conditions, MalformedCondition> {
        Ok(Conditions {
            if_match: parse_tags(headers, header::IF_MATCH)?,
            if_none_match: parse_tags(headers, header::IF_NONE_MATCH)?,
            if_modified_since: parse_date(headers, &header::IF_MODIFIED_SINCE),
            if_unmodified_since: parse_date(headers, &header::IF_UNMODIFIED_SINCE),
        })
    }

    /// Decides a request on an entity, in the order of RFC 9110 section 13.2.2.
    ///
    /// A read or a delete of an absent entity proceeds: without conditions its answer would be
    /// 404, so that section 13.2.1 ignores them. So do methods that select no representation,
    /// like `OPTIONS`. A write should rather hand [`preconditions`](Self::preconditions) to the
    /// store, which decides them at the instant the write takes effect.
    pub fn evaluate(
        &self,
        method: &Method,
        lineage: Lineage,
        current: Option<&Metadata>,
    ) -> Verdict {
        match *method {
            Method::GET | Method::HEAD => match current {
                Some(current) => self.evaluate_read(lineage, current),
                None => Verdict::Proceed,
            },
            Method::DELETE if current.is_none() => Verdict::Proceed,
            Method::PUT | Method::POST | Method::PATCH | Method::DELETE
                if decide(&self.preconditions(lineage), current).is_err() =>
            {
                Verdict::PreconditionFailed
            }
            _ => Verdict::Proceed,
        }
    }

    fn evaluate_read(&self, lineage: Lineage, current: &Metadata) -> Verdict {
        if decide(&self.of_source(lineage), Some(current)).is_err() {
            return Verdict::PreconditionFailed;
        }
        let tag = EntityTag { lineage, version: current.version() };
        let unmodified = match (&self.if_none_match, self.if_modified_since) {
            (Some(none), _) => none.weak_match(&tag),
            // The same rule for seconds that saw two versions as for writes.
            (None, Some(time)) => Precondition::UnmodifiedSince(time).holds(Some(current)),
            (None, None) => false,
        };
        if unmodified { Verdict::NotModified } else { Verdict::Proceed }
    }

    /// What a write relies on, in the order of RFC 9110 section 13.2.2; empty if the request
    /// names no condition that applies to writes. A server should answer that with 428.
    ///
    /// Weak tags and tags of another lineage never match an `If-Match`: of a list of only such
    /// tags remains an empty one, which no entity satisfies.
    pub fn preconditions(&self, lineage: Lineage) -> Vec<Precondition> {
        let mut list = self.of_source(lineage);
        list.extend(self.if_none_match.as_ref().map(|none| match none {
            TagList::Any => Precondition::Absent,
            TagList::Tags(_) => Precondition::MatchesNone(versions(none, lineage, true)),
        }));
        list
    }

    /// Steps 1 and 2: `If-Match`, or else `If-Unmodified-Since`.
    fn of_source(&self, lineage: Lineage) -> Vec<Precondition> {
        let first = match (&self.if_match, self.if_unmodified_since) {
            (Some(TagList::Any), _) => Some(Precondition::Exists),
            (Some(tags), _) => Some(Precondition::MatchesAny(versions(tags, lineage, false))),
            (None, Some(time)) => Some(Precondition::UnmodifiedSince(time)),
            (None, None) => None,
        };
        first.into_iter().collect()
    }
}

impl<'a, K, V, O> Write<'a, K, V, O, Unconditioned> {
    /// Under what the headers of a request say.
    ///
    /// ```
    /// use ifmatch::axum::{Refusal, Tagged};
    /// use ifmatch::{Collection, http::Conditions};
    ///
    /// async fn replace(
    ///     rooms: Collection<String, u32>,
    ///     seats: u32,
    ///     conditions: Conditions,
    /// ) -> Result<Tagged<u32>, Refusal> {
    ///     let written = rooms.put("r-1", seats).conditions(&conditions)?.await?;
    ///     Ok(Tagged::written(&rooms, &written))
    /// }
    /// ```
    ///
    /// # Errors
    /// 428 if they name no condition that applies to writes (G6).
    pub fn conditions(self, conditions: &Conditions) -> Result<Write<'a, K, V, O>, Problem> {
        let list = conditions.preconditions(self.request.store.lineage);
        self.under(list)
    }

    /// Under all of these.
    ///
    /// # Errors
    /// 428 if there are none.
    pub(crate) fn under(self, list: Vec<Precondition>) -> Result<Write<'a, K, V, O>, Problem> {
        let mut list = list.into_iter();
        let first = list.next().ok_or_else(Problem::precondition_required)?;
        Ok(list.fold(self.condition(first), Write::condition))
    }
}

/// The versions of this lineage that the tags name.
fn versions(list: &TagList, lineage: Lineage, weak: bool) -> Vec<Version> {
    let tags = list.tags().iter().filter(|tag| weak || !tag.is_weak());
    tags.filter_map(|tag| tag.version_in(lineage)).collect()
}

fn parse_tags(
    headers: &HeaderMap,
    header: HeaderName,
) -> Result<Option<TagList>, MalformedCondition> {
    if !headers.contains_key(&header) {
        return Ok(None);
    }
    let lines = headers.get_all(&header).into_iter().map(|value| value.as_bytes());
    match TagList::parse(lines) {
        Ok(list) => Ok(Some(list)),
        Err(cause) => Err(MalformedCondition { header, cause }),
    }
}

fn parse_date(headers: &HeaderMap, header: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(header).into_iter();
    let only = lines.next().filter(|_| lines.next().is_none())?;
    httpdate::parse_http_date(only.to_str().ok()?).ok()
}

impl fmt::Display for MalformedCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Header names are kept in lower case; people know them in this form.
        let header = if self.header == header::IF_MATCH { "If-Match" } else { "If-None-Match" };
        write!(f, "{header} is malformed: {}", self.cause)
    }
}

impl std::error::Error for MalformedCondition {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use ::http::HeaderValue;
    use proptest::prelude::*;

    const L: Lineage = Lineage::from_bits(9);
    /// 2001-09-09T01:46:40.5Z
    const WRITTEN: u64 = 1_000_000_000_500_000;
    const BEFORE: &str = "Sun, 09 Sep 2001 01:46:39 GMT";
    const SAME: &str = "Sun, 09 Sep 2001 01:46:40 GMT";
    const AFTER: &str = "Fri, 01 Jan 2038 00:00:00 GMT";

    fn entity(shares_second: bool) -> Metadata {
        Metadata {
            version: Version::new(3).unwrap(),
            written_by: None,
            written_at: Timestamp(WRITTEN),
            created_at: Timestamp(WRITTEN),
            shares_second,
        }
    }

    /// `L-3` in a value stands for the tag of version 3 of this lineage.
    fn conditions(headers: &[(HeaderName, &str)]) -> Conditions {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = value.replace("L-", &format!("{L}-"));
            map.append(name, HeaderValue::from_str(&value).unwrap());
        }
        Conditions::parse(&map).unwrap()
    }

    #[test]
    fn g1_conditions_are_decided_in_the_order_of_the_rfc() {
        use Verdict::*;
        use header::{
            IF_MATCH as IM, IF_MODIFIED_SINCE as IMS, IF_NONE_MATCH as INM,
            IF_UNMODIFIED_SINCE as IUS,
        };
        let (get, put, delete) = (&Method::GET, &Method::PUT, &Method::DELETE);
        let (t2, t3, w3) = (r#""L-2""#, r#""L-3""#, r#"W/"L-3""#);
        for (method, headers, present, absent) in [
            (get, vec![], Proceed, Proceed),
            (get, vec![(INM, t3)], NotModified, Proceed),
            (get, vec![(INM, w3)], NotModified, Proceed),
            (get, vec![(INM, "*")], NotModified, Proceed),
            (get, vec![(INM, t2)], Proceed, Proceed),
            (get, vec![(INM, r#""L-1", ,"L-3","#)], NotModified, Proceed),
            (get, vec![(INM, t2), (INM, t3)], NotModified, Proceed),
            (get, vec![(IM, t2)], PreconditionFailed, Proceed),
            (get, vec![(IM, w3)], PreconditionFailed, Proceed),
            (get, vec![(IM, t3), (INM, t3)], NotModified, Proceed),
            (get, vec![(INM, t2), (IMS, AFTER)], Proceed, Proceed),
            (get, vec![(IMS, AFTER)], NotModified, Proceed),
            (get, vec![(IMS, SAME)], NotModified, Proceed),
            (get, vec![(IMS, BEFORE)], Proceed, Proceed),
            (get, vec![(IMS, "yesterday")], Proceed, Proceed),
            (get, vec![(IMS, AFTER), (IMS, AFTER)], Proceed, Proceed),
            (get, vec![(IUS, BEFORE)], PreconditionFailed, Proceed),
            (get, vec![(IUS, BEFORE), (IM, t3)], Proceed, Proceed),
            (put, vec![(IM, t3)], Proceed, PreconditionFailed),
            (put, vec![(IM, "*")], Proceed, PreconditionFailed),
            (put, vec![(IM, t3), (INM, "*")], PreconditionFailed, PreconditionFailed),
            (put, vec![(INM, w3)], PreconditionFailed, Proceed),
            (put, vec![(IMS, BEFORE)], Proceed, Proceed),
            (put, vec![(IM, t2), (IUS, AFTER)], PreconditionFailed, PreconditionFailed),
            (put, vec![(IUS, SAME)], Proceed, PreconditionFailed),
            (put, vec![(IUS, BEFORE)], PreconditionFailed, PreconditionFailed),
            (put, vec![(IM, r#""aaaaaaaaaaaab-3""#)], PreconditionFailed, PreconditionFailed),
            (delete, vec![(IM, t2)], PreconditionFailed, Proceed),
            (&Method::OPTIONS, vec![(IM, t2), (INM, "*")], Proceed, Proceed),
        ] {
            let name = format!("{method} {headers:?}");
            let conditions = conditions(&headers);
            let at = entity(false);
            assert_eq!(conditions.evaluate(method, L, Some(&at)), present, "{name}");
            assert_eq!(conditions.evaluate(method, L, None), absent, "{name}, absent");
        }
    }

    #[test]
    fn a_second_that_saw_two_versions_is_not_trusted() {
        let at = entity(true);
        for header in [header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE] {
            let verdict =
                conditions(&[(header.clone(), SAME)]).evaluate(&Method::GET, L, Some(&at));
            assert_ne!(verdict, Verdict::NotModified, "{header}");
        }
    }

    #[test]
    fn a_write_without_a_usable_condition_relies_on_nothing() {
        for headers in [
            vec![],
            vec![(header::IF_MODIFIED_SINCE, AFTER)],
            vec![(header::IF_UNMODIFIED_SINCE, "tomorrow")],
        ] {
            assert_eq!(conditions(&headers).preconditions(L), []);
        }
        let foreign = conditions(&[(header::IF_MATCH, r#"W/"L-3", "other""#)]);
        assert_eq!(foreign.preconditions(L), [Precondition::MatchesAny(vec![])]);
    }

    fn any_value() -> impl Strategy<Value = String> {
        r#"[*W/", \t0-9A-Za-z:é-]{0,40}"#
    }

    proptest! {
        #[test]
        fn no_headers_make_it_panic(
            lines in proptest::collection::vec((0..4_usize, any_value()), 0..6),
        ) {
            let names = [
                header::IF_MATCH,
                header::IF_NONE_MATCH,
                header::IF_MODIFIED_SINCE,
                header::IF_UNMODIFIED_SINCE,
            ];
            let mut map = HeaderMap::new();
            for (name, value) in lines {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    map.append(names[name].clone(), value);
                }
            }
            if let Ok(conditions) = Conditions::parse(&map) {
                let at = entity(false);
                for method in [Method::GET, Method::PUT] {
                    conditions.evaluate(&method, L, Some(&at));
                    conditions.evaluate(&method, L, None);
                }
            }
        }
    }
}
