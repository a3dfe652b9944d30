//! Where a rollout stands on disk, and what is checked before one begins.

use crate::comfyui::install::{BuildState, Layout, Record};
use crate::comfyui::workspace::Workspace;
use crate::core::rollout::{Kind, Phase, Rollout, VERSION};
use crate::sys::files::{self, Readers};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most that is read of its file, in bytes.
const LIMIT: u64 = 1 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What.
    pub kind: Kind,
    /// In which workspace.
    pub workspace: PathBuf,
    /// To which build; a rollback's default is the last good one.
    pub build: Option<String>,
    /// How long an instance may have jobs before that ends the rollout.
    pub wait: Duration,
}

/// Why a rollout is not begun.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    /// No instance of that workspace is known here.
    #[error("no ComfyUI of {} is known to this daemon", .0.display())]
    Nobody(PathBuf),
    /// Another is at work, the build is not ready, or a file cannot be read.
    #[error("{0}")]
    Refused(String),
    /// The fleet has ended, or has too much to do.
    #[error("the daemon is busy or ends; try again")]
    Later,
}

/// A workspace whose builds are rolled.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub layout: Layout,
    root: PathBuf,
}

impl Place {
    /// Of this folder; `None` for one that cannot be a workspace. Blocking.
    pub fn new(root: &Path) -> Option<Self> {
        let root = std::fs::canonicalize(root).ok()?;
        let workspace = Workspace::resolve(Some(&root), &|_| None).ok()?;
        Some(Self {
            layout: Layout::new(&workspace),
            root,
        })
    }

    /// Whether a path names the same folder.
    pub fn is(&self, root: &Path) -> bool {
        root == self.root || std::fs::canonicalize(root).is_ok_and(|root| root == self.root)
    }

    fn file(&self) -> PathBuf {
        self.layout.workspace().state_dir().join("rollout.json")
    }

    /// The last rollout here. Blocking.
    pub fn read(&self) -> Option<Rollout> {
        let text = crate::comfyui::files::read_limited(&self.file(), LIMIT).ok()?;
        let state: Rollout = serde_json::from_str(&text).ok()?;
        (state.version == VERSION).then_some(state)
    }

    /// Writes it, whole or not at all. Blocking.
    pub fn write(&self, state: &Rollout) -> io::Result<()> {
        let text = serde_json::to_string_pretty(state)? + "\n";
        files::replace(&self.file(), text.as_bytes(), Readers::Anybody)
    }

    /// A rollout that can begin. Blocking.
    pub fn planned(&self, wanted: &Wanted, now_ms: u64) -> Result<Rollout, RollError> {
        let refused = |why: String| RollError::Refused(why);
        if self.read().is_some_and(|state| !state.phase.is_over()) {
            return Err(refused(
                "another rollout is at work; wait for it".to_owned(),
            ));
        }
        let (current, previous) = (self.layout.current(), self.layout.previous());
        let build = match (&wanted.build, wanted.kind) {
            (Some(id), _) => self
                .layout
                .builds()
                .into_iter()
                .find(|build| build.id == *id),
            (None, Kind::Rollback) => previous.clone(),
            (None, Kind::Update) => None,
        };
        let Some(build) = build else {
            return Err(refused(match &wanted.build {
                Some(id) => format!("there is no build {id} in {}", self.root.display()),
                None => "there is no earlier build to go back to".to_owned(),
            }));
        };
        if Record::of(&build).is_none_or(|record| record.state != BuildState::Ready) {
            return Err(refused(format!("build {} is not whole", build.id)));
        }
        if current.as_ref() == Some(&build) {
            return Err(refused(format!(
                "build {} is the one that runs already",
                build.id
            )));
        }
        Ok(Rollout {
            version: VERSION,
            kind: wanted.kind,
            workspace: self.root.display().to_string(),
            from: current.map(|build| build.id),
            before: previous.map(|build| build.id),
            to: build.id,
            wait_ms: u64::try_from(wanted.wait.as_millis()).unwrap_or(u64::MAX),
            phase: match wanted.kind {
                Kind::Update => Phase::Trying,
                Kind::Rollback => Phase::Rolling,
            },
            canary: None,
            renewed: Vec::new(),
            drained: Vec::new(),
            message: "beginning".to_owned(),
            error: None,
            began_ms: now_ms,
            updated_ms: now_ms,
        })
    }

    /// Whether a rollout that was broken off can go on: its builds are there, and one of the two runs. Blocking.
    pub fn can_go_on(&self, state: &Rollout) -> bool {
        let current = self.layout.current().map(|build| build.id);
        let runs = current.as_ref() == Some(&state.to) || current == state.from;
        runs && self.layout.build(&state.to).dir.is_dir()
    }
}
