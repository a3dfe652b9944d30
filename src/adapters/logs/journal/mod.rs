//! The journal: what the log plane keeps in memory that outlives its process, so that a SIGKILL costs no line.
//!
//! A *turn* takes bytes of one stream, writes their lines and remembers the unfinished one. It is under way or committed, by one
//! word. While it is under way the journal tells all that is needed to complete it: the bytes taken, the unfinished line before
//! them, the text put around lines, the files, and how far each of them is. A process that adopts the journal does so first.
//! What turns change is kept twice, and the copy of the latest committed turn holds.

mod book;
mod carry;
mod history;
mod layout;
mod slots;
mod turn;

mod rig;
#[cfg(test)]
mod shows;
#[cfg(test)]
mod stops;

pub(super) use book::Book;
pub(super) use carry::{StreamKey, StreamSeat};
pub(super) use history::{SavedSpan, SinkSeat};
pub(super) use layout::DECOR_BYTES as MOST_DECOR;
pub(super) use slots::{FoundSink, RECORD_WORDS};
pub(super) use turn::{Head, Interrupted, Kind, Progress};

use self::book::Kept;
use self::layout::{MAGIC, SIZES, VERSIONS, head};
use crate::sys::shm::{self, Buffer};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a journal of another process was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It could not be read or mapped.
    #[error("the log journal cannot be read")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is no log journal")]
    Foreign,
    /// Another version of the program made it.
    #[error("the log journal is of version {found}, and this program knows none after {known}")]
    Version {
        /// Its version.
        found: u64,
        /// Our latest.
        known: u64,
    },
    /// What it says cannot be.
    #[error("the log journal is damaged")]
    Damaged,
}

/// Memory for a log plane that outlives its process: a memfd of some 8 GiB, nearly all of it never touched.
#[derive(Debug)]
pub struct Journal {
    kept: Kept,
    buffer: Buffer,
}

impl Journal {
    /// An empty one. Fails where the system has no memfd or limits file sizes below 9 GiB (`ulimit -f`).
    pub fn create() -> io::Result<Self> {
        let (words, buffer, rest) = shm::create(c"fornax-logs", SIZES)?;
        // A clock before 1970 reads as 1970.
        let born = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        words.store(
            head::BORN,
            u64::try_from(born.as_millis()).unwrap_or(u64::MAX),
        );
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        words.store(head::MARK, high);
        words.store(head::MARK + 1, low);
        words.store(head::VERSION, *VERSIONS.start());
        words.store(head::MAGIC, MAGIC);
        let kept = Kept::new(words, rest);
        Ok(Self { kept, buffer })
    }

    /// Takes over the journal of a process that is gone: it must have been waited for, or nothing else may hold its pipes.
    pub fn adopt(fd: OwnedFd) -> Result<Self, JournalError> {
        let file = File::from(fd);
        let mut first = [0; 16];
        file.read_exact_at(&mut first, 0)
            .map_err(|_| JournalError::Foreign)?;
        let [magic, found] = [0, 8].map(|at| {
            let bytes: [u8; 8] = std::array::from_fn(|n| first[at + n]);
            u64::from_le_bytes(bytes)
        });
        if magic != MAGIC {
            return Err(JournalError::Foreign);
        }
        if !VERSIONS.contains(&found) {
            let known = *VERSIONS.end();
            return Err(JournalError::Version { found, known });
        }
        let (words, buffer, rest) =
            shm::adopt(file.into(), SIZES).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => JournalError::Damaged,
                _ => JournalError::Io(error),
            })?;
        let kept = Kept::adopt(words, rest).ok_or(JournalError::Damaged)?;
        Ok(Self { kept, buffer })
    }

    /// The memfd, for whoever keeps it alive. Its file offset belongs to the journal.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.kept.rest.fd()
    }

    /// When it was made, in milliseconds since the Unix epoch: line numbers count from then on, across adoptions.
    pub fn born_ms(&self) -> u64 {
        self.kept.words.load(head::BORN)
    }

    /// Whether its last process was ended while it was writing: then the next one begins with completing that.
    pub fn is_interrupted(&self) -> bool {
        self.kept.open
    }

    /// Its parts, for the engine.
    pub(super) fn open(self) -> (Book, Buffer) {
        (Book::new(self.kept), self.buffer)
    }

    /// Makes the engine end after so many of the journal's steps, as a SIGKILL there would.
    #[cfg(test)]
    pub(super) fn stop_after(&mut self, steps: u64) {
        self.kept.stop_after(steps);
    }
}
