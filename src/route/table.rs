//! `target_map`: the longest path that is a prefix at a `/` boundary.

use super::settings::ProviderIndex;

/// The entries, longest path first.
#[derive(Debug)]
pub struct PathTable {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    path: Box<str>,
    provider: ProviderIndex,
    place: usize,
}

impl PathTable {
    /// Builds the table; a trailing `/` of an entry has no meaning.
    pub fn new(target_map: &[(String, ProviderIndex)]) -> Self {
        let mut entries: Vec<Entry> = target_map
            .iter()
            .enumerate()
            .map(|(place, (path, provider))| Entry {
                path: path.trim_end_matches('/').into(),
                provider: *provider,
                place,
            })
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.path.len()));
        Self { entries }
    }

    /// The provider for a path and the entry's place in the file's order.
    pub fn find(&self, path: &str) -> Option<(ProviderIndex, usize)> {
        self.entries
            .iter()
            .find(|entry| {
                path.strip_prefix(&*entry.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .map(|entry| (entry.provider, entry.place))
    }
}
