//! What may go from the models folder: leftovers of downloads, and files that Fornax has loaded and nothing wants any more.

use super::error::PullError;
use super::index::Index;
use super::manifest::Manifest;
use super::store::Store;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How deep the models folder is walked.
const DEPTH: usize = 8;

/// The most files that are looked at.
const FILES: usize = 200_000;

/// A file that is not needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rubbish {
    /// Its path below the models folder.
    pub file: String,
    /// What it takes on disk, in bytes. 0 where another name of the same file stays.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Whether it is gone now.
    pub removed: bool,
}

/// Why it is not needed, or not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An unfinished download that nobody continues and no manifest wants.
    Leftover,
    /// An unfinished download of a file that is wanted: the next pull goes on with it. It stays.
    Resumable,
    /// Fornax has loaded it, and no manifest wants it now.
    Unreferenced,
    /// No manifest wants it, and somebody else has put it there. It stays.
    Foreign,
    /// It is being loaded at this moment. It stays.
    InUse,
}

impl Kind {
    /// Whether it may be removed.
    pub fn goes(self) -> bool {
        matches!(self, Self::Leftover | Self::Unreferenced)
    }
}

/// Looks for what is not needed, and with `remove` removes what goes. Nothing that a manifest names, as a file or as a link, is
/// touched.
///
/// # Errors
/// The workspace cannot be read, or a file not be removed.
pub fn gc(store: &Store, manifest: &Manifest, remove: bool) -> Result<Vec<Rubbish>, PullError> {
    store.prepare()?;
    let wanted: BTreeSet<&str> = manifest
        .models
        .iter()
        .map(|wanted| wanted.file.as_str())
        .chain(manifest.links.iter().map(|link| link.target.as_str()))
        .chain(manifest.not_indexed.iter().map(String::as_str))
        .collect();
    let mut names = Vec::new();
    walk(&store.models(), "", DEPTH, &mut names).map_err(PullError::io("read", &store.models()))?;
    names.sort();
    let index = Index::load(store);
    let mut found = Vec::new();
    for name in names.iter().filter(|name| !wanted.contains(name.as_str())) {
        let path = store.models().join(name);
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let base = name
            .strip_suffix(".part.json")
            .or_else(|| name.strip_suffix(".part"));
        let lock = store.try_lock(base.unwrap_or(name))?;
        let kind = match base {
            _ if lock.is_none() => Kind::InUse,
            // Notes without their file say nothing.
            Some(base)
                if name.ends_with(".json")
                    && !names.iter().any(|other| *other == format!("{base}.part")) =>
            {
                Kind::Leftover
            }
            Some(base)
                if wanted.contains(base) && store.models().join(base).metadata().is_err() =>
            {
                Kind::Resumable
            }
            Some(_) => Kind::Leftover,
            // Changed by somebody since, it is theirs.
            None if index.get(name).is_some_and(|entry| {
                entry.from.is_some() && meta.is_file() && entry.is_of(&meta)
            }) =>
            {
                Kind::Unreferenced
            }
            None => Kind::Foreign,
        };
        let mut rubbish = Rubbish {
            file: name.clone(),
            bytes: if meta.nlink() > 1 {
                0
            } else {
                meta.blocks() * 512
            },
            kind,
            removed: false,
        };
        if remove && kind.goes() {
            fs::remove_file(&path).map_err(PullError::io("remove", &path))?;
            Index::change(store, |files| drop(files.remove(name)))?;
            rubbish.removed = true;
        }
        found.push(rubbish);
    }
    if remove {
        // What is known of files that are gone is of no use.
        Index::change(store, |files| {
            files.retain(|name, _| store.models().join(name).symlink_metadata().is_ok())
        })?;
    }
    Ok(found)
}

/// The plain files and links below a folder. Links are not followed; names that are not UTF-8, or that we could not have made, are
/// left out, and with them what could not be told plainly.
fn walk(root: &Path, below: &str, depth: usize, names: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let name = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            walk(root, &name, depth - 1, names)?;
        } else if !kind.is_dir() && !below.is_empty() && names.len() < FILES {
            names.push(name);
        }
    }
    Ok(())
}
