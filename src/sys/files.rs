//! Replacing a file as a whole: a crash, a power cut or a full disk leaves the old one or the new one, never half of either.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone (0600): it may hold secrets.
    Owner,
    /// Whoever the umask lets (0666 less the umask).
    Anybody,
}

/// Temporary file beside it, fsync, rename, fsync of the folder.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = folder.join(format!(
        ".{}.{}.tmp",
        name.to_string_lossy(),
        std::process::id()
    ));
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::Anybody => 0o666,
    };
    let write = || {
        // One that is there is a dead process's, or a link that somebody planted: neither is written to.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&temporary);
    })
}

/// The same, and what was there becomes the backup. At no moment is there neither.
pub fn replace_with_backup(
    path: &Path,
    backup: &Path,
    bytes: &[u8],
    readers: Readers,
) -> io::Result<()> {
    match fs::read(path) {
        Ok(old) => replace(backup, &old, readers)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    replace(path, bytes, readers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_before_becomes_the_backup_and_others_cannot_read_either() {
        let folder = tempfile::tempdir().unwrap();
        let (path, backup) = (
            folder.path().join("dump.pm2"),
            folder.path().join("dump.pm2.bak"),
        );
        replace_with_backup(&path, &backup, b"[1]", Readers::Owner).unwrap();
        replace_with_backup(&path, &backup, b"[2]", Readers::Owner).unwrap();
        assert_eq!(
            (
                fs::read_to_string(&path).unwrap(),
                fs::read_to_string(&backup).unwrap()
            ),
            ("[2]".into(), "[1]".into())
        );
        for file in [&path, &backup] {
            assert_eq!(
                fs::metadata(file).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        replace(&path, b"old", Readers::Anybody).unwrap();
        // A folder of the temporary file's name makes the attempt fail, for root too.
        fs::create_dir(folder.path().join(format!(".x.{}.tmp", std::process::id()))).unwrap();
        assert!(replace(&path, b"new", Readers::Anybody).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
