//! Where the models of a workspace lie, and the locks that guard them.

use super::error::PullError;
use super::place;
use crate::comfyui::workspace::Workspace;
use crate::sys::lockfile::{LockError, LockFile, Share};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock that another process holds is asked for.
const PERIOD: Duration = Duration::from_millis(200);

/// The folders that models lie in. Cheap to make; nothing is kept open.
#[derive(Debug, Clone)]
pub struct Store {
    workspace: Workspace,
}

impl Store {
    /// A workspace's.
    pub fn of(workspace: &Workspace) -> Self {
        Self {
            workspace: workspace.clone(),
        }
    }

    /// The models that all instances share.
    pub fn models(&self) -> PathBuf {
        self.workspace.models()
    }

    /// The real files that links of `static-models.json` lead to.
    pub fn sources(&self) -> PathBuf {
        self.workspace.root().join("sd_models")
    }

    /// The file that tells ComfyUI of the folders.
    pub fn list(&self) -> PathBuf {
        self.workspace.extra_model_paths()
    }

    /// The workspace's folder.
    pub fn root(&self) -> &Path {
        self.workspace.root()
    }

    pub(super) fn state(&self) -> PathBuf {
        self.workspace.state_dir()
    }

    /// `models.json` and `static-models.json` in the workspace, those that are there.
    pub fn default_manifests(&self) -> Vec<PathBuf> {
        ["models.json", "static-models.json"]
            .map(|name| self.root().join(name))
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok())
            .collect()
    }

    /// The path of a file of the models folder.
    ///
    /// # Errors
    /// It would lead out of the folder.
    pub(super) fn path(&self, file: &str) -> Result<PathBuf, PullError> {
        Ok(place::below(&self.models(), file)?)
    }

    /// Makes the folders that are needed here.
    pub(super) fn prepare(&self) -> Result<(), PullError> {
        for folder in [self.models(), self.locks()] {
            std::fs::create_dir_all(&folder).map_err(PullError::io("make", &folder))?;
        }
        Ok(())
    }

    fn locks(&self) -> PathBuf {
        self.state().join("locks")
    }

    fn lock_path(&self, kind: &str, name: &str) -> PathBuf {
        self.locks()
            .join(format!("{kind}-{:.24}.lock", super::hash::of_text(name)))
    }

    /// The lock on a file of the models folder, if nobody has it.
    pub(super) fn try_lock(&self, file: &str) -> Result<Option<LockFile>, PullError> {
        let path = self.lock_path("model", file);
        match acquire(&path)? {
            Ok(lock) => Ok(Some(lock)),
            Err(_) => Ok(None),
        }
    }

    /// The lock on a file, or on a content by its sum, however long it takes. `waiting` is told once if another has it.
    pub(super) fn lock(
        &self,
        kind: &str,
        name: &str,
        waiting: &dyn Fn(Option<u32>),
    ) -> Result<LockFile, PullError> {
        let path = self.lock_path(kind, name);
        let mut told = false;
        loop {
            match acquire(&path)? {
                Ok(lock) => return Ok(lock),
                Err(pid) => {
                    if !std::mem::replace(&mut told, true) {
                        waiting(pid);
                    }
                    // The kernel frees it when its holder ends, and tells nobody.
                    std::thread::sleep(PERIOD);
                }
            }
        }
    }
}

/// The lock, or who holds it.
fn acquire(path: &Path) -> Result<Result<LockFile, Option<u32>>, PullError> {
    match LockFile::try_acquire(
        path,
        std::process::id().to_string().as_bytes(),
        Share::Owner,
    ) {
        Ok(lock) => Ok(Ok(lock)),
        Err(LockError::Held { pid, note, .. }) => {
            let noted = || String::from_utf8(note).ok()?.trim().parse().ok();
            Ok(Err(pid.or_else(noted)))
        }
        Err(error) => Err(PullError::Io {
            action: "lock",
            path: path.to_owned(),
            source: std::io::Error::other(error),
        }),
    }
}
