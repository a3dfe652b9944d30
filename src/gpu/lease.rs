//! GPU leases: one owner per GPU on the whole machine, by a lock file that dies with its holder.
//!
//! A GPU belongs to the machine, not to a user or to one daemon, so all of them must meet in one folder:
//! `FORNAX_LEASE_DIR` if set, else `/run/lock/fornax`, else `/tmp/fornax-leases` where the first cannot be made. The
//! folder is made with mode 1777, as `/tmp` itself: every user may add a lock file and nobody may remove another's.
//! The files have mode 0666, so that the next user can lock what the last one left. What that openness costs: a user of
//! the machine can hold a lease out of spite, and is then named. What it cannot cost is data: links are not followed,
//! files with a second name are refused, and notes are bounded and never trusted (see [`crate::sys::lockfile`]).
//! `/run/lock` comes first because cleaners of `/tmp` remove old files, and because it is not private to a service.

use crate::sys::lockfile::{LockError, LockFile, Share, start_time};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that names another folder for the lock files.
pub const DIR_VARIABLE: &str = "FORNAX_LEASE_DIR";

/// Where leases are kept unless the variable says otherwise, the best first.
const DIRS: [&str; 2] = ["/run/lock/fornax", "/tmp/fornax-leases"];

/// Who owns a GPU: the note in the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process that holds the lock.
    pub pid: u32,
    /// Its start time in clock ticks since boot, so that a reused pid is not taken for it.
    pub start_time: u64,
    /// Which daemon that is: its `PM2_HOME`.
    pub holder: String,
    /// The app that the GPU is leased for.
    pub app: String,
    /// Since when, in milliseconds since the Unix epoch; for people to read.
    pub since: u64,
}

impl Owner {
    /// This process, from now on.
    pub fn this_process(holder: &str, app: &str) -> Self {
        let pid = std::process::id();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
            holder: holder.to_owned(),
            app: app.to_owned(),
            since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// That very process still runs.
    fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// An owner read from a file that anybody may have written: no control characters reach a terminal.
    fn parse(note: &[u8]) -> Option<Self> {
        let owner: Self = serde_json::from_slice(note).ok()?;
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).collect();
        Some(Self {
            holder: clean(owner.holder),
            app: clean(owner.app),
            ..owner
        })
    }
}

/// A GPU that is ours until this is dropped or the process ends, in whatever way.
#[derive(Debug)]
pub struct Lease {
    uuid: String,
    lock: LockFile,
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Why a GPU was not leased.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody owns it.
    #[error(
        "GPU {uuid} is leased to app {app} of the daemon in {holder} (pid {pid}); stop that app first, \
         or give this one another GPU"
    )]
    Held {
        /// The GPU.
        uuid: String,
        /// The process that holds the lock.
        pid: u32,
        /// The `PM2_HOME` of that daemon.
        holder: String,
        /// The app it is leased for.
        app: String,
    },
    /// Somebody owns it who left no readable note.
    #[error(
        "GPU {uuid} is leased to {}, which left no note in {}; end that process, or give this app another GPU",
        pid.map_or("an unknown process".to_owned(), |pid| format!("process {pid}")), path.display()
    )]
    HeldByStranger {
        /// The GPU.
        uuid: String,
        /// The holder as the kernel tells it; `None` where it cannot be seen from here.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The UUID cannot be a file name.
    #[error(
        "{uuid:?} is not a GPU's UUID; use one that `fornax gpu list` shows, such as GPU-… or SIM-…"
    )]
    BadUuid {
        /// What was given.
        uuid: String,
    },
    /// The folder cannot be made or used.
    #[error("cannot use {} for GPU leases; set {DIR_VARIABLE} to a folder that you may write to", path.display())]
    Dir {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The lock file cannot be used.
    #[error("cannot lease GPU {uuid}: {source}")]
    Lock {
        /// The GPU.
        uuid: String,
        /// What went wrong.
        #[source]
        source: LockError,
    },
}

impl Lease {
    /// Leases the GPU `uuid` to `owner`, at once or not at all. `dir` is made if missing (see [`directory`]).
    ///
    /// The lock file of a dead holder is simply locked again. A second lease in one process is refused as well.
    ///
    /// # Errors
    /// [`LeaseError::Held`] says in words who has it.
    pub fn acquire(dir: &Path, uuid: &str, owner: &Owner) -> Result<Self, LeaseError> {
        let path = lock_path(dir, uuid)?;
        make_shared_dir(dir).map_err(|source| LeaseError::Dir {
            path: dir.to_owned(),
            source,
        })?;
        let note = serde_json::to_vec(owner).expect("an owner is numbers and text");
        match LockFile::try_acquire(&path, &note, Share::Everyone) {
            Ok(lock) => Ok(Self {
                uuid: uuid.to_owned(),
                lock,
            }),
            Err(LockError::Held { path, note, pid }) => Err(held(uuid, path, &note, pid)),
            Err(source) => Err(LeaseError::Lock {
                uuid: uuid.to_owned(),
                source,
            }),
        }
    }

    /// Goes on with a lease that another process has handed us with its lock; the note says from now on that it is ours.
    ///
    /// # Errors
    /// As [`Lease::acquire`], when the folder or the file cannot be used.
    pub fn adopt(dir: &Path, uuid: &str, owner: &Owner, lock: OwnedFd) -> Result<Self, LeaseError> {
        let path = lock_path(dir, uuid)?;
        let note = serde_json::to_vec(owner).expect("an owner is numbers and text");
        let lock = LockFile::adopt(&path, lock, &note).map_err(|source| LeaseError::Lock {
            uuid: uuid.to_owned(),
            source,
        })?;
        Ok(Self {
            uuid: uuid.to_owned(),
            lock,
        })
    }

    /// The GPU's UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        self.lock.path()
    }
}

/// The owner of a GPU, without taking its lock; `None` if nobody living says so. For lists: it can be out of date.
pub fn owner(dir: &Path, uuid: &str) -> Option<Owner> {
    let path = lock_path(dir, uuid).ok()?;
    Owner::parse(&LockFile::peek(&path)?).filter(Owner::is_alive)
}

/// The folder of the lock files: `FORNAX_LEASE_DIR`, else the first default that exists or can be made, and may be
/// written to. `env` looks up a variable.
///
/// # Errors
/// [`LeaseError::Dir`] if none can be used.
pub fn directory(env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, LeaseError> {
    if let Some(dir) = env(DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
        return usable(PathBuf::from(dir));
    }
    let [first, second] = DIRS;
    usable(PathBuf::from(first)).or_else(|_| usable(PathBuf::from(second)))
}

/// The folder, made and found writable.
fn usable(dir: PathBuf) -> Result<PathBuf, LeaseError> {
    use nix::unistd::{AccessFlags, access};
    let tried = make_shared_dir(&dir).and_then(|()| {
        access(&dir, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
    });
    match tried {
        Ok(()) => Ok(dir),
        Err(source) => Err(LeaseError::Dir { path: dir, source }),
    }
}

/// Makes the folder for all users, unless it is there. Folders above it are not made: they would be everybody's too. A link
/// in its place is refused: anybody may have put it there, to have files made where it points.
fn make_shared_dir(dir: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o1777).create(dir) {
        // The umask took bits away that other users need.
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1777)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match std::fs::symlink_metadata(dir)?.is_dir() {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            }
        }
        Err(error) => Err(error),
    }
}

/// The lock file of a GPU. A UUID comes from an ecosystem file, so it must not name a path.
fn lock_path(dir: &Path, uuid: &str) -> Result<PathBuf, LeaseError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if uuid.is_empty() || uuid.len() > 96 || !uuid.chars().all(plain) {
        return Err(LeaseError::BadUuid {
            uuid: uuid.chars().take(96).collect(),
        });
    }
    Ok(dir.join(format!("{uuid}.lock")))
}

/// The error for a held lock. A note counts only if its writer is alive and is the one that the kernel names: a holder
/// that has not written yet must not be called by the name of a dead one.
fn held(uuid: &str, path: PathBuf, note: &[u8], pid: Option<u32>) -> LeaseError {
    let owner = Owner::parse(note)
        .filter(Owner::is_alive)
        .filter(|owner| pid.is_none_or(|pid| pid == owner.pid));
    match owner {
        Some(owner) => LeaseError::Held {
            uuid: uuid.to_owned(),
            pid: owner.pid,
            holder: owner.holder,
            app: owner.app,
        },
        None => LeaseError::HeldByStranger {
            uuid: uuid.to_owned(),
            pid,
            path,
        },
    }
}
