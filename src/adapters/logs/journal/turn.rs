//! One turn: its head, written before anything happens, and how far each file is.

use super::book::{Book, Kept};
use super::layout::{DECOR_BYTES, STREAMS, VERSIONS, head};
use crate::sys::shm::{Buffer, waiting};
use std::os::fd::OwnedFd;

/// A stream whose last turn brought this much is read by read(2), which is the cheaper call then. In bytes.
const MANY: usize = 16 << 10;
/// It takes this much for that, in bytes.
const MARKED_LEAST: usize = 4 << 10;
/// The mark that tells whether a read(2) has happened, in bytes.
const MARK_BYTES: usize = 16;
/// The word for "not known yet how much".
const UNKNOWN: u64 = u64::MAX;
/// The bit beside the ordinal that says so of [`Progress::cuts`].
const CUTS: u64 = 1 << 32;
/// The values of [`head::HOW`].
const SPLICED: u64 = 1;
const MARKED: u64 = 2;

/// What a turn does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// Takes bytes from a pipe.
    Data = 1,
    /// Ends the unfinished line.
    Finish = 2,
    /// Tells in a file what was dropped.
    Notice = 3,
    /// Shows an unfinished line before it ends.
    Show = 4,
}

/// What is known before a turn begins.
#[derive(Debug)]
pub(in super::super) struct Head<'a> {
    pub kind: Kind,
    /// The stream's slot.
    pub stream: u32,
    pub wall_ms: u64,
    /// How lines look, and the text around each; for a notice: the notice.
    pub style: u64,
    pub decor: &'a [u8],
    /// The slots of the files, in the order in which they are written.
    pub sinks: [Option<u32>; 2],
}

/// How far a turn is: files before `ordinal` are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Progress {
    pub ordinal: u64,
    /// The number of the file being written; 0 before the first write.
    pub file_no: u64,
    /// Its device and inode; 0 when it is not open yet.
    pub identity: (u64, u64),
    /// Its size when the part below was begun.
    pub size: u64,
    /// How many bytes of the turn's text are in files.
    pub done: u64,
    /// How many are being written, to the place `size`.
    pub part: u64,
    /// A rotation is under way: its step + 1.
    pub rotating: u64,
    /// The turn's text begins with the end of another stream's line, of which the file showed the beginning.
    pub cuts: bool,
}

/// A turn that a process left under way.
#[derive(Debug)]
pub(in super::super) struct Interrupted {
    pub kind: Kind,
    pub stream: u32,
    pub wall_ms: u64,
    pub style: u64,
    pub decor: Vec<u8>,
    pub sinks: [Option<u32>; 2],
    /// How many bytes it took into the buffer.
    pub taken: usize,
    pub progress: Progress,
}

impl Progress {
    fn words(&self) -> [u64; 8] {
        let (dev, ino) = self.identity;
        let Self {
            ordinal,
            file_no,
            size,
            done,
            part,
            rotating,
            cuts,
            ..
        } = *self;
        let ordinal = ordinal | if cuts { CUTS } else { 0 };
        [ordinal, file_no, dev, ino, size, done, part, rotating]
    }

    fn from_words(words: [u64; 8]) -> Self {
        let [ordinal, file_no, dev, ino, size, done, part, rotating] = words;
        Self {
            ordinal: ordinal & !CUTS,
            cuts: ordinal & CUTS != 0,
            file_no,
            identity: (dev, ino),
            size,
            done,
            part,
            rotating,
        }
    }
}

impl Kept {
    fn mark(&self) -> [u8; MARK_BYTES] {
        let words = [0, 1].map(|n| self.words.load(head::MARK + n).to_ne_bytes());
        std::array::from_fn(|n| words[n / 8][n % 8])
    }

    fn begin(&mut self, turn: &Head, how: u64, want: usize) {
        let words = &self.words;
        if turn.kind == Kind::Show {
            words.store(head::VERSION, *VERSIONS.end());
        }
        words.store(head::KIND, turn.kind as u64);
        words.store(head::STREAM, u64::from(turn.stream));
        words.store(head::WALL_MS, turn.wall_ms);
        words.store(head::HOW, how);
        words.store(head::WANT, want as u64);
        words.store(head::TAKEN, UNKNOWN);
        words.store(head::STYLE, turn.style);
        let decor = &turn.decor[..turn.decor.len().min(DECOR_BYTES)];
        words.store(head::DECOR_LEN, decor.len() as u64);
        for (at, piece) in decor.chunks(8).enumerate() {
            let bytes = std::array::from_fn(|n| piece.get(n).copied().unwrap_or(0));
            words.store(head::DECOR + at, u64::from_ne_bytes(bytes));
        }
        for (at, slot) in turn.sinks.iter().enumerate() {
            words.store(head::SINKS + at, slot.map_or(0, |slot| u64::from(slot) + 1));
        }
        self.progress = Progress::default();
        self.flip();
        self.step();
        self.turn += 1;
        self.open = true;
        self.words.store(head::STATE, self.turn << 1 | 1);
        self.step();
    }

    fn cancel(&mut self) {
        if self.open {
            self.turn -= 1;
            self.open = false;
            self.words.store(head::STATE, self.turn << 1);
        }
    }

    /// Commits the turn: from here on what it has saved holds.
    pub(super) fn commit(&mut self) {
        if !self.open {
            self.turn += 1;
        }
        self.step();
        self.open = false;
        self.words.store(head::STATE, self.turn << 1);
        self.step();
    }

    /// Stores the progress as a whole.
    fn flip(&mut self) {
        self.step();
        let which = 1 - self.words.load(head::WHICH).min(1);
        let at = head::PROGRESS + 8 * usize::from(which == 1);
        for (n, word) in self.progress.words().into_iter().enumerate() {
            self.words.store(at + n, word);
        }
        self.words.store(head::WHICH, which);
        self.step();
    }

    /// The progress as it is stored.
    pub(super) fn stored_progress(&self) -> Progress {
        let at = head::PROGRESS + 8 * usize::from(self.words.load(head::WHICH) == 1);
        Progress::from_words(std::array::from_fn(|n| self.words.load(at + n)))
    }

    /// The slots of the files of the turn.
    pub(super) fn turn_sinks(&self) -> [Option<u32>; 2] {
        [0, 1].map(|n| {
            let slot = self.words.load(head::SINKS + n).checked_sub(1)?;
            u32::try_from(slot).ok()
        })
    }

    fn interrupted(&self, buffer: &Buffer) -> Option<Interrupted> {
        let load = |at| self.words.load(at);
        let size = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
        if !self.open {
            return None;
        }
        let kind = [Kind::Data, Kind::Finish, Kind::Notice, Kind::Show]
            .into_iter()
            .find(|kind| *kind as u64 == load(head::KIND))?;
        let stream = u32::try_from(load(head::STREAM)).ok()?;
        if stream as usize >= STREAMS {
            return None;
        }
        let bytes = buffer.bytes();
        let want = size(load(head::WANT)).min(bytes.len());
        let taken = match (load(head::TAKEN), load(head::HOW)) {
            (UNKNOWN, MARKED) if bytes[..want].ends_with(&self.mark()) => 0,
            (UNKNOWN, MARKED) => want,
            (UNKNOWN, _) => buffer.spliced(),
            (taken, _) => size(taken).min(bytes.len()),
        };
        let decor_len = size(load(head::DECOR_LEN)).min(DECOR_BYTES);
        let decor = (0..decor_len.div_ceil(8))
            .flat_map(|n| load(head::DECOR + n).to_ne_bytes())
            .take(decor_len)
            .collect();
        Some(Interrupted {
            kind,
            stream,
            wall_ms: load(head::WALL_MS),
            style: load(head::STYLE),
            decor,
            sinks: self.turn_sinks(),
            taken,
            progress: self.progress,
        })
    }
}

impl Book {
    /// Begins a turn that takes nothing from a pipe.
    pub fn begin(&mut self, turn: &Head) {
        if let Some(kept) = self.kept() {
            kept.begin(turn, 0, 0);
        }
    }

    /// Begins a turn and takes what the pipe holds into the buffer; on an error, or for nothing, there is no turn. `many` is whether
    /// the stream's last turn brought much. `EINVAL`: it cannot be read this way.
    ///
    /// splice(2) counts what it takes in the memfd's own offset, whatever happens to us. read(2) is faster for much: of a pipe that
    /// holds enough it is all or nothing while the buffer's pages are locked, and the mark laid at the end tells which.
    pub fn take(
        &mut self,
        turn: &Head,
        buffer: &mut Buffer,
        pipe: &OwnedFd,
        many: &mut bool,
    ) -> nix::Result<usize> {
        let Some(kept) = self.kept() else {
            return Err(nix::errno::Errno::EINVAL);
        };
        let room = if *many { buffer.lock() } else { 0 };
        let held = match room {
            0 => 0,
            _ => waiting(pipe)?.min(room),
        };
        let got = if held >= MARKED_LEAST {
            buffer.bytes_mut()[held - MARK_BYTES..held].copy_from_slice(&kept.mark());
            kept.begin(turn, MARKED, held);
            buffer.read(pipe, held)
        } else {
            // Before the turn begins: from then on the offset counts.
            buffer.rewind()?;
            kept.begin(turn, SPLICED, 0);
            buffer.splice(pipe)
        };
        kept.step();
        match got {
            Ok(length) if length > 0 => {
                *many = length >= MANY;
                kept.words.store(head::TAKEN, length as u64);
                kept.step();
            }
            _ => kept.cancel(),
        }
        got
    }

    /// Takes back a turn that has done nothing.
    pub fn cancel(&mut self) {
        if let Some(kept) = self.kept() {
            kept.cancel();
        }
    }

    /// The turn that the last process left under way, and which is now ours to complete.
    pub fn interrupted(&mut self, buffer: &Buffer) -> Option<Interrupted> {
        self.kept().and_then(|kept| kept.interrupted(buffer))
    }

    fn note(&mut self, change: impl FnOnce(&mut Progress)) {
        if let Some(kept) = self.kept().filter(|kept| kept.open) {
            change(&mut kept.progress);
            kept.flip();
        }
    }

    /// The next `part` bytes of the text are about to be written to this file, at `size`.
    pub fn writing(&mut self, file_no: u64, identity: (u64, u64), size: u64, part: usize) {
        self.note(|progress| {
            (progress.file_no, progress.identity) = (file_no, identity);
            (progress.size, progress.part) = (size, part as u64);
        });
    }

    /// Whether the text for this file begins with the end of another stream's line: told before anything is written.
    pub fn cutting(&mut self, cuts: bool) {
        if self.kept().is_some_and(|kept| kept.progress.cuts != cuts) {
            self.note(|progress| progress.cuts = cuts);
        }
    }

    /// They are in the file.
    pub fn written(&mut self) {
        self.note(|progress| {
            progress.done += progress.part;
            progress.size += std::mem::take(&mut progress.part);
        });
    }

    /// So much of the text is in files now, and the file is so long, as was found out after an interruption: who is interrupted
    /// again must not take our own lines for another program's.
    pub fn found_done(&mut self, done: usize, size: u64) {
        self.note(|progress| {
            (progress.done, progress.part, progress.size) = (done as u64, 0, size);
        });
    }

    /// The rotation of this file is about to do this step.
    pub fn rotating(&mut self, file_no: u64, identity: (u64, u64), step: u64) {
        self.note(|progress| {
            (progress.file_no, progress.identity) = (file_no, identity);
            progress.rotating = step + 1;
        });
    }

    /// It is over: the current file has this number now.
    pub fn rotated(&mut self, file_no: u64) {
        self.note(|progress| {
            (progress.file_no, progress.identity) = (file_no, (0, 0));
            (progress.size, progress.rotating) = (0, 0);
        });
    }

    /// The rotation failed.
    pub fn not_rotated(&mut self) {
        self.note(|progress| progress.rotating = 0);
    }

    /// This file is done with, and is saved.
    pub fn next_file(&mut self) {
        self.note(|progress| {
            let ordinal = progress.ordinal + 1;
            *progress = Progress {
                ordinal,
                ..Progress::default()
            };
        });
    }
}
