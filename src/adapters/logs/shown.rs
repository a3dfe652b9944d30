//! Lines that are shown in their file before they end, so that a prompt or a progress bar can be seen there.
//!
//! The beginning of the line then stands at the end of the file, as its *tail*, and what follows is appended to it. Another stream
//! that writes to the same file cuts it, as an overlong line is cut.

use super::disk::FilePrint;
use super::format::Moment;
use super::journal::{Book, Progress};
use super::owners::Owner;
use super::sink::Sink;
use crate::core::ids::Generation;
use crate::core::logline::CUT_MARK;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What one stream gives to one file: whole lines, or the beginning of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub text: &'a [u8],
    /// How many lines end in it.
    pub count: u64,
    pub owner: &'a Arc<Owner>,
    pub generation: Generation,
    /// The stream's slot in the journal.
    pub slot: Option<u32>,
    /// So much of its first line was shown before.
    pub shown: usize,
}

/// The beginning of an unfinished line at the end of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    /// Whose line it is; `None`: a stream that is not known any more.
    pub who: Option<(Arc<Owner>, Generation)>,
    slot: Option<u32>,
    /// Which bytes of the line stand there.
    range: Range<usize>,
}

impl Tail {
    /// Its length in the file, in bytes.
    pub fn len(&self) -> u64 {
        self.range.len() as u64
    }

    fn is_begun_by(&self, piece: &Piece) -> bool {
        let same = |(owner, generation): &(Arc<Owner>, Generation)| {
            *generation == piece.generation
                && (owner.instance, owner.stream) == (piece.owner.instance, piece.owner.stream)
        };
        piece.shown > 0 && self.who.as_ref().is_some_and(same)
    }

    /// What the journal keeps of it: the stream's slot + 1 from bit 32 on, then where it begins and ends in its line. 0 is none.
    pub fn word(tail: Option<&Self>) -> u64 {
        tail.map_or(0, |tail| {
            let slot = tail.slot.map_or(0, |slot| u64::from(slot) + 1);
            slot << 32 | (tail.range.start as u64) << 16 | tail.range.end as u64
        })
    }

    /// From [`Tail::word`]; `who` tells whose slot that is.
    pub fn from_word(
        word: u64,
        who: impl FnOnce(u32) -> Option<(Arc<Owner>, Generation)>,
    ) -> Option<Self> {
        let slot = ((word >> 32) as u32).checked_sub(1);
        let range = (word >> 16 & 0xFFFF) as usize..(word & 0xFFFF) as usize;
        (!range.is_empty()).then(|| Self {
            who: slot.and_then(who),
            slot,
            range,
        })
    }
}

impl Sink {
    /// How much of the file's end is an unfinished line, in bytes.
    pub(super) fn tail_len(&self) -> u64 {
        self.tail.as_ref().map_or(0, Tail::len)
    }

    /// How much of the line of this stream is shown, as far as the file's end tells.
    pub(super) fn shows(&self, piece: &Piece) -> Option<usize> {
        let tail = self.tail.as_ref()?;
        let begun = Piece { shown: 1, ..*piece };
        tail.is_begun_by(&begun).then_some(tail.range.end)
    }

    /// Whether another stream's line must end before this piece.
    pub(super) fn must_cut(&self, piece: &Piece) -> bool {
        self.tail
            .as_ref()
            .is_some_and(|tail| !tail.is_begun_by(piece))
    }

    /// What is written of a piece: with `cuts` the end of another stream's line first. The number of its first line is noted with its
    /// owner, and how many lines there are before the piece's own.
    pub(super) fn begun<'a>(&mut self, piece: &Piece<'a>, cuts: bool) -> (Cow<'a, [u8]>, u64) {
        let first = self.next_seq;
        if !cuts {
            self.owners.note(first, piece.owner);
            return (Cow::Borrowed(piece.text), 0);
        }
        if let Some((owner, _)) = self.tail.as_ref().and_then(|tail| tail.who.as_ref()) {
            self.owners.note(first, owner);
        }
        self.owners.note(first + 1, piece.owner);
        (Cow::Owned([CUT_MARK, b"\n", piece.text].concat()), 1)
    }

    /// Appends more of an unfinished line; `false`: not now. Not while another stream's line stands at the end.
    pub fn show(&mut self, piece: &Piece, now: Moment, book: &mut Book) -> bool {
        self.used_at = now.at;
        if self.path.is_none() || !self.is_ready(now) || self.must_cut(piece) {
            return false;
        }
        // A line is begun in the file that it will be in.
        if self.fitting(piece.text, now) == 0 && !self.make_room(now, book) {
            return false;
        }
        let Some(file) = &mut self.file else {
            return false;
        };
        book.writing(self.file_no, file.identity(), file.size(), piece.text.len());
        let appended = file.append(piece.text);
        match appended {
            Ok(()) => {
                book.written();
                self.shown(piece);
            }
            Err(ref torn) => self.fail(&torn.error, now),
        }
        self.save(book);
        appended.is_ok()
    }

    fn shown(&mut self, piece: &Piece) {
        let length = piece.text.len();
        self.stats.bytes += length as u64;
        let upto = piece.shown + length;
        match &mut self.tail {
            Some(tail) => tail.range.end = upto,
            None => {
                self.tail = Some(Tail {
                    who: Some((Arc::clone(piece.owner), piece.generation)),
                    slot: piece.slot,
                    range: piece.shown..upto,
                });
            }
        }
    }

    /// Completes what an interrupted turn was showing here, if it had begun; `was` tells how far it came.
    pub(super) fn resume_show(
        &mut self,
        piece: &Piece,
        was: Progress,
        now: Moment,
        book: &mut Book,
    ) -> bool {
        if !self.may_be_of(was) || self.path.is_none() {
            return false;
        }
        self.used_at = now.at;
        self.file_no = was.file_no;
        if !self.was_there(was) {
            self.tail = None;
        }
        let (dev, ino) = was.identity;
        self.left = FilePrint::from_words([dev, ino, was.size]);
        if was.rotating > 0 {
            self.resume_rotation(was, book);
            self.save(book);
            return false;
        }
        let length = piece.text.len() as u64;
        let stands = was.done == length
            || was.part > 0
                && self.resume_part(piece.text, self.next_seq, was, now) == piece.text.len();
        if stands {
            self.shown(piece);
        } else if self
            .left
            .as_ref()
            .is_some_and(|left| left.size() != was.size)
        {
            self.tail = None;
        }
        self.save(book);
        stands
    }

    /// The file is not what it was, or not ours any more, and the tail went with it. `kept`: as a line of a file that we still know.
    pub(super) fn lose_tail(&mut self, kept: bool) {
        if let Some(tail) = self.tail.take()
            && kept
        {
            if let Some((owner, _)) = &tail.who {
                self.owners.note(self.next_seq, owner);
            }
            let seq = self.next_seq;
            self.next_seq += 1;
            self.count_written(0, 1, seq);
        }
    }

    /// Lines are dropped: the beginning of one that is in the file is taken back.
    pub(super) fn give_up(&mut self, bytes: u64, lines: u64) {
        let shown = self.tail.take().map_or(0, |tail| tail.len());
        if let (1.., Some(file)) = (shown, &mut self.file) {
            if let Err(error) = file.cut(file.size().saturating_sub(shown)) {
                tracing::debug!(path = ?self.path, %error, "the beginning of a dropped log line stays in its file");
            }
            self.stats.bytes = self.stats.bytes.saturating_sub(shown);
        }
        self.count_dropped(bytes + shown, lines);
    }
}
