//! Sums of files that were read once: the index in `.fornax/models-index.json`.
//!
//! A sum holds as long as the file has the size and the time of its last change that stand beside it. The index is a memory and
//! not a truth: lost or broken, it is made anew.

use super::error::PullError;
use super::store::Store;
use crate::comfyui::files::read_limited;
use crate::sys::files::{self, Readers};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// The largest index that is read, in bytes.
const LIMIT: u64 = 32 << 20;

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its size in bytes.
    pub size: u64,
    /// When it last changed, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Its SHA-256 then.
    pub sha256: String,
    /// Where Fornax has loaded it from; `None` for a file that somebody else has put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Entry {
    /// Of a file with these figures.
    pub(super) fn new(meta: &Metadata, sha256: String, from: Option<String>) -> Self {
        Self {
            size: meta.len(),
            mtime_ns: mtime_ns(meta),
            sha256,
            from,
        }
    }

    /// Whether the file is as it was.
    pub fn is_of(&self, meta: &Metadata) -> bool {
        self.size == meta.len() && self.mtime_ns == mtime_ns(meta)
    }
}

fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.mtime_nsec())
}

/// The index. Owner: the file; a value of this type is a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// By path below the models folder.
    files: BTreeMap<String, Entry>,
}

impl Index {
    /// What is on disk now.
    pub fn load(store: &Store) -> Self {
        let text = read_limited(&store.state().join("models-index.json"), LIMIT);
        text.ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// What is known of a file, whether it still holds or not.
    pub fn get(&self, file: &str) -> Option<&Entry> {
        self.files.get(file)
    }

    /// A file's sum, if it has not changed since.
    pub fn sum(&self, file: &str, meta: &Metadata) -> Option<&str> {
        self.files
            .get(file)
            .filter(|entry| entry.is_of(meta))
            .map(|entry| entry.sha256.as_str())
    }

    /// All files that are known.
    pub fn files(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.files.iter()
    }

    /// A file with this sum, not `file` itself, that is there unchanged.
    pub(super) fn same(&self, store: &Store, sum: &str, file: &str) -> Option<String> {
        let same = |(name, entry): &(&String, &Entry)| {
            let path = store.models().join(name.as_str());
            name.as_str() != file
                && entry.sha256 == sum
                && path
                    .symlink_metadata()
                    .is_ok_and(|meta| meta.is_file() && entry.is_of(&meta))
        };
        self.files.iter().find(same).map(|(name, _)| name.clone())
    }

    /// Changes the index on disk, one process and thread at a time.
    pub(super) fn change(
        store: &Store,
        change: impl FnOnce(&mut BTreeMap<String, Entry>),
    ) -> Result<(), PullError> {
        let path = store.state().join("models-index.json");
        let _lock = store.lock("index", "index", &|_| {})?;
        let mut index = Self::load(store);
        let before = index.clone();
        change(&mut index.files);
        if index == before {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|error| PullError::io("write", &path)(error.into()))?;
        files::replace(&path, &text, Readers::Anybody).map_err(PullError::io("write", &path))
    }

    /// Notes a file.
    pub(super) fn note(store: &Store, file: &str, entry: Entry) -> Result<(), PullError> {
        Self::change(store, |files| drop(files.insert(file.to_owned(), entry)))
    }
}
