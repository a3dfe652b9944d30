//! A stream's slot: who it is, and its unfinished line.

use super::book::{Book, Kept};
use super::layout::{CARRY_BYTES, carry_at, stream, stream_at};
use crate::core::ids::{Generation, PmId, Stream};
use crate::core::logline::SHOW_LIMIT;

/// An unfinished line that was longer than this gives its memory back. In bytes.
const KEEP_BYTES: usize = 64 << 10;

/// The slot of an open stream. Owner: its source.
#[derive(Debug)]
pub(in super::super) struct StreamSeat {
    pub slot: u32,
    /// Which half holds, and what it says: the area and the length of the unfinished line.
    half: usize,
    area: u64,
    len: usize,
    /// So much of it each of the stream's files shows already.
    shown: [usize; 2],
    /// How much of each area has been written.
    high: [usize; 2],
}

impl StreamSeat {
    /// How much of the unfinished line each of the stream's files shows already, in bytes.
    pub fn shown(&self) -> [usize; 2] {
        self.shown
    }
}

/// Names one stream.
pub(in super::super) type StreamKey = (PmId, Generation, Stream);

/// How many bits say how much of a line is shown.
const SHOWN_BITS: u32 = 15;
const _: () = assert!(SHOW_LIMIT < 1 << SHOWN_BITS);

fn packed(area: u64, len: usize, shown: [usize; 2]) -> u64 {
    let [own, combined] = shown.map(|shown| shown as u64);
    area << 32 | len as u64 | own << 33 | combined << (33 + SHOWN_BITS)
}

fn unpacked_shown(word: u64) -> [usize; 2] {
    [33, 33 + SHOWN_BITS].map(|at| (word >> at) as usize & ((1 << SHOWN_BITS) - 1))
}

impl Kept {
    /// The streams in the journal. Those whose slots make no sense are left out.
    pub(super) fn found_streams(&self) -> Vec<(StreamKey, StreamSeat)> {
        let found = |slot| {
            let at = stream_at(slot);
            let who = self.words.load(at + stream::WHO);
            if who & stream::IS_USED == 0 {
                return None;
            }
            let key = (
                PmId(who as u32),
                Generation(self.words.load(at + stream::GENERATION)),
                if who & stream::IS_ERR == 0 {
                    Stream::Out
                } else {
                    Stream::Err
                },
            );
            let turns = [0, 1].map(|half| self.words.load(at + stream::HALVES + 2 * half));
            let half = usize::from(turns[1] > turns[0]);
            let word = self.words.load(at + stream::HALVES + 2 * half + 1);
            let (area, len) = (word >> 32 & 1, (word as u32 as usize).min(CARRY_BYTES));
            let high = [CARRY_BYTES; 2];
            Some((
                key,
                StreamSeat {
                    slot,
                    half,
                    area,
                    len,
                    shown: unpacked_shown(word),
                    high,
                },
            ))
        };
        self.streams.used().filter_map(found).collect()
    }

    /// Takes back what an uncommitted turn wrote to streams' slots.
    pub(super) fn forget_uncommitted_lines(&self, committed: u64) {
        for at in self.streams.used().map(stream_at) {
            for half in [0, 1] {
                let turn = at + stream::HALVES + 2 * half;
                if self.words.load(turn) > committed {
                    self.words.store(turn, 0);
                }
            }
        }
    }

    fn free(&mut self, seat: &StreamSeat) {
        self.words.store(stream_at(seat.slot) + stream::WHO, 0);
        for (area, high) in [0, 1].into_iter().zip(seat.high) {
            self.give_back(seat.slot, area, high);
        }
        self.streams.free(seat.slot);
    }

    fn give_back(&self, slot: u32, area: u64, written: usize) {
        if written > KEEP_BYTES
            && let Err(error) = self.rest.clear(carry_at(slot, area), CARRY_BYTES)
        {
            tracing::debug!(%error, "the memory of a long log line could not be given back");
        }
    }

    /// Writes the unfinished line where the committed one is not touched; what it was before, if it has only grown, stays.
    fn store_line(
        &self,
        seat: &StreamSeat,
        line: &[u8],
        grown: bool,
    ) -> std::io::Result<(u64, usize)> {
        if line.len() > CARRY_BYTES {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let (area, from) = if grown && seat.len <= line.len() {
            (seat.area, seat.len)
        } else {
            (1 - seat.area, 0)
        };
        if from < line.len() {
            self.rest
                .write(&line[from..], carry_at(seat.slot, area) + from as u64)?;
        }
        Ok((area, line.len()))
    }
}

impl Book {
    /// A slot for a stream: its own, if it comes from an adopted journal. `None`: there is no journal, or no room in it.
    pub fn seat_stream(&mut self, key: StreamKey) -> Option<StreamSeat> {
        if let Some(seat) = self.waiting.remove(&key) {
            return Some(seat);
        }
        let kept = self.kept()?;
        let Some(slot) = kept.streams.take() else {
            kept.tell_full();
            return None;
        };
        let at = stream_at(slot);
        for word in 1..stream::WORDS {
            kept.words.store(at + word, 0);
        }
        kept.note_used();
        let (instance, generation, which) = key;
        let is_err = if which == Stream::Err {
            stream::IS_ERR
        } else {
            0
        };
        kept.words.store(at + stream::GENERATION, generation.0);
        kept.words.store(
            at + stream::WHO,
            u64::from(instance.0) | is_err | stream::IS_USED,
        );
        Some(StreamSeat {
            slot,
            half: 0,
            area: 0,
            len: 0,
            shown: [0; 2],
            high: [0; 2],
        })
    }

    /// Where the stream's lines go, and how they look: for its last line, should nobody come for it.
    pub fn place_stream(&mut self, seat: &StreamSeat, sinks: [Option<u32>; 2], style: u64) {
        if let Some(kept) = self.kept() {
            let [own, combined] = sinks.map(|slot| slot.map_or(0, |slot| u64::from(slot) + 1));
            let at = stream_at(seat.slot);
            kept.words.store(at + stream::SINKS, own | combined << 32);
            kept.words.store(at + stream::STYLE, style);
        }
    }

    /// What [`Book::place_stream`] said.
    pub fn stream_place(&mut self, seat: &StreamSeat) -> ([Option<u32>; 2], u64) {
        let Some(kept) = self.kept() else {
            return ([None, None], 0);
        };
        let at = stream_at(seat.slot);
        let word = kept.words.load(at + stream::SINKS);
        let slots = [word as u32, (word >> 32) as u32].map(|slot| slot.checked_sub(1));
        (slots, kept.words.load(at + stream::STYLE))
    }

    /// The unfinished line; what cannot be read is empty.
    pub fn unfinished(&mut self, seat: &StreamSeat) -> Vec<u8> {
        let Some(kept) = self.kept().filter(|_| seat.len > 0) else {
            return Vec::new();
        };
        let mut line = vec![0; seat.len];
        match kept.rest.read(&mut line, carry_at(seat.slot, seat.area)) {
            Ok(()) => line,
            Err(error) => {
                tracing::error!(%error, bytes = seat.len, "an unfinished log line cannot be read back and is lost");
                Vec::new()
            }
        }
    }

    /// Commits a turn of this stream, whose unfinished line is now `line`; `grown`: it is the one from before and maybe more.
    /// `shown`: how much of it each of its files shows.
    pub fn commit_stream(
        &mut self,
        seat: &mut StreamSeat,
        line: &[u8],
        grown: bool,
        shown: [usize; 2],
    ) {
        let Some(kept) = self.kept() else { return };
        if line.is_empty() && seat.len == 0 {
            return kept.commit();
        }
        let stored = if line.is_empty() {
            Ok((seat.area, 0))
        } else {
            kept.store_line(seat, line, grown)
        };
        let (area, len) = stored.unwrap_or_else(|error| {
            tracing::error!(%error, bytes = line.len(), "an unfinished log line is not protected against a kill");
            (seat.area, 0)
        });
        kept.step();
        let half = 1 - seat.half;
        let at = stream_at(seat.slot) + stream::HALVES + 2 * half;
        let turn = if kept.open { kept.turn } else { kept.turn + 1 };
        kept.words.store(at + 1, packed(area, len, shown));
        kept.step();
        kept.words.store(at, turn);
        kept.commit();
        if area != seat.area || len == 0 {
            let old = usize::from(seat.area == 1);
            kept.give_back(seat.slot, seat.area, seat.high[old]);
            if seat.high[old] > KEEP_BYTES {
                seat.high[old] = 0;
            }
        }
        (seat.half, seat.area, seat.len, seat.shown) = (half, area, len, shown);
        let high = &mut seat.high[usize::from(area == 1)];
        *high = (*high).max(len);
    }

    /// The stream has ended.
    pub fn free_stream(&mut self, seat: &StreamSeat) {
        if let Some(kept) = self.kept() {
            kept.free(seat);
        }
    }
}
