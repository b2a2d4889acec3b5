//! Tokens: who has none is refused before anything else, and who has one writes in its name.

use ifmatch::Store;
use ifmatch::axum::{RouterOptions, Tokens, TokensError};

use crate::client::{Client, JSON, OVERWRITE};

const PATH: &str = "/collections/shifts/s-17";

/// `alice` and `correct horse`, by sha256sum.
const ALICE: &str = "alice:4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631";
const TOKEN: (&str, &str) = ("authorization", "Bearer correct horse");

fn client() -> Client {
    let tokens = format!("# ours\n\n {ALICE} \nbob:{}\n", "0".repeat(64));
    let options = RouterOptions::default().tokens(tokens.parse().unwrap());
    Client::new(Store::in_memory(), options)
}

#[test]
fn who_has_no_token_is_refused_before_anything_else() {
    let client = client();
    let wrong = [
        ("authorization", "Bearer correct"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer"),
        ("authorization", "Basic correct horse"),
        ("x-authorization", "Bearer correct horse"),
    ];
    for header in wrong {
        // Each of the others would be refused for something else.
        for path in [PATH, "/nothing", "/collections/%FF", "/collections"] {
            for method in ["GET", "PUT", "OPTIONS", "BREW"] {
                let headers = [header, ("if-match", "no tag"), ("ifmatch-actor", "mallory")];
                let refused = client.call(method, path, &headers, "no JSON");
                assert_eq!(refused.status, 401, "{header:?} {method} {path}");
                assert_eq!(refused.header("www-authenticate"), "Bearer");
                assert_eq!(refused.reason(), "unauthorized");
            }
        }
    }
    let twice = client.call("GET", PATH, &[TOKEN, TOKEN], "");
    assert_eq!(twice.status, 401, "one of them may be a proxy's");
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.call("GET", PATH, &[TOKEN], "").status, 404);
}

#[test]
fn the_name_of_the_token_is_the_actor() {
    let client = client();
    let path = format!("{PATH}{OVERWRITE}");
    let other = client.call("PUT", &path, &[TOKEN, JSON, ("ifmatch-actor", "bob")], "1");
    assert_eq!((other.status, other.reason().as_str()), (403, "forbidden"));
    let both = [TOKEN, JSON, ("ifmatch-actor", "alice"), ("ifmatch-actor", "bob")];
    assert_eq!(client.call("PUT", &path, &both, "1").status, 403);
    assert_eq!(client.call("GET", PATH, &[TOKEN], "").status, 404, "something was written");

    for headers in [&[TOKEN, JSON][..], &[TOKEN, JSON, ("ifmatch-actor", "alice")]] {
        assert_eq!(client.call("PUT", &path, headers, "1").header("ifmatch-written-by"), "alice");
    }
    let lease = client.call("POST", &format!("{PATH}/lease"), &[TOKEN, JSON], "{}");
    assert_eq!(lease.status, 201);
    let lease = client.call("GET", &format!("{PATH}/lease"), &[TOKEN], "");
    assert_eq!(lease.json()["holder"], "alice");
    let begun =
        client.call("POST", "/operations/transfer", &[TOKEN, JSON], "{\"scope\":\"user/42\"}");
    let shown = client.call("GET", begun.header("location"), &[TOKEN], "");
    assert_eq!(shown.json()["started_by"], "alice");
}

#[test]
fn a_list_with_a_bad_line_is_no_list() {
    let digits = &ALICE["alice:".len()..];
    let name = "alice:eve";
    for bad in [
        "alice",
        "alice:",
        &format!(":{digits}"),
        &format!("alice:{}", &digits[1..]),
        &format!("alice:{digits}0"),
        &format!("alice:g{}", &digits[1..]),
        &format!("al\tice:{digits}"),
    ] {
        let list = format!("# comment\n{ALICE}\n\n{bad}\n");
        assert_eq!(list.parse::<Tokens>().err(), Some(TokensError::Line(4)), "{bad}");
    }
    assert_eq!("# none\n\n".parse::<Tokens>().err(), Some(TokensError::Empty));
    let list: Tokens = format!("{name}:{digits}\n{ALICE}").parse().unwrap();
    assert_eq!(format!("{list:?}"), "{\"alice:eve\", \"alice\"}", "no digest is shown");
}
