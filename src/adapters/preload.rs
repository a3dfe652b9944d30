//! Our few files of JavaScript, put where Node can load them before an app's script.

use crate::sys::private;
use crate::sys::spawn::UserIds;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file of ours.
#[derive(Debug, Clone, Copy)]
pub struct Preload {
    /// Its name in PM2_HOME.
    pub name: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// What PM2's agent tells, for Node apps.
pub const AGENT: Preload = Preload {
    name: "fornax-agent.cjs",
    text: include_str!("agent.cjs"),
};

impl Preload {
    /// Writes the file into a folder, unless it is there as it should be; its path.
    pub fn install(self, folder: &Path) -> io::Result<PathBuf> {
        use std::io::Write;
        /// Apps are launched side by side, and the draft is one.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let path = folder.join(self.name);
        if std::fs::read(&path).is_ok_and(|text| text == self.text.as_bytes()) {
            return Ok(path);
        }
        // Beside it and renamed: an app may be reading it.
        let draft = folder.join(format!("{}.{}.tmp", self.name, std::process::id()));
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&draft)?;
        file.write_all(self.text.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(&draft, &path)?;
        Ok(path)
    }

    /// Makes Node load it first. Without it, for which the log has the cause, an app runs as well. Blocking.
    pub fn require(self, folder: &Path, args: &mut Vec<String>) {
        match self.install(folder) {
            Ok(path) => {
                let path = path.to_string_lossy().into_owned();
                args.splice(0..0, ["--require".to_owned(), path]);
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), file = self.name, %error, "cannot write what Node apps load first");
            }
        }
    }
}

/// Whether whoever an app runs as can read our home.
pub(super) fn is_own(user: &UserIds) -> bool {
    user.uid == nix::unistd::geteuid().as_raw()
}

/// A folder of ours that other users can read, which our home is not. Blocking.
pub(super) fn folder_for_others() -> Option<PathBuf> {
    let own = format!("fornax-{}", nix::unistd::geteuid());
    let places = [PathBuf::from("/run/fornax"), std::env::temp_dir().join(own)];
    places.into_iter().find(|folder| {
        private::readable_folder(folder)
            .inspect_err(|error| tracing::debug!(folder = %folder.display(), %error, "no place for what workers load first"))
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_launched_side_by_side_all_find_it() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(AGENT.install(dir.path()).unwrap().is_file()));
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_file_is_written_once_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = AGENT.install(dir.path()).unwrap();
        let first = std::fs::metadata(&path).unwrap().modified().unwrap();
        AGENT.install(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), first);
        std::fs::write(&path, "half").unwrap();
        AGENT.install(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), AGENT.text);
    }
}
