//! What the daemon has on disk while it lives: its home, the lock, sockets, pid file.

use super::BootError;
use crate::adapters::keeper::Keeper;
use crate::core::keeping::{Held, Key};
use crate::core::spec::home::Home;
use crate::sys::lockfile::{LockError, LockFile, Share};
use crate::sys::private;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Whether other users could write to the home until now.
pub(super) fn prepare_home(home: &Home) -> Result<bool, BootError> {
    let cannot = |what, path: PathBuf| move |source| BootError::Home { what, path, source };
    // What is in it holds environments: nobody else's business.
    let others_wrote =
        private::folder(home.root()).map_err(cannot("use", home.root().to_owned()))?;
    for folder in [home.logs(), home.pids(), home.modules()] {
        std::fs::create_dir_all(&folder).map_err(cannot("create", folder))?;
    }
    Ok(others_wrote)
}

/// One daemon a home: the lock dies with its holders, which are the daemon and its keeper.
pub(super) fn take_lock(
    home: &Home,
    keeper: &Keeper,
    inherited: Option<OwnedFd>,
) -> Result<LockFile, BootError> {
    let (path, note) = (home.lock_file(), std::process::id().to_string());
    let lock = match inherited {
        Some(lock) => LockFile::adopt(&path, lock, note.as_bytes()),
        None => LockFile::try_acquire(&path, note.as_bytes(), Share::Owner),
    };
    let lock = lock.map_err(|error| match error {
        LockError::Held { .. } => BootError::Running {
            home: home.root().to_owned(),
        },
        other => BootError::Home {
            what: "lock",
            path: home.lock_file(),
            source: io::Error::other(other),
        },
    })?;
    keeper
        .hold(&[(Key::own(Held::HomeLock), lock.as_fd())])
        .map_err(|source| BootError::Setup {
            what: "the keeper",
            source,
        })?;
    Ok(lock)
}

/// The listener that a former daemon has left, or a new one. Under the home's lock a socket that exists is a dead one's.
pub(super) fn listen(
    path: &Path,
    keeper: &Keeper,
    held: Held,
    inherited: Option<OwnedFd>,
) -> Result<UnixListener, BootError> {
    if let Some(listener) = inherited.filter(|_| path.exists()) {
        return Ok(listener.into());
    }
    let at = |what| {
        move |source| BootError::Home {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let listener = private::listen(path).map_err(at("listen on"))?;
    keeper
        .hold(&[(Key::own(held), listener.as_fd())])
        .map_err(at("have held"))?;
    Ok(listener)
}

pub(super) fn remove_sockets(home: &Home) {
    for path in [home.rpc_socket(), home.pub_socket()] {
        // Gone is what is wanted.
        let _ = std::fs::remove_file(path);
    }
}

pub(super) fn remove_files(home: &Home) {
    remove_sockets(home);
    let _ = std::fs::remove_file(home.pid_file());
}
