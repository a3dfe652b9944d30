//! An unfinished file: `NAME.part` and its notes in `NAME.part.json`. Both outlive whoever loads it.

use super::error::PullError;
use super::hash::Sum;
use crate::comfyui::files::read_limited;
use crate::sys::files::{self, Readers};
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The largest notes, in bytes.
const NOTES: u64 = 64 << 10;

/// What must be known to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    /// The source's key.
    pub(super) from: String,
    /// What If-Range is asked with.
    pub(super) validator: Option<String>,
    /// The whole size.
    pub(super) total: Option<u64>,
    /// The sum that the source announced.
    pub(super) sum: Option<String>,
    /// It came whole, and this is its sum, which is not the one that was wanted.
    pub(super) rejected: Option<String>,
    /// The boot of the machine that wrote it: after a power cut the end of a file may be zeros.
    pub(super) boot: String,
}

/// The unfinished file, open. Its lock is its opener's business.
pub(super) struct Part {
    pub(super) path: PathBuf,
    file: File,
    have: u64,
    sum: Option<Sum>,
    pub(super) notes: Notes,
}

/// `NAME.part` of a file.
pub(super) fn part_of(target: &Path) -> PathBuf {
    with(target, ".part")
}

/// `NAME.part.json` of a file.
pub(super) fn notes_of(target: &Path) -> PathBuf {
    with(target, ".part.json")
}

fn with(target: &Path, ending: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl Part {
    /// Opens what is there, or begins.
    pub(super) fn open(target: &Path) -> Result<Self, PullError> {
        let path = part_of(target);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(PullError::io("make", folder))?;
        }
        // A link that somebody has planted is not written through.
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(PullError::io("open", &path))?;
        let have = file
            .metadata()
            .map_err(PullError::io("look at", &path))?
            .len();
        let notes = read_limited(&notes_of(target), NOTES)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok());
        Ok(Self {
            path,
            file,
            have,
            sum: None,
            notes: notes.unwrap_or_default(),
        })
    }

    /// How many bytes are there.
    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// Whether what is there was written since the machine was booted.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.notes.boot == boot()
    }

    /// Throws away what is there.
    pub(super) fn reset(&mut self, from: &str) -> Result<(), PullError> {
        self.file
            .set_len(0)
            .map_err(PullError::io("write", &self.path))?;
        self.have = 0;
        self.sum = Some(Sum::default());
        self.notes = Notes {
            from: from.to_owned(),
            boot: boot(),
            ..Notes::default()
        };
        Ok(())
    }

    /// Writes the notes.
    pub(super) fn note(&self, target: &Path) -> Result<(), PullError> {
        let path = notes_of(target);
        let text = serde_json::to_vec_pretty(&self.notes).unwrap_or_default();
        files::replace(&path, &text, Readers::Anybody)
            .map_err(|error| self.told(target, &path, error))
    }

    /// Takes room on the disk for the rest, without making the file longer: its length is what has come.
    pub(super) fn reserve(&mut self, target: &Path, total: u64) -> Result<(), PullError> {
        let rest = total.saturating_sub(self.have);
        if rest == 0 {
            return Ok(());
        }
        let range = (i64::try_from(self.have), i64::try_from(rest));
        let (Ok(from), Ok(length)) = range else {
            return Err(self.full(target, rest));
        };
        match fallocate(
            &self.file,
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            from,
            length,
        ) {
            Ok(()) => Ok(()),
            Err(
                nix::errno::Errno::ENOSPC | nix::errno::Errno::EDQUOT | nix::errno::Errno::EFBIG,
            ) => Err(self.full(target, rest)),
            // A file system without it (NFS, FUSE): a look at what is free is the best there is.
            Err(_) if free(&self.path) < rest => Err(self.full(target, rest)),
            Err(_) => Ok(()),
        }
    }

    /// Goes to the end, with the sum of what is there.
    pub(super) fn go_on(&mut self) -> Result<(), PullError> {
        if self.sum.as_ref().is_none_or(|sum| sum.bytes() != self.have) {
            self.sum = Some(
                Sum::of_start(&mut self.file, self.have)
                    .map_err(PullError::io("read", &self.path))?,
            );
        }
        self.file
            .seek(SeekFrom::Start(self.have))
            .map_err(PullError::io("read", &self.path))?;
        Ok(())
    }

    /// Adds bytes.
    pub(super) fn write(&mut self, target: &Path, bytes: &[u8]) -> Result<(), PullError> {
        if let Err(error) = self.file.write_all(bytes) {
            let path = self.path.clone();
            return Err(self.told(target, &path, error));
        }
        if let Some(sum) = &mut self.sum {
            sum.take(bytes);
        }
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// The sum of all that is there.
    pub(super) fn sum(&mut self) -> Result<String, PullError> {
        self.go_on()?;
        Ok(self.sum.take().unwrap_or_default().text())
    }

    /// Gives back what was reserved and not used.
    pub(super) fn release(&mut self) {
        // Room that stays taken is no loss of data.
        let _ = self.file.set_len(self.have);
    }

    /// Takes the file's place: on disk whole before it has its name.
    pub(super) fn become_file(self, target: &Path) -> Result<fs::Metadata, PullError> {
        self.file
            .sync_all()
            .map_err(|error| self.told(target, &self.path, error))?;
        fs::rename(&self.path, target).map_err(PullError::io("rename", &self.path))?;
        // Without its file it says nothing, and gc clears it.
        let _ = fs::remove_file(notes_of(target));
        if let Some(folder) = target.parent() {
            files::sync_folder(folder).map_err(PullError::io("sync", folder))?;
        }
        self.file
            .metadata()
            .map_err(PullError::io("look at", target))
    }

    /// An error of writing, or of a full disk.
    fn told(&self, target: &Path, path: &Path, error: io::Error) -> PullError {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => self.full(
                target,
                self.notes
                    .total
                    .map_or(0, |total| total.saturating_sub(self.have)),
            ),
            _ => PullError::io("write", path)(error),
        }
    }

    fn full(&self, target: &Path, needed: u64) -> PullError {
        PullError::DiskFull {
            file: target.to_owned(),
            needed,
            free: free(&self.path),
            kept: self.have,
        }
    }
}

/// What is free for us on the file system of a path, in bytes.
pub(super) fn free(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |fs| fs.blocks_available() * fs.fragment_size())
}

/// This boot of the machine (proc(5), random/boot_id); empty where it cannot be told.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}
