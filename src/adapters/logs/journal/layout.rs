//! Where everything lies in the journal's memory. A change here is a new version in [`VERSIONS`].

use super::super::intake::READ_BYTES;
use crate::core::logline::LINE_LIMIT;
use crate::sys::shm::Sizes;
use std::ops::RangeInclusive;

/// Word 0 of every journal.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"fornaxlj");
/// Word 1: what the rest means. Version 1 knows nothing of lines that were shown before they ended; a journal is of version 2 from
/// the first such line on, so that an older program goes on with what it understands.
pub(super) const VERSIONS: RangeInclusive<u64> = 1..=2;

/// How many files a journal knows. Those past it are written without protection against SIGKILL.
pub(super) const SINKS: usize = 2048;
/// How many streams a journal knows, likewise.
pub(super) const STREAMS: usize = 4096;

/// Words of the head.
pub(super) mod head {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    /// `turn << 1 | 1` while that turn is under way, `turn << 1` once it is committed.
    pub const STATE: usize = 2;
    /// When the journal was made, in milliseconds since the Unix epoch.
    pub const BORN: usize = 3;
    /// Two words that no app's output holds by chance.
    pub const MARK: usize = 4;
    /// How many sink slots, and stream slots, were ever used: the first ones.
    pub const SINKS_USED: usize = 6;
    pub const STREAMS_USED: usize = 7;
    pub const KIND: usize = 8;
    pub const STREAM: usize = 9;
    pub const WALL_MS: usize = 10;
    pub const HOW: usize = 11;
    pub const WANT: usize = 12;
    pub const TAKEN: usize = 13;
    pub const STYLE: usize = 14;
    pub const DECOR_LEN: usize = 15;
    /// Two words: slot + 1, 0 for none.
    pub const SINKS: usize = 16;
    /// Which of the two records of progress holds.
    pub const WHICH: usize = 18;
    /// Two records of eight words.
    pub const PROGRESS: usize = 24;
    /// The text around each line, to the end of the head.
    pub const DECOR: usize = 512;
    pub const WORDS: usize = 1024;
}

/// The longest text around a line, in bytes.
pub(in super::super) const DECOR_BYTES: usize = (head::WORDS - head::DECOR) * 8;

/// Words of a sink's slot. It begins with two halves: the one with the higher turn holds.
pub(super) mod sink {
    pub const HALF: usize = 20;
    /// In a half: the turn that wrote it, then its record.
    pub const TURN: usize = 0;
    pub const RECORD: usize = 1;
    pub const RECORD_WORDS: usize = 16;
    /// 1 while the slot is used.
    pub const USED: usize = 40;
    pub const MAX_SIZE: usize = 41;
    pub const ROTATION: usize = 42;
    /// Its path's length + 1; 0 for none.
    pub const PATH_LEN: usize = 43;
    /// Which area of its history holds, and how much is in it: true at once, whatever becomes of the turn.
    pub const HISTORY: usize = 44;
    pub const WORDS: usize = 48;
}

/// Words of a stream's slot.
pub(super) mod stream {
    /// Instance, bit 32 for standard error, bit 33 while the slot is used.
    pub const WHO: usize = 0;
    pub const GENERATION: usize = 1;
    /// Two halves of two words, the turn that wrote it and the unfinished line (its length, the area it is in, how much of it each
    /// file shows); the one with the higher turn holds.
    pub const HALVES: usize = 2;
    /// Its own sink's slot + 1, and the combined one's from bit 32 on.
    pub const SINKS: usize = 6;
    pub const STYLE: usize = 7;
    pub const WORDS: usize = 8;
    pub const IS_ERR: u64 = 1 << 32;
    pub const IS_USED: u64 = 1 << 33;
}

/// The first word of a sink's slot.
pub(super) fn sink_at(slot: u32) -> usize {
    head::WORDS + slot as usize * sink::WORDS
}

/// The first word of a stream's slot.
pub(super) fn stream_at(slot: u32) -> usize {
    head::WORDS + SINKS * sink::WORDS + slot as usize * stream::WORDS
}

/// A longer path has no slot. In bytes.
pub(super) const PATH_BYTES: usize = 1024;
/// One of the two areas of a sink's history, in bytes: a page.
pub(super) const HISTORY_BYTES: usize = 4096;
/// One of the two areas of a stream's unfinished line, in bytes.
pub(super) const CARRY_BYTES: usize = LINE_LIMIT + 4096;

const HISTORIES: u64 = (SINKS * PATH_BYTES) as u64;
const CARRIES: u64 = HISTORIES + (SINKS * 2 * HISTORY_BYTES) as u64;

/// Where a sink's path lies in the rest.
pub(super) fn path_at(slot: u32) -> u64 {
    u64::from(slot) * PATH_BYTES as u64
}

/// Where an area of a sink's history lies in the rest.
pub(super) fn history_at(slot: u32, area: u64) -> u64 {
    HISTORIES + (u64::from(slot) * 2 + area) * HISTORY_BYTES as u64
}

/// Where an area of a stream's unfinished line lies in the rest.
pub(super) fn carry_at(slot: u32, area: u64) -> u64 {
    CARRIES + (u64::from(slot) * 2 + area) * CARRY_BYTES as u64
}

/// The journal's parts.
pub(super) const SIZES: Sizes = Sizes {
    words: (head::WORDS + SINKS * sink::WORDS + STREAMS * stream::WORDS) * 8,
    buffer: READ_BYTES,
    rest: CARRIES + (STREAMS * 2 * CARRY_BYTES) as u64,
};
