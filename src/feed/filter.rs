//! Which changes a reader asks for.

/// By collections and by the beginning of keys.
#[derive(Clone, Default)]
pub(crate) struct Filter {
    /// With the beginning of their keys; empty for all that are not reserved.
    pub(crate) collections: Vec<(String, Vec<u8>)>,
    pub(crate) prefix: Vec<u8>,
}

impl Filter {
    pub(crate) fn passes(&self, collection: &str, key: &[u8]) -> bool {
        let asked_for = match self.collections.is_empty() {
            true => !is_reserved(collection),
            false => self
                .collections
                .iter()
                .any(|(name, prefix)| name == collection && key.starts_with(prefix)),
        };
        asked_for && key.starts_with(&self.prefix)
    }
}

/// The store's own collections are shown to those who ask for them by name.
fn is_reserved(collection: &str) -> bool {
    collection.starts_with('$')
}
