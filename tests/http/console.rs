//! The page at `/`.

use ifmatch::Store;
use ifmatch::axum::{RouterOptions, Tokens};
use sha2::{Digest, Sha256};

use crate::client::Client;

#[test]
fn the_page_runs_its_own_script_alone() {
    let page = Client::in_memory().get("/");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let (_, rest) = page.text().split_once(&format!("<{tag}>")).expect("it is inline");
        let (inline, rest) = rest.split_once(&format!("</{tag}>")).expect("it ends");
        assert!(!rest.contains(&format!("<{tag}")), "there is one {tag} only");
        let hash = base64(&Sha256::digest(inline));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{tag}: {hash}");
    }
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    // What a document says must not become markup.
    for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!page.text().contains(way), "{way}");
    }
}

#[test]
fn the_page_is_there_without_a_token_and_holds_nothing() {
    let tokens: Tokens = format!("ann:{}", "0".repeat(64)).parse().unwrap();
    let store = Store::in_memory();
    let client = Client::new(store.clone(), RouterOptions::default().tokens(tokens.clone()));
    let page = client.get("/");
    assert_eq!((page.status, client.get("/collections").status), (200, 401));
    assert_eq!(page.text(), Client::in_memory().get("/").text());
    let nested = RouterOptions::default().tokens(tokens).router(store);
    let nested = Client::of(axum::Router::new().nest("/store", nested));
    assert_eq!((nested.get("/store").status, nested.get("/store/collections").status), (200, 401));
    assert_eq!(client.call("HEAD", "/", &[], "").text(), "");
    assert_eq!(Client::in_memory().call("PUT", "/", &[], "").header("allow"), "GET, HEAD, OPTIONS");
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        let digit = |at: usize| match at <= group.len() {
            true => char::from(DIGITS[bits >> (18 - 6 * at) & 63]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}
