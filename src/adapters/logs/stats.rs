//! Counters of the log plane.

use std::path::PathBuf;

/// One file's counters, since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkStats {
    /// The file; `None` for the streams that have none.
    pub path: Option<PathBuf>,
    /// Bytes written.
    pub bytes: u64,
    /// Lines written.
    pub lines: u64,
    /// Lines that could not be written.
    pub dropped_lines: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// How often it was rotated.
    pub rotations: u64,
    /// How often it was found truncated, extended, renamed or deleted by another program.
    pub outside_changes: u64,
    /// Why lines are being dropped now, in the system's words.
    pub trouble: Option<String>,
}

impl SinkStats {
    fn add(&mut self, other: &SinkStats) {
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.dropped_lines += other.dropped_lines;
        self.dropped_bytes += other.dropped_bytes;
        self.rotations += other.rotations;
        self.outside_changes += other.outside_changes;
    }
}

/// The whole plane's counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlaneStats {
    /// Each file that was written to, by path; at most the files the plane still remembers.
    pub sinks: Vec<SinkStats>,
    /// The sum of them all, forgotten ones too; without a path.
    pub total: SinkStats,
    /// Bytes read from apps.
    pub read_bytes: u64,
    /// How often the thread was woken: an idle plane sleeps.
    pub wakeups: u64,
    /// Open streams.
    pub streams: usize,
    /// Followers listening now.
    pub followers: usize,
    /// Lines that slow followers lost.
    pub missed_lines: u64,
}

impl PlaneStats {
    /// Adds one sink to the list and to the total.
    pub(super) fn push(&mut self, sink: SinkStats) {
        self.total.add(&sink);
        self.sinks.push(sink);
    }

    /// Adds a sink that is no longer listed.
    pub(super) fn absorb(&mut self, sink: &SinkStats) {
        self.total.add(sink);
    }
}
