//! How a pull stands, in a file for whoever did not begin it: `.fornax/pulls/PID.json`.

use super::event::{Outcome, Step};
use super::store::Store;
use crate::comfyui::files::read_limited;
use crate::sys::files::{self, Readers};
use crate::sys::procfs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The file is written at most this often, but for what begins and what ends.
const PACE: Duration = Duration::from_secs(1);
/// Files that failed, told by name; further ones are counted.
const NAMED: usize = 200;
/// Pulls that are looked at, and the most that is read of one, in bytes.
const LOOKED_AT: (usize, u64) = (32, 1 << 20);

/// A pull, at work or the last one of its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullState {
    /// The process that pulls.
    pub pid: u32,
    /// When it began, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When this was written.
    pub updated_ms: u64,
    /// `running`, `done`, `failed`; `broken_off` when its process is gone (found by the reader).
    pub outcome: String,
    /// Files that are wanted.
    pub files: usize,
    /// Of them, those that are done with, failed ones too.
    pub done: usize,
    /// Those that failed.
    pub failed: usize,
    /// Files that come at this moment, by path below the models folder.
    pub coming: BTreeMap<String, Coming>,
    /// Why files failed, by path.
    pub failures: BTreeMap<String, String>,
}

/// A file that comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Bytes that are there.
    pub have: u64,
    /// All of it, if known.
    pub total: Option<u64>,
    /// Why it is tried again, if it is, or for whom it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Tells of one pull. Owner: the pull; a lock, held to change and write.
pub(super) struct Told {
    path: PathBuf,
    inner: Mutex<(PullState, Option<Instant>)>,
}

impl Told {
    /// Of a pull that begins; what pulls that have ended have left goes.
    pub fn begin(store: &Store, files: usize) -> Self {
        let dir = dir(store);
        for path in states(&dir) {
            if read(&path).is_none_or(|state| state.outcome != "running") {
                // It is for people only.
                let _ = fs::remove_file(path);
            }
        }
        let pid = std::process::id();
        let state = PullState {
            pid,
            began_ms: now_ms(),
            updated_ms: 0,
            outcome: "running".to_owned(),
            files,
            done: 0,
            failed: 0,
            coming: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        let told = Self {
            path: dir.join(format!("{pid}.json")),
            inner: Mutex::new((state, None)),
        };
        told.change(true, |_| {});
        told
    }

    /// A step of a file.
    pub fn take(&self, file: &str, step: &Step) {
        // A download that begins may then be silent for long, and one that has failed says no more.
        let now = matches!(step, Step::Begin { .. } | Step::End(Outcome::Failed { .. }));
        self.change(now, |state| state.take(file, step));
    }

    /// It has ended.
    pub fn end(&self, whole: bool) {
        self.change(true, |state| {
            state.coming.clear();
            state.outcome = if whole { "done" } else { "failed" }.to_owned();
        });
    }

    fn change(&self, now: bool, how: impl FnOnce(&mut PullState)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut inner.0);
        let due = inner.1.is_none_or(|at| at.elapsed() >= PACE);
        if !now && !due {
            return;
        }
        inner.1 = Some(Instant::now());
        inner.0.updated_ms = now_ms();
        // A pull whose state cannot be written goes on all the same: it is for people.
        let _ = fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")));
        if let Ok(text) = serde_json::to_vec(&inner.0) {
            let _ = files::replace(&self.path, &text, Readers::Anybody);
        }
    }
}

impl PullState {
    fn take(&mut self, file: &str, step: &Step) {
        match step {
            Step::Begin { have, total } | Step::Bytes { have, total } => {
                let coming = Coming {
                    have: *have,
                    total: *total,
                    note: None,
                };
                self.coming.insert(file.to_owned(), coming);
            }
            Step::Checking => self.note(file, "it is being checked".to_owned()),
            Step::Again { why, .. } => self.note(file, why.clone()),
            Step::Waiting { pid } => {
                let pid = pid.map_or_else(String::new, |pid| format!(" {pid}"));
                self.note(file, format!("process{pid} loads it"));
            }
            Step::End(outcome) => {
                self.coming.remove(file);
                self.done += 1;
                if let Outcome::Failed { why } = outcome {
                    self.failed += 1;
                    if self.failures.len() < NAMED {
                        self.failures.insert(file.to_owned(), why.clone());
                    }
                }
            }
        }
    }

    fn note(&mut self, file: &str, note: String) {
        self.coming.entry(file.to_owned()).or_default().note = Some(note);
    }
}

/// The pulls of a workspace: those at work, and the last that ended; the newest first.
pub fn pulls(store: &Store) -> Vec<PullState> {
    let mut all: Vec<PullState> = states(&dir(store))
        .iter()
        .filter_map(|path| read(path))
        .collect();
    all.sort_by_key(|state| std::cmp::Reverse(state.began_ms));
    all
}

/// Where they lie.
pub fn dir(store: &Store) -> PathBuf {
    store.state().join("pulls")
}

fn states(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_state = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let paths = entries.map(|entry| entry.path()).filter(is_state);
    paths.take(LOOKED_AT.0).collect()
}

fn read(path: &Path) -> Option<PullState> {
    let text = read_limited(path, LOOKED_AT.1).ok()?;
    let mut state: PullState = serde_json::from_str(&text).ok()?;
    let lives = procfs::stat(state.pid).is_some_and(|process| !process.is_dead());
    if state.outcome == "running" && !lives {
        "broken_off".clone_into(&mut state.outcome);
    }
    Some(state)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfyui::workspace::Workspace;

    #[test]
    fn a_pull_is_told_while_it_runs_when_it_ends_and_when_it_is_broken_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::of(&Workspace::resolve(Some(dir.path()), &|_| None).unwrap());
        assert_eq!(pulls(&store), []);
        let told = Told::begin(&store, 2);
        told.take(
            "vae/a",
            &Step::Begin {
                have: 1,
                total: Some(4),
            },
        );
        told.change(true, |_| {});
        let now = &pulls(&store)[0];
        assert_eq!(
            (now.outcome.as_str(), now.files, now.done),
            ("running", 2, 0)
        );
        assert_eq!(
            (now.coming["vae/a"].have, now.coming["vae/a"].total),
            (1, Some(4))
        );
        told.take("vae/a", &Step::End(Outcome::There));
        let why = "not found".to_owned();
        told.take("vae/b", &Step::End(Outcome::Failed { why }));
        told.end(false);
        let now = &pulls(&store)[0];
        assert_eq!(
            (now.outcome.as_str(), now.done, now.failed),
            ("failed", 2, 1)
        );
        assert_eq!(now.failures["vae/b"], "not found");
        let gone = PullState {
            // No process has it: pids end far below.
            pid: u32::MAX,
            outcome: "running".to_owned(),
            ..now.clone()
        };
        let path = super::dir(&store).join("gone.json");
        fs::write(&path, serde_json::to_vec(&gone).unwrap()).unwrap();
        assert!(
            pulls(&store)
                .iter()
                .any(|state| state.outcome == "broken_off")
        );
        Told::begin(&store, 0);
        assert!(!path.exists());
    }
}
