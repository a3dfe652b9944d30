//! What is done with an adopted journal: the interrupted turn is completed, and lines that nobody came for are written.

use super::format::{Moment, Style};
use super::intake::Outlets;
use super::journal::{Head, Interrupted, Kind, SavedSpan};
use super::source::ReadBuffer;
use crate::core::logline::LineSplitter;
use std::sync::Arc;

impl Outlets {
    /// Takes over what the last process knew, and completes what it was doing.
    pub fn recover(&mut self, buffer: &ReadBuffer, now: Moment) {
        self.sinks.restore(&mut self.book, now);
        let Some(shared) = &buffer.shared else { return };
        let Some(turn) = self.book.interrupted(shared) else {
            if self.book.is_open() {
                tracing::error!("an interrupted write of log lines makes no sense and is given up");
                self.book.cancel();
            }
            return;
        };
        let then = Moment {
            wall_ms: turn.wall_ms,
            ..now
        };
        match turn.kind {
            Kind::Data if turn.taken == 0 => self.book.cancel(),
            Kind::Data | Kind::Finish => self.complete(&turn, shared.bytes(), then),
            Kind::Notice => {
                let slot = turn.sinks[0];
                match slot.and_then(|slot| self.sinks.at_slot(slot)) {
                    Some(sink) => {
                        sink.resume_notice(&turn.decor, turn.progress, then, &mut self.book);
                    }
                    None => self.book.cancel(),
                }
            }
        }
    }

    fn complete(&mut self, turn: &Interrupted, bytes: &[u8], then: Moment) {
        let waiting = &mut self.book.waiting;
        let key = waiting
            .iter()
            .find(|(_, seat)| seat.slot == turn.stream)
            .map(|(key, _)| *key);
        let Some((key, mut seat)) = key.and_then(|key| Some((key, waiting.remove(&key)?))) else {
            tracing::error!(
                bytes = turn.taken,
                "an interrupted write of log lines is of no known stream and is given up"
            );
            return self.book.cancel();
        };
        let unfinished = self.book.unfinished(&seat);
        let mut splitter = LineSplitter::default().resuming(unfinished);
        let lines = if turn.kind == Kind::Finish {
            splitter.finish().to_vec()
        } else {
            let whole = splitter.push(&bytes[..turn.taken]);
            [whole.head, whole.body].concat()
        };
        if !lines.is_empty() {
            let mut text = Vec::new();
            let count = Style::of(turn.style).write(&lines, &turn.decor, &mut text);
            let (instance, _, stream) = key;
            let owner = SavedSpan {
                from: 0,
                instance,
                stream,
            };
            let owner = Arc::new(owner.owner());
            for (ordinal, slot) in (0..).zip(turn.sinks) {
                let was = match ordinal.cmp(&turn.progress.ordinal) {
                    std::cmp::Ordering::Less => continue,
                    std::cmp::Ordering::Equal => turn.progress,
                    std::cmp::Ordering::Greater => Default::default(),
                };
                if let Some(sink) = slot.and_then(|slot| self.sinks.at_slot(slot)) {
                    sink.resume(&text, count, &owner, was, then, &mut self.book);
                }
            }
            tracing::info!(
                bytes = turn.taken,
                lines = count,
                "log lines that the last daemon was writing are complete"
            );
        }
        let grown = lines.is_empty();
        self.book
            .commit_stream(&mut seat, splitter.unfinished(), grown);
        self.book.waiting.insert(key, seat);
    }

    /// Nobody will come any more for streams that wait: their unfinished lines are written.
    pub fn adoption_done(&mut self, now: Moment) {
        for (key, mut seat) in std::mem::take(&mut self.book.waiting) {
            let mut line = self.book.unfinished(&seat);
            if !line.is_empty() {
                let (instance, generation, stream) = key;
                tracing::warn!(%instance, %generation, stream = stream.as_str(), bytes = line.len(), "a run has not been taken over; its unfinished log line is written");
                line.push(b'\n');
                let (sinks, style) = self.book.stream_place(&seat);
                let style = Style::of(style);
                let decor = style.plain_decor(now.wall_ms, &self.clock, instance, stream);
                self.book.begin(&Head {
                    kind: Kind::Finish,
                    stream: seat.slot,
                    wall_ms: now.wall_ms,
                    style: style as u64,
                    decor: &decor,
                    sinks,
                });
                let mut text = Vec::new();
                let count = style.write(&line, &decor, &mut text);
                let owner = SavedSpan {
                    from: 0,
                    instance,
                    stream,
                };
                let owner = Arc::new(owner.owner());
                for slot in sinks.into_iter().flatten() {
                    if let Some(sink) = self.sinks.at_slot(slot) {
                        sink.append(&text, count, &owner, now, &mut self.book);
                    }
                }
                self.book.commit_stream(&mut seat, &[], false);
            }
            self.book.free_stream(&seat);
        }
    }
}
