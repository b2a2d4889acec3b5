//! `GET /`: one static page to look at collections and documents, and to write them.

use ::axum::response::Response;
use ::http::header::{self, HeaderName, HeaderValue};

use super::response;

/// It holds no data, so that it needs no token; what it shows it asks for, with one.
const PAGE: &str = include_str!("console.html");

/// Only the page's own script and style run, and it talks to where it came from alone.
const POLICY: &str = concat!(
    "default-src 'none'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; ",
    "base-uri 'none'; script-src 'sha256-zCvEsKLte5m5udNdPfu4/eD5+eCWe1gUPsxffuaC4ng='; ",
    "style-src 'sha256-kHgWp9Y0VBERp5+9fgZ7sibdWBJiYOjxvYrq+ffGeSU='",
);

pub(super) fn page() -> Response {
    let mut response = response::json(PAGE);
    let headers: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
