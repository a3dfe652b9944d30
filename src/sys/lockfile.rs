//! Lock files that die with their holder: `flock(2)` on an open file, with a note inside that says who holds it.
//!
//! The kernel drops such a lock when the last descriptor of the open file is gone, so a SIGKILL of the holder frees it
//! and nothing is ever stale. The descriptor is close-on-exec: a child does not keep its parent's lock. The file
//! itself stays, because removing a lock file lets two processes lock two files of one name.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The most that is read of a note, in bytes: it may have been written by anybody.
pub const NOTE_LIMIT: u64 = 4096;

/// How often a lock is tried again when its file was replaced underneath.
const ATTEMPTS: u32 = 8;

/// Who may open the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// The owner only (mode 0600): a lock inside one user's own folder.
    Owner,
    /// Every user (mode 0666): a lock on something that the machine has once.
    Everyone,
}

/// A held lock. Dropping it clears the note and frees the lock.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another open file holds it; `note` is what its holder wrote, at most [`NOTE_LIMIT`] bytes, not to be trusted.
    #[error("{} is locked by another process", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder's note, possibly empty or half written.
        note: Vec<u8>,
        /// The holder's pid as the kernel tells it; `None` where it cannot be seen from here.
        pid: Option<u32>,
    },
    /// Something lies there that is not a plain file with one name, and is therefore not written to.
    #[error("{} is {what}, not a plain file; remove it", path.display())]
    Suspicious {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action} the lock file {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl LockFile {
    /// Takes the lock at `path` without waiting and writes `note` into the file. The folder must exist.
    ///
    /// A symbolic link is not followed, and a file with a second (hard) link is refused: in a folder that everybody may
    /// write to, either could point at somebody's data.
    ///
    /// # Errors
    /// [`LockError::Held`] when another open file has it, in this process or in another.
    pub fn try_acquire(path: &Path, note: &[u8], share: Share) -> Result<Self, LockError> {
        let io_error = |action| {
            move |source| LockError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        for _ in 0..ATTEMPTS {
            let mut file = open(path, share)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held {
                        path: path.to_owned(),
                        note: read_note(&mut file).unwrap_or_default(),
                        pid: kernel_holder(&file),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(io_error("lock")(source)),
            }
            // Between open and lock a cleaner may have removed the file: a lock on a nameless file guards nothing.
            if !is_still_at(&file, path) {
                continue;
            }
            let written = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(note));
            written.map_err(io_error("write"))?;
            return Ok(Self {
                file,
                path: path.to_owned(),
            });
        }
        Err(io_error("keep")(io::Error::other(
            "it was replaced again and again",
        )))
    }

    /// Goes on with a lock that another process has handed us with its descriptor, and writes a note of our own.
    ///
    /// # Errors
    /// [`LockError::Io`] if the note cannot be written.
    pub fn adopt(path: &Path, lock: OwnedFd, note: &[u8]) -> Result<Self, LockError> {
        let mut file = File::from(lock);
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note));
        written.map_err(|source| LockError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Where the lock file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The note of a lock file, without taking the lock; at most [`NOTE_LIMIT`] bytes. `None` if there is no such file
    /// or it cannot be read. Whether its writer still lives is for the caller to find out.
    pub fn peek(path: &Path) -> Option<Vec<u8>> {
        let mut file = options().read(true).open(path).ok()?;
        check(&file, path).ok()?;
        read_note(&mut file).ok()
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the kernel frees the lock at close in any case.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

/// The start time of a process in clock ticks since boot (`/proc/PID/stat`, field 22; proc(5)): with the pid it names one
/// process for ever, while a pid alone is reused. `None` if there is no such process.
pub fn start_time(pid: u32) -> Option<u64> {
    start_time_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of a stat line. The second field, the name, is in brackets and may itself hold blanks and brackets.
fn start_time_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Options for opening what a stranger may have put there. Non-blocking, so that a FIFO does not stop us.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

/// Opens the file, or creates it.
///
/// Never with plain `O_CREAT` on a file that exists: with `fs.protected_regular` (kernel documentation, sysctl/fs) the
/// kernel refuses that in a sticky folder for a file of another user, who may well have created this one first.
fn open(path: &Path, share: Share) -> Result<File, LockError> {
    let io_error = |source: io::Error| match source.raw_os_error() {
        Some(libc::ELOOP) => LockError::Suspicious {
            path: path.to_owned(),
            what: "a symbolic link",
        },
        _ => LockError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        },
    };
    let mode = match share {
        Share::Owner => 0o600,
        Share::Everyone => 0o666,
    };
    for _ in 0..ATTEMPTS {
        match options().read(true).write(true).open(path) {
            Ok(file) => {
                check(&file, path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
        }
        let created = options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path);
        match created {
            Ok(file) => {
                // The umask took bits away that other users need.
                file.set_permissions(Permissions::from_mode(mode))
                    .map_err(io_error)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(error)),
        }
    }
    Err(io_error(io::Error::other("it comes and goes")))
}

/// Refuses anything but a plain file with one name.
fn check(file: &File, path: &Path) -> Result<(), LockError> {
    let meta = file.metadata().map_err(|source| LockError::Io {
        action: "examine",
        path: path.to_owned(),
        source,
    })?;
    let what = if !meta.is_file() {
        "a folder or a special file"
    } else if meta.nlink() > 1 {
        "a file with a second name (a hard link)"
    } else {
        return Ok(());
    };
    Err(LockError::Suspicious {
        path: path.to_owned(),
        what,
    })
}

/// `path` still names the file that `file` is.
fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => ours.dev() == there.dev() && ours.ino() == there.ino(),
        _ => false,
    }
}

fn read_note(file: &mut File) -> io::Result<Vec<u8>> {
    let mut note = Vec::new();
    file.rewind()?;
    file.take(NOTE_LIMIT).read_to_end(&mut note)?;
    Ok(note)
}

/// Whether somebody holds the lock at `path`, without taking it. Where the kernel does not show locks, by its note: a lock that
/// was let go has none.
pub fn is_held(path: &Path) -> bool {
    let Ok(file) = options().read(true).open(path) else {
        return false;
    };
    match kernel_holder(&file) {
        Some(_) => true,
        None => LockFile::peek(path)
            .and_then(|note| serde_json::from_slice::<serde_json::Value>(&note).ok())
            .and_then(|note| u32::try_from(note["pid"].as_u64()?).ok())
            .is_some_and(|pid| start_time(pid).is_some()),
    }
}

/// Who took the `flock` on this file, by `/proc/locks` (proc(5)), if that process still runs: a lock outlives the process
/// that took it where another has inherited the descriptor. Of another pid namespace the kernel shows 0 or nothing.
fn kernel_holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    holder_in(&std::fs::read_to_string("/proc/locks").ok()?, &wanted)
        .filter(|pid| start_time(*pid).is_some())
}

/// The pid in the `/proc/locks` line of a granted `flock` on `wanted` (`major:minor:inode`).
fn holder_in(locks: &str, wanted: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, file, ..] if *file == wanted => {
                pid.parse().ok().filter(|pid| *pid > 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn lock_in(dir: &Path) -> Result<LockFile, LockError> {
        LockFile::try_acquire(&dir.join("a.lock"), b"note", Share::Everyone)
    }

    #[test]
    fn a_held_lock_is_refused_with_its_note_and_free_once_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_in(dir.path()).unwrap();
        match lock_in(dir.path()) {
            Err(LockError::Held { note, pid, .. }) => {
                assert_eq!(note, b"note");
                // Some sandboxes show no locks in /proc/locks; a wrong pid would be worse than none.
                assert!(pid.is_none_or(|pid| pid == std::process::id()), "{pid:?}");
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        assert_eq!(
            LockFile::peek(&dir.path().join("a.lock")).unwrap(),
            b"",
            "the note is cleared"
        );
        lock_in(dir.path()).unwrap();
    }

    #[test]
    fn a_child_does_not_keep_its_parents_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_in(dir.path()).unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop(held);
        let again = lock_in(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        again.unwrap();
    }

    #[test]
    fn every_user_may_open_the_file_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_in(dir.path()).unwrap();
        assert_eq!(
            held.path().metadata().unwrap().permissions().mode() & 0o777,
            0o666
        );
    }

    #[test]
    fn a_link_a_folder_or_a_pipe_in_its_place_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("a.lock");
        let fifo = || nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let traps: [&dyn Fn(); 4] = [
            &|| std::os::unix::fs::symlink(&victim, &path).unwrap(),
            &|| std::fs::hard_link(&victim, &path).unwrap(),
            &|| std::fs::create_dir(&path).unwrap(),
            &fifo,
        ];
        for (at, trap) in traps.iter().enumerate() {
            trap();
            let error = lock_in(dir.path()).unwrap_err();
            assert!(!matches!(error, LockError::Held { .. }), "{at}: {error:?}");
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{at}");
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn the_start_time_is_read_past_any_name() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 10 20";
        for name in ["(sh)", "(a b)", "(:) S 1 2 (x))"] {
            assert_eq!(start_time_in(&format!("42 {name} {tail}")), Some(98765));
        }
        for text in ["", "42 (sh", "42 (sh) S 1"] {
            assert_eq!(start_time_in(text), None, "{text}");
        }
        assert!(start_time(std::process::id()).is_some());
    }

    #[test]
    fn the_holder_is_the_granted_flock_on_that_very_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 00:2d:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 20 00:2d:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 30 00:2d:7 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 31 00:2d:7 0 EOF\n";
        assert_eq!(holder_in(locks, "00:2d:7"), Some(30));
        assert_eq!(holder_in(locks, "00:2d:8"), None);
        assert_eq!(holder_in("\n3: FLOCK\n", "00:2d:7"), None);
    }
}
