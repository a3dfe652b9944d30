//! A sink in the journal: what is kept of it, and how a write that a kill interrupted is completed.

use super::disk::{FilePrint, LogFile};
use super::format::Moment;
use super::index::{Index, Mark};
use super::journal::{Book, FoundSink, Progress, RECORD_WORDS, SavedSpan};
use super::owners::{Owner, Owners};
use super::rotate;
use super::shown::{Piece, Tail};
use super::sink::Sink;
use super::stats::SinkStats;
use super::trouble::Trouble;
use crate::core::logline::count_lines;
use memchr::{memchr, memrchr};
use std::io;

/// A number of a line or a file that is larger makes no sense.
const MOST_LINES: u64 = 1 << 60;

impl Sink {
    /// Saves it in the journal.
    pub(super) fn save(&mut self, book: &mut Book) {
        if !book.is_kept() {
            return;
        }
        let record = self.record();
        if let Some(seat) = &mut self.seat {
            book.save_sink(seat, &record, &mut self.index, &mut self.owners);
        }
    }

    /// Whether something had been begun here; what makes no sense is nothing.
    pub(super) fn may_be_of(&self, was: Progress) -> bool {
        (self.file_no..MOST_LINES).contains(&was.file_no)
    }

    /// Whether the interrupted turn began with the file that the turns before it had left: with its tail.
    pub(super) fn was_there(&self, was: Progress) -> bool {
        let (dev, ino) = was.identity;
        let begun = FilePrint::from_words([dev, ino, was.size.saturating_sub(was.done)]);
        self.left == begun
    }

    fn record(&self) -> [u64; RECORD_WORDS] {
        let stats = &self.stats;
        let [trouble, lines, bytes] = self
            .trouble
            .as_ref()
            .map(Trouble::words)
            .unwrap_or_default();
        let print = self.file.as_ref().map(LogFile::print).or(self.left);
        let [dev, ino, size] = print.as_ref().map(FilePrint::words).unwrap_or_default();
        [
            self.next_seq,
            self.disk_seq,
            self.file_no,
            stats.bytes,
            stats.lines,
            stats.dropped_lines,
            stats.dropped_bytes,
            stats.rotations,
            stats.outside_changes,
            trouble,
            lines,
            bytes,
            dev,
            ino,
            size,
            Tail::word(self.tail.as_ref()),
        ]
    }

    /// A sink of an adopted journal.
    pub(super) fn restored(found: FoundSink, now: Moment, book: &Book) -> Self {
        let mut sink = Sink::new(found.path, now);
        sink.seat = Some(found.seat);
        sink.rotation = found.rotation;
        let [
            next_seq,
            disk_seq,
            file_no,
            bytes,
            lines,
            dropped_lines,
            dropped_bytes,
            rotations,
            outside_changes,
            trouble,
            trouble_lines,
            trouble_bytes,
            dev,
            ino,
            size,
            tail,
        ] = found.record;
        // Its first turn may be the interrupted one: then this is known already.
        sink.index = Index::restored(found.marks);
        sink.owners = Owners::restored(found.spans.iter().map(|span| (span.from, span.owner())));
        // It was never saved, or makes no sense.
        let is_sane = (1..MOST_LINES).contains(&next_seq)
            && disk_seq <= next_seq
            && (sink.file_no..MOST_LINES).contains(&file_no);
        if !is_sane {
            return sink;
        }
        (sink.next_seq, sink.disk_seq, sink.file_no) = (next_seq, disk_seq, file_no);
        sink.stats = SinkStats {
            bytes,
            lines,
            dropped_lines,
            dropped_bytes,
            rotations,
            outside_changes,
            ..sink.stats
        };
        sink.trouble = Trouble::from_words([trouble, trouble_lines, trouble_bytes], now);
        sink.left = FilePrint::from_words([dev, ino, size]);
        sink.tail = Tail::from_word(tail, |slot| book.waiting_at(slot));
        sink
    }

    /// Completes what an interrupted turn was writing here. `was` tells how far it came.
    pub(super) fn resume(&mut self, piece: &Piece, was: Progress, now: Moment, book: &mut Book) {
        if !self.may_be_of(was) || self.path.is_none() {
            self.index.forget_from(self.next_seq);
            self.append(piece, now, book);
            return;
        }
        self.used_at = now.at;
        self.file_no = was.file_no;
        if !was.cuts && self.must_cut(piece) || !self.was_there(was) {
            self.tail = None;
        }
        let first = self.next_seq;
        let (text, before) = self.begun(piece, was.cuts);
        let (text, count) = (text.as_ref(), before + piece.count);
        self.next_seq += count;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut done = size(was.done).min(text.len());
        let mut lines = count_lines(&text[..done]);
        self.count_written(done as u64, lines, first);
        self.index.forget_from(first + lines);
        self.left = FilePrint::from_words([was.identity.0, was.identity.1, was.size]);
        if was.rotating > 0 {
            self.resume_rotation(was, book);
        } else if was.part > 0 {
            let end = done.saturating_add(size(was.part)).min(text.len());
            let part = self.resume_part(&text[done..end], first + lines, was, now);
            let more = count_lines(&text[done..done + part]);
            self.count_written(part as u64, more, first + lines);
            (done, lines) = (done + part, lines + more);
        }
        let size_now = self.left.as_ref().map_or(0, FilePrint::size);
        if done > 0 || size_now != was.size {
            self.tail = None;
        }
        book.found_done(done, size_now);
        if done < text.len() {
            if self.is_ready(now) {
                self.write_lines(&text[done..], first + lines, count - lines, now, book);
            } else {
                self.give_up((text.len() - done) as u64, count - lines);
            }
        }
        self.save(book);
        book.next_file();
    }

    /// Completes a notice of dropped lines, if some of it is in the file; otherwise it is told anew, later.
    pub(super) fn resume_notice(
        &mut self,
        notice: &[u8],
        was: Progress,
        now: Moment,
        book: &mut Book,
    ) {
        if !self.may_be_of(was) || self.trouble.is_none() || notice.is_empty() {
            return book.cancel();
        }
        self.file_no = was.file_no;
        if was.part > 0 && self.resume_part(notice, self.next_seq, was, now) < notice.len() {
            return book.cancel();
        }
        self.told(notice.len());
        self.save(book);
        book.commit();
    }

    pub(super) fn resume_rotation(&mut self, was: Progress, book: &mut Book) {
        let Some(path) = &self.path else { return };
        let is_there = FilePrint::of(path).is_some_and(|found| found.identity() == was.identity);
        let retain = u64::from(self.rotation.retain);
        // Without the file at its place the last step was done.
        let shifted = if is_there {
            rotate::shift(path, retain, was.rotating - 1, |step| {
                book.rotating(was.file_no, was.identity, step);
            })
        } else {
            Ok(())
        };
        match shifted {
            Ok(()) => {
                (self.left, self.tail) = (None, None);
                self.has_rotated();
                book.rotated(self.file_no);
            }
            Err(error) => {
                tracing::warn!(path = ?self.path, %error, "log file could not be rotated and grows on");
                book.not_rotated();
            }
        }
    }

    /// Finds out how much of `part` had reached the file, and completes a torn line; returns how much stands now, whole lines.
    pub(super) fn resume_part(
        &mut self,
        part: &[u8],
        seq: u64,
        was: Progress,
        now: Moment,
    ) -> usize {
        let Some(path) = self.path.clone() else {
            return 0;
        };
        let first = rotate::rotated(&path, 1);
        let is_ours = |path: &std::path::Path| {
            FilePrint::of(path).is_some_and(|found| found.identity() == was.identity)
        };
        let place = if is_ours(&path) {
            self.index.note(Mark {
                seq,
                ends: self.disk_seq,
                at_ms: now.wall_ms,
                file_no: self.file_no,
                offset: was.size.saturating_sub(self.tail_len()),
            });
            &path
        } else if is_ours(&first) {
            &first
        } else {
            // Another program has taken the file away meanwhile, and what was in it with it.
            return 0;
        };
        let found = LogFile::open_as_it_is(place).and_then(|mut file| {
            let stands = complete(&mut file, part, was.size)?;
            Ok((stands, file.print()))
        });
        match found {
            Ok((stands, print)) => {
                if place == &path {
                    self.left = Some(print);
                }
                stands
            }
            Err(error) => {
                tracing::warn!(path = ?self.path, %error, "it cannot be told how much of a write was done before the kill; it is done again");
                0
            }
        }
    }
}

/// Completes the line in which `part` breaks off in the file; returns how much of it stands now.
fn complete(file: &mut LogFile, part: &[u8], from: u64) -> io::Result<usize> {
    let (stands, is_last) = file.found(part, from)?;
    let start = memrchr(b'\n', &part[..stands]).map_or(0, |at| at + 1);
    if start == stands || !is_last {
        return Ok(start);
    }
    let end = memchr(b'\n', &part[stands..]).map_or(part.len(), |at| stands + at + 1);
    if let Err(torn) = file.append(&part[stands..end]) {
        let torn_line = (stands - start) as u64;
        file.cut(file.size().saturating_sub(torn_line))?;
        tracing::warn!(error = %torn.error, "a torn log line could not be completed and was taken back");
        return Ok(start);
    }
    Ok(end)
}

impl SavedSpan {
    /// Its stream, without the names: who attaches the instance again brings them.
    pub(super) fn owner(&self) -> Owner {
        Owner::nameless(self.instance, self.stream)
    }
}
