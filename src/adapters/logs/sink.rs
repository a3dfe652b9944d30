//! One log file and its owner: numbers its lines, rotates it, and lives through a full disk.

use super::disk::{FilePrint, LogFile, Outside};
use super::format::Moment;
use super::index::{Index, Mark};
use super::journal::{Book, SinkSeat};
use super::owners::Owners;
use super::rotate;
use super::shown::{Piece, Tail};
use super::stats::SinkStats;
use super::trouble::Trouble;
use crate::core::logline::count_lines;
use crate::core::spec::fornax::LogRotation;
use memchr::{memchr, memrchr};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the path is checked to still name our file, at most, and only while lines are written.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// After a failed rotation the file grows on for this long.
const ROTATE_RETRY: Duration = Duration::from_secs(30);
/// The number of a sink's first file; only differences count.
const FIRST_FILE: u64 = 1 << 32;

/// One file. Owner: the engine thread.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) path: Option<PathBuf>,
    pub(super) file: Option<LogFile>,
    /// The number of the current file; a rotated one's is less by its suffix.
    pub(super) file_no: u64,
    /// The next line's number.
    pub(super) next_seq: u64,
    /// The number after the last line in the file: behind `next_seq` while lines are being dropped.
    pub(super) disk_seq: u64,
    pub(super) index: Index,
    pub(super) owners: Owners,
    pub(super) rotation: LogRotation,
    pub(super) trouble: Option<Trouble>,
    /// An unfinished line of which the file shows the beginning.
    pub(super) tail: Option<Tail>,
    checked_at: Instant,
    rotate_at: Option<Instant>,
    /// Rotated files that wait to be compressed, by number.
    pub(super) unzipped: VecDeque<u64>,
    /// The file as it was when it was closed for want of writers.
    pub(super) left: Option<FilePrint>,
    pub(super) stats: SinkStats,
    /// How many streams write here; without one the file is closed.
    pub users: usize,
    /// When it was last written.
    pub used_at: Instant,
    /// Its place in the journal.
    pub(super) seat: Option<SinkSeat>,
}

impl Sink {
    /// The owner of `path`; with `None` it only numbers lines.
    pub fn new(path: Option<PathBuf>, now: Moment) -> Self {
        Self {
            stats: SinkStats {
                path: path.clone(),
                ..SinkStats::default()
            },
            path,
            file: None,
            file_no: FIRST_FILE,
            next_seq: 1,
            disk_seq: 1,
            index: Index::default(),
            owners: Owners::default(),
            rotation: LogRotation::default(),
            trouble: None,
            tail: None,
            checked_at: now.at,
            rotate_at: None,
            unzipped: VecDeque::new(),
            left: None,
            users: 0,
            used_at: now.at,
            seat: None,
        }
    }

    /// The number the next line will get.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Its counters.
    pub fn stats(&self) -> SinkStats {
        SinkStats {
            trouble: self.trouble.as_ref().map(|t| t.why.clone()),
            ..self.stats.clone()
        }
    }

    /// Writes whole lines and returns the first one's number. Lines that cannot be written are counted.
    pub fn append(&mut self, piece: &Piece, now: Moment, book: &mut Book) -> u64 {
        self.used_at = now.at;
        let writable = self.path.is_some() && self.is_ready(now);
        let cuts = writable && self.must_cut(piece);
        book.cutting(cuts);
        let first = self.next_seq;
        let (lines, before) = self.begun(piece, cuts);
        let count = before + piece.count;
        self.next_seq += count;
        if self.path.is_none() {
            self.stats.lines += count;
        } else if writable {
            self.write_lines(&lines, first, count, now, book);
        } else {
            self.give_up(lines.len() as u64, count);
        }
        self.save(book);
        book.next_file();
        first + before
    }

    /// Whether lines can be written now: opens the file. What is in trouble is tried again before a turn begins.
    pub(super) fn is_ready(&mut self, now: Moment) -> bool {
        if self.trouble.is_some() {
            return false;
        }
        let change = self
            .file
            .as_mut()
            .map_or(Outside::Untouched, LogFile::outside);
        match change {
            Outside::Untouched => {}
            Outside::Resized => {
                self.stats.outside_changes += 1;
                self.index.forget_file(self.file_no);
                self.lose_tail(false);
            }
            Outside::Deleted => self.leave_file(),
        }
        if now.at.duration_since(self.checked_at) >= CHECK_EVERY {
            self.checked_at = now.at;
            if let (Some(file), Some(path)) = (&self.file, &self.path)
                && file.is_regular()
                && !file.is_at(path)
            {
                self.leave_file();
            }
        }
        self.file.is_some() || self.open(now)
    }

    /// Turns away from a file that has lost our name.
    pub(super) fn leave_file(&mut self) {
        if let Some(file) = self.file.take() {
            self.moved_away(file.print());
        }
    }

    /// Another program took the file away: to `.1`, as logrotate does, or to where its lines are no longer found.
    fn moved_away(&mut self, print: FilePrint) {
        self.stats.outside_changes += 1;
        let first = self
            .path
            .as_ref()
            .and_then(|path| FilePrint::of(&rotate::rotated(path, 1)));
        if first.is_some_and(|first| first.is_same_file(&print)) {
            self.lose_tail(true);
            self.file_no += 1;
        } else {
            self.lose_tail(false);
            self.index.forget_file(self.file_no);
        }
    }

    /// Looks at what became of the file while it was closed.
    pub(super) fn recall(&mut self) {
        let (Some(left), Some(path)) = (self.left.take(), &self.path) else {
            return;
        };
        match FilePrint::of(path) {
            Some(found) if found == left => self.left = Some(left),
            Some(found) if found.is_same_file(&left) => {
                self.index.forget_file(self.file_no);
                self.lose_tail(false);
            }
            Some(_) | None => self.moved_away(left),
        }
    }

    pub(super) fn open(&mut self, now: Moment) -> bool {
        self.recall();
        let Some(path) = &self.path else { return false };
        let opened = match self.tail {
            Some(_) => LogFile::open_as_it_is(path),
            None => LogFile::open(path),
        };
        match opened {
            Ok(file) => {
                self.checked_at = now.at;
                self.left = None;
                self.file = Some(file);
                true
            }
            Err(error) => {
                self.fail(&error, now);
                false
            }
        }
    }

    pub(super) fn write_lines(
        &mut self,
        lines: &[u8],
        first: u64,
        count: u64,
        now: Moment,
        book: &mut Book,
    ) {
        let (mut rest, mut seq, mut left) = (lines, first, count);
        while !rest.is_empty() {
            let fit = self.fitting(rest, now);
            if fit == 0 {
                if !self.make_room(now, book) {
                    return self.give_up(rest.len() as u64, left);
                }
                continue;
            }
            let (part, after) = rest.split_at(fit);
            let part_count = if after.is_empty() {
                left
            } else {
                count_lines(part)
            };
            let Some(file) = &mut self.file else {
                return self.give_up(rest.len() as u64, left);
            };
            let mark = Mark {
                seq,
                ends: self.disk_seq,
                at_ms: now.wall_ms,
                file_no: self.file_no,
                offset: file
                    .size()
                    .saturating_sub(self.tail.as_ref().map_or(0, Tail::len)),
            };
            self.index.note(mark);
            if let Some(seat) = &mut self.seat {
                book.save_history(seat, &mut self.index, &mut self.owners);
            }
            book.writing(self.file_no, file.identity(), file.size(), part.len());
            if let Err(torn) = file.append(part) {
                let written = count_lines(&part[..torn.written]);
                self.count_written(torn.written as u64, written, seq);
                self.fail(&torn.error, now);
                if torn.written > 0 {
                    self.tail = None;
                }
                return self.give_up((rest.len() - torn.written) as u64, left - written);
            }
            book.written();
            self.tail = None;
            self.count_written(part.len() as u64, part_count, seq);
            (rest, seq, left) = (after, seq + part_count, left - part_count);
        }
    }

    /// Rotates the file; `false`: there is none now that could be written.
    pub(super) fn make_room(&mut self, now: Moment, book: &mut Book) -> bool {
        if let Err(error) = self.rotate(now, book) {
            book.not_rotated();
            tracing::warn!(path = ?self.path, %error, "log file could not be rotated and grows on");
            self.rotate_at = Some(now.at + ROTATE_RETRY);
        }
        self.file.is_some() || self.open(now)
    }

    /// How many bytes of `lines` may still go into this file; 0: rotate first. A line of which it shows the beginning goes there.
    pub(super) fn fitting(&self, lines: &[u8], now: Moment) -> usize {
        let Some(file) = &self.file else {
            return lines.len();
        };
        let most = self.rotation.max_size.0;
        let off = !self.rotation.rotate
            || most == 0
            || !file.is_regular()
            || self.rotate_at.is_some_and(|at| now.at < at);
        let room = usize::try_from(most.saturating_sub(file.size())).unwrap_or(usize::MAX);
        if off || lines.len() <= room {
            return lines.len();
        }
        match memrchr(b'\n', &lines[..room]) {
            Some(at) => at + 1,
            // A line longer than a whole file gets a file of its own.
            None if file.size() == 0 || self.tail.is_some() => {
                memchr(b'\n', lines).map_or(lines.len(), |at| at + 1)
            }
            None => 0,
        }
    }

    fn rotate(&mut self, now: Moment, book: &mut Book) -> io::Result<()> {
        let (Some(path), Some(file)) = (&self.path, &self.file) else {
            return Ok(());
        };
        let (identity, retain) = (file.identity(), u64::from(self.rotation.retain));
        rotate::shift(path, retain, rotate::FIRST_STEP, |step| {
            book.rotating(self.file_no, identity, step);
        })?;
        self.file = None;
        self.has_rotated();
        book.rotated(self.file_no);
        self.open(now);
        Ok(())
    }

    /// The file has got its suffix.
    pub(super) fn has_rotated(&mut self) {
        self.rotate_at = None;
        let rotated = self.file_no;
        self.file_no += 1;
        self.stats.rotations += 1;
        let oldest = self.file_no - self.kept();
        self.index.forget_before(oldest);
        self.unzipped.retain(|no| *no >= oldest);
        if self.rotation.compress && self.rotation.retain > 0 {
            self.unzipped.push_back(rotated);
        }
    }

    pub(super) fn count_written(&mut self, bytes: u64, lines: u64, seq: u64) {
        self.stats.bytes += bytes;
        self.stats.lines += lines;
        if lines > 0 {
            self.disk_seq = seq + lines;
        }
    }

    /// Opens its path anew (PM2: reloadLogs).
    pub fn reopen(&mut self, now: Moment, book: &mut Book) {
        if self.trouble.is_some() {
            self.recover(now, book);
            return;
        }
        let (Some(file), Some(path)) = (&self.file, &self.path) else {
            return;
        };
        if !file.is_regular() || !file.is_at(path) {
            self.leave_file();
            self.open(now);
        }
    }

    /// Closes the file of a sink that nobody writes to.
    pub fn close(&mut self) {
        if let Some(file) = self.file.take() {
            self.left = Some(file.print());
        }
    }

    /// Empties the file (PM2: flush).
    pub fn flush(&mut self, book: &mut Book) -> io::Result<()> {
        self.index.forget_file(self.file_no);
        self.lose_tail(false);
        let done = match (&mut self.file, &self.path) {
            (Some(file), _) => file.truncate(),
            (None, Some(path)) => {
                self.left = None;
                truncate_path(path)
            }
            (None, None) => Ok(()),
        };
        self.save(book);
        done
    }
}

/// Empties a file if it is there and is a regular one.
pub(super) fn truncate_path(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => std::fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .set_len(0),
        _ => Ok(()),
    }
}
