//! Watching by looking: for file systems that tell nothing (`usePolling`), and where the kernel's limits are reached.

use crate::core::watch::{Filter, WatchSpec};
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The most files and folders that one app is looked at by; further ones are left out, and it says so.
const MOST: usize = 100_000;
/// A look may take this part of the time at most: a large tree is looked at less often than asked for.
const REST: u32 = 20;

/// What is compared of a file: to the nanosecond, since two saves may fall in one second.
type Stamp = (i64, i64, u64, u64);

/// A tree as it was at the last look. Owner: the watching thread.
#[derive(Debug)]
pub(super) struct Poll {
    every: Duration,
    seen: HashMap<PathBuf, Stamp>,
    next: Instant,
    full: bool,
}

impl Poll {
    /// Looks for the first time.
    pub(super) fn begin(every: Duration, spec: &WatchSpec, filter: &Filter) -> Self {
        let mut poll = Self {
            every,
            seen: HashMap::new(),
            next: Instant::now(),
            full: false,
        };
        poll.look(spec, filter);
        poll
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether anything exists.
    pub(super) fn has_any(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Looks again: the first path that has changed since.
    pub(super) fn look(&mut self, spec: &WatchSpec, filter: &Filter) -> Option<PathBuf> {
        let began = Instant::now();
        let mut now = HashMap::with_capacity(self.seen.len());
        let mut folders: Vec<PathBuf> = Vec::new();
        for base in filter.bases() {
            visit(Path::new(base), spec, filter, &mut now, &mut folders);
        }
        let mut walked = std::collections::HashSet::new();
        while let Some(folder) = folders.pop() {
            let own = std::fs::metadata(&folder).map(|data| (data.dev(), data.ino()));
            if now.len() >= MOST || !own.is_ok_and(|own| walked.insert(own)) {
                continue;
            }
            // Gone since, or not ours to read: then there is nothing to compare.
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for entry in entries {
                visit(&entry.path(), spec, filter, &mut now, &mut folders);
            }
        }
        if now.len() >= MOST && !std::mem::replace(&mut self.full, true) {
            tracing::warn!(
                folder = spec.cwd,
                most = MOST,
                "too many files to poll; the rest is not watched: list more in ignore_watch"
            );
        }
        let changed = now
            .iter()
            .find(|(path, stamp)| self.seen.get(*path) != Some(*stamp))
            .map(|(path, _)| path)
            .or_else(|| self.seen.keys().find(|path| !now.contains_key(*path)))
            .cloned();
        self.seen = now;
        self.next = Instant::now() + self.every.max(began.elapsed() * REST);
        changed
    }
}

fn visit(
    path: &Path,
    spec: &WatchSpec,
    filter: &Filter,
    now: &mut HashMap<PathBuf, Stamp>,
    folders: &mut Vec<PathBuf>,
) {
    let text = path.to_string_lossy();
    let (counts, walks) = (filter.counts(&text), filter.walks(&text));
    if !counts && !walks {
        return;
    }
    let Some(data) = look_at(path, spec.follow_links) else {
        return;
    };
    if data.is_dir() && walks {
        folders.push(path.to_owned());
    }
    if counts {
        now.insert(path.to_owned(), stamp(&data));
    }
}

/// A folder's times change with its entries, ignored ones too: only that it is there counts.
fn stamp(data: &Metadata) -> Stamp {
    if data.is_dir() {
        (0, 0, 0, data.ino())
    } else {
        (data.mtime(), data.mtime_nsec(), data.size(), data.ino())
    }
}

/// What a path is: the link's target where links are followed, the link itself where not or where it leads nowhere.
pub(super) fn look_at(path: &Path, follow: bool) -> Option<Metadata> {
    let itself = || std::fs::symlink_metadata(path).ok();
    if follow {
        std::fs::metadata(path).ok().or_else(itself)
    } else {
        itself()
    }
}
