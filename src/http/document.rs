//! The value of HTTP collections: a JSON document, kept byte for byte.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::codec::{Codec, Json};

/// A JSON document, kept byte for byte as it was sent. Cheap to clone.
///
/// Its codec is [`Json`]: a collection of documents is declared with it, and its values are
/// stored as the documents' text.
///
/// ```
/// use ifmatch::http::Document;
///
/// let document = Document::parse(r#"{ "open": 1e0 }"#.to_owned())?;
/// assert_eq!(document.json(), r#"{ "open": 1e0 }"#);
/// assert!(Document::parse("{open: 1}".to_owned()).is_err());
///
/// let store = ifmatch::Store::in_memory();
/// let shifts = store.declare::<String, Document>("shifts").codec(ifmatch::Json).open()?;
/// shifts.create("s-17", document).commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    json: Arc<str>,
}

/// The bytes are no JSON document: not UTF-8, not JSON, or nested deeper than 127 levels.
#[derive(Debug)]
pub struct InvalidDocument {
    detail: String,
}

impl Document {
    /// Checks that `json` is one JSON document (RFC 8259), and keeps it as it is.
    ///
    /// # Errors
    /// What is wrong with it and where.
    pub fn parse(json: String) -> Result<Document, InvalidDocument> {
        match serde_json::from_str::<Checked>(&json) {
            Ok(Checked) => Ok(Document { json: json.into() }),
            Err(error) => Err(InvalidDocument { detail: error.to_string() }),
        }
    }

    /// Checks bytes as [`parse`](Self::parse) checks text.
    ///
    /// # Errors
    /// What is wrong with them and where.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Document, InvalidDocument> {
        match String::from_utf8(bytes) {
            Ok(json) => Document::parse(json),
            Err(error) => Err(InvalidDocument { detail: error.utf8_error().to_string() }),
        }
    }

    /// What a serializer has written.
    #[cfg(feature = "axum")]
    pub(crate) fn serialized(json: String) -> Document {
        Document { json: json.into() }
    }

    /// The text, as it was sent.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The text as part of a larger document, without the space around it.
    pub(crate) fn raw(&self) -> Option<&RawValue> {
        serde_json::from_str(&self.json).ok()
    }
}

impl AsRef<[u8]> for Document {
    fn as_ref(&self) -> &[u8] {
        self.json.as_bytes()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({})", self.json)
    }
}

/// The text itself, byte for byte.
impl Codec<Document> for Json {
    fn name(&self) -> &str {
        Json::NAME
    }

    fn encode(&self, document: &Document) -> Result<Vec<u8>, String> {
        Ok(document.json.as_bytes().to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Document, String> {
        Document::from_bytes(bytes.to_vec()).map_err(|error| error.to_string())
    }

    fn to_json(&self, document: &Document) -> Option<Value> {
        serde_json::from_str(&document.json).ok()
    }

    /// In the order of the names, without space. A document with a number or a name that would
    /// not be written like this, or the same name twice, does not come back the same.
    fn read_json(&self, json: Value) -> Result<Document, String> {
        Document::parse(json.to_string()).map_err(|error| error.to_string())
    }
}

impl fmt::Display for InvalidDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a JSON document: {}", self.detail)
    }
}

impl std::error::Error for InvalidDocument {}

/// Any JSON value that serde_json can read, looked at and dropped. Unlike
/// `serde::de::IgnoredAny` it keeps to the recursion limit and checks escapes and numbers, so
/// that readers of the document do not choke on what was let in.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checked, D::Error> {
        deserializer.deserialize_any(Checked)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Checked, A::Error> {
        while let Some(Checked) = items.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Checked, A::Error> {
        while let Some((Checked, Checked)) = members.next_entry()? {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_checked;
    use proptest::prelude::*;

    #[test]
    fn json_is_taken_as_it_is() {
        for json in [" {\"a\" :1,\n \"a\": 2.50} \n", "null", "\"\\u00e9\"", "[]", "-0.0e+1"] {
            let document = Document::parse(json.to_owned()).unwrap();
            assert_eq!(document.json(), json);
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(100_000);
        let closed = format!("{}{}", "[".repeat(128), "]".repeat(128));
        for json in ["", "{", "1 2", "{a:1}", "\u{feff}1", "\"\\ud800\"", "1e999", &deep, &closed] {
            assert!(Document::parse(json.to_owned()).is_err(), "{json:.20}");
        }
        assert!(Document::from_bytes(vec![b'"', 0xff, b'"']).is_err());
    }

    proptest! {
        #[test]
        fn a_stored_document_reads_back(text: String) {
            let document = Document::parse(serde_json::to_string(&text).unwrap()).unwrap();
            let bytes = encode_checked(&Json, &document).unwrap();
            prop_assert_eq!(&bytes, document.json().as_bytes());
            prop_assert_eq!(Json.decode(&bytes), Ok(document));
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>) {
            let _ = Document::from_bytes(bytes);
        }
    }
}
