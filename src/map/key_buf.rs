//! The bytes of a key, kept in place while they are few.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

/// As many bytes as fit beside the length in three words.
const INLINE: usize = 22;

/// The owned bytes of a key: a short key needs no allocation and no further cache line.
#[derive(Clone)]
pub(crate) enum KeyBuf {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Arc<[u8]>),
}

const _: () = assert!(size_of::<KeyBuf>() == 24);

impl From<&[u8]> for KeyBuf {
    fn from(key: &[u8]) -> KeyBuf {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key);
                KeyBuf::Inline { len: key.len() as u8, bytes }
            }
            None => KeyBuf::Heap(key.into()),
        }
    }
}

impl Deref for KeyBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            KeyBuf::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            KeyBuf::Heap(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for KeyBuf {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for KeyBuf {
    fn eq(&self, other: &KeyBuf) -> bool {
        **self == **other
    }
}

impl Eq for KeyBuf {}

impl PartialOrd for KeyBuf {
    fn partial_cmp(&self, other: &KeyBuf) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBuf {
    fn cmp(&self, other: &KeyBuf) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl std::hash::Hash for KeyBuf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_length_is_kept_whole() {
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 512] {
            let key: Vec<u8> = (0..len).map(|i| i as u8).collect();
            assert_eq!(*KeyBuf::from(&key[..]), key[..]);
        }
    }
}
