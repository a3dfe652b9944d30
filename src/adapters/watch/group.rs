//! What one specification watches, for all the instances that share it.

use super::kernel::{AddError, Counted, Folders, Kind};
use super::poll::{Poll, look_at};
use crate::core::ids::PmId;
use crate::core::watch::{Filter, WatchSpec};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often is looked where the kernel's limit is reached.
const FALLBACK: Duration = Duration::from_secs(1);

/// A specification at work. Owner: the watching thread.
pub(super) struct Group {
    pub(super) spec: Arc<WatchSpec>,
    pub(super) ids: Vec<PmId>,
    pub(super) poll: Option<Poll>,
    filter: Filter,
    /// Watched folders by their true path, and the path the app knows each by.
    folders: HashMap<PathBuf, PathBuf>,
}

impl Group {
    /// Watches. Tells patterns that can't be read and limits that are reached.
    pub(super) fn begin<F: Folders>(spec: Arc<WatchSpec>, counted: &mut Counted<F>) -> Self {
        let (filter, issues) = Filter::new(&spec);
        for issue in issues {
            tracing::warn!(target: "pm2", "[Watch] {issue}");
        }
        let poll = spec
            .poll
            .map(|every| Poll::begin(every.duration(), &spec, &filter));
        let mut group = Self {
            spec,
            ids: Vec::new(),
            poll,
            filter,
            folders: HashMap::new(),
        };
        group.place(counted);
        group
    }

    /// Whether there is anything to tell of when watching has begun (`ignoreInitial: false`).
    pub(super) fn has_initial(&self) -> bool {
        self.spec.initial
            && (!self.folders.is_empty() || self.poll.as_ref().is_some_and(Poll::has_any))
    }

    /// Watches what is there, and of what is missing the nearest folder above it.
    pub(super) fn place<F: Folders>(&mut self, counted: &mut Counted<F>) {
        if self.poll.is_some() {
            return;
        }
        let bases: Vec<PathBuf> = self.filter.bases().map(PathBuf::from).collect();
        for base in bases {
            let is_folder = look_at(&base, true).is_some_and(|data| data.is_dir());
            // The folder above tells when a base comes back, and of a file that is replaced. The app's own stays.
            let above = base.ancestors().skip(1).find(|folder| folder.is_dir());
            let anchored = match above {
                Some(above) if !(is_folder && base == Path::new(&self.spec.cwd)) => {
                    self.watch(above, counted)
                }
                Some(_) | None => Ok(()),
            };
            let walked = anchored.and_then(|()| {
                if is_folder {
                    self.walk(&base, counted)
                } else {
                    Ok(())
                }
            });
            if let Err(error) = walked {
                return self.fall_back(&error, counted);
            }
        }
    }

    fn fall_back<F: Folders>(&mut self, error: &AddError, counted: &mut Counted<F>) {
        tracing::error!(
            target: "pm2",
            "[Watch] {error}. {} is looked at every {} s meanwhile",
            self.spec.cwd, FALLBACK.as_secs()
        );
        self.leave(counted);
        self.poll = Some(Poll::begin(FALLBACK, &self.spec, &self.filter));
    }

    /// Lets go of everything.
    pub(super) fn leave<F: Folders>(&mut self, counted: &mut Counted<F>) {
        for folder in std::mem::take(&mut self.folders).into_keys() {
            counted.remove(&folder);
        }
    }

    /// One folder, by its true path: the kernel knows folders, not names. Only a reached limit is an error.
    fn watch<F: Folders>(
        &mut self,
        folder: &Path,
        counted: &mut Counted<F>,
    ) -> Result<(), AddError> {
        let Ok(true_path) = folder.canonicalize() else {
            return Ok(());
        };
        if self.folders.contains_key(&true_path) {
            return Ok(());
        }
        match counted.add(&true_path) {
            Ok(()) => {
                self.folders.insert(true_path, folder.to_owned());
                Ok(())
            }
            Err(error) if error.is_limit() => Err(error),
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "a folder cannot be watched");
                Ok(())
            }
        }
    }

    /// A folder and those in it. What is left out is not looked into.
    fn walk<F: Folders>(&mut self, base: &Path, counted: &mut Counted<F>) -> Result<(), AddError> {
        let mut waiting = VecDeque::from([base.to_owned()]);
        let mut walked = HashSet::new();
        while let Some(folder) = waiting.pop_back() {
            let Ok(true_path) = folder.canonicalize() else {
                continue;
            };
            // A link may lead back up.
            if !walked.insert(true_path) || !self.filter.walks(&folder.to_string_lossy()) {
                continue;
            }
            self.watch(&folder, counted)?;
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for entry in entries {
                let (path, kind) = (entry.path(), entry.file_type());
                if !self.filter.walks(&path.to_string_lossy()) {
                    continue;
                }
                match kind {
                    Ok(kind) if kind.is_dir() => waiting.push_back(path),
                    // Last, so that a folder goes by its own name where it has one here.
                    Ok(kind) if kind.is_symlink() && self.spec.follow_links && path.is_dir() => {
                        waiting.push_front(path);
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Takes what the kernel told: the path as the app knows it, if it counts.
    pub(super) fn told<F: Folders>(
        &mut self,
        kind: Kind,
        path: &Path,
        counted: &mut Counted<F>,
    ) -> Option<PathBuf> {
        if self.poll.is_some() {
            return None;
        }
        let known = path
            .parent()
            .and_then(|parent| self.folders.get(parent))
            .and_then(|folder| Some(folder.join(path.file_name()?)));
        let gone = (kind == Kind::Removed)
            .then(|| self.folders.get(path).cloned())
            .flatten();
        let path_known = known.or(gone)?;
        let text = path_known.to_string_lossy().into_owned();
        match kind {
            Kind::Created => {
                let is_folder =
                    look_at(&path_known, self.spec.follow_links).is_some_and(|data| data.is_dir());
                if is_folder && self.filter.walks(&text) {
                    if let Err(error) = self.walk(&path_known, counted) {
                        self.fall_back(&error, counted);
                    }
                } else if is_folder && self.filter.leads(&text) {
                    self.place(counted);
                }
            }
            Kind::Removed => {
                let below: Vec<PathBuf> = self
                    .folders
                    .keys()
                    .filter(|folder| folder.starts_with(path))
                    .cloned()
                    .collect();
                for folder in below {
                    self.folders.remove(&folder);
                    counted.remove(&folder);
                }
                if self.filter.leads(&text) {
                    self.place(counted);
                }
            }
            // A folder's own times are nobody's change.
            Kind::Changed if path_known.is_dir() => return None,
            Kind::Changed => {}
        }
        self.filter.counts(&text).then_some(path_known)
    }

    /// Looks, if it is time: what has changed.
    pub(super) fn look(&mut self, now: std::time::Instant) -> Option<PathBuf> {
        let poll = self.poll.as_mut().filter(|poll| poll.next() <= now)?;
        poll.look(&self.spec, &self.filter)
    }

    /// A path as the log names it. A file's name may hold anything: none may forge a line.
    pub(super) fn shown(&self, path: &Path) -> String {
        let text = path.to_string_lossy();
        self.spec.shown(&text).replace(char::is_control, "\u{fffd}")
    }
}
