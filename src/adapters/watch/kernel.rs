//! Folders watched by the kernel, each once however many apps mean it.

use super::engine::Input;
use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Created,
    Changed,
    Removed,
}

/// Why a folder can't be watched.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddError {
    #[error(
        "the limit of inotify watches is reached; raise it: sysctl -w fs.inotify.max_user_watches=524288"
    )]
    Watches,
    #[error(
        "no inotify instance can be had ({0}); raise the limits: sysctl -w fs.inotify.max_user_instances=512, ulimit -n"
    )]
    Instances(notify::Error),
    #[error("{0}")]
    Other(notify::Error),
}

impl AddError {
    /// Polling is the way out, as it needs nothing of the kernel.
    pub(super) fn is_limit(&self) -> bool {
        matches!(self, Self::Watches | Self::Instances(_))
    }
}

/// What watches single folders: the kernel here, something that refuses in tests.
pub(super) trait Folders {
    fn add(&mut self, folder: &Path) -> Result<(), AddError>;
    fn remove(&mut self, folder: &Path);
}

/// Folders by how many groups mean them. Owner: the watching thread.
pub(super) struct Counted<F> {
    folders: F,
    counts: HashMap<PathBuf, usize>,
}

impl<F: Folders> Counted<F> {
    pub(super) fn new(folders: F) -> Self {
        Self {
            folders,
            counts: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, folder: &Path) -> Result<(), AddError> {
        match self.counts.get_mut(folder) {
            Some(count) => *count += 1,
            None => {
                self.folders.add(folder)?;
                self.counts.insert(folder.to_owned(), 1);
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, folder: &Path) {
        if let Some(count) = self.counts.get_mut(folder) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(folder);
                self.folders.remove(folder);
            }
        }
    }
}

/// The kernel's inotify, opened when the first folder comes.
pub(super) struct Inotify {
    watcher: Option<RecommendedWatcher>,
    sender: SyncSender<Input>,
    lost: Arc<AtomicBool>,
}

impl Inotify {
    pub(super) fn new(sender: SyncSender<Input>, lost: Arc<AtomicBool>) -> Self {
        Self {
            watcher: None,
            sender,
            lost,
        }
    }

    fn open(&self) -> notify::Result<RecommendedWatcher> {
        let (sender, lost) = (self.sender.clone(), Arc::clone(&self.lost));
        let take = move |outcome: notify::Result<notify::Event>| {
            let inputs = match outcome {
                Ok(event) if event.need_rescan() => Vec::new(),
                Ok(event) => match kind(event.kind) {
                    None => return,
                    Some(kind) => told(kind, event.paths),
                },
                Err(error) => {
                    tracing::warn!(%error, "watching files");
                    return;
                }
            };
            let overflow = inputs.is_empty();
            let sent = inputs
                .into_iter()
                .all(|input| sender.try_send(input).is_ok());
            if overflow || !sent {
                lost.store(true, Ordering::Relaxed);
                // Full: it is about to look at the mark.
                let _ = sender.try_send(Input::Wake);
            }
        };
        RecommendedWatcher::new(take, Config::default())
    }
}

fn told(kind: Kind, paths: Vec<PathBuf>) -> Vec<Input> {
    let at = Instant::now();
    let inputs = paths.into_iter().map(|path| Input::Told { kind, path, at });
    inputs.collect()
}

/// What counts. Reading does not, and a rename is told twice already, by its ends.
fn kind(kind: EventKind) -> Option<Kind> {
    match kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            Some(Kind::Created)
        }
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            Some(Kind::Removed)
        }
        EventKind::Modify(ModifyKind::Name(_)) => None,
        EventKind::Modify(_) => Some(Kind::Changed),
        EventKind::Any | EventKind::Access(_) | EventKind::Other => None,
    }
}

impl Folders for Inotify {
    fn add(&mut self, folder: &Path) -> Result<(), AddError> {
        if self.watcher.is_none() {
            self.watcher = Some(self.open().map_err(AddError::Instances)?);
        }
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        let added = watcher.watch(folder, RecursiveMode::NonRecursive);
        added.map_err(|error| match &error.kind {
            ErrorKind::MaxFilesWatch => AddError::Watches,
            _ => AddError::Other(error),
        })
    }

    fn remove(&mut self, folder: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // A folder that is gone has taken its watch with it.
            let _ = watcher.unwatch(folder);
        }
    }
}
