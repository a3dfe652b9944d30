//! The sparse index of one sink: which line number stands at which offset of which file, and when it was written.

/// How many marks are kept; past it older ones are thinned.
const MOST_MARKS: usize = 256;
/// A mark is made when this many bytes were written since the last one.
const MARK_BYTES: u64 = 256 << 10;
/// And when the last one is older than this, in milliseconds.
const MARK_MS: u64 = 100;

/// A place in the log: the line that begins here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its number, from 1.
    pub seq: u64,
    /// The number that would have followed the line before it: less than `seq` where lines were dropped.
    pub ends: u64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Which file: the current one's number less its rotation suffix.
    pub file_no: u64,
    /// Where in the file, in bytes.
    pub offset: u64,
}

/// Marks in the order they were made. Owner: the sink.
#[derive(Debug, Default)]
pub(super) struct Index {
    marks: Vec<Mark>,
    /// The first ones of them that the journal has.
    saved: usize,
    /// What the journal has must be forgotten.
    rewritten: bool,
}

impl Index {
    /// Marks of an earlier process, oldest first.
    pub fn restored(marks: Vec<Mark>) -> Self {
        Self {
            saved: marks.len(),
            marks,
            rewritten: false,
        }
    }

    /// The marks made since [`Index::saved`]; `None`: others have changed too.
    pub fn unsaved(&self) -> Option<&[Mark]> {
        (!self.rewritten).then(|| self.marks.get(self.saved..).unwrap_or_default())
    }

    /// The journal has them all now.
    pub fn saved(&mut self) {
        (self.saved, self.rewritten) = (self.marks.len(), false);
    }

    /// Tells that the line of `mark` is about to be written; remembers it if it is worth it.
    pub fn note(&mut self, mark: Mark) {
        let wanted = self.marks.last().is_none_or(|last| {
            last.seq < mark.seq
                && (last.file_no != mark.file_no
                    || mark.ends != mark.seq
                    || mark.offset.saturating_sub(last.offset) >= MARK_BYTES
                    || mark.at_ms.abs_diff(last.at_ms) >= MARK_MS)
        });
        if wanted {
            if self.marks.len() >= MOST_MARKS {
                self.thin();
                self.rewritten = true;
            }
            self.marks.push(mark);
        }
    }

    /// The marks, oldest first.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Lines from `seq` on are written again.
    pub fn forget_from(&mut self, seq: u64) {
        let before = self.marks.len();
        self.marks.retain(|mark| mark.seq < seq);
        self.rewritten |= self.marks.len() != before;
    }

    /// A file whose bytes are no longer known.
    pub fn forget_file(&mut self, file_no: u64) {
        self.marks.retain(|mark| mark.file_no != file_no);
        self.rewritten = true;
    }

    /// Files that are gone.
    pub fn forget_before(&mut self, file_no: u64) {
        let before = self.marks.len();
        self.marks.retain(|mark| mark.file_no >= file_no);
        self.rewritten |= self.marks.len() != before;
    }

    /// Halves the older three quarters, but for what numbering needs: the first mark of a file, and each one after a gap.
    fn thin(&mut self) {
        let recent = self.marks.len() - self.marks.len() / 4;
        let mut before: Option<u64> = None;
        let mut at = 0;
        let mut odd = false;
        self.marks.retain(|mark| {
            let first = before.replace(mark.file_no) != Some(mark.file_no);
            let kept = first || mark.ends != mark.seq || at >= recent || odd;
            at += 1;
            odd = !odd;
            kept
        });
        if self.marks.len() >= MOST_MARKS {
            self.marks.drain(..MOST_MARKS / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_stays_small_and_keeps_first_marks_and_gaps() {
        let mut index = Index::default();
        for n in 0..10_000u64 {
            let gap = u64::from(n == 4321);
            index.note(Mark {
                seq: n * 10 + 1 + gap,
                ends: n * 10 + 1,
                at_ms: n * 1000,
                file_no: n / 2500,
                offset: n % 2500 * 100,
            });
            assert!(index.marks().len() <= MOST_MARKS);
        }
        let marks = index.marks();
        assert!(marks.len() > MOST_MARKS / 4);
        for file_no in 0..4 {
            assert!(
                marks.iter().any(|m| m.file_no == file_no && m.offset == 0),
                "{file_no}"
            );
        }
        assert!(marks.iter().any(|m| m.seq != m.ends));
        assert!(marks.windows(2).all(|w| w[0].seq < w[1].seq));
        index.forget_before(3);
        assert!(index.marks().iter().all(|m| m.file_no == 3));
    }

    #[test]
    fn a_mark_is_made_by_size_or_by_time_only() {
        let mut index = Index::default();
        let mark = |seq, at_ms, offset| Mark {
            seq,
            ends: seq,
            at_ms,
            file_no: 0,
            offset,
        };
        for (made, next) in [
            (1, mark(1, 0, 0)),
            (1, mark(2, 50, 100)),
            (2, mark(3, 100, 200)),
            (3, mark(4, 100, 200 + MARK_BYTES)),
        ] {
            index.note(next);
            assert_eq!(index.marks().len(), made);
        }
    }
}
