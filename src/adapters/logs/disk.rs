//! One open log file: appends whole lines, and takes back a line that a full disk has torn.

use memchr::{memchr, memmem, memrchr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// So much that other programs have appended is looked through for our own last lines, in bytes.
const FOREIGN_BYTES: u64 = 1 << 20;

/// A file open for appending. Owner: its sink.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    identity: (u64, u64),
    /// Regular files only are measured, rotated and truncated; a FIFO or a terminal is just written to.
    regular: bool,
    size: u64,
}

/// What another program did to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outside {
    /// Nothing.
    Untouched,
    /// Its length is not what we left.
    Resized,
    /// It has no name any more.
    Deleted,
}

/// A write that failed: so many bytes (whole lines) are in the file, the rest is not.
#[derive(Debug)]
pub(super) struct Torn {
    /// How many bytes were written, up to a line end.
    pub written: usize,
    /// Why it ended there.
    pub error: io::Error,
}

/// A file as it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilePrint {
    identity: (u64, u64),
    size: u64,
}

impl FilePrint {
    /// The three numbers that it is; an inode of 0 is none.
    pub fn words(&self) -> [u64; 3] {
        let (dev, ino) = self.identity;
        [dev, ino, self.size]
    }

    /// From [`FilePrint::words`].
    pub fn from_words([dev, ino, size]: [u64; 3]) -> Option<Self> {
        let identity = (dev, ino);
        (ino != 0).then_some(Self { identity, size })
    }

    /// Which file it is: device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Its length, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What stands at `path`; `None`: nothing.
    pub fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            identity: (meta.dev(), meta.ino()),
            size: meta.len(),
        })
    }

    /// Whether it is the same file, grown or not.
    pub fn is_same_file(&self, other: &FilePrint) -> bool {
        self.identity == other.identity
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    FilePrint::of(path).map(|print| print.identity)
}

/// Makes an empty file, so that whoever looks for an app's logs finds them from its start on (pm2 7.0.4). What is there already is not
/// even opened, and what goes wrong is told when there is something to write.
pub fn make_if_absent(path: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    // Mostly it fails because the file is there.
    drop(in_its_folder(path, || options.open(path)));
}

/// Opens it, after its folders are made if they are missing.
fn in_its_folder(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            open()
        }
        done => done,
    }
}

impl LogFile {
    /// Opens `path` for appending, with its folders; ends a last line that an earlier writer left open.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self::open_as_it_is(path)?;
        if log.regular && log.size > 0 && log.last_byte().is_ok_and(|byte| byte != b'\n') {
            log.append(b"\n").map_err(|torn| torn.error)?;
        }
        Ok(log)
    }

    /// Opens `path` for appending, with its folders.
    pub fn open_as_it_is(path: &Path) -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let open = || {
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .custom_flags(flags)
                .open(path)
        };
        let file = in_its_folder(path, open)?;
        let meta = file.metadata()?;
        Ok(Self {
            file,
            identity: (meta.dev(), meta.ino()),
            regular: meta.is_file(),
            size: meta.len(),
        })
    }

    /// How much of `part`, whose writing was begun at `from`, stands in the file, and whether nothing else comes after it.
    pub fn found(&self, part: &[u8], from: u64) -> io::Result<(usize, bool)> {
        if !self.regular || self.size <= from {
            return Ok((0, true));
        }
        let most = (part.len() as u64 + FOREIGN_BYTES).min(self.size - from);
        let mut there = vec![0; usize::try_from(most).unwrap_or(0)];
        self.reader()?.read_exact_at(&mut there, from)?;
        let same_at = |start: usize| {
            let same = there[start..].iter().zip(part).take_while(|(a, b)| a == b);
            same.count()
        };
        let first = &part[..memchr(b'\n', part).map_or(part.len(), |at| at + 1)];
        let (mut start, mut same) = (0, same_at(0));
        if same < first.len() && same < there.len() {
            // Another program has appended between our look at the size and our write.
            start = memmem::find(&there, first).unwrap_or(there.len());
            same = same_at(start);
        }
        Ok((same, from + (start + same) as u64 == self.size))
    }

    /// Shortens a regular file.
    pub fn cut(&mut self, size: u64) -> io::Result<()> {
        if self.regular && size < self.size {
            self.file.set_len(size)?;
            self.size = size;
        }
        Ok(())
    }

    /// Its device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    fn last_byte(&self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader()?.read_exact_at(&mut byte, self.size - 1)?;
        Ok(byte[0])
    }

    /// The same file, open for reading, whatever its name is by now.
    pub fn reader(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Which file it is, and its length: to know it again after it was closed.
    pub fn print(&self) -> FilePrint {
        FilePrint {
            identity: self.identity,
            size: self.size,
        }
    }

    /// Its length as far as we wrote it, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// Appends whole lines. On an error nothing of a torn line stays in the file.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), Torn> {
        let mut done = 0;
        while done < lines.len() {
            let error = match self.file.write(&lines[done..]) {
                Ok(0) => io::Error::from(ErrorKind::WriteZero),
                Ok(written) => {
                    done += written;
                    self.size += written as u64;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let whole = memrchr(b'\n', &lines[..done]).map_or(0, |at| at + 1);
            return Err(Torn {
                written: self.take_back(done - whole, whole),
                error,
            });
        }
        Ok(())
    }

    /// Removes the last `torn` bytes; returns how many bytes of whole lines stand.
    fn take_back(&mut self, torn: usize, whole: usize) -> usize {
        if torn > 0 && self.regular {
            let kept = self.size.saturating_sub(torn as u64);
            if self.file.set_len(kept).is_ok() {
                self.size = kept;
            } else if self.file.write(b"\n").is_ok_and(|n| n == 1) {
                // The torn piece could not be removed, so at least nothing is glued to it.
                self.size += 1;
            }
        }
        whole
    }

    /// Looks at the open file itself; takes over its length. Costs one `fstat`.
    pub fn outside(&mut self) -> Outside {
        if !self.regular {
            return Outside::Untouched;
        }
        match self.file.metadata() {
            Ok(meta) if meta.nlink() == 0 => Outside::Deleted,
            Ok(meta) if meta.len() != self.size => {
                self.size = meta.len();
                Outside::Resized
            }
            // fstat of an open file fails on a broken file system only; the next write will tell.
            Ok(_) | Err(_) => Outside::Untouched,
        }
    }

    /// Whether `path` names this file.
    pub fn is_at(&self, path: &Path) -> bool {
        identity_of(path) == Some(self.identity)
    }

    /// Empties it.
    pub fn truncate(&mut self) -> io::Result<()> {
        if self.regular {
            self.file.set_len(0)?;
            self.size = 0;
        }
        Ok(())
    }
}
