//! Runs, and where the lines of their streams go: to sinks and followers.

use super::config::{LogConfig, RunLogs};
use super::format::{Formatter, Moment};
use super::hub::{Batch, Hub};
use super::journal::Book;
use super::owners::Owner;
use super::shown::Piece;
use super::sinks::Sinks;
use crate::core::ids::{Generation, PmId, Stream};
use crate::core::logline::count_lines;
use crate::sys::localtime::LocalClock;
use bytes::Bytes;
use memchr::memrchr;
use std::collections::VecDeque;
use std::sync::Arc;

/// The one read buffer's size, in bytes, and so what one stream may take in its turn.
pub(super) const READ_BYTES: usize = 256 << 10;
/// The formatted text of one turn may keep this much room, in bytes.
const KEEP_ROOM: usize = 2 << 20;
/// How many of the last lines of standard error are kept for the end of a run.
const TAIL_LINES: usize = 10;
/// How long each may be, in characters.
const TAIL_CHARS: usize = 500;

/// Names one run.
pub(super) type RunKey = (PmId, Generation);

/// One run. Owner: the engine thread.
#[derive(Debug)]
pub(super) struct Run {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// Tokens of its streams that are open: out, err.
    pub open: [Option<u64>; 2],
    /// Its end was told.
    pub finished: bool,
    err_tail: VecDeque<Vec<u8>>,
}

/// Where the lines of a stream go.
#[derive(Debug)]
pub(super) struct Lane {
    pub owner: Arc<Owner>,
    generation: Generation,
    pub(super) formatter: Formatter,
    sink: u64,
    combined: Option<u64>,
    disabled: bool,
    /// Which of its files show an unfinished line.
    shows: [bool; 2],
    /// The slots of the files that are written, in the journal; `None`: one of them has none.
    pub(super) slots: Option<[Option<u32>; 2]>,
}

/// All that lines can go to.
#[derive(Debug)]
pub(super) struct Outlets {
    pub sinks: Sinks,
    pub hub: Hub,
    pub book: Book,
    pub(super) clock: LocalClock,
    text: Vec<u8>,
}

impl Run {
    pub fn new(logs: &RunLogs) -> Self {
        let (name, namespace) = (logs.name.as_str().into(), logs.namespace.as_str().into());
        Self {
            name,
            namespace,
            open: [None, None],
            finished: false,
            err_tail: VecDeque::new(),
        }
    }

    /// The last lines of standard error.
    pub fn stderr_tail(&self) -> Vec<String> {
        self.err_tail
            .iter()
            .map(|line| {
                String::from_utf8_lossy(line)
                    .chars()
                    .take(TAIL_CHARS)
                    .collect()
            })
            .collect()
    }

    /// Keeps the last of these whole lines.
    fn note_errors(&mut self, lines: &[u8]) {
        let mut rest = lines;
        let mut found: [&[u8]; TAIL_LINES] = [&[]; TAIL_LINES];
        let mut count = 0;
        while let (Some(content), true) = (rest.strip_suffix(b"\n"), count < TAIL_LINES) {
            let start = memrchr(b'\n', content).map_or(0, |at| at + 1);
            found[count] = content[start..]
                .strip_suffix(b"\r")
                .unwrap_or(&content[start..]);
            count += 1;
            rest = &rest[..start];
        }
        for line in found[..count].iter().rev() {
            let mut kept = if self.err_tail.len() < TAIL_LINES {
                Vec::new()
            } else {
                self.err_tail.pop_front().unwrap_or_default()
            };
            kept.clear();
            // A character takes at most four bytes.
            kept.extend_from_slice(&line[..line.len().min(TAIL_CHARS * 4)]);
            self.err_tail.push_back(kept);
        }
    }
}

impl Lane {
    /// The run it is of.
    pub fn run(&self) -> RunKey {
        (self.owner.instance, self.generation)
    }

    /// The sinks it holds.
    pub fn sinks(&self) -> impl Iterator<Item = u64> + use<> {
        self.places().into_iter().flatten()
    }

    fn places(&self) -> [Option<u64>; 2] {
        [Some(self.sink), self.combined]
    }

    /// Whether some file shows less than this much of the unfinished line, of which so much is shown.
    pub fn shows_less(&self, shown: [usize; 2], most: usize) -> bool {
        (self.shows.into_iter().zip(shown)).any(|(shows, shown)| shows && shown < most)
    }

    /// Of what was shown of a line in the files of `before`, what its own files still show.
    pub fn still_shown(&self, before: &Lane, shown: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|at| {
            let same = self.places()[at] == before.places()[at] && self.shows[at];
            if same { shown[at] } else { 0 }
        })
    }
}

impl Outlets {
    pub fn new(book: Book) -> Self {
        Self {
            sinks: Sinks::default(),
            hub: Hub::new(),
            book,
            clock: LocalClock::system(),
            text: Vec::new(),
        }
    }

    /// The lane of one stream of a run; its sinks count one user more.
    pub fn lane(
        &mut self,
        key: RunKey,
        run: &Run,
        stream: Stream,
        config: &LogConfig,
        now: Moment,
    ) -> Lane {
        let path = match stream {
            Stream::Out => config.out_file.as_deref(),
            Stream::Err => config.err_file.as_deref(),
        };
        let own = (key.0, stream);
        let path = path.filter(|_| !config.disabled);
        let sink = self
            .sinks
            .acquire(path, own, config.rotation, now, &mut self.book);
        self.sinks.set_place(own, sink);
        let combined = config
            .combined_file
            .as_deref()
            .filter(|combined| !config.disabled && Some(*combined) != path);
        let combined = combined.filter(|path| *path != "/dev/null").map(|path| {
            self.sinks
                .acquire(Some(path), own, config.rotation, now, &mut self.book)
        });
        let formatter = Formatter::new(&config.format, stream, key.0, &run.name);
        let has_file = |id: u64| self.sinks.get(id).is_some_and(|sink| sink.path.is_some());
        let shows = [Some(sink), combined]
            .map(|id| !config.disabled && formatter.is_raw() && id.is_some_and(has_file));
        let owner = Arc::new(Owner {
            instance: key.0,
            name: Arc::clone(&run.name),
            namespace: Arc::clone(&run.namespace),
            stream,
        });
        let slots = if config.disabled {
            Some([None, None])
        } else {
            self.slots(sink, combined)
        };
        if let Some(sink) = self.sinks.get_mut(sink) {
            sink.owners.name(&owner);
        }
        Lane {
            owner,
            generation: key.1,
            formatter,
            sink,
            combined,
            disabled: config.disabled,
            shows,
            slots,
        }
    }

    fn slots(&self, sink: u64, combined: Option<u64>) -> Option<[Option<u32>; 2]> {
        let own = self.sinks.slot_of(sink)?;
        match combined {
            Some(combined) => Some([Some(own), Some(self.sinks.slot_of(combined)?)]),
            None => Some([Some(own), None]),
        }
    }

    /// Tries what is in trouble again, if it is time.
    pub fn retry(&mut self, now: Moment) {
        self.sinks.retry(now, &mut self.book);
    }

    /// At the very end: a last try for what is in trouble.
    pub fn retry_all(&mut self, now: Moment) {
        self.sinks.retry_all(now, &mut self.book);
    }

    /// Writes two parts of whole lines as one. `shown`: how much of the first line each file shows already.
    pub(super) fn write(
        &mut self,
        lane: &mut Lane,
        run: &mut Run,
        parts: [&[u8]; 2],
        shown: [usize; 2],
        now: Moment,
    ) {
        let [head, body] = parts;
        if head.is_empty() && body.is_empty() {
            return;
        }
        if lane.owner.stream == Stream::Err {
            run.note_errors(head);
            run.note_errors(body);
        }
        if lane.disabled {
            return;
        }
        self.text.clear();
        let (text, count) = if lane.formatter.is_raw() && head.is_empty() {
            (body, count_lines(body))
        } else {
            let mut count = 0;
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                count += lane
                    .formatter
                    .decorate(part, now.wall_ms, &self.clock, &mut self.text);
            }
            (self.text.as_slice(), count)
        };
        let owner = &lane.owner;
        let piece = |shown: usize| Piece {
            text: text.get(shown..).unwrap_or_default(),
            count,
            owner,
            generation: lane.generation,
            slot: None,
            shown,
        };
        let [own, other] = shown.map(piece);
        let first_seq = self.sinks.append(lane.sink, &own, now, &mut self.book);
        if let Some(combined) = lane.combined {
            self.sinks.append(combined, &other, now, &mut self.book);
        }
        if !self.hub.is_empty() && self.hub.wants(owner) {
            let text = Bytes::copy_from_slice(text);
            self.hub.publish(
                owner,
                &Arc::new(Batch::new(owner, first_seq, count, now.wall_ms, text)),
            );
        }
        if self.text.capacity() > KEEP_ROOM {
            self.text = Vec::new();
        }
    }

    /// Shows `line`, the beginning of an unfinished one, in its files; `shown` tells how much of it each of them shows.
    pub(super) fn show(
        &mut self,
        lane: &Lane,
        slot: Option<u32>,
        line: &[u8],
        shown: &mut [usize; 2],
        now: Moment,
    ) {
        for (at, sink) in lane.places().into_iter().enumerate() {
            let piece = Piece {
                text: line.get(shown[at]..).unwrap_or_default(),
                count: 0,
                owner: &lane.owner,
                generation: lane.generation,
                slot,
                shown: shown[at],
            };
            if let Some(sink) = sink.filter(|_| lane.shows[at] && !piece.text.is_empty())
                && self.sinks.show(sink, &piece, now, &mut self.book)
            {
                shown[at] = line.len();
            }
            self.book.next_file();
        }
    }
}
