//! Who may use the router: bearer tokens (RFC 6750), known by their SHA-256 alone.

use std::fmt;
use std::str::FromStr;

use ::http::header::{self, HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::{Problem, ProblemReason};

const ACTOR: &str = "ifmatch-actor";

/// Tokens, and the names of those who have them.
///
/// Read from lines `name:sha256`, where `sha256` is that of the token in 64 hexadecimal digits.
/// Empty lines, and lines that begin with `#`, say nothing. A name may have several tokens.
///
/// ```
/// use ifmatch::axum::{RouterOptions, Tokens};
///
/// // printf %s 'correct horse' | sha256sum
/// let line = "alice:4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631";
/// let tokens: Tokens = line.parse()?;
/// let app: axum::Router =
///     RouterOptions::default().tokens(tokens).router(ifmatch::Store::in_memory());
/// # Ok::<(), ifmatch::axum::TokensError>(())
/// ```
#[derive(Clone)]
pub struct Tokens(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    name: String,
    /// A name that is text is a header's value.
    actor: HeaderValue,
    digest: [u8; 32],
}

/// What is wrong with a list of [`Tokens`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokensError {
    /// The line with this number, from 1, is none of `name:sha256`.
    Line(usize),
    /// There is no token, so that nobody could use the router.
    Empty,
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokensError::Line(number) => write!(
                f,
                "line {number} is not name:sha256, with the SHA-256 of the token in 64 \
                 hexadecimal digits"
            ),
            TokensError::Empty => write!(f, "it has no token; write one line name:sha256 for each"),
        }
    }
}

impl std::error::Error for TokensError {}

impl FromStr for Tokens {
    type Err = TokensError;

    fn from_str(text: &str) -> Result<Tokens, TokensError> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let entry = |(number, line)| entry(line).ok_or(TokensError::Line(number));
        let entries: Vec<Entry> = lines.map(entry).collect::<Result<_, _>>()?;
        if entries.is_empty() { Err(TokensError::Empty) } else { Ok(Tokens(entries)) }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|entry| &entry.name)).finish()
    }
}

impl Tokens {
    /// Names, in `Ifmatch-Actor`, whose token the request has.
    ///
    /// # Errors
    /// 401 without a token that is known, 403 if the request is in somebody else's name.
    pub(super) fn admit(&self, headers: &mut HeaderMap) -> Result<(), Problem> {
        let entry = bearer(headers).and_then(|token| self.entry(token)).ok_or_else(|| {
            let detail = "send Authorization: Bearer and a token that this server knows";
            Problem::new(ProblemReason::Unauthorized, detail)
        })?;
        let is_other = |value: &HeaderValue| value.as_bytes().trim_ascii() != entry.name.as_bytes();
        if headers.get_all(ACTOR).iter().any(is_other) {
            let detail = format!(
                "the token is that of {}; leave out Ifmatch-Actor, or send this name",
                entry.name
            );
            return Err(Problem::new(ProblemReason::Forbidden, detail));
        }
        headers.insert(ACTOR, entry.actor.clone());
        Ok(())
    }

    /// Compares with every token, and every byte of it, so that the time tells nothing.
    fn entry(&self, token: &[u8]) -> Option<&Entry> {
        let digest = Sha256::digest(token);
        self.0.iter().fold(None, |found, entry| {
            let same = bool::from(digest.as_slice().ct_eq(&entry.digest));
            if same { Some(entry) } else { found }
        })
    }
}

fn entry(line: &str) -> Option<Entry> {
    let (name, digits) = line.rsplit_once(':')?;
    let (name, digits) = (name.trim(), digits.trim().as_bytes());
    if name.is_empty() || name.chars().any(char::is_control) || digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        for digit in pair {
            let digit = char::from(*digit).to_digit(16).and_then(|it| u8::try_from(it).ok())?;
            *byte = *byte << 4 | digit;
        }
    }
    Some(Entry {
        actor: HeaderValue::from_bytes(name.as_bytes()).ok()?,
        name: name.to_owned(),
        digest,
    })
}

/// The only token of the request.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?.as_bytes();
    let (scheme, token) = line.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
