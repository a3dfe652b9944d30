//! How the wanted files stand: by a look, or by reading them again.

use super::error::PullError;
use super::hash;
use super::index::{Entry, Index};
use super::links::{self, LinkReport};
use super::manifest::{Manifest, Wanted};
use super::part;
use super::store::Store;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::Metadata;

/// How a workspace's models stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Each wanted file.
    pub files: Vec<FileStatus>,
    /// Each link.
    pub links: Vec<LinkReport>,
    /// Folders of the manifest that ComfyUI does not look into, by the extra-model-paths file.
    pub unlisted_folders: BTreeSet<String>,
}

impl Status {
    /// Whether every wanted file is there and nothing is known to be wrong with one.
    pub fn is_whole(&self) -> bool {
        self.files
            .iter()
            .all(|file| matches!(file.state, State::Whole | State::Unchecked))
    }
}

/// How a file stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Its path below the models folder.
    pub file: String,
    /// Where it comes from, without secrets.
    pub source: String,
    /// How it stands.
    #[serde(flatten)]
    pub state: State,
    /// Its size in bytes: that of the file that is there, else the manifest's.
    pub size: Option<u64>,
    /// Its SHA-256, if it has been read since it last changed.
    pub sha256: Option<String>,
}

/// A file's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It is there, with the sum that is known for it.
    Whole,
    /// It is there, and no sum was compared: none is known, or it has changed since.
    Unchecked,
    /// It is not there.
    Missing,
    /// A part of it is there.
    Partial {
        /// Bytes of it.
        have: u64,
    },
    /// It is there and is not what is wanted.
    Differs {
        /// How.
        what: String,
    },
}

/// Looks at sizes and at what is known of sums; reads no model.
pub fn look(store: &Store, manifest: &Manifest) -> Status {
    let index = Index::load(store);
    status(
        store,
        manifest,
        |wanted, meta| index.sum(&wanted.file, meta).map(str::to_owned),
        &index,
    )
}

/// Reads what has changed since it was last read, or with `all` every wanted file, and compares. `tell` hears of each file that is
/// read.
///
/// # Errors
/// The index cannot be written.
pub fn verify(
    store: &Store,
    manifest: &Manifest,
    all: bool,
    tell: &dyn Fn(&str),
) -> Result<Status, PullError> {
    store.prepare()?;
    let before = Index::load(store);
    let mut rotten = Vec::new();
    for wanted in &manifest.models {
        let path = store.path(&wanted.file)?;
        let Ok(meta) = path.metadata() else { continue };
        if !meta.is_file() || (!all && before.sum(&wanted.file, &meta).is_some()) {
            continue;
        }
        tell(&wanted.file);
        let sum = hash::of_file(&path).map_err(PullError::io("read", &path))?;
        let entry = before.get(&wanted.file);
        // It has not been written to, and has other bytes than it had.
        if let Some(entry) = entry.filter(|entry| entry.is_of(&meta) && entry.sha256 != sum) {
            rotten.push((wanted.file.clone(), entry.sha256.clone()));
        }
        Index::note(
            store,
            &wanted.file,
            Entry::new(&meta, sum, entry.and_then(|entry| entry.from.clone())),
        )?;
    }
    let mut status = look(store, manifest);
    for file in &mut status.files {
        if let Some((_, sum)) = rotten.iter().find(|(name, _)| *name == file.file) {
            file.state = State::Differs {
                what: format!("it was {sum} when it was written, and its bytes have changed since"),
            };
        }
    }
    Ok(status)
}

fn status(
    store: &Store,
    manifest: &Manifest,
    sum: impl Fn(&Wanted, &Metadata) -> Option<String>,
    index: &Index,
) -> Status {
    let files = manifest
        .models
        .iter()
        .map(|wanted| one(store, wanted, &sum, index))
        .collect();
    let folders: BTreeSet<String> = manifest
        .models
        .iter()
        .map(|wanted| wanted.folder.clone())
        .collect();
    Status {
        files,
        links: links::look(store, &manifest.links, false),
        unlisted_folders: super::folders::unlisted(&store.list(), &folders),
    }
}

fn one(
    store: &Store,
    wanted: &Wanted,
    sum: &impl Fn(&Wanted, &Metadata) -> Option<String>,
    index: &Index,
) -> FileStatus {
    let of = |state, size, sha256| FileStatus {
        file: wanted.file.clone(),
        source: wanted.source.to_string(),
        state,
        size,
        sha256,
    };
    let path = match store.path(&wanted.file) {
        Ok(path) => path,
        Err(error) if store.models().exists() => {
            return of(
                State::Differs {
                    what: error.to_string(),
                },
                None,
                None,
            );
        }
        Err(_) => return of(State::Missing, wanted.size, None),
    };
    let Ok(meta) = path.metadata() else {
        let have = part::part_of(&path)
            .symlink_metadata()
            .map_or(0, |meta| meta.len());
        let state = if have > 0 {
            State::Partial { have }
        } else {
            State::Missing
        };
        return of(state, wanted.size, None);
    };
    let there = sum(wanted, &meta);
    let from = index
        .get(&wanted.file)
        .and_then(|entry| entry.from.as_ref());
    let differs = |what: String| State::Differs { what };
    let state = if !meta.is_file() {
        differs("it is a folder".to_owned())
    } else if let Some(size) = wanted.size.filter(|size| *size != meta.len()) {
        differs(format!("it has {} bytes, not {size}", meta.len()))
    } else {
        match (&there, &wanted.sha256) {
            (Some(there), Some(sum)) if there != sum => {
                differs(format!("its sha256 is {there}, not {sum}"))
            }
            (Some(_), Some(_)) => State::Whole,
            // Known from when it was loaded, by its source's word or by length alone.
            (Some(_), None) if from.is_some_and(|from| *from == wanted.source.key()) => {
                State::Whole
            }
            (Some(_), None) if from.is_some() => differs("it came from another source".to_owned()),
            _ => State::Unchecked,
        }
    };
    of(state, Some(meta.len()), there)
}
