//! Where a sink's lines stand and whose they are, in the journal: the first mark of each recent file, and the latest ones.

use super::book::Kept;
use super::layout::{HISTORY_BYTES, history_at, sink, sink_at, stream};
use crate::adapters::logs::index::{Index, Mark};
use crate::adapters::logs::owners::{Owner, Owners, Span};
use crate::core::ids::{PmId, Stream};
use std::io;

/// So many spans, and so many marks, fit into an area.
const MOST: usize = 64;
/// When an area is full, so many of the latest ones go on in the other one…
const LATEST: usize = 16;
/// …and so many first marks of files.
const FIRSTS: usize = 32;
const SPAN_BYTES: usize = 24;
const MARK_BYTES: usize = 40;
const MARKS_AT: usize = MOST * SPAN_BYTES;
const _: () = assert!(MARKS_AT + MOST * MARK_BYTES <= HISTORY_BYTES && FIRSTS + LATEST <= MOST);

/// The slot of a sink. Owner: the sink.
#[derive(Debug)]
pub(in super::super) struct SinkSeat {
    pub slot: u32,
    /// Which half holds.
    pub(super) half: usize,
    area: u64,
    marks: usize,
    spans: usize,
}

/// From this line on the lines are of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct SavedSpan {
    pub from: u64,
    pub instance: PmId,
    pub stream: Stream,
}

impl SinkSeat {
    /// From its history's word.
    pub(super) fn from_word(slot: u32, half: usize, word: u64) -> Self {
        let count = |shift: u32| (word >> shift & 0xFF).min(MOST as u64) as usize;
        Self {
            slot,
            half,
            area: word & 1,
            marks: count(8),
            spans: count(16),
        }
    }

    fn word(&self) -> u64 {
        self.area | (self.marks as u64) << 8 | (self.spans as u64) << 16
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, words: [u64; N]) {
    words
        .iter()
        .for_each(|word| out.extend_from_slice(&word.to_ne_bytes()));
}

fn words_of<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|n| {
        u64::from_ne_bytes(std::array::from_fn(|at| {
            bytes.get(8 * n + at).copied().unwrap_or(0)
        }))
    })
}

fn put_mark(out: &mut Vec<u8>, mark: &Mark) {
    let Mark {
        seq,
        ends,
        at_ms,
        file_no,
        offset,
    } = *mark;
    put(out, [seq, ends, at_ms, file_no, offset]);
}

fn mark_of(bytes: &[u8]) -> Mark {
    let [seq, ends, at_ms, file_no, offset] = words_of(bytes);
    Mark {
        seq,
        ends,
        at_ms,
        file_no,
        offset,
    }
}

/// The second word was the run, which nobody needs.
fn put_span(out: &mut Vec<u8>, span: &Span, owner: &Owner) {
    let is_err = if owner.stream == Stream::Err {
        stream::IS_ERR
    } else {
        0
    };
    let who = u64::from(owner.instance.0) | is_err;
    put(out, [span.from, 0, who]);
}

fn span_of(bytes: &[u8]) -> SavedSpan {
    let [from, _, who] = words_of(bytes);
    SavedSpan {
        from,
        instance: PmId(who as u32),
        stream: if who & stream::IS_ERR == 0 {
            Stream::Out
        } else {
            Stream::Err
        },
    }
}

/// The marks that go on: the first of each of the latest files, and the latest.
fn worth_keeping(marks: &[Mark]) -> Vec<Mark> {
    let is_first = |at: usize| at == 0 || marks[at - 1].file_no != marks[at].file_no;
    let latest = marks.len().saturating_sub(LATEST);
    let firsts: Vec<usize> = (0..latest).filter(|at| is_first(*at)).collect();
    let firsts = &firsts[firsts.len().saturating_sub(FIRSTS)..];
    let kept = firsts.iter().copied().chain(latest..marks.len());
    kept.map(|at| marks[at]).collect()
}

impl Kept {
    /// Brings the sink's history up to what is known. Without it only line numbers of a later process would have gaps.
    pub(super) fn sync_history(&self, seat: &mut SinkSeat, index: &mut Index, owners: &mut Owners) {
        let synced = match (index.unsaved(), owners.unsaved()) {
            (Some([]), Some([])) => return,
            (Some(marks), Some(spans))
                if seat.marks + marks.len() <= MOST && seat.spans + spans.len() <= MOST =>
            {
                self.append(seat, marks, spans, owners)
            }
            _ => self.rewrite(seat, index.marks(), owners),
        };
        if let Err(error) = synced {
            tracing::debug!(%error, "line numbers are not kept in the log journal");
            (seat.marks, seat.spans) = (0, 0);
        }
        self.words
            .store(sink_at(seat.slot) + sink::HISTORY, seat.word());
        index.saved();
        owners.saved();
    }

    fn append(
        &self,
        seat: &mut SinkSeat,
        marks: &[Mark],
        spans: &[Span],
        owners: &Owners,
    ) -> io::Result<()> {
        let at = history_at(seat.slot, seat.area);
        let mut bytes = Vec::with_capacity(MARK_BYTES);
        if !spans.is_empty() {
            for span in spans {
                if let Some(owner) = owners.owner(span) {
                    put_span(&mut bytes, span, owner);
                }
            }
            self.rest
                .write(&bytes, at + (seat.spans * SPAN_BYTES) as u64)?;
            bytes.clear();
        }
        if !marks.is_empty() {
            marks.iter().for_each(|mark| put_mark(&mut bytes, mark));
            let offset = MARKS_AT + seat.marks * MARK_BYTES;
            self.rest.write(&bytes, at + offset as u64)?;
        }
        seat.marks += marks.len();
        seat.spans += spans.len();
        Ok(())
    }

    /// Begins the other area: until its word changes this one holds.
    fn rewrite(&self, seat: &mut SinkSeat, marks: &[Mark], owners: &Owners) -> io::Result<()> {
        let marks = worth_keeping(marks);
        let spans = owners.spans();
        let spans = &spans[spans.len().saturating_sub(MOST / 2)..];
        (seat.area, seat.marks, seat.spans) = (1 - seat.area, 0, 0);
        self.append(seat, &marks, spans, owners)
    }

    pub(super) fn history(&self, seat: &SinkSeat) -> (Vec<Mark>, Vec<SavedSpan>) {
        let mut bytes = vec![0; HISTORY_BYTES];
        let at = history_at(seat.slot, seat.area);
        if seat.marks + seat.spans == 0 || self.rest.read(&mut bytes, at).is_err() {
            return (Vec::new(), Vec::new());
        }
        let (spans, marks) = bytes.split_at(MARKS_AT);
        let marks = marks.chunks_exact(MARK_BYTES).take(seat.marks);
        let spans = spans.chunks_exact(SPAN_BYTES).take(seat.spans);
        (marks.map(mark_of).collect(), spans.map(span_of).collect())
    }
}
