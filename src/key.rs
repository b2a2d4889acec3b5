//! Keys: bytes that order as their type orders, and a text form for people and paths.

use std::fmt::Write as _;

use smallvec::SmallVec;

use crate::map::KeyBuf;

/// Room for the bytes of a key while it is looked up.
type Scratch = SmallVec<[u8; 64]>;

/// A type that can be the key of a collection. Sealed: `String`, `Vec<u8>`, the integers,
/// `Uuid` (feature `uuid`) and tuples of two to four of them.
///
/// Keys order as their type orders: strings and byte strings by their bytes, integers by value,
/// tuples by their first difference.
pub trait Key: sealed::Key {}

impl<K: sealed::Key> Key for K {}

/// A value that can look up a key of type `K` without owning one: `&str` for `String`, `&[u8]`
/// for `Vec<u8>`, and a tuple of such for a tuple.
///
/// ```
/// let store = ifmatch::Store::in_memory();
/// let seats = store.collection::<(String, u32), String>("seats")?;
/// seats.create(("hall-a", 7), "ann".to_owned()).commit()?;
/// assert!(seats.contains(("hall-a", 7))?);
/// # Ok::<(), ifmatch::Error>(())
/// ```
pub trait AsKey<K: Key>: sealed::Bytes<K> {}

impl<K: Key, T: sealed::Bytes<K> + ?Sized> AsKey<K> for T {}

/// The beginning of keys of type `K`: `&str` for `String`, `&[u8]` for `Vec<u8>`, and for a
/// tuple the one-tuple of its first part.
pub trait AsPrefix<K: Key>: sealed::Prefix<K> {}

impl<K: Key, T: sealed::Prefix<K> + ?Sized> AsPrefix<K> for T {}

pub(crate) mod sealed {
    use super::Scratch;

    pub trait Key: Send + Sync + Sized + 'static {
        /// Names the type, for the error when a collection is opened with another one.
        fn kind() -> String;

        /// Reads a whole key back.
        fn decode(bytes: &[u8]) -> Option<Self> {
            let mut rest = bytes;
            let key = Self::take_part(&mut rest)?;
            rest.is_empty().then_some(key)
        }

        /// Reads one part of a tuple off the front.
        fn take_part(bytes: &mut &[u8]) -> Option<Self>;

        /// The key as a person would write it.
        fn text(&self) -> String;
    }

    pub trait Bytes<K> {
        /// Runs `f` on the bytes of the key, without copying where the key already is bytes.
        fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
            let mut bytes = Scratch::new();
            self.push_part(&mut bytes);
            f(&bytes)
        }

        /// Appends the key as one part of a tuple.
        fn push_part(&self, bytes: &mut Scratch);
    }

    pub trait Prefix<K> {
        fn with_prefix<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R;
    }
}

impl<K: Key, T: sealed::Bytes<K> + ?Sized> sealed::Bytes<K> for &T {
    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        T::with_bytes(self, f)
    }

    fn push_part(&self, bytes: &mut Scratch) {
        T::push_part(self, bytes);
    }
}

/// The end of a string within a tuple. It sorts before every escaped byte, so that a string
/// orders before its extensions.
const END: [u8; 2] = [0, 1];
/// A zero byte of a string within a tuple.
const ZERO: [u8; 2] = [0, 0xff];

fn push_escaped(text: &[u8], bytes: &mut Scratch) {
    for byte in text {
        match byte {
            0 => bytes.extend_from_slice(&ZERO),
            _ => bytes.push(*byte),
        }
    }
    bytes.extend_from_slice(&END);
}

fn take_escaped(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if *byte != 0 {
            text.push(*byte);
            continue;
        }
        let (escape, rest) = bytes.split_first()?;
        *bytes = rest;
        match [0, *escape] {
            ZERO => text.push(0),
            END => return Some(text),
            _ => return None,
        }
    }
}

impl sealed::Key for String {
    fn kind() -> String {
        "string".to_owned()
    }

    fn decode(bytes: &[u8]) -> Option<String> {
        String::from_utf8(bytes.to_vec()).ok()
    }

    fn take_part(bytes: &mut &[u8]) -> Option<String> {
        String::from_utf8(take_escaped(bytes)?).ok()
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl sealed::Bytes<String> for str {
    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.as_bytes())
    }

    fn push_part(&self, bytes: &mut Scratch) {
        push_escaped(self.as_bytes(), bytes);
    }
}

impl sealed::Bytes<String> for String {
    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.as_bytes())
    }

    fn push_part(&self, bytes: &mut Scratch) {
        push_escaped(self.as_bytes(), bytes);
    }
}

impl<T: AsRef<str> + ?Sized> sealed::Prefix<String> for T {
    fn with_prefix<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.as_ref().as_bytes())
    }
}

impl sealed::Key for Vec<u8> {
    fn kind() -> String {
        "bytes".to_owned()
    }

    fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    fn take_part(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        take_escaped(bytes)
    }

    fn text(&self) -> String {
        self.iter().fold(String::with_capacity(2 * self.len()), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl sealed::Bytes<Vec<u8>> for [u8] {
    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self)
    }

    fn push_part(&self, bytes: &mut Scratch) {
        push_escaped(self, bytes);
    }
}

impl<const N: usize> sealed::Bytes<Vec<u8>> for [u8; N] {
    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self)
    }

    fn push_part(&self, bytes: &mut Scratch) {
        push_escaped(self, bytes);
    }
}

impl sealed::Bytes<Vec<u8>> for Vec<u8> {
    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self)
    }

    fn push_part(&self, bytes: &mut Scratch) {
        push_escaped(self, bytes);
    }
}

impl<T: AsRef<[u8]> + ?Sized> sealed::Prefix<Vec<u8>> for T {
    fn with_prefix<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.as_ref())
    }
}

/// Big-endian, with the sign bit turned over so that negative numbers come first.
macro_rules! integer_keys {
    ($($integer:ident as $unsigned:ident ^ $flip:expr),* $(,)?) => {$(
        impl sealed::Key for $integer {
            fn kind() -> String {
                stringify!($integer).to_owned()
            }

            fn take_part(bytes: &mut &[u8]) -> Option<$integer> {
                let (number, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(($unsigned::from_be_bytes(*number) ^ $flip) as $integer)
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }

        impl sealed::Bytes<$integer> for $integer {
            fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
                f(&(*self as $unsigned ^ $flip).to_be_bytes())
            }

            fn push_part(&self, bytes: &mut Scratch) {
                bytes.extend_from_slice(&(*self as $unsigned ^ $flip).to_be_bytes());
            }
        }
    )*};
}

integer_keys! {
    u8 as u8 ^ 0, u16 as u16 ^ 0, u32 as u32 ^ 0, u64 as u64 ^ 0, u128 as u128 ^ 0,
    i8 as u8 ^ 1 << 7, i16 as u16 ^ 1 << 15, i32 as u32 ^ 1 << 31, i64 as u64 ^ 1 << 63,
    i128 as u128 ^ 1 << 127,
}

#[cfg(feature = "uuid")]
impl sealed::Key for uuid::Uuid {
    fn kind() -> String {
        "uuid".to_owned()
    }

    fn take_part(bytes: &mut &[u8]) -> Option<uuid::Uuid> {
        let (id, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(uuid::Uuid::from_bytes(*id))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

#[cfg(feature = "uuid")]
impl sealed::Bytes<uuid::Uuid> for uuid::Uuid {
    fn push_part(&self, bytes: &mut Scratch) {
        bytes.extend_from_slice(self.as_bytes());
    }
}

/// The text of a tuple joins its parts by `/`; within a part `/` and `%` are percent-encoded.
fn part_text(part: &impl sealed::Key) -> String {
    in_path(part.text())
}

fn in_path(text: String) -> String {
    text.replace('%', "%25").replace('/', "%2F")
}

macro_rules! tuple_keys {
    ($(($key:ident, $by:ident, $place:tt)),*) => {
        impl<$($key: Key),*> sealed::Key for ($($key,)*) {
            fn kind() -> String {
                let parts = [$($key::kind()),*];
                format!("({})", parts.join(", "))
            }

            fn take_part(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($key::take_part(bytes)?,)*))
            }

            fn text(&self) -> String {
                [$(part_text(&self.$place)),*].join("/")
            }
        }

        impl<$($key: Key, $by: sealed::Bytes<$key>),*> sealed::Bytes<($($key,)*)> for ($($by,)*) {
            fn push_part(&self, bytes: &mut Scratch) {
                $(self.$place.push_part(bytes);)*
            }
        }

        impl<$($key: Key,)* First: sealed::Bytes<A>> sealed::Prefix<($($key,)*)> for (First,) {
            fn with_prefix<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
                let mut bytes = Scratch::new();
                self.0.push_part(&mut bytes);
                f(&bytes)
            }
        }
    };
}

tuple_keys!((A, ByA, 0), (B, ByB, 1));
tuple_keys!((A, ByA, 0), (B, ByB, 1), (C, ByC, 2));
tuple_keys!((A, ByA, 0), (B, ByB, 1), (C, ByC, 2), (D, ByD, 3));

/// The bytes of a key, owned.
pub(crate) fn key_buf<K: Key>(key: impl AsKey<K>) -> KeyBuf {
    key.with_bytes(|bytes| KeyBuf::from(bytes))
}

/// The type of the keys of a collection, where only their bytes are about.
pub(crate) struct KeyType {
    /// The name of the type.
    pub(crate) kind: String,
    /// The text of the key that these bytes are.
    pub(crate) text: fn(&[u8]) -> String,
}

impl KeyType {
    pub(crate) fn of<K: Key>() -> KeyType {
        KeyType { kind: K::kind(), text: text_of::<K> }
    }
}

/// The text of the key that these bytes are; bytes that are none print as hexadecimal.
pub(crate) fn text_of<K: Key>(bytes: &[u8]) -> String {
    match K::decode(bytes) {
        Some(key) => key.text(),
        None => sealed::Key::text(&bytes.to_vec()),
    }
}

/// The same by the name of the type, for keys of collections that are not open.
pub(crate) fn text_of_kind(kind: &str, bytes: &[u8]) -> String {
    let mut rest = bytes;
    match kind {
        "string" => text_of::<String>(bytes),
        _ => match take_text(kind, &mut rest).filter(|_| rest.is_empty()) {
            Some(text) => text,
            None => sealed::Key::text(&bytes.to_vec()),
        },
    }
}

/// The text of one part of a tuple, read off the front.
fn take_text(kind: &str, bytes: &mut &[u8]) -> Option<String> {
    fn part<K: Key>(bytes: &mut &[u8]) -> Option<String> {
        K::take_part(bytes).map(|part| part.text())
    }
    match kind {
        "string" => part::<String>(bytes),
        "bytes" => part::<Vec<u8>>(bytes),
        "u8" => part::<u8>(bytes),
        "u16" => part::<u16>(bytes),
        "u32" => part::<u32>(bytes),
        "u64" => part::<u64>(bytes),
        "u128" => part::<u128>(bytes),
        "i8" => part::<i8>(bytes),
        "i16" => part::<i16>(bytes),
        "i32" => part::<i32>(bytes),
        "i64" => part::<i64>(bytes),
        "i128" => part::<i128>(bytes),
        #[cfg(feature = "uuid")]
        "uuid" => part::<uuid::Uuid>(bytes),
        tuple => {
            let mut depth = 0;
            let kinds = tuple.strip_prefix('(')?.strip_suffix(')')?.split(|letter| {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                letter == ',' && depth == 0
            });
            let texts = kinds.map(|kind| Some(in_path(take_text(kind.trim_start(), bytes)?)));
            Some(texts.collect::<Option<Vec<String>>>()?.join("/"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sealed::{Bytes, Key as _};
    use super::*;
    use proptest::prelude::*;

    fn bytes<K: Key>(key: &impl Bytes<K>) -> Vec<u8> {
        key.with_bytes(<[u8]>::to_vec)
    }

    /// Bytes order as the keys do, and read back as the key.
    fn check<K: Key + Bytes<K> + Ord + Clone + std::fmt::Debug>(one: &K, other: &K) {
        assert_eq!(bytes::<K>(one).cmp(&bytes::<K>(other)), one.cmp(other), "{one:?} {other:?}");
        assert_eq!(K::decode(&bytes::<K>(one)).as_ref(), Some(one));
        let text = one.text();
        assert_eq!(text_of_kind(&K::kind(), &bytes::<K>(one)), text);
    }

    proptest! {
        #[test]
        fn keys_order_as_their_type_orders(
            strings: (String, String),
            blobs: (Vec<u8>, Vec<u8>),
            numbers: (i64, i64),
            wide: (i128, i128),
            small: (u8, u8),
            pairs: ((String, i32), (String, i32)),
            triples: ((Vec<u8>, u64, String), (Vec<u8>, u64, String)),
            nul in ("[\0\u{1}a]{0,3}", "[\0\u{1}a]{0,3}"),
        ) {
            check(&strings.0, &strings.1);
            check(&blobs.0, &blobs.1);
            check(&numbers.0, &numbers.1);
            check(&wide.0, &wide.1);
            check(&small.0, &small.1);
            check(&pairs.0, &pairs.1);
            check(&triples.0, &triples.1);
            check(&(nul.0.clone(), nul.1.clone()), &(nul.1, nul.0));
            let nested = |number, text| ((number, text), number);
            check(&nested(small.0, "a/%".to_owned()), &nested(small.1, "b".to_owned()));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = <(String, i32)>::decode(&bytes);
            let _ = <(Vec<u8>, (u8, i128))>::decode(&bytes);
            let _ = text_of::<String>(&bytes);
            let _ = text_of_kind("(bytes, (u8, string))", &bytes);
        }
    }

    #[test]
    fn a_tuple_reads_as_a_path_that_cannot_be_confused() {
        assert_eq!(("a/b".to_owned(), 7u64).text(), "a%2Fb/7");
        assert_eq!(("100%".to_owned(), "x".to_owned()).text(), "100%25/x");
    }
}
