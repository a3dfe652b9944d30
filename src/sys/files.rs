//! Replacing a file as a whole: a crash, a power cut or a full disk leaves the old one or the new one, never half of either.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many names may be taken before a write is refused.
const TAKEN: u32 = 100;

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone (0600): it may hold secrets.
    Owner,
    /// Whoever the umask lets (0666 less the umask).
    Anybody,
}

/// Temporary file beside it, fsync, rename, fsync of the folder. What a killed writer left beside it is cleared away.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    Written::beside(path, bytes, readers)?.become_file(path)
}

/// A whole new content, on disk under a temporary name. Dropped, it goes again.
pub(super) struct Written {
    temporary: PathBuf,
    /// Locked as long as its writer lives: that is how a leftover is known.
    _file: Flock<File>,
}

impl Written {
    /// Writes and syncs it beside `path`.
    pub(super) fn beside(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<Self> {
        sweep(path)?;
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::Anybody => 0o666,
        };
        let mut taken = 0;
        let (temporary, file) = loop {
            let temporary = temporary_name(path)?;
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary);
            let file = match made {
                Ok(file) => file,
                // A living writer's of another pid namespace, or a link that somebody planted: not written to.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && taken < TAKEN => {
                    taken += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Between our open and our lock another's sweep may have taken it for a leftover.
                Ok(file) if file.metadata()?.nlink() > 0 => break (temporary, file),
                Ok(_) | Err((_, nix::errno::Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => {
                    // The first failure is the one to tell.
                    let _ = fs::remove_file(&temporary);
                    return Err(errno.into());
                }
            }
        };
        let mut written = Self {
            temporary,
            _file: file,
        };
        written._file.write_all(bytes)?;
        written._file.sync_all()?;
        Ok(written)
    }

    /// Takes the place of `path`.
    pub(super) fn become_file(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.temporary, path)?;
        sync_folder(folder_of(path))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Gone is what is wanted; where it has taken its place the name is free already.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A second name for the file `from`, in the place of `to`. Takes no room; fails across file systems and where there are no
/// hard links.
pub fn link_over(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = temporary_name(to)?;
    fs::hard_link(from, &temporary)?;
    fs::rename(&temporary, to).inspect_err(|_| {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&temporary);
    })?;
    // rename(2) does nothing, and leaves both names, where they are one file already.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A rename is on disk once its folder is. Some file systems can't sync folders, and say so by EINVAL.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        outcome => outcome,
    }
}

/// `.NAME.PID-COUNT.tmp`.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(folder_of(path).join(format!(
        ".{}.{}-{}.tmp",
        name.to_string_lossy(),
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )))
}

/// Removes temporary files whose writers have gone. First of all: on a full disk they may be what fills it.
pub(super) fn sweep(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let prefix = format!(".{}.", name.to_string_lossy());
    let Ok(entries) = fs::read_dir(folder_of(path)) else {
        // A folder that may be written to and not read: nothing is known to be left there.
        return Ok(());
    };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let ours = file_name
            .to_str()
            .and_then(|text| text.strip_prefix(&prefix)?.strip_suffix(".tmp"))
            .is_some_and(|middle| {
                middle
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'-')
            });
        let Some(kind) = entry.file_type().ok().filter(|_| ours) else {
            continue;
        };
        if kind.is_symlink() {
            // Somebody has planted it; the name is ours.
            let _ = fs::remove_file(entry.path());
        }
        if !kind.is_file() {
            continue;
        }
        let dead = File::open(entry.path())
            .ok()
            .and_then(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
        if dead.is_some() {
            // Another sweep may have been first.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_replaced_file_is_the_owners_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for text in ["1", "2"] {
            replace(&path, text.as_bytes(), Readers::Owner).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, names(folder.path())), (0o600, vec!["x".to_owned()]));
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        // With this name no temporary name fits beside it.
        let name = "x".repeat(250);
        let path = folder.path().join(&name);
        fs::write(&path, "old").unwrap();
        assert!(replace(&path, b"new", Readers::Anybody).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), [name]);
    }

    #[test]
    fn leftovers_of_the_dead_are_cleared_and_what_a_living_writer_holds_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for name in [".x.1-0.tmp", ".x.mine.tmp", ".y.1-0.tmp"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        // The next name is taken, by a link.
        let next = temporary_name(&path).unwrap();
        let number: u64 = next
            .to_str()
            .unwrap()
            .trim_end_matches(".tmp")
            .rsplit('-')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let link = folder
            .path()
            .join(format!(".x.{}-{}.tmp", std::process::id(), number + 1));
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let living = Written::beside(&path, b"slow", Readers::Owner).unwrap();
        replace(&path, b"quick", Readers::Owner).unwrap();
        living.become_file(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "slow");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!link.is_symlink());
        let left = [".x.mine.tmp", ".y.1-0.tmp", "victim", "x"];
        assert_eq!(names(folder.path()), left);
    }
}
