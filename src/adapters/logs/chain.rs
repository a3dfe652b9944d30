//! A log file and its rotated ones, open for reading: renames and deletions no longer touch what is read.

use super::index::Mark;
use super::owners::Owners;
use super::rotate;
use flate2::read::MultiGzDecoder;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// At most this many files are opened for one reader.
const MOST_LINKS: usize = 64;
/// After this many missing suffixes there are no older files.
const MOST_MISSING: u32 = 3;

/// One file.
#[derive(Debug)]
pub(super) struct Link {
    /// Its number, as in [`Mark::file_no`].
    pub no: u64,
    /// The file.
    pub file: File,
    /// It is compressed.
    pub gz: bool,
    /// Its length when it was opened, in bytes (compressed, if it is): what comes later is not read.
    pub len: u64,
}

/// The files, newest first, and what is known of their lines.
#[derive(Debug)]
pub(super) struct Chain {
    pub links: Vec<Link>,
    pub marks: Vec<Mark>,
    /// The number after the last line on disk.
    pub next: u64,
    /// Whose its lines are.
    pub owners: Owners,
}

impl Chain {
    /// A chain without files yet.
    pub fn empty(marks: Vec<Mark>, next: u64, owners: Owners) -> Self {
        Self {
            links: Vec::new(),
            marks,
            next,
            owners,
        }
    }

    /// The chain of a path that no sink owns.
    pub fn of_path(path: &Path, bytes: u64) -> Self {
        let mut chain = Self::empty(Vec::new(), 0, Owners::default());
        chain.open(path, u64::MAX, None, bytes, 0);
        chain
    }

    /// Opens the files of `path`, newest first, until they hold `bytes` bytes or number `back_to` is reached. `current` is the
    /// file itself if it is open already.
    pub fn open(
        &mut self,
        path: &Path,
        newest: u64,
        current: Option<(File, u64)>,
        bytes: u64,
        back_to: u64,
    ) {
        let mut total = 0;
        if let Some((file, len)) = current.or_else(|| open_regular(path)) {
            total += len;
            self.links.push(Link {
                no: newest,
                file,
                gz: false,
                len,
            });
        }
        let mut missing = 0;
        for n in 1..=rotate::MOST_FILES {
            let no = newest - n;
            if no < back_to
                || total >= bytes
                || self.links.len() >= MOST_LINKS
                || missing > MOST_MISSING
            {
                return;
            }
            // The compressed file appears before the plain one goes: in this order one of them is found.
            let found = open_regular(&rotate::rotated(path, n))
                .map(|found| (found, false))
                .or_else(|| open_regular(&rotate::zipped(path, n)).map(|found| (found, true)));
            match found {
                Some(((file, len), gz)) => {
                    total += len;
                    self.links.push(Link { no, file, gz, len });
                }
                None => missing += 1,
            }
        }
    }

    /// The marks of one file, oldest first.
    pub fn marks_of(&self, no: u64) -> &[Mark] {
        let from = self.marks.partition_point(|mark| mark.file_no < no);
        let to = self.marks.partition_point(|mark| mark.file_no <= no);
        &self.marks[from..to]
    }

    /// The number after the last line of file `no`.
    pub fn ends(&self, no: u64) -> u64 {
        let after = self.marks.partition_point(|mark| mark.file_no <= no);
        self.marks.get(after).map_or(self.next, |mark| mark.ends)
    }
}

impl Link {
    /// Its text from `offset` on.
    pub fn reader(&self, offset: u64) -> io::Result<Box<dyn BufRead + Send>> {
        let mut file = self.file.try_clone()?;
        if self.gz {
            file.seek(SeekFrom::Start(0))?;
            let mut text = MultiGzDecoder::new(BufReader::new(file));
            io::copy(&mut (&mut text).take(offset), &mut io::sink())?;
            return Ok(Box::new(BufReader::with_capacity(64 << 10, text)));
        }
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(BufReader::with_capacity(
            64 << 10,
            file.take(self.len.saturating_sub(offset)),
        )))
    }

    /// Nothing was written later, in milliseconds since the Unix epoch; `None` if the system does not tell. The kernel stamps files with
    /// the time of its last tick.
    pub fn written_by_ms(&self) -> Option<u64> {
        let meta = self.file.metadata().ok()?;
        let stamp = u64::try_from(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000).ok()?;
        Some(stamp + LONGEST_TICK_MS)
    }
}

/// Between two ticks of the slowest kernel (CONFIG_HZ=100), in milliseconds.
const LONGEST_TICK_MS: u64 = 10;

/// A regular file and its length; anything else, or an error, is no file to us.
fn open_regular(path: &Path) -> Option<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    meta.is_file().then_some((file, meta.len()))
}

/// Reads one line into `line`, its `\n` included, and keeps at most `keep` bytes of it; returns its whole length, 0 at the end.
pub(super) fn read_line(
    reader: &mut dyn BufRead,
    line: &mut Vec<u8>,
    keep: usize,
) -> io::Result<usize> {
    line.clear();
    let mut length = 0;
    loop {
        let block = reader.fill_buf()?;
        let end = memchr::memchr(b'\n', block).map(|at| at + 1);
        let used = end.unwrap_or(block.len());
        line.extend_from_slice(&block[..used.min(keep.saturating_sub(line.len()))]);
        length += used;
        reader.consume(used);
        if end.is_some() || used == 0 {
            return Ok(length);
        }
    }
}
