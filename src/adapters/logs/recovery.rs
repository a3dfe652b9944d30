//! What is done with an adopted journal: the interrupted turn is completed, and lines that nobody came for are written.

use super::format::{Moment, Style};
use super::intake::Outlets;
use super::journal::{Head, Interrupted, Kind, StreamKey};
use super::owners::Owner;
use super::shown::Piece;
use super::source::ReadBuffer;
use crate::core::logline::LineSplitter;
use std::cmp::Ordering;
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
            Kind::Data | Kind::Finish | Kind::Show => self.complete(&turn, shared.bytes(), then),
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
        let mut shown = seat.shown().map(|shown| shown.min(unfinished.len()));
        let most_shown = shown.into_iter().max().unwrap_or(0);
        let mut splitter = LineSplitter::default().resuming(unfinished, most_shown);
        let lines = match turn.kind {
            Kind::Finish => splitter.finish().to_vec(),
            Kind::Data => {
                let whole = splitter.push(&bytes[..turn.taken]);
                [whole.head, whole.body].concat()
            }
            Kind::Show | Kind::Notice => Vec::new(),
        };
        if turn.kind == Kind::Show {
            self.complete_show(turn, key, splitter.showable(), &mut shown, then);
        }
        if !lines.is_empty() {
            let mut text = Vec::new();
            let count = Style::of(turn.style).write(&lines, &turn.decor, &mut text);
            let (instance, generation, stream) = key;
            let owner = Arc::new(Owner::nameless(instance, stream));
            for (ordinal, slot) in (0..).zip(turn.sinks) {
                let was = match ordinal.cmp(&turn.progress.ordinal) {
                    Ordering::Less => continue,
                    Ordering::Equal => turn.progress,
                    Ordering::Greater => Default::default(),
                };
                if let Some(sink) = slot.and_then(|slot| self.sinks.at_slot(slot)) {
                    let shown = shown[ordinal as usize];
                    let piece = Piece {
                        text: text.get(shown..).unwrap_or_default(),
                        count,
                        owner: &owner,
                        generation,
                        slot: None,
                        shown,
                    };
                    sink.resume(&piece, was, then, &mut self.book);
                }
            }
            shown = [0; 2];
            tracing::info!(
                bytes = turn.taken,
                lines = count,
                "log lines that the last daemon was writing are complete"
            );
        }
        let grown = lines.is_empty();
        self.book
            .commit_stream(&mut seat, splitter.unfinished(), grown, shown);
        self.book.waiting.insert(key, seat);
    }

    /// Finds out which files an interrupted turn has shown an unfinished line in.
    fn complete_show(
        &mut self,
        turn: &Interrupted,
        key: StreamKey,
        line: &[u8],
        shown: &mut [usize; 2],
        then: Moment,
    ) {
        let (instance, generation, stream) = key;
        let owner = Arc::new(Owner::nameless(instance, stream));
        for (ordinal, slot) in turn.sinks.into_iter().enumerate() {
            let Some(sink) = slot.and_then(|slot| self.sinks.at_slot(slot)) else {
                continue;
            };
            let piece = Piece {
                text: line.get(shown[ordinal]..).unwrap_or_default(),
                count: 0,
                owner: &owner,
                generation,
                slot: Some(turn.stream),
                shown: shown[ordinal],
            };
            match (ordinal as u64).cmp(&turn.progress.ordinal) {
                Ordering::Less => shown[ordinal] = sink.shows(&piece).unwrap_or(shown[ordinal]),
                Ordering::Equal => {
                    if sink.resume_show(&piece, turn.progress, then, &mut self.book) {
                        shown[ordinal] = line.len();
                    }
                }
                Ordering::Greater => {}
            }
        }
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
                let shown = seat.shown();
                let owner = Arc::new(Owner::nameless(instance, stream));
                for (slot, shown) in sinks.into_iter().zip(shown) {
                    let piece = Piece {
                        text: text.get(shown..).unwrap_or_default(),
                        count,
                        owner: &owner,
                        generation,
                        slot: None,
                        shown,
                    };
                    if let Some(sink) = slot.and_then(|slot| self.sinks.at_slot(slot)) {
                        sink.append(&piece, now, &mut self.book);
                    }
                }
                self.book.commit_stream(&mut seat, &[], false, [0; 2]);
            }
            self.book.free_stream(&seat);
        }
    }
}
