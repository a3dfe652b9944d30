//! Which wanted files are known to be the same before anything is loaded.

use super::manifest::{Manifest, Wanted};
use std::collections::{BTreeMap, VecDeque};

/// Files of one content, each with its place in the manifest.
pub(super) type Group<'a> = Vec<(usize, &'a Wanted)>;

/// Files that are known to be the same go together: one is loaded, the others are linked to it.
pub(super) fn groups(manifest: &Manifest) -> VecDeque<Group<'_>> {
    let mut order: Vec<String> = Vec::new();
    let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for (at, wanted) in manifest.models.iter().enumerate() {
        let key = wanted.sha256.clone().unwrap_or_else(|| wanted.source.key());
        groups
            .entry(key.clone())
            .or_insert_with(|| {
                order.push(key);
                Vec::new()
            })
            .push((at, wanted));
    }
    order
        .into_iter()
        .filter_map(|key| groups.remove(&key))
        .collect()
}
