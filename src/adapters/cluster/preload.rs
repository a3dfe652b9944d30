//! The few lines that a worker runs before its script, so that it can end without failing a request (`drain.cjs`).

use super::registry::Registry;
use crate::adapters::runner::RunPlan;
use crate::sys::private;
use crate::sys::spawn::UserIds;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const TEXT: &str = include_str!("drain.cjs");

impl Registry {
    /// What a worker that runs as `user` is to load first. Blocking. Without it one leaves as Node leaves, and may fail a request.
    pub fn preload(&self, user: Option<&UserIds>) -> Option<PathBuf> {
        let own = nix::unistd::geteuid().as_raw();
        let installed = if user.is_none_or(|user| user.uid == own) {
            install(&self.inner.folder)
        } else {
            install_for_others()
        };
        installed
            .inspect_err(
                |error| tracing::warn!(%error, "cannot write what lets workers leave gracefully"),
            )
            .ok()
    }
}

/// Writes the file into a folder, unless it is there as it should be; its path.
fn install(folder: &Path) -> io::Result<PathBuf> {
    use std::io::Write;
    /// Workers are launched side by side, and the draft is one.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = folder.join("fornax-drain.cjs");
    if std::fs::read(&path).is_ok_and(|text| text == TEXT.as_bytes()) {
        return Ok(path);
    }
    // Beside it and renamed: a worker may be reading it.
    let draft = folder.join(format!("fornax-drain.{}.tmp", std::process::id()));
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&draft)?;
    file.write_all(TEXT.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&draft, &path)?;
    Ok(path)
}

/// Writes it where workers of other users can read it, which they can't in our home; its path.
fn install_for_others() -> io::Result<PathBuf> {
    let own = format!("fornax-{}", nix::unistd::geteuid());
    let places = [PathBuf::from("/run/fornax"), std::env::temp_dir().join(own)];
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for folder in places {
        match private::readable_folder(&folder).and_then(|()| install(&folder)) {
            Ok(path) => return Ok(path),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes a run one of Node's cluster workers: `cluster.isWorker` is true in it, and it asks us for its listeners.
pub fn as_worker(plan: &mut RunPlan, unique_id: u32, preload: Option<PathBuf>) {
    plan.env
        .insert("NODE_UNIQUE_ID".to_owned(), unique_id.to_string());
    let node = plan
        .program
        .rsplit('/')
        .next()
        .is_some_and(|name| name == "node" || name == "nodejs");
    // Bun takes no part of Node's internals.
    if let Some(path) = preload.filter(|_| node)
        && let Some(path) = path.to_str()
    {
        plan.args
            .splice(0..0, ["--require".to_owned(), path.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_launched_side_by_side_all_find_it() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(install(dir.path()).unwrap().is_file()));
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_file_is_written_once_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = install(dir.path()).unwrap();
        let first = std::fs::metadata(&path).unwrap().modified().unwrap();
        install(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), first);
        std::fs::write(&path, "half").unwrap();
        install(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TEXT);
    }
}
