//! The slots of sinks and streams: which are free, and what a sink's says.

use super::book::{Book, Kept};
use super::history::{SavedSpan, SinkSeat};
use super::layout::{PATH_BYTES, head, path_at, sink, sink_at, stream, stream_at};
use crate::adapters::logs::index::{Index, Mark};
use crate::adapters::logs::owners::Owners;
use crate::core::spec::fornax::LogRotation;
use crate::core::units::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a sink's counters take, in words.
pub(in super::super) const RECORD_WORDS: usize = sink::RECORD_WORDS;

const IS_ROTATED: u64 = 1 << 32;
const IS_COMPRESSED: u64 = 1 << 33;

/// Which slots of one kind are taken. The lowest free one goes first, so that little memory is touched.
#[derive(Debug)]
pub(super) struct Slots {
    /// So many were ever used: the first ones.
    high: u32,
    most: usize,
    free: BinaryHeap<Reverse<u32>>,
}

impl Slots {
    pub fn new(high: u32, most: usize) -> Self {
        let free = BinaryHeap::new();
        Self { high, most, free }
    }

    pub fn is_valid(&self) -> bool {
        self.high as usize <= self.most
    }

    pub fn take(&mut self) -> Option<u32> {
        if let Some(Reverse(slot)) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.high;
        ((slot as usize) < self.most).then(|| {
            self.high += 1;
            slot
        })
    }

    pub fn free(&mut self, slot: u32) {
        self.free.push(Reverse(slot));
    }

    /// Those that may be in use.
    pub fn used(&self) -> std::ops::Range<u32> {
        0..self.high
    }
}

/// A sink as an adopted journal tells it.
#[derive(Debug)]
pub(in super::super) struct FoundSink {
    pub seat: SinkSeat,
    pub path: Option<PathBuf>,
    pub rotation: LogRotation,
    /// As [`Book::save_sink`] was given it; zeros if it never was.
    pub record: [u64; RECORD_WORDS],
    pub marks: Vec<Mark>,
    pub spans: Vec<SavedSpan>,
}

impl Kept {
    pub(super) fn note_used(&self) {
        let count = |slots: &Slots| u64::from(slots.high);
        self.words.store(head::SINKS_USED, count(&self.sinks));
        self.words.store(head::STREAMS_USED, count(&self.streams));
    }

    pub(super) fn tell_full(&mut self) {
        if !std::mem::replace(&mut self.told_full, true) {
            tracing::warn!(
                "the log journal has no room for one more stream or file, or its path is too long; its lines are written, and a kill of the daemon may cost some"
            );
        }
    }

    /// Makes everything that an uncommitted turn wrote as if it had not been, and finds the free slots.
    pub(super) fn forget_uncommitted(&mut self) {
        let committed = self.turn - u64::from(self.open);
        self.forget_uncommitted_lines(committed);
        let done = usize::try_from(self.progress.ordinal).unwrap_or(0).min(2);
        let finished = self.turn_sinks();
        let finished = &finished[..if self.open { done } else { 0 }];
        for slot in self.sinks.used() {
            for half in [0, 1] {
                let at = sink_at(slot) + half * sink::HALF + sink::TURN;
                // A file that the open turn is done with has been saved for it.
                if self.words.load(at) > committed && !finished.contains(&Some(slot)) {
                    self.words.store(at, 0);
                }
            }
            if self.words.load(sink_at(slot) + sink::USED) == 0 {
                self.sinks.free(slot);
            }
        }
        for slot in self.streams.used() {
            if self.words.load(stream_at(slot) + stream::WHO) & stream::IS_USED == 0 {
                self.streams.free(slot);
            }
        }
    }

    fn found_sink(&self, slot: u32) -> Option<FoundSink> {
        let at = sink_at(slot);
        if self.words.load(at + sink::USED) == 0 {
            return None;
        }
        let path = match self.words.load(at + sink::PATH_LEN) {
            0 => None,
            len => {
                let mut bytes = vec![0; (len as usize - 1).min(PATH_BYTES)];
                self.rest.read(&mut bytes, path_at(slot)).ok()?;
                Some(PathBuf::from(OsStr::from_bytes(&bytes)))
            }
        };
        let bits = self.words.load(at + sink::ROTATION);
        let rotation = LogRotation {
            rotate: bits & IS_ROTATED != 0,
            max_size: Bytes(self.words.load(at + sink::MAX_SIZE)),
            retain: bits as u32,
            // What waits to be compressed is looked for when a stream comes back.
            compress: false,
        };
        let turns = [0, 1].map(|half| self.words.load(at + half * sink::HALF + sink::TURN));
        let half = usize::from(turns[1] > turns[0]);
        let word = |n| match turns[half] {
            0 => 0,
            _ => self.words.load(at + half * sink::HALF + n),
        };
        let record = std::array::from_fn(|n| word(sink::RECORD + n));
        let seat = SinkSeat::from_word(slot, half, self.words.load(at + sink::HISTORY));
        let (marks, spans) = self.history(&seat);
        Some(FoundSink {
            seat,
            path,
            rotation,
            record,
            marks,
            spans,
        })
    }
}

impl Book {
    /// The sinks of an adopted journal.
    pub fn found_sinks(&mut self) -> Vec<FoundSink> {
        let Some(kept) = self.kept() else {
            return Vec::new();
        };
        let found = |slot| kept.found_sink(slot);
        kept.sinks.used().filter_map(found).collect()
    }

    /// A slot for a sink. `None`: there is no journal, no room in it, or the path is too long.
    pub fn seat_sink(&mut self, path: Option<&Path>) -> Option<SinkSeat> {
        let kept = self.kept()?;
        let bytes = path.map(|path| path.as_os_str().as_bytes());
        let fits = bytes.is_none_or(|bytes| bytes.len() <= PATH_BYTES);
        let slot = if fits { kept.sinks.take() } else { None };
        let Some(slot) = slot else {
            kept.tell_full();
            return None;
        };
        if let Some(bytes) = bytes
            && let Err(error) = kept.rest.write(bytes, path_at(slot))
        {
            tracing::warn!(%error, "a log file has no place in the log journal");
            kept.sinks.free(slot);
            return None;
        }
        let at = sink_at(slot);
        for word in 0..sink::WORDS {
            kept.words.store(at + word, 0);
        }
        let len = bytes.map_or(0, |bytes| bytes.len() as u64 + 1);
        kept.words.store(at + sink::PATH_LEN, len);
        kept.note_used();
        kept.words.store(at + sink::USED, 1);
        Some(SinkSeat::from_word(slot, 0, 0))
    }

    /// When the sink is rotated.
    pub fn set_rotation(&mut self, seat: &SinkSeat, rotation: LogRotation) {
        if let Some(kept) = self.kept() {
            let flag = |set, bit| if set { bit } else { 0 };
            let bits = u64::from(rotation.retain)
                | flag(rotation.rotate, IS_ROTATED)
                | flag(rotation.compress, IS_COMPRESSED);
            let at = sink_at(seat.slot);
            kept.words.store(at + sink::MAX_SIZE, rotation.max_size.0);
            kept.words.store(at + sink::ROTATION, bits);
        }
    }

    /// Saves where lines of a sink stand and whose they are.
    pub fn save_history(&mut self, seat: &mut SinkSeat, index: &mut Index, owners: &mut Owners) {
        if let Some(kept) = self.kept() {
            kept.sync_history(seat, index, owners);
        }
    }

    /// Saves a sink as the turn under way leaves it; outside of one it holds at once.
    pub fn save_sink(
        &mut self,
        seat: &mut SinkSeat,
        record: &[u64; RECORD_WORDS],
        index: &mut Index,
        owners: &mut Owners,
    ) {
        let Some(kept) = self.kept() else { return };
        kept.sync_history(seat, index, owners);
        kept.step();
        let turn = if kept.open { kept.turn } else { kept.turn + 1 };
        let half = 1 - seat.half;
        let at = sink_at(seat.slot) + half * sink::HALF;
        for (n, word) in record.iter().enumerate() {
            kept.words.store(at + sink::RECORD + n, *word);
        }
        kept.step();
        kept.words.store(at + sink::TURN, turn);
        kept.step();
        seat.half = half;
        if !kept.open {
            kept.commit();
        }
    }

    /// The sink is forgotten.
    pub fn free_sink(&mut self, seat: &SinkSeat) {
        if let Some(kept) = self.kept() {
            kept.words.store(sink_at(seat.slot) + sink::USED, 0);
            kept.sinks.free(seat.slot);
        }
    }
}
