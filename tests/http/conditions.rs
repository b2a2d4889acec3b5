//! The table of conditions: what each method answers on each entity under each condition.

use ifmatch::Store;
use ifmatch::axum::RouterOptions;
use ifmatch::http::StaleStatus;

use crate::client::{Answer, Client, JSON};

/// What is there before the request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Entity {
    /// Written three times.
    Present,
    /// Never written.
    Never,
    /// Written three times, then deleted.
    Deleted,
    /// Written three times, deleted, and created again.
    Recreated,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Status(u16),
    /// 409, or 412 where that is asked for, with this reason.
    Refused(&'static str),
}

use Entity::{Deleted, Never, Present, Recreated};
use Expect::{Refused, Status};

type Headers = &'static [(&'static str, &'static str)];
type Row = (u32, &'static str, Entity, Headers, Expect);

const IM: &str = "if-match";
const INM: &str = "if-none-match";
const IMS: &str = "if-modified-since";
const IUS: &str = "if-unmodified-since";
const PAST: &str = "Sun, 09 Sep 2001 01:46:40 GMT";
const FUTURE: &str = "Fri, 31 Dec 9999 23:59:59 GMT";
const FOREIGN: &str = "\"aaaaaaaaaaaab-3\"";

/// `{3}` stands for the tag of the third write.
const TABLE: &[Row] = &[
    (1, "GET", Present, &[(INM, "{3}")], Status(304)),
    (2, "GET", Present, &[(INM, "W/{3}")], Status(304)),
    (3, "GET", Present, &[(INM, "*")], Status(304)),
    (4, "GET", Present, &[(INM, "{2}")], Status(200)),
    (5, "GET", Present, &[(INM, "{1}, ,{3},")], Status(304)),
    (5, "GET", Present, &[(INM, "{1}"), (INM, "{3}")], Status(304)),
    (6, "GET", Deleted, &[(INM, "*")], Status(404)),
    (6, "GET", Never, &[(INM, "*")], Status(404)),
    (7, "GET", Present, &[(IM, "{2}")], Status(412)),
    (7, "HEAD", Present, &[(IM, "{2}")], Status(412)),
    (7, "GET", Never, &[(IM, "{2}")], Status(404)),
    (8, "GET", Present, &[(IM, "{3}"), (INM, "{3}")], Status(304)),
    (9, "PUT", Present, &[(IM, "{3}")], Status(200)),
    (10, "PUT", Present, &[(IM, "W/{3}")], Refused("stale_version")),
    (11, "PUT", Present, &[(IM, "{1}, {3}")], Status(200)),
    (12, "PUT", Present, &[(IM, "*")], Status(200)),
    (13, "PUT", Deleted, &[(IM, "*")], Refused("absent")),
    (13, "PUT", Never, &[(IM, "*")], Refused("absent")),
    (14, "PUT", Deleted, &[(IM, "{3}")], Refused("deleted")),
    (14, "PUT", Never, &[(IM, "{3}")], Refused("absent")),
    (14, "PUT", Deleted, &[(IM, FOREIGN)], Refused("absent")),
    (15, "PUT", Deleted, &[(INM, "*")], Status(201)),
    (15, "PUT", Never, &[(INM, "*")], Status(201)),
    (16, "PUT", Present, &[(INM, "*")], Refused("already_exists")),
    (17, "PUT", Present, &[(INM, "{3}")], Refused("already_exists")),
    (17, "PUT", Present, &[(INM, "W/{3}")], Refused("already_exists")),
    (18, "PUT", Present, &[(INM, "{2}")], Status(200)),
    (19, "PUT", Present, &[(IM, "{2}"), (INM, "*")], Refused("stale_version")),
    (20, "PUT", Present, &[(IM, "{3}"), (INM, "*")], Refused("already_exists")),
    (21, "PUT", Present, &[], Status(428)),
    (21, "PUT", Never, &[(IUS, "tomorrow")], Status(428)),
    (21, "PUT", Present, &[(IMS, PAST)], Status(428)),
    (21, "DELETE", Present, &[], Status(428)),
    (23, "PUT", Present, &[(IM, "*,{3}")], Status(400)),
    (23, "PUT", Present, &[(IM, "3")], Status(400)),
    (23, "PUT", Present, &[(IM, "\"3")], Status(400)),
    (23, "PUT", Present, &[(INM, " , ")], Status(400)),
    (23, "GET", Present, &[(INM, "3")], Status(400)),
    (24, "DELETE", Present, &[(IM, "{2}")], Refused("stale_version")),
    (24, "DELETE", Present, &[(IM, "W/{3}")], Refused("stale_version")),
    (24, "DELETE", Present, &[(IM, "{3}")], Status(204)),
    (25, "DELETE", Deleted, &[(IM, "{3}")], Status(404)),
    (25, "DELETE", Never, &[(IM, "*")], Status(404)),
    (25, "DELETE", Never, &[(INM, "*")], Status(404)),
    (27, "OPTIONS", Present, &[(IM, "{2}")], Status(204)),
    (28, "PUT", Present, &[(IM, "{2}"), (IUS, FUTURE)], Refused("stale_version")),
    (29, "HEAD", Present, &[(INM, "{3}")], Status(304)),
    (30, "PUT", Recreated, &[(IM, "{3}")], Refused("stale_version")),
    (31, "GET", Present, &[(INM, "{2}"), (IMS, FUTURE)], Status(200)),
    (32, "PUT", Present, &[(IUS, PAST)], Refused("stale_version")),
    (32, "PUT", Present, &[(IUS, FUTURE)], Status(200)),
    (32, "PUT", Never, &[(IUS, FUTURE)], Refused("absent")),
    (32, "DELETE", Present, &[(IUS, PAST)], Refused("stale_version")),
    (33, "PUT", Present, &[(IM, FOREIGN)], Refused("stale_version")),
    (33, "DELETE", Present, &[(IM, FOREIGN)], Refused("stale_version")),
    (33, "PUT", Never, &[(IM, FOREIGN)], Refused("absent")),
];

#[test]
fn g1_every_row_of_the_table_holds() {
    for (stale, code) in [(StaleStatus::Conflict, 409), (StaleStatus::PreconditionFailed, 412)] {
        for row in TABLE {
            check(row, stale, code);
        }
    }
}

fn check(row: &Row, stale: StaleStatus, code: u16) {
    let (number, method, entity, headers, expect) = *row;
    let name = format!("row {number}: {method} {entity:?} {headers:?} with {code}");
    let options = RouterOptions::default().stale_status(stale);
    let client = Client::new(Store::in_memory(), options);
    let tags = prepare(&client, entity);
    let before = client.get(PATH);

    let values: Vec<_> = headers.iter().map(|(name, value)| (*name, fill(value, &tags))).collect();
    let mut sent: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    sent.push(JSON);
    let answer = client.call(method, PATH, &sent, r#"{"by": "the request"}"#);

    let (status, reason) = match expect {
        Status(status) => (status, None),
        Refused(reason) => (code, Some(reason)),
    };
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    if let Some(reason) = reason {
        assert_eq!(answer.reason(), reason, "{name}");
    }
    let after = client.get(PATH);
    match (method, status) {
        ("PUT", 200 | 201) => {
            assert_eq!(after.text(), r#"{"by": "the request"}"#, "{name}");
            assert_eq!(after.tag(), answer.tag(), "{name}");
            assert!(!tags.contains(&answer.tag()), "{name}: an old tag was given out again");
        }
        ("DELETE", 204) => assert_eq!(after.status, 404, "{name}"),
        _ => assert_unchanged(&before, &after, &name),
    }
    if status == 304 {
        assert_eq!((answer.tag().as_str(), answer.body.len()), (tags[3].as_str(), 0), "{name}");
    }
}

const PATH: &str = "/collections/shifts/s-17";

/// The tags of the writes; the one at 0 is none.
fn prepare(client: &Client, entity: Entity) -> Vec<String> {
    let mut tags = vec![String::new()];
    if entity == Never {
        tags.extend((1..=3).map(|number| format!("\"aaaaaaaaaaaab-{number}\"")));
        return tags;
    }
    tags.extend((1..=3).map(|number| client.overwrite(PATH, &number.to_string())));
    if matches!(entity, Deleted | Recreated) {
        client.delete(PATH);
    }
    if entity == Recreated {
        client.overwrite(PATH, "4");
    }
    tags
}

fn fill(value: &str, tags: &[String]) -> String {
    (1..=3).fold(value.to_owned(), |value, n| value.replace(&format!("{{{n}}}"), &tags[n]))
}

fn assert_unchanged(before: &Answer, after: &Answer, name: &str) {
    assert_eq!((before.status, before.tag()), (after.status, after.tag()), "{name}");
    if before.status == 200 {
        assert_eq!(before.body, after.body, "{name}");
    }
}
