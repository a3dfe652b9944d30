//! The daemon's own log file, `pm2.log`: our standard output and error, kept from growing without bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Past this size, in bytes, the file becomes `pm2.log.1`.
const SIZE_LIMIT: u64 = 10 << 20;
/// So many old ones are kept.
const KEPT: u32 = 2;
/// After a rotation that failed, so many bytes are written before the next attempt.
const RETRY: u64 = 1 << 20;

/// Where the daemon's log goes. Owner: a lock in the tracing layer, held for one line.
#[derive(Debug)]
pub(super) struct OwnLog {
    path: PathBuf,
    /// Its size in bytes; `None` where standard error is no file of ours.
    written: Option<u64>,
    /// At what size it is rotated next.
    limit: u64,
}

impl OwnLog {
    /// Standard error as it is. It is rotated where it is the file at `path`.
    pub(super) fn new(path: &Path) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            written: None,
            limit: SIZE_LIMIT,
        };
        log.written = log.size_if_ours();
        log
    }

    /// One line, with its newline. A full disk under it must not stop the daemon: the line is lost then.
    pub(super) fn write(&mut self, line: &str) {
        let outcome = io::stderr().lock().write_all(line.as_bytes());
        if let (Ok(()), Some(written)) = (outcome, &mut self.written) {
            *written += line.len() as u64;
            if *written > self.limit {
                self.limit = match self.rotate() {
                    Ok(()) => SIZE_LIMIT,
                    Err(_) => self.written.unwrap_or_default() + RETRY,
                };
            }
        }
    }

    fn size_if_ours(&self) -> Option<u64> {
        let ours = std::fs::metadata(&self.path).ok()?;
        let stderr = nix::sys::stat::fstat(io::stderr()).ok()?;
        (ours.is_file() && (ours.dev(), ours.ino()) == (stderr.st_dev, stderr.st_ino))
            .then_some(ours.len())
    }

    /// Somebody else may have moved or emptied it: what the name stands for now is looked at first.
    fn rotate(&mut self) -> io::Result<()> {
        let size = self.size_if_ours();
        if size.is_some_and(|size| size <= SIZE_LIMIT) {
            self.written = size;
            return Ok(());
        }
        if size.is_some() {
            for turn in (1..KEPT).rev() {
                rename_if_there(&self.old(turn), &self.old(turn + 1))?;
            }
            rename_if_there(&self.path, &self.old(1))?;
        }
        let file = self.open().inspect_err(|_| {
            // Without a new file the old one goes on, under its name.
            let _ = std::fs::rename(self.old(1), &self.path);
        })?;
        nix::unistd::dup2_stdout(&file)?;
        nix::unistd::dup2_stderr(&file)?;
        self.written = Some(file.metadata()?.len());
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
    }

    fn old(&self, turn: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{turn}"));
        name.into()
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
